//! The slots of objects: what is newer replaces what was not sent yet, and one message of an object is unacknowledged at a time.

use std::time::Duration;

use proto::{Message, MsgId, Uid};
use tokio::time::Instant;

use super::class::{Class, Rank, State};
use super::{Delivered, Outbox, RESEND, SENDS};
use crate::cloudhub::records::ObjectRef;

/// Given-up messages whose late acknowledgement still counts.
const LATE: usize = 32;

/// The longest rest between two cycles.
const MAX_REST: Duration = Duration::from_secs(320);

/// What is to be told of one object.
pub(super) struct Slot {
    object: ObjectRef,
    flight: Option<Flight>,
    waiting: Option<Waiting>,
    queued: bool,
}

struct Waiting {
    message: Message,
    state: State,
    since: Instant,
}

struct Flight {
    message: Message,
    state: State,
    since: Instant,
    sends: u8,
    cycles: u32,
    due: Option<Instant>,
    resting: bool,
    /// Copies that were sent and acknowledgements that came. A Go edge acknowledges each copy, and may still be busy with one when
    /// another is acknowledged: it would store that after what is newer.
    copies: u32,
    acks: u32,
}

impl Outbox {
    pub(super) fn offer_state(
        &mut self,
        now: Instant,
        message: Message,
        object: ObjectRef,
        state: State,
        recorded: Option<&str>,
    ) {
        let uid = object.uid.clone();
        if let Some(slot) = self.slots.get_mut(&uid) {
            let stored = slot
                .waiting
                .as_ref()
                .map(|waiting| waiting.state)
                .or_else(|| slot.flight.as_ref().map(|flight| flight.state));
            if stored.is_some_and(|stored| !replaces(state, stored)) {
                self.metrics.dropped(Class::State);
                return;
            }
            if !object.kind.is_empty() {
                slot.object = object;
            }
            slot.waiting = Some(Waiting {
                message,
                state,
                since: now,
            });
        } else {
            let recorded = recorded.and_then(|version| version.parse::<u64>().ok());
            if state.rank == Rank::Live
                && let (Some(version), Some(recorded)) = (state.version, recorded)
                && version <= recorded
            {
                self.metrics.dropped(Class::State);
                return;
            }
            let waiting = Some(Waiting {
                message,
                state,
                since: now,
            });
            self.slots.insert(
                uid.clone(),
                Slot {
                    object,
                    flight: None,
                    waiting,
                    queued: false,
                },
            );
        }
        let waits_for_ack = self
            .slots
            .get(&uid)
            .and_then(|slot| slot.flight.as_ref())
            .is_some_and(|flight| !flight.resting);
        if !waits_for_ack {
            self.queue(uid);
        }
    }

    pub(super) fn send_state(&mut self, uid: &Uid, now: Instant) -> Option<String> {
        let slot = self.slots.get_mut(uid)?;
        slot.queued = false;
        match &slot.flight {
            Some(flight) if !flight.resting => return None,
            Some(_) if slot.waiting.is_some() => self.supersede(uid),
            _ => {}
        }
        let slot = self.slots.get_mut(uid)?;
        if slot.flight.is_some() {
            self.metrics.retried(Class::State);
        } else {
            self.metrics.sent(Class::State);
        }
        let flight = match slot.flight.take() {
            Some(flight) => flight,
            None => {
                let Waiting { message, state, since } = slot.waiting.take()?;
                self.sent.insert(message.id.clone(), uid.clone());
                Flight {
                    message,
                    state,
                    since,
                    sends: 0,
                    cycles: 0,
                    due: None,
                    resting: true,
                    copies: 0,
                    acks: 0,
                }
            }
        };
        let flight = slot.flight.insert(flight);
        if let Some(due) = flight.due.replace(now + RESEND) {
            self.timers.remove(&(due, flight.message.id.clone()));
        }
        self.timers.insert((now + RESEND, flight.message.id.clone()));
        flight.sends = 1;
        flight.copies += 1;
        flight.resting = false;
        self.unacked += 1;
        Some(flight.message.encode())
    }

    pub(super) fn send_state_again(&mut self, id: &MsgId, now: Instant) -> Option<String> {
        let flight = self.slots.get_mut(self.sent.get(id)?)?.flight.as_mut()?;
        if flight.message.id != *id || flight.resting || flight.acks > 0 || flight.due.is_some() {
            return None;
        }
        flight.sends += 1;
        flight.copies += 1;
        flight.due = Some(now + RESEND);
        self.timers.insert((now + RESEND, id.clone()));
        self.metrics.retried(Class::State);
        Some(flight.message.encode())
    }

    pub(super) fn object_due(&mut self, now: Instant, id: MsgId) {
        let Some(uid) = self.sent.get(&id).cloned() else { return };
        let Some(slot) = self.slots.get_mut(&uid) else { return };
        let Some(flight) = slot.flight.as_mut() else { return };
        flight.due = None;
        if flight.acks > 0 {
            self.settle(&id, uid);
        } else if flight.resting {
            self.queue(uid);
        } else if slot.waiting.is_some() {
            self.supersede(&uid);
            self.queue(uid);
        } else if flight.sends >= SENDS {
            flight.resting = true;
            let rest = RESEND
                .saturating_mul(1u32.checked_shl(flight.cycles).unwrap_or(u32::MAX))
                .min(MAX_REST);
            flight.cycles += 1;
            flight.due = Some(now + rest);
            self.timers.insert((now + rest, id));
            self.unacked = self.unacked.saturating_sub(1);
        } else {
            self.again.push_back(id);
        }
    }

    pub(super) fn ack_object(&mut self, now: Instant, id: &MsgId, uid: Uid) -> Option<Delivered> {
        let slot = self.slots.get_mut(&uid)?;
        let object = slot.object.clone();
        let flight = slot.flight.as_mut().filter(|flight| flight.message.id == *id)?;
        flight.acks += 1;
        let is_first = flight.acks == 1;
        if is_first && !flight.resting {
            self.unacked = self.unacked.saturating_sub(1);
        }
        flight.resting = false;
        let deleted = flight.state.rank == Rank::Deleted;
        let delivered = is_first.then(|| Delivered {
            object,
            version: flight.message.version.clone(),
            deleted,
        });
        if flight.acks >= flight.copies {
            if let Some(due) = flight.due {
                self.timers.remove(&(due, id.clone()));
            }
            self.settle(id, uid.clone());
        } else if flight.due.is_none() {
            flight.due = Some(now + RESEND);
            self.timers.insert((now + RESEND, id.clone()));
        }
        let delivered = delivered?;
        self.metrics.acked(Class::State);
        // Older messages of the object say nothing any more: their acknowledgement must not take the record back.
        self.late.retain(|(_, object, ..)| object.uid != uid);
        Some(delivered)
    }

    /// Gives up what was sent in favour of what waits; a late acknowledgement of it still counts.
    fn supersede(&mut self, uid: &Uid) {
        let Some(slot) = self.slots.get_mut(uid) else { return };
        let Some(flight) = slot.flight.take() else { return };
        if !flight.resting {
            self.unacked = self.unacked.saturating_sub(1);
        }
        if let Some(due) = flight.due {
            self.timers.remove(&(due, flight.message.id.clone()));
        }
        self.sent.remove(&flight.message.id);
        if self.late.len() >= LATE {
            self.late.pop_front();
        }
        self.late.push_back((
            flight.message.id,
            slot.object.clone(),
            flight.message.version,
            flight.state.rank,
        ));
    }

    /// The acknowledged message is out of the way of what waits.
    fn settle(&mut self, id: &MsgId, uid: Uid) {
        self.sent.remove(id);
        let Some(slot) = self.slots.get_mut(&uid) else { return };
        slot.flight = None;
        if slot.waiting.is_some() {
            self.queue(uid);
        } else {
            self.slots.remove(&uid);
            self.shrink();
        }
    }

    fn queue(&mut self, uid: Uid) {
        if let Some(slot) = self.slots.get_mut(&uid)
            && !slot.queued
        {
            slot.queued = true;
            self.ready.push_back(uid);
        }
    }
}

impl Slot {
    /// Since when the object waits; not while it is only settling.
    pub(super) fn since(&self) -> Option<Instant> {
        let flight = self
            .flight
            .as_ref()
            .filter(|flight| flight.acks == 0)
            .map(|flight| flight.since);
        flight.or_else(|| self.waiting.as_ref().map(|waiting| waiting.since))
    }
}

/// Whether a new message takes the place of one that is stored.
fn replaces(new: State, stored: State) -> bool {
    if new.rank != stored.rank {
        return new.rank > stored.rank;
    }
    match (new.version, stored.version) {
        (Some(new), Some(stored)) => new > stored,
        // One of the two has no version. Of two deletions the second one says nothing new: a deletion carries the version of what was
        // deleted, or none.
        _ => new.rank != Rank::Deleted,
    }
}
