//! One request in, its answer and what else the node has to hear out: the table of spec 02 §3.1.

use common::chain;
use proto::{Content, Kind, Message, NodeName, Object, ObjectPath, Operation, Route, Status};
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::reply::{self, Peer};
use super::{node, pod};
use crate::addresses::Addresses;
use crate::edgecontroller::inventory;
use crate::informers::{Informers, Need};
use crate::kubernetes::{
    ApiError, CERTIFICATE_SIGNING_REQUESTS, EVENTS, Kube, LEASES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES,
    PatchKind, Resource, SERVICE_ACCOUNTS, VOLUME_ATTACHMENTS,
};

/// Where requests are answered. Holds no state of its own.
#[derive(Clone)]
pub(in crate::edgecontroller) struct Desk {
    pub(in crate::edgecontroller) kube: Kube,
    pub(in crate::edgecontroller) informers: Informers,
    /// This cloudcore's addresses, for the annotation `cloudcore` of nodes.
    pub(in crate::edgecontroller) own: watch::Receiver<Addresses>,
    /// `authorization.enable` without `debug`: what the hub cannot decide on is decided here.
    pub(in crate::edgecontroller) authorization: bool,
}

impl Desk {
    /// What the annotation `cloudcore` of its nodes is to say.
    pub(in crate::edgecontroller) fn address(&self) -> String {
        self.own.borrow().first.to_string()
    }

    /// All messages for the node, in order. None for what is not supported, as in Go: the edge's call times out.
    pub(super) async fn handle(&self, peer: Peer, node: &NodeName, request: &Message) -> Vec<Message> {
        match &request.route {
            Route::InventorySync => inventory::answer(&self.informers, node, request).await,
            Route::Object(path) => self.object(peer, node, request, path).await,
            _ => unsupported(node, request),
        }
    }

    async fn object(&self, peer: Peer, node: &NodeName, request: &Message, path: &ObjectPath) -> Vec<Message> {
        use Operation::{Delete, Insert, Patch, Query, Update};
        let answer = match (&path.kind, &request.operation) {
            (Kind::Node, Insert) => node::register(self, request, path).await,
            (Kind::Node, Query) => self.query_node(peer, request, path).await,
            (Kind::Node, Update) => return one(node::update(self, request, path).await),
            (Kind::NodePatch, Patch) => node::patch_status(self, request, path).await,
            (Kind::NodeStatus, Insert) => node::legacy_register(self, request, path).await,
            (Kind::NodeStatus, Update) => return one(node::legacy_status(self, request, path).await),
            (Kind::Pod, Insert) => pod::create(self, request, path).await,
            (Kind::Pod, Delete) => pod::delete(self, request, path).await,
            (Kind::PodPatch, Patch) => pod::patch_status(self, request, path).await,
            (Kind::PodStatus, Update) => return pod::legacy_status(self, node, request, path).await,
            (Kind::Lease, Query) => self.query_lease(request, path).await,
            (Kind::Lease, Insert | Update) => self.write_lease(request, path).await,
            (Kind::ConfigMap | Kind::Secret, Query) => self.query_body(peer, node, request, path).await,
            (Kind::PersistentVolume, Query) => self.query(peer, request, path, &PERSISTENT_VOLUMES).await,
            (Kind::PersistentVolumeClaim, Query) => self.query(peer, request, path, &PERSISTENT_VOLUME_CLAIMS).await,
            (Kind::VolumeAttachment, Query) => self.query(peer, request, path, &VOLUME_ATTACHMENTS).await,
            (Kind::CertificateSigningRequest, Query) => {
                self.query(peer, request, path, &CERTIFICATE_SIGNING_REQUESTS).await
            }
            (Kind::CertificateSigningRequest, Insert) => self.create_csr(request, path).await,
            (Kind::ServiceAccountToken, Query) => self.create_token(peer, request, path).await,
            (Kind::Event, Insert | Update | Patch) => return one(self.event(peer, node, request, path).await),
            _ => return unsupported(node, request),
        };
        vec![answer]
    }

    async fn query_node(&self, peer: Peer, request: &Message, path: &ObjectPath) -> Message {
        match self.informers.node(&NodeName::new(path.name_str())).await {
            Ok(object) => reply::object(request, &object),
            Err(error) => reply::refused(peer, request, &singular(error, "", "node", path)),
        }
    }

    async fn query_lease(&self, request: &Message, path: &ObjectPath) -> Message {
        match self.kube.get(&LEASES, &path.namespace, path.name_str()).await {
            Ok(lease) => reply::envelope(request, &lease.with_type("coordination.k8s.io/v1", "Lease")),
            Err(error) => reply::failed(
                request,
                &Value::Null,
                &singular(error, "coordination.k8s.io", "lease", path),
            ),
        }
    }

    async fn write_lease(&self, request: &Message, path: &ObjectPath) -> Message {
        let lease = match content_object(request, &LEASES) {
            Ok(lease) => lease,
            Err(status) => return reply::failed(request, &reply::lease_shell(), &status),
        };
        let written = if request.operation == Operation::Insert {
            self.kube.create(&LEASES, &path.namespace, &lease).await
        } else {
            self.kube
                .update(&LEASES, &path.namespace, path.name_str(), "", &lease)
                .await
        };
        match written {
            Ok(lease) => reply::written(request, &lease),
            Err(error) => reply::failed(request, &reply::lease_shell(), &error.into_status()),
        }
    }

    /// ConfigMaps and Secrets. A Go edge that is told of the absence takes it for an empty object: that is what makes optional
    /// references work there, and what must not happen to required ones.
    async fn query_body(&self, peer: Peer, node: &NodeName, request: &Message, path: &ObjectPath) -> Message {
        match self.informers.body(path).await {
            Ok(object) => reply::object(request, &object),
            Err(error) => {
                let absent = error.is_not_found();
                let status = singular(error, "", path.kind.as_str(), path);
                let harmless =
                    absent && self.informers.is_synced() && self.informers.need(node, path) != Need::Required;
                if harmless {
                    reply::bare(request, &status)
                } else {
                    reply::refused(peer, request, &status)
                }
            }
        }
    }

    /// What is asked of the API server each time.
    async fn query(&self, peer: Peer, request: &Message, path: &ObjectPath, resource: &Resource) -> Message {
        match self.kube.get(resource, &path.namespace, path.name_str()).await {
            Ok(object) => reply::object(request, &object.with_type(&resource.api_version(), &resource.kind)),
            Err(error) => reply::refused(peer, request, &error.into_status()),
        }
    }

    async fn create_csr(&self, request: &Message, path: &ObjectPath) -> Message {
        let created = match content_object(request, &CERTIFICATE_SIGNING_REQUESTS) {
            Ok(object) => {
                self.kube
                    .create(&CERTIFICATE_SIGNING_REQUESTS, &path.namespace, &object)
                    .await
            }
            Err(status) => return reply::failed(request, &reply::csr_shell(), &status),
        };
        match created {
            Ok(object) => reply::written(request, &object),
            Err(error) => reply::failed(request, &reply::csr_shell(), &error.into_status()),
        }
    }

    async fn create_token(&self, peer: Peer, request: &Message, path: &ObjectPath) -> Message {
        let asked = match request.content.object() {
            Ok(object) => object.with_type(TOKEN_VERSION, TOKEN_KIND),
            Err(error) => return reply::refused(peer, request, &Status::failure(400, "BadRequest", chain(&error))),
        };
        match self
            .kube
            .create_sub(&SERVICE_ACCOUNTS, &path.namespace, path.name_str(), "token", &asked)
            .await
        {
            Ok(token) => {
                let content = Content::from(&token.with_type(TOKEN_VERSION, TOKEN_KIND));
                Message::answer_to(request, proto::Source::EdgeController, content)
            }
            Err(error) => reply::refused(peer, request, &error.into_status()),
        }
    }

    /// Go answers events with silence, whatever becomes of them; an edge that asks for more hears it.
    async fn event(&self, peer: Peer, node: &NodeName, request: &Message, path: &ObjectPath) -> Option<Message> {
        let written = match &request.operation {
            Operation::Patch => self.patch_event(request).await,
            operation => match content_object(request, &EVENTS) {
                Ok(event) => self.write_event(operation, &event).await,
                Err(status) => Err(status),
            },
        };
        match &written {
            Err(status) if status.is_namespace_terminating() => {
                debug!(%node, event = %path, "event of an edge came when its namespace was being deleted");
            }
            Err(status) => warn!(%node, event = %path, error = %status, "event of an edge was not written"),
            Ok(()) => {}
        }
        let answered = matches!(peer, Peer::Ours(features) if features.has_events());
        answered.then(|| match written {
            Ok(()) => reply::ok(request),
            Err(status) => reply::bare(request, &status),
        })
    }

    async fn write_event(&self, operation: &Operation, event: &Object) -> Result<(), Box<Status>> {
        let namespace = event.namespace();
        let written = if *operation == Operation::Insert {
            self.kube.create(&EVENTS, &namespace, event).await
        } else {
            self.kube
                .update(&EVENTS, &namespace, &event.meta().name, "", event)
                .await
        };
        written.map(drop).map_err(|error| Box::new(error.into_status()))
    }

    async fn patch_event(&self, request: &Message) -> Result<(), Box<Status>> {
        let content: Value = request.content.parse().unwrap_or_default();
        let text = |pointer: &str| {
            content
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let (namespace, name) = (text("/event/metadata/namespace"), text("/event/metadata/name"));
        let patch = text("/patchData");
        self.kube
            .patch(&EVENTS, &namespace.into(), &name, "", PatchKind::Strategic, &patch)
            .await
            .map(drop)
            .map_err(|error| Box::new(error.into_status()))
    }
}

/// The object in a request; a failure is for the edge.
pub(super) fn content_object(request: &Message, resource: &Resource) -> Result<Object, Box<Status>> {
    let object = request
        .content
        .object()
        .map_err(|error| Box::new(Status::failure(400, "BadRequest", chain(&error))))?;
    Ok(object.with_type(&resource.api_version(), &resource.kind))
}

/// What Go's informers say of an absent object: the kind in the singular.
fn singular(error: ApiError, group: &str, kind: &str, path: &ObjectPath) -> Status {
    if error.is_not_found() {
        Status::not_found(group, kind, path.name_str())
    } else {
        error.into_status()
    }
}

fn one(answer: Option<Message>) -> Vec<Message> {
    answer.into_iter().collect()
}

fn unsupported(node: &NodeName, request: &Message) -> Vec<Message> {
    debug!(%node, resource = %request.route, operation = %request.operation, source = %request.source, "nobody answers this request");
    Vec::new()
}

/// A merge patch of metadata.
pub(super) fn metadata_patch(labels: &Value, annotations: &Value) -> String {
    let mut metadata = serde_json::Map::new();
    for (key, value) in [("labels", labels), ("annotations", annotations)] {
        if value.as_object().is_some_and(|map| !map.is_empty()) {
            metadata.insert(key.into(), value.clone());
        }
    }
    json!({ "metadata": metadata }).to_string()
}

const TOKEN_VERSION: &str = "authentication.k8s.io/v1";
const TOKEN_KIND: &str = "TokenRequest";
