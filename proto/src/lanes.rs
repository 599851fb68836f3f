//! Which messages go ahead of which, and how a WebSocket lets them.
//!
//! A link of 1 Mbit/s carries a message of 30 MB for four minutes: what tells that the other side is there must not wait behind it.
//! Over QUIC each lane is a stream (see [`crate::quic`]). Over WebSocket, where nothing may come between the frames of one message, a
//! large message of the bulk lane is cut into binary messages, its pieces, between which urgent text messages find their place. Go
//! peers know no pieces: they announce no `lanes/1`, and only pings go between the fragments of what they are sent.

use bytes::{Buf as _, Bytes};
use thiserror::Error;

use crate::message::{MAX_MESSAGE, Message};
use crate::route::Kind;
use crate::words::Operation;

/// The first byte of a piece that others follow.
const MORE: u8 = 1;
/// The first byte of the last piece.
const LAST: u8 = 0;

/// An urgent message is small, or it would be bulk itself.
const MAX_URGENT: usize = 3072;

/// Messages keep their order within a lane.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Lane {
    /// Keepalives, acknowledgements, leases: signs of life. None of them says anything about an object that a message of the other
    /// lane is about, but that it has arrived; so they may overtake.
    Urgent,
    /// Everything else.
    Bulk,
}

impl Message {
    /// The lane that the message travels in.
    pub fn lane(&self) -> Lane {
        let content = self.content.get();
        let is_urgent = match self.operation {
            Operation::Keepalive | Operation::Error => true,
            Operation::Response if self.parent.is_some() && content == r#""OK""# => true,
            _ => self.route.kind() == Some(&Kind::Lease),
        };
        if is_urgent && content.len() <= MAX_URGENT {
            Lane::Urgent
        } else {
            Lane::Bulk
        }
    }
}

/// Cuts the next piece of at most `size` bytes of the message from what is left of it.
pub fn piece(rest: &mut Bytes, size: usize) -> Vec<u8> {
    let length = rest.len().min(size.max(1));
    let mut piece = Vec::with_capacity(length + 1);
    piece.push(if length < rest.len() { MORE } else { LAST });
    piece.extend_from_slice(rest.get(..length).unwrap_or_default());
    rest.advance(length);
    piece
}

/// Puts pieces together.
#[derive(Debug, Default)]
pub struct Pieces {
    collected: Vec<u8>,
}

/// Why a binary message is no piece.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadPiece {
    /// Together they are larger than [`MAX_MESSAGE`].
    #[error("message of more than {MAX_MESSAGE} bytes, in pieces")]
    TooLarge,
    /// It does not begin with 0 or 1.
    #[error("binary message that is no piece of another")]
    Form,
}

impl Pieces {
    /// Takes the next piece; returns the whole message after its last one.
    pub fn push(&mut self, piece: &[u8]) -> Result<Option<Vec<u8>>, BadPiece> {
        let (flag, bytes) = piece.split_first().ok_or(BadPiece::Form)?;
        if *flag > MORE {
            return Err(BadPiece::Form);
        }
        if self.collected.len() + bytes.len() > MAX_MESSAGE {
            return Err(BadPiece::TooLarge);
        }
        self.collected.extend_from_slice(bytes);
        Ok((*flag == LAST).then(|| std::mem::take(&mut self.collected)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Content, Group, ObjectPath, Source};

    fn message(operation: Operation, kind: Kind, content: Content) -> Message {
        let path = ObjectPath::new("a", kind, "b");
        Message::new(Source::Edged, Group::Resource, operation, path, content)
    }

    #[test]
    fn signs_of_life_are_urgent_and_objects_are_not() {
        let pod = message(Operation::Insert, Kind::Pod, Content::text("x"));
        assert_eq!(pod.lane(), Lane::Bulk);
        assert_eq!(Message::ack_of(&pod).lane(), Lane::Urgent);
        assert_eq!(Message::keepalive().lane(), Lane::Urgent);
        let lease = message(Operation::Update, Kind::Lease, Content::text("x"));
        assert_eq!(lease.lane(), Lane::Urgent);
        let answer = Message::answer_to(&pod, Source::EdgeController, Content::text("pod"));
        assert_eq!(answer.lane(), Lane::Bulk);
        let large = message(Operation::Update, Kind::Lease, Content::text(&"x".repeat(4000)));
        assert_eq!(large.lane(), Lane::Bulk);
    }

    #[test]
    fn pieces_make_the_message_again() -> Result<(), BadPiece> {
        for (length, size) in [(0, 4), (1, 4), (4, 4), (5, 4), (9, 4), (9, 100)] {
            let whole: Vec<u8> = (0..length).collect();
            let (mut rest, mut pieces, mut got) = (Bytes::from(whole.clone()), Pieces::default(), None);
            while got.is_none() {
                let piece = piece(&mut rest, size);
                assert!(piece.len() <= size + 1);
                got = pieces.push(&piece)?;
            }
            assert_eq!(got, Some(whole));
        }
        Ok(())
    }

    #[test]
    fn what_is_no_piece_or_too_much_is_refused() {
        let mut pieces = Pieces::default();
        assert_eq!(pieces.push(&[]), Err(BadPiece::Form));
        assert_eq!(pieces.push(b"{}"), Err(BadPiece::Form));
        let half = [&[MORE][..], &vec![b' '; MAX_MESSAGE / 2]].concat();
        assert_eq!(pieces.push(&half), Ok(None));
        assert_eq!(pieces.push(&half), Ok(None));
        assert_eq!(pieces.push(&half), Err(BadPiece::TooLarge));
    }
}
