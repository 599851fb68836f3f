//! Which changes go to the database when, and what waits for them.
//!
//! A promise (an acknowledgement, or a message of a session that outlives its connection) leaves after the commit of the changes it rests
//! on. Changes that no promise rests on wait for the next ones or a while: the flash is written less.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::mqtt::{Packet, Publish, Qos};

use super::core::{ConnectionId, Op};
use super::store::Batch;

/// How long a change that is not urgent may wait.
const LAZY: Duration = Duration::from_secs(10);
/// Bytes of changes that may wait for the disk before clients have to.
const WAITING: usize = 8 << 20;
/// Between two tries to write to a disk that refuses.
const RETRY: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Writer {
    ops: Vec<Op>,
    /// Where in `ops` the newest message of a topic is, so that only that one is written.
    retained: HashMap<Arc<str>, usize>,
    bytes: usize,
    urgent: bool,
    due: Option<Instant>,
    /// Of the batch that `ops` will be.
    number: u64,
    writing: Option<u64>,
    /// The disk refused: what is written next is all there is.
    lost: bool,
    held: VecDeque<(u64, ConnectionId, Packet)>,
    held_for: HashMap<ConnectionId, usize>,
}

impl Writer {
    /// Adds a change.
    pub(super) fn add(&mut self, op: Op, now: Instant) {
        if self.lost {
            // After a failed write the next batch is the whole state from memory: single changes need not be kept.
            return;
        }
        self.urgent |= op.is_urgent();
        self.due.get_or_insert(now + LAZY);
        self.bytes += op.size();
        let topic = match &op {
            Op::Retained(publish) => Some(publish.topic.clone()),
            Op::Cleared(topic, _) => Some(topic.clone()),
            _ => None,
        };
        if let Some(topic) = topic {
            if let Some(before) = self.retained.get(&topic).and_then(|index| self.ops.get_mut(*index)) {
                self.bytes = self.bytes.saturating_sub(before.size());
                *before = op;
                return;
            }
            self.retained.insert(topic, self.ops.len());
        }
        self.ops.push(op);
    }

    /// A packet that is to be sent now; `None` if it has to wait. `promise`: it rests on changes that came with it.
    pub(super) fn pass(&mut self, to: ConnectionId, packet: Packet, promise: bool) -> Option<Packet> {
        let after = if promise && !self.lost {
            self.number
        } else if self.held_for.contains_key(&to) && has_order(&packet) {
            // It goes behind the packets that wait already, and waits for the same batch as the last of them: a later batch may never come.
            self.held.back().map_or(self.number, |(after, _, _)| *after)
        } else {
            return Some(packet);
        };
        self.held.push_back((after, to, packet));
        *self.held_for.entry(to).or_default() += 1;
        None
    }

    /// The next batch, if there is one to be written now. After a loss the caller gives all there is.
    pub(super) fn next(&mut self, now: Instant, snapshot: impl FnOnce() -> Vec<Op>) -> Option<Batch> {
        let is_due = self.due.is_some_and(|due| due <= now) || self.bytes > WAITING / 2;
        if self.writing.is_some() || !(self.urgent || is_due) {
            return None;
        }
        let ops = if self.lost {
            snapshot()
        } else {
            std::mem::take(&mut self.ops)
        };
        let batch = Batch {
            ops,
            whole: std::mem::take(&mut self.lost),
        };
        self.retained.clear();
        (self.bytes, self.urgent, self.due) = (0, false, None);
        self.writing = Some(self.number);
        self.number += 1;
        Some(batch)
    }

    /// The batch has ended; what may leave now. After a failure too: the broker goes on without a memory.
    pub(super) fn done(&mut self, worked: bool, now: Instant) -> Vec<(ConnectionId, Packet)> {
        let written = self.writing.take();
        if !worked {
            self.ops.clear();
            self.retained.clear();
            (self.bytes, self.urgent, self.lost) = (0, false, true);
            self.due = Some(now + RETRY);
        }
        let mut free = Vec::new();
        while let Some((after, _, _)) = self.held.front()
            && (!worked || Some(*after) <= written)
            && let Some((_, to, packet)) = self.held.pop_front()
        {
            if let Some(count) = self.held_for.get_mut(&to) {
                *count -= 1;
                if *count == 0 {
                    self.held_for.remove(&to);
                }
            }
            free.push((to, packet));
        }
        free
    }

    /// When a batch is due that nothing urgent brings before.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) const fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Whether the disk is so far behind that clients have to wait.
    pub(super) const fn is_full(&self) -> bool {
        self.bytes > WAITING
    }

    /// Makes what waits due.
    pub(super) fn hurry(&mut self) {
        self.urgent |= !self.ops.is_empty();
    }
}

/// Whether clients may count on the order of such packets. The order of QoS 0 is one of its own (MQTT 3.1.1 §4.6).
const fn has_order(packet: &Packet) -> bool {
    !matches!(
        packet,
        Packet::Publish(Publish {
            qos: Qos::AtMostOnce,
            ..
        }) | Packet::PingResp
            | Packet::ConnAck { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ConnectionId = ConnectionId(1);

    fn retained(topic: &str, qos: Qos, payload: &'static str) -> Op {
        Op::Retained(Publish {
            topic: topic.into(),
            payload: payload.into(),
            qos,
            retain: true,
            dup: false,
            id: None,
        })
    }

    fn ack(number: u16) -> Packet {
        Packet::PubAck(proto::mqtt::PacketId::new(number).expect("not 0"))
    }

    #[test]
    fn a_promise_waits_for_its_commit_and_what_follows_it_too() {
        let now = Instant::now();
        let mut writer = Writer::default();
        writer.add(retained("a", Qos::AtLeastOnce, "1"), now);
        assert_eq!(writer.pass(A, ack(1), true), None);
        assert_eq!(writer.pass(A, ack(2), false), None);
        assert!(writer.pass(A, Packet::PingResp, false).is_some());
        assert!(writer.pass(ConnectionId(2), ack(3), false).is_some());
        let batch = writer.next(now, Vec::new).expect("urgent");
        assert_eq!((batch.ops.len(), batch.whole), (1, false));
        writer.add(retained("b", Qos::AtLeastOnce, "1"), now);
        assert_eq!(writer.pass(A, ack(4), true), None);
        assert!(writer.next(now, Vec::new).is_none());
        assert_eq!(writer.done(true, now), [(A, ack(1)), (A, ack(2))]);
        assert!(writer.next(now, Vec::new).is_some());
        assert_eq!(writer.done(true, now), [(A, ack(4))]);
        assert!(writer.pass(A, ack(5), false).is_some());
    }

    #[test]
    fn retained_messages_of_qos_0_are_written_seldom_and_only_the_newest() {
        let now = Instant::now();
        let mut writer = Writer::default();
        writer.add(retained("a", Qos::AtMostOnce, "1"), now);
        writer.add(retained("a", Qos::AtMostOnce, "2"), now);
        assert!(writer.next(now, Vec::new).is_none());
        let batch = writer.next(now + LAZY, Vec::new).expect("due");
        assert_eq!(batch.ops, [retained("a", Qos::AtMostOnce, "2")]);
        assert!(writer.done(true, now).is_empty());
        writer.add(Op::Cleared("a".into(), Qos::AtMostOnce), now);
        assert!(writer.next(now, Vec::new).is_none());
        // The client is told that this one is done: it must not come back.
        writer.add(Op::Cleared("b".into(), Qos::AtLeastOnce), now);
        assert!(writer.next(now, Vec::new).is_some());
    }

    #[test]
    fn after_a_failure_all_is_written_again() {
        let now = Instant::now();
        let mut writer = Writer::default();
        writer.add(retained("a", Qos::AtLeastOnce, "1"), now);
        assert_eq!(writer.pass(A, ack(1), true), None);
        assert!(writer.next(now, Vec::new).is_some());
        assert_eq!(writer.done(false, now), [(A, ack(1))]);
        writer.add(retained("a", Qos::AtLeastOnce, "2"), now);
        assert!(writer.pass(A, ack(2), true).is_some());
        assert!(writer.next(now, Vec::new).is_none());
        let all = || vec![retained("a", Qos::AtLeastOnce, "2")];
        let batch = writer.next(now + RETRY, all).expect("tried again");
        assert!(batch.whole && batch.ops.len() == 1);
    }
}
