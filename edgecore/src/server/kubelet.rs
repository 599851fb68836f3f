//! What the paths of a kubelet need of edged: pods by name, containers that run.

use std::sync::Arc;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use common::Tasks;
use proto::{Uid, cri};

use crate::edged::Edged;
use crate::edged::runtime::{ContainerId, LABEL_CONTAINER_NAME, RuntimeError, SandboxId};
use crate::metamanager::DesiredPod;

/// Shared by all handlers.
#[derive(Clone)]
pub(super) struct Kubelet {
    pub(super) edged: Edged,
    pub(super) tasks: Tasks,
}

/// A pod of this node, with the uid that its containers are labelled with.
pub(super) struct Found {
    pub(super) uid: Uid,
    pub(super) pod: Arc<DesiredPod>,
}

impl Kubelet {
    /// A pod by its name; while one of that name still ends, the one that follows it.
    pub(super) fn pod(&self, namespace: &str, name: &str) -> Option<Found> {
        let pods = self.edged.pods().borrow().clone();
        let named = pods.pods.iter().filter(|(_, pod)| {
            let metadata = &pod.pod.metadata;
            metadata.name.as_deref() == Some(name) && metadata.namespace.as_deref() == Some(namespace)
        });
        let newest = named.max_by_key(|(_, pod)| {
            let metadata = &pod.pod.metadata;
            let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
            (metadata.deletion_timestamp.is_none(), created)
        });
        newest.map(|(uid, pod)| Found {
            uid: uid.clone(),
            pod: pod.clone(),
        })
    }

    /// The container of that name that runs.
    pub(super) async fn running(&self, uid: &Uid, container: &str) -> Result<Option<ContainerId>, RuntimeError> {
        let containers = self.edged.runtime().list_containers(Some(uid)).await?;
        let running = containers.into_iter().filter(|found| {
            found.state == cri::ContainerState::ContainerRunning as i32
                && found
                    .labels
                    .get(LABEL_CONTAINER_NAME)
                    .is_some_and(|name| name == container)
        });
        let newest = running.max_by_key(|found| found.created_at);
        Ok(newest.map(|found| ContainerId::new(found.id)))
    }

    /// The sandbox of a pod that is ready.
    pub(super) async fn sandbox(&self, uid: &Uid) -> Result<Option<SandboxId>, RuntimeError> {
        let sandboxes = self.edged.runtime().list_sandboxes(Some(uid)).await?;
        let ready = sandboxes
            .into_iter()
            .filter(|found| found.state == cri::PodSandboxState::SandboxReady as i32);
        let newest = ready.max_by_key(|found| found.created_at);
        Ok(newest.map(|found| SandboxId::new(found.id)))
    }
}

impl Found {
    pub(super) fn name(&self) -> &str {
        self.pod.pod.metadata.name.as_deref().unwrap_or_default()
    }

    pub(super) fn namespace(&self) -> &str {
        self.pod.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// Whether a request that names a uid means this pod: its own, or that of its mirror in the API.
    pub(super) fn is(&self, uid: &str) -> bool {
        self.uid.as_str() == uid || self.pod.object.uid().as_str() == uid
    }

    /// Whether the pod has a container of that name, and whether it has a terminal.
    pub(super) fn container(&self, name: &str) -> Option<Terminal> {
        let spec = self.pod.pod.spec.as_ref()?;
        let plain = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let mut plain = plain.map(|container| (&container.name, container.tty));
        let later = spec.ephemeral_containers.iter().flatten();
        let mut later = later.map(|container| (&container.name, container.tty));
        let found = plain
            .find(|(found, _)| *found == name)
            .or_else(|| later.find(|(found, _)| *found == name));
        found.map(|(_, tty)| Terminal(tty.unwrap_or(false)))
    }
}

/// Whether a container was given a terminal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terminal(pub(super) bool);

/// An answer in plain words.
pub(super) fn plain(status: StatusCode, text: impl Into<String>) -> Response {
    (status, text.into()).into_response()
}

/// What the runtime refuses, as a kubelet tells it.
pub(super) fn refused(error: &RuntimeError) -> Response {
    let text = format!("rpc error: code = {:?} desc = {}", error.code, error.message);
    match error.code {
        tonic::Code::NotFound => plain(StatusCode::NOT_FOUND, text),
        // As long as the runtime keeps what was asked for and not used.
        tonic::Code::ResourceExhausted => {
            (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "60")], text).into_response()
        }
        _ => plain(StatusCode::INTERNAL_SERVER_ERROR, text),
    }
}
