//! One connected edge: its outbox and the task that serves its socket.
//!
//! Owns the connection from its admission to its end. Reads frames, and what controllers put into the outbox; emits the node's messages
//! by `dispatch`, and that it came and went. Must not write to the API. A session ends by its own connection, never by the node's name: a
//! second connection of a node ends the first and is not touched by the first one's end (spec 01 §5.3).

mod dispatch;
mod task;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proto::{Features, Message, MsgId, NodeName};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::metrics::Metrics;
use super::outbox::{Class, Delivered, Lane, Outbox};

pub(super) use task::serve;

/// Why a session ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// The node connected again.
    Replaced,
    /// The Node object is gone, or the node is trusted no more.
    Disconnected,
    /// The edge closed.
    Closed,
    /// No keepalive within the interval.
    Silent,
    /// The socket took nothing for the write time-out.
    Stalled,
    /// The edge sent what is no message.
    Malformed,
    /// The connection broke.
    Broken,
    /// cloudcore stops.
    Stopping,
}

/// What the session's task and the senders of messages share.
pub(super) struct Session {
    pub(super) node: NodeName,
    pub(super) features: Features,
    pub(super) legacy: bool,
    /// When its certificate was issued (Unix time).
    pub(super) issued: Option<Duration>,
    state: Mutex<State>,
    wake: Notify,
}

struct State {
    outbox: Outbox,
    end: Option<End>,
}

impl Session {
    pub(super) fn new(
        node: NodeName,
        features: Features,
        legacy: bool,
        issued: Option<Duration>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let state = Mutex::new(State {
            outbox: Outbox::new(metrics),
            end: None,
        });
        Self {
            node,
            features,
            legacy,
            issued,
            state,
            wake: Notify::new(),
        }
    }

    pub(super) fn offer(&self, message: Message, lane: Lane, recorded: Option<&str>) {
        self.state.lock().outbox.offer(Instant::now(), message, lane, recorded);
        self.wake.notify_one();
    }

    pub(super) fn end(&self, end: End) {
        self.state.lock().end.get_or_insert(end);
        self.wake.notify_one();
    }

    pub(super) fn oldest(&self, class: Class) -> Option<Instant> {
        self.state.lock().outbox.oldest(class)
    }

    fn poll_send(&self, lane: proto::Lane) -> Option<String> {
        let mut state = self.state.lock();
        match lane {
            proto::Lane::Urgent => state.outbox.poll_urgent(),
            proto::Lane::Bulk => state.outbox.poll_send(Instant::now()),
        }
    }

    fn on_ack(&self, id: &MsgId) -> Option<Delivered> {
        self.state.lock().outbox.on_ack(Instant::now(), id)
    }

    /// Lets the outbox see the time; says when it wants to see it next, or why the session is to end.
    fn on_time(&self, now: Instant) -> Result<Option<Instant>, End> {
        let mut state = self.state.lock();
        if let Some(end) = state.end {
            return Err(end);
        }
        state.outbox.on_time(now);
        Ok(state.outbox.next_due())
    }
}
