//! The one connection to the cloud.
//!
//! Owns the node's certificate, the connection and the table of questions that wait. Reads the uplink's queue. Emits the state of the
//! link, answers to their askers, all other messages to the modules they are for ([`Inboxes`]). Must not know what is in a message beyond
//! its header, and must not end the process: the edge runs without the cloud. Behaviour: spec 01 §3, §5.6, §6, §7; what is ours: a lost
//! connection is noticed at once and dialled again within a second, pauses grow to 30 s where the cloud refuses, a renewed certificate is
//! used without a gap.

mod certificate;
mod connect;
mod inboxes;
mod inventory;
mod metrics;
mod queues;
mod serve;
mod session;
mod successor;

use std::time::Duration;

use common::tls::client::cloud_config;
use common::{Backoff, Tasks};
use proto::NodeName;
use tokio::time::Instant;
use tracing::{debug, info, warn};

pub use certificate::{Paths, Settings as CertificateSettings};
pub(crate) use certificate::{Unusable, Usable};
pub use inboxes::Inboxes;
pub use metrics::Metrics;

use crate::uplink::{Outgoing, Uplink, UplinkEnd};
use certificate::Certificates;
use connect::{Connection, Target};
use serve::End;
use successor::Credentials;

/// The first pause after a lost or refused connection …
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// … and the longest.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// A session that lived this long was a good one: the next pause is a short one again.
const GOOD: Duration = Duration::from_secs(30);

/// What this module needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node.
    pub node: NodeName,
    /// `projectID`.
    pub project: String,
    /// `websocket.server`; `None` with `websocket.enable: false`.
    pub websocket: Option<String>,
    /// `quic.server`; `None` with `quic.enable: false`.
    pub quic: Option<String>,
    /// `websocket.handshakeTimeout`.
    pub handshake_timeout: Duration,
    /// `websocket.writeDeadline`.
    pub write_deadline: Duration,
    /// `heartbeat`.
    pub heartbeat: Duration,
    /// `messageQPS`.
    pub rate: u32,
    /// `messageBurst`.
    pub burst: u32,
    /// How to get and renew the certificate.
    pub certificate: CertificateSettings,
}

/// Starts the module. `joined` is called after a certificate was issued: the token is no longer needed then.
pub fn start(
    settings: Settings,
    uplink: Uplink,
    end: UplinkEnd,
    inboxes: Inboxes,
    metrics: Metrics,
    joined: impl Fn() + Send + 'static,
    tasks: &Tasks,
) {
    let hub = Hub {
        settings,
        uplink,
        end,
        inboxes,
        metrics,
        tasks: tasks.clone(),
        sessions: 0,
        said: String::new(),
        returns: successor::returns(),
        head_start: connect::HEAD_START,
    };
    tasks.spawn("edgehub", hub.run(joined));
}

struct Hub {
    settings: Settings,
    uplink: Uplink,
    end: UplinkEnd,
    inboxes: Inboxes,
    metrics: Metrics,
    tasks: Tasks,
    sessions: u64,
    said: String,
    /// When QUIC is tried again beside a session over WebSocket.
    returns: Backoff,
    /// How long QUIC is tried alone at the next dial: not at all where it was not to be had.
    head_start: Duration,
}

impl Hub {
    async fn run(mut self, joined: impl Fn()) {
        let mut certificates = Certificates::new(self.settings.certificate.clone());
        let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
        loop {
            let (usable, is_new) = offline(&mut self.end, &self.metrics, certificates.ensure()).await;
            if is_new {
                joined();
            }
            let target = self.target();
            let credentials = cloud_config(&usable.roots, Some(usable.identity)).map(|tls| Credentials {
                tls,
                validity: usable.validity,
            });
            let dial = async {
                let credentials = credentials?;
                let connection = connect::dial(&target, &credentials.tls, self.head_start).await?;
                Ok((connection, credentials))
            };
            match offline(&mut self.end, &self.metrics, dial).await {
                Ok((connection, credentials)) => {
                    self.said.clear();
                    let began = Instant::now();
                    let Some(reason) = self.sessions(connection, credentials, &target, &mut certificates).await else {
                        return;
                    };
                    warn!(reason, "connection to cloudcore lost");
                    if began.elapsed() >= GOOD {
                        backoff.reset();
                    }
                }
                Err(error) => {
                    let error: connect::DialError = error;
                    self.say(common::chain(&error));
                    if error.is_silent() {
                        continue;
                    }
                }
            }
            let pause = tokio::time::sleep(backoff.next_delay());
            offline(&mut self.end, &self.metrics, pause).await;
        }
    }

    /// Serves a connection and those that take over from it. Returns why the last one was lost; nothing when the process stops.
    async fn sessions(
        &mut self,
        mut connection: Connection,
        mut credentials: Credentials,
        target: &Target,
        certificates: &mut Certificates,
    ) -> Option<String> {
        loop {
            self.note(&connection);
            let (is_quic, began) = (connection.path.is_some(), Instant::now());
            let end = self.session(connection, credentials, target, certificates).await;
            if is_quic && began.elapsed() >= GOOD {
                self.returns.reset();
            }
            match end {
                End::Replaced(next, renewed) => (connection, credentials) = (*next, *renewed),
                // The process is stopping: that the connection ends is no news.
                End::Broken(_) if self.tasks.token().is_cancelled() => return None,
                End::Broken(reason) => return Some(reason),
            }
        }
    }

    /// Remembers which way was open.
    fn note(&mut self, connection: &Connection) {
        let fell_back = self.settings.quic.is_some() && connection.path.is_none();
        if fell_back && !self.head_start.is_zero() {
            info!(
                "no QUIC: the connection is by WebSocket, QUIC is tried again later (a Go cloudcore never has it: its QUIC is another protocol)"
            );
        }
        self.head_start = if fell_back { Duration::ZERO } else { connect::HEAD_START };
    }

    fn target(&self) -> Target {
        Target {
            websocket: self.settings.websocket.clone(),
            quic: self.settings.quic.clone(),
            project: self.settings.project.clone(),
            node: self.settings.node.clone(),
            timeout: self.settings.handshake_timeout,
        }
    }

    /// One line for each cause.
    fn say(&mut self, trouble: String) {
        if trouble == self.said {
            debug!(trouble, "still");
        } else {
            warn!("{trouble}");
            self.said = trouble;
        }
    }
}

/// Does something without a session. What is to be sent meanwhile is dropped: whoever waits for room in the queue must not wait for
/// a session to come.
async fn offline<T>(end: &mut UplinkEnd, metrics: &Metrics, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            Some(lost) = end.recv() => match lost {
                Outgoing::Ask { message, .. } | Outgoing::Tell(message) => metrics.dropped(&message, "offline"),
            },
        }
    }
}
