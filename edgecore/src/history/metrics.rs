//! What is counted about the history (`/metrics`).

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::store::Usage;

/// Why a value is not there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// The counters. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    stored: Counter,
    lost: Family<Reason, Counter>,
    removed: Family<Reason, Counter>,
    values: Gauge<i64, AtomicI64>,
    bytes: Gauge<i64, AtomicI64>,
}

impl Metrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("history");
        registry.register("values_stored", "Values written to history.db", metrics.stored.clone());
        registry.register(
            "values_lost",
            "Values that were never written: behind (the reader was too slow: batches of them), busy (the disk was), properties (too many of them)",
            metrics.lost.clone(),
        );
        registry.register(
            "values_removed",
            "Values that made room, by the bound: values, bytes, age; or that went with their device: device",
            metrics.removed.clone(),
        );
        registry.register("values", "Values in history.db", metrics.values.clone());
        registry.register("bytes", "Bytes of history.db in use", metrics.bytes.clone());
        metrics
    }

    pub(super) fn stored(&self, count: u64) {
        self.stored.inc_by(count);
    }

    pub(super) fn lost(&self, reason: &'static str, count: u64) {
        if count > 0 {
            self.lost.get_or_create(&Reason { reason }).inc_by(count);
        }
    }

    pub(super) fn removed(&self, reason: &'static str, count: u64) {
        if count > 0 {
            self.removed.get_or_create(&Reason { reason }).inc_by(count);
        }
    }

    pub(super) fn usage(&self, usage: Usage) {
        self.values.set(i64::try_from(usage.values).unwrap_or(i64::MAX));
        self.bytes.set(i64::try_from(usage.bytes).unwrap_or(i64::MAX));
    }
}
