//! What the controller counts (`/metrics`).

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use proto::{Kind, Message, Operation, Route};

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// The counters. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    sent: Family<Labels<2>, Counter>,
    reports: Family<Labels<1>, Counter>,
    values: Family<Labels<1>, Counter>,
    writes: Family<Labels<1>, Counter>,
    pub(super) waiting: Gauge,
}

impl Metrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("cloudcore_devicecontroller");
        registry.register(
            "sent",
            "Messages about devices for connected nodes",
            metrics.sent.clone(),
        );
        registry.register(
            "reports",
            "Messages of nodes about devices, by what became of them",
            metrics.reports.clone(),
        );
        registry.register(
            "values_dropped",
            "Reported values that were not written, by the reason",
            metrics.values.clone(),
        );
        registry.register(
            "writes",
            "Writes of DeviceStatuses, by their outcome",
            metrics.writes.clone(),
        );
        registry.register(
            "waiting",
            "Devices with reported values that are not written yet",
            metrics.waiting.clone(),
        );
        metrics
    }

    pub(super) fn sent(&self, message: &Message) {
        let kind = match &message.route {
            Route::Object(path) if path.kind == Kind::Device => "device",
            Route::Object(_) => "devicemodel",
            _ => "membership",
        };
        let operation = match message.operation {
            Operation::Insert => "insert",
            Operation::Delete => "delete",
            _ => "update",
        };
        self.sent
            .get_or_create(&[("resource", kind), ("operation", operation)])
            .inc();
    }

    pub(super) fn report(&self, outcome: &'static str) {
        self.reports.get_or_create(&[("outcome", outcome)]).inc();
    }

    pub(super) fn dropped(&self, reason: &'static str, count: usize) {
        let counter = self.values.get_or_create(&[("reason", reason)]);
        counter.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }

    pub(super) fn write(&self, outcome: &'static str) {
        self.writes.get_or_create(&[("outcome", outcome)]).inc();
    }
}
