//! When the set of pods may be believed: a state machine without I/O.

use std::time::Duration;

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
    /// Objects received in this session.
    received: u64,
    /// Objects that the inventory's answer announced.
    expected: Option<u64>,
    /// Since when silence means that all was said.
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
            received: 0,
            expected: None,
            since: None,
        });
    }

    pub(super) fn disconnected(&mut self) {
        self.session = None;
    }

    pub(super) fn received(&mut self) {
        if let Some(session) = &mut self.session {
            session.received += 1;
        }
    }

    pub(super) fn compared(&mut self, sent: u64, now: Instant) {
        if let Some(session) = &mut self.session {
            session.expected = Some(sent);
            session.since = Some(now);
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
        let waited = session.since.is_some_and(|since| now >= since + GRACE);
        self.ready = if session.inventory {
            session.expected.is_some_and(|expected| session.received >= expected) || waited
        } else {
            self.adopted && waited
        };
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
        readiness.received();
        readiness.compared(2, now);
        assert!(!readiness.check(now));
        readiness.received();
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
