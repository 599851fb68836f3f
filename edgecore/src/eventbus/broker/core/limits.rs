//! How much one client, and all of them together, may have.

/// Each limit; `modules.eventBus.broker.limits` in edgecore.yaml.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Messages sent to a client and not answered by it.
    pub(crate) inflight: usize,
    /// And their bytes; one message may be longer.
    pub(crate) inflight_bytes: usize,
    /// Messages that wait for a client, `mqttSessionQueueSize`. The oldest goes when there are more.
    pub(crate) queue: usize,
    /// And their bytes.
    pub(crate) queue_bytes: usize,
    /// Bytes of the messages that wait for all clients, and of all that are retained: each.
    pub(crate) store_bytes: usize,
    /// Subscriptions of a client.
    pub(crate) subscriptions: usize,
    /// Bytes of the subscriptions of all clients, those that are away too.
    pub(crate) subscription_bytes: usize,
    /// Levels of a topic or filter.
    pub(crate) topic_levels: usize,
    /// Bytes of one.
    pub(crate) topic_bytes: usize,
    /// Bytes of a client's name.
    pub(crate) client_bytes: usize,
    /// Sessions that outlive their connection. The one that was away for longest goes when there are more.
    pub(crate) sessions: usize,
    /// Retained messages. A further one is delivered and not kept.
    pub(crate) retained: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            inflight: 20,
            inflight_bytes: 1088 << 10,
            queue: 100,
            queue_bytes: 4 << 20,
            store_bytes: 32 << 20,
            subscriptions: 1000,
            subscription_bytes: 32 << 20,
            topic_levels: 64,
            topic_bytes: 1024,
            client_bytes: 256,
            sessions: 1000,
            retained: 10_000,
        }
    }
}

impl Limits {
    /// Whether a topic or filter is neither too long nor too deep.
    pub(super) fn takes(&self, topic: &str) -> bool {
        topic.len() <= self.topic_bytes && proto::mqtt::topic::depth(topic) <= self.topic_levels
    }
}
