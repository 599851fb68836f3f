//! A cluster in memory, and a hub that runs in it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::Tasks;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use proto::device::DeviceId;
use proto::{NodeName, ObjectPath, Status, Uid};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::edge::{Dialled, Edge, NodeIdentity};
use crate::cloudhub::identity::tests::Memory;
use crate::cloudhub::{
    AccessReview, CloudHub, Cluster, DeliveryRecords, Identity, ObjectRef, Parts, PodPlace, ReviewRequest, Revoked,
    Settings, TaskReport, Upstream,
};

pub(crate) fn settings(folder: &Path) -> Settings {
    Settings {
        websocket: ([127, 0, 0, 1], 0).into(),
        quic: Some(([127, 0, 0, 1], 0).into()),
        https: ([127, 0, 0, 1], 0).into(),
        advertise_addresses: vec![[127, 0, 0, 1].into()],
        dns_names: Vec::new(),
        node_limit: 500,
        keepalive: Duration::from_secs(30),
        write_timeout: Duration::from_secs(30),
        legacy_certificates: true,
        authorization: true,
        authorization_debug: false,
        edge_certificate: Duration::from_secs(365 * 86_400),
        token_refresh: Duration::from_secs(12 * 3600),
        ca_file: folder.join("rootCA.crt"),
        ca_key_file: folder.join("rootCA.key"),
        certificate_file: folder.join("server.crt"),
        key_file: folder.join("server.key"),
    }
}

/// Knows the node `edge-go` and where pods are; lets nodes read what is named `allowed`.
#[derive(Default)]
pub(in crate::cloudhub) struct Fake {
    pub(in crate::cloudhub) pods: Mutex<HashMap<String, NodeName>>,
    pub(in crate::cloudhub) reports: Mutex<Vec<TaskReport>>,
    pub(in crate::cloudhub) reviews: Mutex<Vec<String>>,
    records: Mutex<HashMap<(NodeName, Uid), String>>,
}

impl Fake {
    pub(in crate::cloudhub) fn record(&self, node: &str, uid: &str) -> Option<String> {
        self.records.lock().get(&(node.into(), uid.into())).cloned()
    }
}

impl Cluster for Fake {
    fn node_exists<'a>(&'a self, node: &'a NodeName) -> BoxFuture<'a, Result<bool, Status>> {
        Box::pin(async move { Ok(node.as_str() == "edge-go") })
    }

    fn place_of_pod<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<PodPlace, Status>> {
        let name = format!("{}/{}", path.namespace, path.name_str());
        let place = match self.pods.lock().get(&name) {
            None => PodPlace::Absent,
            Some(node) if node.is_empty() => PodPlace::Unbound,
            Some(node) => PodPlace::Node(node.clone()),
        };
        Box::pin(async move { Ok(place) })
    }

    fn may_report(&self, _: &NodeName, device: &DeviceId) -> bool {
        device.name.as_str() != "other"
    }

    fn certificate_authority(&self) -> Arc<str> {
        "the cluster's CA".into()
    }

    fn task_report(&self, report: TaskReport) {
        self.reports.lock().push(report);
    }
}

impl AccessReview for Fake {
    fn review<'a>(&'a self, node: &'a NodeName, request: &'a ReviewRequest) -> BoxFuture<'a, Result<bool, Status>> {
        Box::pin(async move {
            self.reviews.lock().push(format!("{node}: {request}"));
            Ok(&*request.name == "allowed")
        })
    }
}

impl DeliveryRecords for Fake {
    fn recorded(&self, node: &NodeName, uid: &Uid) -> Option<String> {
        self.records.lock().get(&(node.clone(), uid.clone())).cloned()
    }

    fn begin<'a>(&'a self, node: &'a NodeName, object: &'a ObjectRef) -> BoxFuture<'a, ()> {
        self.records
            .lock()
            .entry((node.clone(), object.uid.clone()))
            .or_insert_with(|| "0".into());
        Box::pin(async {})
    }

    fn acked<'a>(&'a self, node: &'a NodeName, object: &'a ObjectRef, version: &'a str) -> BoxFuture<'a, ()> {
        self.records
            .lock()
            .insert((node.clone(), object.uid.clone()), version.to_owned());
        Box::pin(async {})
    }

    fn deleted<'a>(&'a self, node: &'a NodeName, object: &'a ObjectRef) -> BoxFuture<'a, ()> {
        self.records.lock().remove(&(node.clone(), object.uid.clone()));
        Box::pin(async {})
    }
}

/// What edges connect over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::cloudhub) enum Way {
    WebSocket,
    Quic,
}

/// A running hub.
pub(in crate::cloudhub) struct World {
    pub(in crate::cloudhub) hub: CloudHub,
    pub(in crate::cloudhub) fake: Arc<Fake>,
    pub(in crate::cloudhub) identity: Identity,
    pub(in crate::cloudhub) upstream: mpsc::Receiver<Upstream>,
    pub(in crate::cloudhub) registry: Registry,
    pub(in crate::cloudhub) tasks: Tasks,
    pub(in crate::cloudhub) way: Way,
    _folder: TempDir,
}

impl World {
    pub(in crate::cloudhub) async fn start(change: impl FnOnce(&mut Settings)) -> Self {
        Self::over(Way::WebSocket, change).await
    }

    pub(in crate::cloudhub) async fn over(way: Way, change: impl FnOnce(&mut Settings)) -> Self {
        let world = Self::unlisted(way, change).await;
        world.hub.revoke(Revoked::default());
        world
    }

    /// A hub that has not heard yet who is revoked.
    pub(in crate::cloudhub) async fn unlisted(way: Way, change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut settings = settings(folder.path());
        change(&mut settings);
        let identity = Identity::load(&settings, Arc::new(Memory::default()))
            .await
            .expect("identity");
        let fake = Arc::new(Fake::default());
        let (sender, upstream) = mpsc::channel(64);
        let tasks = Tasks::new();
        let mut registry = Registry::default();
        let parts = Parts {
            settings,
            identity: identity.clone(),
            access: fake.clone(),
            cluster: fake.clone(),
            records: fake.clone(),
            twins: Some(sender.clone()),
            upstream: sender,
            tasks: tasks.clone(),
        };
        let hub = CloudHub::start(parts, &mut registry).await.expect("hub starts");
        Self {
            hub,
            fake,
            identity,
            upstream,
            registry,
            tasks,
            way,
            _folder: folder,
        }
    }
}

impl World {
    /// An edge of these headers and this identity dials.
    pub(in crate::cloudhub) async fn dial(
        &self,
        identity: Option<&NodeIdentity>,
        headers: &[(&'static str, &str)],
    ) -> Dialled {
        let ca = self.identity.ca();
        match self.way {
            Way::WebSocket => Edge::websocket(self.hub.websocket_address(), ca, identity, headers).await,
            Way::Quic => {
                let address = self.hub.quic_address().expect("the hub listens");
                Edge::quic(address, ca, identity, headers).await
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.token().cancel();
    }
}
