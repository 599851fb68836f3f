//! `$SYS/broker/…`: what the broker counts, for clients. Sent when somebody subscribes and every few seconds then; nobody may publish there.

use std::time::{Duration, Instant};

use proto::mqtt::{Publish, Qos, topic};

use super::{ConnectionId, Core};

/// Between two rounds of counters.
pub(crate) const SYS_INTERVAL: Duration = Duration::from_secs(10);

/// The first level.
const SYS: &str = "$SYS";

/// What the core counts, and what its driver tells it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    /// Messages from clients.
    pub(crate) received: u64,
    /// Messages to clients.
    pub(crate) sent: u64,
    /// Messages that wait in sessions.
    pub(crate) queued: usize,
    /// And their bytes.
    pub(crate) queued_bytes: usize,
    /// Dropped for a full queue of a session, or as one copy too many of what is retained.
    pub(crate) dropped_queue: u64,
    /// Not kept for a full store of retained messages.
    pub(crate) dropped_retained: u64,
    /// Refused for their topic.
    pub(crate) denied: u64,
    /// The most clients at a time.
    pub(crate) maximum: usize,
    /// From the driver: bytes from clients.
    pub(crate) bytes_received: u64,
    /// From the driver: bytes to clients.
    pub(crate) bytes_sent: u64,
    /// From the driver: messages of QoS 0 dropped before a slow reader.
    pub(crate) dropped_slow: u64,
}

/// What there is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Present {
    pub(crate) connected: usize,
    pub(crate) sessions: usize,
    pub(crate) subscriptions: usize,
    pub(crate) retained: usize,
}

impl Core {
    /// The counters; the driver adds its own.
    pub(crate) const fn counters(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// See [`Present`].
    pub(crate) fn present(&self) -> Present {
        Present {
            connected: self.connections.len(),
            sessions: self.sessions.len(),
            subscriptions: self.subscriptions.len(),
            retained: self.retained.len(),
        }
    }

    pub(super) fn is_sys(topic: &str) -> bool {
        topic.split('/').next() == Some(SYS)
    }

    /// To all who subscribed; nothing is computed for nobody.
    pub(super) fn publish_counters(&mut self, now: Instant) {
        if !self.subscriptions.has_first(SYS) {
            return;
        }
        for publish in self.values(now) {
            self.route(publish);
        }
    }

    /// To one who subscribed just now.
    pub(super) fn send_counters(&mut self, now: Instant, to: ConnectionId, filter: &str) {
        if !Self::is_sys(filter) {
            return;
        }
        for mut publish in self.values(now) {
            if topic::matches(filter, &publish.topic) {
                publish.retain = true;
                self.send(to, proto::mqtt::Packet::Publish(publish), false);
            }
        }
    }

    fn values(&self, now: Instant) -> Vec<Publish> {
        let (count, here) = (&self.counters, self.present());
        let dropped = count.dropped_queue + count.dropped_slow + count.denied;
        let numbers = [
            ("uptime", now.duration_since(self.started).as_secs()),
            ("clients/connected", wide(here.connected)),
            (
                "clients/disconnected",
                wide(here.sessions.saturating_sub(here.connected)),
            ),
            ("clients/total", wide(here.sessions)),
            ("clients/maximum", wide(count.maximum)),
            ("publish/messages/received", count.received),
            ("publish/messages/sent", count.sent),
            ("publish/messages/dropped", dropped),
            ("bytes/received", count.bytes_received),
            ("bytes/sent", count.bytes_sent),
            ("retained messages/count", wide(here.retained)),
            ("subscriptions/count", wide(here.subscriptions)),
            ("store/messages/count", wide(count.queued)),
            ("store/messages/bytes", wide(count.queued_bytes)),
        ];
        let version = ("version", concat!("edgecore ", env!("CARGO_PKG_VERSION")).to_owned());
        let numbers = numbers.into_iter().map(|(name, number)| (name, number.to_string()));
        std::iter::once(version)
            .chain(numbers)
            .map(|(name, value)| Publish {
                topic: format!("{SYS}/broker/{name}").into(),
                payload: value.into(),
                qos: Qos::AtMostOnce,
                retain: false,
                dup: false,
                id: None,
            })
            .collect()
    }
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
