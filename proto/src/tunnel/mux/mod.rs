//! The streams of one tunnel, without I/O (spec 04 §5.4).
//!
//! Owns what waits in either direction. Reads bytes of the socket ([`Mux::receive`]) and gives bytes for it ([`Mux::transmit`]); the
//! holders of streams read, write, finish and release them by [`Key`]; [`Mux::event`] tells who need not wait any more. Nothing in here
//! waits for one stream: a stream that nobody reads stops its own sender where `credits/1` was negotiated, and is ended alone at its cap
//! where not. A stream is ended by one RemoveConnect per direction, which the edge answers and the cloud does not.

mod keepalive;
mod receive;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod transmit;

use std::collections::{HashMap, VecDeque};
use std::mem::take;
use std::time::{Duration, Instant};

use slab::Slab;
use thiserror::Error;

use self::keepalive::{Due, Keepalive};
use self::stream::{State, Stream};
use super::connect::Connect;
use super::message::{Decoder, Encoder, Kind};
use super::{MAX_PAYLOAD, Role};

/// How a tunnel runs.
#[derive(Clone, Copy, Debug)]
pub struct MuxSettings {
    /// This side.
    pub role: Role,
    /// Whether `credits/1` was negotiated; the peer is one of ours then.
    pub credits: bool,
    /// Where the masks of an edge begin.
    pub seed: u64,
}

/// A stream of a [`Mux`]. Valid until it is released.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key(usize);

impl Key {
    /// A small number that no other stream of the tunnel has at the same time.
    pub const fn index(self) -> usize {
        self.0
    }
}

/// Who need not wait any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A reader that was told to wait.
    Readable(Key),
    /// A writer that was told to wait.
    Writable(Key),
    /// The stream is over, though bytes may wait to be read.
    Over(Key),
    /// There is something to accept.
    Incoming,
    /// The tunnel is over. All readers and writers got their events.
    Ended,
}

/// What there is to read.
#[derive(PartialEq, Eq, Debug)]
pub enum Read<'a> {
    /// Never empty; to be consumed.
    Bytes(&'a [u8]),
    /// Nothing yet: an event will tell.
    Wait,
    /// The stream was removed, everything was read.
    End,
    /// The stream was cut off, for this reason.
    Failed(&'a str),
}

/// Why no stream was opened.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RefusedOpen {
    /// The tunnel is over.
    #[error("the tunnel has ended: {0}")]
    Ended(String),
    /// Another stream has the id.
    #[error("a stream with id {0} exists")]
    InUse(u64),
    /// The request does not fit a message.
    #[error("the request is too long for the tunnel ({0} bytes)")]
    TooLong(usize),
}

/// What happened since it was asked last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Messages and control frames that came.
    pub frames_in: u64,
    /// Messages and control frames that went.
    pub frames_out: u64,
    /// Bytes of streams that came.
    pub bytes_in: u64,
    /// Bytes of streams that went.
    pub bytes_out: u64,
    /// Messages of a type that is not known, or makes no sense in that direction.
    pub unknown: u64,
    /// Messages for a stream that is over or never was.
    pub late: u64,
    /// Streams that began.
    pub opened: u64,
    /// Streams that ended, however.
    pub ended: u64,
    /// Streams ended alone because too much was waiting for their reader.
    pub capped: u64,
    /// Connect messages that opened nothing.
    pub refused: u64,
}

/// The streams of one tunnel.
#[derive(Debug)]
pub struct Mux {
    role: Role,
    credits: bool,
    decoder: Decoder,
    encoder: Encoder,
    keepalive: Keepalive,
    streams: Slab<Stream>,
    /// The live ones.
    ids: HashMap<u64, usize>,
    /// Those with a connect message or a credit to send: ahead of all bytes.
    prompt: VecDeque<usize>,
    /// Those with bytes to send, one chunk each in turn.
    ready: VecDeque<usize>,
    /// Streams that wait for the first byte of a Go edge, in the order of their deadlines.
    holds: VecDeque<(Instant, u64)>,
    /// Ids whose RemoveConnect is to be sent, although there is no stream any more.
    removals: VecDeque<u64>,
    /// The last ids of data without a stream (edge).
    missed: VecDeque<u64>,
    accepted: VecDeque<(Key, Connect)>,
    accepting: bool,
    /// Bytes that wait for readers, of all streams.
    waiting: usize,
    /// The sum of the windows.
    committed: u64,
    ping: bool,
    pong: Option<Vec<u8>>,
    /// The last frames, once the tunnel is over.
    farewell: Vec<u8>,
    over: Option<String>,
    events: VecDeque<Event>,
    counts: Counts,
}

impl Mux {
    /// A tunnel that begins now.
    pub fn new(settings: &MuxSettings, now: Instant) -> Self {
        let MuxSettings { role, credits, seed } = *settings;
        Self {
            role,
            credits,
            decoder: Decoder::new(role, credits),
            encoder: Encoder::new(role, credits, seed),
            keepalive: Keepalive::new(role, credits, now),
            streams: Slab::new(),
            ids: HashMap::new(),
            prompt: VecDeque::new(),
            ready: VecDeque::new(),
            holds: VecDeque::new(),
            removals: VecDeque::new(),
            missed: VecDeque::new(),
            accepted: VecDeque::new(),
            accepting: true,
            waiting: 0,
            committed: 0,
            ping: false,
            pong: None,
            farewell: Vec::new(),
            over: None,
            events: VecDeque::new(),
            counts: Counts::default(),
        }
    }

    /// Opens a stream (cloud).
    ///
    /// # Errors
    /// When the tunnel is over, or the request cannot be sent.
    pub fn open(&mut self, now: Instant, connect: &Connect) -> Result<Key, RefusedOpen> {
        if let Some(reason) = &self.over {
            return Err(RefusedOpen::Ended(reason.clone()));
        }
        if self.ids.contains_key(&connect.id) {
            return Err(RefusedOpen::InUse(connect.id));
        }
        let payload = connect.encode();
        if payload.len() > MAX_PAYLOAD {
            return Err(RefusedOpen::TooLong(payload.len()));
        }
        let key = self.link(connect.id);
        let stream = &mut self.streams[key];
        stream.connect = Some((connect.kind.kind(), payload));
        if !self.credits {
            // A Go edge drops what overtakes its own start of the stream (spec 04 §5.2).
            let until = now + HOLD;
            stream.hold = Some(until);
            self.holds.push_back((until, connect.id));
        }
        self.schedule_prompt(key);
        Ok(Key(key))
    }

    /// The next stream that the cloud opened (edge). It is to be released like one that was opened here.
    pub fn accept(&mut self) -> Option<(Key, Connect)> {
        self.accepted.pop_front()
    }

    /// From now on nobody accepts: connect messages are refused.
    pub fn refuse_all(&mut self) {
        self.accepting = false;
        for (Key(key), _) in take(&mut self.accepted) {
            self.release(Key(key));
        }
    }

    /// What there is to read from a stream.
    pub fn read(&mut self, Key(key): Key) -> Read<'_> {
        let stream = &mut self.streams[key];
        stream.waits_read = false;
        if !stream.incoming.is_empty() {
            return Read::Bytes(stream.incoming.chunk());
        }
        match stream.state {
            State::Failed(failure) => Read::Failed(failure.text()),
            State::Lost if !stream.finishing => Read::Failed(self.over.as_deref().unwrap_or_default()),
            State::Live if !stream.finishing => {
                stream.waits_read = true;
                Read::Wait
            }
            State::Live | State::Removed | State::Lost => Read::End,
        }
    }

    /// Takes `count` bytes of what [`Self::read`] gave.
    pub fn consume(&mut self, Key(key): Key, count: usize) {
        let stream = &mut self.streams[key];
        stream.incoming.consume(count);
        self.waiting -= count;
        if !self.credits || !stream.is_live() || stream.finishing {
            return;
        }
        let flow = &mut stream.flow;
        flow.consumed += count as u64;
        if flow.due || flow.consumed < flow.window / 2 {
            return;
        }
        let growth = flow.window.min(MAX_WINDOW - flow.window);
        if self.committed + growth <= WINDOWS_OF_A_TUNNEL {
            self.committed += growth;
            flow.window += growth;
            flow.consumed += growth;
        }
        flow.due = true;
        self.schedule_prompt(key);
    }

    /// Queues bytes for the peer; how many, 0 when there is no room and an event will tell; `None` when the stream is over.
    pub fn write(&mut self, Key(key): Key, bytes: &[u8]) -> Option<usize> {
        let stream = &mut self.streams[key];
        stream.waits_write = false;
        if !stream.is_live() || stream.finishing {
            return None;
        }
        let count = bytes.len().min(SEND_BUFFER - stream.outgoing.len());
        if count == 0 {
            stream.waits_write = !bytes.is_empty();
            return Some(0);
        }
        stream.outgoing.push(&bytes[..count]);
        self.schedule(key);
        Some(count)
    }

    /// Ends a stream: RemoveConnect follows what was written. The cloud's does not wait for credit, its client is gone.
    pub fn finish(&mut self, Key(key): Key) {
        let stream = &mut self.streams[key];
        stream.finishing = true;
        self.wake(key);
        self.schedule(key);
    }

    /// The holder is gone: ends the stream unless it is over, and forgets it then.
    pub fn release(&mut self, Key(key): Key) {
        let stream = &mut self.streams[key];
        stream.held = false;
        self.waiting -= stream.incoming.len();
        stream.incoming.clear();
        (stream.waits_read, stream.waits_write) = (false, false);
        if stream.is_live() {
            stream.finishing = true;
            self.schedule(key);
        }
        self.reap(key);
    }

    /// Whether both sides still know a stream.
    pub fn is_open(&self, Key(key): Key) -> bool {
        self.streams[key].is_live()
    }

    /// When [`Self::expire`] is to be called at the latest.
    pub fn deadline(&self) -> Instant {
        let keepalive = self.keepalive.deadline();
        self.holds.front().map_or(keepalive, |(until, _)| keepalive.min(*until))
    }

    /// Does what is due. What has arrived must have been received before, or a process that slept takes its peer for dead.
    pub fn expire(&mut self, now: Instant) {
        while let Some((_, id)) = self.holds.pop_front_if(|(until, _)| *until <= now) {
            if let Some(&key) = self.ids.get(&id) {
                self.unhold(key);
            }
        }
        match self.keepalive.due(now) {
            Due::Nothing => {}
            Due::Ping => self.ping = true,
            Due::Lost(silence) => self.end(format!("nothing came from the peer for {} s", silence.as_secs()), None),
        }
    }

    /// Ends the tunnel from this side; [`Self::transmit`] gives the last frames.
    pub fn close(&mut self, reason: &str) {
        if self.over.is_some() {
            return;
        }
        let mut farewell = Vec::new();
        if self.role == Role::Cloud {
            let text = &reason.as_bytes()[..reason.len().min(MAX_PAYLOAD)];
            self.encoder.message(&mut farewell, 0, Kind::CloseConnect, text);
        }
        self.farewell = farewell;
        self.end(reason.to_owned(), Some((GOING_AWAY, reason)));
    }

    /// The socket is gone.
    pub fn lost(&mut self, reason: &str) {
        self.end(reason.to_owned(), None);
    }

    /// Why the tunnel is over.
    pub fn ended(&self) -> Option<&str> {
        self.over.as_deref()
    }

    /// The next event.
    pub fn event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if self.events.is_empty() && self.events.capacity() > KEPT_CAPACITY {
            self.events = VecDeque::new();
        }
        event
    }

    /// What happened since the last call.
    pub fn take_counts(&mut self) -> Counts {
        take(&mut self.counts)
    }

    /// Live streams.
    pub fn open_streams(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no stream at all, not even one that only its holder knows.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Bytes that wait for readers, of all streams.
    pub const fn waiting_bytes(&self) -> usize {
        self.waiting
    }
}

/// Bytes that a writer may be ahead of the socket, per stream.
const SEND_BUFFER: usize = 256 * 1024;
/// The largest window: with the sender's buffer a stream that nobody reads holds 1 MiB, on both sides together.
const MAX_WINDOW: u64 = 768 * 1024;
/// Windows do not grow beyond this sum.
const WINDOWS_OF_A_TUNNEL: u64 = 32 * 1024 * 1024;
/// What may wait for the reader of one stream whose peer has no credits, and of all streams of a tunnel (spec 04 §5.4).
const STREAM_CAP: usize = 16 * 1024 * 1024;
const TUNNEL_CAP: usize = 64 * 1024 * 1024;
/// Streams of a tunnel that an edge serves.
const MAX_STREAMS: usize = 10_000;
/// RemoveConnects that may wait for a peer which sends and does not read.
const MAX_REMOVALS: usize = 64 * 1024;
/// Ids of data without a stream that an edge remembers: one that is opened later is refused.
const MAX_MISSED: usize = 64;
/// How long nothing follows a connect message to a Go edge that has not sent a byte. Clients wait for its answer anyhow.
const HOLD: Duration = Duration::from_millis(500);
/// Bytes of a stream in one message.
const CHUNK: usize = 32 * 1024;
/// Queues of up to so many entries are kept when they are empty.
const KEPT_CAPACITY: usize = 64;
const NORMAL: u16 = 1000;
const GOING_AWAY: u16 = 1001;
