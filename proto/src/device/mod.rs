//! Devices: the JSON of membership, twin and state messages, between the cores and on MQTT (spec 03 §2, §3).
//!
//! Go's readers ignore the case of keys and take `null` for an absent value, so peers write keys in several cases: readers here do
//! the same, writers use the forms that Go writes. Names of properties keep their case.

pub mod conversion;

mod answers;
mod facts;
mod fields;
mod history;
mod id;
mod membership;
mod mqtt;
mod row;
mod state;
mod status;
#[cfg(test)]
mod tests;
mod topic;
mod twin;

use thiserror::Error;

pub use answers::{
    AttributeUpdate, GetRequest, MembershipQuestion, Refusal, TwinChange, TwinDelta, TwinDocument, event_id_of,
};
pub use facts::DeviceFacts;
pub use history::{Found, HistoryAnswer, HistoryProperty, HistoryRequest, HistoryValue, Remembered};
pub use id::DeviceId;
pub use membership::{Attribute, AttributeMap, Member, MembershipDetail, MembershipUpdate};
pub use mqtt::{DeviceEvent, DeviceRequest, MembershipEvent};
pub use row::{ROW_METADATA, timestamp_of_row, timestamp_to_row};
pub use state::StateUpdate;
pub use status::{DeviceStatus, StatusTwin, StatusValue};
pub use topic::{DevicePart, DeviceTopic};
pub use twin::{Twin, TwinMap, TwinUpdate, TwinValue, TwinVersion};

/// The largest payload about devices that is read: 1 MiB. A device of 2,000 properties takes 300 kB.
pub const MAX_PAYLOAD: usize = 1024 * 1024;

/// Why a payload about devices cannot be read.
#[derive(Debug, Error)]
pub enum BadPayload {
    /// It is larger than [`MAX_PAYLOAD`].
    #[error("payload of {0} bytes is over the limit of {MAX_PAYLOAD}")]
    TooLarge(usize),
    /// It is not JSON, or not an object.
    #[error("payload is no JSON object")]
    Json(#[source] serde_json::Error),
    /// A key has a value of the wrong type.
    #[error("{key} is not {wanted}")]
    Type {
        /// The key, as it is documented.
        key: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
}
