//! What is counted about MQTT (`/metrics`).

use std::sync::atomic::AtomicI64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Labels = [(&'static str, &'static str); 1];

/// The counters. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    received: Family<Labels, Counter>,
    published: Counter,
    publications_dropped: Counter,
    connected: Gauge<i64, AtomicI64>,
    connections: Counter,
    subscriptions: Gauge<i64, AtomicI64>,
    pub(super) uploads: Uploads,
}

/// Of uploads, the class *record*.
#[derive(Clone, Debug, Default)]
pub(super) struct Uploads {
    pub(super) taken: Counter,
    pub(super) sent: Counter,
    pub(super) acknowledged: Counter,
    pub(super) retried: Counter,
    pub(super) dropped: Counter,
    pub(super) dropped_bytes: Counter,
    pub(super) stored: Counter,
    pub(super) waiting: Gauge<i64, AtomicI64>,
    pub(super) waiting_bytes: Gauge<i64, AtomicI64>,
    pub(super) oldest_age_seconds: Gauge<i64, AtomicI64>,
}

impl Metrics {
    /// New counters, shown in the registry; `publications_dropped` counts in the queue to the external broker.
    pub(super) fn register(registry: &mut Registry, publications_dropped: Counter) -> Self {
        let metrics = Self {
            publications_dropped,
            ..Self::default()
        };
        let bus = registry.sub_registry_with_prefix("eventbus");
        let mut counter = |name: &str, help: &str, counter: &Counter| bus.register(name, help, counter.clone());
        counter(
            "published",
            "Messages handed to the external broker",
            &metrics.published,
        );
        counter(
            "publications_dropped",
            "Messages for the external broker that were dropped: it was away for too long, or they are larger than it may be sent, or their topic is none",
            &metrics.publications_dropped,
        );
        counter(
            "connections",
            "Connections to the external broker since the start",
            &metrics.connections,
        );
        let uploads = &metrics.uploads;
        counter("uploads", "Messages of MQTT clients for the cloud", &uploads.taken);
        counter(
            "uploads_sent",
            "Uploads handed to the cloud's connection",
            &uploads.sent,
        );
        counter(
            "uploads_acknowledged",
            "Uploads that the cloud acknowledged",
            &uploads.acknowledged,
        );
        counter("uploads_retried", "Uploads that are sent again", &uploads.retried);
        counter(
            "uploads_dropped",
            "Uploads that were dropped, the oldest first, because too many wait",
            &uploads.dropped,
        );
        counter("uploads_dropped_bytes", "Their bytes", &uploads.dropped_bytes);
        counter(
            "uploads_stored",
            "Uploads that were written to the database because the cloud did not take them in time",
            &uploads.stored,
        );
        let mut gauge = |name: &str, help: &str, gauge: &Gauge<i64, AtomicI64>| bus.register(name, help, gauge.clone());
        gauge(
            "uploads_waiting",
            "Uploads that the cloud has not taken",
            &uploads.waiting,
        );
        gauge("uploads_waiting_bytes", "Their bytes", &uploads.waiting_bytes);
        gauge(
            "uploads_oldest_age_seconds",
            "Age of the oldest upload that the cloud has not taken",
            &uploads.oldest_age_seconds,
        );
        gauge(
            "external_connected",
            "Connections to the external broker that are up",
            &metrics.connected,
        );
        gauge(
            "subscriptions",
            "Subscriptions of the cloud's rules",
            &metrics.subscriptions,
        );
        bus.register(
            "received",
            "Messages of MQTT clients, by who gets them",
            metrics.received.clone(),
        );
        metrics
    }

    pub(super) fn received(&self, to: &'static str) {
        self.received.get_or_create(&[("to", to)]).inc();
    }

    pub(super) fn published(&self) {
        self.published.inc();
    }

    pub(super) fn publication_dropped(&self) {
        self.publications_dropped.inc();
    }

    pub(super) fn connected(&self) {
        self.connections.inc();
        self.connected.inc();
    }

    pub(super) fn disconnected(&self) {
        self.connected.dec();
    }

    pub(super) fn subscriptions(&self, count: usize) {
        self.subscriptions.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
