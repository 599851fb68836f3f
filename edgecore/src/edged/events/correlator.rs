//! What repeats is counted instead of said again, and what repeats too often is not said at all. No I/O; the numbers are a kubelet's.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{Note, Severity, Subject};

/// Notes about one pod at once, and the time after which there may be one more.
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(300);
/// Messages of one kind within a time, from which on they are taken for one.
const SIMILAR: usize = 10;
const SIMILAR_WITHIN: Duration = Duration::from_secs(600);
/// Before the message of those that were taken for one.
const COMBINED: &str = "(combined from similar events): ";
/// The API forgets events after an hour: what is older begins anew.
const FORGOTTEN: Duration = Duration::from_secs(3000);

/// An event to be sent. `name` stays while it repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) subject: Subject,
    pub(super) severity: Severity,
    pub(super) reason: Cow<'static, str>,
    pub(super) message: String,
    pub(super) count: u32,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
}

/// Everything but the message.
type Kind = (Subject, Severity, Cow<'static, str>);

/// Remembers what was said in the last hour.
#[derive(Debug, Default)]
pub(super) struct Correlator {
    said: BTreeMap<(Kind, String), (Event, Instant)>,
    similar: BTreeMap<Kind, (BTreeSet<String>, Instant)>,
    budgets: BTreeMap<Subject, Budget>,
}

/// Notes that may still be said about a pod.
#[derive(Debug)]
struct Budget {
    left: u32,
    since: Instant,
}

impl Correlator {
    /// The event that says it, unless too much was said about the pod. `now` is the time of day.
    pub(super) fn observe(&mut self, note: Note, now: Timestamp) -> Option<Event> {
        let at = Instant::now();
        self.forget(at);
        // The object's version changes with each status: it is no part of what repeats.
        let subject = Subject {
            version: String::new(),
            ..note.subject.clone()
        };
        let kind: Kind = (subject.clone(), note.severity, note.reason.clone());
        let (key, message) = self.combine(&kind, note.message, at);
        let event = match self.said.get(&(kind.clone(), key.clone())) {
            Some((said, _)) => Event {
                subject: note.subject,
                message,
                count: said.count.saturating_add(1),
                // The clock may have been set back.
                last: now.max(said.first),
                ..said.clone()
            },
            None => Event {
                name: format!("{}.{:x}", note.subject.pod, now.as_nanosecond()),
                subject: note.subject,
                severity: note.severity,
                reason: note.reason,
                message,
                count: 1,
                first: now,
                last: now,
            },
        };
        self.said.insert((kind, key), (event.clone(), at));
        let pod = Subject {
            field: String::new(),
            ..subject
        };
        let budget = self.budgets.entry(pod).or_insert(Budget { left: BURST, since: at });
        budget.spend(at).then_some(event)
    }

    /// The key under which a message is counted, and the message to be shown.
    fn combine(&mut self, kind: &Kind, message: String, at: Instant) -> (String, String) {
        let (messages, since) = self
            .similar
            .entry(kind.clone())
            .or_insert_with(|| (BTreeSet::new(), at));
        if at - *since > SIMILAR_WITHIN {
            messages.clear();
        }
        *since = at;
        if messages.len() < SIMILAR || messages.contains(&message) {
            messages.insert(message.clone());
        }
        if messages.len() < SIMILAR {
            return (message.clone(), message);
        }
        // An empty message stands for the combined event: no real one is empty.
        (String::new(), format!("{COMBINED}{message}"))
    }

    fn forget(&mut self, at: Instant) {
        self.said.retain(|_, (_, last)| at - *last < FORGOTTEN);
        self.similar.retain(|_, (_, since)| at - *since < FORGOTTEN);
        self.budgets.retain(|_, budget| at - budget.since < REFILL * BURST);
    }
}

impl Budget {
    fn spend(&mut self, at: Instant) -> bool {
        while self.left < BURST && at - self.since >= REFILL {
            self.left += 1;
            self.since += REFILL;
        }
        if self.left == BURST {
            self.since = at;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}
