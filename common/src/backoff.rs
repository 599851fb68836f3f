//! Exponential back-off with jitter.

use std::time::Duration;

/// Delays that double from `first` to `max`, each with up to `jitter` added at random.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    jitter: f64,
    failures: u32,
}

impl Backoff {
    /// Delays from `first` to `max`; a fifth of each is added at random at most.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max,
            jitter: 0.2,
            failures: 0,
        }
    }

    /// The same with another share of randomness (0 for none).
    #[must_use]
    pub const fn with_jitter(mut self, jitter: f64) -> Self {
        self.jitter = jitter;
        self
    }

    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        let base = self
            .first
            .saturating_mul(1u32.checked_shl(self.failures.min(31)).unwrap_or(u32::MAX))
            .min(self.max);
        self.failures = self.failures.saturating_add(1);
        base.mul_f64(self.jitter.mul_add(random_unit(), 1.0))
    }

    /// Back to the first delay.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// How many delays were taken since the last reset.
    pub const fn failures(&self) -> u32 {
        self.failures
    }
}

/// A random number in [0, 1), good for jitter only.
pub fn random_unit() -> f64 {
    let [a, b, c, d, ..] = uuid::Uuid::new_v4().into_bytes();
    let bits = u32::from_be_bytes([a, b, c, d]);
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_maximum_and_resets() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5)).with_jitter(0.0);
        let delays: Vec<u64> = (0..4).map(|_| backoff.next_delay().as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 5]);
        backoff.reset();
        assert_eq!(backoff.next_delay().as_secs(), 1);
    }

    #[test]
    fn jitter_only_adds() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let delay = backoff.next_delay();
        assert!(
            delay >= Duration::from_secs(1) && delay <= Duration::from_millis(1200),
            "{delay:?}"
        );
    }
}
