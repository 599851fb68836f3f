//! What the edge publishes in answer to an update (spec 03 §3.3), and what it asks the cloud (spec 03 §2.3).

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::BadPayload;
use super::fields::Fields;
use super::membership::AttributeMap;
use super::twin::{Twin, TwinMap};
use crate::ids::NodeName;

/// A question without content of its own: `twin/get`, `membership/get`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetRequest {
    /// Chosen by the sender.
    pub event_id: String,
}

impl GetRequest {
    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self, BadPayload> {
        let mut fields = Fields::parse(payload)?;
        fields.integer("timestamp")?;
        Ok(Self {
            event_id: fields.text("event_id")?.unwrap_or_default(),
        })
    }
}

/// The event id of a payload that could not be read otherwise, so that its sender knows which one it was; empty when there is none.
pub fn event_id_of(payload: &[u8]) -> String {
    let id = Fields::parse(payload)
        .ok()
        .and_then(|mut fields| fields.take("event_id"));
    match id {
        Some(Value::String(id)) => id,
        _ => String::new(),
    }
}

/// Why a request was not done: `code`, `reason`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Of the request.
    pub event_id: String,
    /// Unix time in milliseconds.
    pub timestamp: i64,
    /// As in HTTP.
    pub code: u16,
    /// For the sender.
    pub reason: String,
}

/// A twin before and after.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TwinChange {
    /// `None` when it was not there.
    pub last: Option<Twin>,
    /// `None` when it was deleted.
    pub current: Option<Twin>,
}

/// `twin/update/document`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TwinDocument {
    /// Of the request.
    pub event_id: String,
    /// Unix time in milliseconds.
    pub timestamp: i64,
    /// The twins that changed.
    pub twin: BTreeMap<String, TwinChange>,
}

/// `twin/update/delta`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TwinDelta {
    /// New.
    pub event_id: String,
    /// Unix time in milliseconds.
    pub timestamp: i64,
    /// All twins of the device with an expected value.
    pub twin: TwinMap,
    /// The expected values that are not the actual ones.
    pub delta: BTreeMap<String, String>,
}

/// `updated`: attributes that changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AttributeUpdate {
    /// Of what changed them.
    pub event_id: String,
    /// Unix time in milliseconds.
    pub timestamp: i64,
    /// The new ones; `None` for what is gone.
    pub attributes: AttributeMap,
}

/// `membership/detail` upwards: the edge asks for its devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MembershipQuestion {
    event_type: &'static str,
    event_id: String,
    group_id: NodeName,
    operation: &'static str,
    timestamp: i64,
}

impl MembershipQuestion {
    /// The question of a node.
    pub const fn new(event_id: String, node: NodeName, timestamp: i64) -> Self {
        Self {
            event_type: "group_membership_event",
            event_id,
            group_id: node,
            operation: "detail",
            timestamp,
        }
    }
}

macro_rules! payloads {
    ($($name:ident),*) => {$(
        impl $name {
            /// The payload.
            pub fn to_json(&self) -> String {
                // Texts, numbers and maps by text: nothing in it can fail to serialise.
                serde_json::to_string(self).unwrap_or_default()
            }
        }
    )*};
}

payloads!(Refusal, AttributeUpdate, TwinDocument, TwinDelta, MembershipQuestion);
