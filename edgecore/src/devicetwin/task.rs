//! The task that owns the devices: gathers what waits, stores it in one transaction, then publishes, then tells the cloud.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use proto::device::{DeviceFacts, DeviceId};
use proto::{Kind, Message, Object, ObjectPath};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::machine::{Effects, Input, Known, Machine, Now, Outcome, Rates};
use super::metrics::Metrics;
use super::publications::Publisher;
use super::rows::{self, Row};
use super::{News, Request, Settings, Waiting};
use crate::metamanager::{MetaManager, RequestError, Tables};
use crate::uplink::{AskError, Uplink};

/// Requests that share a transaction.
const BATCH: usize = 256;
/// Bytes of payloads that do.
const BATCH_BYTES: usize = 1024 * 1024;
/// How long the cloud may take to confirm.
const ANSWER: Duration = Duration::from_secs(15);
/// When the database is tried again, and the stored objects are compared with the devices.
const AGAIN: Duration = Duration::from_secs(5);
/// How often the age of the oldest change is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// After a stop, when nothing has come for so long: the broker of our own hands on what it has acknowledged.
const QUIET: Duration = Duration::from_millis(300);

/// The ends of the queues that the task reads.
pub(super) struct Ends {
    pub(super) requests: mpsc::Receiver<Waiting>,
    pub(super) messages: mpsc::Receiver<Message>,
}

pub(super) struct Task {
    machine: Machine,
    meta: MetaManager,
    tables: Tables,
    uplink: Uplink,
    publisher: Publisher,
    news: broadcast::Sender<Arc<[News]>>,
    metrics: Metrics,
    /// Whether the rows were read.
    loaded: bool,
    /// The database that they are in.
    database: u64,
    /// The database whose objects were compared with the devices.
    compared: u64,
    /// When the rows are to be read, or the devices compared with the stored objects.
    check: Option<Instant>,
    /// Why nothing can be stored, as last said.
    failure: Option<String>,
    looked: Instant,
}

impl Task {
    pub(super) fn new(
        settings: Settings,
        meta: MetaManager,
        uplink: Uplink,
        publisher: Publisher,
        news: broadcast::Sender<Arc<[News]>>,
        metrics: Metrics,
    ) -> Self {
        let now = Instant::now();
        let rates = Rates {
            device: settings.reports_per_device,
            all: settings.reports_per_second,
        };
        let tables = meta.tables();
        Self {
            machine: Machine::new(settings.node, rates, now),
            database: tables.replaced(),
            compared: tables.replaced(),
            meta,
            tables,
            uplink,
            publisher,
            news,
            metrics,
            loaded: false,
            check: Some(now),
            failure: None,
            looked: now,
        }
    }

    pub(super) async fn run(mut self, mut ends: Ends, stop: CancellationToken) {
        let mut link = self.uplink.link();
        link.mark_changed();
        let mut changes = self.meta.changes();
        let mut answers = FuturesUnordered::new();
        loop {
            let deadline = self.deadline();
            let mut inputs = Vec::new();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Ok(()) = link.changed() => {
                    let up = link.borrow_and_update().is_up();
                    self.machine.link(up, Instant::now());
                    if up {
                        self.check.get_or_insert_with(Instant::now);
                    }
                }
                Some((id, outcome)) = answers.next(), if !answers.is_empty() => self.answered(id, outcome),
                Some(message) = ends.messages.recv() => {
                    inputs.push(Input::Cloud(message));
                    while inputs.len() < BATCH && let Ok(message) = ends.messages.try_recv() {
                        inputs.push(Input::Cloud(message));
                    }
                }
                change = changes.recv() => match change {
                    Ok(path) if path.kind == Kind::Device => inputs.extend(self.changed(&path).await),
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => self.check = Some(Instant::now()),
                    Err(RecvError::Closed) => return,
                },
                Some(request) = ends.requests.recv() => {
                    gather(request, &mut ends.requests, &mut inputs);
                    self.metrics.requests.inc_by(u64::try_from(inputs.len()).unwrap_or_default());
                }
                () = self.tables.replaced_after(self.database), if self.loaded && self.failure.is_none() => {
                    self.check = Some(Instant::now());
                }
                () = sleep_until(deadline) => {}
            }
            self.checked(&mut inputs).await;
            self.work(inputs).await;
            if self.loaded {
                while let Some((id, message)) = self.machine.outgoing(now()) {
                    self.metrics.reported.inc();
                    answers.push(ask(self.uplink.clone(), id, message));
                }
            }
            self.look();
        }
        self.finish(ends.requests).await;
    }

    /// Stores what was taken before the stop: a mapper that reports changes only says it once. The cloud is told after the start.
    async fn finish(mut self, mut requests: mpsc::Receiver<Waiting>) {
        while let Ok(Some(request)) = timeout(QUIET, requests.recv()).await {
            let mut inputs = Vec::new();
            gather(request, &mut requests, &mut inputs);
            self.work(inputs).await;
        }
    }

    /// Reads the rows when it is time for it.
    pub(super) async fn load(&mut self) {
        match self.tables.transact(rows::load).await {
            Ok(loaded) => {
                self.machine.load(loaded, Instant::now());
                self.loaded = true;
                self.stored_again();
                info!(devices = self.machine.len(), "devices loaded");
            }
            Err(error) => self.unstored(&error),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let machine = self.machine.deadline(Instant::now()).filter(|_| self.loaded);
        [self.check, machine].into_iter().flatten().min()
    }

    /// What was put off: the first reading, the comparison with the stored objects.
    async fn checked(&mut self, inputs: &mut Vec<Input>) {
        if self.check.take_if(|due| *due <= Instant::now()).is_none() {
            return;
        }
        if !self.loaded {
            self.load().await;
            if !self.loaded {
                return;
            }
        }
        match self.meta.local_all(Kind::Device).await {
            Ok(objects) => {
                let database = self.tables.replaced();
                if std::mem::replace(&mut self.compared, database) != database {
                    self.machine.objects_lost();
                }
                let (mut stored, mut damaged) = (Vec::new(), Vec::new());
                for (path, object) in &objects {
                    match object {
                        Some(object) => stored.extend(known(path, object)),
                        None => damaged.extend(device_of(path)),
                    }
                }
                inputs.push(Input::Objects(stored, damaged));
            }
            Err(error) => {
                debug!(error = common::chain(&error), "stored devices cannot be read");
                self.check = Some(Instant::now() + AGAIN);
            }
        }
    }

    async fn changed(&mut self, path: &ObjectPath) -> Option<Input> {
        match self.meta.local(path).await {
            Ok(Some(object)) => known(path, &object).map(Input::Stored),
            Ok(None) if self.tables.replaced() == self.compared => device_of(path).map(Input::Gone),
            _ => {
                self.check.get_or_insert_with(|| Instant::now() + AGAIN);
                None
            }
        }
    }

    async fn work(&mut self, inputs: Vec<Input>) {
        let now = now();
        if !self.loaded {
            let reason = self.failure.clone().unwrap_or_default();
            let refused = inputs
                .iter()
                .filter_map(|input| self.machine.unavailable(input, &reason, now));
            self.publisher.publish(refused);
            return;
        }
        for input in inputs {
            self.machine.take(input, now);
        }
        let rows = self.machine.rows(now.instant);
        let effects = match self.store(rows).await {
            Ok(()) => self.machine.commit(now.instant),
            Err(error) => {
                self.unstored(&error);
                self.metrics.unstored.inc();
                self.machine.abort(&error.to_string(), now)
            }
        };
        self.follow(effects);
    }

    async fn store(&mut self, rows: Vec<Row>) -> Result<(), RequestError> {
        if self.tables.replaced() != self.database {
            self.restore().await?;
        }
        if rows.is_empty() {
            return Ok(());
        }
        self.tables
            .transact(move |connection| rows::apply(connection, &rows))
            .await?;
        self.stored_again();
        Ok(())
    }

    /// A damaged database was replaced: what is in memory is all there is.
    async fn restore(&mut self) -> Result<(), RequestError> {
        let (database, rows) = (self.tables.replaced(), self.machine.all_rows());
        let write = move |connection: &rusqlite::Connection| {
            rows::prepare(connection)?;
            rows::apply(connection, &rows)
        };
        self.tables.transact(write).await?;
        self.database = database;
        info!(devices = self.machine.len(), "devices written to the new database");
        Ok(())
    }

    fn follow(&self, effects: Effects) {
        self.metrics.coalesced.inc_by(effects.coalesced);
        self.publisher.publish(effects.publications);
        if !effects.news.is_empty() {
            let _ = self.news.send(effects.news.into());
        }
    }

    fn answered(&mut self, id: u64, outcome: Outcome) {
        match outcome {
            Outcome::Confirmed | Outcome::ConfirmedByGo => self.metrics.confirmed.inc(),
            Outcome::Unanswered => self.metrics.unanswered.inc(),
            Outcome::Unsent => 0,
        };
        self.machine.answered(id, outcome, Instant::now());
    }

    fn unstored(&mut self, error: &RequestError) {
        let reason = error.to_string();
        if self.failure.as_ref() != Some(&reason) {
            warn!(
                error = reason,
                "devices cannot be stored or read: requests about them are refused, and it is tried again"
            );
        }
        self.failure = Some(reason);
        self.check.get_or_insert_with(|| Instant::now() + AGAIN);
    }

    fn stored_again(&mut self) {
        if self.failure.take().is_some() {
            info!("devices are stored again");
        }
    }

    fn look(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.looked) >= LOOK {
            self.looked = now;
            let age = self.machine.oldest().map(|since| now.duration_since(since));
            self.metrics.oldest.set(age.unwrap_or_default().as_secs_f64());
            self.metrics
                .devices
                .set(i64::try_from(self.machine.len()).unwrap_or(i64::MAX));
        }
    }
}

async fn ask(uplink: Uplink, id: u64, message: Message) -> (u64, Outcome) {
    let outcome = match uplink.ask(message, ANSWER).await {
        Ok(_) if uplink.features().is_empty() => Outcome::ConfirmedByGo,
        Ok(_) => Outcome::Confirmed,
        Err(AskError::Timeout(_)) => Outcome::Unanswered,
        Err(AskError::Offline | AskError::Stopped) => Outcome::Unsent,
    };
    (id, outcome)
}

fn gather(first: Waiting, requests: &mut mpsc::Receiver<Waiting>, inputs: &mut Vec<Input>) {
    let mut bytes = 0;
    let mut next = Some(first);
    while let Some(Waiting { request, room }) = next {
        bytes += room.num_permits();
        inputs.push(match request {
            Request::Mqtt { topic, payload } => Input::Mqtt { topic, payload },
            Request::Report { device, twins } => Input::Report { device, twins },
            Request::State { device, state } => Input::State { device, state },
        });
        next = (inputs.len() < BATCH && bytes < BATCH_BYTES)
            .then(|| requests.try_recv().ok())
            .flatten();
    }
}

fn device_of(path: &ObjectPath) -> Option<DeviceId> {
    let name = path.name.clone()?;
    Some(DeviceId::new(path.namespace.clone(), name))
}

fn known(path: &ObjectPath, object: &Object) -> Option<Known> {
    Some(Known {
        id: device_of(path)?,
        uid: object.meta().uid.clone(),
        description: DeviceFacts::of(object)
            .map(|facts| facts.description)
            .unwrap_or_default(),
    })
}

fn now() -> Now {
    Now {
        instant: Instant::now(),
        millis: proto::now_millis(),
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
