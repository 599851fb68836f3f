//! What is counted about devices (`/metrics`).

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The counters. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    pub(super) requests: Counter,
    pub(super) reported: Counter,
    pub(super) confirmed: Counter,
    pub(super) unanswered: Counter,
    pub(super) coalesced: Counter,
    pub(super) unstored: Counter,
    pub(super) oldest: Gauge<f64, AtomicU64>,
    pub(super) devices: Gauge<i64, AtomicI64>,
}

impl Metrics {
    /// New counters, shown in the registry; `dropped` counts publications that nobody read.
    pub(super) fn register(registry: &mut Registry, dropped: Counter) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("devicetwin");
        registry.register(
            "requests",
            "Requests of MQTT clients and mappers that were worked on",
            metrics.requests.clone(),
        );
        registry.register(
            "reports_sent",
            "Messages about twins and states sent to the cloud",
            metrics.reported.clone(),
        );
        registry.register(
            "reports_confirmed",
            "Messages about twins and states that the cloud confirmed",
            metrics.confirmed.clone(),
        );
        registry.register(
            "reports_unanswered",
            "Messages about twins and states without a confirmation in time; the values are sent again",
            metrics.unanswered.clone(),
        );
        registry.register(
            "reports_coalesced",
            "Changes that a newer one of the same property overtook before the cloud was told",
            metrics.coalesced.clone(),
        );
        registry.register(
            "requests_unstored",
            "Batches of requests that could not be stored and were refused",
            metrics.unstored.clone(),
        );
        registry.register(
            "publications_dropped",
            "Messages for MQTT that were dropped because nobody took them",
            dropped,
        );
        registry.register(
            "unconfirmed_oldest_age_seconds",
            "Age of the oldest change that the cloud has not confirmed, as of the last one",
            metrics.oldest.clone(),
        );
        registry.register("devices", "Devices of this node", metrics.devices.clone());
        metrics
    }
}
