//! What the controller counts about the nodes' requests (`/metrics`).

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use proto::{Message, Operation};

type Labels = [(&'static str, &'static str); 2];

/// The counters. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    served: Family<Labels, Counter>,
    seconds: Family<Labels, Counter<f64, AtomicU64>>,
    dropped: Family<Labels, Counter>,
    running: Gauge,
}

impl Metrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("cloudcore_edgecontroller");
        registry.register(
            "requests",
            "Requests of nodes that were worked on",
            metrics.served.clone(),
        );
        registry.register(
            "requests_seconds",
            "Time that requests of nodes took, all together",
            metrics.seconds.clone(),
        );
        registry.register(
            "requests_dropped",
            "Requests of nodes that were not worked on to their end",
            metrics.dropped.clone(),
        );
        registry.register(
            "requests_running",
            "Requests of nodes that are being worked on",
            metrics.running.clone(),
        );
        metrics
    }

    pub(super) fn begun(&self) {
        self.running.inc();
    }

    pub(super) fn served(&self, request: &Message, took: Duration) {
        self.running.dec();
        let labels = [("operation", operation(request)), ("resource", resource(request))];
        self.served.get_or_create(&labels).inc();
        self.seconds.get_or_create(&labels).inc_by(took.as_secs_f64());
    }

    pub(super) fn dropped(&self, request: &Message, reason: &'static str) {
        let labels = [("operation", operation(request)), ("reason", reason)];
        self.dropped.get_or_create(&labels).inc();
    }
}

/// Words of a node's are not taken as they are: it could make any number of them.
const fn operation(request: &Message) -> &'static str {
    match request.operation {
        Operation::Insert => "insert",
        Operation::Update => "update",
        Operation::Patch => "patch",
        Operation::Delete => "delete",
        Operation::Query => "query",
        _ => "other",
    }
}

fn resource(request: &Message) -> &'static str {
    const KNOWN: [&str; 14] = [
        "node",
        "nodestatus",
        "nodepatch",
        "pod",
        "podstatus",
        "podpatch",
        "lease",
        "configmap",
        "secret",
        "serviceaccounttoken",
        "event",
        "persistentvolume",
        "persistentvolumeclaim",
        "certificatesigningrequest",
    ];
    let kind = request.route.kind().map(proto::Kind::as_str);
    KNOWN.into_iter().find(|known| kind == Some(known)).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use proto::{Content, Group, Kind, ObjectPath, Source};

    use super::*;

    #[test]
    fn requests_are_counted_under_words_of_our_own() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let request = |kind| {
            let path = ObjectPath::new("ns", kind, "x");
            Message::new(Source::Edged, Group::Meta, Operation::Patch, path, Content::null())
        };
        metrics.begun();
        metrics.served(&request(Kind::PodPatch), Duration::from_millis(500));
        metrics.dropped(&request(Kind::Pod), "full");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        for line in [
            r#"cloudcore_edgecontroller_requests_total{operation="patch",resource="podpatch"} 1"#,
            r#"cloudcore_edgecontroller_requests_seconds_total{operation="patch",resource="podpatch"} 0.5"#,
            r#"cloudcore_edgecontroller_requests_dropped_total{operation="patch",reason="full"} 1"#,
            "cloudcore_edgecontroller_requests_running 0",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
