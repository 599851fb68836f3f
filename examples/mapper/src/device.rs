//! A device as its driver sees it: instance and model in one.

use std::time::Duration;

use proto::dmi::pb;

use crate::config::Config;

/// Between two readings where the device does not say.
const COLLECT: Duration = Duration::from_secs(1);
/// Between two reports of a value that does not change, where the device does not say.
const REPORT: Duration = Duration::from_secs(60);
/// The shortest of both.
const SHORTEST: Duration = Duration::from_millis(10);

/// A device.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `spec.protocol.configData`.
    pub config: Config,
    /// Its properties.
    pub properties: Vec<Property>,
}

/// What the values of a property are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `INT`.
    Integer,
    /// `FLOAT` and `DOUBLE`.
    Float,
    /// `STRING`.
    Text,
    /// `BOOLEAN`.
    Boolean,
    /// `BYTES`.
    Bytes,
}

/// A property.
#[derive(Clone, Debug, PartialEq)]
pub struct Property {
    /// Its name.
    pub name: String,
    /// Of the model.
    pub kind: Kind,
    /// `accessMode: ReadWrite`.
    pub writable: bool,
    /// The least value.
    pub minimum: Option<f64>,
    /// The greatest.
    pub maximum: Option<f64>,
    /// What it is to be.
    pub desired: Option<String>,
    /// `visitors.configData`.
    pub config: Config,
    /// Between two readings.
    pub collect: Duration,
    /// Between two reports of a value that does not change.
    pub report: Duration,
    /// Whether it is reported.
    pub to_cloud: bool,
}

impl Device {
    /// Properties that the model does not have are left out.
    pub(crate) fn of(device: &pb::Device, model: &pb::DeviceModel) -> Self {
        let spec = device.spec.clone().unwrap_or_default();
        let of_model = model.spec.as_ref().map_or(&[][..], |spec| &spec.properties);
        let properties = spec.properties.iter().filter_map(|property| {
            let model = of_model.iter().find(|of_model| of_model.name == property.name)?;
            Some(Property::of(property, model))
        });
        Self {
            namespace: device.namespace.clone(),
            name: device.name.clone(),
            config: Config::of(
                spec.protocol
                    .as_ref()
                    .and_then(|protocol| protocol.config_data.as_ref()),
            ),
            properties: properties.collect(),
        }
    }
}

impl Property {
    fn of(property: &pb::DeviceProperty, model: &pb::ModelProperty) -> Self {
        let desired = property.desired.as_ref().map(|desired| desired.value.clone());
        let visitor = property.visitors.as_ref();
        Self {
            name: property.name.clone(),
            kind: Kind::of(&model.r#type),
            writable: model.access_mode != "ReadOnly",
            minimum: model.minimum.parse().ok(),
            maximum: model.maximum.parse().ok(),
            desired: desired.filter(|value| !value.is_empty()),
            config: Config::of(visitor.and_then(|visitor| visitor.config_data.as_ref())),
            collect: cycle(property.collect_cycle, COLLECT),
            report: cycle(property.report_cycle, REPORT),
            to_cloud: property.report_to_cloud,
        }
    }

    /// Why a value may not be written, if it may not.
    pub(crate) fn refusal(&self, value: &str) -> Option<String> {
        if !self.writable {
            return Some("the model says ReadOnly".to_owned());
        }
        let number = value.parse::<f64>();
        match self.kind {
            Kind::Integer | Kind::Float if number.is_err() => Some(format!("{value:?} is no number")),
            Kind::Integer | Kind::Float => {
                let number = number.unwrap_or_default();
                let low = self.minimum.is_some_and(|minimum| number < minimum);
                let high = self.maximum.is_some_and(|maximum| number > maximum);
                (low || high).then(|| format!("{value} is out of the model's range"))
            }
            Kind::Text | Kind::Boolean | Kind::Bytes => None,
        }
    }

    /// The type as twins have it.
    pub(crate) const fn twin_type(&self) -> &'static str {
        match self.kind {
            Kind::Integer => "int",
            Kind::Float => "float",
            Kind::Boolean => "boolean",
            Kind::Text | Kind::Bytes => "string",
        }
    }
}

impl Kind {
    fn of(text: &str) -> Self {
        match text.to_ascii_uppercase().as_str() {
            "INT" => Self::Integer,
            "FLOAT" | "DOUBLE" => Self::Float,
            "BOOLEAN" => Self::Boolean,
            "BYTES" => Self::Bytes,
            _ => Self::Text,
        }
    }
}

fn cycle(millis: i64, default: Duration) -> Duration {
    match u64::try_from(millis) {
        Ok(millis) if millis > 0 => Duration::from_millis(millis).max(SHORTEST),
        _ => default,
    }
}
