//! What is kept of one Device.

use proto::device::{DeviceFacts, DeviceId};
use proto::{NodeName, Object, ObjectName};

use crate::informers::known::{Known, fingerprint};

/// What is kept of one Device.
#[derive(Clone, Debug)]
pub struct DeviceEntry {
    /// Its version.
    pub known: Known,
    /// Where it is.
    pub node: Option<NodeName>,
    /// Whether clients of before v1.23 look for values in its own status.
    pub has_old_clients: bool,
    model: Option<ObjectName>,
    pub(super) description: Box<str>,
    /// Without what stands in its status.
    pub(super) print: u64,
    /// Names of properties, with a zero byte after each: one allocation a device.
    properties: Box<str>,
}

impl DeviceEntry {
    pub(super) fn new(object: &Object, facts: DeviceFacts) -> Self {
        let properties: String = facts.properties.iter().flat_map(|name| [name.as_str(), "\0"]).collect();
        Self {
            known: Known::of(object),
            node: facts.node,
            has_old_clients: facts.has_old_clients,
            model: facts.model,
            description: facts.description.into(),
            print: fingerprint(object, true),
            properties: properties.into(),
        }
    }

    /// Its model is in its own namespace.
    pub(super) fn model_id(&self, id: &DeviceId) -> Option<DeviceId> {
        let model = self.model.clone()?;
        Some(DeviceId::new(id.namespace.clone(), model))
    }

    /// Whether the Device has such a property.
    pub fn has_property(&self, name: &str) -> bool {
        self.properties.split_terminator('\0').any(|known| known == name)
    }
}
