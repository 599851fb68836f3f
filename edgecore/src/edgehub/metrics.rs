//! What is counted about the link (`/metrics`).

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

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

/// What became of a message that was not delivered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Dropped {
    class: &'static str,
    reason: &'static str,
}

/// The counters. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    sent: Family<Class, Counter>,
    received: Family<Class, Counter>,
    acknowledged: Family<Class, Counter>,
    retried: Family<Class, Counter>,
    dropped: Family<Dropped, Counter>,
    oldest: Family<Class, Gauge<f64, AtomicU64>>,
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
            "Messages that came to nobody, by class and reason",
            metrics.dropped.clone(),
        );
        registry.register(
            "messages_acknowledged",
            "Messages that the cloud answered, by class",
            metrics.acknowledged.clone(),
        );
        registry.register(
            "messages_retried",
            "Messages without an answer in time, which their owners send again, by class",
            metrics.retried.clone(),
        );
        registry.register(
            "messages_oldest_age_seconds",
            "Age of the oldest message that waits for its answer, by class, as of the last ping (every 10 s)",
            metrics.oldest.clone(),
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

    pub(super) fn acknowledged(&self, class: &Class) {
        self.acknowledged.get_or_create(class).inc();
    }

    pub(super) fn retried(&self, class: &Class) {
        self.retried.get_or_create(class).inc();
    }

    pub(super) fn dropped(&self, message: &Message, reason: &'static str) {
        let Class { class } = class(message);
        self.dropped.get_or_create(&Dropped { class, reason }).inc();
    }

    /// The ages of what waits, in any order; classes that are absent have nothing waiting.
    pub(super) fn waiting(&self, ages: impl Iterator<Item = (Class, Duration)>) {
        self.oldest.clear();
        for (class, age) in ages {
            let oldest = self.oldest.get_or_create(&class);
            oldest.set(oldest.get().max(age.as_secs_f64()));
        }
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

pub(super) fn class(message: &Message) -> Class {
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
