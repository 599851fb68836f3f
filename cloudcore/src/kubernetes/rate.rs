//! The request rate that an operator asked for (`kubeAPIConfig.qps`, `burst`).

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A bucket of `burst` requests that fills at `qps`. Requests wait in the order of their coming.
pub(super) struct Rate {
    interval: Duration,
    burst: u32,
    /// When the bucket would be full again.
    full_at: Mutex<Instant>,
}

impl Rate {
    pub(super) fn new(qps: u32, burst: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / qps.max(1),
            burst: burst.max(1),
            full_at: Mutex::new(Instant::now()),
        }
    }

    /// Waits for this request's turn.
    pub(super) async fn turn(&self) {
        let now = Instant::now();
        let start = {
            let mut full_at = self.full_at.lock();
            *full_at = (*full_at).max(now) + self.interval;
            (*full_at).checked_sub(self.interval * self.burst)
        };
        if let Some(start) = start.filter(|start| *start > now) {
            tokio::time::sleep_until(start).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let rate = Rate::new(10, 3);
        let start = Instant::now();
        for _ in 0..3 {
            rate.turn().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        rate.turn().await;
        rate.turn().await;
        assert!(start.elapsed() >= Duration::from_millis(200) && start.elapsed() < Duration::from_millis(205));
    }
}
