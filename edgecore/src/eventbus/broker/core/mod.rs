//! The broker without I/O: clients' packets, their ends and the time in; packets, ends and changes of the database out.
//!
//! Owns sessions, subscriptions and retained messages. Its inputs are [`Core::connect`], [`Core::packet`], [`Core::lost`],
//! [`Core::publish`] and [`Core::tick`]; what follows from them is taken with [`Core::outputs`], in order. It must not know sockets,
//! clocks, passwords or the database: who is let in and when bytes leave is the driver's.

mod clients;
mod delivery;
mod limits;
mod ops;
mod retained;
mod session;
mod subscriptions;
mod sys;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::mqtt::{Connect, Packet, Publish, Will};

pub(crate) use limits::Limits;
#[cfg(test)]
pub(crate) use ops::StoredSession;
pub(crate) use ops::{Op, Stored, StoredMessage};
use retained::Retained;
use session::Session;
pub(crate) use subscriptions::Tree;
pub(crate) use sys::{Counters, SYS_INTERVAL};

/// A connection; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// A session in this process.
type SessionKey = u64;

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Output {
    /// Send it.
    Send {
        /// Where to.
        to: ConnectionId,
        /// What.
        packet: Packet,
        /// Whether it promises something that the changes of the same input make durable: it must not leave before they are committed.
        promise: bool,
    },
    /// End a connection after what was sent before.
    Close {
        /// Which.
        connection: ConnectionId,
        /// For the log.
        reason: CloseReason,
    },
    /// Change the database.
    Store(Op),
    /// A client published this; each message once, with QoS 2 too.
    Accepted(Publish),
}

/// Why the broker ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CloseReason {
    /// DISCONNECT.
    #[error("it disconnected")]
    Goodbye,
    /// A second CONNECT.
    #[error("a second CONNECT")]
    SecondConnect,
    /// Another connection has its name.
    #[error("another connection took its session over")]
    TakenOver,
    /// Nothing came for one and a half of its keep alive.
    #[error("nothing was heard within its keep alive")]
    Silent,
    /// The CONNECT was refused.
    #[error("its name or will is not taken, or there are too many sessions")]
    Refused,
    /// A topic is too long or too deep.
    #[error("a topic is longer or deeper than allowed (modules.eventBus.broker.limits)")]
    Topic,
    /// A SUBSCRIBE has more filters than any client may have.
    #[error("a SUBSCRIBE has more filters than any client may have (modules.eventBus.broker.limits)")]
    Filters,
    /// Too many packet ids of QoS 2 wait for their release.
    #[error("too many messages of QoS 2 were not released")]
    Unreleased,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Core {
    limits: Limits,
    sessions: HashMap<SessionKey, Session>,
    names: HashMap<Arc<str>, SessionKey>,
    connections: HashMap<ConnectionId, Connected>,
    subscriptions: Tree<SessionKey>,
    retained: Retained,
    counters: Counters,
    next_key: SessionKey,
    /// Of the next message that waits in a session: their order, and their key in the database.
    next_number: i64,
    started: Instant,
    next_sys: Instant,
    out: Vec<Output>,
}

/// A client that is here.
#[derive(Debug)]
struct Connected {
    session: SessionKey,
    /// One and a half of what it said.
    keep_alive: Option<Duration>,
    heard: Instant,
    will: Option<Will>,
}

impl Core {
    /// With what was stored.
    pub(crate) fn new(limits: Limits, stored: Stored, now: Instant) -> Self {
        let mut core = Self {
            limits,
            sessions: HashMap::new(),
            names: HashMap::new(),
            connections: HashMap::new(),
            subscriptions: Tree::default(),
            retained: Retained::default(),
            counters: Counters::default(),
            next_key: 1,
            next_number: 1,
            started: now,
            next_sys: now + SYS_INTERVAL,
            out: Vec::new(),
        };
        core.restore(stored, now);
        core
    }

    /// The first packet of a connection that may come in.
    pub(crate) fn connect(&mut self, now: Instant, id: ConnectionId, connect: Connect) {
        self.open(now, id, connect);
    }

    /// A later packet. One of a connection that has ended already changes nothing.
    pub(crate) fn packet(&mut self, now: Instant, id: ConnectionId, packet: Packet) {
        let Some(connected) = self.connections.get_mut(&id) else {
            return;
        };
        connected.heard = now;
        let key = connected.session;
        match packet {
            Packet::Publish(publish) => self.published(now, id, key, publish),
            Packet::PubAck(packet) => self.acknowledged(key, packet),
            Packet::PubRec(packet) => self.received(id, key, packet),
            Packet::PubRel(packet) => self.released(id, key, packet),
            Packet::PubComp(packet) => self.completed(key, packet),
            Packet::Subscribe { id: packet, filters } => self.subscribe(now, id, key, packet, filters),
            Packet::Unsubscribe { id: packet, filters } => self.unsubscribe(id, key, packet, &filters),
            Packet::PingReq => self.send(id, Packet::PingResp, false),
            Packet::Disconnect => {
                connected.will = None;
                self.end(now, id, CloseReason::Goodbye);
            }
            Packet::Connect(_) => self.end(now, id, CloseReason::SecondConnect),
            // The decoder takes no packet that only brokers send.
            Packet::ConnAck { .. } | Packet::SubAck { .. } | Packet::UnsubAck(_) | Packet::PingResp => {}
        }
    }

    /// A connection is gone, its socket with it.
    pub(crate) fn lost(&mut self, now: Instant, id: ConnectionId) {
        self.forget(now, id);
    }

    /// A message of the process itself.
    pub(crate) fn publish(&mut self, publish: Publish) {
        self.route(publish);
    }

    /// Lets time pass. Gives when it wants to be called again.
    pub(crate) fn tick(&mut self, now: Instant) -> Instant {
        let deadline = |connected: &Connected| Some(connected.heard + connected.keep_alive?);
        let silent: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connected)| deadline(connected).is_some_and(|deadline| deadline <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in silent {
            self.end(now, id, CloseReason::Silent);
        }
        if now >= self.next_sys {
            self.next_sys = now + SYS_INTERVAL;
            self.publish_counters(now);
        }
        self.connections
            .values()
            .filter_map(deadline)
            .fold(self.next_sys, Instant::min)
    }

    /// What is to be done, in order.
    pub(crate) fn outputs(&mut self) -> std::vec::Drain<'_, Output> {
        self.out.drain(..)
    }

    fn send(&mut self, to: ConnectionId, packet: Packet, promise: bool) {
        self.counters.sent += u64::from(matches!(packet, Packet::Publish(_)));
        self.out.push(Output::Send { to, packet, promise });
    }

    fn store(&mut self, op: Op) {
        self.out.push(Output::Store(op));
    }
}
