//! The devices and models that edgecore told of, and a task per device.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::Tasks;
use parking_lot::Mutex;
use proto::dmi::pb;
use tracing::info;

use crate::Protocol;
use crate::device::Device;
use crate::worker::{self, Reports};

/// Namespace and name.
pub(crate) type Id = (String, String);

/// The handle. Cheap to clone.
pub(crate) struct Devices<P, R>(Arc<Shared<P, R>>);

struct Shared<P, R> {
    protocol: Arc<P>,
    reports: R,
    tasks: Tasks,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    models: BTreeMap<Id, pb::DeviceModel>,
    devices: BTreeMap<Id, Served>,
}

struct Served {
    told: pb::Device,
    device: Device,
    tasks: Tasks,
}

/// The model of a device is not known.
pub(crate) struct UnknownModel(pub(crate) String);

impl<P, R> Clone for Devices<P, R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: Protocol, R: Reports> Devices<P, R> {
    pub(crate) fn new(protocol: P, reports: R, tasks: Tasks) -> Self {
        Self(Arc::new(Shared {
            protocol: Arc::new(protocol),
            reports,
            tasks,
            known: Mutex::default(),
        }))
    }

    /// All there is, as the answer to a registration tells it.
    pub(crate) fn replace(&self, models: Vec<pb::DeviceModel>, devices: Vec<pb::Device>) {
        let gone: Vec<Id> = {
            let known = self.0.known.lock();
            let told = |id: &&Id| devices.iter().any(|device| id_of(device) == **id);
            known.devices.keys().filter(|id| !told(id)).cloned().collect()
        };
        gone.iter().for_each(|id| self.remove(id));
        for model in models {
            self.put_model(model);
        }
        for device in devices {
            // One without its model is told again when it has it.
            let _ = self.put(device);
        }
    }

    /// A new or changed device. Nothing happens to one that is served as it is told.
    pub(crate) fn put(&self, told: pb::Device) -> Result<(), UnknownModel> {
        let mut known = self.0.known.lock();
        let id = id_of(&told);
        let reference = told.spec.as_ref().map(|spec| spec.device_model_reference.clone());
        let model = (id.0.clone(), reference.unwrap_or_default());
        let model = known.models.get(&model).ok_or(UnknownModel(model.1))?;
        let device = Device::of(&told, model);
        match known.devices.get_mut(&id) {
            Some(served) if served.device == device => {
                served.told = told;
                return Ok(());
            }
            Some(served) => {
                info!(namespace = %id.0, name = %id.1, "the device changed");
                served.tasks.token().cancel();
            }
            None => info!(namespace = %id.0, name = %id.1, "a device to serve"),
        }
        let tasks = self.0.tasks.child();
        let worker = worker::serve(self.0.protocol.clone(), device.clone(), self.0.reports.clone());
        tasks.spawn("device", worker);
        known.devices.insert(id, Served { told, device, tasks });
        Ok(())
    }

    /// Removes a device; one that is not there is removed already.
    pub(crate) fn remove(&self, id: &Id) {
        if let Some(served) = self.0.known.lock().devices.remove(id) {
            info!(namespace = %id.0, name = %id.1, "the device is removed");
            served.tasks.token().cancel();
        }
    }

    pub(crate) fn get(&self, id: &Id) -> Option<pb::Device> {
        self.0.known.lock().devices.get(id).map(|served| served.told.clone())
    }

    /// A new or changed model, which its devices follow.
    pub(crate) fn put_model(&self, model: pb::DeviceModel) {
        let of_model: Vec<pb::Device> = {
            let mut known = self.0.known.lock();
            let uses = |device: &&pb::Device| {
                let reference = device.spec.as_ref().map(|spec| &spec.device_model_reference);
                device.namespace == model.namespace && reference == Some(&model.name)
            };
            let all = known.devices.values().map(|served| &served.told);
            let of_model = all.filter(uses).cloned().collect();
            known
                .models
                .insert((model.namespace.clone(), model.name.clone()), model);
            of_model
        };
        for device in of_model {
            let _ = self.put(device);
        }
    }

    pub(crate) fn remove_model(&self, id: &Id) {
        self.0.known.lock().models.remove(id);
    }
}

fn id_of(device: &pb::Device) -> Id {
    (device.namespace.clone(), device.name.clone())
}
