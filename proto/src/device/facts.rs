//! What the cloud has to know of a Device to bring it to its node (spec 03 §1.1).

use std::collections::BTreeMap;

use serde::Deserialize;

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
}

impl DeviceFacts {
    /// Reads them. What is absent, null or empty counts as absent.
    pub fn of(device: &Object) -> Result<Self, BadObject> {
        let view: View = device.view()?;
        let spec = view.spec.unwrap_or_default();
        let names = spec.properties.unwrap_or_default();
        let labels = view.metadata.and_then(|metadata| metadata.labels);
        Ok(Self {
            node: filled(spec.node_name).map(NodeName::from),
            model: spec
                .device_model_ref
                .and_then(|model| filled(model.name))
                .map(ObjectName::from),
            properties: names.into_iter().filter_map(|property| filled(property.name)).collect(),
            description: labels
                .and_then(|mut labels| labels.remove("description"))
                .unwrap_or_default(),
        })
    }
}

fn filled(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

#[derive(Deserialize)]
struct View {
    metadata: Option<Metadata>,
    spec: Option<Spec>,
}

#[derive(Deserialize)]
struct Metadata {
    labels: Option<BTreeMap<String, String>>,
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
