//! EdgeController: Pods, Nodes, ConfigMaps and Secrets down to the edges, their requests and reports up to the API.
//!
//! Owns no state but what is under way. Reads the informers' changes, the hub's sessions and the nodes' messages; emits messages
//! through the hub and writes through the Kubernetes client. On each connection it writes the node's owner (annotation
//! `cloudcore`) and sees to it that a Go edge gets what it missed; an edge of ours asks by its inventory. Must not keep bodies of
//! objects. Spec 02 §2 and §3; KubeEdge documents it under "EdgeController".

pub(crate) mod downstream;
pub(crate) mod inventory;
mod metrics;
mod sessions;
mod upstream;

use common::Tasks;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};

use crate::addresses::Addresses;
use crate::cloudhub::{CloudHub, Upstream};
use crate::informers::{Change, Informers};
use crate::kubernetes::Kube;
use crate::objectsync::ObjectSyncs;
use crate::synccontroller::SyncController;
use metrics::Metrics;
use upstream::Desk;

/// What the controller works with.
#[derive(Clone)]
pub struct EdgeController {
    /// The API.
    pub kube: Kube,
    /// The cluster's state.
    pub informers: Informers,
    /// The sessions.
    pub hub: CloudHub,
    /// The delivery records of Go edges.
    pub syncs: ObjectSyncs,
    /// What brings a Go edge up to date.
    pub reconciler: SyncController,
    /// The addresses of this cloudcore; other cloudcores reach it at the first one.
    pub own: watch::Receiver<Addresses>,
    /// Whether nodes are held to what is theirs (`authorization.enable` without `debug`).
    pub authorization: bool,
}

impl EdgeController {
    /// Starts all parts.
    pub fn start(
        &self,
        changes: mpsc::Receiver<Change>,
        upstream: mpsc::Receiver<Upstream>,
        registry: &mut Registry,
        tasks: &Tasks,
    ) {
        let metrics = Metrics::register(registry);
        let desk = Desk {
            kube: self.kube.clone(),
            informers: self.informers.clone(),
            own: self.own.clone(),
            authorization: self.authorization,
        };
        downstream::start(&self.informers, &self.hub, &self.syncs, changes, tasks);
        upstream::start(&desk, &self.hub, upstream, &metrics, tasks);
        sessions::start(desk, self.hub.clone(), self.reconciler.clone(), tasks);
    }
}
