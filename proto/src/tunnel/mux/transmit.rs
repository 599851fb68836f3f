//! What goes to the peer.

use std::collections::VecDeque;

use super::stream::State;
use super::{CHUNK, Event, KEPT_CAPACITY, Key, Mux, SEND_BUFFER};
use crate::tunnel::message::Kind;
use crate::tunnel::{PING, Role};

impl Mux {
    /// Whether [`Self::transmit`] may have something.
    pub fn has_output(&self) -> bool {
        self.ping
            || self.pong.is_some()
            || !self.farewell.is_empty()
            || !self.removals.is_empty()
            || !self.prompt.is_empty()
            || !self.ready.is_empty()
    }

    /// Appends frames for the socket until `out` holds `limit` bytes; it may grow over that by one frame.
    pub fn transmit(&mut self, out: &mut Vec<u8>, limit: usize) {
        if self.over.is_some() {
            out.append(&mut self.farewell);
            return;
        }
        if let Some(payload) = self.pong.take() {
            self.encoder.control().pong(out, &payload);
            self.counts.frames_out += 1;
        }
        if std::mem::take(&mut self.ping) {
            self.encoder.control().ping(out, PING);
            self.counts.frames_out += 1;
        }
        while out.len() < limit && self.step(out) {}
    }

    /// One message or a few small ones; whether there was any.
    fn step(&mut self, out: &mut Vec<u8>) -> bool {
        if let Some(id) = pop(&mut self.removals) {
            self.encoder.message(out, id, Kind::RemoveConnect, &[]);
            self.counts.frames_out += 1;
        } else if let Some(key) = pop(&mut self.prompt) {
            self.prompt_turn(key, out);
        } else if let Some(key) = pop(&mut self.ready) {
            self.turn(key, out);
        } else {
            return false;
        }
        true
    }

    fn prompt_turn(&mut self, key: usize, out: &mut Vec<u8>) {
        let stream = &mut self.streams[key];
        stream.prompt = false;
        if let Some((kind, payload)) = stream.connect.take() {
            self.encoder.message(out, stream.id, kind, &payload);
            self.counts.frames_out += 1;
        }
        if std::mem::take(&mut stream.flow.due) && stream.is_live() && !stream.finishing {
            let flow = &mut stream.flow;
            flow.granted += flow.consumed;
            self.encoder.credit(out, stream.id, std::mem::take(&mut flow.consumed));
            self.counts.frames_out += 1;
        }
        self.schedule(key);
        self.reap(key);
    }

    fn turn(&mut self, key: usize, out: &mut Vec<u8>) {
        let stream = &mut self.streams[key];
        stream.ready = false;
        if !stream.is_sendable(self.role == Role::Cloud) {
            self.reap(key);
            return;
        }
        let credit = usize::try_from(stream.flow.credit).unwrap_or(usize::MAX);
        let count = CHUNK.min(stream.outgoing.len()).min(credit);
        if count > 0 {
            let outgoing = &mut stream.outgoing;
            let fill = |out: &mut Vec<u8>| outgoing.take_into(count, out);
            self.encoder.message_with(out, stream.id, Kind::Data, count, fill);
            if self.credits {
                stream.flow.credit -= count as u64;
            }
            self.counts.frames_out += 1;
            self.counts.bytes_out += count as u64;
            if stream.waits_write && stream.outgoing.len() <= SEND_BUFFER / 2 {
                stream.waits_write = false;
                self.events.push_back(Event::Writable(Key(key)));
            }
        } else {
            self.encoder.message(out, stream.id, Kind::RemoveConnect, &[]);
            self.counts.frames_out += 1;
            self.unlink(key, State::Removed);
            return;
        }
        self.schedule(key);
    }
}

/// Takes the first and gives memory back after a rush.
fn pop<T>(queue: &mut VecDeque<T>) -> Option<T> {
    let first = queue.pop_front();
    if queue.is_empty() && queue.capacity() > KEPT_CAPACITY {
        *queue = VecDeque::new();
    }
    first
}
