//! Messages of MQTT clients on their way to the cloud: *records* (ARCHITECTURE.md, "The classes of messages").
//!
//! Owns what waits and its rows. Between our own programs each upload is acknowledged, and until then it is kept and sent again under
//! the same id. A Go cloud acknowledges none: what is handed to a connection that has lasted a second is forgotten, what comes before, or
//! while the link is down, is kept and sent in order afterwards. Too much of it drops the oldest, counted. A stop loses none that came
//! here.

mod machine;
mod store;
#[cfg(test)]
mod tests;

use common::Tasks;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use proto::bus::Upload;
use proto::message::now_millis;
use proto::{MAX_MESSAGE, MsgId, Operation};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::metrics;
use crate::metamanager::{RequestError, Tables};
use crate::uplink::{AskError, Link, Uplink};
use machine::{Action, Machine, Record};

/// Uploads that wait for the task; it waits for nothing but the database.
const INBOX: usize = 256;
/// How long the cloud may take to acknowledge.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a Go cloud gets nothing on a new connection: it closes some at once, when it clears away sessions of the node from before, and
/// what it was handed is gone.
const TRIAL: Duration = Duration::from_secs(1);

/// The handle. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Uploads(mpsc::Sender<Upload>);

impl Uploads {
    /// Starts the task; at most `budget` bytes wait, about. After a stop it ends when all handles are gone.
    pub(super) fn start(budget: u64, tables: Tables, uplink: Uplink, metrics: metrics::Uploads, tasks: &Tasks) -> Self {
        let (inbox, uploads) = mpsc::channel(INBOX);
        tasks.spawn_draining("eventbus uploads", |stop| {
            let task = Task {
                machine: Machine::new(budget),
                tables,
                uplink,
                metrics,
                sending: FuturesUnordered::new(),
                stop,
            };
            task.run(uploads)
        });
        Self(inbox)
    }

    /// Takes an upload.
    pub(super) async fn push(&self, upload: Upload) {
        let _ = self.0.send(upload).await;
    }
}

/// The largest content that is sent: the rest of a message is small.
const LARGEST: usize = MAX_MESSAGE - 64 * 1024;

/// What became of a send.
type Outcome = (MsgId, Result<(), AskError>);

struct Task {
    machine: Machine,
    tables: Tables,
    uplink: Uplink,
    metrics: metrics::Uploads,
    sending: FuturesUnordered<BoxFuture<'static, Outcome>>,
    stop: CancellationToken,
}

impl Task {
    async fn run(mut self, mut uploads: mpsc::Receiver<Upload>) {
        let mut link = self.uplink.link();
        self.follow(*link.borrow_and_update());
        loop {
            let wake = self.work().await;
            self.tell();
            let pause = async {
                match wake {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                changed = link.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let now: Link = *link.borrow_and_update();
                    // Answers to what was sent before never come.
                    self.sending.clear();
                    self.follow(now);
                }
                Some((id, outcome)) = self.sending.next() => self.sent(&id, outcome),
                upload = uploads.recv() => match upload {
                    Some(upload) => self.take(upload),
                    None => break,
                },
                () = pause => {}
            }
        }
        self.finish(uploads).await;
    }

    fn follow(&mut self, link: Link) {
        self.machine.link(link.is_up());
        if link.is_up() && !self.uplink.features().has_uploads() {
            self.machine.hold(Instant::now() + TRIAL);
        }
    }

    /// Writes what is in memory, and what still comes: until nobody can push any more.
    async fn finish(mut self, mut uploads: mpsc::Receiver<Upload>) {
        while let Some(Some((id, outcome))) = self.sending.next().now_or_never() {
            if outcome.is_ok() {
                self.sent(&id, outcome);
            }
        }
        // What nobody has answered goes again after the start, under the same id.
        self.sending.clear();
        loop {
            self.machine.stop();
            self.work().await;
            self.tell();
            let Some(upload) = uploads.recv().await else { break };
            self.take(upload);
            while !self.machine.has_batch()
                && let Ok(upload) = uploads.try_recv()
            {
                self.take(upload);
            }
        }
        let lost = self.machine.unwritten();
        if lost.count > 0 {
            warn!(
                count = lost.count,
                bytes = lost.bytes,
                "uploads of MQTT clients are lost by the stop"
            );
        }
    }

    fn take(&mut self, upload: Upload) {
        self.metrics.taken.inc();
        self.machine.push(Instant::now(), now_millis(), upload);
    }

    /// Does what is to be done; says when to look again.
    async fn work(&mut self) -> Option<Instant> {
        loop {
            let outcome = match self.machine.next(Instant::now()) {
                Action::Wait(until) => return until,
                Action::Send(record) => {
                    self.send(record);
                    continue;
                }
                Action::Open => store::open(&self.tables)
                    .await
                    .map(|(amount, last)| self.machine.opened(amount, last)),
                Action::Store { records, trim } => {
                    let appended = store::append(&self.tables, records.clone(), trim).await;
                    appended.map(|trimmed| {
                        self.metrics
                            .stored
                            .inc_by(u64::try_from(records.len()).unwrap_or_default());
                        self.machine.stored(&records, trimmed);
                    })
                }
                Action::Load { after } => store::load(&self.tables, after)
                    .await
                    .map(|records| self.machine.loaded(Instant::now(), records)),
                Action::Forget(sequences) => store::forget(&self.tables, sequences)
                    .await
                    .map(|()| self.machine.forgotten()),
            };
            if let Err(error) = outcome {
                self.failed(&error);
            }
        }
    }

    fn send(&mut self, record: Record) {
        let features = self.uplink.features();
        let Record { id, time, upload, .. } = record;
        if upload.topic.is_empty() {
            warn!("an upload is lost: its row is damaged");
            self.metrics.dropped.inc();
            self.machine.taken(&id);
            return;
        }
        let mut message = upload.message(features.has_uploads());
        message.id = id.clone();
        message.timestamp = time;
        if message.content.get().len() > LARGEST {
            warn!(
                topic = upload.topic,
                bytes = upload.payload.len(),
                "an upload is larger than a message may be, it is dropped"
            );
            self.metrics.dropped.inc();
            self.machine.taken(&id);
            return;
        }
        let (uplink, stop) = (self.uplink.clone(), self.stop.clone());
        self.metrics.sent.inc();
        self.sending.push(Box::pin(async move {
            // The process is stopping: nothing more is sent.
            if stop.is_cancelled() {
                return (id, Err(AskError::Stopped));
            }
            let outcome = if features.has_uploads() {
                uplink.ask(message, TIMEOUT).await.map(|answer| {
                    if answer.operation == Operation::Error {
                        warn!(topic = upload.topic, "the cloud cannot take an upload, it is dropped");
                    }
                })
            } else {
                uplink.tell(message).await
            };
            (id, outcome)
        }));
    }

    fn sent(&mut self, id: &MsgId, outcome: Result<(), AskError>) {
        match outcome {
            Ok(()) => {
                if self.machine.taken(id) {
                    self.metrics.acknowledged.inc();
                }
            }
            Err(error) => {
                debug!(%error, "an upload goes again");
                self.metrics.retried.inc();
                self.machine.refused(Instant::now(), id);
            }
        }
    }

    fn failed(&mut self, error: &RequestError) {
        warn!(
            error = common::chain(error),
            "uploads of MQTT clients cannot be stored: the newest are kept in memory"
        );
        self.machine.store_failed(Instant::now());
    }

    /// Shows what waits, and says what was lost.
    fn tell(&mut self) {
        let dropped = self.machine.dropped();
        if dropped.count > 0 {
            self.metrics.dropped.inc_by(dropped.count);
            self.metrics.dropped_bytes.inc_by(dropped.bytes);
            warn!(
                count = dropped.count,
                bytes = dropped.bytes,
                "uploads of MQTT clients dropped, the oldest: more wait than modules.eventBus.uploadBytes allows"
            );
        }
        let waiting = self.machine.waiting();
        self.metrics
            .waiting
            .set(i64::try_from(waiting.count).unwrap_or(i64::MAX));
        self.metrics
            .waiting_bytes
            .set(i64::try_from(waiting.bytes).unwrap_or(i64::MAX));
        let age = self
            .machine
            .oldest()
            .map_or(0, |time| now_millis().saturating_sub(time) / 1000);
        self.metrics.oldest_age_seconds.set(age.max(0));
    }
}
