//! Which devices this node has (spec 03 §3.4).
//!
//! A membership message makes and removes devices; so does a `device` object, because Go clouds lose membership messages. The edge asks
//! for all of them after each connect; only our own clouds answer with a list.

use std::time::Duration;

use common::order;
use proto::device::{
    Attribute, AttributeMap, AttributeUpdate, DeviceEvent, DeviceId, GetRequest, Member, MembershipDetail,
    MembershipEvent, MembershipQuestion, MembershipUpdate, Twin, event_id_of,
};
use proto::{Content, Group, Message, Operation, Route, Source};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::device::{DELETED, Device};
use super::reports::Outcome;
use super::value;
use super::{Following, MAX_DEVICES, Machine, News, Now, Publication, new_event};

/// The number of the question among messages.
pub(super) const QUESTION: u64 = u64::MAX;
/// When an unanswered question is asked again, in turn: Go clouds never answer it.
const AGAIN: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(300)];

/// A device of which an object is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::devicetwin) struct Known {
    pub(in crate::devicetwin) id: DeviceId,
    pub(in crate::devicetwin) uid: String,
    /// The label `description`.
    pub(in crate::devicetwin) description: String,
}

/// `membership/detail`, asked after each connect.
#[derive(Debug, Default)]
pub(super) struct Question {
    due: Option<Instant>,
    asked: usize,
}

impl Question {
    pub(super) fn link(&mut self, up: bool, now: Instant) {
        self.due = up.then_some(now);
        self.asked = 0;
    }

    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        self.due.take_if(|due| *due <= now).is_some()
    }

    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn answered(&mut self, outcome: Outcome, now: Instant) {
        if outcome == Outcome::Unanswered {
            self.due = AGAIN.get(self.asked).map(|delay| now + *delay);
            self.asked += 1;
        }
    }
}

impl Machine {
    pub(super) fn membership_question(&self, now: Now) -> Message {
        let question = MembershipQuestion::new(new_event(), self.node.clone(), now.millis);
        Message::new(
            Source::Twin,
            Group::Resource,
            Operation::Get,
            Route::MembershipDetail,
            Content::text(&question.to_json()),
        )
    }

    /// Devices came or went.
    pub(super) fn members(&mut self, update: MembershipUpdate, now: Now) {
        for member in update.added_devices.unwrap_or_default() {
            self.add(member, now);
        }
        for member in update.removed_devices.unwrap_or_default() {
            match DeviceId::parse(&member.id) {
                Some(id) => self.remove(&id, now),
                None => warn!(device = member.id, "cloudcore removes a device whose id cannot be read"),
            }
        }
    }

    /// These are all. What has its object here stays until that is removed: the list may be older.
    pub(super) fn all_members(&mut self, detail: MembershipDetail, now: Now) {
        let listed = detail.devices.iter();
        let listed = order::set(listed.filter_map(|member| DeviceId::parse(&member.id)));
        for member in detail.devices {
            self.add(member, now);
        }
        let gone: Vec<DeviceId> = self
            .devices
            .keys()
            .filter(|id| !listed.contains(id) && !self.objects.contains(id))
            .cloned()
            .collect();
        for id in gone {
            self.remove(&id, now);
        }
        self.staged.listed = true;
    }

    /// A `device` object is stored. With another uid it is another device, although nobody saw the former one go: of what changed in one
    /// transaction only the end is seen.
    pub(super) fn stored(&mut self, known: Known, now: Now) {
        let Known { id, uid, description } = known;
        self.objects.insert(id.clone());
        let before = self.device(&id).map_or("", |device| device.uid.as_str());
        if !before.is_empty() && !uid.is_empty() && before != uid {
            self.remove(&id, now);
        }
        if self.device(&id).is_none() {
            let member = Member {
                id: id.to_string(),
                name: id.name.to_string(),
                description,
                ..Member::default()
            };
            self.add(member, now);
        }
        // The uid may still be missing: the device is new, came with a message of the cloud, or was stored by a Go edgecore, which keeps no
        // uids.
        let is_learnt = |device: &Device| !uid.is_empty() && device.uid != uid;
        if self.device(&id).is_some_and(is_learnt) {
            self.stage(&id).learn(uid);
        }
    }

    /// A `device` object is gone.
    pub(super) fn gone(&mut self, id: &DeviceId, now: Now) {
        self.objects.remove(id);
        self.remove(id, now);
    }

    /// What was stored is lost: nothing is gone because it is not there.
    pub(in crate::devicetwin) fn objects_lost(&mut self) {
        self.objects.clear();
    }

    /// These objects are stored, and no others; whose is damaged stays what it is until the cloud sends it again.
    pub(super) fn objects(&mut self, objects: Vec<Known>, damaged: Vec<DeviceId>, now: Now) {
        let mut before = std::mem::take(&mut self.objects);
        self.objects.extend(damaged.into_iter().filter(|id| before.remove(id)));
        for known in objects {
            before.remove(&known.id);
            self.stored(known, now);
        }
        for id in before {
            self.remove(&id, now);
        }
    }

    pub(super) fn membership_get(&mut self, payload: &[u8], now: Now) {
        let topic = MembershipEvent::GetResult.topic(&self.node);
        let event_id = match GetRequest::parse(payload) {
            Ok(request) => request.event_id,
            Err(error) => {
                let reason = format!("Unmarshal get membership info failed, err: {error}");
                return self.refuse(topic, event_id_of(payload), 400, &reason, now);
            }
        };
        let staged = self.staged.devices.keys().filter(|id| !self.devices.contains_key(id));
        let all = self.devices.keys().chain(staged);
        let detail = MembershipDetail {
            event_id: event_id.clone(),
            timestamp: now.millis,
            devices: all.filter_map(|id| Some(self.device(id)?.member(id))).collect(),
        };
        self.staged.outcomes.push(Following {
            publications: vec![Publication {
                topic: topic.clone(),
                payload: detail.to_json().into(),
            }],
            news: Vec::new(),
            failure: Some((topic, event_id)),
        });
    }

    fn add(&mut self, member: Member, now: Now) {
        let Some(id) = DeviceId::parse(&member.id) else {
            warn!(device = member.id, "cloudcore adds a device whose id cannot be read");
            return;
        };
        let is_new = self.device(&id).is_none();
        if is_new {
            if self.devices.len() + self.staged.devices.len() >= MAX_DEVICES {
                warn!(device = %id, limit = MAX_DEVICES, "this node has too many devices, one more is ignored");
                return;
            }
            info!(device = %id, "device added");
            self.stage(&id).insert(Device::of(&member));
        }
        // In Go both come before the news of the device.
        if let Some(twins) = &member.twin
            && !twins.is_empty()
        {
            self.sync(&id, String::new(), twins, now);
        }
        self.attributes(&id, &member, now);
        if is_new {
            let added = Member {
                twin: member.twin.filter(|twins| !twins.is_empty()).map(|twins| {
                    let told = twins
                        .into_iter()
                        .map(|(name, twin)| (name, twin.and_then(without_versions)));
                    order::map(told)
                }),
                ..member
            };
            self.tell_members(Some(added), None, now);
        }
    }

    fn remove(&mut self, id: &DeviceId, now: Now) {
        let Some(device) = self.device(id) else {
            debug!(device = %id, "a device that is not here was removed");
            return;
        };
        let member = Member {
            id: id.to_string(),
            name: device.name.clone(),
            ..Member::default()
        };
        info!(device = %id, "device removed");
        self.stage(id).remove();
        self.tell_members(None, Some(member), now);
        self.staged.outcomes.push(Following {
            news: vec![News::Removed(id.clone())],
            ..Following::default()
        });
    }

    /// The cloud's attributes, all of them. No cloud since v1.13 sends any.
    fn attributes(&mut self, id: &DeviceId, member: &Member, now: Now) {
        let given = member.attributes.iter();
        let given =
            order::map(given.filter_map(|(name, attribute)| Some((name.clone(), complete(attribute.clone()?)))));
        if self.device(id).is_none_or(|device| device.attributes == given) {
            return;
        }
        let stage = self.stage(id);
        let Some(device) = stage.device.as_mut() else { return };
        let gone = device.attributes.keys().filter(|name| !given.contains_key(*name));
        let mut changed: AttributeMap = order::map(gone.map(|name| (name.clone(), None)));
        let new = given
            .iter()
            .filter(|(name, attribute)| device.attributes.get(*name) != Some(attribute));
        changed.extend(new.map(|(name, attribute)| (name.clone(), Some(attribute.clone()))));
        device.attributes = given;
        stage.attributes = true;
        let update = AttributeUpdate {
            event_id: String::new(),
            timestamp: now.millis,
            attributes: changed,
        };
        self.staged.outcomes.push(Following {
            publications: vec![Publication {
                topic: DeviceEvent::Updated.topic(id),
                payload: update.to_json().into(),
            }],
            ..Following::default()
        });
    }

    fn tell_members(&mut self, added: Option<Member>, removed: Option<Member>, now: Now) {
        let update = MembershipUpdate {
            event_id: new_event(),
            timestamp: now.millis,
            added_devices: added.map(|member| vec![member]),
            removed_devices: removed.map(|member| vec![member]),
        };
        self.staged.outcomes.push(Following {
            publications: vec![Publication {
                topic: MembershipEvent::Updated.topic(&self.node),
                payload: update.to_json().into(),
            }],
            ..Following::default()
        });
    }
}

/// As clients see it; `None` for one that is deleted.
fn without_versions(twin: Twin) -> Option<Twin> {
    (twin.kind.as_deref() != Some(DELETED)).then_some(Twin {
        expected_version: None,
        actual_version: None,
        ..twin
    })
}

/// An attribute with what its row says where nothing was given.
fn complete(attribute: Attribute) -> Attribute {
    Attribute {
        optional: attribute.optional.or(Some(true)),
        kind: Some(attribute.kind.unwrap_or_else(|| value::DEFAULT_KIND.to_owned())),
        ..attribute
    }
}
