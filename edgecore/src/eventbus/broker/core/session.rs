//! One client's session: what it subscribed, what waits for it, what was sent and not answered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use proto::mqtt::{Packet, PacketId, Publish, Qos};

use super::ops::StoredMessage;
use super::{ConnectionId, Limits};

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Arc<str>,
    pub(super) user: Option<Arc<str>>,
    /// Whether it ends with its connection.
    pub(super) clean: bool,
    pub(super) connection: Option<ConnectionId>,
    pub(super) away_since: Option<Instant>,
    pub(super) subscriptions: BTreeMap<Arc<str>, Qos>,
    /// QoS 2 ids that the client has not released.
    pub(super) incoming: BTreeSet<PacketId>,
    /// Not sent yet, oldest first; what was retained among it counts apart.
    waiting: VecDeque<Entry>,
    waiting_retained: usize,
    waiting_bytes: usize,
    /// Sent and not answered, in the order of their sending.
    sent: VecDeque<Sent>,
    sent_bytes: usize,
    last_id: u16,
}

/// A message of QoS 1 or 2 for this client.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) number: i64,
    pub(super) publish: Publish,
}

/// What the client answers next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// PUBACK or PUBREC.
    Publish,
    /// PUBCOMP.
    Release,
}

#[derive(Debug)]
struct Sent {
    id: PacketId,
    phase: Phase,
    entry: Entry,
}

/// What an answer of the client ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) number: i64,
    pub(super) bytes: usize,
}

impl Entry {
    pub(super) const fn new(number: i64, publish: Publish) -> Self {
        Self { number, publish }
    }

    fn bytes(&self) -> usize {
        self.publish.payload.len()
    }
}

impl Session {
    pub(super) fn new(client: Arc<str>, user: Option<Arc<str>>, clean: bool) -> Self {
        Self {
            client,
            user,
            clean,
            connection: None,
            away_since: None,
            subscriptions: BTreeMap::new(),
            incoming: BTreeSet::new(),
            waiting: VecDeque::new(),
            waiting_retained: 0,
            waiting_bytes: 0,
            sent: VecDeque::new(),
            sent_bytes: 0,
            last_id: 0,
        }
    }

    /// Adds a message after all others.
    pub(super) fn push(&mut self, entry: Entry) {
        self.waiting_bytes += entry.bytes();
        self.waiting_retained += usize::from(entry.publish.retain);
        self.waiting.push_back(entry);
    }

    /// Whether there is more than may wait. Retained messages come all at once, when somebody subscribes, and have a limit of their own.
    pub(super) fn is_over(&self, limits: &Limits) -> bool {
        self.waiting.len() - self.waiting_retained > limits.queue
            || self.waiting_retained > limits.retained
            || self.waiting_bytes > limits.queue_bytes && self.waiting.len() > 1
    }

    /// Drops the oldest that waits; of those that are over their limit, where it is the number.
    pub(super) fn drop_oldest(&mut self, limits: &Limits) -> Option<Ended> {
        let retained = self.waiting_retained > limits.retained;
        let by_number = retained || self.waiting.len() - self.waiting_retained > limits.queue;
        let index = self
            .waiting
            .iter()
            .position(|entry| !by_number || entry.publish.retain == retained)?;
        let entry = self.waiting.remove(index)?;
        self.left(&entry);
        Some(Ended {
            number: entry.number,
            bytes: entry.bytes(),
        })
    }

    /// The next message to send, which gets a packet id, unless the client has enough to answer.
    pub(super) fn next(&mut self, limits: &Limits) -> Option<(i64, Publish)> {
        let next = self.waiting.front()?;
        if self.sent.len() >= limits.inflight
            || (self.sent_bytes + next.bytes() > limits.inflight_bytes && !self.sent.is_empty())
        {
            return None;
        }
        let id = self.free_id()?;
        let mut entry = self.waiting.pop_front()?;
        self.left(&entry);
        entry.publish.id = Some(id);
        self.sent_bytes += entry.bytes();
        let next = (entry.number, entry.publish.clone());
        self.sent.push_back(Sent {
            id,
            phase: Phase::Publish,
            entry,
        });
        Some(next)
    }

    /// What a client that comes back gets first: all that it has not answered, as it was sent.
    pub(super) fn again(&mut self) -> Vec<Packet> {
        let again = self.sent.iter().map(|sent| match sent.phase {
            Phase::Publish => {
                let mut publish = sent.entry.publish.clone();
                publish.dup = true;
                Packet::Publish(publish)
            }
            Phase::Release => Packet::PubRel(sent.id),
        });
        again.collect()
    }

    /// As it was before a restart.
    pub(super) fn restore_sent(&mut self, id: PacketId, phase: Phase, entry: Entry) {
        self.sent_bytes += entry.bytes();
        self.last_id = self.last_id.max(id.get());
        self.sent.push_back(Sent { id, phase, entry });
    }

    /// PUBACK.
    pub(super) fn acknowledged(&mut self, id: PacketId) -> Option<Ended> {
        self.finish(id, Qos::AtLeastOnce, Phase::Publish)
    }

    /// PUBREC: the payload is not needed any more. Gives the message's number, the first time.
    pub(super) fn received(&mut self, id: PacketId) -> Option<i64> {
        let sent = self.sent.iter_mut().find(|sent| sent.id == id)?;
        if sent.phase == Phase::Release || sent.entry.publish.qos != Qos::ExactlyOnce {
            return None;
        }
        sent.phase = Phase::Release;
        Some(sent.entry.number)
    }

    /// PUBCOMP.
    pub(super) fn completed(&mut self, id: PacketId) -> Option<Ended> {
        self.finish(id, Qos::ExactlyOnce, Phase::Release)
    }

    /// All of them, in order.
    pub(super) fn messages(&self) -> impl Iterator<Item = StoredMessage> {
        let sent = self.sent.iter().map(|sent| {
            let mut publish = sent.entry.publish.clone();
            // For QoS 1 the packet id need not survive a restart.
            publish.id = publish.id.filter(|_| publish.qos == Qos::ExactlyOnce);
            (sent.entry.number, publish, sent.phase == Phase::Release)
        });
        let waiting = self
            .waiting
            .iter()
            .map(|entry| (entry.number, entry.publish.clone(), false));
        sent.chain(waiting).map(|(number, publish, released)| StoredMessage {
            number,
            publish,
            released,
        })
    }

    /// Messages that wait or were not answered, and their bytes.
    pub(super) fn held(&self) -> (usize, usize) {
        (
            self.waiting.len() + self.sent.len(),
            self.waiting_bytes + self.sent_bytes,
        )
    }

    fn finish(&mut self, id: PacketId, qos: Qos, phase: Phase) -> Option<Ended> {
        let index = self
            .sent
            .iter()
            .position(|sent| sent.id == id && sent.phase == phase && sent.entry.publish.qos == qos)?;
        let sent = self.sent.remove(index)?;
        self.sent_bytes -= sent.entry.bytes();
        Some(Ended {
            number: sent.entry.number,
            bytes: sent.entry.bytes(),
        })
    }

    fn left(&mut self, entry: &Entry) {
        self.waiting_bytes -= entry.bytes();
        self.waiting_retained -= usize::from(entry.publish.retain);
    }

    /// Ids go round, so that an answer that comes late is not taken for another message's.
    fn free_id(&mut self) -> Option<PacketId> {
        for _ in 0..=self.sent.len() {
            self.last_id = self.last_id.wrapping_add(1).max(1);
            let id = PacketId::new(self.last_id)?;
            if !self.sent.iter().any(|sent| sent.id == id) {
                return Some(id);
            }
        }
        None
    }
}
