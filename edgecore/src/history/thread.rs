//! The thread that owns the file. Values are gathered and written together, so that flash sees few writes; a question is answered after
//! what came before it was written.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::chain;
use proto::device::Remembered;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::metrics::Metrics;
use super::question::Question;
use super::store::Store;
use super::{HistoryError, Settings};
use crate::devicetwin::News;
use crate::sqlite;

/// Batches of values and questions that wait for the thread. When it is full values are lost and counted, a question refused.
const QUEUE: usize = 4096;
/// Values that wait in it, or else one batch, however large.
const MOST_QUEUED: usize = 16 * 1024;
/// How long a value waits for others.
const GATHER: Duration = Duration::from_secs(3);
/// Values that are written without waiting for more.
const BATCH: usize = 1024;
/// Values that wait while the disk refuses; beyond them the oldest are lost and counted.
const MOST_WAITING: usize = 8192;
/// Pause before another try when the disk refuses.
const RETRY: Duration = Duration::from_secs(5);

enum Call {
    Tell(Arc<[News]>),
    Ask {
        device: String,
        question: Question,
        answer: oneshot::Sender<Result<Remembered, HistoryError>>,
    },
    Stop(oneshot::Sender<()>),
}

/// The handle.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    sender: SyncSender<Call>,
    /// Values among the calls.
    queued: Arc<AtomicUsize>,
    metrics: Metrics,
}

impl Calls {
    /// Starts the thread.
    pub(super) fn start(settings: Settings, metrics: Metrics) -> std::io::Result<Self> {
        let (sender, calls) = sync_channel(QUEUE);
        let queued = Arc::new(AtomicUsize::new(0));
        let mut owner = Owner {
            settings,
            queued: queued.clone(),
            metrics: metrics.clone(),
            store: None,
            waiting: VecDeque::new(),
            due: None,
            next_try: None,
            said: None,
        };
        std::thread::Builder::new()
            .name("history".into())
            .stack_size(512 * 1024)
            .spawn(move || owner.run(&calls))?;
        Ok(Self {
            sender,
            queued,
            metrics,
        })
    }

    /// Never waits: values that find no room are lost. That a device went takes none.
    pub(super) fn tell(&self, mut news: Arc<[News]>) {
        let mut values = values_of(&news);
        let queued = self.queued.load(Ordering::Relaxed);
        if queued > 0 && queued + values > MOST_QUEUED {
            self.lost(values);
            values = 0;
            news = news.iter().filter(|one| !is_value(one)).cloned().collect();
        }
        self.queued.fetch_add(values, Ordering::Relaxed);
        if self.sender.try_send(Call::Tell(news)).is_err() {
            self.queued.fetch_sub(values, Ordering::Relaxed);
            self.lost(values);
        }
    }

    fn lost(&self, values: usize) {
        self.metrics.lost("busy", u64::try_from(values).unwrap_or(u64::MAX));
    }

    pub(super) async fn ask(&self, device: String, question: Question) -> Result<Remembered, HistoryError> {
        let (answer, wait) = oneshot::channel();
        let call = Call::Ask {
            device,
            question,
            answer,
        };
        self.sender.try_send(call).map_err(|_| HistoryError::Busy)?;
        wait.await.map_err(|_| HistoryError::Busy)?
    }

    /// Writes what waits; the thread ends.
    pub(super) async fn stop(&self) {
        let (done, wait) = oneshot::channel();
        if self.sender.try_send(Call::Stop(done)).is_ok() {
            let _ = wait.await;
        }
    }
}

/// The thread's state.
struct Owner {
    settings: Settings,
    queued: Arc<AtomicUsize>,
    metrics: Metrics,
    store: Option<Store>,
    /// Not yet written.
    waiting: VecDeque<News>,
    /// When they are to be.
    due: Option<Instant>,
    /// Not before, after a failure.
    next_try: Option<Instant>,
    /// The failure that was told.
    said: Option<String>,
}

impl Owner {
    fn run(&mut self, calls: &Receiver<Call>) {
        self.open();
        loop {
            let call = match self.due {
                None => calls.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => calls.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match call {
                Ok(Call::Tell(news)) => {
                    self.queued.fetch_sub(values_of(&news), Ordering::Relaxed);
                    for one in news.iter() {
                        self.take(one.clone());
                    }
                }
                Ok(Call::Ask {
                    device,
                    question,
                    answer,
                }) => {
                    self.write();
                    let _ = answer.send(self.ask(device, &question));
                }
                Err(RecvTimeoutError::Timeout) => self.write(),
                Ok(Call::Stop(done)) => {
                    self.write();
                    let _ = done.send(());
                    return;
                }
                Err(RecvTimeoutError::Disconnected) => return self.write(),
            }
        }
    }

    fn take(&mut self, news: News) {
        if self.waiting.len() >= MOST_WAITING && self.waiting.pop_front().is_some_and(|first| is_value(&first)) {
            self.metrics.lost("busy", 1);
        }
        self.waiting.push_back(news);
        self.due.get_or_insert_with(|| Instant::now() + GATHER);
        if self.waiting.len() >= BATCH {
            self.write();
        }
    }

    /// Writes what waits, and keeps the bounds in any case.
    fn write(&mut self) {
        if self.next_try.is_some_and(|next| Instant::now() < next) {
            self.due = self.next_try.filter(|_| !self.waiting.is_empty());
            return;
        }
        self.next_try = None;
        self.due = None;
        if self.store.is_none() {
            self.open();
        }
        let Some(store) = &mut self.store else {
            return;
        };
        match store.append(self.waiting.make_contiguous(), now()) {
            Ok(outcome) => {
                self.waiting.clear();
                self.metrics.stored(outcome.stored);
                self.metrics.lost("properties", outcome.refused);
                self.metrics.removed("values", outcome.by_values);
                self.metrics.removed("bytes", outcome.by_bytes);
                self.metrics.removed("age", outcome.by_age);
                self.metrics.removed("device", outcome.by_device);
                if let Ok(usage) = store.usage() {
                    self.metrics.usage(usage);
                }
                if self.said.take().is_some() {
                    info!(database = %self.settings.database.display(), "the history can be written again");
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    fn ask(&mut self, device: String, question: &Question) -> Result<Remembered, HistoryError> {
        let store = self.store.as_ref().ok_or(HistoryError::Busy)?;
        let answer = store.ask(device, question);
        if let Err(HistoryError::Failed(error)) = &answer
            && sqlite::is_damage(error)
        {
            // Opened anew, and set aside, with the next value or question.
            self.store = None;
        }
        answer
    }

    fn open(&mut self) {
        match Store::open(&self.settings.database, self.settings.bounds) {
            Ok(store) => {
                if let Ok(usage) = store.usage() {
                    self.metrics.usage(usage);
                }
                self.store = Some(store);
            }
            Err(error) => self.failed(&error),
        }
    }

    /// What waits is kept for the next try. The same failure is told once.
    fn failed(&mut self, error: &rusqlite::Error) {
        if sqlite::is_damage(error) {
            self.store = None;
        }
        let next = Instant::now() + RETRY;
        self.next_try = Some(next);
        self.due = Some(next).filter(|_| !self.waiting.is_empty());
        let text = chain(error);
        if self.said.as_ref() != Some(&text) {
            warn!(
                database = %self.settings.database.display(), error = text,
                "the history cannot be written; tried again every 5 s, up to {MOST_WAITING} values wait"
            );
            self.said = Some(text);
        }
    }
}

const fn is_value(news: &News) -> bool {
    matches!(news, News::Value(_))
}

fn values_of(news: &[News]) -> usize {
    news.iter().filter(|one| is_value(one)).count()
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
