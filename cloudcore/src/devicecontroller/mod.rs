//! DeviceController: devices and their models down to the edges, reported values and states up to the API.
//!
//! Owns what was reported and is not written yet. Reads the changes of `Devices`, and what the hub hands over of the edges'
//! DeviceTwins; emits messages through the hub, and writes DeviceStatuses. Devices of nodes without a session here are passed over:
//! what an edge missed is found when it connects, by its inventory or, for a Go edge, by the records of `objectsync`. Must not
//! keep bodies of Devices, nor let one device wait for another. Spec 03 §2; KubeEdge documents it under "DeviceController".

mod downstream;
mod metrics;
mod statuses;
mod upstream;

use common::Tasks;
use config::cloudcore::DeviceController as Section;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

use crate::cloudhub::{CloudHub, Upstream};
use crate::informers::Informers;
use crate::kubernetes::Kube;
use crate::synccontroller::SyncController;
use metrics::Metrics;

pub(crate) use downstream::confirmation;

/// How much is written, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Writes to one DeviceStatus in a second.
    pub writes_per_device: u32,
    /// Writes for all devices of one node in a second.
    pub writes_per_node: u32,
    /// Whether the status of every Device shows what its DeviceStatus does, which takes a second write. That of a Device which
    /// clients of before v1.23 look at does in any case.
    pub status_of_device: bool,
}

/// What the controller works with.
#[derive(Clone)]
pub struct DeviceController {
    /// The API.
    pub kube: Kube,
    /// The cluster's state.
    pub informers: Informers,
    /// The sessions.
    pub hub: CloudHub,
    /// What sends a Go edge the devices that waited for their model.
    pub reconciler: SyncController,
    /// The configuration.
    pub settings: Settings,
}

impl DeviceController {
    /// Starts all parts.
    pub fn start(&self, reports: mpsc::Receiver<Upstream>, registry: &mut Registry, tasks: &Tasks) {
        let metrics = Metrics::register(registry);
        let devices = self.informers.devices();
        let changes = devices.start(&self.kube, tasks);
        downstream::start(self, changes, &metrics, tasks);
        statuses::start(devices, &self.kube, &metrics, tasks);
        upstream::start(self, reports, &metrics, tasks);
    }
}

impl From<&Section> for Settings {
    fn from(section: &Section) -> Self {
        let rate = |value: i32| u32::try_from(value).unwrap_or_default().max(1);
        Self {
            writes_per_device: rate(section.writes_per_device),
            writes_per_node: rate(section.writes_per_node),
            status_of_device: section.status_of_device,
        }
    }
}
