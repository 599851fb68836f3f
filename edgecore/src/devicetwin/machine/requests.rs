//! What clients of the broker and mappers ask (spec 03 §3.3, §3.5).

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use proto::device::{
    DeviceEvent, DeviceId, DeviceRequest, GetRequest, StateUpdate, TwinChange, TwinDelta, TwinDocument, TwinMap,
    TwinUpdate, event_id_of,
};

use super::device::Device;
use super::twin::{self, Changes, Context};
use super::value::{self, BadValue};
use super::{Following, MAX_MEMORY, Machine, Now, Publication, new_event, refusal};
use crate::devicetwin::{Accepted, News};

const UNREADABLE: &str = "Unmarshal update request body failed, please check the request";
const NO_TWIN: &str = "Update twin error, key:twin does not exist";
const UNKNOWN: &str = "update rejected due to the device is not existed";
const NOT_THE_CLOUD: &str = "twin/cloud_updated is for the cloud, please publish on twin/update";
const NO_MEMORY: &str = "Update twin error, the devices of this node have too many values together";

/// States that are taken, in any case.
const STATES: [&str; 6] = ["online", "offline", "ok", "unknown", "unhealthy", "disconnected"];
/// Those of a device that is there.
const PRESENT: [&str; 2] = ["online", "ok"];

impl Machine {
    pub(super) fn mqtt(&mut self, topic: &str, payload: &[u8], now: Now) {
        match DeviceRequest::parse(topic) {
            Some(DeviceRequest::TwinUpdate(device)) => self.twin_update(&device, payload, now),
            Some(DeviceRequest::TwinGet(device)) => self.twin_get(&device, payload, now),
            Some(DeviceRequest::CloudUpdated(device)) => {
                let topic = DeviceEvent::TwinUpdateResult.topic(&device);
                self.refuse(topic, event_id_of(payload), 400, NOT_THE_CLOUD, now);
            }
            Some(DeviceRequest::StateUpdate(device)) => {
                // A state update that cannot be read gets no answer.
                if let Ok(update) = StateUpdate::parse_request(payload) {
                    self.state(&device, &update.state, now);
                }
            }
            Some(DeviceRequest::MembershipGet) => self.membership_get(payload, now),
            None => {}
        }
    }

    /// Values of a mapper: only a refusal shows who wrote them, and it shows on MQTT.
    pub(super) fn report(&mut self, device: &DeviceId, twins: &TwinMap, now: Now) {
        self.write(device, new_event(), twins, now);
    }

    pub(super) fn state(&mut self, address: &DeviceId, state: &str, now: Now) {
        let is = |known: &&'static str| known.eq_ignore_ascii_case(state);
        let Some(id) = self.resolve(address).filter(|_| STATES.iter().any(&is)) else {
            return;
        };
        let stage = self.stage(&id);
        let Some(device) = stage.device.as_mut() else { return };
        state.clone_into(&mut device.state);
        device.last_online = match PRESENT.iter().any(is) {
            true => rfc3339(now.millis),
            false => String::new(),
        };
        let payload = device.state_update(now.millis).to_json();
        stage.own = true;
        stage.report_state = true;
        self.staged.outcomes.push(Following {
            publications: vec![Publication {
                topic: DeviceEvent::StateUpdateResult.topic(address),
                payload: payload.into(),
            }],
            ..Following::default()
        });
    }

    pub(super) fn refuse(&mut self, topic: String, event_id: String, code: u16, reason: &str, now: Now) {
        self.staged.outcomes.push(Following {
            publications: vec![refusal(topic, event_id, code, reason, now)],
            ..Following::default()
        });
    }

    fn twin_update(&mut self, address: &DeviceId, payload: &[u8], now: Now) {
        let topic = DeviceEvent::TwinUpdateResult.topic(address);
        match TwinUpdate::parse(payload) {
            Err(_) => self.refuse(topic, event_id_of(payload), 400, UNREADABLE, now),
            Ok(TwinUpdate {
                event_id, twin: None, ..
            }) => self.refuse(topic, event_id, 400, NO_TWIN, now),
            Ok(TwinUpdate {
                event_id,
                twin: Some(twins),
                ..
            }) => self.write(address, event_id, &twins, now),
        }
    }

    fn write(&mut self, address: &DeviceId, event_id: String, twins: &TwinMap, now: Now) {
        let topic = DeviceEvent::TwinUpdateResult.topic(address);
        if let Err(error) = well_formed(twins) {
            return self.refuse(topic, event_id, 400, &error.to_string(), now);
        }
        let Some(id) = self.resolve(address) else {
            return self.refuse(topic, event_id, 404, UNKNOWN, now);
        };
        let is_full = self.memory >= MAX_MEMORY;
        let mut next_row = self.next_row;
        let stage = self.stage(&id);
        let Some(device) = stage.device.as_mut() else { return };
        if is_full && twins.keys().any(|name| !device.twins.contains_key(name)) {
            return self.refuse(topic, event_id, 400, NO_MEMORY, now);
        }
        let mut context = Context {
            millis: now.millis,
            next_row: &mut next_row,
        };
        let changes = match twin::write(device, twins, &mut context) {
            Ok(changes) => changes,
            Err(error) => return self.refuse(topic, event_id, 400, &error.to_string(), now),
        };
        let news = accepted(&id, device, &changes);
        let delta = device.delta();
        stage.twins.extend(changes.document.keys().cloned());
        for (name, sides) in &changes.report {
            let waiting = stage.report.entry(name.clone()).or_default();
            *waiting = waiting.and(*sides);
        }
        self.next_row = next_row;
        let result = TwinUpdate {
            event_id: event_id.clone(),
            timestamp: now.millis,
            twin: Some(changes.result),
        };
        let mut publications = vec![Publication {
            topic: topic.clone(),
            payload: result.to_json().into(),
        }];
        publications.extend(document(address, event_id.clone(), changes.document, now));
        publications.extend(delta.map(|delta| told_delta(address, delta, now)));
        self.staged.outcomes.push(Following {
            publications,
            news,
            failure: Some((topic, event_id)),
        });
    }

    fn twin_get(&mut self, address: &DeviceId, payload: &[u8], now: Now) {
        let topic = DeviceEvent::TwinGetResult.topic(address);
        let event_id = match GetRequest::parse(payload) {
            Ok(request) => request.event_id,
            Err(error) => {
                let reason = format!("Unmarshal twin info failed, err: {error}");
                return self.refuse(topic, event_id_of(payload), 400, &reason, now);
            }
        };
        let Some(device) = self.resolve(address).and_then(|id| self.device(&id)) else {
            let reason = format!("Device {address} not found while getting twin");
            return self.refuse(topic, event_id, 404, &reason, now);
        };
        let result = TwinUpdate {
            event_id: event_id.clone(),
            timestamp: now.millis,
            twin: Some(device.told()),
        };
        self.staged.outcomes.push(Following {
            publications: vec![Publication {
                topic: topic.clone(),
                payload: result.to_json().into(),
            }],
            news: Vec::new(),
            failure: Some((topic, event_id)),
        });
    }
}

impl Device {
    /// `state/update`, upwards and as result.
    pub(super) fn state_update(&self, millis: i64) -> StateUpdate {
        StateUpdate {
            event_id: new_event(),
            timestamp: millis,
            name: self.name.clone(),
            state: self.state.clone(),
            last_online_time: self.last_online.clone(),
        }
    }
}

/// What is looked at before the device is looked for.
fn well_formed(twins: &TwinMap) -> Result<(), BadValue> {
    for (name, twin) in twins {
        value::check_name(name)?;
        let Some(twin) = twin else { continue };
        for given in [&twin.expected, &twin.actual].into_iter().flatten() {
            given.value.as_deref().map_or(Ok(()), value::check_size)?;
        }
    }
    Ok(())
}

fn accepted(id: &DeviceId, device: &Device, changes: &Changes) -> Vec<News> {
    let accepted = changes.measured.iter().filter_map(|name| {
        let property = device.twins.get(name)?;
        Some(News::Value(Arc::new(Accepted {
            device: id.clone(),
            property: name.clone(),
            value: property.actual.value.clone()?,
            kind: property.kind.clone(),
            time: property.actual.timestamp?,
        })))
    });
    accepted.collect()
}

pub(super) fn document(
    address: &DeviceId,
    event_id: String,
    twin: BTreeMap<String, TwinChange>,
    now: Now,
) -> Option<Publication> {
    let document = TwinDocument {
        event_id,
        timestamp: now.millis,
        twin,
    };
    (!document.twin.is_empty()).then(|| Publication {
        topic: DeviceEvent::TwinUpdateDocument.topic(address),
        payload: document.to_json().into(),
    })
}

pub(super) fn told_delta(
    address: &DeviceId,
    (twin, delta): (TwinMap, BTreeMap<String, String>),
    now: Now,
) -> Publication {
    let delta = TwinDelta {
        event_id: new_event(),
        timestamp: now.millis,
        twin,
        delta,
    };
    Publication {
        topic: DeviceEvent::TwinUpdateDelta.topic(address),
        payload: delta.to_json().into(),
    }
}

/// As Go writes it: UTC, whole seconds.
fn rfc3339(millis: i64) -> String {
    Timestamp::from_second(millis.div_euclid(1000))
        .unwrap_or_default()
        .to_string()
}
