//! A broker that somebody else runs: MQTT 3.1.1 over TCP or TLS (spec 03 §4).
//!
//! Owns the connection to it and what waits to be published. One connection serves both directions, unless the file names different
//! client ids for them. A broker that is away is one line and a retry; all subscriptions are made again after each connect.

mod connection;
mod dial;
mod server;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use common::{Tasks, order};
use parking_lot::Mutex;
use proto::NodeName;
use tokio::sync::{mpsc, watch};
use tracing::warn;

use super::error::StartError;
use super::filter::ALWAYS;
use super::metrics::Metrics;
use super::transport::Transport;
use crate::devicetwin::{Publication, Publications, Publisher};
use connection::{Connection, Feed};
use dial::Dialler;
use server::Server;

/// Messages of the broker that wait to be dispatched; when full, nothing more is read from the broker.
const RECEIVED: usize = 64;

/// What the file says of the broker.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node, for the client id.
    pub node: NodeName,
    /// `mqttServerExternal`.
    pub server: String,
    /// `mqttSubClientID`; may be empty.
    pub subscriber: String,
    /// `mqttPubClientID`; may be empty.
    pub publisher: String,
    /// `mqttUsername`, `mqttPassword`.
    pub login: Option<Login>,
    /// `eventBusTLS`, where it is enabled.
    pub tls: Option<TlsFiles>,
}

/// Who this client says that it is.
#[derive(Clone)]
pub struct Login {
    /// The name.
    pub name: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Files of `eventBusTLS`.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// `tlsMqttCAFile`.
    pub ca: PathBuf,
    /// `tlsMqttCertFile`.
    pub certificate: PathBuf,
    /// `tlsMqttPrivateKeyFile`.
    pub key: PathBuf,
}

/// The broker.
pub(super) struct External {
    publisher: Publisher,
    filters: watch::Sender<BTreeSet<String>>,
}

impl External {
    /// Starts the connection; what comes in goes to the receiver. The queue is of what waits to be published.
    pub(super) fn start(
        settings: &Settings,
        (publisher, publications): (Publisher, Publications),
        metrics: &Metrics,
        tasks: &Tasks,
    ) -> Result<(Self, mpsc::Receiver<Publication>), StartError> {
        let server = Server::parse(&settings.server)?;
        if settings.tls.is_some() && !server.tls {
            warn!(
                server = settings.server,
                "modules.eventBus.eventBusTLS is enabled, but the broker's URL says no TLS: write tls:// to use it"
            );
        }
        let dialler = Arc::new(Dialler::new(server, settings.tls.clone()));
        let always = order::set(ALWAYS.iter().map(|filter| (*filter).to_owned()));
        let (filters, wanted) = watch::channel(always);
        let (received, receiver) = mpsc::channel(RECEIVED);
        let said = Arc::new(Mutex::new(String::new()));
        let connect = |client: &str, feed: Feed, received: Option<mpsc::Sender<Publication>>| {
            let connection = Connection {
                server: settings.server.clone(),
                feed,
                received,
                metrics: metrics.clone(),
                said: said.clone(),
            };
            tasks.spawn(
                "eventbus external",
                connection.run(client, settings.login.as_ref(), dialler.clone()),
            );
        };
        let names = Names::of(settings);
        match names.publisher {
            None => connect(
                &names.subscriber,
                Feed {
                    filters: Some(wanted),
                    publications: Some(publications),
                },
                Some(received),
            ),
            Some(name) => {
                let filters = Some(wanted);
                let subscribes = Feed {
                    filters,
                    publications: None,
                };
                connect(&names.subscriber, subscribes, Some(received));
                let publications = Some(publications);
                let publishes = Feed {
                    filters: None,
                    publications,
                };
                connect(&name, publishes, None);
            }
        }
        Ok((Self { publisher, filters }, receiver))
    }
}

impl Transport for External {
    fn publish(&self, publication: Publication) {
        self.publisher.publish([publication]);
    }

    fn subscribe(&self, filter: &str) {
        self.filters
            .send_if_modified(|filters| filters.insert(filter.to_owned()));
    }

    fn unsubscribe(&self, filter: &str) {
        self.filters.send_if_modified(|filters| filters.remove(filter));
    }
}

/// The client ids. A name with the node in it does not clash on a broker that several nodes share.
#[derive(Debug, PartialEq, Eq)]
struct Names {
    subscriber: String,
    /// Absent where one connection does both.
    publisher: Option<String>,
}

impl Names {
    fn of(settings: &Settings) -> Self {
        let or = |configured: &str, name: &str| match configured {
            "" => format!("hub-client-{name}{}", settings.node),
            configured => configured.to_owned(),
        };
        if settings.subscriber == settings.publisher {
            return Self {
                subscriber: or(&settings.subscriber, ""),
                publisher: None,
            };
        }
        Self {
            subscriber: or(&settings.subscriber, "sub-"),
            publisher: Some(or(&settings.publisher, "pub-")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::time::Duration;

    use bytes::Bytes;
    use prometheus_client::registry::Registry;

    use super::*;

    fn settings(server: String, subscriber: &str, publisher: &str) -> Settings {
        Settings {
            node: NodeName::new("n1"),
            server,
            subscriber: subscriber.to_owned(),
            publisher: publisher.to_owned(),
            login: None,
            tls: None,
        }
    }

    #[test]
    fn one_connection_does_both_unless_the_file_names_two_clients() {
        let names = |subscriber: &str, publisher: &str| Names::of(&settings(String::new(), subscriber, publisher));
        let expect = |subscriber: &str, publisher: Option<&str>| Names {
            subscriber: subscriber.to_owned(),
            publisher: publisher.map(str::to_owned),
        };
        assert_eq!(names("", ""), expect("hub-client-n1", None));
        assert_eq!(names("a", "a"), expect("a", None));
        assert_eq!(names("a", "b"), expect("a", Some("b")));
        assert_eq!(names("a", ""), expect("a", Some("hub-client-pub-n1")));
    }

    /// What `/metrics` tells.
    fn dropped(registry: &Registry) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).expect("text");
        let counter = "eventbus_publications_dropped_total ";
        let value = text.lines().find_map(|line| line.strip_prefix(counter));
        value.and_then(|value| value.parse().ok()).expect("the counter")
    }

    #[tokio::test]
    async fn what_a_missing_broker_is_not_told_does_not_gather_and_is_counted() {
        /// What waits for it at most.
        const MOST: u64 = 16 * 1024;
        // The port is taken, and nobody listens there.
        let nobody = tokio::net::TcpSocket::new_v4().expect("a socket");
        nobody.bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let server = format!("tcp://{}", nobody.local_addr().expect("its address"));
        let (publisher, publications) = crate::devicetwin::publication_queue();
        let (mut registry, tasks) = (Registry::default(), Tasks::new());
        let metrics = Metrics::register(&mut registry, publisher.dropped());
        let settings = settings(server, "", "");
        let (external, _received) =
            External::start(&settings, (publisher, publications), &metrics, &tasks).expect("started");
        let publish = |numbers: Range<u64>| {
            for number in numbers {
                let topic = format!("t/{number}");
                let payload = Bytes::new();
                external.publish(Publication { topic, payload });
            }
        };
        publish(0..20_000);
        assert_eq!(dropped(&registry), 20_000 - MOST);
        // However often it was looked for by then: nothing left the queue, and nothing more fits into it.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(dropped(&registry), 20_000 - MOST);
        publish(20_000..21_000);
        assert_eq!(dropped(&registry), 21_000 - MOST);
    }
}
