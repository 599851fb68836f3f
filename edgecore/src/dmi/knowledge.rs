//! What one mapper is to know, what it was told, and so which call comes next. No I/O; time comes in.
//!
//! Models come before the devices that have them, and go after them. A call that the mapper refuses is repeated later, others go on; a
//! mapper that cannot be reached gets no call at all for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::{Backoff, order};
use proto::device::DeviceId;
use proto::dmi::Digest;
use tokio::time::Instant;

/// Between two tries of one refused call.
const REFUSED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Between two tries of a mapper that cannot be reached: one that registers serves its socket a moment later.
const UNREACHABLE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// What a mapper is told of. Models come first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Thing {
    Model(DeviceId),
    Device(DeviceId),
}

/// What a mapper is to know of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Want {
    /// Its content; `None` where it is not to be had now: what the mapper knows stays as it is.
    pub(super) digest: Option<Digest>,
    /// A device's model.
    pub(super) model: Option<DeviceId>,
}

/// Everything that a mapper is to know.
pub(super) type Wanted = BTreeMap<Thing, Want>;

/// Which call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Update,
    Remove,
}

/// A call to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) thing: Thing,
    pub(super) verb: Verb,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Call(Call),
    /// Nothing before this time, or before something else is wanted.
    Wait(Option<Instant>),
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The mapper knows it now with this content; with none, it forgot it.
    Done(Option<Digest>),
    /// The mapper answered with an error.
    Refused,
    /// No answer.
    Unreachable,
    /// The object went meanwhile.
    Gone,
}

/// What is to be remembered over a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) thing: Thing,
    /// `None`: the mapper does not know it.
    pub(super) digest: Option<Digest>,
}

/// Of one mapper.
#[derive(Debug)]
pub(super) struct Knowledge {
    told: BTreeMap<Thing, Digest>,
    refused: BTreeMap<Thing, (Instant, Backoff)>,
    silent: Backoff,
    silent_until: Option<Instant>,
}

impl Knowledge {
    /// Of a mapper that was told this.
    pub(super) const fn new(told: BTreeMap<Thing, Digest>) -> Self {
        Self {
            told,
            refused: BTreeMap::new(),
            silent: Backoff::new(UNREACHABLE.0, UNREACHABLE.1),
            silent_until: None,
        }
    }

    /// What the mapper was told.
    pub(super) const fn told(&self) -> &BTreeMap<Thing, Digest> {
        &self.told
    }

    /// The next call, if it is time for one.
    pub(super) fn next(&mut self, wanted: &Wanted, now: Instant) -> Step {
        self.refused
            .retain(|thing, _| wanted.contains_key(thing) || self.told.contains_key(thing));
        let mut earliest = None;
        for call in self.open(wanted) {
            let due = self.refused.get(&call.thing).map(|(due, _)| *due);
            let due = due.max(self.silent_until).filter(|due| *due > now);
            match due {
                None => return Step::Call(call),
                Some(due) => earliest = Some(earliest.map_or(due, |earliest: Instant| earliest.min(due))),
            }
        }
        Step::Wait(earliest)
    }

    /// Takes the outcome of a call; what is to be remembered of it.
    pub(super) fn done(&mut self, call: &Call, outcome: Outcome, now: Instant) -> Vec<Note> {
        if outcome == Outcome::Unreachable {
            self.silent_until = Some(now + self.silent.next_delay());
            return Vec::new();
        }
        self.silent.reset();
        self.silent_until = None;
        let thing = &call.thing;
        match (outcome, call.verb) {
            // A refused removal counts as done: a mapper forgets the device before it stops the driver, which is what can fail, and for us
            // it is no error if it did not know the device.
            (Outcome::Refused, Verb::Remove) => self.note(thing, None),
            (Outcome::Done(digest), _) => self.note(thing, digest),
            (Outcome::Refused, verb) => {
                let mut notes = Vec::new();
                self.delay(thing, now);
                // What cannot be updated is not known there: next time it is added, after its model.
                if verb == Verb::Update {
                    notes.extend(self.forget(thing));
                }
                notes
            }
            (Outcome::Gone | Outcome::Unreachable, _) => {
                self.delay(thing, now);
                Vec::new()
            }
        }
    }

    /// All calls that are left to make, in their order.
    fn open<'a>(&'a self, wanted: &'a Wanted) -> impl Iterator<Item = Call> + 'a {
        let additions = wanted.iter().filter_map(|(thing, want)| {
            let digest = want.digest?;
            // A device whose model the mapper does not have would be refused after three seconds.
            let model = want.model.as_ref().map(|model| Thing::Model(model.clone()));
            if model.is_some_and(|model| !self.told.contains_key(&model)) {
                return None;
            }
            let verb = match self.told.get(thing) {
                None => Verb::Add,
                Some(told) if *told == digest => return None,
                // Another device has the name now: the old one is removed first, the next call adds the new one.
                Some(told) if told.is_of_another(digest) => Verb::Remove,
                Some(_) => Verb::Update,
            };
            Some(Call {
                thing: thing.clone(),
                verb,
            })
        });
        // Models come before devices in this order. Removals go from the end, so that devices are removed before their models.
        let removals = self.told.keys().rev().filter(|thing| !wanted.contains_key(thing));
        additions.chain(removals.map(|thing| Call {
            thing: thing.clone(),
            verb: Verb::Remove,
        }))
    }

    fn note(&mut self, thing: &Thing, digest: Option<Digest>) -> Vec<Note> {
        self.refused.remove(thing);
        match digest {
            Some(digest) => {
                self.told.insert(thing.clone(), digest);
                vec![Note {
                    thing: thing.clone(),
                    digest: Some(digest),
                }]
            }
            None => self.forget(thing).into_iter().collect(),
        }
    }

    fn forget(&mut self, thing: &Thing) -> Option<Note> {
        self.told.remove(thing).map(|_| Note {
            thing: thing.clone(),
            digest: None,
        })
    }

    fn delay(&mut self, thing: &Thing, now: Instant) {
        let fresh = || (now, Backoff::new(REFUSED.0, REFUSED.1));
        let (due, backoff) = self.refused.entry(thing.clone()).or_insert_with(fresh);
        *due = now + backoff.next_delay();
    }
}

/// The models that devices of `wanted` have.
pub(super) fn models(wanted: &Wanted) -> BTreeSet<DeviceId> {
    order::set(wanted.values().filter_map(|want| want.model.clone()))
}
