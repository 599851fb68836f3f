//! Whether a device is there (spec 03 §3.5, §2.4).

use serde::Serialize;

use super::BadPayload;
use super::fields::Fields;

/// `state/update` upwards and `state/update/result`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateUpdate {
    /// Chosen by the sender.
    pub event_id: String,
    /// Unix time in milliseconds.
    pub timestamp: i64,
    /// The name of the device.
    pub name: String,
    /// `online`, `offline`, `ok`, `unknown`, `unhealthy`, in any case, as it was reported.
    pub state: String,
    /// RFC 3339; empty unless the state says that the device is there. Edges up to v1.17 call it `last_online`.
    pub last_online_time: String,
}

impl StateUpdate {
    /// Reads what an edge sends: the state is in `device`.
    pub fn parse(payload: &[u8]) -> Result<Self, BadPayload> {
        let mut fields = Fields::parse(payload)?;
        let (event_id, timestamp) = (fields.text("event_id")?, fields.integer("timestamp")?);
        let mut device = fields.object("device")?.ok_or(BadPayload::Type {
            key: "device",
            wanted: "an object",
        })?;
        let time = device.text("lastOnlineTime")?;
        Ok(Self {
            event_id: event_id.unwrap_or_default(),
            timestamp: timestamp.unwrap_or_default(),
            name: device.text("name")?.unwrap_or_default(),
            state: device.text("state")?.unwrap_or_default(),
            last_online_time: time.or(device.text("last_online")?).unwrap_or_default(),
        })
    }

    /// Reads what is published on `state/update`: the state is at the top, the device in the topic.
    pub fn parse_request(payload: &[u8]) -> Result<Self, BadPayload> {
        let mut fields = Fields::parse(payload)?;
        Ok(Self {
            event_id: fields.text("event_id")?.unwrap_or_default(),
            timestamp: fields.integer("timestamp")?.unwrap_or_default(),
            state: fields.text("state")?.unwrap_or_default(),
            ..Self::default()
        })
    }

    /// The payload towards the cloud and of the result.
    pub fn to_json(&self) -> String {
        let wire = Wire {
            event_id: &self.event_id,
            timestamp: self.timestamp,
            device: WireDevice {
                name: &self.name,
                state: &self.state,
                last_online_time: &self.last_online_time,
            },
        };
        serde_json::to_string(&wire).unwrap_or_default()
    }
}

#[derive(Serialize)]
struct Wire<'a> {
    event_id: &'a str,
    timestamp: i64,
    device: WireDevice<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireDevice<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    state: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    last_online_time: &'a str,
}
