//! Which events are sent, kept and forgotten, as a state machine without I/O.
//!
//! An event is kept from when it is said until the cloud has answered it; a cloud that answers none (Go's) gets what it may have lost
//! once more after a reconnect. What has not arrived after [`PATIENCE`] is written to the database, so that a crash loses no more than
//! that. A newer event of the same name takes the place of the older.

use std::collections::VecDeque;
use std::time::Duration;

use common::Backoff;
use proto::Object;
use tokio::time::Instant;

/// Events that wait; older ones give way, and are counted.
pub(super) const WAITING: usize = 256;
/// How long an event may be in memory alone …
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// … and one of which an earlier count is written already.
const REPEATED: Duration = Duration::from_secs(60);
/// Rows are removed together, this long after the first of them arrived.
const FORGET: Duration = Duration::from_secs(2);
/// Events under way to the cloud.
const FLIGHT: usize = 16;
/// What was sent this long before a link was lost may have been lost with it, where nobody answers.
pub(super) const DOUBTFUL: Duration = Duration::from_secs(30);
/// The pauses after the cloud did not take an event although there is a link.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// The pause after the database failed.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// An event as it is sent.
#[derive(Clone, Debug)]
pub(super) struct Said {
    /// Of the Event object: by this the cloud knows it when it comes again.
    pub(super) name: String,
    pub(super) object: Object,
}

/// What is to be done next.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Send it: [`Waiting::sent`] is told what became of it.
    Send(Said),
    /// Remove the rows of those names, then write these: one may be both. Before anything else follows [`Waiting::stored`] or
    /// [`Waiting::store_failed`].
    Store { forget: Vec<String>, write: Vec<Said> },
    /// Nothing until then, or until something happens.
    Wait(Option<Instant>),
}

/// What became of an event that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The API has it.
    Written,
    /// It is on its way; nobody will say more.
    Told,
    /// The API will never take it: its namespace is gone, say.
    Refused,
    /// Not taken now: to be tried again.
    Later,
}

/// What the database has of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    None,
    /// An earlier count of this event.
    Older,
    Same,
}

#[derive(Debug)]
struct Held {
    said: Said,
    since: Instant,
    row: Row,
    flight: bool,
    /// It was said once more while it was under way.
    again: bool,
}

impl Held {
    /// When it is to be written.
    fn due(&self) -> Option<Instant> {
        match self.row {
            Row::None => Some(self.since + PATIENCE),
            Row::Older => Some(self.since + REPEATED),
            Row::Same => None,
        }
    }
}

/// The state.
#[derive(Debug)]
pub(super) struct Waiting {
    held: VecDeque<Held>,
    /// Sent to a cloud that does not answer, and when.
    told: VecDeque<(Instant, Said)>,
    forget: Vec<String>,
    forget_at: Option<Instant>,
    up: bool,
    flight: usize,
    paused: Option<Instant>,
    backoff: Backoff,
    store_paused: Option<Instant>,
    dropped: u64,
}

impl Waiting {
    /// With what the database had, oldest first.
    pub(super) fn new(now: Instant, rows: Vec<Said>) -> Self {
        let mut waiting = Self {
            held: VecDeque::new(),
            told: VecDeque::new(),
            forget: Vec::new(),
            forget_at: None,
            up: false,
            flight: 0,
            paused: None,
            backoff: Backoff::new(PAUSE.0, PAUSE.1),
            store_paused: None,
            dropped: 0,
        };
        for said in rows {
            waiting.hold(now, said, Row::Same);
        }
        waiting
    }

    /// Something happened.
    pub(super) fn put(&mut self, now: Instant, said: Said) {
        self.told.retain(|(_, other)| other.name != said.name);
        if let Some(held) = self.held.iter_mut().find(|held| held.said.name == said.name) {
            held.said = said;
            held.again = held.flight;
            if held.row == Row::Same {
                (held.row, held.since) = (Row::Older, now);
            }
            return;
        }
        self.hold(now, said, Row::None);
    }

    fn hold(&mut self, now: Instant, said: Said, row: Row) {
        self.held.push_back(Held {
            said,
            since: now,
            row,
            flight: false,
            again: false,
        });
        if self.held.len() > WAITING
            && let Some(oldest) = self.held.pop_front()
        {
            self.flight -= usize::from(oldest.flight);
            self.dropped += 1;
            self.forget(now, oldest);
        }
    }

    /// A link ended or another began: answers to what was sent before never come.
    pub(super) fn link(&mut self, now: Instant, up: bool) {
        self.up = up;
        self.paused = None;
        self.backoff.reset();
        self.flight = 0;
        for held in &mut self.held {
            (held.flight, held.again) = (false, false);
        }
        while let Some((at, said)) = self.told.pop_back() {
            if now - at < DOUBTFUL && self.held.len() < WAITING {
                self.held.push_front(Held {
                    said,
                    since: now,
                    row: Row::None,
                    flight: false,
                    again: false,
                });
            }
        }
    }

    /// What became of an event.
    pub(super) fn sent(&mut self, now: Instant, name: &str, outcome: Outcome) {
        // The event may have been dropped meanwhile to make room for others.
        let Some(index) = self.held.iter().position(|held| held.said.name == name && held.flight) else {
            return;
        };
        self.flight -= 1;
        let held = &mut self.held[index];
        held.flight = false;
        let again = std::mem::take(&mut held.again);
        if outcome == Outcome::Later {
            // All that were under way fail together: that is one failure.
            if self.paused.is_none_or(|until| until <= now) {
                self.paused = Some(now + self.backoff.next_delay());
            }
            return;
        }
        self.backoff.reset();
        if again {
            return;
        }
        let Some(held) = self.held.remove(index) else { return };
        if outcome == Outcome::Told {
            self.told.retain(|(at, _)| now - *at < DOUBTFUL);
            if self.told.len() >= WAITING {
                self.told.pop_front();
            }
            self.told.push_back((now, held.said.clone()));
        }
        self.forget(now, held);
    }

    fn forget(&mut self, now: Instant, held: Held) {
        if held.row != Row::None {
            self.forget.push(held.said.name);
            self.forget_at.get_or_insert(now + FORGET);
        }
    }

    /// What [`Action::Store`] said is done.
    pub(super) fn stored(&mut self) {
        for held in &mut self.held {
            held.row = Row::Same;
        }
        self.forgotten();
    }

    /// It is not; it is tried again.
    pub(super) fn store_failed(&mut self, now: Instant) {
        self.store_paused = Some(now + STORE_PAUSE);
    }

    /// The database was replaced: it has none of the rows.
    pub(super) fn rows_lost(&mut self, now: Instant) {
        for held in &mut self.held {
            (held.row, held.since) = (Row::None, now);
        }
        self.forgotten();
    }

    fn forgotten(&mut self) {
        self.forget.clear();
        self.forget_at = None;
    }

    /// How many gave way since this was last asked.
    pub(super) fn dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// What is to be done.
    pub(super) fn next(&mut self, now: Instant) -> Action {
        let is_over = |at: &mut Option<Instant>| {
            *at = at.filter(|at| *at > now);
            at.is_none()
        };
        let may_store = is_over(&mut self.store_paused);
        let may_send = self.up && is_over(&mut self.paused) && self.flight < FLIGHT;
        if may_send && let Some(held) = self.held.iter_mut().find(|held| !held.flight) {
            held.flight = true;
            self.flight += 1;
            return Action::Send(held.said.clone());
        }
        let due = self.held.iter().filter_map(Held::due).chain(self.forget_at).min();
        match (due, self.store_paused) {
            (Some(due), _) if may_store && due <= now => self.store(),
            (due, pause) => {
                let store = due.map(|due| pause.map_or(due, |pause| due.max(pause)));
                let send = self
                    .paused
                    .filter(|_| self.up && self.held.iter().any(|held| !held.flight));
                Action::Wait(store.into_iter().chain(send).min())
            }
        }
    }

    /// All that is not written yet.
    pub(super) fn store(&self) -> Action {
        let unwritten = self.held.iter().filter(|held| held.row != Row::Same);
        Action::Store {
            forget: self.forget.clone(),
            write: unwritten.map(|held| held.said.clone()).collect(),
        }
    }
}
