//! What the broker counts: `/metrics`, and `$SYS/broker/…` for MQTT clients.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::core::{Core, Counters};

/// Why a message came to nobody.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Dropped {
    reason: &'static str,
}

/// The counters. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    /// Connected clients.
    pub(super) connected: Gauge<i64, AtomicI64>,
    /// Sessions, of clients that are away too.
    pub(super) sessions: Gauge<i64, AtomicI64>,
    /// Subscriptions of all sessions.
    pub(super) subscriptions: Gauge<i64, AtomicI64>,
    /// Messages kept for later subscribers.
    pub(super) retained: Gauge<i64, AtomicI64>,
    /// Messages that wait in sessions.
    pub(super) queued: Gauge<i64, AtomicI64>,
    /// And their bytes.
    pub(super) queued_bytes: Gauge<i64, AtomicI64>,
    /// Messages from clients.
    pub(super) received: Counter,
    /// Messages to clients.
    pub(super) sent: Counter,
    /// Bytes from clients.
    pub(super) bytes_received: Counter,
    /// Bytes to clients.
    pub(super) bytes_sent: Counter,
    /// Connections that were turned away or ended by the broker.
    pub(super) refused: Counter,
    /// Commits of the database.
    pub(super) commits: Counter,
    dropped: Family<Dropped, Counter>,
}

impl Metrics {
    /// New counters, shown in the registry.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let it = Self::default();
        let to = registry.sub_registry_with_prefix("mqtt");
        to.register("clients", "Connected MQTT clients", it.connected.clone());
        to.register("sessions", "Sessions, of absent clients too", it.sessions.clone());
        to.register(
            "subscriptions",
            "Subscriptions of all sessions",
            it.subscriptions.clone(),
        );
        to.register(
            "retained_messages",
            "Messages kept for later subscribers",
            it.retained.clone(),
        );
        to.register("queued_messages", "Messages that wait for a client", it.queued.clone());
        to.register(
            "queued_bytes",
            "Bytes of messages that wait for a client",
            it.queued_bytes.clone(),
        );
        to.register("messages_received", "Messages from clients", it.received.clone());
        to.register("messages_sent", "Messages to clients", it.sent.clone());
        to.register("bytes_received", "Bytes from clients", it.bytes_received.clone());
        to.register("bytes_sent", "Bytes to clients", it.bytes_sent.clone());
        to.register(
            "connections_refused",
            "Connections turned away or ended by the broker",
            it.refused.clone(),
        );
        to.register("commits", "Commits of the broker's database", it.commits.clone());
        to.register(
            "messages_dropped",
            "Messages that came to nobody, by reason",
            it.dropped.clone(),
        );
        it
    }

    /// A message was dropped: `slow` reader (QoS 0), full `queue` of a session, `retained` store full, `denied` topic, the process's `own`
    /// publications faster than the broker, or the process itself (`link`) too slow for a will.
    pub(super) fn dropped(&self, reason: &'static str) {
        self.dropped.get_or_create(&Dropped { reason }).inc();
    }

    /// What the core counted comes here, and what only its driver knows goes there. `before` is what came the last time.
    pub(super) fn exchange(&self, core: &mut Core, before: &mut Counters) {
        let present = core.present();
        self.connected.set(wide(present.connected));
        self.sessions.set(wide(present.sessions));
        self.subscriptions.set(wide(present.subscriptions));
        self.retained.set(wide(present.retained));
        let now = core.counters();
        now.bytes_received = self.bytes_received.get();
        now.bytes_sent = self.bytes_sent.get();
        now.dropped_slow = self.count("slow");
        self.queued.set(wide(now.queued));
        self.queued_bytes.set(wide(now.queued_bytes));
        self.received.inc_by(now.received - before.received);
        self.sent.inc_by(now.sent - before.sent);
        for (reason, now, before) in [
            ("queue", now.dropped_queue, before.dropped_queue),
            ("retained", now.dropped_retained, before.dropped_retained),
            ("denied", now.denied, before.denied),
        ] {
            if now > before {
                self.dropped.get_or_create(&Dropped { reason }).inc_by(now - before);
            }
        }
        *before = *now;
    }

    fn count(&self, reason: &'static str) -> u64 {
        self.dropped.get(&Dropped { reason }).map_or(0, |counter| counter.get())
    }
}

fn wide(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
