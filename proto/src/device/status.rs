//! DeviceStatus: what the API shows of a device's values and state (spec 03 §1.3).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::DeviceId;
use super::twin::TwinValue;
use crate::ids::Uid;
use crate::object::{BadObject, Object};

/// A value as it stands in a DeviceStatus. Times are text there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusValue {
    /// The value; empty where there is none.
    #[serde(default)]
    pub value: String,
    /// `timestamp`: Unix time in milliseconds, and `type`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// One property. Keys that this release does not know stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusTwin {
    /// Its name.
    #[serde(default)]
    pub property_name: String,
    /// What was measured.
    #[serde(default)]
    pub reported: StatusValue,
    /// The desired value that the device knows of.
    #[serde(default)]
    pub observed_desired: StatusValue,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// The part of a DeviceStatus that cloudcore writes; `extensions` are not touched by its patches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceStatus {
    /// `metadata.resourceVersion`: a patch that names it fails when somebody else wrote meanwhile.
    pub version: String,
    /// All properties: a merge patch replaces the list.
    pub twins: Vec<StatusTwin>,
    /// As the edge last told.
    pub state: String,
    /// RFC 3339.
    pub last_online_time: String,
    /// The Devices that it goes with: one, or none that it names.
    pub owners: Vec<Uid>,
}

impl StatusValue {
    /// The value of an edge's twin with the type of its property; `None` where none was given.
    pub fn of(value: &TwinValue, kind: Option<&str>) -> Option<Self> {
        let text = value.value.clone()?;
        let mut metadata = BTreeMap::new();
        if let Some(timestamp) = value.timestamp {
            metadata.insert(TIMESTAMP.to_owned(), timestamp.to_string());
        }
        if let Some(kind) = kind {
            metadata.insert("type".to_owned(), kind.to_owned());
        }
        Some(Self { value: text, metadata })
    }

    /// When it was given, in milliseconds of Unix time.
    pub fn timestamp(&self) -> Option<i64> {
        self.metadata.get(TIMESTAMP)?.parse().ok()
    }
}

impl StatusTwin {
    /// A property without values.
    pub fn new(name: &str) -> Self {
        Self {
            property_name: name.to_owned(),
            ..Self::default()
        }
    }
}

impl DeviceStatus {
    /// Reads one. Twins that are no objects are left out.
    pub fn of(object: &Object) -> Result<Self, BadObject> {
        let view: View = object.view()?;
        let status = view.status.unwrap_or_default();
        let owners = view.metadata.owner_references.unwrap_or_default().into_iter();
        let twins = status.twins.unwrap_or_default().into_iter();
        Ok(Self {
            version: object.meta().resource_version.clone(),
            twins: twins.filter_map(|twin| serde_json::from_value(twin).ok()).collect(),
            state: status.state.unwrap_or_default(),
            last_online_time: status.last_online_time.unwrap_or_default(),
            owners: owners.filter_map(Owner::device).collect(),
        })
    }

    /// Whether it is that of the Device with this uid, and not of an earlier one of the same name. One without an owner is anybody's.
    pub fn is_of(&self, device: &Uid) -> bool {
        self.owners.is_empty() || self.owners.contains(device)
    }

    /// When the device was last said to be there, in milliseconds of Unix time; `None` for what is no time, or one without a zone, as
    /// edges up to v1.17 have it.
    pub fn last_online(&self) -> Option<i64> {
        let time: Timestamp = self.last_online_time.parse().ok()?;
        Some(time.as_millisecond())
    }

    /// The merge patch that writes it over the version it was read at.
    pub fn patch(&self) -> String {
        json!({"metadata": {"resourceVersion": self.version}, "status": self.status()}).to_string()
    }

    /// The merge patch that shows the same in the status of the Device itself, at this version of it, where clients before v1.23 look.
    pub fn patch_of_device(&self, version: &str) -> String {
        json!({"metadata": {"resourceVersion": version}, "status": self.status()}).to_string()
    }

    /// A new object of this content, owned by its Device: it goes with it.
    pub fn object(&self, device: &DeviceId, uid: &Uid) -> Object {
        let owner = json!({
            "apiVersion": API_VERSION, "kind": "Device", "name": device.name, "uid": uid,
            "controller": true, "blockOwnerDeletion": true,
        });
        let object = json!({
            "apiVersion": API_VERSION,
            "kind": "DeviceStatus",
            "metadata": {"name": device.name, "namespace": device.namespace, "ownerReferences": [owner]},
            "spec": {},
            "status": self.status(),
        });
        Object::from_value(&object).expect("a JSON object is an object")
    }

    /// Empty texts are left out: they would take away what is there.
    fn status(&self) -> Value {
        let mut status = Map::new();
        if !self.twins.is_empty() {
            status.insert("twins".into(), json!(self.twins));
        }
        for (key, text) in [("state", &self.state), ("lastOnlineTime", &self.last_online_time)] {
            if !text.is_empty() {
                status.insert(key.into(), text.as_str().into());
            }
        }
        Value::Object(status)
    }
}

#[derive(Deserialize)]
struct View {
    #[serde(default)]
    metadata: Metadata,
    status: Option<Status>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    owner_references: Option<Vec<Owner>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Owner {
    api_version: String,
    kind: String,
    uid: String,
}

impl Owner {
    /// The uid of a Device, of whatever version.
    fn device(self) -> Option<Uid> {
        let is_device = self.kind == "Device" && self.api_version.starts_with("devices.kubeedge.io/");
        is_device.then(|| self.uid.into())
    }
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    twins: Option<Vec<Value>>,
    state: Option<String>,
    last_online_time: Option<String>,
}

const API_VERSION: &str = "devices.kubeedge.io/v1beta1";
const TIMESTAMP: &str = "timestamp";
