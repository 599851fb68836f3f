//! The frames of RFC 6455 as the tunnel uses them: no extensions, contents never checked for UTF-8 although the opcode is text.
//!
//! Payloads are handed out in pieces as they arrive, unmasked in place: a frame of any size costs no buffer.

use thiserror::Error;

use super::Role;

/// The largest payload of a control frame.
pub const MAX_CONTROL: usize = 125;

/// Why a tunnel cannot be read any further.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FrameError {
    /// A bit of an extension that nobody negotiated.
    #[error("a frame has reserved bits")]
    Reserved,
    /// An opcode that does not exist.
    #[error("a frame has opcode {0:#x}")]
    Opcode(u8),
    /// A client's frame without mask, or a server's with one.
    #[error("a frame is masked although the sender must not, or not although it must")]
    Mask,
    /// A ping, pong or close that is fragmented or too long.
    #[error("a control frame is fragmented or longer than {MAX_CONTROL} bytes")]
    Control,
    /// A continuation of nothing, or a new message inside another.
    #[error("the fragments of a message are out of order")]
    Fragments,
    /// A message over the limit.
    #[error("a message of {0} bytes is over the limit")]
    TooLarge(u64),
    /// A message that ends within its own head.
    #[error("a message is empty or its head is cut short")]
    Truncated,
    /// An id or a type of more than 64 bits.
    #[error("a number in the head of a message has more than 64 bits")]
    Varint,
}

impl FrameError {
    /// The code for the close frame (RFC 6455 §7.4.1).
    pub const fn close_code(self) -> u16 {
        match self {
            Self::TooLarge(_) => 1009,
            _ => 1002,
        }
    }
}

/// A part of what was received.
#[derive(Debug)]
pub enum Piece<'a> {
    /// Bytes of a message, text or binary.
    Data {
        /// They may be none at the end of a message.
        bytes: &'a [u8],
        /// Whether the message ends with them.
        last: bool,
    },
    /// To be answered with the same payload.
    Ping(Vec<u8>),
    /// The answer to a ping.
    Pong(Vec<u8>),
    /// The peer ends the connection.
    Close {
        /// Why, as a number.
        code: Option<u16>,
        /// Why, in words.
        reason: String,
    },
}

/// Reads frames from bytes in whatever portions they arrive.
#[derive(Debug)]
pub struct Decoder {
    /// Whether the peer is a client.
    masked: bool,
    /// Of a message, in bytes.
    limit: u64,
    head: [u8; MAX_HEAD],
    have: usize,
    frame: Option<Frame>,
    /// Bytes of the message whose fragments are arriving.
    message: Option<u64>,
    control: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: u8,
    last: bool,
    remaining: u64,
    mask: [u8; 4],
}

impl Decoder {
    /// For the given side, with messages of up to `limit` bytes.
    pub const fn new(role: Role, limit: u64) -> Self {
        Self {
            masked: matches!(role, Role::Cloud),
            limit,
            head: [0; MAX_HEAD],
            have: 0,
            frame: None,
            message: None,
            control: Vec::new(),
        }
    }

    /// The next piece; `None` when `input` is used up.
    ///
    /// # Errors
    /// What the peer must not send. Nothing after it can be read.
    pub fn next<'a>(&mut self, input: &mut &'a mut [u8]) -> Result<Option<Piece<'a>>, FrameError> {
        loop {
            let Some(mut frame) = self.frame else {
                if self.read_head(input)? {
                    continue;
                }
                return Ok(None);
            };
            let take = usize::try_from(frame.remaining).map_or(input.len(), |remaining| remaining.min(input.len()));
            if take == 0 && frame.remaining > 0 {
                return Ok(None);
            }
            let (bytes, rest) = std::mem::take(input).split_at_mut(take);
            *input = rest;
            if self.masked {
                apply_mask(bytes, frame.mask);
                frame.mask.rotate_left(take % 4);
            }
            frame.remaining -= take as u64;
            let complete = frame.remaining == 0;
            self.frame = (!complete).then_some(frame);
            if frame.opcode & CONTROL != 0 {
                self.control.extend_from_slice(bytes);
                if complete {
                    return Ok(Some(control(frame.opcode, std::mem::take(&mut self.control))));
                }
                continue;
            }
            let last = complete && frame.last;
            if last {
                self.message = None;
            }
            if last || !bytes.is_empty() {
                return Ok(Some(Piece::Data { bytes, last }));
            }
        }
    }

    /// Collects the head of a frame; whether it is complete.
    fn read_head(&mut self, input: &mut &mut [u8]) -> Result<bool, FrameError> {
        loop {
            let need = self.head_length();
            if self.have == need {
                self.frame = Some(self.parse_head()?);
                self.have = 0;
                return Ok(true);
            }
            let take = (need - self.have).min(input.len());
            if take == 0 {
                return Ok(false);
            }
            let (bytes, rest) = std::mem::take(input).split_at_mut(take);
            *input = rest;
            self.head[self.have..self.have + take].copy_from_slice(bytes);
            self.have += take;
        }
    }

    /// As far as the bytes so far tell.
    const fn head_length(&self) -> usize {
        if self.have < 2 {
            return 2;
        }
        let length = match self.head[1] & LENGTH {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if self.head[1] & MASKED == 0 { 0 } else { 4 }
    }

    fn parse_head(&mut self) -> Result<Frame, FrameError> {
        let [first, second, rest @ ..] = self.head;
        if first & RESERVED != 0 {
            return Err(FrameError::Reserved);
        }
        if (second & MASKED != 0) != self.masked {
            return Err(FrameError::Mask);
        }
        let (opcode, last) = (first & OPCODE, first & FINAL != 0);
        let (length, after) = match second & LENGTH {
            126 => (u64::from(u16::from_be_bytes([rest[0], rest[1]])), 2),
            127 => {
                let [a, b, c, d, e, f, g, h, ..] = rest;
                (u64::from_be_bytes([a, b, c, d, e, f, g, h]), 8)
            }
            short => (u64::from(short), 0),
        };
        match opcode {
            CONTINUATION if self.message.is_none() => return Err(FrameError::Fragments),
            TEXT | BINARY if self.message.is_some() => return Err(FrameError::Fragments),
            CONTINUATION | TEXT | BINARY => {
                let total = self.message.unwrap_or(0).saturating_add(length);
                if total > self.limit {
                    return Err(FrameError::TooLarge(total));
                }
                self.message = Some(total);
            }
            CLOSE | PING | PONG => {
                if !last || length > MAX_CONTROL as u64 {
                    return Err(FrameError::Control);
                }
            }
            other => return Err(FrameError::Opcode(other)),
        }
        let mut mask = [0; 4];
        if self.masked {
            mask.copy_from_slice(&rest[after..after + 4]);
        }
        Ok(Frame {
            opcode,
            last,
            remaining: length,
            mask,
        })
    }
}

/// Writes frames.
#[derive(Debug)]
pub struct Encoder {
    masks: Option<Masks>,
}

impl Encoder {
    /// For the given side. `seed` is where an edge's masks begin; below TLS they protect nothing, so they need not be strong.
    pub fn new(role: Role, seed: u64) -> Self {
        Self {
            masks: (role == Role::Edge).then_some(Masks(seed)),
        }
    }

    /// Appends a message in one text frame; `fill` appends its `length` bytes.
    pub(super) fn text(&mut self, out: &mut Vec<u8>, length: usize, fill: impl FnOnce(&mut Vec<u8>)) {
        self.frame(out, TEXT, length, fill);
    }

    /// Appends a ping. What is over [`MAX_CONTROL`] is left out.
    pub fn ping(&mut self, out: &mut Vec<u8>, payload: &[u8]) {
        self.control(out, PING, payload);
    }

    /// Appends the answer to a ping. What is over [`MAX_CONTROL`] is left out.
    pub fn pong(&mut self, out: &mut Vec<u8>, payload: &[u8]) {
        self.control(out, PONG, payload);
    }

    /// Appends a close frame. What is over [`MAX_CONTROL`] is left out.
    pub fn close(&mut self, out: &mut Vec<u8>, code: u16, reason: &str) {
        let mut end = reason.len().min(MAX_CONTROL - 2);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let payload = [&code.to_be_bytes(), &reason.as_bytes()[..end]].concat();
        self.control(out, CLOSE, &payload);
    }

    fn control(&mut self, out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
        let payload = &payload[..payload.len().min(MAX_CONTROL)];
        self.frame(out, opcode, payload.len(), |out| out.extend_from_slice(payload));
    }

    fn frame(&mut self, out: &mut Vec<u8>, opcode: u8, length: usize, fill: impl FnOnce(&mut Vec<u8>)) {
        out.reserve(MAX_HEAD + length);
        out.push(FINAL | opcode);
        let masked = if self.masks.is_some() { MASKED } else { 0 };
        match u8::try_from(length) {
            Ok(short @ ..126) => out.push(masked | short),
            _ => match u16::try_from(length) {
                Ok(length) => {
                    out.push(masked | 126);
                    out.extend_from_slice(&length.to_be_bytes());
                }
                Err(_) => {
                    out.push(masked | 127);
                    out.extend_from_slice(&(length as u64).to_be_bytes());
                }
            },
        }
        let mask = self.masks.as_mut().map(Masks::next);
        if let Some(mask) = mask {
            out.extend_from_slice(&mask);
        }
        let start = out.len();
        fill(out);
        assert_eq!(out.len() - start, length, "a frame holds what its head says");
        if let Some(mask) = mask {
            apply_mask(&mut out[start..], mask);
        }
    }
}

/// SplitMix64.
#[derive(Debug)]
struct Masks(u64);

impl Masks {
    fn next(&mut self) -> [u8; 4] {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let [a, b, c, d, ..] = (z ^ (z >> 31)).to_ne_bytes();
        [a, b, c, d]
    }
}

/// Eight bytes at a time: this runs over everything that an edge sends.
fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

fn control<'a>(opcode: u8, payload: Vec<u8>) -> Piece<'a> {
    match opcode {
        PING => Piece::Ping(payload),
        PONG => Piece::Pong(payload),
        _ => match payload.split_at_checked(2) {
            Some((code, reason)) => Piece::Close {
                code: <[u8; 2]>::try_from(code).ok().map(u16::from_be_bytes),
                reason: String::from_utf8_lossy(reason).into_owned(),
            },
            None => Piece::Close {
                code: None,
                reason: String::new(),
            },
        },
    }
}

const MAX_HEAD: usize = 14;
const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;
const CONTROL: u8 = 0x8;
const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
