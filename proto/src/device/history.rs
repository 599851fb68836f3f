//! Values that the edge remembers: questions on `$hw/events/device/<ns>/<name>/history/get`, answers there and over HTTP. Only ours.

use serde::Serialize;

use super::BadPayload;
use super::fields::Fields;

/// What is asked. An absent key has no say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryRequest {
    /// Chosen by the sender.
    pub event_id: String,
    /// Of which property; `None` asks which there are.
    pub property: Option<String>,
    /// Values not older than this, Unix time in milliseconds.
    pub from: Option<i64>,
    /// Values older than this.
    pub to: Option<i64>,
    /// Not more of them.
    pub limit: Option<i64>,
    /// Goes on where an answer ended: its `next`.
    pub after: Option<String>,
    /// Newest first.
    pub newest: bool,
}

impl HistoryRequest {
    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self, BadPayload> {
        let mut fields = Fields::parse(payload)?;
        Ok(Self {
            event_id: fields.text("event_id")?.unwrap_or_default(),
            property: fields.text("property")?,
            from: fields.integer("from")?,
            to: fields.integer("to")?,
            limit: fields.integer("limit")?,
            after: fields.text("after")?,
            newest: fields.boolean("newest")?.unwrap_or_default(),
        })
    }
}

/// One remembered value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HistoryValue {
    /// When it was taken, Unix time in milliseconds.
    pub time: i64,
    /// The value as text.
    pub value: String,
}

/// What is remembered of one property.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HistoryProperty {
    /// Its name.
    pub property: String,
    /// Its type, as it was last given.
    #[serde(rename = "type")]
    pub kind: String,
    /// How many values.
    pub values: u64,
    /// Time of the oldest.
    pub oldest: i64,
    /// Time of the newest.
    pub newest: i64,
}

/// What is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Remembered {
    /// The properties of a device.
    Properties {
        /// By name.
        properties: Vec<HistoryProperty>,
    },
    /// Values of one property.
    Values {
        /// The property.
        property: String,
        /// Its type, as it was last given.
        #[serde(rename = "type")]
        kind: String,
        /// In the order of their times.
        values: Vec<HistoryValue>,
        /// Asked with this as `after`, the answer goes on; absent at the end.
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    },
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HistoryAnswer {
    /// That of the question; absent over HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// Unix time in milliseconds; absent over HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
    /// `<namespace>/<name>`; absent in a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What was asked for.
    #[serde(flatten)]
    pub found: Found,
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Found {
    /// What was asked for.
    Remembered(Remembered),
    /// Why not, in the form of refused twin updates.
    Refused {
        /// As in HTTP.
        code: u16,
        /// In words.
        reason: String,
    },
}

impl HistoryAnswer {
    /// The payload.
    pub fn to_json(&self) -> String {
        // Strings and integers only: nothing in it can fail to serialise.
        serde_json::to_string(self).unwrap_or_default()
    }
}
