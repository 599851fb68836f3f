//! The one connection to the cloud.
//!
//! Owns the node's certificate, the socket and the table of questions that wait. Reads the uplink's queue. Emits the state of the
//! link, answers to their askers, all other messages to MetaManager. Must not know what is in a message beyond its header, and must
//! not end the process: the edge runs without the cloud. Behaviour: spec 01 §3, §5.6, §6, §7; what is ours: a lost connection is
//! noticed at once and dialled again within a second, pauses grow to 30 s where the cloud refuses, a renewed certificate is used
//! without a gap.

mod certificate;
mod connect;
mod inventory;
mod metrics;
mod session;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{Backoff, Tasks};
use futures::stream::SplitSink;
use futures::{SinkExt as _, StreamExt as _};
use jiff::Timestamp;
use proto::features::Features;
use proto::{Message, NodeName};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::Message as Frame;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub use certificate::{Paths, Settings as CertificateSettings};
pub use metrics::Metrics;

use crate::metamanager::MetaManager;
use crate::uplink::{Link, Outgoing, Uplink, UplinkEnd};
use certificate::{Certificates, Validity};
use connect::{Socket, Target};
use session::{Due, Limits, Received, Session};

/// Frames that wait for the socket; more make the session stop taking messages.
const WRITES: usize = 32;
/// Keepalives and pings that wait for the socket, ahead of all others.
const URGENT: usize = 4;
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
    /// `websocket.server`.
    pub server: String,
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
    meta: MetaManager,
    metrics: Metrics,
    joined: impl Fn() + Send + 'static,
    tasks: &Tasks,
) {
    let hub = Hub {
        settings,
        uplink,
        end,
        meta,
        metrics,
        tasks: tasks.clone(),
        sessions: 0,
        said: String::new(),
    };
    tasks.spawn("edgehub", hub.run(joined));
}

struct Hub {
    settings: Settings,
    uplink: Uplink,
    end: UplinkEnd,
    meta: MetaManager,
    metrics: Metrics,
    tasks: Tasks,
    sessions: u64,
    said: String,
}

/// Why a session is over.
enum End {
    /// It broke.
    Broken(String),
    /// Another connection, with the renewed certificate, takes over.
    Replaced(Box<(Socket, Features, Arc<AtomicU64>)>, Validity),
}

impl Hub {
    async fn run(mut self, joined: impl Fn()) {
        let mut certificates = Certificates::new(self.settings.certificate.clone());
        let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
        loop {
            let (usable, is_new) = offline(&mut self.end.outgoing, &self.metrics, certificates.ensure()).await;
            if is_new {
                joined();
            }
            let mut validity = usable.validity;
            let target = self.target();
            let dialled = offline(&mut self.end.outgoing, &self.metrics, connect::dial(&target, usable)).await;
            match dialled {
                Ok(mut connection) => {
                    self.said.clear();
                    let began = Instant::now();
                    loop {
                        match self.session(connection, validity, &mut certificates).await {
                            End::Replaced(next, renewed) => {
                                connection = *next;
                                validity = renewed;
                            }
                            // Everything ends at the same time then.
                            End::Broken(_) if self.tasks.token().is_cancelled() => return,
                            End::Broken(reason) => {
                                warn!(server = self.settings.server, reason, "connection to cloudcore lost");
                                break;
                            }
                        }
                    }
                    if began.elapsed() >= GOOD {
                        backoff.reset();
                    }
                }
                Err(error) => {
                    self.say(common::chain(&error));
                    if error.is_silent() {
                        continue;
                    }
                }
            }
            let pause = tokio::time::sleep(backoff.next_delay());
            offline(&mut self.end.outgoing, &self.metrics, pause).await;
        }
    }

    fn target(&self) -> Target {
        Target {
            server: self.settings.server.clone(),
            project: self.settings.project.clone(),
            node: self.settings.node.clone(),
            timeout: self.settings.handshake_timeout,
        }
    }

    async fn session(
        &mut self,
        (socket, features, read): (Socket, Features, Arc<AtomicU64>),
        validity: Validity,
        certificates: &mut Certificates,
    ) -> End {
        self.sessions += 1;
        let link = Link::Up(self.sessions);
        let inventory = features.has_inventory();
        info!(server = self.settings.server, features = %features, "connected to cloudcore");
        let days = validity.until.duration_since(Timestamp::now()).as_hours() / 24;
        self.metrics.certificate(days);

        let (sink, mut frames) = socket.split();
        let (urgent, urgent_queue) = mpsc::channel(URGENT);
        let (writes, write_queue) = mpsc::channel(WRITES);
        let broken = CancellationToken::new();
        let writer = write(
            sink,
            urgent_queue,
            write_queue,
            self.settings.write_deadline,
            broken.clone(),
        );
        self.tasks.spawn("edgehub-writer", writer);

        // Keepalive is the first message; the link is up only after it is on its way.
        let mut state = Session::new(self.limits(), self.metrics.clone(), Instant::now());
        if let Some(Due::Keepalive(message)) = state.due(Instant::now(), true) {
            self.metrics.sent(&message);
            let _ = urgent.send(Frame::text(message.encode())).await;
        }
        offline(&mut self.end.outgoing, &self.metrics, self.meta.connected(inventory)).await;
        self.end.link.send_replace(link);
        self.metrics.link(true);
        if inventory {
            let compared = inventory::compare(self.meta.clone(), self.uplink.clone(), link);
            self.tasks.spawn("inventory", compared);
        }

        let renewed = renew(certificates, validity, self.target());
        tokio::pin!(renewed);
        let mut last_read = 0;
        let mut pending = None;
        let end = loop {
            let count = read.load(Ordering::Relaxed);
            if count != last_read {
                last_read = count;
                state.heard(Instant::now());
            }
            if let Some(due) = state.due(Instant::now(), writes.capacity() > 0) {
                let sent = match due {
                    Due::Keepalive(message) => {
                        self.metrics.sent(&message);
                        urgent.try_send(Frame::text(message.encode())).is_ok()
                    }
                    Due::Ping => urgent.try_send(Frame::Ping(bytes::Bytes::new())).is_ok(),
                    Due::Send(message) => self.send(&writes, &message),
                    Due::Dead(reason) => break End::Broken(reason.to_owned()),
                };
                if !sent {
                    break End::Broken("cannot write to the connection".into());
                }
                continue;
            }
            tokio::select! {
                biased;
                () = broken.cancelled() => break End::Broken("cannot write to the connection".into()),
                // MetaManager may itself wait for room in the uplink's queue, which is emptied below: nothing here waits for it alone.
                () = self.meta.deliver(&mut pending), if pending.is_some() => {}
                frame = frames.next(), if pending.is_none() => match self.frame(frame, &mut state, &writes) {
                    Ok(message) => pending = message,
                    Err(reason) => break End::Broken(reason),
                },
                Some(outgoing) = self.end.outgoing.recv(), if state.takes_more() && writes.capacity() > 0 => {
                    if let Some(message) = state.outgoing(outgoing, Instant::now())
                        && !self.send(&writes, &message)
                    {
                        break End::Broken("cannot write to the connection".into());
                    }
                }
                (connection, validity) = &mut renewed => {
                    break End::Replaced(Box::new(connection), validity);
                }
                () = tokio::time::sleep_until(state.deadline(writes.capacity() > 0)) => {}
                // Room in a full queue: what was held back may go.
                Ok(permit) = writes.reserve(), if writes.capacity() == 0 => drop(permit),
            }
        };
        self.end.link.send_replace(Link::Down);
        self.metrics.link(false);
        end
    }

    /// Handles one frame; returns what MetaManager is to get. An error ends the session.
    fn frame(
        &self,
        frame: Option<Result<Frame, tokio_tungstenite::tungstenite::Error>>,
        state: &mut Session,
        writes: &mpsc::Sender<Frame>,
    ) -> Result<Option<Message>, String> {
        let bytes = match frame {
            Some(Ok(Frame::Text(text))) => bytes::Bytes::from(text),
            Some(Ok(Frame::Binary(bytes))) => bytes,
            Some(Ok(Frame::Close(_))) => return Err("cloudcore closed the connection".into()),
            Some(Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_))) => return Ok(None),
            // A Go cloud ends sessions so, without a word.
            Some(Err(tokio_tungstenite::tungstenite::Error::Io(error)))
                if error.kind() == std::io::ErrorKind::UnexpectedEof =>
            {
                return Err("cloudcore ended the connection".into());
            }
            Some(Err(error)) => return Err(common::chain(&error)),
            None => return Err("cloudcore ended the connection".into()),
        };
        let message = match Message::decode(&bytes) {
            Ok(message) => message,
            Err(error) => {
                return Err(format!(
                    "cloudcore sent {} bytes that are no message: {}",
                    bytes.len(),
                    common::chain(&error)
                ));
            }
        };
        self.metrics.received(&message);
        match state.received(message) {
            // An asker that has just given up: the cloud is told all the same.
            Received::Answer(asker, message) => {
                if let Err(message) = asker.send(message) {
                    self.send(writes, &session::late_ack(&message));
                }
            }
            Received::Meta(message) => return Ok(Some(message)),
            Received::Late(message) => {
                debug!(route = %message.route, "answer came too late");
                self.metrics.dropped(&message, "late");
                self.send(writes, &session::late_ack(&message));
            }
            Received::Unknown(message) => {
                warn!(
                    group = %message.group, source = %message.source, operation = %message.operation, route = %message.route,
                    "message for a module that is not here"
                );
                self.metrics.dropped(&message, "unknown");
            }
        }
        Ok(None)
    }

    /// Returns whether the connection is still written. A full queue drops the message: only acknowledgements of late answers come
    /// here without having looked for room, and the cloud sends those again.
    fn send(&self, writes: &mpsc::Sender<Frame>, message: &Message) -> bool {
        match writes.try_send(Frame::text(message.encode())) {
            Ok(()) => self.metrics.sent(message),
            Err(mpsc::error::TrySendError::Full(_)) => self.metrics.dropped(message, "full"),
            Err(mpsc::error::TrySendError::Closed(_)) => return false,
        }
        true
    }

    const fn limits(&self) -> Limits {
        Limits {
            heartbeat: self.settings.heartbeat,
            rate: self.settings.rate,
            burst: self.settings.burst,
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
async fn offline<T>(outgoing: &mut mpsc::Receiver<Outgoing>, metrics: &Metrics, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            Some(lost) = outgoing.recv() => match lost {
                Outgoing::Ask { message, .. } | Outgoing::Tell(message) => metrics.dropped(&message, "offline"),
            },
        }
    }
}

/// Waits until the certificate is renewed and a connection with it stands.
async fn renew(
    certificates: &mut Certificates,
    mut validity: Validity,
    target: Target,
) -> ((Socket, Features, Arc<AtomicU64>), Validity) {
    loop {
        certificates.renew(validity).await;
        let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
        while let Ok(usable) = certificates.usable() {
            validity = usable.validity;
            match connect::dial(&target, usable).await {
                Ok(connection) => return (connection, validity),
                Err(error) => warn!(
                    error = common::chain(&error),
                    "no connection with the renewed certificate yet"
                ),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
}

/// Writes what is queued, the urgent queue first. Ends with its queues, or when the peer does not take a frame in time.
async fn write(
    mut sink: SplitSink<Socket, Frame>,
    mut urgent: mpsc::Receiver<Frame>,
    mut writes: mpsc::Receiver<Frame>,
    deadline: Duration,
    broken: CancellationToken,
) {
    let _guard = broken.drop_guard();
    loop {
        let frame = tokio::select! {
            biased;
            Some(frame) = urgent.recv() => frame,
            Some(frame) = writes.recv() => frame,
            else => break,
        };
        match tokio::time::timeout(deadline, sink.send(frame)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
    // The session was replaced: the peer is told in its own way.
    let _ = tokio::time::timeout(Duration::from_secs(1), sink.close()).await;
}
