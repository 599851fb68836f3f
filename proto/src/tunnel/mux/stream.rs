//! One stream of a tunnel.

use std::time::Instant;

use crate::tunnel::queue::ByteQueue;
use crate::tunnel::{INITIAL_CREDIT, Kind};

/// What is known of a stream. It stays until the wire and its handle are both done with it.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u64,
    pub(super) state: State,
    /// Someone holds it, or will accept it.
    pub(super) held: bool,
    /// Ended by its holder: RemoveConnect follows what is queued, and what comes in is dropped.
    pub(super) finishing: bool,
    /// The message that opens it, until it is sent.
    pub(super) connect: Option<(Kind, Vec<u8>)>,
    /// Nothing may follow the connect message before this moment or the first byte of the edge.
    pub(super) hold: Option<Instant>,
    pub(super) incoming: ByteQueue,
    pub(super) outgoing: ByteQueue,
    pub(super) flow: Flow,
    /// The holder waits for bytes.
    pub(super) waits_read: bool,
    /// The holder waits for room.
    pub(super) waits_write: bool,
    /// In the queue of those with a connect message or a credit to send.
    pub(super) prompt: bool,
    /// In the queue of those with bytes to send.
    pub(super) ready: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Both sides know it.
    Live,
    /// RemoveConnect came, or went.
    Removed,
    /// Ended by this side against the will of its holder.
    Failed(Failure),
    /// The tunnel is gone.
    Lost,
}

/// Why a stream is ended alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    Cap,
    Overrun,
    Duplicate,
}

/// The windows of both directions, in bytes; without negotiation there are none.
#[derive(Debug)]
pub(super) struct Flow {
    /// May still be sent to the peer.
    pub(super) credit: u64,
    /// The peer may still send.
    pub(super) granted: u64,
    /// The size of the peer's window; grows while it is used up.
    pub(super) window: u64,
    /// Read since the last grant.
    pub(super) consumed: u64,
    /// A grant is to be sent.
    pub(super) due: bool,
}

impl Stream {
    pub(super) fn new(id: u64, credits: bool) -> Self {
        Self {
            id,
            state: State::Live,
            held: true,
            finishing: false,
            connect: None,
            hold: None,
            incoming: ByteQueue::default(),
            outgoing: ByteQueue::default(),
            flow: Flow::new(credits),
            waits_read: false,
            waits_write: false,
            prompt: false,
            ready: false,
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// Whether it has a turn to use. `impatient`: the end is sent although bytes wait for credit.
    pub(super) fn is_sendable(&self, impatient: bool) -> bool {
        let bytes = !self.outgoing.is_empty();
        let end = self.finishing && (!bytes || impatient);
        self.is_live() && self.hold.is_none() && (end || (bytes && self.flow.credit > 0))
    }

    pub(super) const fn is_over(&self) -> bool {
        !self.held && !matches!(self.state, State::Live) && !self.prompt && !self.ready
    }
}

impl Flow {
    const fn new(credits: bool) -> Self {
        let window = if credits { INITIAL_CREDIT as u64 } else { u64::MAX };
        Self {
            credit: window,
            granted: window,
            window,
            consumed: 0,
            due: false,
        }
    }
}

impl Failure {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Cap => "more was waiting for its reader than may wait, so the stream was ended",
            Self::Overrun => "the peer sent more than it was given credit for",
            Self::Duplicate => "the peer opened a stream with the id of this one",
        }
    }
}
