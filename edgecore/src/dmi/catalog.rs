//! Which devices and models are stored here, and which mapper each is for. Contents are digests: the objects stay in the database.

use std::collections::{BTreeMap, BTreeSet};

use common::order;
use proto::device::DeviceId;
use proto::dmi::Digest;

use super::knowledge::{self, Thing, Want, Wanted};

/// A stored device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) protocol: String,
    pub(super) model: Option<DeviceId>,
    /// `None` without its model, or when it cannot be converted.
    pub(super) digest: Option<Digest>,
}

/// A stored model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) protocol: String,
    pub(super) digest: Option<Digest>,
}

/// All devices of this node and their models.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    devices: BTreeMap<DeviceId, Device>,
    models: BTreeMap<DeviceId, Model>,
}

impl Catalog {
    /// A device was stored or removed. Returns the protocols whose mapper is concerned.
    pub(super) fn set_device(&mut self, id: &DeviceId, device: Option<Device>) -> BTreeSet<String> {
        let new = device.as_ref().map(|device| device.protocol.clone());
        let old = match device {
            Some(device) => self.devices.insert(id.clone(), device),
            None => self.devices.remove(id),
        };
        order::set(old.map(|device| device.protocol).into_iter().chain(new))
    }

    /// A model was stored or removed. Returns the protocols whose mapper is concerned.
    pub(super) fn set_model(&mut self, id: &DeviceId, model: Option<Model>) -> BTreeSet<String> {
        let new = model.as_ref().map(|model| model.protocol.clone());
        let old = match model {
            Some(model) => self.models.insert(id.clone(), model),
            None => self.models.remove(id),
        };
        let of_devices = self.devices.values().filter(|device| device.model.as_ref() == Some(id));
        let of_model = old.map(|model| model.protocol).into_iter().chain(new);
        order::set(of_model.chain(of_devices.map(|device| device.protocol.clone())))
    }

    /// The devices that have a model.
    pub(super) fn devices_of(&self, model: &DeviceId) -> Vec<DeviceId> {
        let of_model = self
            .devices
            .iter()
            .filter(|(_, device)| device.model.as_ref() == Some(model));
        of_model.map(|(id, _)| id.clone()).collect()
    }

    /// The ids of the devices.
    pub(super) fn devices(&self) -> impl Iterator<Item = &DeviceId> {
        self.devices.keys()
    }

    /// The ids of the models.
    pub(super) fn models(&self) -> impl Iterator<Item = &DeviceId> {
        self.models.keys()
    }

    /// What the mapper of a protocol is to know: its devices with their models, and the models that name it.
    pub(super) fn wanted(&self, protocol: &str) -> Wanted {
        let devices = self.devices.iter().filter(|(_, device)| device.protocol == protocol);
        let mut wanted: Wanted = order::map(devices.map(|(id, device)| {
            let want = Want {
                digest: device.digest,
                model: device.model.clone(),
            };
            (Thing::Device(id.clone()), want)
        }));
        let named = self.models.iter().filter(|(_, model)| model.protocol == protocol);
        let mut models = knowledge::models(&wanted);
        models.extend(named.map(|(id, _)| id.clone()));
        for id in models {
            let want = Want {
                digest: self.models.get(&id).and_then(|model| model.digest),
                model: None,
            };
            wanted.insert(Thing::Model(id), want);
        }
        wanted
    }
}
