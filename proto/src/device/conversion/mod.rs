//! Device and DeviceModel from v1alpha2 to v1beta1 and back (spec 03 §1), without loss.
//!
//! Owns the meaning of fields in both versions; reads and gives whole objects as JSON. `device` and `model` are the plain
//! conversions: what has its place in the other version. What has none there is written into one annotation, [`ANNOTATION`], as
//! `notes`: how the plain conversion *back* differs from the object at hand. The way back is the plain conversion with the notes
//! that still hold, so that both round trips give the same object again; a note is void once the field is changed to which it
//! belongs. Must not: validate, that is the schema's part; touch anything else of the metadata, which the API server refuses; or look
//! at more than the object, as at its DeviceStatus for reported values: the API server keeps what it converted until the object
//! changes. Those values are in the Device itself where old clients look at it (`cloudcore::devicecontroller::upstream`).

mod device;
mod model;
mod notes;
mod protocols;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};
use thiserror::Error;

use notes::{Notes, Object};

/// What the other version has more: `{"<version>": [notes]}`.
pub const ANNOTATION: &str = "devices.kubeedge.io/other-version";

/// The API group of devices.
pub const GROUP: &str = "devices.kubeedge.io";

/// A version of the API group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// The old one.
    V1Alpha2,
    /// The one that is stored.
    V1Beta1,
}

/// Why an object cannot be converted.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConversionError {
    /// It is no object of the API.
    #[error("not an object of {GROUP}/v1alpha2 or {GROUP}/v1beta1")]
    NotAnObject,
    /// A kind that has one version.
    #[error("{0:?} is neither Device nor DeviceModel")]
    Kind(String),
    /// A version that is not known.
    #[error("{0:?} is neither {GROUP}/v1alpha2 nor {GROUP}/v1beta1")]
    Version(String),
}

impl Version {
    /// From an `apiVersion`.
    pub fn parse(api_version: &str) -> Result<Self, ConversionError> {
        match api_version.strip_prefix(GROUP).unwrap_or_default() {
            "/v1alpha2" => Ok(Self::V1Alpha2),
            "/v1beta1" => Ok(Self::V1Beta1),
            _ => Err(ConversionError::Version(api_version.chars().take(100).collect())),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::V1Alpha2 => "v1alpha2",
            Self::V1Beta1 => "v1beta1",
        }
    }
}

/// The object in the version.
pub fn convert(object: Value, to: Version) -> Result<Value, ConversionError> {
    let Value::Object(mut object) = object else {
        return Err(ConversionError::NotAnObject);
    };
    let from = Version::parse(text(&object, "apiVersion").ok_or(ConversionError::NotAnObject)?)?;
    let plain = Plain::of(text(&object, "kind").unwrap_or_default())?;
    if from == to {
        return Ok(object.into());
    }
    let kept: Vec<(String, Value)> = ["apiVersion", "kind", "metadata"]
        .iter()
        .filter_map(|name| object.remove_entry(*name))
        .collect();
    let mut frame = Object::from_iter(kept);
    let mut body = plain.to(to, &object);
    take_notes(&mut frame, to).apply(&mut body);
    let notes = Notes::between(&plain.to(from, &body), &object);
    put_notes(&mut frame, from, &notes);
    frame.insert("apiVersion".to_owned(), format!("{GROUP}/{}", to.name()).into());
    frame.extend(body);
    Ok(frame.into())
}

/// The plain conversions of a kind.
struct Plain {
    upgrade: fn(&Object) -> Object,
    downgrade: fn(&Object) -> Object,
}

const DEVICE: Plain = Plain {
    upgrade: device::upgrade,
    downgrade: device::downgrade,
};

const MODEL: Plain = Plain {
    upgrade: model::upgrade,
    downgrade: model::downgrade,
};

impl Plain {
    fn of(kind: &str) -> Result<Self, ConversionError> {
        match kind {
            "Device" => Ok(DEVICE),
            "DeviceModel" => Ok(MODEL),
            other => Err(ConversionError::Kind(other.chars().take(100).collect())),
        }
    }

    fn to(&self, version: Version, body: &Object) -> Object {
        match version {
            Version::V1Beta1 => (self.upgrade)(body),
            Version::V1Alpha2 => (self.downgrade)(body),
        }
    }
}

/// The notes on what `version` has more, out of the annotation. Notes of another version, or such as cannot be read, are none.
fn take_notes(frame: &mut Object, version: Version) -> Notes {
    let annotations = frame
        .get_mut("metadata")
        .and_then(|metadata| metadata.get_mut("annotations"))
        .and_then(Value::as_object_mut);
    let Some(annotations) = annotations else {
        return Notes::default();
    };
    let Some(Value::String(text)) = annotations.remove(ANNOTATION) else {
        return Notes::default();
    };
    if annotations.is_empty()
        && let Some(Value::Object(metadata)) = frame.get_mut("metadata")
    {
        metadata.remove("annotations");
    }
    let by_version: Map<String, Value> = crate::json::from_str(&text).unwrap_or_default();
    let notes = by_version.into_iter().find(|(name, _)| name == version.name());
    notes.map(|(_, notes)| Notes::from_value(notes)).unwrap_or_default()
}

fn put_notes(frame: &mut Object, version: Version, notes: &Notes) {
    if notes.is_empty() {
        return;
    }
    let text = Value::from(Object::from_iter([(version.name().to_owned(), notes.to_value())])).to_string();
    let metadata = frame.entry("metadata").or_insert_with(|| Object::new().into());
    if let Value::Object(metadata) = metadata {
        let annotations = metadata.entry("annotations").or_insert_with(|| Object::new().into());
        if annotations.is_null() {
            *annotations = Object::new().into();
        }
        if let Value::Object(annotations) = annotations {
            annotations.insert(ANNOTATION.to_owned(), text.into());
        }
    }
}

fn object<'a>(from: &'a Object, name: &str) -> Option<&'a Object> {
    from.get(name)?.as_object()
}

fn list<'a>(from: &'a Object, name: &str) -> Option<&'a [Value]> {
    from.get(name)?.as_array().map(Vec::as_slice)
}

fn text<'a>(from: &'a Object, name: &str) -> Option<&'a str> {
    from.get(name)?.as_str()
}

/// Copies a member under another name, if it is there.
fn copy(from: &Object, name: &str, to: &mut Object, other: &str) {
    if let Some(value) = from.get(name) {
        to.insert(other.to_owned(), value.clone());
    }
}
