//! Waiting for conditions with a deadline. Every wait says on standard output what it waited for and how long it took, so
//! that the log of a run is also its measurement.
//!
//! Where something is asked for within a number of seconds, a scenario waits ten times that, but at least 5 s and at most 120 s, and
//! prints what it took: a busy machine fails no scenario. Figures are judged by the marks alone ([`crate::bench`]).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How often a condition is looked at in the first second, fine enough for a mark of 0.45 s, ...
const POLL_FIRST: Duration = Duration::from_millis(10);
/// ... and later, rarely enough not to be the load itself.
const POLL: Duration = Duration::from_millis(50);

/// Waits until `look` gives a value, and tells how long that took. An error of `look` counts as "not yet": the last one is
/// part of the message when the deadline passes.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    let value = quietly(what, limit, &mut look)?;
    println!("    {what}: {:.2} s", start.elapsed().as_secs_f64());
    Ok(value)
}

/// As [`until`], without a line of output.
pub fn quietly<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        // A look that began before the deadline and took long, or a pause of the machine, is not the last one.
        let is_last = start.elapsed() >= limit;
        let last = match look() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if is_last {
            let text = format!("{what}: not within {} s", limit.as_secs());
            return match last {
                Some(error) => Err(error).context(text),
                None => bail!(text),
            };
        }
        pause(if start.elapsed() < Duration::from_secs(1) {
            POLL_FIRST
        } else {
            POLL
        });
    }
}

/// Checks for the whole of `period` that `look` stays true; the error names the moment it did not.
pub fn stays(what: &str, period: Duration, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < period {
        if !look()? {
            bail!("{what}: no longer true after {:.2} s", start.elapsed().as_secs_f64());
        }
        pause(POLL * 4);
    }
    println!("    {what}: held for {} s", period.as_secs());
    Ok(())
}

/// Lets time pass. Only for what is itself a length of time (a cut of 42 s); conditions are awaited with [`until`].
#[allow(
    clippy::disallowed_methods,
    reason = "other programs are watched from outside: there is nothing to be woken by"
)]
pub fn pause(period: Duration) {
    std::thread::sleep(period);
}

/// A number of seconds.
#[must_use]
pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
