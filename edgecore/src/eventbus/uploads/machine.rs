//! What waits for the cloud, as a state machine without I/O.
//!
//! Three places, in the order of arrival: `flight`, in memory, is being sent; the backlog, rows only, comes next; `tail`, in memory, is
//! what came last. While the cloud takes everything at once, nothing is written. What it has not taken for [`PATIENCE`] is, so that a
//! crash loses no more than that; a stop writes all of it.

use std::collections::VecDeque;
use std::time::Duration;

use proto::MsgId;
use proto::bus::Upload;
use tokio::time::Instant;

/// How long an upload may be in memory alone.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// The pause after the link did not take an upload although it is up.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause after the database failed.
const STORE_PAUSE: Duration = Duration::from_secs(5);
/// Uploads under way to the cloud …
const FLIGHT: usize = 64;
/// … and their bytes.
pub(super) const FLIGHT_BYTES: u64 = 256 * 1024;
/// Bytes in memory that are not written yet; the oldest beyond it are dropped where the database fails.
const TAIL_BYTES: u64 = 1024 * 1024;
/// As soon as so many bytes wait, they are written without waiting for the time.
const TAIL_EARLY: u64 = 128 * 1024;
/// Rows that are removed together.
const FORGET: usize = 64;
/// What an upload costs beside its topic and payload.
const OVERHEAD: u64 = 128;

/// One upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Its place.
    pub(super) sequence: u64,
    /// By which the cloud knows it, also when it comes again.
    pub(super) id: MsgId,
    /// When it came, Unix time in milliseconds.
    pub(super) time: i64,
    /// What came.
    pub(super) upload: Upload,
}

impl Record {
    /// What it counts of the budget.
    pub(super) fn size(&self) -> u64 {
        let bytes = self.upload.topic.len() + self.upload.payload.len();
        u64::try_from(bytes).unwrap_or(u64::MAX).saturating_add(OVERHEAD)
    }
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// See what the database has: answer with `opened` or `store_failed`.
    Open,
    /// Send: answer with `taken` or `refused`.
    Send(Record),
    /// Write these, and drop the oldest rows of the backlog, so many bytes at least: answer with `stored` or `store_failed`.
    Store { records: Vec<Record>, trim: Option<Trim> },
    /// Read the rows after this one: answer with `loaded` or `store_failed`.
    Load { after: u64 },
    /// Remove rows: answer with `forgotten` or `store_failed`.
    Forget(Vec<u64>),
    /// Nothing until then, or until something happens.
    Wait(Option<Instant>),
}

/// Rows to drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trim {
    /// Only rows after this one.
    pub(super) after: u64,
    /// At least so many bytes.
    pub(super) bytes: u64,
}

/// Of uploads that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) count: u64,
    pub(super) bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn remove(&mut self, other: Self) {
        self.count = self.count.saturating_sub(other.count);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

#[derive(Debug)]
struct Held {
    record: Record,
    since: Instant,
    stored: bool,
    sent: bool,
}

/// Uploads in memory, and their bytes.
#[derive(Debug)]
struct Queue {
    held: VecDeque<Held>,
    bytes: u64,
}

impl Queue {
    const fn new() -> Self {
        Self {
            held: VecDeque::new(),
            bytes: 0,
        }
    }

    fn push(&mut self, held: Held) {
        self.bytes += held.record.size();
        self.held.push_back(held);
    }

    fn pop(&mut self) -> Option<Held> {
        let held = self.held.pop_front()?;
        self.bytes -= held.record.size();
        Some(held)
    }

    fn remove(&mut self, id: &MsgId) -> Option<Held> {
        let index = self.held.iter().position(|held| held.record.id == *id)?;
        let held = self.held.remove(index)?;
        self.bytes -= held.record.size();
        Some(held)
    }
}

/// The state.
#[derive(Debug)]
pub(super) struct Machine {
    budget: u64,
    opened: bool,
    up: bool,
    /// The sequence of the next upload.
    next: u64,
    flight: Queue,
    backlog: Amount,
    /// The last row that was read.
    read: u64,
    tail: Queue,
    forget: Vec<u64>,
    paused: Option<Instant>,
    store_paused: Option<Instant>,
    dropped: Amount,
    stopping: bool,
}

impl Machine {
    /// Nothing waits yet, but for what the database has.
    pub(super) const fn new(budget: u64) -> Self {
        Self {
            budget,
            opened: false,
            up: false,
            next: 1,
            flight: Queue::new(),
            backlog: Amount { count: 0, bytes: 0 },
            read: 0,
            tail: Queue::new(),
            forget: Vec::new(),
            paused: None,
            store_paused: None,
            dropped: Amount { count: 0, bytes: 0 },
            stopping: false,
        }
    }

    /// A client published.
    pub(super) fn push(&mut self, now: Instant, time: i64, upload: Upload) {
        let record = Record {
            sequence: self.next,
            id: MsgId::random(),
            time,
            upload,
        };
        self.next += 1;
        self.tail.push(Held {
            record,
            since: now,
            stored: false,
            sent: false,
        });
        while self.tail.bytes > TAIL_BYTES && self.tail.held.len() > 1 {
            if let Some(lost) = self.tail.pop() {
                self.dropped.add(lost.record.size());
            }
        }
    }

    /// The link came or went: what was under way goes again.
    pub(super) fn link(&mut self, up: bool) {
        self.up = up;
        self.paused = None;
        for held in &mut self.flight.held {
            held.sent = false;
        }
    }

    /// Nothing is sent until then, unless the link is lost and comes back.
    pub(super) fn hold(&mut self, until: Instant) {
        self.paused = Some(until);
    }

    /// The cloud has it, or as much as can be known of that. Whether it was waited for.
    pub(super) fn taken(&mut self, id: &MsgId) -> bool {
        let Some(held) = self.flight.remove(id) else {
            return false;
        };
        if held.stored {
            self.forget.push(held.record.sequence);
        }
        true
    }

    /// It was not taken: it goes again.
    pub(super) fn refused(&mut self, now: Instant, id: &MsgId) {
        if let Some(held) = self.flight.held.iter_mut().find(|held| held.record.id == *id) {
            held.sent = false;
            self.paused = Some(now + PAUSE);
        }
    }

    /// The database has so much, up to this row.
    pub(super) fn opened(&mut self, amount: Amount, last: u64) {
        self.opened = true;
        self.backlog = amount;
        // Everything in memory is newer than the rows of the database: its numbers are moved behind theirs.
        for held in self.flight.held.iter_mut().chain(&mut self.tail.held) {
            held.record.sequence = held.record.sequence.saturating_add(last);
        }
        self.next = self.next.saturating_add(last);
    }

    /// What was to be written is; of the backlog so much was dropped.
    pub(super) fn stored(&mut self, records: &[Record], trimmed: Amount) {
        let last = records.last().map_or(0, |record| record.sequence);
        for held in &mut self.flight.held {
            held.stored |= held.record.sequence <= last;
        }
        while self.tail.held.front().is_some_and(|held| held.record.sequence <= last)
            && let Some(held) = self.tail.pop()
        {
            self.backlog.add(held.record.size());
        }
        self.backlog.remove(trimmed);
        self.dropped.count += trimmed.count;
        self.dropped.bytes = self.dropped.bytes.saturating_add(trimmed.bytes);
    }

    /// The next rows; none where there are no more.
    pub(super) fn loaded(&mut self, now: Instant, records: Vec<Record>) {
        if records.is_empty() {
            self.backlog = Amount::default();
        }
        for record in records {
            self.read = record.sequence;
            // Compared by the row's number, not by the id: a damaged id is replaced by another one at each read.
            let mut under_way = self.flight.held.iter();
            let is_known =
                under_way.any(|held| held.record.sequence == record.sequence) || self.forget.contains(&record.sequence);
            if is_known {
                continue;
            }
            self.backlog.remove(Amount {
                count: 1,
                bytes: record.size(),
            });
            self.flight.push(Held {
                record,
                since: now,
                stored: true,
                sent: false,
            });
        }
    }

    /// The rows are removed.
    pub(super) fn forgotten(&mut self) {
        self.forget.clear();
    }

    /// The database failed.
    pub(super) fn store_failed(&mut self, now: Instant) {
        self.store_paused = Some(now + STORE_PAUSE);
    }

    /// The process stops: nothing more is sent, and what is in memory alone is written at once, however soon the database failed before.
    pub(super) const fn stop(&mut self) {
        self.stopping = true;
        self.store_paused = None;
    }

    /// Whether enough came to be written before its time.
    pub(super) const fn has_batch(&self) -> bool {
        self.tail.bytes >= TAIL_EARLY
    }

    /// What is in memory alone.
    pub(super) fn unwritten(&self) -> Amount {
        let mut amount = Amount::default();
        for held in self.unstored() {
            amount.add(held.record.size());
        }
        amount
    }

    /// What waits.
    pub(super) fn waiting(&self) -> Amount {
        let mut amount = self.backlog;
        for queue in [&self.flight, &self.tail] {
            amount.count += u64::try_from(queue.held.len()).unwrap_or_default();
            amount.bytes = amount.bytes.saturating_add(queue.bytes);
        }
        amount
    }

    /// When the oldest one came, in Unix time; nothing where none waits in memory.
    pub(super) fn oldest(&self) -> Option<i64> {
        let first = self.flight.held.front().or_else(|| self.tail.held.front())?;
        Some(first.record.time)
    }

    /// What was dropped since the last call.
    pub(super) fn dropped(&mut self) -> Amount {
        std::mem::take(&mut self.dropped)
    }

    /// What is to be done now; to be called until it says to wait.
    pub(super) fn next(&mut self, now: Instant) -> Action {
        let mut wake = Wake(None);
        if wake.is_over(now, &mut self.store_paused)
            && let Some(action) = self.next_of_store(now, &mut wake)
        {
            return action;
        }
        self.advance();
        if self.up
            && !self.stopping
            && wake.is_over(now, &mut self.paused)
            && let Some(held) = self.flight.held.iter_mut().find(|held| !held.sent)
        {
            held.sent = true;
            return Action::Send(held.record.clone());
        }
        Action::Wait(wake.0)
    }

    fn next_of_store(&mut self, now: Instant, wake: &mut Wake) -> Option<Action> {
        if !self.opened {
            return Some(Action::Open);
        }
        let rows_are_left = self.flight.held.iter().any(|held| held.stored);
        // Rows of what is taken: many at a time, the last of all, or they would go again after the start.
        let is_due = self.forget.len() >= FORGET || !rows_are_left || self.stopping;
        if is_due && !self.forget.is_empty() {
            return Some(Action::Forget(self.forget.clone()));
        }
        if let Some(since) = self.unstored().map(|held| held.since).next() {
            let is_early = self.stopping || self.has_batch();
            if is_early || now.saturating_duration_since(since) >= PATIENCE {
                return Some(self.store());
            }
            wake.at(since + PATIENCE);
        }
        // Read ahead of the link, so that the first uploads after a reconnect need no disk.
        if !self.stopping && self.backlog.count > 0 && self.has_room() {
            return Some(Action::Load { after: self.read });
        }
        None
    }

    fn store(&self) -> Action {
        let records: Vec<Record> = self.unstored().map(|held| held.record.clone()).collect();
        let excess = self.waiting().bytes.saturating_sub(self.budget);
        let under_way = self.flight.held.back().map_or(0, |held| held.record.sequence);
        let after = self.read.max(under_way);
        // A little more, so that not every write of a full queue has to make room.
        let trim = (excess > 0).then(|| Trim {
            after,
            bytes: excess + self.budget / 16,
        });
        Action::Store { records, trim }
    }

    /// From the tail straight to the flight, where nothing is between them.
    fn advance(&mut self) {
        while self.backlog.count == 0
            && self.has_room()
            && let Some(held) = self.tail.pop()
        {
            self.flight.push(held);
        }
    }

    fn has_room(&self) -> bool {
        self.flight.held.is_empty() || (self.flight.held.len() < FLIGHT && self.flight.bytes < FLIGHT_BYTES)
    }

    fn unstored(&self) -> impl Iterator<Item = &Held> {
        self.flight
            .held
            .iter()
            .chain(&self.tail.held)
            .filter(|held| !held.stored)
    }
}

/// When to look again.
struct Wake(Option<Instant>);

impl Wake {
    fn at(&mut self, time: Instant) {
        self.0 = Some(self.0.map_or(time, |earlier| earlier.min(time)));
    }

    /// Whether a pause is over; it is forgotten then.
    fn is_over(&mut self, now: Instant, pause: &mut Option<Instant>) -> bool {
        match *pause {
            Some(until) if now < until => {
                self.at(until);
                false
            }
            _ => {
                *pause = None;
                true
            }
        }
    }
}
