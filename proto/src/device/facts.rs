//! What the cloud has to know of a Device to bring it to its node (spec 03 §1.1).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::conversion::Version;
use crate::ids::{NodeName, ObjectName};
use crate::object::{BadObject, Object};

/// A view of a Device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceFacts {
    /// `spec.nodeName`; without one no edge hears of the device.
    pub node: Option<NodeName>,
    /// `spec.deviceModelRef.name`, in the device's own namespace.
    pub model: Option<ObjectName>,
    /// Names of `spec.properties`.
    pub properties: Vec<String>,
    /// The label `description`.
    pub description: String,
    /// Whether clients of before v1.23 look for values in its own status: it was written in v1alpha2, or values stand there.
    pub has_old_clients: bool,
}

impl DeviceFacts {
    /// Reads them. What is absent, null or empty counts as absent.
    pub fn of(device: &Object) -> Result<Self, BadObject> {
        let view: View = device.view()?;
        let spec = view.spec.unwrap_or_default();
        let names = spec.properties.unwrap_or_default();
        let metadata = view.metadata.unwrap_or_default();
        let has_old_clients = metadata.is_of_old_client() || view.status.as_ref().is_some_and(shows_values);
        Ok(Self {
            node: filled(spec.node_name).map(NodeName::from),
            model: spec
                .device_model_ref
                .and_then(|model| filled(model.name))
                .map(ObjectName::from),
            properties: names.into_iter().filter_map(|property| filled(property.name)).collect(),
            description: metadata
                .labels
                .and_then(|mut labels| labels.remove("description"))
                .unwrap_or_default(),
            has_old_clients,
        })
    }
}

/// The schema lets a status be anything.
fn shows_values(status: &Value) -> bool {
    let twins = status.get("twins").and_then(Value::as_array);
    let value = |twin: &Value| Some(!twin.pointer("/reported/value")?.as_str()?.is_empty());
    twins.into_iter().flatten().any(|twin| value(twin).unwrap_or(false))
}

fn filled(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

#[derive(Deserialize)]
struct View {
    metadata: Option<Metadata>,
    spec: Option<Spec>,
    status: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    labels: Option<BTreeMap<String, String>>,
    managed_fields: Option<Vec<Managed>>,
}

impl Metadata {
    /// The API server keeps the version in which each client wrote its fields.
    fn is_of_old_client(&self) -> bool {
        let written = self.managed_fields.iter().flatten();
        written
            .filter_map(|managed| managed.api_version.as_deref())
            .any(|version| Version::parse(version) == Ok(Version::V1Alpha2))
    }
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Managed {
    api_version: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
    device_model_ref: Option<Named>,
    properties: Option<Vec<Named>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Named {
    name: Option<String>,
}
