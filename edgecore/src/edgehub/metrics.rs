//! What is counted about the link (`/metrics`).

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use proto::{Message, Operation};

/// The class that a message belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Class {
    class: &'static str,
}

/// The counters. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    sent: Family<Class, Counter>,
    received: Family<Class, Counter>,
    dropped: Family<Class, Counter>,
    sessions: Counter,
    up: Gauge<i64, AtomicI64>,
    certificate_days: Gauge<i64, AtomicI64>,
}

impl Metrics {
    /// New counters, shown in the registry.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("edgehub");
        registry.register(
            "messages_sent",
            "Messages sent to the cloud, by class",
            metrics.sent.clone(),
        );
        registry.register(
            "messages_received",
            "Messages received from the cloud, by class",
            metrics.received.clone(),
        );
        registry.register(
            "messages_dropped",
            "Messages of the cloud that nobody here takes",
            metrics.dropped.clone(),
        );
        registry.register(
            "sessions",
            "Sessions with the cloud since the start",
            metrics.sessions.clone(),
        );
        registry.register("link_up", "1 while there is a session", metrics.up.clone());
        registry.register(
            "certificate_days",
            "Days until the node's certificate expires",
            metrics.certificate_days.clone(),
        );
        metrics
    }

    pub(super) fn sent(&self, message: &Message) {
        self.sent.get_or_create(&class(message)).inc();
    }

    pub(super) fn received(&self, message: &Message) {
        self.received.get_or_create(&class(message)).inc();
    }

    pub(super) fn dropped(&self, class: &'static str) {
        self.dropped.get_or_create(&Class { class }).inc();
    }

    pub(super) fn link(&self, up: bool) {
        self.up.set(i64::from(up));
        if up {
            self.sessions.inc();
        }
    }

    pub(super) fn certificate(&self, days: i64) {
        self.certificate_days.set(days);
    }
}

fn class(message: &Message) -> Class {
    let class = match &message.operation {
        Operation::Keepalive => "keepalive",
        Operation::Response if message.parent.is_some() => "answer",
        Operation::Error => "refusal",
        Operation::Query | Operation::Get => "question",
        Operation::Patch => "state",
        Operation::Insert | Operation::Update | Operation::Delete => "object",
        Operation::Upload => "record",
        _ => "other",
    };
    Class { class }
}
