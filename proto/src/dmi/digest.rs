//! What a mapper was told, in 16 digits, and 16 more for which device it is of.

use std::fmt;

use prost::Message;
use sha2::{Digest as _, Sha256};

use super::pb;

/// Stands for the content of a converted device or model: two that a mapper would take for the same have the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Digest {
    content: u64,
    /// Stands for the uid of the device, where that is known.
    uid: Option<u64>,
}

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

    /// The same of the device with this uid: one that is made again under its name is another one, whatever its content.
    #[must_use]
    pub fn with_uid(self, uid: &str) -> Self {
        Self {
            uid: (!uid.is_empty()).then(|| hash(uid.as_bytes())),
            ..self
        }
    }

    /// Whether these are of two devices, as far as is known.
    pub fn is_of_another(self, other: Self) -> bool {
        matches!((self.uid, other.uid), (Some(one), Some(other)) if one != other)
    }

    /// Reads what [`fmt::Display`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok())?;
        let (content, uid) = match text.split_once('-') {
            Some((content, uid)) => (content, Some(number(uid)?)),
            None => (text, None),
        };
        Some(Self {
            content: number(content)?,
            uid,
        })
    }

    fn of(message: &impl Message) -> Self {
        Self {
            content: hash(&message.encode_to_vec()),
            uid: None,
        }
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let hash = Sha256::digest(bytes);
    let mut head = [0; 8];
    head.iter_mut().zip(hash.iter()).for_each(|(to, from)| *to = *from);
    u64::from_be_bytes(head)
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.content)?;
        self.uid.map_or(Ok(()), |uid| write!(f, "-{uid:016x}"))
    }
}
