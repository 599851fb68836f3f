//! When to ping and when to give the peer up (spec 04 §3, §8).

use std::time::{Duration, Instant};

use crate::tunnel::Role;

/// The clock of one tunnel.
#[derive(Debug)]
pub(super) struct Keepalive {
    rules: Rules,
    /// When the last frame of any sort came.
    heard: Instant,
    /// When the last ping was due.
    pinged: Instant,
    /// A peer of which something came is held to the short limit.
    serves: bool,
}

#[derive(Clone, Copy, Debug)]
struct Rules {
    ping: Ping,
    lost_after: Duration,
    /// The same before anything came.
    lost_at_first: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Ping {
    Every(Duration),
    AfterSilence(Duration),
}

#[derive(PartialEq, Eq, Debug)]
pub(super) enum Due {
    Nothing,
    Ping,
    /// The peer has been silent for so long.
    Lost(Duration),
}

impl Keepalive {
    /// `ours`: whether the peer answers pings at once. A Go peer answers them from a loop that one slow stream can hold up, and a Go
    /// cloud not at all in the first two minutes, while it looks for the Node.
    pub(super) const fn new(role: Role, ours: bool, now: Instant) -> Self {
        let rules = match (role, ours) {
            (Role::Edge, true) => Rules {
                ping: Ping::Every(PING_EVERY),
                lost_after: SILENCE,
                lost_at_first: SILENCE,
            },
            (Role::Edge, false) => Rules {
                ping: Ping::Every(PING_EVERY),
                lost_after: SILENCE,
                lost_at_first: FIRST_SILENCE_OF_GO_CLOUD,
            },
            (Role::Cloud, true) => Rules {
                ping: Ping::AfterSilence(HALF_SILENCE),
                lost_after: SILENCE,
                lost_at_first: SILENCE,
            },
            (Role::Cloud, false) => Rules {
                ping: Ping::AfterSilence(PING_GO_EDGE),
                lost_after: SILENCE_OF_GO_EDGE,
                lost_at_first: SILENCE_OF_GO_EDGE,
            },
        };
        Self {
            rules,
            heard: now,
            pinged: now,
            serves: false,
        }
    }

    pub(super) const fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.serves = true;
    }

    /// When [`Self::due`] is to be asked next.
    pub(super) fn deadline(&self) -> Instant {
        self.next_ping().min(self.lost_at())
    }

    pub(super) fn due(&mut self, now: Instant) -> Due {
        if now >= self.lost_at() {
            return Due::Lost(now - self.heard);
        }
        if now >= self.next_ping() {
            self.pinged = now;
            return Due::Ping;
        }
        Due::Nothing
    }

    fn next_ping(&self) -> Instant {
        match self.rules.ping {
            Ping::Every(period) => self.pinged + period,
            Ping::AfterSilence(silence) if self.pinged > self.heard => self.pinged + silence,
            Ping::AfterSilence(silence) => self.heard + silence,
        }
    }

    fn lost_at(&self) -> Instant {
        let limit = if self.serves {
            self.rules.lost_after
        } else {
            self.rules.lost_at_first
        };
        self.heard + limit
    }
}

const PING_EVERY: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(20);
const HALF_SILENCE: Duration = Duration::from_secs(10);
const FIRST_SILENCE_OF_GO_CLOUD: Duration = Duration::from_secs(150);
const PING_GO_EDGE: Duration = Duration::from_secs(60);
const SILENCE_OF_GO_EDGE: Duration = Duration::from_secs(120);
