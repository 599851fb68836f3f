//! The process's own end of the broker: publications in, without waiting, and what clients published out, with a bound on the bytes that
//! are on their way.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use proto::mqtt::{Publish, Qos, topic};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::warn;

use super::core::Tree;
use super::metrics::Metrics;
use crate::devicetwin::Publication;

/// The process's publications that wait for the broker; the oldest goes when they are more.
const QUEUE: usize = 4096;
/// And their bytes.
const QUEUE_BYTES: usize = 8 << 20;
/// Bytes of clients' messages on their way to the process. A client whose message finds no room waits, and nobody else.
const CREDIT: u32 = 8 << 20;
/// The least that a message counts for, and so a bound for their number.
const LEAST: u32 = 4096;
/// The deepest filter.
const LEVELS: usize = 64;

/// What clients published on topics that the process subscribed; never its own publications.
#[derive(Debug)]
pub struct Received(mpsc::Receiver<(Publication, Credit)>);

impl Received {
    /// The next one; `None` when the broker has ended.
    pub async fn recv(&mut self) -> Option<Publication> {
        // Dropping `_credit` makes room for one more message: whoever asks for the next one is done with those before it.
        self.0.recv().await.map(|(publication, _credit)| publication)
    }
}

/// Room for one message on its way to the process.
#[derive(Debug, Default)]
pub(super) struct Credit {
    _permit: Option<OwnedSemaphorePermit>,
}

/// Shared by the handle, the connections and the task.
#[derive(Debug)]
pub(super) struct Link {
    filters: RwLock<Tree<()>>,
    outgoing: Mutex<Outgoing>,
    ready: Notify,
    credit: Arc<Semaphore>,
    received: mpsc::Sender<(Publication, Credit)>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Outgoing {
    queue: VecDeque<Publish>,
    bytes: usize,
}

impl Link {
    pub(super) fn new(metrics: Metrics) -> (Arc<Self>, Received) {
        let most = usize::try_from(CREDIT / LEAST).unwrap_or(1);
        let (received, receiver) = mpsc::channel(most);
        let link = Self {
            filters: RwLock::default(),
            outgoing: Mutex::default(),
            ready: Notify::new(),
            credit: Arc::new(Semaphore::new(usize::try_from(CREDIT).unwrap_or(usize::MAX))),
            received,
            metrics,
        };
        (Arc::new(link), Received(receiver))
    }

    pub(super) fn publish(&self, topic: &str, payload: Bytes, qos: Qos, retain: bool) {
        if !topic::is_name(topic) {
            warn!(topic, "not published: the topic is empty or has wildcards");
            return;
        }
        let publish = Publish {
            topic: topic.into(),
            payload,
            qos,
            retain,
            dup: false,
            id: None,
        };
        let mut outgoing = self.outgoing.lock();
        outgoing.bytes += publish.payload.len();
        outgoing.queue.push_back(publish);
        while outgoing.queue.len() > QUEUE || (outgoing.bytes > QUEUE_BYTES && outgoing.queue.len() > 1) {
            if let Some(dropped) = outgoing.queue.pop_front() {
                outgoing.bytes -= dropped.payload.len();
                self.metrics.dropped("own");
            }
        }
        drop(outgoing);
        self.ready.notify_one();
    }

    pub(super) fn subscribe(&self, filter: &str) {
        if topic::is_filter(filter) && topic::depth(filter) <= LEVELS {
            self.filters.write().insert(filter, (), Qos::ExactlyOnce);
        } else {
            warn!(
                filter,
                "not subscribed: it is no filter of topics, or has more than {LEVELS} levels"
            );
        }
    }

    pub(super) fn unsubscribe(&self, filter: &str) {
        self.filters.write().remove(filter, &());
    }

    /// Whether the process subscribed the topic.
    pub(super) fn wants(&self, topic: &str) -> bool {
        self.filters.read().any(topic)
    }

    /// Room for a message of a client; waits while there is none.
    pub(super) async fn credit(&self, publish: &Publish) -> Credit {
        let size = u32::try_from(publish.payload.len()).unwrap_or(CREDIT);
        let permit = self.credit.clone().acquire_many_owned(size.clamp(LEAST, CREDIT)).await;
        Credit { _permit: permit.ok() }
    }

    /// Hands a client's message over.
    pub(super) fn deliver(&self, publish: Publish, credit: Credit) {
        if !self.wants(&publish.topic) {
            return;
        }
        let publication = Publication {
            topic: publish.topic.as_ref().to_owned(),
            payload: publish.payload,
        };
        // Full only for messages without credit: wills.
        if self.received.try_send((publication, credit)).is_err() {
            self.metrics.dropped("link");
        }
    }

    /// The process's next publication, when there is one.
    pub(super) fn next(&self) -> Option<Publish> {
        let mut outgoing = self.outgoing.lock();
        let publish = outgoing.queue.pop_front()?;
        outgoing.bytes -= publish.payload.len();
        Some(publish)
    }

    /// Makes [`Link::ready`] resolve once more: who took some did not take all.
    pub(super) fn again(&self) {
        self.ready.notify_one();
    }

    /// Resolves when there may be one.
    pub(super) async fn ready(&self) {
        self.ready.notified().await;
    }
}
