//! Answers to a Go edge wait a moment.
//!
//! Whoever asks there first hands its question to the connection and then begins to wait; an answer that is back before that is thrown
//! away, and the asker, often a kubelet's only loop, stands still for its whole minute (peer file
//! `beehive/pkg/core/channel/context_channel.go`, `SendSync` and `SendResp`). Go's cloud asks the API server meanwhile, ours often need not.

use std::collections::VecDeque;
use std::time::Duration;

use proto::Message;
use tokio::time::Instant;

use super::Lane;

/// What Go's cloud needs for an answer at the least, and more than a goroutine needs from one line to the next.
const PAUSE: Duration = Duration::from_millis(10);

/// Answers that may wait; one more and the oldest goes at once.
const MOST: usize = 256;

/// In order of arrival, which is that of their time.
#[derive(Default)]
pub(super) struct Held {
    queue: VecDeque<(Instant, Message, Lane)>,
}

impl Held {
    /// Keeps an answer; gives the oldest one where that is too many.
    pub(super) fn push(&mut self, now: Instant, message: Message, lane: Lane) -> Option<(Message, Lane)> {
        self.queue.push_back((now + PAUSE, message, lane));
        if self.queue.len() <= MOST {
            return None;
        }
        self.queue.pop_front().map(|(_, message, lane)| (message, lane))
    }

    /// When there is something to take.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.queue.front().map(|(due, ..)| *due)
    }

    /// An answer whose time has come.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Message, Lane)> {
        if self.next_due()? > now {
            return None;
        }
        let (_, message, lane) = self.queue.pop_front()?;
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        Some((message, lane))
    }
}
