//! Which streams there are and who waits for a turn.

use std::collections::{HashMap, VecDeque};
use std::mem::take;

use slab::Slab;

use super::stream::{State, Stream};
use super::{Event, KEPT_CAPACITY, Key, Mux};
use crate::tunnel::Role;

impl Mux {
    pub(super) fn link(&mut self, id: u64) -> usize {
        let stream = Stream::new(id, self.credits);
        if self.credits {
            self.committed += stream.flow.window;
        }
        let key = self.streams.insert(stream);
        self.ids.insert(id, key);
        self.counts.opened += 1;
        key
    }

    /// The wire is done with a stream.
    pub(super) fn unlink(&mut self, key: usize, state: State) {
        let stream = &mut self.streams[key];
        if !stream.is_live() {
            return;
        }
        stream.state = state;
        stream.connect = None;
        stream.outgoing.clear();
        if self.credits {
            self.committed -= stream.flow.window;
        }
        self.ids.remove(&stream.id);
        self.counts.ended += 1;
        if stream.held {
            self.events.push_back(Event::Over(Key(key)));
        }
        self.wake(key);
        self.reap(key);
    }

    pub(super) fn end(&mut self, reason: String, close: Option<(u16, &str)>) {
        if self.over.is_some() {
            return;
        }
        self.over = Some(reason);
        if let Some((code, text)) = close {
            self.encoder.control().close(&mut self.farewell, code, text);
        }
        (self.ping, self.pong) = (false, None);
        self.holds.clear();
        self.removals.clear();
        for key in take(&mut self.prompt).into_iter().chain(take(&mut self.ready)) {
            if let Some(stream) = self.streams.get_mut(key) {
                (stream.prompt, stream.ready) = (false, false);
                self.reap(key);
            }
        }
        for key in take(&mut self.ids).into_values() {
            self.ids.insert(self.streams[key].id, key);
            self.unlink(key, State::Lost);
        }
        self.refuse_all();
        self.events.push_back(Event::Ended);
    }

    pub(super) fn wake(&mut self, key: usize) {
        let stream = &mut self.streams[key];
        if take(&mut stream.waits_read) {
            self.events.push_back(Event::Readable(Key(key)));
        }
        if take(&mut stream.waits_write) {
            self.events.push_back(Event::Writable(Key(key)));
        }
    }

    pub(super) fn schedule(&mut self, key: usize) {
        let stream = &mut self.streams[key];
        if !stream.ready && stream.is_sendable(self.role == Role::Cloud) {
            stream.ready = true;
            self.ready.push_back(key);
        }
    }

    pub(super) fn schedule_prompt(&mut self, key: usize) {
        let stream = &mut self.streams[key];
        if !stream.prompt {
            stream.prompt = true;
            self.prompt.push_back(key);
        }
    }

    pub(super) fn unhold(&mut self, key: usize) {
        if self.streams[key].hold.take().is_some() {
            self.schedule(key);
        }
    }

    /// Forgets a stream that nobody knows any more, and gives memory back after a rush.
    pub(super) fn reap(&mut self, key: usize) {
        if self.streams[key].is_over() {
            self.streams.remove(key);
        }
        if self.streams.is_empty() && self.streams.capacity() > KEPT_CAPACITY {
            self.streams = Slab::new();
            self.ids = HashMap::new();
            self.prompt = VecDeque::new();
            self.ready = VecDeque::new();
        }
    }
}
