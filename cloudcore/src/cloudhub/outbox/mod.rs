//! The messages that wait for one connected node, as a state machine without I/O: messages, acknowledgements and the time go in,
//! frames come out. Notices that are signs of life have a queue of their own and overtake all others ([`proto::Lane`]).
//!
//! Objects have one slot each, by uid: what is newer replaces what was not sent yet, a deletion is not replaced by anything that
//! lives, and at most one message of an object is unacknowledged at a time, because a Go edge may swap two (spec 01 §5.6). At most
//! [`WINDOW`] objects are unacknowledged at once, since a Go edge's queue holds 100 and drops the oldest. An unacknowledged message
//! is sent again with the same id 5, 10, 15 and 20 s later, then rests for a growing time that holds up no other object. Answers
//! have a lane of their own and are given up after one such cycle. What needs no acknowledgement is sent once.

mod class;
#[cfg(test)]
mod simulator;
mod slots;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use proto::{Message, MsgId, Uid};
use tokio::time::Instant;

pub(super) use class::{Class, Lane, Rank, lane};
use slots::Slot;

use super::metrics::Metrics;
use super::records::ObjectRef;

/// Objects that may be unacknowledged at once.
const WINDOW: usize = 32;

/// Answers that may wait; one more and the oldest goes, whose requester is nearest to its time-out.
const ANSWERS: usize = 256;

/// Messages without acknowledgement that may wait; one more and the oldest goes.
const NOTICES: usize = 1024;

/// How long an acknowledgement may take before the message is sent again.
const RESEND: Duration = Duration::from_secs(5);

/// How often a message is sent in one cycle.
const SENDS: u8 = 5;

/// See the module.
pub(super) struct Outbox {
    metrics: Arc<Metrics>,
    /// Notices that overtake everything else.
    urgent: VecDeque<(Instant, Message)>,
    notices: VecDeque<(Instant, Message)>,
    answers: HashMap<MsgId, Answer>,
    slots: HashMap<Uid, Slot>,
    /// The objects of messages that were sent and not acknowledged, resting ones too.
    sent: HashMap<MsgId, Uid>,
    /// Answers to be sent for the first time.
    new_answers: VecDeque<MsgId>,
    /// Messages to be sent again.
    again: VecDeque<MsgId>,
    /// Objects whose slot may have something to send.
    ready: VecDeque<Uid>,
    timers: BTreeSet<(Instant, MsgId)>,
    /// Objects that wait for an acknowledgement and do not rest.
    unacked: usize,
    late: VecDeque<(MsgId, ObjectRef, String, Rank)>,
}

/// An object was acknowledged.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Delivered {
    pub(super) object: ObjectRef,
    pub(super) version: String,
    pub(super) deleted: bool,
}

struct Answer {
    message: Message,
    object: Option<ObjectRef>,
    since: Instant,
    sends: u8,
    due: Option<Instant>,
}

impl Outbox {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            urgent: VecDeque::new(),
            notices: VecDeque::new(),
            answers: HashMap::new(),
            slots: HashMap::new(),
            sent: HashMap::new(),
            new_answers: VecDeque::new(),
            again: VecDeque::new(),
            ready: VecDeque::new(),
            timers: BTreeSet::new(),
            unacked: 0,
            late: VecDeque::new(),
        }
    }

    /// Takes a message. `recorded` is the version of the object that the node is known to have.
    pub(super) fn offer(&mut self, now: Instant, message: Message, lane: Lane, recorded: Option<&str>) {
        match lane {
            Lane::Notice => {
                let queue = match message.lane() {
                    proto::Lane::Urgent => &mut self.urgent,
                    proto::Lane::Bulk => &mut self.notices,
                };
                if queue.len() >= NOTICES {
                    queue.pop_front();
                    self.metrics.dropped(Class::Notice);
                }
                queue.push_back((now, message));
            }
            Lane::Answer(object) => self.offer_answer(now, message, object),
            Lane::State(object, state) => self.offer_state(now, message, object, state, recorded),
        }
    }

    fn offer_answer(&mut self, now: Instant, message: Message, object: Option<ObjectRef>) {
        if self.answers.len() >= ANSWERS {
            let oldest = self
                .answers
                .iter()
                .min_by_key(|(_, answer)| answer.since)
                .map(|(id, _)| id.clone());
            if let Some(id) = oldest {
                self.forget_answer(&id);
                self.metrics.dropped(Class::Answer);
            }
        }
        self.new_answers.push_back(message.id.clone());
        self.answers.insert(
            message.id.clone(),
            Answer {
                message,
                object,
                since: now,
                sends: 0,
                due: None,
            },
        );
    }

    /// The next message that goes ahead of all others, if there is any.
    pub(super) fn poll_urgent(&mut self) -> Option<String> {
        let (_, message) = self.urgent.pop_front()?;
        self.metrics.sent(Class::Notice);
        if self.urgent.is_empty() {
            self.urgent = VecDeque::new();
        }
        Some(message.encode())
    }

    /// The next of the other messages to write, if any may be written now.
    pub(super) fn poll_send(&mut self, now: Instant) -> Option<String> {
        if let Some((_, message)) = self.notices.pop_front() {
            self.metrics.sent(Class::Notice);
            if self.notices.is_empty() {
                self.notices = VecDeque::new();
            }
            return Some(message.encode());
        }
        while let Some(id) = self.new_answers.pop_front() {
            if let Some(frame) = self.send_answer(&id, now) {
                return Some(frame);
            }
        }
        while let Some(id) = self.again.pop_front() {
            if let Some(frame) = self.send_again(&id, now) {
                return Some(frame);
            }
        }
        while self.unacked < WINDOW {
            let uid = self.ready.pop_front()?;
            if let Some(frame) = self.send_state(&uid, now) {
                return Some(frame);
            }
        }
        None
    }

    /// An acknowledgement came. Returns what is to be recorded; unknown ids are ignored.
    pub(super) fn on_ack(&mut self, now: Instant, id: &MsgId) -> Option<Delivered> {
        if let Some(answer) = self.forget_answer(id) {
            self.metrics.acked(Class::Answer);
            let object = answer.object?;
            return Some(Delivered {
                object,
                version: answer.message.version,
                deleted: false,
            });
        }
        if let Some(uid) = self.sent.get(id).cloned() {
            return self.ack_object(now, id, uid);
        }
        let position = self.late.iter().position(|(late, ..)| late == id)?;
        let (_, object, version, rank) = self.late.remove(position)?;
        self.metrics.acked(Class::State);
        Some(Delivered {
            object,
            version,
            deleted: rank == Rank::Deleted,
        })
    }

    /// When [`Outbox::on_time`] has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Time has passed: what was not acknowledged is sent again, replaced by what is newer, or rests.
    pub(super) fn on_time(&mut self, now: Instant) {
        while let Some((due, _)) = self.timers.first()
            && *due <= now
        {
            let Some((_, id)) = self.timers.pop_first() else { return };
            if let Some(answer) = self.answers.get_mut(&id) {
                answer.due = None;
                if answer.sends >= SENDS {
                    self.answers.remove(&id);
                    self.metrics.dropped(Class::Answer);
                } else {
                    self.again.push_back(id);
                }
            } else {
                self.object_due(now, id);
            }
        }
    }

    /// Since when the oldest message of the class waits.
    pub(super) fn oldest(&self, class: Class) -> Option<Instant> {
        match class {
            Class::Notice => {
                let fronts = [self.urgent.front(), self.notices.front()];
                fronts.into_iter().flatten().map(|(since, _)| *since).min()
            }
            Class::Answer => self.answers.values().map(|answer| answer.since).min(),
            Class::State => self.slots.values().filter_map(Slot::since).min(),
        }
    }

    fn send_answer(&mut self, id: &MsgId, now: Instant) -> Option<String> {
        let answer = self.answers.get_mut(id)?;
        answer.sends += 1;
        answer.due = Some(now + RESEND);
        self.timers.insert((now + RESEND, id.clone()));
        if answer.sends == 1 {
            self.metrics.sent(Class::Answer);
        } else {
            self.metrics.retried(Class::Answer);
        }
        Some(answer.message.encode())
    }

    fn send_again(&mut self, id: &MsgId, now: Instant) -> Option<String> {
        if self.answers.contains_key(id) {
            return self.send_answer(id, now);
        }
        self.send_state_again(id, now)
    }

    fn forget_answer(&mut self, id: &MsgId) -> Option<Answer> {
        let answer = self.answers.remove(id)?;
        if let Some(due) = answer.due {
            self.timers.remove(&(due, id.clone()));
        }
        if self.answers.is_empty() {
            self.answers = HashMap::new();
            self.new_answers = VecDeque::new();
        }
        Some(answer)
    }

    /// Most nodes are idle most of the time: an empty outbox holds no memory.
    fn shrink(&mut self) {
        if self.slots.is_empty() {
            self.slots = HashMap::new();
            self.sent = HashMap::new();
            self.ready = VecDeque::new();
            if self.answers.is_empty() {
                self.again = VecDeque::new();
            }
        }
    }
}
