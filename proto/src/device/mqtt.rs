//! MQTT topics of devices, `$hw/events/…` (spec 03 §3, §4): read segment by segment, so that no name is special.
//!
//! A device is `<namespace>/<name>`. Clients made for edges up to v1.16.1 write the name alone, and are answered so.

use super::DeviceId;
use crate::ids::NodeName;

const DEVICE: &str = "$hw/events/device/";
const NODE: &str = "$hw/events/node/";

/// What a client of the broker asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeviceRequest {
    /// `device/<id>/twin/update`.
    TwinUpdate(DeviceId),
    /// `device/<id>/twin/get`.
    TwinGet(DeviceId),
    /// `device/<id>/twin/cloud_updated`: a client that claims to be the cloud.
    CloudUpdated(DeviceId),
    /// `device/<id>/state/update`.
    StateUpdate(DeviceId),
    /// `node/<any>/membership/get`.
    MembershipGet,
}

/// What is published about a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceEvent {
    /// `twin/update/result`: the answer to an update.
    TwinUpdateResult,
    /// `twin/update/document`: what changed, before and after.
    TwinUpdateDocument,
    /// `twin/update/delta`: what is wanted and not so.
    TwinUpdateDelta,
    /// `twin/get/result`: the answer to a question.
    TwinGetResult,
    /// `state/update/result`: the answer to a state.
    StateUpdateResult,
    /// `updated`: attributes changed.
    Updated,
}

/// What is published about the devices of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MembershipEvent {
    /// `membership/updated`: a device came or went.
    Updated,
    /// `membership/get/result`: the answer to a question.
    GetResult,
}

impl DeviceRequest {
    /// Reads a topic; `None` for all others.
    pub fn parse(topic: &str) -> Option<Self> {
        if let Some(rest) = topic.strip_prefix(NODE) {
            let (node, what) = rest.split_once('/')?;
            return (!node.is_empty() && what == "membership/get").then_some(Self::MembershipGet);
        }
        let mut segments = topic.strip_prefix(DEVICE)?.rsplitn(3, '/');
        let (verb, part, id) = (segments.next()?, segments.next()?, segments.next()?);
        let device = DeviceId::parse(id)?;
        match (part, verb) {
            ("twin", "update") => Some(Self::TwinUpdate(device)),
            ("twin", "get") => Some(Self::TwinGet(device)),
            ("twin", "cloud_updated") => Some(Self::CloudUpdated(device)),
            ("state", "update") => Some(Self::StateUpdate(device)),
            _ => None,
        }
    }
}

impl DeviceEvent {
    /// Its topic.
    pub fn topic(self, device: &DeviceId) -> String {
        let end = match self {
            Self::TwinUpdateResult => "twin/update/result",
            Self::TwinUpdateDocument => "twin/update/document",
            Self::TwinUpdateDelta => "twin/update/delta",
            Self::TwinGetResult => "twin/get/result",
            Self::StateUpdateResult => "state/update/result",
            Self::Updated => "updated",
        };
        format!("{DEVICE}{device}/{end}")
    }
}

impl MembershipEvent {
    /// Its topic.
    pub fn topic(self, node: &NodeName) -> String {
        let end = match self {
            Self::Updated => "membership/updated",
            Self::GetResult => "membership/get/result",
        };
        format!("{NODE}{node}/{end}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_special() {
        for (namespace, name) in [
            ("e", "events"),
            ("device", "device"),
            ("twin", "update"),
            ("events", "$hw"),
            ("", "twin"),
        ] {
            let device = DeviceId::new(namespace, name);
            assert_eq!(
                DeviceRequest::parse(&format!("$hw/events/device/{device}/twin/update")),
                Some(DeviceRequest::TwinUpdate(device))
            );
        }
        for node in ["node", "edge-go", "$hw"] {
            let topic = format!("$hw/events/node/{node}/membership/get");
            assert_eq!(DeviceRequest::parse(&topic), Some(DeviceRequest::MembershipGet));
        }
    }

    #[test]
    fn other_topics_are_nothing() {
        for topic in [
            "",
            "$hw/events/device/",
            "$hw/events/device/twin/update",
            "$hw/events/device//twin/update",
            "$hw/events/device///twin/update",
            "$hw/events/device/a/b/c/twin/update",
            "$hw/events/device/a/b/twin/update/result",
            "$hw/events/device/a/b/state/get",
            "$hw/events/node//membership/get",
            "$hw/events/node/a/b/membership/get",
            "hw/events/device/a/b/twin/update",
        ] {
            assert_eq!(DeviceRequest::parse(topic), None, "{topic}");
        }
    }
}
