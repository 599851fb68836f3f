//! Devices and DeviceModels, and which Devices have a DeviceStatus: three watches of their own, for all edges together.
//!
//! Owns the index of Devices (version, node, model and names of properties, no bodies), the DeviceModels, which are few and kept
//! whole, and the names of the DeviceStatuses. Emits [`DeviceChange`]s in order over one bounded queue: when the reader is slow the
//! watches wait. A cluster without the definitions is asked again every half minute; until then nothing is known here, and what an
//! edge holds of devices is left alone. Spec 03 §2.

mod entry;
mod index;
mod task;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use common::Tasks;
use parking_lot::{Mutex, RwLock};
use proto::device::{DeviceId, Member};
use proto::inventory::Item;
use proto::{NodeName, Object, ObjectPath, Uid};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::Known;
use crate::kubernetes::Kube;
use index::Index;

pub use entry::DeviceEntry;
pub use index::{DeviceChange, DevicePlace};

/// What is known of devices. Cheap to clone; empty until [`Devices::start`].
#[derive(Clone)]
pub struct Devices {
    shared: Arc<Shared>,
}

struct Shared {
    index: RwLock<Index>,
    ready: watch::Sender<bool>,
    /// Told when a Device may lack its DeviceStatus.
    lacking: Notify,
    /// Since when the first lists are waited for.
    started: watch::Sender<Option<Instant>>,
    /// What nodes hold of devices that were compared before the devices were known.
    early: Mutex<HashMap<NodeName, Vec<Item>>>,
}

impl Devices {
    pub(super) fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                index: RwLock::default(),
                ready: watch::channel(false).0,
                lacking: Notify::new(),
                started: watch::channel(None).0,
                early: Mutex::default(),
            }),
        }
    }

    /// Starts the watches. The receiver must be read, or they stand still.
    pub fn start(&self, kube: &Kube, tasks: &Tasks) -> mpsc::Receiver<DeviceChange> {
        let (changes, receiver) = mpsc::channel(CHANGES);
        self.shared.started.send_replace(Some(Instant::now()));
        task::start(self, kube, changes, tasks);
        receiver
    }

    /// Whether all Devices and DeviceModels are known.
    pub fn is_ready(&self) -> bool {
        *self.shared.ready.borrow()
    }

    /// Waits until they are.
    pub async fn ready(&self) {
        let mut ready = self.shared.ready.subscribe();
        if ready.wait_for(|ready| *ready).await.is_err() {
            // The sender lives as long as this.
            std::future::pending().await
        }
    }

    /// Waits until they are, but no longer than the first lists take where the definitions are there.
    pub async fn settled(&self) {
        let Some(started) = *self.shared.started.borrow() else {
            return;
        };
        let mut ready = self.shared.ready.subscribe();
        let known = ready.wait_for(|ready| *ready);
        // If the lists are late, the caller goes on without devices.
        let _ = tokio::time::timeout_at(started + FIRST_LISTS, known).await;
    }

    /// Where a device belongs.
    pub fn place(&self, device: &DeviceId) -> DevicePlace {
        if !self.is_ready() {
            return DevicePlace::Unknown;
        }
        self.shared.index.read().place(device)
    }

    /// What a report about a device needs.
    pub fn entry(&self, device: &DeviceId) -> Option<DeviceEntry> {
        self.shared.index.read().entry(device).cloned()
    }

    /// The devices of a node.
    pub fn members(&self, node: &NodeName) -> Vec<Member> {
        self.shared.index.read().members(node)
    }

    /// Devices and models that a node is to hold; nothing while not all are known.
    pub(super) fn wanted(&self, node: &NodeName) -> Vec<(ObjectPath, Known)> {
        if self.is_ready() {
            self.shared.index.read().wanted(node)
        } else {
            Vec::new()
        }
    }

    /// Whether this is a Device whose model is not there, or not `delivered`: a Go edge hands a Device to its mapper when it comes,
    /// never again, and not without its model (spec 03 §5.3).
    pub fn waits(&self, path: &ObjectPath, delivered: impl Fn(&Uid) -> bool) -> bool {
        self.shared.index.read().waits(path, delivered)
    }

    /// The version of a Device or DeviceModel.
    pub(super) fn known(&self, path: &ObjectPath) -> Option<Known> {
        self.shared.index.read().known(path)
    }

    /// A DeviceModel.
    pub(super) fn model(&self, path: &ObjectPath) -> Option<Object> {
        self.shared.index.read().model(path)
    }

    /// A node was compared before the devices were known; this is what it holds of them. Returns false when they are known meanwhile.
    pub(crate) fn compare_later(&self, node: &NodeName, held: &[Item]) -> bool {
        let mut early = self.shared.early.lock();
        // Decided under the lock: `compared_early` is called only once devices are known, so nothing is put in behind its back.
        let is_early = !self.is_ready();
        // Where there are no such definitions this stays: only nodes that hold something take room.
        if is_early && held.is_empty() {
            early.remove(node);
        } else if is_early {
            early.insert(node.clone(), held.to_vec());
        }
        is_early
    }

    /// What a node held of devices when it was compared without them.
    pub(crate) fn compared_early(&self, node: &NodeName) -> Vec<Item> {
        self.shared.early.lock().remove(node).unwrap_or_default()
    }

    /// Waits for Devices that have a node and no DeviceStatus, and takes some of them.
    pub async fn lacking(&self) -> Vec<(DeviceId, Uid)> {
        loop {
            let told = self.shared.lacking.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            let lacking = self.shared.index.write().take_lacking(LACKING);
            if !lacking.is_empty() {
                return lacking;
            }
            told.await;
        }
    }

    /// The DeviceStatus could not be made: it is still lacking.
    pub fn still_lacks(&self, device: &DeviceId) {
        self.shared.index.write().still_lacks(device);
        self.shared.lacking.notify_one();
    }
}

/// A Device as it stands in memberships.
pub fn member_of(device: &Object, description: &str) -> Member {
    member(&index::id_of(device), description)
}

/// With its twins absent, a Go edge that knows the device would publish an error (spec 03 §2.3).
fn member(id: &DeviceId, description: &str) -> Member {
    Member {
        id: id.to_string(),
        name: id.name.to_string(),
        description: description.to_owned(),
        twin: Some(BTreeMap::new()),
        ..Member::default()
    }
}

/// Changes that wait for the device controller before the watches stand still.
const CHANGES: usize = 256;
/// What the first lists may take after the start before nodes are served without devices.
const FIRST_LISTS: Duration = Duration::from_secs(5);
/// Devices without a DeviceStatus that are taken at a time.
const LACKING: usize = 32;
