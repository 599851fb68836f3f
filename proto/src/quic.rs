//! The hub's channel over QUIC, between our own programs (Go's QUIC is another protocol of the same name, spec 01 §4.1).
//!
//! TLS 1.3 with [`ALPN`], the server's certificate and the node's as on the WebSocket. The edge opens two bidirectional streams, one
//! for each [`Lane`](crate::lanes::Lane): first the urgent one, then the bulk one. A stream carries frames both ways: four bytes of
//! length, big-endian, and as many bytes of JSON, at most [`MAX_MESSAGE`]. A frame of length 0 says nothing; with it the edge shows
//! the second stream. On the urgent stream the first frame of the edge is a [`Hello`] with the headers that a WebSocket upgrade has,
//! and the first one of the cloud a [`Welcome`], the answer to it; all further frames are messages. A connection that is ended on
//! purpose is closed with one of WebSocket's close codes and a reason in words.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::message::{DecodeError, MAX_MESSAGE};

/// The protocol's name in the TLS handshake.
pub const ALPN: &[u8] = b"kubeedge-hub/1";

/// [`Hello`] and [`Welcome`] are small: who is not known yet gets no memory.
pub const MAX_GREETING: usize = 8192;

/// Bytes of the length.
const LENGTH: usize = 4;

/// The most that is set aside before the bytes are there.
const AHEAD: usize = 64 * 1024;

/// What the edge says first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The headers of the upgrade (spec 01 §3.1), `X-KubeEdge-Features` among them.
    pub headers: BTreeMap<String, String>,
}

/// What the cloud answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// As the status of the answer to an upgrade: 101 when the edge is let in.
    pub status: u16,
    /// Why not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// The headers of the answer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

impl Welcome {
    /// The status of an edge that is let in.
    pub const ADMITTED: u16 = 101;
}

/// Why bytes are no frame.
#[derive(Debug, Error)]
pub enum BadFrame {
    /// Its length is over the limit.
    #[error("frame of {length} bytes is over the limit of {limit}")]
    TooLarge {
        /// What it says.
        length: usize,
        /// What may be.
        limit: usize,
    },
    /// A greeting that is none.
    #[error("frame is not a greeting")]
    Greeting(#[source] serde_json::Error),
}

impl From<BadFrame> for DecodeError {
    fn from(error: BadFrame) -> Self {
        match error {
            BadFrame::TooLarge { length, .. } => Self::TooLarge(length),
            BadFrame::Greeting(source) => Self::Json(source),
        }
    }
}

/// A frame that holds the text.
pub fn frame(text: &str) -> Bytes {
    // Senders' limits are far below 4 GiB. Beyond it the length would be too small, and the other side would refuse the frame.
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(LENGTH + text.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(text.as_bytes());
    frame.into()
}

/// A frame that holds a greeting.
pub fn greeting<T: Serialize>(greeting: &T) -> Bytes {
    // Strings and numbers: nothing in it can fail to serialise.
    frame(&serde_json::to_string(greeting).unwrap_or_default())
}

/// Reads a greeting.
pub fn parse_greeting<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, BadFrame> {
    serde_json::from_slice(payload).map_err(BadFrame::Greeting)
}

/// Finds the frames in the bytes of a stream. Between two frames it holds no memory.
#[derive(Debug)]
pub struct Frames {
    limit: usize,
    length: [u8; LENGTH],
    /// Bytes of the length that have come.
    head: usize,
    payload: Vec<u8>,
}

impl Default for Frames {
    fn default() -> Self {
        Self::new(MAX_MESSAGE)
    }
}

impl Frames {
    /// A reader of frames of at most `limit` bytes.
    pub const fn new(limit: usize) -> Self {
        Self {
            limit,
            length: [0; LENGTH],
            head: 0,
            payload: Vec::new(),
        }
    }

    /// From now on other frames are taken.
    pub const fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Bytes that complete the length or the frame, at least one: whoever reads no more has none left over.
    pub fn wanted(&self) -> usize {
        if self.head < LENGTH {
            return LENGTH - self.head;
        }
        let length = usize::try_from(u32::from_be_bytes(self.length)).unwrap_or(usize::MAX);
        length.saturating_sub(self.payload.len()).max(1)
    }

    /// Takes bytes until a frame is whole, and returns it; `None` when all were taken before that. Frames of length 0 are skipped.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<Vec<u8>>, BadFrame> {
        loop {
            while let Some(slot) = self.length.get_mut(self.head) {
                let Some((first, rest)) = bytes.split_first() else {
                    return Ok(None);
                };
                *slot = *first;
                *bytes = rest;
                self.head += 1;
            }
            let length = usize::try_from(u32::from_be_bytes(self.length)).unwrap_or(usize::MAX);
            if length > self.limit {
                let limit = self.limit;
                return Err(BadFrame::TooLarge { length, limit });
            }
            if length > 0 && self.payload.capacity() == 0 {
                self.payload.reserve_exact(length.min(AHEAD));
            }
            let missing = length.saturating_sub(self.payload.len());
            let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
            self.payload.extend_from_slice(taken);
            *bytes = rest;
            if self.payload.len() < length {
                return Ok(None);
            }
            self.head = 0;
            let payload = std::mem::take(&mut self.payload);
            if !payload.is_empty() {
                return Ok(Some(payload));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(frames: &mut Frames, mut bytes: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        while let Some(frame) = frames.next(&mut bytes).expect("good frames") {
            found.push(String::from_utf8_lossy(&frame).into_owned());
        }
        assert!(bytes.is_empty());
        found
    }

    #[test]
    fn frames_are_found_however_the_bytes_arrive() {
        let bytes = [frame("one"), frame(""), frame("two"), frame(&"x".repeat(70_000))].concat();
        let whole = read(&mut Frames::default(), &bytes);
        for size in [1, 3, 5, 4096] {
            let mut frames = Frames::default();
            let found: Vec<String> = bytes.chunks(size).flat_map(|chunk| read(&mut frames, chunk)).collect();
            assert_eq!(found, whole);
            assert_eq!(frames.wanted(), LENGTH);
        }
        assert_eq!(whole.len(), 3);
    }

    #[test]
    fn a_length_over_the_limit_gets_no_memory() {
        let mut frames = Frames::new(16);
        let error = frames.next(&mut &[0, 0, 0, 17, b'x'][..]).expect_err("too large");
        assert!(matches!(error, BadFrame::TooLarge { length: 17, limit: 16 }));
        assert_eq!(frames.payload.capacity(), 0);
        let mut frames = Frames::default();
        assert!(frames.next(&mut &[1, 0, 0, 0, b'x'][..]).expect("allowed").is_none());
        assert!(frames.payload.capacity() <= AHEAD);
    }

    #[test]
    fn greetings_come_back_as_they_were() {
        let hello = Hello {
            headers: [("Node_id".to_owned(), "edge-1".to_owned())].into(),
        };
        let bytes = greeting(&hello);
        assert_eq!(&bytes[LENGTH..], br#"{"headers":{"Node_id":"edge-1"}}"#);
        assert_eq!(parse_greeting::<Hello>(&bytes[LENGTH..]).expect("hello"), hello);
        let welcome: Welcome = parse_greeting(br#"{"status":101,"more":1}"#).expect("welcome");
        assert_eq!(welcome.status, Welcome::ADMITTED);
        assert!(parse_greeting::<Hello>(b"[]").is_err());
    }
}
