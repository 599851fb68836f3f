//! What is to be sent to one client: a bounded queue between the broker's task, which never waits, and the connection, which may.

use std::collections::VecDeque;

use bytes::BytesMut;
use parking_lot::Mutex;
use proto::mqtt::{Packet, Publish, Qos};
use tokio::sync::Notify;

/// Bytes that may wait before messages of QoS 0 are dropped: well more than the longest packet, or one of those under way would cost all
/// that are published meanwhile.
const LOSSY_BYTES: usize = 3 << 20;
/// Answers that may wait before nothing more is read from the client.
const ANSWERS: usize = 256;
/// Bytes that are encoded at a time.
const PORTION: usize = 64 * 1024;

/// See the module. Messages of QoS 1 and 2 are bounded by what the client has not answered, answers by not reading on.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    ready: Notify,
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Packet>,
    bytes: usize,
    answers: usize,
    closing: bool,
}

impl Outbox {
    /// Queues a packet; says `false` when it was dropped.
    pub(super) fn push(&self, packet: Packet) -> bool {
        let mut state = self.state.lock();
        if state.closing {
            return true;
        }
        let length = packet.body_length();
        let lossy = matches!(
            packet,
            Packet::Publish(Publish {
                qos: Qos::AtMostOnce,
                ..
            })
        );
        if lossy && state.bytes > 0 && state.bytes + length > LOSSY_BYTES {
            return false;
        }
        state.bytes += length;
        state.answers += usize::from(is_answer(&packet));
        state.queue.push_back(packet);
        drop(state);
        self.ready.notify_one();
        true
    }

    /// Nothing more is queued; the connection ends when it has sent what is there.
    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.ready.notify_one();
        self.room.notify_one();
    }

    /// Encodes the next packets, and waits for them; `false` at the end.
    pub(super) async fn fill(&self, out: &mut BytesMut) -> bool {
        loop {
            {
                let mut state = self.state.lock();
                while out.len() < PORTION
                    && let Some(packet) = state.queue.pop_front()
                {
                    state.bytes -= packet.body_length();
                    state.answers -= usize::from(is_answer(&packet));
                    packet.encode(out);
                }
                if state.answers < ANSWERS {
                    self.room.notify_one();
                }
                if !out.is_empty() || state.closing {
                    return !out.is_empty();
                }
            }
            self.ready.notified().await;
        }
    }

    /// Resolves when the client has taken enough answers to be read from.
    pub(super) async fn room(&self) {
        loop {
            {
                let state = self.state.lock();
                if state.answers < ANSWERS || state.closing {
                    return;
                }
            }
            self.room.notified().await;
        }
    }

    /// Whether the connection is to end.
    pub(super) fn is_closing(&self) -> bool {
        self.state.lock().closing
    }
}

const fn is_answer(packet: &Packet) -> bool {
    !matches!(packet, Packet::Publish(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(qos: Qos, size: usize) -> Packet {
        Packet::Publish(Publish {
            topic: "a".into(),
            payload: vec![0; size].into(),
            qos,
            retain: false,
            dup: false,
            id: proto::mqtt::PacketId::new(1).filter(|_| qos != Qos::AtMostOnce),
        })
    }

    #[tokio::test]
    async fn a_slow_reader_loses_qos_0_only() {
        let outbox = Outbox::default();
        assert!(outbox.push(message(Qos::AtMostOnce, LOSSY_BYTES - 100)));
        assert!(!outbox.push(message(Qos::AtMostOnce, 200)));
        assert!(outbox.push(message(Qos::AtLeastOnce, 200)));
        outbox.close();
        let mut out = BytesMut::new();
        let mut sent = 0;
        while outbox.fill(&mut out).await {
            sent += std::mem::take(&mut out).len();
        }
        assert!(sent > LOSSY_BYTES, "{sent}");
    }

    #[tokio::test]
    async fn who_takes_no_answers_is_not_read_from() {
        let outbox = Outbox::default();
        for _ in 0..ANSWERS {
            outbox.push(Packet::PingResp);
        }
        assert!(futures::poll!(std::pin::pin!(outbox.room())).is_pending());
        outbox.fill(&mut BytesMut::new()).await;
        outbox.room().await;
    }
}
