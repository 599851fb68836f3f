//! One connection between the hubs of a cloud and an edge, whatever carries it: messages in and out, by lane.
//!
//! Owns the frames of one connection that stands: cutting them, putting them together, their order. Reads messages from its user as
//! there is room, the urgent ones first ([`proto::Lane`]). Must not know what is in a message, and keeps none that it was not given
//! room for. Handshakes, admission and when to give up belong to its users: `cloudhub::servers` and `edgehub::connect`.
//! [`websocket`] is what every KubeEdge speaks, [`quic`] is for our own programs.

pub mod quic;
pub mod websocket;

use std::error::Error;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use proto::Lane;
use thiserror::Error;
use tokio::time::Instant;

/// A connection. Nothing is done but in its methods: whoever holds it polls it.
pub trait Line: Send {
    /// Writes as long as the connection takes it and `next` has messages. A message of the bulk lane is asked for when those before it
    /// are on their way, an urgent one whenever it can go.
    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        next: &mut dyn FnMut(Lane) -> Option<String>,
    ) -> Result<(), LineError>;

    /// What comes next.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<Received, LineError>>;

    /// Asks whether the other side is there, where the transport does not do so by itself. A side that does not take what was written
    /// before is not asked.
    fn ping(&mut self) -> Result<(), LineError>;

    /// Since when the connection has not taken what was written last.
    fn stalled(&self) -> Option<Instant>;

    /// A number that changes with whatever comes: a large message that comes slowly is a sign of life too.
    fn heard(&self) -> u64;

    /// Says farewell. What was not written before is lost; the other side may be told or not.
    fn close(&mut self, farewell: Farewell) -> BoxFuture<'_, ()>;
}

/// What came.
#[derive(Debug)]
pub enum Received {
    /// A message, not decoded yet.
    Message(Vec<u8>),
    /// A sign of life.
    Sign,
}

/// Why a connection is closed, as WebSocket's close codes have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// The code, 1000 to 4999.
    pub code: u16,
    /// In words.
    pub reason: &'static str,
}

impl Farewell {
    /// Nothing is wrong.
    pub const NORMAL: Self = Self { code: 1000, reason: "" };
    /// This side stops.
    pub const fn away(reason: &'static str) -> Self {
        Self { code: 1001, reason }
    }
    /// The other side sent what cannot be taken.
    pub const fn unsupported(reason: &'static str) -> Self {
        Self { code: 1003, reason }
    }
    /// The other side may not be connected.
    pub const fn policy(reason: &'static str) -> Self {
        Self { code: 1008, reason }
    }
}

/// Why a connection is over.
#[derive(Debug, Error)]
pub enum LineError {
    /// The other side said so, with its words if it had any.
    #[error("the other side closed the connection{}", said(.0))]
    Closed(String),
    /// A message over the limit.
    #[error("message of {size} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its length, or as much of it as is known.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// What came is no frame.
    #[error("what came is no frame")]
    Malformed(#[source] Box<dyn Error + Send + Sync>),
    /// It broke, or ended without a word.
    #[error("the connection broke")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
}

fn said(words: &str) -> String {
    if words.is_empty() {
        String::new()
    } else {
        format!(": {words}")
    }
}
