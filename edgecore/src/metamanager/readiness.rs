//! When the set of pods may be believed: a state machine without I/O.

use std::collections::BTreeSet;
use std::time::Duration;

use common::order;
use proto::Uid;
use tokio::time::Instant;

/// How long after the first answer about the node a cloud without inventory gets to send the pods it holds undelivered: its
/// reconciliation runs every 5 s, one message is out at a time.
pub(super) const GRACE: Duration = Duration::from_secs(15);

/// What is known about the completeness of the pods.
#[derive(Debug)]
pub(super) struct Readiness {
    ready: bool,
    adopted: bool,
    session: Option<Session>,
}

#[derive(Debug)]
struct Session {
    inventory: bool,
    /// Pods that came in this session, or went.
    arrived: BTreeSet<Uid>,
    /// Pods that the inventory's answer announced and that have not come: the answer may overtake them.
    missing: Option<BTreeSet<Uid>>,
    /// Since when silence means that all was said; for a cloud without inventory.
    since: Option<Instant>,
}

impl Readiness {
    pub(super) const fn new(filled: bool) -> Self {
        Self {
            ready: filled,
            adopted: false,
            session: None,
        }
    }

    pub(super) const fn is_ready(&self) -> bool {
        self.ready
    }

    /// Whether the cloud of this session has to be asked for each running pod.
    pub(super) fn wants_adoption(&self) -> bool {
        !self.ready && !self.adopted && self.session.as_ref().is_some_and(|session| !session.inventory)
    }

    pub(super) fn connected(&mut self, inventory: bool) {
        self.session = Some(Session {
            inventory,
            arrived: BTreeSet::new(),
            missing: None,
            since: None,
        });
    }

    pub(super) fn disconnected(&mut self) {
        self.session = None;
    }

    /// A pod is stored, or removed.
    pub(super) fn arrived(&mut self, uid: Uid) {
        if !self.ready
            && let Some(session) = &mut self.session
            && session.inventory
        {
            if let Some(missing) = &mut session.missing {
                missing.remove(&uid);
            }
            session.arrived.insert(uid);
        }
    }

    /// The cloud compared inventories; these pods are not known yet.
    pub(super) fn compared(&mut self, unknown: BTreeSet<Uid>) {
        if let Some(session) = &mut self.session {
            session.missing = Some(order::set(unknown.difference(&session.arrived).cloned()));
        }
    }

    pub(super) fn node_answered(&mut self, now: Instant) {
        if let Some(session) = &mut self.session
            && !session.inventory
        {
            session.since.get_or_insert(now);
        }
    }

    pub(super) const fn adopted(&mut self) {
        self.adopted = true;
    }

    /// When to ask [`Readiness::check`] again without any other event.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.ready {
            return None;
        }
        self.session
            .as_ref()
            .and_then(|session| session.since)
            .map(|since| since + GRACE)
    }

    /// Returns true once: at the moment the pods are all known.
    pub(super) fn check(&mut self, now: Instant) -> bool {
        if self.ready {
            return false;
        }
        let Some(session) = &self.session else { return false };
        self.ready = if session.inventory {
            session.missing.as_ref().is_some_and(BTreeSet::is_empty)
        } else {
            self.adopted && session.since.is_some_and(|since| now >= since + GRACE)
        };
        if self.ready {
            self.session = None;
        }
        self.ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_cloud_with_inventory_is_believed_when_all_it_announced_came() {
        let now = Instant::now();
        let mut readiness = Readiness::new(false);
        assert!(!readiness.check(now));
        readiness.connected(true);
        readiness.arrived(Uid::new("u1"));
        assert!(!readiness.check(now), "nothing was compared yet");
        readiness.compared(["u1", "u2", "u3"].map(Uid::new).into());
        for _ in 0..3 {
            readiness.arrived(Uid::new("u1"));
            readiness.arrived(Uid::new("another"));
        }
        readiness.arrived(Uid::new("u2"));
        assert!(
            !readiness.check(now + GRACE * 9),
            "however much else came, and however long ago"
        );
        readiness.arrived(Uid::new("u3"));
        assert!(readiness.check(now) && readiness.is_ready());
        assert!(!readiness.check(now), "told once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cloud_without_inventory_needs_grace_and_adoption() {
        let now = Instant::now();
        let mut readiness = Readiness::new(false);
        readiness.connected(false);
        readiness.node_answered(now);
        assert!(readiness.wants_adoption());
        assert!(!readiness.check(now + GRACE), "running pods were not asked for yet");
        readiness.adopted();
        assert!(!readiness.check(now + GRACE / 2));
        readiness.disconnected();
        assert!(!readiness.check(now + GRACE * 2), "no session, no knowledge");
        readiness.connected(false);
        readiness.node_answered(now + GRACE * 2);
        assert!(readiness.check(now + GRACE * 3));
    }

    #[test]
    fn a_filled_database_is_ready_at_once() {
        let readiness = Readiness::new(true);
        assert!(readiness.is_ready() && !readiness.wants_adoption() && readiness.deadline().is_none());
    }
}
