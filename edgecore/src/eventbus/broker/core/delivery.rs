//! Messages: taken from a client, kept, given to those who subscribed, and answered for.

use std::sync::Arc;
use std::time::Instant;

use common::order;
use proto::mqtt::{Packet, PacketId, Publish, Qos};

use super::ops::own;
use super::retained::Kept;
use super::session::{Ended, Entry};
use super::{CloseReason, ConnectionId, Core, Op, Output, SessionKey, StoredMessage};

/// Filters that one SUBSCRIBE may have, unless a client may have more: each costs a look at all that is retained. What is beyond a
/// client's own limit is answered as refused.
const FILTERS: usize = 1000;

impl Core {
    /// PUBLISH.
    pub(super) fn published(&mut self, now: Instant, id: ConnectionId, key: SessionKey, publish: Publish) {
        self.counters.received += 1;
        if !self.limits.takes(&publish.topic) {
            self.end(now, id, CloseReason::Topic);
            return;
        }
        let answer = match (publish.qos, publish.id) {
            (Qos::AtLeastOnce, Some(packet)) => Some(Packet::PubAck(packet)),
            (Qos::ExactlyOnce, Some(packet)) => {
                match self.first_time(key, packet) {
                    Some(true) => {}
                    Some(false) => {
                        self.send(id, Packet::PubRec(packet), true);
                        return;
                    }
                    None => {
                        self.end(now, id, CloseReason::Unreleased);
                        return;
                    }
                }
                Some(Packet::PubRec(packet))
            }
            _ => None,
        };
        if Self::is_sys(&publish.topic) {
            // The protocol has no word for a refusal.
            self.counters.denied += 1;
        } else {
            self.out.push(Output::Accepted(publish.clone()));
            self.route(publish);
        }
        if let Some(answer) = answer {
            self.send(id, answer, true);
        }
    }

    /// Notes the id of a message of QoS 2. `None` when too many are noted.
    fn first_time(&mut self, key: SessionKey, packet: PacketId) -> Option<bool> {
        let session = self.sessions.get_mut(&key)?;
        if session.incoming.contains(&packet) {
            return Some(false);
        }
        if session.incoming.len() >= UNRELEASED {
            return None;
        }
        session.incoming.insert(packet);
        if !session.clean {
            let op = Op::Received(session.client.clone(), packet);
            self.store(op);
        }
        Some(true)
    }

    /// PUBREL.
    pub(super) fn released(&mut self, id: ConnectionId, key: SessionKey, packet: PacketId) {
        if let Some(session) = self.sessions.get_mut(&key)
            && session.incoming.remove(&packet)
            && !session.clean
        {
            let op = Op::Forgotten(session.client.clone(), packet);
            self.store(op);
        }
        self.send(id, Packet::PubComp(packet), true);
    }

    /// PUBACK.
    pub(super) fn acknowledged(&mut self, key: SessionKey, packet: PacketId) {
        let ended = self
            .sessions
            .get_mut(&key)
            .and_then(|session| session.acknowledged(packet));
        self.ended(key, ended);
    }

    /// PUBREC. Answered even if the message is unknown: the client is to forget it.
    pub(super) fn received(&mut self, id: ConnectionId, key: SessionKey, packet: PacketId) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        let durable = !session.clean;
        if let Some(number) = session.received(packet)
            && durable
        {
            self.store(Op::Released(number));
        }
        self.send(id, Packet::PubRel(packet), durable);
    }

    /// PUBCOMP.
    pub(super) fn completed(&mut self, key: SessionKey, packet: PacketId) {
        let ended = self
            .sessions
            .get_mut(&key)
            .and_then(|session| session.completed(packet));
        self.ended(key, ended);
    }

    fn ended(&mut self, key: SessionKey, ended: Option<Ended>) {
        let Some(ended) = ended else { return };
        self.left(key, &ended);
        self.pump(key);
    }

    /// A message is no session's any more.
    fn left(&mut self, key: SessionKey, ended: &Ended) {
        self.counters.queued -= 1;
        self.counters.queued_bytes -= ended.bytes;
        if self.sessions.get(&key).is_some_and(|session| !session.clean) {
            self.store(Op::Done(ended.number));
        }
    }

    /// Keeps a message if it is to be kept, and gives it to all who subscribed.
    pub(super) fn route(&mut self, mut publish: Publish) {
        if publish.retain {
            match self.retained.set(&publish, &self.limits) {
                Kept::New(kept) => self.store(Op::Retained(kept)),
                Kept::Cleared(topic) => self.store(Op::Cleared(topic, publish.qos)),
                Kept::Full(before) => {
                    self.counters.dropped_retained += 1;
                    if let Some(topic) = before {
                        self.store(Op::Cleared(topic, publish.qos));
                    }
                }
                Kept::Same => {}
            }
        }
        (publish.retain, publish.dup, publish.id) = (false, false, None);
        let mut targets = Vec::new();
        self.subscriptions
            .matches(&publish.topic, &mut |key, qos| targets.push((*key, qos)));
        // One message for each client, with the best QoS of those of its filters that match.
        order::sort(&mut targets);
        let mut targets = targets.into_iter().peekable();
        let mut owned = None;
        while let Some((key, qos)) = targets.next() {
            if targets.peek().is_some_and(|(next, _)| *next == key) {
                continue;
            }
            let qos = qos.min(publish.qos);
            let message = if qos == Qos::AtMostOnce {
                publish.clone()
            } else {
                let payload = owned.get_or_insert_with(|| own(&publish.payload));
                Publish {
                    payload: payload.clone(),
                    ..publish.clone()
                }
            };
            self.deliver(key, Publish { qos, ..message });
        }
    }

    fn deliver(&mut self, key: SessionKey, publish: Publish) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        if publish.qos == Qos::AtMostOnce {
            if let Some(connection) = session.connection {
                self.send(connection, Packet::Publish(publish), false);
            }
            return;
        }
        let number = self.next_number;
        self.next_number += 1;
        self.counters.queued += 1;
        self.counters.queued_bytes += publish.payload.len();
        session.push(Entry::new(number, publish.clone()));
        if !session.clean {
            let message = StoredMessage {
                number,
                publish,
                released: false,
            };
            let op = Op::Queued(session.client.clone(), message);
            self.store(op);
        }
        self.pump(key);
        self.shed(key);
    }

    /// Sends what may be sent.
    pub(super) fn pump(&mut self, key: SessionKey) {
        while let Some(session) = self.sessions.get_mut(&key)
            && let Some(connection) = session.connection
            && let Some((number, publish)) = session.next(&self.limits)
        {
            let durable = !session.clean;
            if durable
                && publish.qos == Qos::ExactlyOnce
                && let Some(id) = publish.id
            {
                self.store(Op::Sent(number, id));
            }
            self.send(connection, Packet::Publish(publish), durable);
        }
    }

    /// Drops what is over the limits, the oldest first.
    pub(super) fn shed(&mut self, key: SessionKey) {
        while let Some(session) = self.sessions.get_mut(&key)
            && (session.is_over(&self.limits) || self.counters.queued_bytes > self.limits.store_bytes)
            && let Some(dropped) = session.drop_oldest(&self.limits)
        {
            self.counters.dropped_queue += 1;
            self.left(key, &dropped);
        }
    }

    /// SUBSCRIBE.
    pub(super) fn subscribe(
        &mut self,
        now: Instant,
        id: ConnectionId,
        key: SessionKey,
        packet: PacketId,
        filters: Vec<(Arc<str>, Qos)>,
    ) {
        if filters.len() > FILTERS.max(self.limits.subscriptions) {
            self.end(now, id, CloseReason::Filters);
            return;
        }
        let granted: Vec<_> = filters
            .iter()
            .map(|(filter, qos)| self.subscribed(key, filter, *qos).then_some(*qos))
            .collect();
        self.send(
            id,
            Packet::SubAck {
                id: packet,
                granted: granted.clone(),
            },
            true,
        );
        // A filter that is repeated counts once, with its last QoS, and filters that overlap do not multiply what is retained without end.
        let mut last = order::map(filters.iter().map(|(filter, _)| filter.clone()).zip(granted));
        let mut room = self.limits.retained;
        for (filter, _) in &filters {
            let Some(Some(qos)) = last.remove(filter) else { continue };
            self.send_counters(now, id, filter);
            let kept: Vec<_> = self.retained.matching(filter).cloned().collect();
            for publish in kept {
                if room == 0 {
                    self.counters.dropped_queue += 1;
                    continue;
                }
                room -= 1;
                let qos = qos.min(publish.qos);
                self.deliver(key, Publish { qos, ..publish });
            }
        }
    }

    fn subscribed(&mut self, key: SessionKey, filter: &Arc<str>, qos: Qos) -> bool {
        let Some(session) = self.sessions.get_mut(&key) else {
            return false;
        };
        let new = !session.subscriptions.contains_key(filter);
        let full = session.subscriptions.len() >= self.limits.subscriptions
            || self.subscriptions.bytes() >= self.limits.subscription_bytes;
        if !self.limits.takes(filter) || (new && full) {
            return false;
        }
        let before = session.subscriptions.insert(filter.clone(), qos);
        self.subscriptions.insert(filter, key, qos);
        if !session.clean && before != Some(qos) {
            let op = Op::Subscribed(session.client.clone(), filter.clone(), qos);
            self.store(op);
        }
        true
    }

    /// UNSUBSCRIBE.
    pub(super) fn unsubscribe(&mut self, id: ConnectionId, key: SessionKey, packet: PacketId, filters: &[Arc<str>]) {
        for filter in filters {
            let Some(session) = self.sessions.get_mut(&key) else {
                continue;
            };
            if session.subscriptions.remove(filter).is_none() {
                continue;
            }
            self.subscriptions.remove(filter, &key);
            if !session.clean {
                let op = Op::Unsubscribed(session.client.clone(), filter.clone());
                self.store(op);
            }
        }
        self.send(id, Packet::UnsubAck(packet), true);
    }
}

/// Ids of QoS 2 that one client may leave unreleased.
const UNRELEASED: usize = 1000;
