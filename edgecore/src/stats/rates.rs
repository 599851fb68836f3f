//! How busy a group of processes was lately: from its processor time in two looks.
//!
//! A kubelet looks all the time to have a rate at hand. Here the last look is kept while somebody asks, and who asks after a pause is
//! made to wait for a second one.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Two looks are at least this far apart.
pub(super) const LEAST: Duration = Duration::from_millis(250);
/// What was not looked at for this long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(120);

/// The last looks, by path.
#[derive(Debug, Default)]
pub(super) struct Rates {
    known: Mutex<HashMap<String, Sample>>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    nanos: u64,
    /// Billionths of a processor.
    rate: Option<u64>,
}

impl Rates {
    /// Tells of a look, and forgets what has not been looked at.
    pub(super) fn note<'a>(&self, looks: impl Iterator<Item = (&'a str, u64)>) {
        let now = Instant::now();
        let mut known = self.known.lock();
        for (path, nanos) in looks {
            let before = known.get(path).copied();
            let rate = match before {
                Some(before) if now - before.at < LEAST => continue,
                Some(before) => nanos
                    .checked_sub(before.nanos)
                    .map(|spent| per_second(spent, now - before.at)),
                None => None,
            };
            known.insert(path.to_owned(), Sample { at: now, nanos, rate });
        }
        known.retain(|_, sample| now - sample.at < FORGOTTEN);
    }

    /// The rate, once there were two looks.
    pub(super) fn of(&self, path: &str) -> Option<u64> {
        self.known.lock().get(path)?.rate
    }

    /// Whether nobody looked lately.
    pub(super) fn is_empty(&self) -> bool {
        let now = Instant::now();
        self.known.lock().values().all(|sample| now - sample.at >= FORGOTTEN)
    }
}

fn per_second(nanos: u64, period: Duration) -> u64 {
    let rate = u128::from(nanos) * 1_000_000_000 / period.as_nanos().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_needs_two_looks_some_time_apart() {
        let rates = Rates::default();
        assert!(rates.is_empty());
        rates.note([("a", 1_000)].into_iter());
        assert_eq!(rates.of("a"), None);
        tokio::time::advance(Duration::from_millis(100)).await;
        rates.note([("a", 2_000)].into_iter());
        assert_eq!(rates.of("a"), None, "too early");
        tokio::time::advance(Duration::from_millis(900)).await;
        rates.note([("a", 500_001_000), ("b", 7)].into_iter());
        assert_eq!(rates.of("a"), Some(500_000_000), "half a processor");
        tokio::time::advance(Duration::from_secs(1)).await;
        // A container of the same path that began anew.
        rates.note([("a", 5)].into_iter());
        assert_eq!(rates.of("a"), None);
        tokio::time::advance(FORGOTTEN).await;
        assert!(rates.is_empty());
        rates.note(std::iter::empty());
        assert!(rates.known.lock().is_empty());
    }
}
