//! The socket of a session, written without waiting and in pieces.
//!
//! A message larger than [`FRAGMENT`] goes out as several frames: tungstenite's write buffer never shrinks, so it must never grow,
//! and each flushed piece shows that the edge still reads. Go edges reassemble (spec 01 §3.2).

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error as WsError, Message as WsMessage};

/// Bytes of one frame.
const FRAGMENT: usize = 4096;

pub(super) struct Line<S> {
    socket: WebSocketStream<S>,
    /// What remains of the message that is being written, and whether its first frame is out.
    outgoing: Option<(Bytes, bool)>,
    /// Since when the socket has not taken what was written last.
    stalled: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    pub(super) const fn new(socket: WebSocketStream<S>) -> Self {
        Self {
            socket,
            outgoing: None,
            stalled: None,
        }
    }

    /// Since when the socket takes nothing.
    pub(super) const fn stalled(&self) -> Option<Instant> {
        self.stalled
    }

    /// Writes as long as the socket takes it and `next` has messages.
    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        mut next: impl FnMut() -> Option<String>,
    ) -> Result<(), WsError> {
        loop {
            if self.stalled.is_some() {
                match Pin::new(&mut self.socket).poll_flush(context) {
                    Poll::Ready(flushed) => flushed?,
                    Poll::Pending => return Ok(()),
                }
                self.stalled = None;
            }
            let (mut rest, continued) = match self.outgoing.take() {
                Some(outgoing) => outgoing,
                None => match next() {
                    Some(text) => (Bytes::from(text), false),
                    None => return Ok(()),
                },
            };
            let piece = rest.split_to(rest.len().min(FRAGMENT));
            let last = rest.is_empty();
            if !last {
                self.outgoing = Some((rest, true));
            }
            let opcode = OpCode::Data(if continued { Data::Continue } else { Data::Text });
            self.write(WsMessage::Frame(Frame::message(piece, opcode, last)))?;
        }
    }

    pub(super) fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<WsMessage, WsError>>> {
        Pin::new(&mut self.socket).poll_next(context)
    }

    /// Asks whether the edge is there. An edge that does not take what was written before is not asked.
    pub(super) fn ping(&mut self) -> Result<(), WsError> {
        if self.stalled.is_some() {
            return Ok(());
        }
        self.write(WsMessage::Ping(Bytes::new()))
    }

    pub(super) const fn socket(&mut self) -> &mut WebSocketStream<S> {
        &mut self.socket
    }

    fn write(&mut self, message: WsMessage) -> Result<(), WsError> {
        self.stalled = Some(Instant::now());
        Pin::new(&mut self.socket).start_send(message)
    }
}
