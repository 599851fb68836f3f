//! The broker of a node that has none: MQTT 3.1.1 and 3.1, QoS 0 to 2, for clients on this board and, with credentials or TLS, beyond.
//!
//! Owns its listeners, the sessions of clients, retained messages and a database of them. Reads clients' packets and the process's own
//! publications. Emits messages to clients, and to the process what clients published on topics that it subscribed. The process's own
//! publications are never given back to it. It knows nothing of devices: topics are opaque to it, `$hw/…` too.
//!
//! ```text
//! socket -> connection (decode, credentials) -> task: core (no I/O) -> outbox of each client -> connection -> socket
//!                                                |  ^
//!                   writer -> store (SQLite) <---+  +--- link <-> the process
//! ```
//!
//! Who waits: a client whose message finds no room on the way to the process, or that takes no answers; all clients while the disk is
//! behind by more than 8 MiB. Who loses: a slow reader, messages of QoS 0 beyond 1 MiB; an absent one, the oldest beyond
//! `mqttSessionQueueSize`; the process, its own oldest publications beyond 4,096. All drops are counted.

mod connection;
mod core;
mod credentials;
mod link;
mod metrics;
mod outbox;
mod server;
#[cfg(test)]
mod simulation;
mod store;
mod task;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::Tasks;
use config::Secret;
use prometheus_client::registry::Registry;
use proto::mqtt::Qos;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tracing::warn;

pub(crate) use self::core::Limits;
use self::core::{Core, Counters};
use connection::Shared;
pub use credentials::BadPasswords;
use credentials::Users;
use link::Link;
pub use link::Received;
use metrics::Metrics;
use server::Address;
use store::Store;
use task::Task;
use writer::Writer;

pub use crate::devicetwin::Publication;

/// Packets of all clients that wait for the broker's task; clients wait then.
const INPUTS: usize = 64;

/// Of the broker.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens: `tcp://`, `mqtt://`, `tls://`, `mqtts://` or `ssl://`, host and port.
    pub listen: String,
    /// The file of sessions and retained messages.
    pub database: PathBuf,
    /// Names and passwords.
    pub users: BTreeMap<String, Secret>,
    /// A file of them, `name:password` in each line, which only its owner may read.
    pub password_file: Option<PathBuf>,
    /// For `tls://`.
    pub tls: TlsSettings,
    /// Clients at a time.
    pub connections: usize,
    /// Bytes of a packet.
    pub packet: usize,
    /// How long a client may take to say who it is.
    pub connect_deadline: Duration,
    /// What each of them may have.
    pub(crate) limits: Limits,
}

/// TLS of the broker.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// Its certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The CA of clients' certificates, which are required then.
    pub client_ca: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: "tcp://127.0.0.1:1883".to_owned(),
            database: PathBuf::from("/var/lib/kubeedge/mqtt.db"),
            users: BTreeMap::new(),
            password_file: None,
            tls: TlsSettings::default(),
            connections: 1000,
            packet: 1088 << 10,
            connect_deadline: Duration::from_secs(10),
            limits: Limits::default(),
        }
    }
}

/// Why the broker does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Not a URL it can listen on.
    #[error(
        "modules.eventBus.mqttServerInternal: {0:?} is not tcp://host:port, mqtt://, tls://, mqtts:// or ssl:// (ws:// and wss:// are not \
         supported)"
    )]
    Address(String),
    /// The listener is open to the network and lets everybody in.
    #[error(
        "modules.eventBus.mqttServerInternal: {0} is open to the network. Set modules.eventBus.broker.users or .passwordFile, use tls:// with \
         modules.eventBus.broker.tls, or listen on 127.0.0.1"
    )]
    Open(String),
    /// TLS without a certificate.
    #[error("modules.eventBus.mqttServerInternal: {0} needs modules.eventBus.broker.tls.certFile and .keyFile")]
    NoCertificate(String),
    /// Passwords.
    #[error(transparent)]
    Passwords(#[from] BadPasswords),
    /// No thread.
    #[error("the thread of the MQTT broker's database cannot be started")]
    Thread(#[source] std::io::Error),
}

/// The process's handle.
#[derive(Debug)]
pub struct Broker {
    link: Arc<Link>,
    received: Option<Received>,
    bound: watch::Receiver<Vec<SocketAddr>>,
}

impl Broker {
    /// Reads what was stored, and listens.
    pub async fn start(settings: Settings, registry: &mut Registry, tasks: &Tasks) -> Result<Self, StartError> {
        let address = Address::parse(&settings.listen)?;
        let users = Users::load(&settings.users, settings.password_file.as_deref())?;
        check(&address, &users, &settings.tls, &settings.listen)?;
        let (store, stored) = Store::open(settings.database).await.map_err(StartError::Thread)?;
        let metrics = Metrics::register(registry);
        let (link, received) = Link::new(metrics.clone());
        let (inputs, input_end) = mpsc::channel(INPUTS);
        let now = tokio::time::Instant::now().into_std();
        let task = Task {
            core: Core::new(settings.limits, stored, now),
            link: link.clone(),
            store,
            metrics: metrics.clone(),
            outboxes: HashMap::new(),
            writer: Writer::default(),
            counted: Counters::default(),
            failed: false,
        };
        tasks.spawn_draining("mqtt-broker", |stop| task.run(input_end, stop));
        let shared = Arc::new(Shared {
            inputs,
            link: link.clone(),
            users,
            packet_limit: settings.packet,
            connect_deadline: settings.connect_deadline,
            metrics,
        });
        let (bound_end, bound) = watch::channel(Vec::new());
        let listener = server::listen(
            address,
            settings.tls,
            settings.connections,
            shared,
            bound_end,
            tasks.clone(),
        );
        tasks.spawn("mqtt-listen", listener);
        Ok(Self {
            link,
            received: Some(received),
            bound,
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

    /// Ends a subscription of [`Broker::subscribe`].
    pub fn unsubscribe(&self, filter: &str) {
        self.link.unsubscribe(filter);
    }

    /// What clients published; can be taken once.
    pub const fn take_receiver(&mut self) -> Option<Received> {
        self.received.take()
    }

    /// Where it listens; waits until it does.
    pub async fn bound(&mut self) -> Vec<SocketAddr> {
        match self.bound.wait_for(|bound| !bound.is_empty()).await {
            Ok(bound) => bound.clone(),
            Err(_) => Vec::new(),
        }
    }
}

fn check(address: &Address, users: &Users, tls: &TlsSettings, listen: &str) -> Result<(), StartError> {
    if address.tls && (tls.certificate.as_os_str().is_empty() || tls.key.as_os_str().is_empty()) {
        return Err(StartError::NoCertificate(listen.to_owned()));
    }
    if address.is_loopback() {
        return Ok(());
    }
    match (address.tls, users.is_empty()) {
        (false, true) => return Err(StartError::Open(listen.to_owned())),
        (false, false) => warn!(%listen, "MQTT passwords cross the network in the clear: tls:// would hide them"),
        (true, true) if tls.client_ca.is_none() => {
            warn!(%listen, "every MQTT client is let in: modules.eventBus.broker.users or .tls.clientCAFile would ask who it is");
        }
        (true, _) => {}
    }
    Ok(())
}
