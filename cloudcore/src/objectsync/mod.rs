//! Which version of which object a Go edge has acknowledged: ObjectSync and ClusterObjectSync.
//!
//! Owns the cache of these objects and the queue of writes to them. Reads their watches; implements the hub's
//! [`DeliveryRecords`]. The cache changes at once, the API after it: one write of a record at a time, of those that wait the
//! newest only. Several cloudcores, Go or ours, share the objects. A record whose node is gone is deleted. Spec 02 §4.

mod index;
#[cfg(test)]
mod tests;
mod write;

use std::sync::Arc;

use common::{Tasks, chain};
use futures::future::BoxFuture;
use parking_lot::RwLock;
use proto::{Namespace, NodeName, Uid};
use tokio::sync::{broadcast, mpsc, watch};
use tracing::{info, warn};

use crate::cloudhub::{DeliveryRecords, ObjectRef};
use crate::informers::Informers;
use crate::kubernetes::{CLUSTER_OBJECT_SYNCS, Detail, Kube, NODES, OBJECT_SYNCS, Selection, follow};
use index::Index;
use write::{Want, Write};

pub use index::Record;

/// The records. Cheap to clone.
#[derive(Clone)]
pub struct ObjectSyncs {
    kube: Kube,
    index: Arc<RwLock<Index>>,
    writes: mpsc::Sender<Write>,
    synced: watch::Receiver<bool>,
    models: broadcast::Sender<NodeName>,
}

impl ObjectSyncs {
    /// Starts the watches and the writer.
    pub fn start(kube: Kube, tasks: &Tasks) -> Self {
        let (writes, queue) = mpsc::channel(WRITES);
        let (synced_in, synced) = watch::channel(false);
        let syncs = Self {
            kube: kube.clone(),
            index: Arc::default(),
            writes,
            synced,
            models: broadcast::Sender::new(MODELS),
        };
        tasks.spawn("objectsync writer", write::run(kube.clone(), queue));
        let index = syncs.index.clone();
        let (namespaced_out, mut namespaced) = mpsc::channel(EVENTS);
        let (cluster_out, mut cluster) = mpsc::channel(EVENTS);
        tasks.spawn(
            "watch",
            follow(
                kube.clone(),
                OBJECT_SYNCS,
                Selection::default(),
                Detail::Whole,
                namespaced_out,
            ),
        );
        tasks.spawn(
            "watch",
            follow(
                kube,
                CLUSTER_OBJECT_SYNCS,
                Selection::default(),
                Detail::Whole,
                cluster_out,
            ),
        );
        tasks.spawn("objectsync", async move {
            loop {
                tokio::select! {
                    Some(seen) = namespaced.recv() => index.write().apply(true, seen),
                    Some(seen) = cluster.recv() => index.write().apply(false, seen),
                    else => return,
                }
                if index.read().is_synced() {
                    synced_in.send_if_modified(|synced| !std::mem::replace(synced, true));
                }
            }
        });
        syncs
    }

    /// Whether the records that exist are known.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// The records of a node.
    pub fn of(&self, node: &NodeName) -> Vec<(Uid, Record)> {
        self.index.read().of(node)
    }

    /// Nodes that acknowledge a DeviceModel, from now on.
    pub fn models_delivered(&self) -> broadcast::Receiver<NodeName> {
        self.models.subscribe()
    }

    /// A node is gone: so are its records, unless the Node exists after all.
    pub async fn node_gone(&self, node: &NodeName) {
        if self.index.read().of(node).is_empty() {
            return;
        }
        match self.kube.get(&NODES, &Namespace::cluster(), node.as_str()).await {
            Err(error) if error.is_not_found() => {}
            Ok(_) => return,
            Err(error) => {
                warn!(%node, error = %chain(&error), "cannot tell whether a node is gone, its ObjectSyncs stay until the next start");
                return;
            }
        }
        let records = self.of(node);
        info!(%node, records = records.len(), "node is gone, its ObjectSyncs are deleted");
        for (uid, record) in records {
            self.index.write().remove(node, &uid);
            self.queue(node, &uid, &record.namespace, Want::Delete).await;
        }
    }

    /// After a start: the records of nodes that vanished while no cloudcore ran.
    pub async fn collect_garbage(&self, informers: &Informers) {
        informers.synced().await;
        let mut synced = self.synced.clone();
        // Only an end of the process takes the sender away.
        let _ = synced.wait_for(|synced| *synced).await;
        let nodes = self.index.read().nodes();
        for node in nodes.iter().filter(|node| !informers.has_node(node)) {
            self.node_gone(node).await;
        }
    }

    /// An object is gone, and its node is not told.
    pub async fn forget(&self, node: &NodeName, uid: &Uid) {
        let removed = self.index.write().remove(node, uid);
        if let Some(record) = removed {
            self.queue(node, uid, &record.namespace, Want::Delete).await;
        }
    }

    async fn queue(&self, node: &NodeName, uid: &Uid, namespace: &Namespace, want: Want) {
        let write = Write {
            name: record_name(node, uid),
            namespace: namespace.clone(),
            want,
        };
        // Gone only when the process stops.
        let _ = self.writes.send(write).await;
    }
}

impl DeliveryRecords for ObjectSyncs {
    fn recorded(&self, node: &NodeName, uid: &Uid) -> Option<String> {
        self.index.read().version(node, uid)
    }

    fn begin<'a>(&'a self, node: &'a NodeName, object: &'a ObjectRef) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if object.uid.is_empty() || !self.index.write().begin(node, object) {
                return;
            }
            self.queue(node, &object.uid, &object.namespace, Want::Begin(object.clone()))
                .await;
        })
    }

    fn acked<'a>(&'a self, node: &'a NodeName, object: &'a ObjectRef, version: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if object.uid.is_empty() || !self.index.write().acked(node, object, version) {
                return;
            }
            if &*object.kind == DEVICE_MODEL {
                // Nobody listens where DeviceController is off.
                let _ = self.models.send(node.clone());
            }
            self.queue(
                node,
                &object.uid,
                &object.namespace,
                Want::Version(object.clone(), version.into()),
            )
            .await;
        })
    }

    fn deleted<'a>(&'a self, node: &'a NodeName, object: &'a ObjectRef) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            // Found by uid alone: what is left of a deleted object may not tell its namespace, the record does.
            self.forget(node, &object.uid).await;
        })
    }
}

/// `<node>.<uid>`; node names may contain dots, uids do not.
fn record_name(node: &NodeName, uid: &Uid) -> String {
    format!("{node}.{uid}")
}

/// Writes that wait before sessions wait.
const WRITES: usize = 1024;
/// Events of the watch that may wait; when there are more the watch waits.
const EVENTS: usize = 64;
/// Acknowledgements of models that may wait for who listens.
const MODELS: usize = 64;
const DEVICE_MODEL: &str = "DeviceModel";
