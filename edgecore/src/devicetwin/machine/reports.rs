//! What the cloud has not confirmed, and when it is told (class *state*: no message is kept, the newest values are told).
//!
//! One message of a device is on its way at a time; what changes meanwhile is told by the next one, with the values of then. A device
//! that was quiet is told of at once. What is not confirmed is told again, later and later; after a reconnect at once.
//!
//! Which properties those are survives a restart by marks on the disk. A mark is written with the value when there is none yet, and
//! removed when its property was confirmed and has rested: a value that changes each second costs no more than its row.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::Backoff;
use proto::device::DeviceId;
use tokio::time::Instant;

use super::device::Sides;

/// Messages on their way that may wait for the cloud at once: what others have to say stands behind no more than these.
pub(super) const WINDOW: usize = 32;
/// After this long a message no longer counts for the window: a Go cloud never confirms devices that it does not know.
const FRESH: Duration = Duration::from_secs(2);
/// Most messages that may be on their way to the cloud, of all devices.
const MAX_FLIGHTS: usize = 256;
/// When a message without an answer is sent again, at first.
const FIRST_DELAY: Duration = Duration::from_secs(10);
/// The same, at last.
const LAST_DELAY: Duration = Duration::from_secs(300);
/// A message that did not leave is tried again after this.
const UNSENT_DELAY: Duration = Duration::from_secs(1);
/// What adding up fractions of a report may lose.
const ROUNDING: f64 = 1e-6;
/// How long a confirmed property rests before its mark is removed.
pub(super) const REST: Duration = Duration::from_secs(60);
/// The mark of a device's state among those of its properties, whose names are never empty.
pub(in crate::devicetwin) const STATE_MARK: &str = "";

/// Reports of one device and of all, a second.
#[derive(Clone, Copy, Debug)]
pub(in crate::devicetwin) struct Rates {
    pub(in crate::devicetwin) device: u32,
    pub(in crate::devicetwin) all: u32,
}

/// What is to be told.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Told {
    Twins(BTreeMap<String, Sides>),
    State,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::devicetwin) enum Outcome {
    /// The cloud answered.
    Confirmed,
    /// A Go cloud answered. It writes the first value of a property into a copy that it drops (spec 03 §2.5): each is told twice.
    ConfirmedByGo,
    /// It did not, in time.
    Unanswered,
    /// It did not leave, or the link broke.
    Unsent,
}

/// The books.
#[derive(Debug)]
pub(super) struct Reports {
    rates: Rates,
    devices: BTreeMap<DeviceId, Report>,
    /// Devices with something to tell and no message on its way, by the time of their turn.
    turns: BTreeSet<(Instant, DeviceId)>,
    /// By the order of sending.
    flights: BTreeMap<u64, Flight>,
    next_flight: u64,
    up: bool,
    tokens: f64,
    filled: Instant,
    /// When the cloud confirmed something last.
    confirmed: Option<Instant>,
    /// Something went unanswered, and nothing was confirmed since it was sent.
    silent: bool,
    /// Marks of confirmed properties by the time at which they may go.
    resting: BTreeSet<(Instant, DeviceId, String)>,
    /// Properties that a Go cloud was told of twice.
    twice: BTreeSet<(DeviceId, String)>,
}

#[derive(Debug)]
struct Flight {
    device: DeviceId,
    since: Instant,
    told: Told,
}

#[derive(Debug)]
struct Report {
    twins: BTreeMap<String, Sides>,
    state: bool,
    flight: Option<u64>,
    turn: Option<Instant>,
    /// Not before.
    next: Instant,
    backoff: Backoff,
    /// Since when the oldest change waits.
    since: Option<Instant>,
    /// Names on the disk; with a time those that were confirmed then.
    marks: BTreeMap<String, Option<Instant>>,
}

impl Report {
    fn new(now: Instant) -> Self {
        Self {
            twins: BTreeMap::new(),
            state: false,
            flight: None,
            turn: None,
            next: now,
            backoff: Backoff::new(FIRST_DELAY, LAST_DELAY),
            since: None,
            marks: BTreeMap::new(),
        }
    }

    fn has_news(&self) -> bool {
        self.state || !self.twins.is_empty()
    }

    fn is_dirty(&self, name: &str, flight: Option<&Flight>) -> bool {
        let told = flight.map(|flight| &flight.told);
        if name == STATE_MARK {
            return self.state || matches!(told, Some(Told::State));
        }
        self.twins.contains_key(name) || matches!(told, Some(Told::Twins(twins)) if twins.contains_key(name))
    }
}

impl Reports {
    pub(super) fn new(rates: Rates, now: Instant) -> Self {
        Self {
            rates,
            devices: BTreeMap::new(),
            turns: BTreeSet::new(),
            flights: BTreeMap::new(),
            next_flight: 0,
            up: false,
            tokens: f64::from(rates.all),
            filled: now,
            confirmed: None,
            silent: false,
            resting: BTreeSet::new(),
            twice: BTreeSet::new(),
        }
    }

    /// Marks that were found on the disk.
    pub(super) fn load(&mut self, device: &DeviceId, name: String, now: Instant) {
        let report = self.report(device, now);
        report.marks.insert(name.clone(), None);
        report.since.get_or_insert(now);
        if name == STATE_MARK {
            report.state = true;
        } else {
            report.twins.insert(name, Sides::BOTH);
        }
        self.queue(device);
    }

    /// A property changed and is stored, with its mark. Returns whether an untold change of the same was overtaken.
    pub(super) fn twin(&mut self, device: &DeviceId, name: &str, sides: Sides, now: Instant) -> bool {
        let report = self.report(device, now);
        report.since.get_or_insert(now);
        let waiting = report.twins.get(name).copied();
        report
            .twins
            .insert(name.to_owned(), sides.and(waiting.unwrap_or_default()));
        self.mark(device, name);
        self.queue(device);
        waiting.is_some()
    }

    /// A state changed and is stored, with its mark.
    pub(super) fn state(&mut self, device: &DeviceId, now: Instant) -> bool {
        let report = self.report(device, now);
        report.since.get_or_insert(now);
        let waiting = std::mem::replace(&mut report.state, true);
        self.mark(device, STATE_MARK);
        self.queue(device);
        waiting
    }

    /// A device is gone, with its marks.
    pub(super) fn forget(&mut self, device: &DeviceId) {
        self.twice.retain(|(of, _)| of != device);
        let Some(report) = self.devices.remove(device) else {
            return;
        };
        if let Some(turn) = report.turn {
            self.turns.remove(&(turn, device.clone()));
        }
        if let Some(flight) = report.flight {
            self.flights.remove(&flight);
        }
        self.resting.retain(|(_, of, _)| of != device);
    }

    /// Whether the mark of a name is on the disk.
    pub(super) fn is_marked(&self, device: &DeviceId, name: &str) -> bool {
        self.devices
            .get(device)
            .is_some_and(|report| report.marks.contains_key(name))
    }

    /// All marks that are on the disk.
    pub(super) fn marks(&self) -> impl Iterator<Item = (&DeviceId, &str)> {
        let devices = self.devices.iter();
        devices.flat_map(|(id, report)| report.marks.keys().map(move |name| (id, name.as_str())))
    }

    /// Marks that may go from the disk.
    pub(super) fn rested(&self, now: Instant) -> Vec<(DeviceId, String)> {
        let due = self.resting.iter().take_while(|(since, ..)| now >= *since + REST);
        due.map(|(_, device, name)| (device.clone(), name.clone())).collect()
    }

    /// The mark is gone from the disk.
    pub(super) fn unmarked(&mut self, device: &DeviceId, name: &str) {
        let Some(report) = self.devices.get_mut(device) else {
            return;
        };
        if let Some(Some(since)) = report.marks.remove(name) {
            self.resting.remove(&(since, device.clone(), name.to_owned()));
        }
        if report.marks.is_empty() && !report.has_news() && report.flight.is_none() {
            self.devices.remove(device);
        }
    }

    /// The link came or went.
    pub(super) fn link(&mut self, up: bool, now: Instant) {
        self.up = up;
        if up {
            self.all_at_once(now);
        }
    }

    /// What is to be sent now; to be called until it returns nothing.
    pub(super) fn next(&mut self, now: Instant) -> Option<(u64, DeviceId, Told)> {
        self.refill(now);
        let (turn, _) = self.turns.first()?;
        if !self.up || *turn > now || self.tokens < 1.0 - ROUNDING || self.is_full(now) {
            return None;
        }
        let (_, device) = self.turns.pop_first()?;
        let interval = Duration::from_secs(1) / self.rates.device.max(1);
        let report = self.devices.get_mut(&device)?;
        let told = if std::mem::take(&mut report.state) {
            Told::State
        } else {
            Told::Twins(std::mem::take(&mut report.twins))
        };
        let id = self.next_flight;
        self.next_flight += 1;
        report.turn = None;
        report.next = now + interval;
        report.flight = Some(id);
        self.tokens -= 1.0;
        let flight = Flight {
            device: device.clone(),
            since: now,
            told: told.clone(),
        };
        self.flights.insert(id, flight);
        Some((id, device, told))
    }

    /// Part of what [`Reports::next`] gave did not fit into the message.
    pub(super) fn keep(&mut self, id: u64, left: BTreeMap<String, Sides>) {
        let Some(flight) = self.flights.get_mut(&id) else {
            return;
        };
        if let Told::Twins(twins) = &mut flight.told {
            twins.retain(|name, _| !left.contains_key(name));
        }
        if let Some(report) = self.devices.get_mut(&flight.device) {
            report.twins.extend(left);
        }
    }

    /// What became of a message.
    pub(super) fn answered(&mut self, id: u64, outcome: Outcome, now: Instant) {
        let Some(flight) = self.flights.remove(&id) else { return };
        let Some(report) = self.devices.get_mut(&flight.device) else {
            return;
        };
        report.flight = None;
        let is_confirmed = matches!(outcome, Outcome::Confirmed | Outcome::ConfirmedByGo);
        if is_confirmed {
            if let (Outcome::ConfirmedByGo, Told::Twins(told)) = (outcome, &flight.told) {
                for (name, sides) in told {
                    if self.twice.insert((flight.device.clone(), name.clone())) {
                        let waiting = report.twins.entry(name.clone()).or_default();
                        *waiting = waiting.and(*sides);
                    }
                }
            }
            report.backoff.reset();
            report.since = report.has_news().then_some(flight.since);
            self.confirmed = Some(now);
            self.rest(&flight, now);
        } else {
            let delay = match outcome {
                Outcome::Unanswered => report.backoff.next_delay(),
                _ => UNSENT_DELAY,
            };
            report.next = now + delay;
            match flight.told {
                Told::State => report.state = true,
                Told::Twins(told) => {
                    for (name, sides) in told {
                        let waiting = report.twins.entry(name).or_default();
                        *waiting = waiting.and(sides);
                    }
                }
            }
            let nothing_since = self.confirmed.is_none_or(|confirmed| confirmed < flight.since);
            self.silent |= outcome == Outcome::Unanswered && nothing_since;
        }
        self.queue(&flight.device);
        if is_confirmed && std::mem::take(&mut self.silent) {
            // It was silent because it was away, not because it does not know these devices: all reports that wait are due now.
            self.all_at_once(now);
        }
    }

    /// When something is due next.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let mark = self.resting.first().map(|(since, ..)| *since + REST);
        let turn = self.turns.first().filter(|_| self.up).map(|(turn, _)| {
            let missing = (1.0 - self.tokens).max(0.0) / f64::from(self.rates.all.max(1));
            let mut turn = (*turn).max(self.filled + Duration::from_secs_f64(missing));
            if self.is_full(now) {
                turn = turn.max(now + FRESH / 4);
            }
            turn
        });
        [mark, turn].into_iter().flatten().min()
    }

    /// Since when the oldest unconfirmed change waits.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.devices.values().filter_map(|report| report.since).min()
    }

    /// Whether everything was told and confirmed.
    #[cfg(test)]
    pub(super) fn is_quiet(&self) -> bool {
        self.turns.is_empty() && self.flights.is_empty()
    }

    fn report(&mut self, device: &DeviceId, now: Instant) -> &mut Report {
        self.devices.entry(device.clone()).or_insert_with(|| Report::new(now))
    }

    fn mark(&mut self, device: &DeviceId, name: &str) {
        let Some(report) = self.devices.get_mut(device) else {
            return;
        };
        if let Some(Some(since)) = report.marks.insert(name.to_owned(), None) {
            self.resting.remove(&(since, device.clone(), name.to_owned()));
        }
    }

    fn rest(&mut self, flight: &Flight, now: Instant) {
        let Some(report) = self.devices.get_mut(&flight.device) else {
            return;
        };
        let names: Vec<&str> = match &flight.told {
            Told::State => vec![STATE_MARK],
            Told::Twins(twins) => twins.keys().map(String::as_str).collect(),
        };
        for name in names {
            if !report.is_dirty(name, None)
                && let Some(mark) = report.marks.get_mut(name)
                && mark.is_none()
            {
                *mark = Some(now);
                self.resting.insert((now, flight.device.clone(), name.to_owned()));
            }
        }
    }

    /// Gives a device its turn, unless it has one, a message on its way, or nothing to tell.
    fn queue(&mut self, device: &DeviceId) {
        let Some(report) = self.devices.get_mut(device) else {
            return;
        };
        if report.turn.is_none() && report.flight.is_none() && report.has_news() {
            report.turn = Some(report.next);
            self.turns.insert((report.next, device.clone()));
        }
    }

    fn all_at_once(&mut self, now: Instant) {
        self.silent = false;
        self.turns.clear();
        for (device, report) in &mut self.devices {
            report.backoff.reset();
            report.next = now;
            report.turn = (report.flight.is_none() && report.has_news()).then_some(now);
            if let Some(turn) = report.turn {
                self.turns.insert((turn, device.clone()));
            }
        }
    }

    fn is_full(&self, now: Instant) -> bool {
        let fresh = self
            .flights
            .values()
            .rev()
            .take_while(|flight| now < flight.since + FRESH);
        self.flights.len() >= MAX_FLIGHTS || fresh.take(WINDOW).count() >= WINDOW
    }

    fn refill(&mut self, now: Instant) {
        let rate = f64::from(self.rates.all.max(1));
        let passed = now.duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = passed.mul_add(rate, self.tokens).min(rate);
    }
}
