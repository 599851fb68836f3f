//! One connection by the `rumqttc` library, which nothing else knows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use common::Backoff;
use parking_lot::Mutex;
use proto::mqtt::topic::is_name;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{ConnectReturnCode, SubscribeReasonCode};
use rumqttc::{AsyncClient, ClientError, ConnectionError, Event, EventLoop, MqttOptions, Packet, PublishOptions};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::Login;
use super::dial::Dialler;
use crate::devicetwin::{Publication, Publications};
use crate::eventbus::metrics::Metrics;

/// As the Go edge's.
const KEEP_ALIVE: u16 = 30;
/// The largest packet, both ways: more is refused before it is read.
const MAX_PACKET: usize = 16 * 1024 * 1024;
/// What is logged of a topic that is none, in bytes.
const SHOWN: usize = 256;
/// Publications under way to the broker.
const IN_FLIGHT: u16 = 100;
/// Requests between the feed and the library.
const REQUESTS: usize = 16;
/// The pauses between tries.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(4);
/// A connection that lived this long was a good one: it is made again at once.
const GOOD: Duration = Duration::from_secs(1);

/// What a connection is to tell the broker.
pub(super) struct Feed {
    /// What is to be subscribed.
    pub(super) filters: Option<watch::Receiver<BTreeSet<String>>>,
    /// What is to be published.
    pub(super) publications: Option<Publications>,
}

/// A connection and whom it serves.
pub(super) struct Connection {
    pub(super) server: String,
    pub(super) feed: Feed,
    pub(super) received: Option<mpsc::Sender<Publication>>,
    pub(super) metrics: Metrics,
    /// The last trouble that was logged, of all connections to this broker.
    pub(super) said: Arc<Mutex<String>>,
}

impl Connection {
    /// Keeps the connection for ever.
    pub(super) fn run(
        self,
        client: &str,
        login: Option<&Login>,
        dialler: Arc<Dialler>,
    ) -> impl Future<Output = ()> + Send + 'static {
        // The host is the dialler's business; here it is but a label.
        let mut options = MqttOptions::new(client, (self.server.clone(), 1883));
        options
            .set_keep_alive(KEEP_ALIVE)
            .set_clean_session(true)
            .set_max_packet_size(MAX_PACKET, MAX_PACKET)
            .set_inflight(IN_FLIGHT)
            .set_socket_connector(move |_, _| {
                let dialler = dialler.clone();
                async move { dialler.dial().await }
            });
        if let Some(Login { name, password }) = login {
            options.set_credentials(name.clone(), password.clone());
        }
        let (client, events) = AsyncClient::builder(options).capacity(REQUESTS).build();
        let (up, is_up) = watch::channel(false);
        let Self {
            server,
            feed,
            received,
            metrics,
            said,
        } = self;
        async move {
            let driver = Driver {
                server,
                received,
                metrics: metrics.clone(),
                said,
                up,
            };
            // Neither ends while the process runs.
            tokio::select! {
                () = driver.run(events) => {}
                () = feed.run(client, is_up, metrics) => {}
            }
        }
    }
}

/// Lets the library work, and hears what it has to say.
struct Driver {
    server: String,
    received: Option<mpsc::Sender<Publication>>,
    metrics: Metrics,
    said: Arc<Mutex<String>>,
    up: watch::Sender<bool>,
}

impl Driver {
    async fn run(self, mut events: EventLoop) {
        let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
        let mut since = None;
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    info!(server = self.server, "connected to the MQTT broker");
                    self.said.lock().clear();
                    self.metrics.connected();
                    since = Some(Instant::now());
                    self.up.send_replace(true);
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    let Ok(topic) = String::from_utf8(publish.topic.to_vec()) else {
                        continue;
                    };
                    let publication = Publication {
                        topic,
                        payload: publish.payload,
                    };
                    if let Some(received) = &self.received
                        && received.send(publication).await.is_err()
                    {
                        return;
                    }
                }
                Ok(Event::Incoming(Packet::SubAck(ack)))
                    if ack.return_codes.contains(&SubscribeReasonCode::Failure) =>
                {
                    warn!(
                        server = self.server,
                        "the MQTT broker refuses a subscription: see its access rules"
                    );
                }
                Ok(_) => {}
                Err(ConnectionError::RequestsDone) => return,
                Err(error) => {
                    self.up.send_replace(false);
                    let lived = since.take().map(|since: Instant| since.elapsed());
                    if lived.is_some() {
                        self.metrics.disconnected();
                    }
                    self.say(trouble(&error), lived.is_some());
                    if lived.is_some_and(|lived| lived >= GOOD) {
                        backoff.reset();
                        continue;
                    }
                    sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    /// One line for each cause.
    fn say(&self, trouble: String, was_up: bool) {
        let mut said = self.said.lock();
        if *said == trouble {
            debug!(trouble, "still no MQTT broker");
            return;
        }
        let server = &self.server;
        if was_up {
            warn!(server, trouble, "connection to the MQTT broker lost, it is tried again");
        } else {
            warn!(
                server,
                trouble, "no MQTT broker (modules.eventBus.mqttServerExternal): it is tried again, all else goes on"
            );
        }
        *said = trouble;
    }
}

/// What went wrong, in the operator's words.
fn trouble(error: &ConnectionError) -> String {
    match error {
        ConnectionError::Io(error) => common::chain(error),
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
        ) => "it refuses user name or password (modules.eventBus.mqttUsername, mqttPassword)".to_owned(),
        error => error.to_string(),
    }
}

impl Feed {
    async fn run(mut self, client: AsyncClient, mut is_up: watch::Receiver<bool>, metrics: Metrics) {
        // What the broker of this connection was asked for.
        let mut done = BTreeSet::new();
        loop {
            done.clear();
            if is_up.wait_for(|up| *up).await.is_err() {
                return;
            }
            if self.follow(&client, &mut is_up, &mut done, &metrics).await.is_err() {
                return;
            }
        }
    }

    /// Feeds one connection, until it is lost.
    async fn follow(
        &mut self,
        client: &AsyncClient,
        is_up: &mut watch::Receiver<bool>,
        done: &mut BTreeSet<String>,
        metrics: &Metrics,
    ) -> Result<(), Ended> {
        loop {
            if let Some(filters) = &mut self.filters {
                let wanted = filters.borrow_and_update().clone();
                adjust(client, &wanted, done).await?;
            }
            tokio::select! {
                biased;
                changed = is_up.changed() => {
                    changed.map_err(|_| Ended)?;
                    // Also a connection that was made again in the meantime knows nothing of the last one's subscriptions.
                    return Ok(());
                }
                changed = changed(self.filters.as_mut()) => changed?,
                publication = next(self.publications.as_mut()) => {
                    publish(client, publication.ok_or(Ended)?, metrics).await?;
                }
            }
        }
    }
}

/// The process stops.
struct Ended;

/// What the library calls no filter was checked before; it ends nothing.
fn sent(outcome: Result<(), ClientError>) -> Result<(), Ended> {
    match outcome {
        Ok(()) | Err(ClientError::InvalidRequest(_)) => Ok(()),
        Err(_) => Err(Ended),
    }
}

async fn changed(filters: Option<&mut watch::Receiver<BTreeSet<String>>>) -> Result<(), Ended> {
    match filters {
        Some(filters) => filters.changed().await.map_err(|_| Ended),
        None => std::future::pending().await,
    }
}

async fn next(publications: Option<&mut Publications>) -> Option<Publication> {
    match publications {
        Some(publications) => publications.recv().await,
        None => std::future::pending().await,
    }
}

async fn adjust(client: &AsyncClient, wanted: &BTreeSet<String>, done: &mut BTreeSet<String>) -> Result<(), Ended> {
    for filter in wanted.difference(done) {
        sent(client.subscribe(filter.clone(), QoS::AtLeastOnce).await)?;
    }
    for filter in done.difference(wanted) {
        sent(client.unsubscribe(filter.clone()).await)?;
    }
    done.clone_from(wanted);
    Ok(())
}

async fn publish(client: &AsyncClient, publication: Publication, metrics: &Metrics) -> Result<(), Ended> {
    let Publication { topic, payload } = publication;
    // The client library would end the connection over a bad topic as over a payload that is too large.
    if !is_name(&topic) {
        let start = topic.get(..topic.floor_char_boundary(SHOWN)).unwrap_or_default();
        warn!(
            topic = start,
            bytes = topic.len(),
            "publication has a topic that MQTT does not know"
        );
        metrics.publication_dropped();
        return Ok(());
    }
    if topic.len() + payload.len() + 16 > MAX_PACKET {
        warn!(topic, bytes = payload.len(), "publication is too large for MQTT");
        metrics.publication_dropped();
        return Ok(());
    }
    match client.publish(topic, payload, PublishOptions::at_least_once()).await {
        Ok(()) => metrics.published(),
        Err(ClientError::InvalidRequest(_)) => metrics.publication_dropped(),
        Err(_) => return Err(Ended),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prometheus_client::registry::Registry;

    use super::*;

    /// The library would lose its connection to them, and with it what waits there.
    #[tokio::test]
    async fn what_mqtt_cannot_carry_is_dropped_and_counted() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry, prometheus_client::metrics::counter::Counter::default());
        let options = MqttOptions::new("c", ("localhost".to_owned(), 1883));
        // Nobody reads the queue of one: more than the good one would wait for ever.
        let (client, _events) = AsyncClient::builder(options).capacity(1).build();
        for (topic, bytes) in [
            ("x".repeat(65_536), 1),
            ("\u{e4}".repeat(40_000), 1),
            ("a\0b".to_owned(), 1),
            ("a/+/b".to_owned(), 1),
            (String::new(), 1),
            ("a".to_owned(), MAX_PACKET),
            ("x".repeat(65_535), 1),
        ] {
            let payload = Bytes::from(vec![b'x'; bytes]);
            let sent = publish(&client, Publication { topic, payload }, &metrics);
            let sent = tokio::time::timeout(Duration::from_secs(10), sent).await;
            assert!(sent.expect("nothing waits").is_ok());
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        for line in ["eventbus_publications_dropped_total 6", "eventbus_published_total 1"] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
