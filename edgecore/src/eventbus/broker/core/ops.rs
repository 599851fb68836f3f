//! What is to be in the database: changes one by one, and all of it.
//!
//! Sessions that end with their connection are not in it, nor is QoS 0 unless retained.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use proto::mqtt::{PacketId, Publish, Qos};

use super::retained::Kept;
use super::session::{Entry, Phase, Session};
use super::{Core, SessionKey};

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// There is such a session.
    Session {
        /// The client's name.
        client: Arc<str>,
        /// Who it was.
        user: Option<Arc<str>>,
    },
    /// There is no such session any more, with all that was in it.
    Gone(Arc<str>),
    /// It subscribed.
    Subscribed(Arc<str>, Arc<str>, Qos),
    /// And no more.
    Unsubscribed(Arc<str>, Arc<str>),
    /// A message waits for it.
    Queued(Arc<str>, StoredMessage),
    /// A message of QoS 2 was given a packet id.
    Sent(i64, PacketId),
    /// A message of QoS 2 has arrived; its id waits for the client's last word.
    Released(i64),
    /// A message has arrived, or was dropped.
    Done(i64),
    /// The client sent a message of QoS 2.
    Received(Arc<str>, PacketId),
    /// And released it.
    Forgotten(Arc<str>, PacketId),
    /// The last message of a topic.
    Retained(Publish),
    /// None is retained any more; with the QoS of the message that said so.
    Cleared(Arc<str>, Qos),
}

impl Op {
    /// Whether a promise depends on it. What does not is written along with the next that does, or after a while.
    pub(crate) const fn is_urgent(&self) -> bool {
        match self {
            Self::Done(_) => false,
            Self::Retained(Publish { qos, .. }) | Self::Cleared(_, qos) => !matches!(qos, Qos::AtMostOnce),
            _ => true,
        }
    }

    /// Roughly what it keeps in memory until it is written.
    pub(crate) fn size(&self) -> usize {
        let payload = match self {
            Self::Queued(_, message) => message.publish.payload.len(),
            Self::Retained(publish) => publish.payload.len(),
            _ => 0,
        };
        payload + 128
    }
}

/// A message in a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredMessage {
    /// Its place among all.
    pub(crate) number: i64,
    /// With the QoS of this client; with a packet id if it has one that counts after a restart.
    pub(crate) publish: Publish,
    /// QoS 2: whether it has arrived.
    pub(crate) released: bool,
}

/// All of it, as it is read at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    /// By the client's name.
    pub(crate) sessions: BTreeMap<Arc<str>, StoredSession>,
    /// The last message of each topic.
    pub(crate) retained: Vec<Publish>,
}

/// A session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredSession {
    /// Who it was.
    pub(crate) user: Option<Arc<str>>,
    /// Its filters.
    pub(crate) subscriptions: Vec<(Arc<str>, Qos)>,
    /// By number.
    pub(crate) messages: Vec<StoredMessage>,
    /// QoS 2 ids that it has not released.
    pub(crate) received: Vec<PacketId>,
}

impl Core {
    /// Takes over what was stored, within the limits of now. What is over them goes out of the database too: it must not come back when
    /// there is more room, after it was replaced or cleared.
    pub(super) fn restore(&mut self, stored: Stored, now: Instant) {
        for publish in stored.retained {
            if let Kept::Full(_) = self.retained.set(&publish, &self.limits) {
                self.counters.dropped_retained += 1;
                self.store(Op::Cleared(publish.topic, Qos::AtMostOnce));
            }
        }
        for (client, stored) in stored.sessions {
            let key = self.new_session(client.clone(), stored.user, false);
            for (filter, qos) in stored.subscriptions {
                if self.subscriptions.bytes() >= self.limits.subscription_bytes {
                    self.store(Op::Unsubscribed(client.clone(), filter));
                    continue;
                }
                self.subscriptions.insert(&filter, key, qos);
                if let Some(session) = self.sessions.get_mut(&key) {
                    session.subscriptions.insert(filter, qos);
                }
            }
            for message in stored.messages {
                self.restore_message(key, message);
            }
            if let Some(session) = self.sessions.get_mut(&key) {
                session.away_since = Some(now);
                session.incoming.extend(stored.received);
            }
            self.shed(key);
        }
    }

    fn restore_message(&mut self, key: SessionKey, message: StoredMessage) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        self.next_number = self.next_number.max(message.number.saturating_add(1));
        self.counters.queued += 1;
        self.counters.queued_bytes += message.publish.payload.len();
        let id = message.publish.id;
        let phase = if message.released {
            Phase::Release
        } else {
            Phase::Publish
        };
        let entry = Entry::new(message.number, message.publish);
        match id {
            Some(id) => session.restore_sent(id, phase, entry),
            None => session.push(entry),
        }
    }

    /// What the database would have to hold now: for one that lost its way.
    pub(crate) fn snapshot(&self) -> Vec<Op> {
        let kept = self.sessions.values().filter(|session| !session.clean);
        let sessions = kept.flat_map(Session::snapshot);
        let retained = self.retained.all().cloned().map(Op::Retained);
        sessions.chain(retained).collect()
    }
}

impl Session {
    fn snapshot(&self) -> Vec<Op> {
        let client = &self.client;
        let mut ops = vec![Op::Session {
            client: client.clone(),
            user: self.user.clone(),
        }];
        let subscriptions = self.subscriptions.iter();
        ops.extend(subscriptions.map(|(filter, qos)| Op::Subscribed(client.clone(), filter.clone(), *qos)));
        let received = self.incoming.iter();
        ops.extend(received.map(|id| Op::Received(client.clone(), *id)));
        ops.extend(self.messages().map(|message| Op::Queued(client.clone(), message)));
        ops
    }
}

/// A copy that keeps nothing else alive: what comes from a socket is a piece of a larger buffer.
pub(super) fn own(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
