//! SyncController: brings Go edges to the API's state, by their delivery records.
//!
//! Owns when it last sent what. Reads the records, the informers and the hub's sessions; emits messages through the hub. Every
//! 5 s, and when a node connects, it compares: what is gone is sent as a deletion that names the uid alone, what is newer than the
//! record as an update, a Pod, a Device, its model or the Node without a record anew. A Device waits until its model is acknowledged: a Go
//! edge may swap what comes together. Edges that report an inventory need nothing of this. It looks only at nodes that are connected here,
//! and at none before everything is known. Spec 02 §4.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use common::{Tasks, chain};
use parking_lot::Mutex;
use proto::{Kind, NodeName, ObjectPath, Operation, Uid};
use tokio::sync::broadcast;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, warn};

use crate::cloudhub::CloudHub;
use crate::edgecontroller::downstream::{deletion, object_message};
use crate::informers::Informers;
use crate::kubernetes::{Kube, Resource};
use crate::objectsync::{ObjectSyncs, Record};
use plan::{Plan, Sent, plan};

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct SyncController {
    kube: Kube,
    informers: Informers,
    syncs: ObjectSyncs,
    hub: CloudHub,
    sent: Arc<Mutex<HashMap<NodeName, Sent>>>,
}

impl SyncController {
    /// Puts the parts together; nothing runs yet.
    pub fn new(kube: Kube, informers: Informers, syncs: ObjectSyncs, hub: CloudHub) -> Self {
        Self {
            kube,
            informers,
            syncs,
            hub,
            sent: Arc::default(),
        }
    }

    /// Starts the loop.
    pub fn start(&self, tasks: &Tasks) {
        let this = self.clone();
        tasks.spawn("garbage", {
            let this = this.clone();
            async move { this.syncs.collect_garbage(&this.informers).await }
        });
        tasks.spawn_restarting("synccontroller", move || {
            let this = this.clone();
            async move { this.run().await }
        });
    }

    async fn run(&self) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for round in 1u64.. {
            ticks.tick().await;
            for node in self.hub.connected() {
                if self.looks_at(&node) {
                    self.compare(&node, round.is_multiple_of(ASK_EVERY)).await;
                }
            }
        }
    }

    /// Whether it is connected and does not compare by itself.
    fn looks_at(&self, node: &NodeName) -> bool {
        self.hub
            .features(node)
            .is_some_and(|features| !features.has_inventory())
    }

    /// Nodes that acknowledge a DeviceModel, for which Devices may have waited: see [`SyncController::model_delivered`].
    pub fn models_delivered(&self) -> broadcast::Receiver<NodeName> {
        self.syncs.models_delivered()
    }

    /// Sends a node the Devices that waited for their model.
    pub async fn model_delivered(&self, node: &NodeName) {
        if self.looks_at(node) {
            self.compare(node, false).await;
        }
    }

    /// Whether a node should not get this Device yet: its model is not there, or the node has not acknowledged it.
    pub fn waits(&self, node: &NodeName, device: &ObjectPath) -> bool {
        let delivered = delivered(&self.syncs.of(node));
        self.informers
            .devices()
            .waits(device, |model| delivered.contains(model))
    }

    /// Compares one node at once, as after it connected.
    pub async fn reconcile(&self, node: &NodeName) {
        self.compare(node, true).await;
    }

    /// What was sent over an earlier connection may be lost.
    pub fn forget(&self, node: &NodeName) {
        self.sent.lock().remove(node);
    }

    /// With `ask` also objects that no informer knows are compared, each by a request.
    async fn compare(&self, node: &NodeName, ask: bool) {
        if !self.syncs.is_synced() || !self.informers.is_ready(node) {
            return;
        }
        let has_devices = self.informers.devices().is_ready();
        let wanted = self.informers.wanted(node);
        let records = self.syncs.of(node);
        let delivered = delivered(&records);
        let plan = {
            let mut sent = self.sent.lock();
            let sent = sent.entry(node.clone()).or_default();
            plan(
                &wanted,
                &records,
                |path| self.informers.known(path),
                |path| self.informers.devices().waits(path, |model| delivered.contains(model)),
                has_devices,
                sent,
                Instant::now(),
            )
        };
        let Plan {
            send,
            delete,
            forget,
            unknown,
        } = plan;
        for uid in forget {
            self.syncs.forget(node, &uid).await;
        }
        for (path, uid) in delete {
            debug!(%node, object = %path, %uid, "gone from the API, deleted on the edge");
            self.hub.send(node, deletion(&path, &uid)).await;
        }
        if !send.is_empty() {
            self.send(node, send).await;
        }
        if ask {
            for (uid, record) in unknown {
                self.ask(node, &uid, &record).await;
            }
        }
    }

    async fn send(&self, node: &NodeName, send: Vec<(ObjectPath, Operation)>) {
        let paths: Vec<ObjectPath> = send.iter().map(|(path, _)| path.clone()).collect();
        match self.informers.fetch(node, &paths).await {
            Ok(found) => {
                for (path, object) in found {
                    let operation = send
                        .iter()
                        .find(|(other, _)| *other == path)
                        .map(|(_, operation)| operation.clone());
                    let message = object_message(path, operation.unwrap_or(Operation::Update), &object);
                    self.hub.send(node, message).await;
                }
            }
            Err(error) => {
                warn!(%node, error = %chain(&error), "cannot read what a node misses, trying again in 5 s");
                self.forget(node);
            }
        }
    }

    /// A record of a kind that no informer follows.
    async fn ask(&self, node: &NodeName, uid: &Uid, record: &Record) {
        let path = plan::path_of(record);
        let resource = Resource::guess(&record.api_version, &record.kind, !record.namespace.is_cluster());
        match self.kube.get(&resource, &record.namespace, record.name.as_str()).await {
            Ok(object) if object.uid() == *uid => {
                if object.version().is_some_and(|version| version > record.number()) {
                    let object = object.with_type(&resource.api_version(), &record.kind);
                    self.hub
                        .send(node, object_message(path, Operation::Update, &object))
                        .await;
                }
            }
            Ok(_) => self.hub.send(node, deletion(&path, uid)).await,
            Err(error) if error.is_not_found() && path.kind != Kind::Node => {
                self.hub.send(node, deletion(&path, uid)).await;
            }
            Err(error) => {
                debug!(%node, object = %path, error = %chain(&error), "object of a delivery record cannot be read")
            }
        }
    }
}

/// The objects that a node has acknowledged once.
fn delivered(records: &[(Uid, Record)]) -> HashSet<Uid> {
    let begun = records.iter().filter(|(_, record)| record.number() > 0);
    begun.map(|(uid, _)| uid.clone()).collect()
}

/// As Go's loop.
const PERIOD: Duration = Duration::from_secs(5);
/// Objects that no informer follows are asked for each minute.
const ASK_EVERY: u64 = 12;
