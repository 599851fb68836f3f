//! Back-pressure for a peer that knows no credits: its streams cannot be held back one by one, only the socket.
//!
//! A command on an edge that takes its input more slowly than a Go cloud sends it would come to its cap and end. So while a lot
//! waits and readers get on with it, the socket is read no faster than they take; a reader that stands still brakes nobody for long,
//! and is ended alone at its cap. However slowly they take, the socket is read now and then: what the peer says of itself, its signs
//! of life above all, comes the same way. No I/O.

use std::time::{Duration, Instant};

/// Bytes that may wait before the socket does; well below the cap of one stream.
const HIGH: usize = 4 * 1024 * 1024;
/// Readers that take nothing for this long stand still.
const PATIENCE: Duration = Duration::from_millis(500);
/// The socket waits no longer than this for a read; a tunnel from which nothing came for 20 s ends.
const LONGEST: Duration = Duration::from_secs(5);
/// How long the socket waits before what readers took is looked at again: less than they need for all that waits.
pub(super) const PAUSE: Duration = Duration::from_millis(3);

#[derive(Debug, Default)]
pub(super) struct Brake {
    /// What waited at the last look, and when it last became less.
    seen: Option<(usize, Instant)>,
    /// Since when the socket has waited.
    since: Option<Instant>,
}

impl Brake {
    /// Whether the socket is to wait, with so many bytes waiting for their readers.
    pub(super) fn holds(&mut self, now: Instant, waiting: usize) -> bool {
        if waiting < HIGH {
            *self = Self::default();
            return false;
        }
        let moved = match self.seen {
            Some((before, moved)) if waiting >= before => moved,
            _ => now,
        };
        self.seen = Some((waiting, moved));
        let since = *self.since.get_or_insert(now);
        now.saturating_duration_since(moved) < PATIENCE && now.saturating_duration_since(since) < LONGEST
    }

    /// After a read: what it brought is no sign of readers.
    pub(super) fn read(&mut self, waiting: usize) {
        self.since = None;
        if let Some((before, _)) = &mut self.seen {
            *before = waiting;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_that_get_on_hold_the_socket_and_those_that_stand_still_do_not() {
        let mut brake = Brake::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        assert!(!brake.holds(at(0), HIGH - 1));
        assert!(brake.holds(at(0), HIGH + 1000));
        // They take, slowly, for as long as it needs; now and then it is read all the same.
        for step in 1..20 {
            let waiting = HIGH + 1000 - usize::try_from(step).expect("small");
            let holds = brake.holds(at(step * 400), waiting);
            assert_eq!(holds, step != 13, "{step}");
            if !holds {
                brake.read(waiting);
            }
        }
        assert!(!brake.holds(at(8000), HIGH - 1));
        // Nobody takes: after a while the socket is read again, and goes on being read.
        assert!(brake.holds(at(9000), HIGH));
        assert!(brake.holds(at(9400), HIGH));
        assert!(!brake.holds(at(9600), HIGH));
        brake.read(HIGH + 64_000);
        assert!(!brake.holds(at(9700), HIGH + 64_000));
        assert!(brake.holds(at(9800), HIGH + 1000), "somebody took");
    }
}
