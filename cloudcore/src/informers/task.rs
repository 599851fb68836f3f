//! The watches and the one task that writes the index.

use common::{Backoff, Tasks, chain};
use proto::{Kind, NodeName, Object};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use super::Informers;
use super::change::Change;
use super::watches::Watch;
use crate::kubernetes::{
    CONFIG_MAPS, DEVICE_MODELS, DEVICES, Detail, NODES, PODS, Resource, SECRETS, Seen, Selection, follow,
};

pub(super) fn start(
    informers: &Informers,
    changes: mpsc::Sender<Change>,
    (synced, renamed): (watch::Sender<bool>, watch::Sender<u64>),
    tasks: &Tasks,
) {
    let (found, found_pods) = mpsc::channel(LOOKED_UP);
    let mut owner = Owner {
        informers: informers.clone(),
        changes,
        synced,
        renamed,
        found,
        found_pods,
        tasks: tasks.clone(),
    };
    tasks.spawn("informers", async move { owner.run().await });
}

pub(super) const fn resource_of(kind: &Kind) -> Resource {
    match kind {
        Kind::Node => NODES,
        Kind::Pod => PODS,
        Kind::Secret => SECRETS,
        Kind::Device => DEVICES,
        Kind::DeviceModel => DEVICE_MODELS,
        _ => CONFIG_MAPS,
    }
}

struct Owner {
    informers: Informers,
    changes: mpsc::Sender<Change>,
    synced: watch::Sender<bool>,
    renamed: watch::Sender<u64>,
    found: mpsc::Sender<(NodeName, Vec<Object>)>,
    found_pods: mpsc::Receiver<(NodeName, Vec<Object>)>,
    tasks: Tasks,
}

impl Owner {
    async fn run(&mut self) {
        let mut watches: Vec<(Watch, mpsc::Receiver<Seen>)> = Vec::new();
        // The first lists come one after the other: this bounds memory, and Pods need their nodes.
        for watch in Watch::ALL {
            let mut events = self.begin(watch);
            while !self.informers.index.read().is_listed(watch) {
                let Some(seen) = events.recv().await else { return };
                self.take(watch, seen).await;
            }
            watches.push((watch, events));
        }
        self.synced.send_replace(true);
        self.informers.readiness.notify_waiters();
        let Ok([nodes, config_maps, secrets, pods]) = <[_; 4]>::try_from(watches) else {
            return;
        };
        let [mut nodes, mut config_maps, mut secrets, mut pods] = [nodes.1, config_maps.1, secrets.1, pods.1];
        loop {
            let (watch, seen) = tokio::select! {
                Some(seen) = nodes.recv() => (Watch::Nodes, seen),
                Some(seen) = config_maps.recv() => (Watch::ConfigMaps, seen),
                Some(seen) = secrets.recv() => (Watch::Secrets, seen),
                Some(seen) = pods.recv() => (Watch::Pods, seen),
                Some((node, pods)) = self.found_pods.recv() => {
                    let changes = self.informers.index.write().found_pods(&node, pods);
                    self.informers.readiness.notify_waiters();
                    self.emit(changes).await;
                    continue;
                }
                else => return,
            };
            self.take(watch, seen).await;
        }
    }

    fn begin(&self, watch: Watch) -> mpsc::Receiver<Seen> {
        let (out, events) = mpsc::channel(EVENTS);
        let (resource, selection, detail) = match watch {
            Watch::Nodes => (
                NODES,
                Selection {
                    labels: EDGE_NODES,
                    ..Selection::default()
                },
                Detail::Whole,
            ),
            Watch::Pods => (PODS, Selection::default(), Detail::Whole),
            Watch::ConfigMaps => (CONFIG_MAPS, Selection::default(), Detail::Metadata),
            Watch::Secrets => (SECRETS, Selection::default(), Detail::Metadata),
        };
        let kube = self.informers.kube.clone();
        self.tasks
            .spawn("watch", follow(kube, resource, selection, detail, out));
        events
    }

    async fn take(&self, watch: Watch, seen: Seen) {
        let (changes, renamed, ports) = {
            let mut index = self.informers.index.write();
            (index.apply(watch, seen), index.renamed(), index.take_port_changes())
        };
        self.renamed.send_if_modified(|known| {
            let is_new = *known != renamed;
            *known = renamed;
            is_new
        });
        for node in ports {
            // Without a listener nobody misses it.
            let _ = self.informers.ports.send(node);
        }
        self.emit(changes).await;
    }

    async fn emit(&self, changes: Vec<Change>) {
        if changes.iter().any(|change| matches!(change, Change::Node { .. })) {
            self.informers.readiness.notify_waiters();
        }
        for change in changes {
            if let Change::NodeAppeared { node } = &change {
                self.look_up(node.clone());
            }
            // The reader is gone only when the process stops.
            let _ = self.changes.send(change).await;
        }
    }

    /// Pods of a node that became an edge node were passed over when they were seen: asks for them, until there is an answer.
    fn look_up(&self, node: NodeName) {
        let (informers, found) = (self.informers.clone(), self.found.clone());
        self.tasks.spawn("pods of a new node", async move {
            let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
            while informers.has_node(&node) {
                match informers.pods_of(&node).await {
                    Ok(pods) => {
                        debug!(%node, pods = pods.len(), "looked up the pods of a new edge node");
                        let _ = found.send((node, pods)).await;
                        return;
                    }
                    Err(error) => {
                        let delay = backoff.next_delay();
                        warn!(%node, ?delay, error = %chain(&error), "cannot list the pods of a new edge node, trying again");
                        tokio::time::sleep(delay).await;
                    }
                }
            }
        });
    }
}

/// `node-role.kubernetes.io/edge=`, as a query has it: by this label everything finds edge nodes.
const EDGE_NODES: &str = "node-role.kubernetes.io%2Fedge%3D";
/// Events that a watch may be ahead of the index.
const EVENTS: usize = 64;
/// Nodes whose Pods were looked up and wait to be taken in.
const LOOKED_UP: usize = 64;
