//! What the tunnels of a process are counted by.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use proto::tunnel::Counts;

/// The counters of all tunnels of a process. Clones count into the same.
#[derive(Clone, Debug, Default)]
pub struct TunnelMetrics {
    /// Tunnels that exist.
    pub tunnels: Gauge,
    /// Streams that are open.
    pub streams: Gauge,
    frames_in: Counter,
    frames_out: Counter,
    bytes_in: Counter,
    bytes_out: Counter,
    unknown: Counter,
    late: Counter,
    opened: Counter,
    capped: Counter,
    refused: Counter,
}

impl TunnelMetrics {
    /// Shows them under `tunnel_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("tunnel");
        registry.register("tunnels", "Tunnels that are up", self.tunnels.clone());
        registry.register("streams", "Streams that are open", self.streams.clone());
        let counters = [
            (
                "frames_received",
                "Messages (or parts of long ones) and control frames received",
                &self.frames_in,
            ),
            ("frames_sent", "Messages and control frames sent", &self.frames_out),
            ("bytes_received", "Bytes of streams received", &self.bytes_in),
            ("bytes_sent", "Bytes of streams sent", &self.bytes_out),
            (
                "unknown_messages",
                "Messages of an unknown type, or one that makes no sense there; ignored",
                &self.unknown,
            ),
            (
                "late_messages",
                "Messages for streams that are over or never were; ignored",
                &self.late,
            ),
            ("streams_opened", "Streams opened", &self.opened),
            (
                "streams_capped",
                "Streams ended because too much waited for their reader",
                &self.capped,
            ),
            ("streams_refused", "Connect messages that opened nothing", &self.refused),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
    }

    pub(super) fn add(&self, counts: &Counts) {
        for (counter, count) in [
            (&self.frames_in, counts.frames_in),
            (&self.frames_out, counts.frames_out),
            (&self.bytes_in, counts.bytes_in),
            (&self.bytes_out, counts.bytes_out),
            (&self.unknown, counts.unknown),
            (&self.late, counts.late),
            (&self.opened, counts.opened),
            (&self.capped, counts.capped),
            (&self.refused, counts.refused),
        ] {
            if count > 0 {
                counter.inc_by(count);
            }
        }
        let change = counts.opened.cast_signed() - counts.ended.cast_signed();
        if change != 0 {
            self.streams.inc_by(change);
        }
    }
}
