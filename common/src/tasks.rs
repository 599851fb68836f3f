//! Background tasks with a name, a common end and a rule for panics.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span, error, info, info_span, warn};

use crate::backoff::Backoff;

/// The tasks of a process or of one of its parts. Cheap to clone; clones belong to the same group.
#[derive(Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    failed: Arc<Notify>,
    spans: Arc<Mutex<BTreeMap<&'static str, Span>>>,
}

impl Tasks {
    /// A new group.
    pub fn new() -> Self {
        Self {
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            failed: Arc::new(Notify::new()),
            spans: Arc::default(),
        }
    }

    /// A group that stops with this one, and can be stopped before it.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            tracker: self.tracker.clone(),
            stop: self.stop.child_token(),
            failed: self.failed.clone(),
            spans: self.spans.clone(),
        }
    }

    /// Shows under `tasks` how many run.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(Running(self.tracker.clone())));
    }

    /// Starts a task. It must end by itself when [`Tasks::stopping`] says so, or it is dropped at its next await then.
    /// A panic in it stops the whole process in order: state it owned is gone.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_boxed(name, task.boxed());
    }

    /// Starts a task that sees the stop itself and drains: it is not dropped, only waited for.
    pub fn spawn_draining<F, Fut>(&self, name: &'static str, task: F)
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.spawn_boxed_draining(name, task(self.stop.clone()).boxed());
    }

    /// Starts a task that may go on for so long after the stop, to say farewell.
    pub fn spawn_lingering<F>(&self, name: &'static str, linger: Duration, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_draining(name, move |stop| async move {
            tokio::select! {
                biased;
                () = task => {}
                () = async { stop.cancelled().await; tokio::time::sleep(linger).await } => {}
            }
        });
    }

    /// Starts a task that is built anew after a panic, 1 s later at first, 30 s at most: for work whose state lives elsewhere.
    pub fn spawn_restarting<F, Fut>(&self, name: &'static str, mut build: F)
    where
        F: FnMut() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let restarting = async move {
            let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
            while AssertUnwindSafe(build()).catch_unwind().await.is_err() {
                let delay = backoff.next_delay();
                warn!(task = name, ?delay, "task panicked and starts again");
                tokio::time::sleep(delay).await;
            }
        };
        self.spawn(name, restarting);
    }

    /// Resolves when this group stops.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// The token behind [`Tasks::stopping`].
    pub const fn token(&self) -> &CancellationToken {
        &self.stop
    }

    /// Resolves when a task of the process panicked.
    pub async fn failed(&self) {
        self.failed.notified().await;
    }

    /// Stops the group and waits until its tasks have ended or `grace` is over. Returns whether all ended.
    pub async fn stop(&self, grace: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(grace, self.tracker.wait()).await.is_ok()
    }

    /// Waits for SIGTERM, SIGINT or a panicked task, then stops everything. A second signal ends the wait at once.
    /// Returns whether the process ends well.
    pub async fn run_until_signal(&self, grace: Duration) -> bool {
        let mut signals = match Signals::new() {
            Ok(signals) => signals,
            Err(error) => {
                error!(%error, "cannot listen for signals");
                return false;
            }
        };
        let healthy = tokio::select! {
            name = signals.next() => {
                info!(signal = name, "stopping");
                true
            }
            () = self.failed() => false,
        };
        tokio::select! {
            drained = self.stop(grace) => {
                if !drained {
                    warn!(?grace, "some tasks did not end in time");
                }
            }
            name = signals.next() => warn!(signal = name, "second signal, ending at once"),
        }
        healthy
    }

    /// Not for any type of future: all that goes around a task would be compiled for each, 3 KB every time.
    fn spawn_boxed(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        let stop = self.stop.clone();
        let failed = self.failed.clone();
        let guarded = async move {
            tokio::select! {
                biased;
                outcome = AssertUnwindSafe(task).catch_unwind() => {
                    if outcome.is_err() {
                        error!(task = name, "task panicked, the process stops");
                        failed.notify_one();
                    }
                }
                () = stop.cancelled() => {}
            }
        };
        self.start(guarded.instrument(self.span(name)));
    }

    fn spawn_boxed_draining(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        let failed = self.failed.clone();
        let guarded = async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                error!(task = name, "task panicked, the process stops");
                failed.notify_one();
            }
        };
        self.start(guarded.instrument(self.span(name)));
    }

    /// One for all tasks of a name: it costs 0.7 KB, which each of 100,000 sessions would pay.
    fn span(&self, name: &'static str) -> Span {
        let mut spans = self.spans.lock();
        let span = spans.entry(name);
        span.or_insert_with(|| info_span!(parent: None, "task", name)).clone()
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that starts tasks")]
    fn start<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(task);
    }
}

/// See [`Tasks::register`].
#[derive(Debug)]
struct Running(TaskTracker);

impl Collector for Running {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let count = ConstGauge::new(i64::try_from(self.0.len()).unwrap_or(i64::MAX));
        count.encode(encoder.encode_descriptor("tasks", "Background tasks that run", None, count.metric_type())?)
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks")
            .field("running", &self.tracker.len())
            .finish_non_exhaustive()
    }
}

/// SIGHUP does not reload in KubeEdge either: it stops (spec 06 §1.2).
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hangup.recv() => "SIGHUP",
            _ = self.quit.recv() => "SIGQUIT",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const GRACE: Duration = Duration::from_secs(60);

    fn running(tasks: &Tasks) -> String {
        let mut registry = Registry::with_prefix("core");
        tasks.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        let line = text.lines().find(|line| !line.starts_with('#'));
        line.unwrap_or_default().to_owned()
    }

    /// One that may go on after the stop is given its time, no more; how many run is told all along.
    #[tokio::test(start_paused = true)]
    async fn a_lingering_task_has_its_time_after_the_stop() {
        let tasks = Tasks::new();
        let said = Arc::new(AtomicU32::new(0));
        for pause in [2, 1000] {
            let (said, own) = (said.clone(), tasks.clone());
            tasks.spawn_lingering("farewell", Duration::from_secs(5), async move {
                own.stopping().await;
                tokio::time::sleep(Duration::from_secs(pause)).await;
                said.fetch_add(1, Ordering::Relaxed);
            });
        }
        tasks.spawn("ordinary", std::future::pending());
        assert_eq!(running(&tasks), "core_tasks 3");
        let start = tokio::time::Instant::now();
        assert!(tasks.stop(GRACE).await, "all ended");
        assert_eq!(start.elapsed().as_secs(), 5, "the longest of them");
        assert_eq!(said.load(Ordering::Relaxed), 1, "the short farewell was said");
        assert_eq!(running(&tasks), "core_tasks 0");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_is_built_anew_outlives_its_panics_and_others_tell_of_theirs() {
        let tasks = Tasks::new();
        let runs = Arc::new(AtomicU32::new(0));
        let counted = runs.clone();
        tasks.spawn_restarting("stubborn", move || {
            let runs = counted.clone();
            async move { assert!(runs.fetch_add(1, Ordering::Relaxed) >= 2, "not yet") }
        });
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(runs.load(Ordering::Relaxed), 3);
        let failed = tokio::time::timeout(Duration::from_secs(1), tasks.failed()).await;
        assert!(failed.is_err(), "its panics are its own");
        tasks.child().spawn("weak", async { panic!("it had to be") });
        tasks.failed().await;
    }
}
