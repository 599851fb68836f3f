//! What the task of a tunnel and the holders of its streams share.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use proto::tunnel::{Event, Key, Mux};
use tokio::sync::Notify;

use super::metrics::TunnelMetrics;
use super::stream::{Incoming, TunnelStream};

pub(super) struct Shared {
    inner: Mutex<Inner>,
    /// The task of the tunnel, to be woken when there is something to send.
    pub(super) driver: AtomicWaker,
    ended: Notify,
    metrics: TunnelMetrics,
}

struct Inner {
    mux: Mux,
    /// By [`Key::index`].
    waiting: Vec<Waiting>,
    acceptor: Option<Waker>,
}

#[derive(Default)]
struct Waiting {
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Waits for the end of the stream only.
    watcher: Option<Waker>,
}

impl Shared {
    pub(super) fn new(mux: Mux, metrics: TunnelMetrics) -> Self {
        metrics.tunnels.inc();
        Self {
            inner: Mutex::new(Inner {
                mux,
                waiting: Vec::new(),
                acceptor: None,
            }),
            driver: AtomicWaker::new(),
            ended: Notify::new(),
            metrics,
        }
    }

    /// Looks at the streams without changing them.
    pub(super) fn look<R>(&self, look: impl FnOnce(&Mux) -> R) -> R {
        look(&self.inner.lock().mux)
    }

    /// Changes the streams and wakes everybody who need not wait any more.
    pub(super) fn with<R>(&self, change: impl FnOnce(&mut Mux) -> R) -> R {
        self.step(|inner| change(&mut inner.mux))
    }

    /// The same from the task of the tunnel, which need not be woken.
    pub(super) fn drive<R>(&self, change: impl FnOnce(&mut Mux) -> R) -> R {
        let mut woken = Vec::new();
        let (result, ended, counts) = {
            let mut inner = self.inner.lock();
            let result = change(&mut inner.mux);
            let ended = inner.collect(&mut woken);
            (result, ended, inner.mux.take_counts())
        };
        self.metrics.add(&counts);
        self.wake(woken, ended);
        result
    }

    /// Tries something with a stream; registers the waker when it has to wait.
    pub(super) fn poll<R>(
        &self,
        key: Key,
        side: Side,
        context: &Context<'_>,
        attempt: impl FnOnce(&mut Mux) -> Poll<R>,
    ) -> Poll<R> {
        self.step(|inner| {
            let result = attempt(&mut inner.mux);
            if result.is_pending() {
                inner.slot(key, side).replace(context.waker().clone());
            }
            result
        })
    }

    pub(super) fn poll_accept(self: &Arc<Self>, context: &Context<'_>) -> Poll<Option<Incoming>> {
        let accepted = self.step(|inner| {
            let accepted = inner.mux.accept();
            if accepted.is_none() {
                if inner.mux.ended().is_some() {
                    return Poll::Ready(None);
                }
                inner.acceptor = Some(context.waker().clone());
            }
            accepted.map_or(Poll::Pending, |accepted| Poll::Ready(Some(accepted)))
        });
        accepted.map(|accepted| {
            accepted.map(|(key, connect)| Incoming {
                stream: TunnelStream::new(self.clone(), key, connect.id),
                connect,
            })
        })
    }

    pub(super) async fn closed(&self) -> String {
        loop {
            let ended = self.ended.notified();
            if let Some(reason) = self.look(|mux| mux.ended().map(ToOwned::to_owned)) {
                return reason;
            }
            ended.await;
        }
    }

    /// The holder of a stream is gone.
    pub(super) fn release(&self, key: Key) {
        self.step(|inner| {
            if let Some(waiting) = inner.waiting.get_mut(key.index()) {
                *waiting = Waiting::default();
            }
            inner.mux.release(key);
            if inner.mux.is_empty() {
                inner.waiting = Vec::new();
            }
        });
    }

    fn step<R>(&self, change: impl FnOnce(&mut Inner) -> R) -> R {
        let mut woken = Vec::new();
        let (result, ended, output) = {
            let mut inner = self.inner.lock();
            let had = inner.mux.has_output();
            let result = change(&mut inner);
            let ended = inner.collect(&mut woken);
            (result, ended, ended || (!had && inner.mux.has_output()))
        };
        self.wake(woken, ended);
        if output {
            self.driver.wake();
        }
        result
    }

    fn wake(&self, woken: Vec<Waker>, ended: bool) {
        woken.into_iter().for_each(Waker::wake);
        if ended {
            self.ended.notify_waiters();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let inner = self.inner.get_mut();
        self.metrics.add(&inner.mux.take_counts());
        self.metrics.tunnels.dec();
    }
}

/// Who waits at a stream.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Reader,
    Writer,
    Watcher,
}

impl Inner {
    fn slot(&mut self, key: Key, side: Side) -> &mut Option<Waker> {
        if self.waiting.len() <= key.index() {
            self.waiting.resize_with(key.index() + 1, Waiting::default);
        }
        let waiting = &mut self.waiting[key.index()];
        match side {
            Side::Reader => &mut waiting.reader,
            Side::Writer => &mut waiting.writer,
            Side::Watcher => &mut waiting.watcher,
        }
    }

    /// Whose wait is over; whether the tunnel is.
    fn collect(&mut self, woken: &mut Vec<Waker>) -> bool {
        let mut ended = false;
        while let Some(event) = self.mux.event() {
            match event {
                Event::Readable(key) => woken.extend(self.slot(key, Side::Reader).take()),
                Event::Writable(key) => woken.extend(self.slot(key, Side::Writer).take()),
                Event::Over(key) => woken.extend(self.slot(key, Side::Watcher).take()),
                Event::Incoming => woken.extend(self.acceptor.take()),
                Event::Ended => {
                    ended = true;
                    woken.extend(self.acceptor.take());
                }
            }
        }
        ended
    }
}
