//! Messages of the tunnel: `uvarint id | uvarint type | payload`, one in each WebSocket message (spec 04 §3, §4).

use super::websocket::{self, FrameError, Piece};
use super::{MAX_PAYLOAD, Role};

/// What a message is. The numbers of the connect types are not contiguous.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Opens a stream for container logs, without a method.
    LogsConnect,
    /// Opens a stream for any HTTP request.
    ExecConnect,
    /// Opens a stream for metrics, without a method.
    MetricConnect,
    /// Bytes of a stream.
    Data,
    /// The end of a stream, in both directions at once.
    RemoveConnect,
    /// The end of the tunnel, with an error text; the id is 0.
    CloseConnect,
    /// Opens a stream for attach; edges from v1.14 know it.
    AttachConnect,
    /// The peer may send so many bytes more on this stream (a uvarint). Only where `credits/1` was negotiated: a released Go edge
    /// panics on any type that it does not know.
    Credit,
}

impl Kind {
    /// The number on the wire.
    pub const fn number(self) -> u64 {
        match self {
            Self::LogsConnect => 0,
            Self::ExecConnect => 1,
            Self::MetricConnect => 2,
            Self::Data => 3,
            Self::RemoveConnect => 4,
            Self::CloseConnect => 5,
            Self::AttachConnect => 6,
            Self::Credit => FIRST_NEGOTIATED,
        }
    }

    const fn from_number(number: u64, negotiated: bool) -> Option<Self> {
        Some(match number {
            0 => Self::LogsConnect,
            1 => Self::ExecConnect,
            2 => Self::MetricConnect,
            3 => Self::Data,
            4 => Self::RemoveConnect,
            5 => Self::CloseConnect,
            6 => Self::AttachConnect,
            FIRST_NEGOTIATED if negotiated => Self::Credit,
            _ => return None,
        })
    }
}

/// A whole message other than Data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The stream.
    pub id: u64,
    /// What it is.
    pub kind: Kind,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
}

/// A part of what was received.
#[derive(Debug)]
pub enum Part<'a> {
    /// Bytes of a stream, in order; a message may come in several parts.
    Data {
        /// The stream.
        id: u64,
        /// Never empty.
        bytes: &'a [u8],
    },
    /// A whole message of another kind.
    Message(Message),
    /// A message of a type that is not known, or not negotiated. Its payload is skipped.
    Unknown {
        /// The stream.
        id: u64,
        /// Its type.
        number: u64,
    },
    /// To be answered with the same payload.
    Ping(Vec<u8>),
    /// The answer to a ping, with its payload.
    Pong(Vec<u8>),
    /// The peer ends the connection.
    Close {
        /// Why, as a number.
        code: Option<u16>,
        /// Why, in words.
        reason: String,
    },
}

/// Reads messages from the bytes of the socket.
#[derive(Debug)]
pub struct Decoder {
    frames: websocket::Decoder,
    negotiated: bool,
    reading: Reading,
}

#[derive(Debug)]
enum Reading {
    Head(Head),
    Data(u64),
    Collect(Message),
    Skip,
}

impl Decoder {
    /// For the given side; `credits` when they were negotiated.
    pub const fn new(role: Role, credits: bool) -> Self {
        Self {
            frames: websocket::Decoder::new(role, (MAX_PAYLOAD + MAX_HEAD) as u64),
            negotiated: credits,
            reading: Reading::Head(Head::new()),
        }
    }

    /// The next part; `None` when `input` is used up.
    ///
    /// # Errors
    /// What the peer must not send. Nothing after it can be read.
    pub fn next<'a>(&mut self, input: &mut &'a mut [u8]) -> Result<Option<Part<'a>>, FrameError> {
        while let Some(piece) = self.frames.next(input)? {
            let part = match piece {
                Piece::Ping(payload) => Part::Ping(payload),
                Piece::Pong(payload) => Part::Pong(payload),
                Piece::Close { code, reason } => Part::Close { code, reason },
                Piece::Data { bytes, last } => match self.piece(bytes, last)? {
                    Some(part) => part,
                    None => continue,
                },
            };
            return Ok(Some(part));
        }
        Ok(None)
    }

    fn piece<'a>(&mut self, mut bytes: &'a [u8], last: bool) -> Result<Option<Part<'a>>, FrameError> {
        let mut unknown = None;
        if let Reading::Head(head) = &mut self.reading {
            let Some((id, number)) = head.read(&mut bytes)? else {
                return if last { Err(FrameError::Truncated) } else { Ok(None) };
            };
            self.reading = match Kind::from_number(number, self.negotiated) {
                Some(Kind::Data) => Reading::Data(id),
                Some(kind) => Reading::Collect(Message {
                    id,
                    kind,
                    payload: Vec::new(),
                }),
                None => {
                    unknown = Some(Part::Unknown { id, number });
                    Reading::Skip
                }
            };
        }
        let part = match &mut self.reading {
            Reading::Data(id) => (!bytes.is_empty()).then_some(Part::Data { id: *id, bytes }),
            Reading::Collect(message) => {
                if message.payload.len() + bytes.len() > MAX_PAYLOAD {
                    return Err(FrameError::TooLarge((message.payload.len() + bytes.len()) as u64));
                }
                message.payload.extend_from_slice(bytes);
                last.then(|| {
                    let (id, kind) = (message.id, message.kind);
                    let payload = std::mem::take(&mut message.payload);
                    Part::Message(Message { id, kind, payload })
                })
            }
            Reading::Skip | Reading::Head(_) => unknown,
        };
        if last {
            self.reading = Reading::Head(Head::new());
        }
        Ok(part)
    }
}

/// Writes messages as frames.
#[derive(Debug)]
pub struct Encoder {
    frames: websocket::Encoder,
    negotiated: bool,
}

impl Encoder {
    /// For the given side; `credits` when they were negotiated; see [`websocket::Encoder::new`] for the seed.
    pub fn new(role: Role, credits: bool, seed: u64) -> Self {
        Self {
            frames: websocket::Encoder::new(role, seed),
            negotiated: credits,
        }
    }

    /// Appends a message.
    ///
    /// # Panics
    /// When the payload is over [`MAX_PAYLOAD`], or the kind was not negotiated: it would kill a Go edge.
    pub fn message(&mut self, out: &mut Vec<u8>, id: u64, kind: Kind, payload: &[u8]) {
        self.message_with(out, id, kind, payload.len(), |out| out.extend_from_slice(payload));
    }

    /// Appends a message whose `length` bytes of payload `fill` appends.
    pub(super) fn message_with(
        &mut self,
        out: &mut Vec<u8>,
        id: u64,
        kind: Kind,
        length: usize,
        fill: impl FnOnce(&mut Vec<u8>),
    ) {
        assert!(
            length <= MAX_PAYLOAD,
            "a payload of {length} bytes would be cut by the peer"
        );
        assert!(
            self.negotiated || kind.number() < FIRST_UNKNOWN_TO_GO,
            "type {} was not negotiated",
            kind.number()
        );
        let mut head = Uvarints::default();
        head.push(id);
        head.push(kind.number());
        let head = head.as_slice();
        self.frames.text(out, head.len() + length, |out| {
            out.extend_from_slice(head);
            fill(out);
        });
    }

    /// Appends bytes that the peer may send on a stream.
    ///
    /// # Panics
    /// When credits were not negotiated.
    pub fn credit(&mut self, out: &mut Vec<u8>, id: u64, bytes: u64) {
        let mut payload = Uvarints::default();
        payload.push(bytes);
        self.message(out, id, Kind::Credit, payload.as_slice());
    }

    /// The control frames.
    pub const fn control(&mut self) -> &mut websocket::Encoder {
        &mut self.frames
    }
}

/// The amount in a [`Kind::Credit`]; `None` when it is not one number.
pub fn read_credit(payload: &[u8]) -> Option<u64> {
    let (mut number, mut rest) = (Uvarint::default(), payload);
    let amount = number.read(&mut rest).ok()??;
    rest.is_empty().then_some(amount)
}

/// The two numbers before a payload, as far as they have arrived.
#[derive(Debug)]
struct Head {
    id: Option<u64>,
    number: Uvarint,
}

impl Head {
    const fn new() -> Self {
        Self {
            id: None,
            number: Uvarint { value: 0, bytes: 0 },
        }
    }

    fn read(&mut self, bytes: &mut &[u8]) -> Result<Option<(u64, u64)>, FrameError> {
        while let Some(number) = self.number.read(bytes)? {
            match self.id {
                None => self.id = Some(number),
                Some(id) => return Ok(Some((id, number))),
            }
        }
        Ok(None)
    }
}

/// Unsigned LEB128 of up to 10 bytes, as far as it has arrived.
#[derive(Debug, Default)]
struct Uvarint {
    value: u64,
    bytes: u32,
}

impl Uvarint {
    /// Takes bytes until the number is complete, and begins anew then.
    fn read(&mut self, bytes: &mut &[u8]) -> Result<Option<u64>, FrameError> {
        while let Some((&byte, rest)) = bytes.split_first() {
            *bytes = rest;
            // The tenth byte has room for one bit.
            if self.bytes == 9 && byte > 1 {
                return Err(FrameError::Varint);
            }
            self.value |= u64::from(byte & 0x7f) << (7 * self.bytes);
            self.bytes += 1;
            if byte & 0x80 == 0 {
                return Ok(Some(std::mem::take(self).value));
            }
        }
        Ok(None)
    }
}

/// Up to two numbers as they are written.
#[derive(Default)]
struct Uvarints {
    bytes: [u8; MAX_HEAD],
    length: usize,
}

impl Uvarints {
    fn push(&mut self, mut value: u64) {
        loop {
            let low = (value & 0x7f) as u8;
            value >>= 7;
            self.bytes[self.length] = if value == 0 { low } else { low | 0x80 };
            self.length += 1;
            if value == 0 {
                return;
            }
        }
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Two numbers of 10 bytes each.
const MAX_HEAD: usize = 20;
/// Edges v1.14 to v1.23.1 panic on this type and all after it.
const FIRST_UNKNOWN_TO_GO: u64 = 7;
const FIRST_NEGOTIATED: u64 = 64;
