//! How much of the bulk lane may be under way on a WebSocket at once.
//!
//! TCP fills the longest queue on its way, and what is urgent then waits in it for seconds. So pings go between the bulk frames, which
//! every WebSocket peer answers: what lies between the oldest unanswered ping and now is under way. While answers take little longer
//! than they did at best, more may be; when they take longer, a queue is building somewhere, and less may be.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// What may be under way at first …
const FIRST: usize = 16 * 1024;
/// … at least …
const LEAST: usize = 8 * 1024;
/// … and at most.
const MOST: usize = 4 * 1024 * 1024;
/// Pings in a window.
const PINGS: usize = 4;
/// How much longer than at best an answer may take.
const QUEUE: Duration = Duration::from_millis(100);

/// The state, without I/O.
#[derive(Debug)]
pub(super) struct Pace {
    window: usize,
    /// Pings without an answer: number, when it was sent, bytes between it and the one before.
    asked: VecDeque<(u32, Instant, usize)>,
    /// Bytes between the oldest unanswered ping and the newest ping.
    flight: usize,
    /// Bytes since the newest ping.
    since: usize,
    number: u32,
    best: Option<Duration>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            window: FIRST,
            asked: VecDeque::new(),
            flight: 0,
            since: 0,
            number: 0,
            best: None,
        }
    }
}

impl Pace {
    /// Since when nothing may be sent for want of an answer.
    pub(super) fn blocked(&self) -> Option<Instant> {
        let full = self.flight + self.since >= self.window;
        self.asked.front().filter(|_| full).map(|(_, sent, _)| *sent)
    }

    /// The newest ping without an answer, to be asked again: a Go peer that is busy writing gives up an answer after 1 s.
    pub(super) fn unanswered(&self) -> Option<[u8; 4]> {
        self.asked.back().map(|(number, ..)| number.to_be_bytes())
    }

    /// Bytes were sent. Returns the ping that is to follow them.
    pub(super) fn sent(&mut self, now: Instant, bytes: usize) -> Option<[u8; 4]> {
        self.since += bytes;
        if self.since < self.window / PINGS {
            return None;
        }
        self.number = self.number.wrapping_add(1);
        self.asked.push_back((self.number, now, self.since));
        self.flight += self.since;
        self.since = 0;
        Some(self.number.to_be_bytes())
    }

    /// A pong came. Returns whether nothing is under way any more.
    pub(super) fn answered(&mut self, now: Instant, payload: &[u8]) -> bool {
        let known = self
            .asked
            .iter()
            .position(|(number, ..)| number.to_be_bytes() == payload);
        let Some(position) = known else { return false };
        // A peer may answer the newest of several pings only.
        let (mut bytes, mut took) = (0, Duration::ZERO);
        for (_, sent, part) in self.asked.drain(..=position) {
            bytes += part;
            took = now.duration_since(sent);
        }
        self.flight = self.flight.saturating_sub(bytes);
        let best = self.best.map_or(took, |best| best.min(took));
        self.best = Some(best);
        self.window = if took <= best + QUEUE / 2 {
            self.window + bytes
        } else if took <= best + QUEUE {
            self.window
        } else {
            let share = (best + QUEUE).as_secs_f64() / took.as_secs_f64();
            scaled(self.window, share)
        };
        self.window = self.window.clamp(LEAST, MOST);
        self.asked.is_empty()
    }
}

/// A share between 0 and 1 of a window.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "windows are below 2^23 and shares between 0 and 1"
)]
fn scaled(window: usize, share: f64) -> usize {
    (window as f64 * share) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Sends for `rounds` over a line with a queue: returns the largest number of bytes that were under way in the second half.
    fn over_a_line(bytes_per_ms: usize, delay: Duration, rounds: u32) -> usize {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        let (mut line_free, mut most) = (now, 0);
        let mut under_way: VecDeque<([u8; 4], Instant)> = VecDeque::new();
        for round in 0..rounds {
            now += MS;
            while let Some((_, due)) = under_way.front()
                && *due <= now
            {
                let Some((ping, _)) = under_way.pop_front() else { break };
                pace.answered(now, &ping);
            }
            while pace.blocked().is_none() {
                line_free = line_free.max(now) + MS * u32::try_from(4096 / bytes_per_ms).unwrap_or(1);
                if let Some(ping) = pace.sent(now, 4096) {
                    under_way.push_back((ping, line_free + delay));
                }
            }
            if round > rounds / 2 {
                most = most.max(pace.flight + pace.since);
            }
        }
        most
    }

    #[test]
    fn a_slow_line_gets_what_it_carries_in_a_moment_and_a_fast_one_what_it_takes() {
        // 1 Mbit/s, 40 ms: 125 bytes a ms.
        let slow = over_a_line(125, 40 * MS, 20_000);
        assert!((5_000..=40_000).contains(&slow), "{slow}");
        // 32 Mbit/s, 200 ms: 820 kB are needed to keep it busy.
        let fast = over_a_line(4096, 200 * MS, 20_000);
        assert!(fast >= 820_000, "{fast}");
    }

    #[test]
    fn nothing_is_asked_for_little_and_unknown_answers_say_nothing() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.sent(now, 1000), None);
        assert!(!pace.answered(now, b"else"));
        assert_eq!(pace.blocked(), None);
        let ping = pace.sent(now, 20_000).expect("a ping");
        assert_eq!((pace.blocked(), pace.unanswered()), (Some(now), Some(ping)));
        assert!(pace.answered(now + MS, &ping));
        assert_eq!(pace.blocked(), None);
    }
}
