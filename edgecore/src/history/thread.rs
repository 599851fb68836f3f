//! The thread that owns the file. Values are gathered and written together, so that flash sees few writes; a question is answered after
//! what came before it was written.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
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
/// Bytes of values that wait in it, or else one batch, however large.
const MOST_QUEUED: usize = 8 * 1024 * 1024;
/// What a value costs beside its text and its name.
const OVERHEAD: usize = 256;
/// How long a value waits for others.
const GATHER: Duration = Duration::from_secs(3);
/// Values that are written without waiting for more …
const BATCH: usize = 1024;
/// … and their bytes.
const BATCH_BYTES: usize = 1024 * 1024;
/// Bytes of values that wait while the disk refuses; beyond them the oldest values are lost and counted.
const MOST_WAITING: usize = 8 * 1024 * 1024;
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
    /// Bytes of values among the calls.
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
            bytes: 0,
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

    /// Never waits: values that find no room are lost. That a device went is not: it takes none among the bytes, and where there is none
    /// for a call, it is left in `owed`, for the next one.
    pub(super) fn tell(&self, owed: &mut Vec<News>, mut news: Arc<[News]>) {
        if !owed.is_empty() {
            news = owed.drain(..).chain(news.iter().cloned()).collect();
        }
        let queued = self.queued.load(Ordering::Relaxed);
        if queued > 0 && queued + bytes_of(&news) > MOST_QUEUED {
            self.lost(&news);
            news = gone(&news).collect();
        }
        if news.is_empty() {
            return;
        }
        let bytes = bytes_of(&news);
        self.queued.fetch_add(bytes, Ordering::Relaxed);
        if let Err(error) = self.sender.try_send(Call::Tell(news.clone())) {
            self.queued.fetch_sub(bytes, Ordering::Relaxed);
            self.lost(&news);
            if matches!(error, TrySendError::Full(_)) {
                owed.extend(gone(&news));
            }
        }
    }

    fn lost(&self, news: &[News]) {
        let values = news.iter().filter(|one| is_value(one)).count();
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
    /// Bytes of the values among them.
    bytes: usize,
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
                    self.queued.fetch_sub(bytes_of(&news), Ordering::Relaxed);
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
        self.bytes += size(&news);
        self.waiting.push_back(news);
        self.due.get_or_insert_with(|| Instant::now() + GATHER);
        if self.waiting.len() >= BATCH || self.bytes >= BATCH_BYTES {
            self.write();
        }
        while self.bytes > MOST_WAITING && self.drop_oldest() {}
    }

    /// Of the values: what tells that a device went stays, or they would be remembered for ever.
    fn drop_oldest(&mut self) -> bool {
        let first = self.waiting.iter().position(is_value);
        let Some(lost) = first.and_then(|first| self.waiting.remove(first)) else {
            return false;
        };
        self.bytes = self.bytes.saturating_sub(size(&lost));
        self.metrics.lost("busy", 1);
        true
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
                self.bytes = 0;
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
                "the history cannot be written; tried again every 5 s, up to 8 MiB of values wait"
            );
            self.said = Some(text);
        }
    }
}

const fn is_value(news: &News) -> bool {
    matches!(news, News::Value(_))
}

/// What is no value.
fn gone(news: &[News]) -> impl Iterator<Item = News> {
    news.iter().filter(|one| !is_value(one)).cloned()
}

fn size(news: &News) -> usize {
    match news {
        News::Value(accepted) => accepted.value.len() + accepted.property.len() + OVERHEAD,
        News::Removed(_) | News::Devices(_) => 0,
    }
}

fn bytes_of(news: &[News]) -> usize {
    news.iter().map(size).sum()
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proto::device::DeviceId;

    use super::*;
    use crate::devicetwin::Accepted;
    use crate::history::Bounds;

    fn value(number: usize, size: usize) -> News {
        News::Value(Arc::new(Accepted {
            device: DeviceId::new("default", "t1"),
            property: number.to_string(),
            value: "x".repeat(size),
            kind: "string".to_owned(),
            time: 0,
        }))
    }

    #[test]
    fn what_finds_no_room_are_values_and_the_queue_is_bounded_by_their_bytes() {
        // Nobody takes a call.
        let (sender, calls) = sync_channel(3);
        let handle = Calls {
            sender,
            queued: Arc::default(),
            metrics: Metrics::default(),
        };
        let gone = || News::Removed(DeviceId::new("default", "t1"));
        let mut owed = Vec::new();
        handle.tell(&mut owed, [value(0, MOST_QUEUED), gone()].into());
        handle.tell(&mut owed, [value(1, 1)].into());
        handle.tell(&mut owed, [value(2, 1), gone()].into());
        handle.tell(&mut owed, [gone()].into());
        assert!(owed.is_empty());
        handle.tell(&mut owed, [gone(), value(3, 1)].into());
        assert_eq!(owed.len(), 1, "the queue is full");
        let told = |call: Call| match call {
            Call::Tell(news) => (news.len(), bytes_of(&news)),
            Call::Ask { .. } | Call::Stop(_) => panic!("nobody asks"),
        };
        assert_eq!(calls.try_recv().map(told), Ok((2, MOST_QUEUED + 1 + OVERHEAD)));
        handle.tell(&mut owed, Arc::default());
        assert!(owed.is_empty());
        let rest: Vec<_> = calls.try_iter().map(told).collect();
        assert_eq!(rest, [(1, 0), (1, 0), (1, 0)]);
    }

    #[test]
    fn while_the_disk_refuses_the_oldest_values_go_and_no_removal_of_a_device() {
        let mut owner = Owner {
            settings: Settings {
                database: "/nowhere/history.db".into(),
                bounds: Bounds {
                    values: 1,
                    bytes: 1,
                    age: None,
                },
            },
            queued: Arc::default(),
            metrics: Metrics::default(),
            store: None,
            waiting: VecDeque::new(),
            bytes: 0,
            due: None,
            next_try: Some(Instant::now() + Duration::from_secs(3600)),
            said: None,
        };
        owner.take(News::Removed(DeviceId::new("default", "t1")));
        for number in 0..1000 {
            owner.take(value(number, 16 * 1024));
        }
        assert!(owner.bytes <= MOST_WAITING && owner.bytes > MOST_WAITING / 2);
        assert!(matches!(owner.waiting.front(), Some(News::Removed(_))));
        let newest = owner.waiting.back();
        assert!(matches!(newest, Some(News::Value(newest)) if newest.property == "999"));
        assert_eq!(owner.bytes, owner.waiting.iter().map(size).sum::<usize>());
    }
}
