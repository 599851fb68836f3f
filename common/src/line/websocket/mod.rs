//! A connection over WebSocket (spec 01 §3.2).
//!
//! A large message goes out in pieces of `PIECE` bytes, each flushed before the next: tungstenite's write buffer never shrinks, so it
//! must never grow; each piece that leaves shows that the other side still reads; and what is urgent waits for one piece at most. To a
//! Go peer the pieces are fragments of one message, which it puts together, and only pings find their place between them; between
//! our own programs (`lanes/1`) they are messages of their own, and urgent messages go between them. How many may be under way is
//! decided by `pace`.

mod pace;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, Sink as _, Stream as _};
use proto::lanes::{BadPiece, Pieces, piece};
use proto::{Lane, MAX_MESSAGE};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message as WsMessage};

use super::{Farewell, Line, LineError, Received};
use pace::Pace;

/// Bytes of one frame.
const PIECE: usize = 4096;

/// Bytes that the kernel holds beyond those under way: what is urgent waits behind them, a sixteenth of a second at 1 Mbit/s.
const UNSENT: u32 = 8 * 1024;

/// Buffers as small as they get: most connections are idle most of the time. They grow with a message and shrink after it.
pub fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(512)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

/// Sets a socket so that messages leave at once and few of them wait in the kernel. One without these options works as well.
pub fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT);
}

/// See the module. `S` is the stream below, which counts what is read from it.
pub struct WebSocketLine<S> {
    socket: WebSocketStream<Counted<S>>,
    /// Whether both sides know pieces.
    lanes: bool,
    /// What remains of the bulk message that is being written, and whether its first frame is out.
    outgoing: Option<(Bytes, bool)>,
    incoming: Pieces,
    /// While bulk is under way.
    pace: Option<Box<Pace>>,
    /// A ping that follows the last bulk frame.
    ping: Option<[u8; 4]>,
    stalled: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocketLine<S> {
    /// Takes a connection after its upgrade. `lanes`: both sides announced `lanes/1`.
    pub fn new(socket: WebSocketStream<Counted<S>>, lanes: bool) -> Self {
        Self {
            socket,
            lanes,
            outgoing: None,
            incoming: Pieces::default(),
            pace: None,
            ping: None,
            stalled: None,
        }
    }

    fn write(&mut self, message: WsMessage) -> Result<(), LineError> {
        self.stalled = Some(Instant::now());
        Pin::new(&mut self.socket).start_send(message).map_err(line_error)
    }

    /// The next frame of the bulk lane, if there is any and it may go.
    fn bulk(&mut self, next: &mut dyn FnMut(Lane) -> Option<String>) -> Option<WsMessage> {
        if let Some(ping) = self.ping.take() {
            return Some(WsMessage::Ping(Bytes::copy_from_slice(&ping)));
        }
        if self.pace.as_ref().is_some_and(|pace| pace.blocked().is_some()) {
            return None;
        }
        let (mut rest, continued) = match self.outgoing.take() {
            Some(outgoing) => outgoing,
            None => (Bytes::from(next(Lane::Bulk)?), false),
        };
        let frame = if self.lanes && (continued || rest.len() > PIECE) {
            WsMessage::Binary(piece(&mut rest, PIECE).into())
        } else {
            let opcode = OpCode::Data(if continued { Data::Continue } else { Data::Text });
            let fragment = rest.split_to(rest.len().min(PIECE));
            WsMessage::Frame(Frame::message(fragment, opcode, rest.is_empty()))
        };
        if !rest.is_empty() {
            self.outgoing = Some((rest, true));
        }
        self.ping = self.pace.get_or_insert_default().sent(Instant::now(), frame.len());
        Some(frame)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Line for WebSocketLine<S> {
    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        next: &mut dyn FnMut(Lane) -> Option<String>,
    ) -> Result<(), LineError> {
        loop {
            if self.stalled.is_some() {
                match Pin::new(&mut self.socket).poll_flush(context) {
                    Poll::Ready(flushed) => flushed.map_err(line_error)?,
                    Poll::Pending => return Ok(()),
                }
                self.stalled = None;
            }
            let between = self.lanes || self.outgoing.is_none();
            let urgent = between.then(|| next(Lane::Urgent)).flatten();
            let frame = match urgent {
                Some(text) => WsMessage::text(text),
                None => match self.bulk(next) {
                    Some(frame) => frame,
                    None => return Ok(()),
                },
            };
            self.write(frame)?;
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<Received, LineError>> {
        let Poll::Ready(frame) = Pin::new(&mut self.socket).poll_next(context) else {
            return Poll::Pending;
        };
        Poll::Ready(match frame {
            Some(Ok(WsMessage::Text(text))) => Ok(Received::Message(Bytes::from(text).into())),
            Some(Ok(WsMessage::Binary(piece))) if self.lanes => match self.incoming.push(&piece) {
                Ok(message) => Ok(message.map_or(Received::Sign, Received::Message)),
                Err(BadPiece::TooLarge) => Err(LineError::TooLarge {
                    size: MAX_MESSAGE + 1,
                    limit: MAX_MESSAGE,
                }),
                Err(error) => Err(LineError::Malformed(error.into())),
            },
            // Whatever a Go peer sends is taken as text (spec 01 §2.2).
            Some(Ok(WsMessage::Binary(bytes))) => Ok(Received::Message(bytes.into())),
            Some(Ok(WsMessage::Close(frame))) => {
                // The library has queued the answer to the close frame. If the socket does not take it now, it never will.
                let _ = Pin::new(&mut self.socket).poll_flush(context);
                let words = frame.map(|frame| frame.reason.chars().filter(|c| !c.is_control()).take(200).collect());
                Err(LineError::Closed(words.unwrap_or_default()))
            }
            Some(Ok(WsMessage::Pong(payload))) => {
                let done = |pace: &mut Box<Pace>| pace.answered(Instant::now(), &payload);
                if self.pace.as_mut().is_some_and(done) && self.outgoing.is_none() {
                    // Nothing is under way: the measurements are dropped. Most connections carry bulk rarely, and by the next time the line
                    // may have changed.
                    self.pace = None;
                }
                Ok(Received::Sign)
            }
            Some(Ok(WsMessage::Ping(_) | WsMessage::Frame(_))) => Ok(Received::Sign),
            Some(Err(error)) => Err(line_error(error)),
            None => Err(LineError::Closed(String::new())),
        })
    }

    fn ping(&mut self) -> Result<(), LineError> {
        if self.stalled.is_some() {
            return Ok(());
        }
        let asked = self.pace.as_ref().and_then(|pace| pace.unanswered());
        let payload = asked.map_or_else(Bytes::new, |number| Bytes::copy_from_slice(&number));
        self.write(WsMessage::Ping(payload))
    }

    fn stalled(&self) -> Option<Instant> {
        self.stalled.or_else(|| self.pace.as_ref()?.blocked())
    }

    fn heard(&self) -> u64 {
        self.socket.get_ref().read
    }

    fn close(&mut self, Farewell { code, reason }: Farewell) -> BoxFuture<'_, ()> {
        async move {
            let frame = CloseFrame {
                code: code.into(),
                reason: reason.into(),
            };
            // The other side finds out by itself when this does not arrive. After its own close frame only the answer is left to send.
            let _ = self.socket.close(Some(frame)).await;
        }
        .boxed()
    }
}

fn line_error(error: WsError) -> LineError {
    match error {
        WsError::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
            LineError::TooLarge { size, limit: max_size }
        }
        // A Go cloud ends sessions so, without a word.
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake)
        | WsError::ConnectionClosed
        | WsError::AlreadyClosed => LineError::Closed(String::new()),
        WsError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => LineError::Closed(String::new()),
        error @ (WsError::Protocol(_) | WsError::Utf8(_)) => LineError::Malformed(error.into()),
        error => LineError::Broken(error.into()),
    }
}

/// A stream that counts what is read from it.
#[derive(Debug)]
pub struct Counted<S> {
    stream: S,
    read: u64,
}

impl<S> Counted<S> {
    /// Counts from now on.
    pub const fn new(stream: S) -> Self {
        Self { stream, read: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        let count = buffer.filled().len().saturating_sub(before);
        self.read = self.read.wrapping_add(u64::try_from(count).unwrap_or(u64::MAX));
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
