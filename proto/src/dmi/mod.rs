//! The device mapper interface (DMI) v1beta1: what edgecore and mappers say to each other over gRPC, and the conversion of Device
//! and DeviceModel objects to it (spec 03 §5).
//!
//! Mappers built on Go's mapper-framework end when a message they expect is absent, and know few of protobuf's wrapped values: what
//! is converted here always has the messages that they read, and only values that they know. What has no such form is left out and
//! told as a [`Warning`], instead of withholding the whole device as Go does.

mod convert;
mod digest;
pub mod pb;
mod push;
#[cfg(test)]
mod tests;
mod values;
mod views;

use std::fmt;

use thiserror::Error;

use crate::device::DeviceId;
use crate::object::BadObject;

pub use convert::{Converted, device, device_reference, model, model_protocol};
pub use digest::Digest;

/// Which model a device has and which protocol it speaks: what decides where it goes, without converting it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceReference {
    /// `spec.protocol.protocolName`: the mapper with this protocol serves it.
    pub protocol: String,
    /// `spec.deviceModelRef.name`, in the namespace of the device; `None` if it names none.
    pub model: Option<DeviceId>,
}

/// What was left out of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// A property that the model does not have: mappers end when they meet one.
    UnknownProperty {
        /// The property.
        property: String,
        /// The model.
        model: String,
    },
    /// A value of a kind that mappers do not know.
    Skipped {
        /// Where: `spec.protocol.configData.x`, for example.
        path: String,
        /// What is there: an object, a list, null, a number out of range.
        what: &'static str,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownProperty { property, model } => {
                write!(f, "property {property} is left out: the model {model} does not have it")
            }
            Self::Skipped { path, what } => write!(f, "{path} is left out: {what} cannot be given to a mapper"),
        }
    }
}

/// Why a device or model cannot be converted.
#[derive(Debug, Error)]
pub enum BadDevice {
    /// A field has a type that the CRD does not allow.
    #[error("the {0} has a field of the wrong type")]
    Fields(&'static str, #[source] BadObject),
    /// It names no model.
    #[error("spec.deviceModelRef.name is empty: a mapper needs the model")]
    NoModel,
    /// It has no name.
    #[error("the {0} has no name")]
    NoName(&'static str),
}
