//! What the manager counts (`/metrics`).

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The figures.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    rules: Gauge,
    repairs: Counter,
}

impl Metrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("cloudcore_iptablesmanager");
        registry.register(
            "rules",
            "Redirect rules of this host that were last seen in their place",
            metrics.rules.clone(),
        );
        registry.register(
            "repairs",
            "Times that redirect rules had been changed by others and were put back",
            metrics.repairs.clone(),
        );
        metrics
    }

    pub(super) fn rules(&self, count: usize) {
        self.rules.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn repaired(&self) {
        self.repairs.inc();
    }
}
