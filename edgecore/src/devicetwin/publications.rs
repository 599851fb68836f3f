//! What is to be published on MQTT: a queue that never makes the writer wait. When it is full the oldest is dropped and counted, so that
//! a missing broker stops nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;

/// Publications that wait for the broker.
const MOST: usize = 16 * 1024;
/// Their bytes.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// A message for MQTT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Where.
    pub topic: String,
    /// What.
    pub payload: Bytes,
}

/// The reading end.
#[derive(Debug)]
pub struct Publications(Arc<Shared>);

/// The writing end.
#[derive(Debug)]
pub(crate) struct Publisher(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    news: Notify,
    dropped: Counter,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Publication>,
    bytes: usize,
    closed: bool,
}

pub(crate) fn queue() -> (Publisher, Publications) {
    let shared = Arc::new(Shared::default());
    (Publisher(shared.clone()), Publications(shared))
}

impl Publications {
    /// The next one; `None` when no more will come.
    pub async fn recv(&mut self) -> Option<Publication> {
        loop {
            {
                let mut queue = self.0.queue.lock();
                if let Some(next) = queue.pop() {
                    return Some(next);
                }
                if queue.closed {
                    return None;
                }
            }
            self.0.news.notified().await;
        }
    }
}

impl Publisher {
    /// Adds them; drops the oldest beyond the limits.
    pub(crate) fn publish(&self, publications: impl IntoIterator<Item = Publication>) {
        let mut queue = self.0.queue.lock();
        if queue.closed {
            return;
        }
        for publication in publications {
            queue.bytes += size(&publication);
            queue.waiting.push_back(publication);
        }
        while queue.waiting.len() > MOST || (queue.bytes > MOST_BYTES && queue.waiting.len() > 1) {
            queue.pop();
            self.0.dropped.inc();
        }
        self.0.news.notify_one();
    }

    /// How many were dropped.
    pub(crate) fn dropped(&self) -> Counter {
        self.0.dropped.clone()
    }
}

impl Drop for Publications {
    /// Nothing gathers that nobody will read.
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        *queue = Queue {
            closed: true,
            ..Queue::default()
        };
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.0.queue.lock().closed = true;
        self.0.news.notify_one();
    }
}

impl Queue {
    fn pop(&mut self) -> Option<Publication> {
        let next = self.waiting.pop_front()?;
        self.bytes -= size(&next);
        Some(next)
    }
}

fn size(publication: &Publication) -> usize {
    publication.topic.len() + publication.payload.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(text: &str) -> Publication {
        Publication {
            topic: text.to_owned(),
            payload: Bytes::new(),
        }
    }

    #[tokio::test]
    async fn the_oldest_are_dropped_and_counted_when_nobody_reads() {
        let (publisher, mut publications) = queue();
        publisher.publish((0..MOST + 2).map(|n| publication(&n.to_string())));
        assert_eq!(publisher.dropped().get(), 2);
        assert_eq!(publications.recv().await, Some(publication("2")));
        let large = |byte: u8| Publication {
            topic: String::new(),
            payload: vec![byte; MOST_BYTES].into(),
        };
        publisher.publish([large(1), large(2)]);
        drop(publisher);
        assert_eq!(publications.recv().await, Some(large(2)));
        assert_eq!(publications.recv().await, None);
    }
}
