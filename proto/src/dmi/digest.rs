//! What a mapper was told, in 16 digits.

use std::fmt;

use prost::Message;
use sha2::{Digest as _, Sha256};

use super::pb;

/// Stands for the content of a converted device or model: two that a mapper would take for the same have the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Digest(u64);

impl Digest {
    /// Of a device. The order of its properties and methods does not count (spec 03 §5.3).
    pub fn of_device(device: &pb::Device) -> Self {
        let mut device = device.clone();
        if let Some(spec) = &mut device.spec {
            spec.properties.sort_by(|a, b| a.name.cmp(&b.name));
            spec.methods.sort_by(|a, b| a.name.cmp(&b.name));
        }
        Self::of(&device)
    }

    /// Of a model.
    pub fn of_model(model: &pb::DeviceModel) -> Self {
        Self::of(model)
    }

    /// Reads what [`fmt::Display`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok().map(Self))?
    }

    fn of(message: &impl Message) -> Self {
        let hash = Sha256::digest(message.encode_to_vec());
        let mut head = [0; 8];
        head.iter_mut().zip(hash.iter()).for_each(|(to, from)| *to = *from);
        Self(u64::from_be_bytes(head))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
