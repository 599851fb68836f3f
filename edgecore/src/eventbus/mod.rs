//! MQTT: what clients of this board's brokers say, and what they are told.
//!
//! Owns the connections to the brokers, the rows of `sub_topics`, and what waits for the cloud. Reads what clients publish,
//! DeviceTwin's publications, the requests of the cloud's rules. Emits requests to DeviceTwin, uploads to the cloud, publications to
//! the brokers. Must not know twins, nor what is in a payload, and must not stop anything else when a broker is away: what comes from
//! the edge for MQTT is dropped, oldest first and counted, what comes from MQTT waits in the broker. Behaviour: spec 03 §4.

pub mod broker;
mod error;
mod external;
mod filter;
mod history;
mod internal;
mod metrics;
mod subscriptions;
#[cfg(test)]
mod tests;
mod transport;
mod uploads;

use std::sync::Arc;

use bytes::Bytes;
use common::Tasks;
use prometheus_client::registry::Registry;
use proto::Message;
use proto::bus::Upload;
use tokio::sync::mpsc;
use tracing::{error, info};

pub use error::StartError;
pub use external::{Login, Settings as External, TlsFiles};
pub use internal::Settings as Internal;

use crate::devicetwin::{DeviceTwin, Publication, Publications};
use crate::history::History;
use crate::metamanager::MetaManager;
use crate::uplink::Uplink;
use filter::To;
use metrics::Metrics;
use subscriptions::Subscriptions;
use transport::Bus;
use uploads::Uploads;

/// Messages of the cloud that wait for the task; a full queue makes edgehub stop reading the socket.
const INBOX: usize = 128;

/// What this module needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our own broker, with `mqttMode` 0 and 1.
    pub internal: Option<Internal>,
    /// The broker that somebody else runs, with `mqttMode` 1 and 2.
    pub external: Option<External>,
    /// `modules.eventBus.uploadBytes`: what may wait for the cloud.
    pub upload_bytes: u64,
}

/// What the module serves. DeviceTwin may be turned off.
pub struct Parts {
    /// Where requests about devices go, and what it has to publish.
    pub twin: Option<(DeviceTwin, Publications)>,
    /// Who answers questions for old values, where they are kept.
    pub history: Option<History>,
    /// The database.
    pub meta: MetaManager,
    /// The way to the cloud.
    pub uplink: Uplink,
}

/// Starts the module. Returns where edgehub puts messages of the source `router_eventbus`. A broker that cannot be used is an error in
/// the log, no more.
pub async fn start(settings: &Settings, parts: Parts, registry: &mut Registry, tasks: &Tasks) -> mpsc::Sender<Message> {
    let (publisher, publications) = crate::devicetwin::publication_queue();
    let metrics = Metrics::register(registry, publisher.dropped());
    let (twin, answers) = parts.twin.unzip();
    let uploads = Uploads::start(
        settings.upload_bytes,
        parts.meta.tables(),
        parts.uplink,
        metrics.uploads.clone(),
        tasks,
    );
    let (questions, asked) = history::questions();
    let inbound = Inbound {
        twin,
        questions: parts.history.is_some().then_some(questions),
        uploads,
        metrics: metrics.clone(),
    };
    let mut bus = Bus::default();
    if let Some(external) = &settings.external {
        match external::External::start(external, (publisher, publications), &metrics, tasks) {
            Ok((transport, received)) => {
                bus.add(transport);
                tasks.spawn_draining("eventbus inbound", |_| inbound.clone().run(received));
                info!(server = external.server, "EventBus uses an external MQTT broker");
            }
            Err(error) => error!(
                error = common::chain(&error),
                "EventBus goes without the external broker"
            ),
        }
    }
    if let Some(internal) = &settings.internal {
        match internal::Internal::start(internal, registry, tasks).await {
            Ok((transport, received)) => {
                bus.add(transport);
                if let Some(received) = received {
                    tasks.spawn_draining("eventbus inbound", |_| inbound.run_internal(received));
                }
                info!(listen = internal.broker.listen, "EventBus serves MQTT itself");
            }
            Err(error) => error!(
                error = common::chain(&error),
                "EventBus goes without a broker of its own"
            ),
        }
    }
    let bus = Arc::new(bus);
    if let Some(history) = parts.history {
        history::start(history, asked, bus.clone(), tasks);
    }
    if let Some(answers) = answers {
        tasks.spawn("eventbus outbound", outbound(answers, bus.clone()));
    }
    let (inbox, messages) = mpsc::channel(INBOX);
    let subscriptions = Subscriptions::new(parts.meta.tables(), bus, metrics);
    tasks.spawn("eventbus subscriptions", subscriptions.run(messages));
    inbox
}

/// Hands what clients publish to its receiver. Ends with the brokers: what our own has acknowledged before a stop is handed on after it.
/// An external one is acknowledged by rumqttc as it reads: a stop may cost what was read and not yet taken from it.
#[derive(Clone)]
struct Inbound {
    twin: Option<DeviceTwin>,
    questions: Option<history::Questions>,
    uploads: Uploads,
    metrics: Metrics,
}

impl Inbound {
    async fn run(self, mut received: mpsc::Receiver<Publication>) {
        while let Some(Publication { topic, payload }) = received.recv().await {
            self.take(topic, payload).await;
        }
    }

    async fn run_internal(self, mut received: broker::Received) {
        while let Some(broker::Publication { topic, payload }) = received.recv().await {
            self.take(topic, payload).await;
        }
    }

    async fn take(&self, topic: String, payload: Bytes) {
        if self
            .questions
            .as_ref()
            .is_some_and(|questions| questions.take(&topic, &payload))
        {
            self.metrics.received("history");
            return;
        }
        match (To::of(&topic), &self.twin) {
            (To::Twin, Some(twin)) => {
                self.metrics.received("devicetwin");
                twin.request(&topic, payload).await;
            }
            (To::Twin, None) => self.metrics.received("nobody"),
            (To::Cloud, _) => {
                self.metrics.received("cloud");
                self.uploads.push(Upload { topic, payload }).await;
            }
        }
    }
}

/// Publishes what DeviceTwin has to say.
async fn outbound(mut publications: Publications, bus: Arc<Bus>) {
    while let Some(publication) = publications.recv().await {
        bus.publish(&publication);
    }
}
