//! From objects to the messages of the interface.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::views::{self, Free};
use super::{BadDevice, DeviceReference, Warning, pb, values};
use crate::device::DeviceId;
use crate::object::Object;

/// A device as a mapper gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct Converted {
    /// The message.
    pub device: pb::Device,
    /// What was left out.
    pub warnings: Vec<Warning>,
}

/// Where a device goes.
pub fn device_reference(device: &Object) -> Result<DeviceReference, BadDevice> {
    let view: views::Routing = device.view().map_err(|source| BadDevice::Fields("device", source))?;
    let model = Some(view.spec.model.name)
        .filter(|name| !name.is_empty())
        .map(|name| DeviceId::new(device.namespace(), name));
    Ok(DeviceReference {
        protocol: view.spec.protocol.name,
        model,
    })
}

/// Which mapper a model is for, if it says so.
pub fn model_protocol(model: &Object) -> Result<String, BadDevice> {
    let view: views::ModelRouting = model.view().map_err(|source| BadDevice::Fields("model", source))?;
    Ok(view.spec.protocol)
}

/// A model.
pub fn model(object: &Object) -> Result<pb::DeviceModel, BadDevice> {
    if object.meta().name.is_empty() {
        return Err(BadDevice::NoName("model"));
    }
    let model: views::Model = object.view().map_err(|source| BadDevice::Fields("model", source))?;
    let properties = model.spec.properties.into_iter().map(|property| pb::ModelProperty {
        name: property.name,
        description: property.description,
        r#type: property.kind,
        access_mode: property.access,
        minimum: property.minimum,
        maximum: property.maximum,
        unit: property.unit,
    });
    Ok(pb::DeviceModel {
        name: object.meta().name.clone(),
        namespace: object.meta().namespace.clone().unwrap_or_default(),
        spec: Some(pb::DeviceModelSpec {
            properties: properties.collect(),
            commands: Vec::new(),
        }),
    })
}

/// A device, with what its model says where it says nothing itself (spec 03 §5.3).
pub fn device(object: &Object, model: &Object) -> Result<Converted, BadDevice> {
    if object.meta().name.is_empty() {
        return Err(BadDevice::NoName("device"));
    }
    let view: views::Device = object.view().map_err(|source| BadDevice::Fields("device", source))?;
    let model: views::Model = model.view().map_err(|source| BadDevice::Fields("model", source))?;
    let spec = view.spec;
    if spec.model.name.is_empty() {
        return Err(BadDevice::NoModel);
    }
    let mut warnings = Vec::new();
    let config = merged(model.spec.protocol_data, spec.protocol.data);
    let protocol = pb::ProtocolConfig {
        protocol_name: spec.protocol.protocol,
        config_data: Some(customized(&config, "spec.protocol.configData", &mut warnings)),
    };
    let mut known = BTreeMap::new();
    for property in model.spec.properties {
        known.insert(property.name.clone(), property);
    }
    let mut properties = Vec::with_capacity(spec.properties.len());
    for property in spec.properties {
        match known.get_mut(&property.name) {
            Some(of_model) => properties.push(convert_property(property, of_model.visitors.clone(), &mut warnings)),
            None => warnings.push(Warning::UnknownProperty {
                property: property.name,
                model: spec.model.name.clone(),
            }),
        }
    }
    let methods = spec.methods.into_iter().map(|method| pb::DeviceMethod {
        name: method.name,
        description: method.description,
        property_names: method.properties,
    });
    let report = spec.state_report.unwrap_or(view.status);
    let device = pb::Device {
        name: object.meta().name.clone(),
        namespace: object.meta().namespace.clone().unwrap_or_default(),
        spec: Some(pb::DeviceSpec {
            device_model_reference: spec.model.name,
            protocol: Some(protocol),
            properties,
            methods: methods.collect(),
        }),
        status: Some(pb::DeviceStatus {
            twins: Vec::new(),
            report_to_cloud: report.to_cloud,
            report_cycle: report.cycle,
        }),
    };
    Ok(Converted { device, warnings })
}

fn convert_property(
    property: views::Property,
    of_model: Option<views::Config>,
    warnings: &mut Vec<Warning>,
) -> pb::DeviceProperty {
    let path = format!("spec.properties[{}]", property.name);
    let (protocol_name, from_model) = match of_model {
        Some(visitors) => (visitors.protocol, visitors.data),
        None => (property.visitors.protocol, None),
    };
    let data = merged(from_model, property.visitors.data);
    pb::DeviceProperty {
        desired: Some(pb::TwinProperty {
            value: property.desired.value,
            metadata: property.desired.metadata,
        }),
        visitors: Some(pb::VisitorConfig {
            protocol_name,
            config_data: Some(customized(&data, &format!("{path}.visitors.configData"), warnings)),
        }),
        report_cycle: property.report_cycle,
        collect_cycle: property.collect_cycle,
        report_to_cloud: property.report_to_cloud,
        push_method: property
            .push
            .map(|push| push.convert(&format!("{path}.pushMethod"), warnings)),
        name: property.name,
    }
}

/// The model's keys, with the instance's over them.
fn merged(of_model: Free, of_instance: Free) -> Map<String, Value> {
    let mut all = of_model.unwrap_or_default();
    all.extend(of_instance.unwrap_or_default());
    all
}

fn customized(data: &Map<String, Value>, path: &str, warnings: &mut Vec<Warning>) -> pb::CustomizedValue {
    pb::CustomizedValue {
        data: values::wrap(data, values::Whole::Int64, path, warnings),
    }
}
