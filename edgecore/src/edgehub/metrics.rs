//! What is counted about the link (`/metrics`).

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use proto::{Kind, Message, Operation, Source};

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

/// State is what this node says of itself, objects are what the cloud and edged want to be; records are each kept until taken.
pub(super) fn class(message: &Message) -> Class {
    let class = match &message.operation {
        Operation::Keepalive => "keepalive",
        Operation::Response if message.parent.is_some() => "answer",
        Operation::Error => "refusal",
        Operation::Query | Operation::Get => "question",
        Operation::Insert | Operation::Update | Operation::Delete | Operation::Patch => told(message),
        Operation::Upload | Operation::Publish | Operation::UpdateNodeActionStatus => "record",
        _ => "other",
    };
    Class { class }
}

fn told(message: &Message) -> &'static str {
    match (message.route.kind(), &message.source) {
        (Some(Kind::Event), _) => "record",
        (Some(Kind::Lease | Kind::NodeStatus | Kind::NodePatch | Kind::PodStatus | Kind::PodPatch), _)
        | (Some(Kind::Node), Source::Edged)
        // Of devices: values and states.
        | (None, Source::Twin) => "state",
        _ => "object",
    }
}

#[cfg(test)]
mod tests {
    use proto::device::{DeviceId, DevicePart, DeviceTopic};
    use proto::{Content, Group, ObjectPath, Route};

    use super::*;

    #[test]
    fn messages_are_counted_by_what_they_are() {
        let of = |source: Source, operation: Operation, route: Route| {
            class(&Message::new(
                source,
                Group::Resource,
                operation,
                route,
                Content::null(),
            ))
            .class
        };
        let edged = |operation, kind| of(Source::Edged, operation, ObjectPath::new("a", kind, "b").into());
        assert_eq!(edged(Operation::Update, Kind::Lease), "state");
        assert_eq!(edged(Operation::Insert, Kind::Node), "state");
        assert_eq!(edged(Operation::Patch, Kind::NodePatch), "state");
        assert_eq!(edged(Operation::Patch, Kind::PodPatch), "state");
        assert_eq!(edged(Operation::Update, Kind::Event), "record");
        assert_eq!(edged(Operation::Query, Kind::Lease), "question");
        assert_eq!(edged(Operation::Delete, Kind::Pod), "object");
        for part in [DevicePart::Twin, DevicePart::State] {
            let device = DeviceId::new("default", "d");
            let report = DeviceTopic { device, part }.route();
            assert_eq!(of(Source::Twin, Operation::Update, report), "state");
        }
        let upload = of(Source::Bus, Operation::Upload, Route::Other("default/user/x".into()));
        assert_eq!(upload, "record");
        let cloud = |source, kind| of(source, Operation::Update, ObjectPath::new("a", kind, "b").into());
        assert_eq!(cloud(Source::EdgeController, Kind::Node), "object");
        assert_eq!(cloud(Source::DeviceController, Kind::Device), "object");
    }
}
