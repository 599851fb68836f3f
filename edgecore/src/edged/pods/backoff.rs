//! How long a container that ended waits before it starts again.
//!
//! The delay that follows a container's end is written on the container itself, so that a restart of edgecore forgets nothing.
//! Containers of a Go edgecore carry none: theirs follows from the number of restarts.

use super::observed::ContainerRecord;

/// The first delay in seconds; the first restart of all waits for nothing.
const FIRST: u64 = 10;
/// The longest delay in seconds.
const LONGEST: u64 = 300;
/// A container that ran for this long starts from the beginning, in seconds.
const FORGIVEN: i64 = 600;
const SECOND: i64 = 1_000_000_000;

/// What is to be done about a container that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    /// Start it; should that one end, it waits for so many seconds.
    Now { next_delay: u64 },
    /// Wait until then (nanoseconds since 1970); the delay in seconds is for the message.
    Wait { until: i64, delay: u64 },
}

/// Decides by the last container that ended, if there was one.
pub(super) fn restart(last: Option<&ContainerRecord>, now: i64) -> Restart {
    let Some(last) = last else {
        return Restart::Now { next_delay: 0 };
    };
    let ran = last.finished_at.saturating_sub(last.started_at);
    if last.started_at > 0 && ran >= FORGIVEN * SECOND {
        return Restart::Now { next_delay: FIRST };
    }
    let delay = last
        .restart_delay
        .unwrap_or_else(|| estimated(last.restart_count))
        .min(LONGEST);
    let until = last
        .finished_at
        .saturating_add(i64::try_from(delay).unwrap_or(0) * SECOND);
    // A clock that was set back must not hold a container for longer than its delay.
    if now < until && now >= last.finished_at.saturating_sub(LONGEST_I64 * SECOND) {
        return Restart::Wait { until, delay };
    }
    Restart::Now {
        next_delay: if delay == 0 { FIRST } else { (delay * 2).min(LONGEST) },
    }
}

fn estimated(restarts: u32) -> u64 {
    match restarts {
        0 => 0,
        n => FIRST
            .saturating_mul(1u64.checked_shl(n - 1).unwrap_or(u64::MAX))
            .min(LONGEST),
    }
}

const LONGEST_I64: i64 = 300;
