//! What the hub counts.

use std::fmt;
use std::sync::Weak;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::Shared;
use super::outbox::Class;

type Labels = [(&'static str, &'static str); 1];

/// The counters. One per process.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    sent: Family<Labels, Counter>,
    acked: Family<Labels, Counter>,
    retried: Family<Labels, Counter>,
    dropped: Family<Labels, Counter>,
    received: Counter,
    forbidden: Counter,
    refused: Family<Labels, Counter>,
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let hub = registry.sub_registry_with_prefix("cloudcore_hub");
        hub.register(
            "messages_sent",
            "Messages sent to nodes for the first time",
            self.sent.clone(),
        );
        hub.register("messages_acked", "Messages acknowledged by nodes", self.acked.clone());
        hub.register("messages_retried", "Messages sent again", self.retried.clone());
        hub.register(
            "messages_dropped",
            "Messages given up, or older than what is stored",
            self.dropped.clone(),
        );
        hub.register(
            "messages_received",
            "Messages received from nodes",
            self.received.clone(),
        );
        hub.register(
            "messages_forbidden",
            "Messages of nodes that the authorizer refused",
            self.forbidden.clone(),
        );
        hub.register(
            "connections_refused",
            "Connections refused before the upgrade",
            self.refused.clone(),
        );
    }

    pub(super) fn sent(&self, class: Class) {
        self.sent.get_or_create(&[("class", class.name())]).inc();
    }

    pub(super) fn acked(&self, class: Class) {
        self.acked.get_or_create(&[("class", class.name())]).inc();
    }

    pub(super) fn retried(&self, class: Class) {
        self.retried.get_or_create(&[("class", class.name())]).inc();
    }

    pub(super) fn dropped(&self, class: Class) {
        self.dropped.get_or_create(&[("class", class.name())]).inc();
    }

    pub(super) fn received(&self) {
        self.received.inc();
    }

    pub(super) fn forbidden(&self) {
        self.forbidden.inc();
    }

    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
    }
}

/// What is read from the sessions when somebody asks.
pub(super) struct SessionCollector(pub(super) Weak<Shared>);

impl fmt::Debug for SessionCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionCollector")
    }
}

impl Collector for SessionCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(shared) = self.0.upgrade() else { return Ok(()) };
        let sessions: Vec<_> = shared.sessions.read().values().cloned().collect();
        let connected = ConstGauge::new(i64::try_from(sessions.len()).unwrap_or(i64::MAX));
        // The name that KubeEdge's dashboards know.
        let descriptor = encoder.encode_descriptor(
            "KubeEdge_CloudHub_connected_nodes",
            "Number of nodes that connected to the cloudHub instance",
            None,
            connected.metric_type(),
        )?;
        connected.encode(descriptor)?;
        let now = Instant::now();
        let mut ages = encoder.encode_descriptor(
            "cloudcore_hub_messages_oldest_age",
            "Age of the oldest message that waits for any node",
            Some(&prometheus_client::registry::Unit::Seconds),
            prometheus_client::metrics::MetricType::Gauge,
        )?;
        for class in Class::ALL {
            let oldest = sessions.iter().filter_map(|session| session.oldest(class)).min();
            let age = oldest.map_or(0.0, |since| now.saturating_duration_since(since).as_secs_f64());
            ConstGauge::new(age).encode(ages.encode_family(&[("class", class.name())])?)?;
        }
        Ok(())
    }
}
