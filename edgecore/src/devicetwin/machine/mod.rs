//! The state machine: what comes in changes devices, what is stored is told. Without I/O; time is passed in.
//!
//! A batch of inputs is taken ([`Machine::take`]), its rows are stored by the caller, then it counts ([`Machine::commit`]) or nothing
//! of it does ([`Machine::abort`]): memory equals the disk in both cases.

mod cloud;
mod device;
mod membership;
mod reports;
mod requests;
mod staging;
#[cfg(test)]
mod tests;
mod twin;
mod value;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use common::order;
use proto::device::{
    DeviceEvent, DeviceId, DevicePart, DeviceRequest, DeviceTopic, MembershipEvent, Refusal, TwinMap, TwinUpdate,
    event_id_of,
};
use proto::{Content, Group, Message, MsgId, Namespace, NodeName, ObjectName, Operation, Source};
use tokio::time::Instant;

use super::rows::{Loaded, Row};
use super::{News, Publication};
use reports::{Reports, Told};
use staging::{Outcome as Following, Stage, Staged};

pub(super) use device::{Device, Half, Property};
pub(super) use membership::Known;
pub(super) use reports::{Outcome, Rates, STATE_MARK};

/// Devices of a node.
const MAX_DEVICES: usize = 10_000;
/// Names and values of all devices together.
const MAX_MEMORY: usize = 48 * 1024 * 1024;
/// Values in one message to the cloud; what is beyond goes with the next.
const MAX_REPORT: usize = 256 * 1024;

/// What comes in.
#[derive(Debug)]
pub(super) enum Input {
    /// A message of a client of the broker.
    Mqtt { topic: String, payload: Bytes },
    /// Values of a mapper.
    Report { device: DeviceId, twins: TwinMap },
    /// The state of a device, of a mapper.
    State { device: DeviceId, state: String },
    /// A message of the cloud.
    Cloud(Message),
    /// A `device` object is stored.
    Stored(Known),
    /// A `device` object is gone.
    Gone(DeviceId),
    /// All `device` objects that are stored, and whose are damaged.
    Objects(Vec<Known>, Vec<DeviceId>),
}

/// The time, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Of this process.
    pub(super) instant: Instant,
    /// Unix time in milliseconds.
    pub(super) millis: i64,
}

/// What follows from a batch.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// In order.
    pub(super) publications: Vec<Publication>,
    /// In order.
    pub(super) news: Vec<News>,
    /// Untold changes that were overtaken by newer ones.
    pub(super) coalesced: u64,
}

/// The devices of this node.
#[derive(Debug)]
pub(super) struct Machine {
    node: NodeName,
    devices: BTreeMap<DeviceId, Device>,
    /// Which namespaces have a device of a name, for clients that name no namespace.
    names: BTreeMap<ObjectName, BTreeSet<Namespace>>,
    /// Devices with an object here.
    objects: BTreeSet<DeviceId>,
    memory: usize,
    next_row: i64,
    staged: Staged,
    reports: Reports,
    question: membership::Question,
}

impl Machine {
    pub(super) fn new(node: NodeName, rates: Rates, now: Instant) -> Self {
        Self {
            node,
            devices: BTreeMap::new(),
            names: BTreeMap::new(),
            objects: BTreeSet::new(),
            memory: 0,
            next_row: 1,
            staged: Staged::default(),
            reports: Reports::new(rates, now),
            question: membership::Question::default(),
        }
    }

    /// What is on the disk.
    pub(super) fn load(&mut self, loaded: Loaded, now: Instant) {
        self.next_row = loaded.next_row;
        for (id, device) in loaded.devices {
            self.memory += device.size();
            self.names
                .entry(id.name.clone())
                .or_default()
                .insert(id.namespace.clone());
            self.devices.insert(id, device);
        }
        for (id, name) in loaded.marks {
            if self.devices.contains_key(&id) {
                self.reports.load(&id, name, now);
            }
        }
    }

    /// Works on an input. Nothing of it counts before [`Machine::commit`].
    pub(super) fn take(&mut self, input: Input, now: Now) {
        match input {
            Input::Mqtt { topic, payload } => self.mqtt(&topic, &payload, now),
            Input::Report { device, twins } => self.report(&device, &twins, now),
            Input::State { device, state } => self.state(&device, &state, now),
            Input::Cloud(message) => self.cloud(&message, now),
            Input::Stored(known) => self.stored(known, now),
            Input::Gone(device) => self.gone(&device, now),
            Input::Objects(objects, damaged) => self.objects(objects, damaged, now),
        }
    }

    /// The rows of the batch.
    pub(super) fn rows(&mut self, now: Instant) -> Vec<Row> {
        let mut rows = Vec::new();
        for (id, stage) in &self.staged.devices {
            stage.rows(id, |name| self.reports.is_marked(id, name), &mut rows);
        }
        self.staged.unmarked = self.reports.rested(now);
        self.staged.unmarked.retain(|(id, name)| {
            let stage = self.staged.devices.get(id);
            !stage.is_some_and(|stage| stage.report.contains_key(name) || (stage.report_state && name == STATE_MARK))
        });
        rows.extend(
            self.staged
                .unmarked
                .iter()
                .map(|(id, name)| Row::Unmark(id.clone(), name.clone())),
        );
        rows
    }

    /// The rows are stored: the batch counts.
    pub(super) fn commit(&mut self, now: Instant) -> Effects {
        let staged = std::mem::take(&mut self.staged);
        let mut effects = Effects::default();
        for (id, name) in &staged.unmarked {
            self.reports.unmarked(id, name);
        }
        for (id, stage) in staged.devices {
            effects.coalesced += self.settle(id, stage, now);
        }
        for outcome in staged.outcomes {
            effects.publications.extend(outcome.publications);
            effects.news.extend(outcome.news);
        }
        if staged.listed {
            let devices = self.devices.keys().cloned().collect();
            effects.news.push(News::Devices(devices));
        }
        effects
    }

    /// The rows could not be stored: everything is as before, and who asked is told.
    pub(super) fn abort(&mut self, reason: &str, now: Now) -> Effects {
        let staged = std::mem::take(&mut self.staged);
        let refusals = staged.outcomes.into_iter().filter_map(|outcome| outcome.failure);
        Effects {
            publications: refusals
                .map(|(topic, event_id)| refusal(topic, event_id, 500, reason, now))
                .collect(),
            ..Effects::default()
        }
    }

    /// The answer while the rows cannot be read; `None` where nobody waits for one.
    pub(super) fn unavailable(&self, input: &Input, reason: &str, now: Now) -> Option<Publication> {
        let Input::Mqtt { topic, payload } = input else {
            return None;
        };
        let topic = match DeviceRequest::parse(topic)? {
            DeviceRequest::TwinUpdate(device) | DeviceRequest::CloudUpdated(device) => {
                DeviceEvent::TwinUpdateResult.topic(&device)
            }
            DeviceRequest::TwinGet(device) => DeviceEvent::TwinGetResult.topic(&device),
            DeviceRequest::MembershipGet => MembershipEvent::GetResult.topic(&self.node),
            DeviceRequest::StateUpdate(_) => return None,
        };
        Some(refusal(topic, event_id_of(payload), 500, reason, now))
    }

    /// The link to the cloud came or went.
    pub(super) fn link(&mut self, up: bool, now: Instant) {
        self.reports.link(up, now);
        self.question.link(up, now);
    }

    /// The next message for the cloud, with the number that its outcome is told by; to be called until there is none.
    pub(super) fn outgoing(&mut self, now: Now) -> Option<(u64, Message)> {
        if self.question.is_due(now.instant) {
            return Some((membership::QUESTION, self.membership_question(now)));
        }
        loop {
            let (id, device, told) = self.reports.next(now.instant)?;
            match self.message(id, &device, told, now) {
                Some(message) => return Some((id, message)),
                // The device or its values are gone meanwhile: the report counts as confirmed.
                None => self.reports.answered(id, Outcome::Confirmed, now.instant),
            }
        }
    }

    /// What became of a message.
    pub(super) fn answered(&mut self, id: u64, outcome: Outcome, now: Instant) {
        if id == membership::QUESTION {
            self.question.answered(outcome, now);
        } else {
            self.reports.answered(id, outcome, now);
        }
    }

    /// When [`Machine::outgoing`] or [`Machine::rows`] have something next, if nothing comes in.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        [self.reports.deadline(now), self.question.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Since when the oldest unconfirmed change waits.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.reports.oldest()
    }

    /// How many devices there are.
    pub(super) fn len(&self) -> usize {
        self.devices.len()
    }

    /// All rows, for a database that was replaced.
    pub(super) fn all_rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (id, device) in &self.devices {
            let mut stage = Stage::of(device.clone());
            stage.own = true;
            stage.attributes = !device.attributes.is_empty();
            stage.twins = order::set(device.twins.keys().cloned());
            stage.rows(id, |_| true, &mut rows);
        }
        rows.extend(
            self.reports
                .marks()
                .map(|(id, name)| Row::Mark(id.clone(), name.to_owned())),
        );
        rows
    }

    /// A device as the batch so far leaves it.
    fn device(&self, id: &DeviceId) -> Option<&Device> {
        match self.staged.devices.get(id) {
            Some(stage) => stage.device.as_ref(),
            None => self.devices.get(id),
        }
    }

    /// The same, to be changed. A device that is not there has an empty stage.
    fn stage(&mut self, id: &DeviceId) -> &mut Stage {
        let known = self.devices.get(id);
        self.staged
            .devices
            .entry(id.clone())
            .or_insert_with(|| known.cloned().map(Stage::of).unwrap_or_default())
    }

    /// Which device is meant: a name alone stands for the only device of that name.
    fn resolve(&self, address: &DeviceId) -> Option<DeviceId> {
        if self.device(address).is_some() {
            return Some(address.clone());
        }
        if !address.namespace.is_empty() {
            return None;
        }
        let namespaces = self.names.get(&address.name)?;
        let mut found = namespaces
            .iter()
            .map(|namespace| DeviceId::new(namespace.clone(), address.name.clone()))
            .filter(|id| self.device(id).is_some());
        found.next().filter(|_| found.next().is_none())
    }

    fn settle(&mut self, id: DeviceId, stage: Stage, now: Instant) -> u64 {
        if stage.was_removed() {
            self.reports.forget(&id);
        }
        let before = self.devices.remove(&id);
        self.memory -= before.as_ref().map_or(0, Device::size);
        let Some(device) = stage.device else {
            if let Some(namespaces) = self.names.get_mut(&id.name) {
                namespaces.remove(&id.namespace);
                if namespaces.is_empty() {
                    self.names.remove(&id.name);
                }
            }
            return 0;
        };
        self.memory += device.size();
        if before.is_none() {
            self.names
                .entry(id.name.clone())
                .or_default()
                .insert(id.namespace.clone());
        }
        self.devices.insert(id.clone(), device);
        let mut coalesced = 0;
        for (name, sides) in stage.report {
            coalesced += u64::from(self.reports.twin(&id, &name, sides, now));
        }
        if stage.report_state {
            coalesced += u64::from(self.reports.state(&id, now));
        }
        coalesced
    }

    /// The newest values of what is to be told; `None` when none of it is there.
    fn message(&mut self, id: u64, device_id: &DeviceId, told: Told, now: Now) -> Option<Message> {
        let device = self.devices.get(device_id)?;
        let (part, content) = match told {
            Told::State => (
                DevicePart::State,
                Content::text(&device.state_update(now.millis).to_json()),
            ),
            Told::Twins(names) => {
                let (mut twin, mut left, mut size) = (TwinMap::new(), BTreeMap::new(), 0);
                for (name, sides) in names {
                    let Some(property) = device.twins.get(&name) else {
                        continue;
                    };
                    if size > 0 && size + property.size() > MAX_REPORT {
                        left.insert(name, sides);
                        continue;
                    }
                    size += property.size();
                    twin.insert(name, Some(property.reported(sides)));
                }
                if !left.is_empty() {
                    self.reports.keep(id, left);
                }
                if twin.is_empty() {
                    return None;
                }
                let update = TwinUpdate {
                    event_id: new_event(),
                    timestamp: now.millis,
                    twin: Some(twin),
                };
                (DevicePart::Twin, Content::json(&update))
            }
        };
        let topic = DeviceTopic {
            device: device_id.clone(),
            part,
        };
        Some(Message::new(
            Source::Twin,
            Group::Resource,
            Operation::Update,
            topic.route(),
            content,
        ))
    }
}

/// A new event id.
fn new_event() -> String {
    MsgId::random().to_string()
}

fn refusal(topic: String, event_id: String, code: u16, reason: &str, now: Now) -> Publication {
    let refusal = Refusal {
        event_id,
        timestamp: now.millis,
        code,
        reason: reason.to_owned(),
    };
    Publication {
        topic,
        payload: refusal.to_json().into(),
    }
}
