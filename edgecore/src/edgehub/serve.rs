//! One session: what comes in goes to its receivers, what is due or offered goes out.

use std::time::Duration;

use common::line::{Farewell, Line, LineError, Received as Came};
use jiff::Timestamp;
use proto::{Lane, Message};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::certificate::Certificates;
use super::connect::{Connection, Target};
use super::inboxes::Pending;
use super::queues::Queues;
use super::session::{Due, Limits, Received, Session, late_ack};
use super::successor::{Credentials, Dialling, successor};
use super::{Hub, inventory, offline};
use crate::uplink::Link;

/// How long a farewell may take.
const CLOSING: Duration = Duration::from_secs(1);

/// How long the connection that takes over may take to be known here after the cloud has ended this one.
const HANDOVER: Duration = Duration::from_secs(2);

/// Why a session is over.
pub(super) enum End {
    /// It broke.
    Broken(String),
    /// Another connection takes over.
    Replaced(Box<Connection>, Box<Credentials>),
}

/// What the connection has to say.
enum Turn {
    Came(Came),
    /// There is room in the bulk lane again.
    Room,
}

impl Hub {
    pub(super) async fn session(
        &mut self,
        connection: Connection,
        credentials: Credentials,
        target: &Target,
        certificates: &mut Certificates,
    ) -> End {
        self.sessions += 1;
        let link = Link::Up(self.sessions);
        let inventory = connection.features.has_inventory();
        let transport = connection.transport();
        info!(server = connection.server, transport, features = %connection.features, "connected to cloudcore");
        let left = credentials.validity.until.duration_since(Timestamp::now());
        self.metrics.certificate(left.as_hours() / 24);

        let Connection {
            mut line,
            path,
            features,
            ..
        } = connection;
        let mut queues = Queues::default();
        // Keepalive is the first message; the link is up only after it is on its way.
        let mut state = Session::new(self.limits(), self.metrics.clone(), Instant::now());
        if let Some(Due::Keepalive(message)) = state.due(Instant::now(), true) {
            self.queue(&mut queues, &message);
        }
        if let Err(error) = written(&mut *line, &mut queues).await {
            return End::Broken(ended(&error));
        }
        offline(&mut self.end, &self.metrics, self.inboxes.meta.connected(inventory)).await;
        self.end.features.send_replace(features);
        self.end.link.send_replace(link);
        self.metrics.link(true);
        if inventory {
            let compared = inventory::compare(self.inboxes.meta.clone(), self.uplink.clone(), link);
            self.tasks.spawn("inventory", compared);
        }

        let (mut returns, dialling) = (self.returns.clone(), Dialling::default());
        let end = {
            let successor = successor(certificates, credentials, target, path, &mut returns, &dialling);
            tokio::pin!(successor);
            let mut last_heard = 0;
            let mut pending = None;
            loop {
                let now = Instant::now();
                let heard = line.heard();
                if heard != last_heard {
                    last_heard = heard;
                    state.heard(now);
                }
                let write_due = line.stalled().map(|since| since + self.settings.write_deadline);
                if write_due.is_some_and(|due| now >= due) {
                    break End::Broken("cannot write to the connection".into());
                }
                if let Some(due) = state.due(now, queues.has_room(Lane::Bulk)) {
                    match due {
                        Due::Keepalive(message) | Due::Send(message) => self.queue(&mut queues, &message),
                        Due::Ping => {
                            if let Err(error) = line.ping() {
                                break End::Broken(ended(&error));
                            }
                        }
                        Due::Dead(reason) => break End::Broken(reason.to_owned()),
                    }
                    continue;
                }
                let deadline = state.deadline(queues.has_room(Lane::Bulk));
                let (urgent, bulk) = (queues.has_room(Lane::Urgent), queues.has_room(Lane::Bulk));
                let reads = pending.is_none();
                tokio::select! {
                    biased;
                    // Delivering is only one branch of the select: the module may itself wait for room in the uplink's queue, which is
                    // emptied below.
                    () = self.inboxes.deliver(&mut pending), if !reads => {}
                    turn = turn(&mut *line, &mut queues, reads) => match turn {
                        Ok(Turn::Room | Turn::Came(Came::Sign)) => {}
                        Ok(Turn::Came(Came::Message(bytes))) => match self.received(&bytes, &mut state, &mut queues) {
                            Ok(next) => pending = next,
                            Err(reason) => break End::Broken(reason),
                        },
                        Err(error) => {
                            if dialling.is_set()
                                && let Ok((connection, credentials)) = timeout(HANDOVER, &mut successor).await
                            {
                                break End::Replaced(Box::new(connection), Box::new(credentials));
                            }
                            break End::Broken(ended(&error));
                        }
                    },
                    Some(outgoing) = self.end.urgent.recv(), if urgent => {
                        if let Some(message) = state.outgoing(outgoing, Instant::now()) {
                            self.queue(&mut queues, &message);
                        }
                    }
                    Some(outgoing) = self.end.outgoing.recv(), if bulk && state.takes_more() => {
                        if let Some(message) = state.outgoing(outgoing, Instant::now()) {
                            self.queue(&mut queues, &message);
                        }
                    }
                    (connection, credentials) = &mut successor => {
                        break End::Replaced(Box::new(connection), Box::new(credentials));
                    }
                    () = sleep_until(write_due.map_or(deadline, |due| due.min(deadline))) => {}
                }
            }
        };
        self.returns = returns;
        self.end.link.send_replace(Link::Down);
        self.metrics.link(false);
        if matches!(end, End::Replaced(..)) {
            // The peer is told in its own way.
            self.tasks.spawn("edgehub farewell", async move {
                let _ = timeout(CLOSING, line.close(Farewell::NORMAL)).await;
            });
        }
        end
    }

    /// Handles one message; returns it if a module is to get it. An error ends the session.
    fn received(&self, bytes: &[u8], state: &mut Session, queues: &mut Queues) -> Result<Option<Pending>, String> {
        let message = match Message::decode(bytes) {
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
            // The asker has just given up: the cloud gets its acknowledgement all the same.
            Received::Answer(asker, message) => {
                if let Err(message) = asker.send(message) {
                    self.queue(queues, &late_ack(&message));
                }
            }
            Received::Module(to, message) if self.inboxes.has(to) => return Ok(Some(Pending::new(to, message))),
            Received::Module(_, message) => self.metrics.dropped(&message, "turned off"),
            Received::Late(message) => {
                debug!(route = %message.route, "answer came too late");
                self.metrics.dropped(&message, "late");
                self.queue(queues, &late_ack(&message));
            }
            // Such as a confirmation for DeviceTwin that came too late. Dropping it is safe: those values are told again.
            Received::Unknown(message) if message.is_answer() => {
                debug!(route = %message.route, "answer to no question");
                self.metrics.dropped(&message, "late");
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

    /// A full lane drops the message: only acknowledgements of late answers come here without having looked for room, and the cloud
    /// sends those again.
    fn queue(&self, queues: &mut Queues, message: &Message) {
        if queues.push(message) {
            self.metrics.sent(message);
        } else {
            self.metrics.dropped(message, "full");
        }
    }

    const fn limits(&self) -> Limits {
        Limits {
            heartbeat: self.settings.heartbeat,
            rate: self.settings.rate,
            burst: self.settings.burst,
        }
    }
}

/// Writes what the connection takes, and reads what comes next, if that is wanted.
async fn turn(line: &mut dyn Line, queues: &mut Queues, reads: bool) -> Result<Turn, LineError> {
    std::future::poll_fn(|context| {
        let was_full = !queues.has_room(Lane::Bulk);
        line.poll_write(context, &mut |lane| queues.pop(lane))?;
        if was_full && queues.has_room(Lane::Bulk) {
            return std::task::Poll::Ready(Ok(Turn::Room));
        }
        if reads {
            return line.poll_read(context).map_ok(Turn::Came);
        }
        std::task::Poll::Pending
    })
    .await
}

/// Writes what the connection takes at once.
async fn written(line: &mut dyn Line, queues: &mut Queues) -> Result<(), LineError> {
    std::future::poll_fn(|context| std::task::Poll::Ready(line.poll_write(context, &mut |lane| queues.pop(lane)))).await
}

/// Why the session is over, in the operator's words.
fn ended(error: &LineError) -> String {
    match error {
        LineError::Closed(words) if words.is_empty() => "cloudcore ended the connection".to_owned(),
        LineError::Closed(words) => format!("cloudcore closed the connection: {words}"),
        error => common::chain(error),
    }
}
