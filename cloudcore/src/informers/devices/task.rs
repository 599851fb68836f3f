//! The watches and the one task that writes the index.

use common::Tasks;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::warn;

use super::Devices;
use super::index::{DeviceChange, Watch};
use crate::kubernetes::{DEVICE_MODELS, DEVICE_STATUSES, DEVICES, Detail, Kube, Seen, Selection, follow};

pub(super) fn start(devices: &Devices, kube: &Kube, changes: mpsc::Sender<DeviceChange>, tasks: &Tasks) {
    let owner = Owner {
        devices: devices.clone(),
        kube: kube.clone(),
        changes,
        tasks: tasks.clone(),
    };
    tasks.spawn("devices", owner.run());
}

struct Owner {
    devices: Devices,
    kube: Kube,
    changes: mpsc::Sender<DeviceChange>,
    tasks: Tasks,
}

impl Owner {
    async fn run(self) {
        let mut models = self.begin(Watch::Models);
        // Models first: a device that comes after its model needs no second message.
        let first = async {
            while !self.devices.shared.index.read().is_listed(Watch::Models) {
                let Some(seen) = models.recv().await else { return };
                self.take(Watch::Models, seen).await;
            }
        };
        if tokio::time::timeout(MODELS_FIRST, first).await.is_err() {
            warn!("the DeviceModels are not known yet, devices go out as they are");
        }
        let (mut devices, mut statuses) = (self.begin(Watch::Devices), self.begin(Watch::Statuses));
        loop {
            let (watch, seen) = tokio::select! {
                Some(seen) = models.recv() => (Watch::Models, seen),
                Some(seen) = devices.recv() => (Watch::Devices, seen),
                Some(seen) = statuses.recv() => (Watch::Statuses, seen),
                else => return,
            };
            self.take(watch, seen).await;
        }
    }

    fn begin(&self, watch: Watch) -> mpsc::Receiver<Seen> {
        let (out, events) = mpsc::channel(EVENTS);
        let (resource, detail) = match watch {
            Watch::Models => (DEVICE_MODELS, Detail::Whole),
            Watch::Devices => (DEVICES, Detail::Whole),
            Watch::Statuses => (DEVICE_STATUSES, Detail::Metadata),
        };
        let follow = follow(self.kube.clone(), resource, Selection::default(), detail, out);
        self.tasks.spawn("watch", follow);
        events
    }

    async fn take(&self, watch: Watch, seen: Seen) {
        let shared = &self.devices.shared;
        let (changes, ready) = {
            let mut index = shared.index.write();
            (index.apply(watch, seen), index.is_ready())
        };
        shared
            .ready
            .send_if_modified(|known| !std::mem::replace(known, ready) && ready);
        shared.lacking.notify_one();
        for change in changes {
            // The reader is gone only when the process stops.
            let _ = self.changes.send(change).await;
        }
    }
}

/// How long the list of models may hold up that of devices.
const MODELS_FIRST: Duration = Duration::from_secs(2);
/// Events that a watch may be ahead of the index.
const EVENTS: usize = 64;
