//! What a batch of inputs changes, before it is stored: the devices as they will be, and what follows once they are.

use std::collections::{BTreeMap, BTreeSet};

use proto::device::DeviceId;

use super::device::{Device, Sides};
use crate::devicetwin::rows::Row;
use crate::devicetwin::{News, Publication};

/// A device that a batch touches.
#[derive(Debug, Default)]
pub(super) struct Stage {
    /// As it will be; `None` when it goes.
    pub(super) device: Option<Device>,
    /// Its former rows go first.
    replaced: bool,
    /// What is to be written of it.
    pub(super) own: bool,
    pub(super) attributes: bool,
    pub(super) twins: BTreeSet<String>,
    /// What the cloud is to be told.
    pub(super) report: BTreeMap<String, Sides>,
    pub(super) report_state: bool,
}

/// What follows from one input.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Once it is stored, in this order.
    pub(super) publications: Vec<Publication>,
    /// The same for whoever keeps values.
    pub(super) news: Vec<News>,
    /// In place of all that, when it could not be stored: where the refusal goes, and the event it answers.
    pub(super) failure: Option<(String, String)>,
}

/// A batch.
#[derive(Debug, Default)]
pub(super) struct Staged {
    pub(super) devices: BTreeMap<DeviceId, Stage>,
    pub(super) outcomes: Vec<Outcome>,
    /// The cloud listed all devices.
    pub(super) listed: bool,
    /// Marks that go from the disk with it.
    pub(super) unmarked: Vec<(DeviceId, String)>,
}

impl Stage {
    pub(super) fn of(device: Device) -> Self {
        Self {
            device: Some(device),
            ..Self::default()
        }
    }

    /// A new device; whatever had its name before in this batch is gone.
    pub(super) fn insert(&mut self, device: Device) {
        self.device = Some(device);
        self.own = true;
    }

    /// Its uid is known now.
    pub(super) fn learn(&mut self, uid: String) {
        if let Some(device) = &mut self.device {
            device.uid = uid;
            self.own = true;
        }
    }

    /// The device goes, and all that was to be told of it.
    pub(super) fn remove(&mut self) {
        *self = Self {
            replaced: true,
            ..Self::default()
        };
    }

    pub(super) const fn was_removed(&self) -> bool {
        self.replaced
    }

    /// The rows; `is_marked` tells which names have their mark already.
    pub(super) fn rows(&self, id: &DeviceId, is_marked: impl Fn(&str) -> bool, rows: &mut Vec<Row>) {
        if self.replaced {
            rows.push(Row::RemoveDevice(id.clone()));
        }
        let Some(device) = &self.device else { return };
        if self.own {
            rows.push(Row::Device(id.clone(), Box::new(device.without_parts())));
        }
        if self.attributes {
            rows.push(Row::Attributes(id.clone(), device.attributes.clone()));
        }
        for name in &self.twins {
            if let Some(property) = device.twins.get(name) {
                rows.push(Row::Twin(id.clone(), name.clone(), property.clone()));
            }
        }
        let state = self.report_state.then_some(super::STATE_MARK);
        for name in self.report.keys().map(String::as_str).chain(state) {
            if self.replaced || !is_marked(name) {
                rows.push(Row::Mark(id.clone(), name.to_owned()));
            }
        }
    }
}
