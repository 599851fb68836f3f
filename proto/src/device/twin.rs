//! Twins: the expected and the actual value of each property of a device (spec 03 §3.1, §3.3).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::BadPayload;
use super::fields::Fields;

/// Twins by the name of their property; `None` asks for a deletion (downwards) or tells of one (in answers).
pub type TwinMap = BTreeMap<String, Option<Twin>>;

/// A value with the time it was given, Go's `TwinValue`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TwinValue {
    /// The value as text; absent after a deletion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Unix time in milliseconds, `metadata.timestamp`.
    #[serde(
        rename = "metadata",
        skip_serializing_if = "Option::is_none",
        serialize_with = "as_timestamp"
    )]
    pub timestamp: Option<i64>,
}

/// How often a value changed in the cloud and at the edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TwinVersion {
    /// Changes by the cloud.
    pub cloud: i64,
    /// Changes at the edge.
    pub edge: i64,
}

/// One property, Go's `MsgTwin`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Twin {
    /// What is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<TwinValue>,
    /// What was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual: Option<TwinValue>,
    /// Whether it may be deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
    /// `metadata.type`: `string`, `int`, `integer`, `float`, `double`, `boolean`, `bytes`, `deleted`.
    #[serde(
        rename = "metadata",
        skip_serializing_if = "Option::is_none",
        serialize_with = "as_type"
    )]
    pub kind: Option<String>,
    /// Version of the expected value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_version: Option<TwinVersion>,
    /// Version of the actual value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_version: Option<TwinVersion>,
}

/// `twin/update`, `twin/edge_updated`, `twin/cloud_updated`, `twin/get`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TwinUpdate {
    /// Chosen by the sender.
    pub event_id: String,
    /// Unix time in milliseconds.
    pub timestamp: i64,
    /// The twins; `None` when the key is absent or null.
    pub twin: Option<TwinMap>,
}

impl TwinUpdate {
    /// Reads a payload; an absent event id is empty, an absent time 0.
    pub fn parse(payload: &[u8]) -> Result<Self, BadPayload> {
        let mut fields = Fields::parse(payload)?;
        Ok(Self {
            event_id: fields.text("event_id")?.unwrap_or_default(),
            timestamp: fields.integer("timestamp")?.unwrap_or_default(),
            twin: fields.object("twin")?.map(twins).transpose()?,
        })
    }

    /// The payload.
    pub fn to_json(&self) -> String {
        // Strings and integers only: nothing in it can fail to serialise.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Twin {
    fn read(value: Value) -> Result<Self, BadPayload> {
        let mut fields = Fields::of("twin", value)?;
        let kind = fields
            .object("metadata")?
            .map(|mut meta| meta.text("type"))
            .transpose()?;
        Ok(Self {
            expected: fields.object("expected")?.map(TwinValue::read).transpose()?,
            actual: fields.object("actual")?.map(TwinValue::read).transpose()?,
            optional: fields.boolean("optional")?,
            // Metadata without a type is the type's default (spec 03 §3.1: empty is `string`).
            kind: kind.map(Option::unwrap_or_default),
            expected_version: fields.object("expected_version")?.map(TwinVersion::read).transpose()?,
            actual_version: fields.object("actual_version")?.map(TwinVersion::read).transpose()?,
        })
    }
}

impl TwinValue {
    fn read(mut fields: Fields) -> Result<Self, BadPayload> {
        let timestamp = fields
            .object("metadata")?
            .map(|mut meta| meta.integer("timestamp"))
            .transpose()?;
        Ok(Self {
            value: fields.text("value")?,
            timestamp: timestamp.flatten(),
        })
    }
}

impl TwinVersion {
    fn read(mut fields: Fields) -> Result<Self, BadPayload> {
        Ok(Self {
            cloud: fields.integer("cloud")?.unwrap_or_default(),
            edge: fields.integer("edge")?.unwrap_or_default(),
        })
    }
}

pub(super) fn twins(fields: Fields) -> Result<TwinMap, BadPayload> {
    let mut twins = TwinMap::new();
    for (name, value) in fields.entries() {
        let twin = if value.is_null() {
            None
        } else {
            Some(Twin::read(value)?)
        };
        twins.insert(name, twin);
    }
    Ok(twins)
}

#[derive(Serialize)]
struct Timestamp {
    timestamp: i64,
}

#[derive(Serialize)]
struct Type<'a> {
    #[serde(rename = "type", skip_serializing_if = "str::is_empty")]
    kind: &'a str,
}

fn as_timestamp<S: serde::Serializer>(timestamp: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    timestamp.map(|timestamp| Timestamp { timestamp }).serialize(serializer)
}

pub(super) fn as_type<S: serde::Serializer>(kind: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    kind.as_deref().map(|kind| Type { kind }).serialize(serializer)
}
