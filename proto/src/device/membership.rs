//! Which devices a node has (spec 03 §2.1, §2.3, §3.4).

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::BadPayload;
use super::fields::Fields;
use super::twin::{TwinMap, as_type, twins};

/// Attributes by their name; `None` tells of a deletion.
pub type AttributeMap = BTreeMap<String, Option<Attribute>>;

/// An attribute of a device: no cloud since v1.13 sends any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Attribute {
    /// Its value.
    pub value: String,
    /// Whether it may be deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
    /// `metadata.type`.
    #[serde(
        rename = "metadata",
        skip_serializing_if = "Option::is_none",
        serialize_with = "as_type"
    )]
    pub kind: Option<String>,
}

/// One device of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Member {
    /// `<namespace>/<name>`; a name alone before v1.16.
    pub id: String,
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Of the label `description`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Its state, in answers of the edge.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// When it was last seen, in answers of the edge.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_online: String,
    /// What else is known of it, by name.
    #[serde(skip_serializing_if = "AttributeMap::is_empty")]
    pub attributes: AttributeMap,
    /// Its twins. For a device that a Go edge knows an absent map makes it publish a spurious error: give an empty one (spec 03 §2.3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub twin: Option<TwinMap>,
}

/// `membership`: devices that came or went. An absent list is `null`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MembershipUpdate {
    /// Chosen by the sender.
    pub event_id: String,
    /// Unix time in milliseconds.
    pub timestamp: i64,
    /// New ones.
    pub added_devices: Option<Vec<Member>>,
    /// Removed ones.
    pub removed_devices: Option<Vec<Member>>,
}

/// `membership/detail` downwards and `membership/get/result`: all devices of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MembershipDetail {
    /// Chosen by the sender.
    pub event_id: String,
    /// Unix time in milliseconds.
    pub timestamp: i64,
    /// All of them.
    pub devices: Vec<Member>,
}

impl MembershipUpdate {
    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self, BadPayload> {
        let mut fields = Fields::parse(payload)?;
        Ok(Self {
            event_id: fields.text("event_id")?.unwrap_or_default(),
            timestamp: fields.integer("timestamp")?.unwrap_or_default(),
            added_devices: members(&mut fields, "added_devices")?,
            removed_devices: members(&mut fields, "removed_devices")?,
        })
    }

    /// The payload.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl MembershipDetail {
    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self, BadPayload> {
        let mut fields = Fields::parse(payload)?;
        Ok(Self {
            event_id: fields.text("event_id")?.unwrap_or_default(),
            timestamp: fields.integer("timestamp")?.unwrap_or_default(),
            devices: members(&mut fields, "devices")?.unwrap_or_default(),
        })
    }

    /// The payload.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn members(fields: &mut Fields, key: &'static str) -> Result<Option<Vec<Member>>, BadPayload> {
    let list = fields.list(key)?;
    list.map(|list| list.into_iter().map(member).collect()).transpose()
}

fn member(value: Value) -> Result<Member, BadPayload> {
    let mut fields = Fields::of("device", value)?;
    Ok(Member {
        id: fields.text("id")?.unwrap_or_default(),
        name: fields.text("name")?.unwrap_or_default(),
        description: fields.text("description")?.unwrap_or_default(),
        state: fields.text("state")?.unwrap_or_default(),
        last_online: fields.text("last_online")?.unwrap_or_default(),
        attributes: fields
            .object("attributes")?
            .map(attributes)
            .transpose()?
            .unwrap_or_default(),
        twin: fields.object("twin")?.map(twins).transpose()?,
    })
}

fn attributes(fields: Fields) -> Result<AttributeMap, BadPayload> {
    let read = |value| {
        let mut fields = Fields::of("attribute", value)?;
        let kind = fields
            .object("metadata")?
            .map(|mut meta| meta.text("type"))
            .transpose()?;
        Ok(Attribute {
            value: fields.text("value")?.unwrap_or_default(),
            optional: fields.boolean("optional")?,
            kind: kind.flatten(),
        })
    };
    let mut attributes = AttributeMap::new();
    for (name, value) in fields.entries() {
        let attribute = if value.is_null() { None } else { Some(read(value)?) };
        attributes.insert(name, attribute);
    }
    Ok(attributes)
}
