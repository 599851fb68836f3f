//! A connection over QUIC (wire: [`proto::quic`]): one stream for each lane, the urgent one of higher priority, so that what is urgent
//! waits for no more than the packet that is being sent, and is not held up by the loss of another lane's packet.

mod client;
mod server;

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use proto::Lane;
use proto::quic::{BadFrame, Frames, frame};
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, TransportConfig, VarInt, WriteError};
use thiserror::Error;
use tokio::time::Instant;

use super::{Farewell, Line, LineError, Received};

pub use client::{DialError, Path, dial, end_of_route};
pub use server::{Guest, greet, listen};

/// A connection on which nothing came for so long is over.
pub const IDLE: Duration = Duration::from_secs(20);

/// Bytes of a stream under way. Both sides are ours, so this also bounds what a sender keeps of a lane: with [`SENDING`] above it, a
/// bulk lane that is full leaves room for the urgent one. 1 MiB is 40 Mbit/s at 200 ms.
const STREAM: u32 = 1024 * 1024;
/// Bytes of a connection that a sender keeps until they have arrived.
const SENDING: u64 = 2 * 1024 * 1024;
/// Bytes that are read from a stream at once, on the stack.
const READ: usize = 4096;

/// Why no QUIC can be spoken.
#[derive(Debug, Error)]
pub enum QuicError {
    /// The TLS configuration has no cipher suite that QUIC needs.
    #[error("the TLS configuration does not do for QUIC")]
    Tls(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
    /// The port cannot be had.
    #[error("no UDP socket")]
    Socket(#[from] std::io::Error),
}

/// See the module.
pub struct QuicLine {
    connection: Connection,
    urgent: Stream,
    bulk: Stream,
}

/// One lane.
struct Stream {
    send: SendStream,
    receive: RecvStream,
    frames: Frames,
    outgoing: Bytes,
    stalled: Option<Instant>,
}

impl Line for QuicLine {
    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        next: &mut dyn FnMut(Lane) -> Option<String>,
    ) -> Result<(), LineError> {
        self.urgent.poll_write(context, &mut || next(Lane::Urgent))?;
        self.bulk.poll_write(context, &mut || next(Lane::Bulk))
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<Received, LineError>> {
        if let Poll::Ready(received) = self.urgent.poll_read(context) {
            return Poll::Ready(received.map(Received::Message));
        }
        self.bulk.poll_read(context).map_ok(Received::Message)
    }

    /// QUIC asks by itself: the edge every few seconds.
    fn ping(&mut self) -> Result<(), LineError> {
        Ok(())
    }

    fn stalled(&self) -> Option<Instant> {
        let (urgent, bulk) = (self.urgent.stalled, self.bulk.stalled);
        urgent.into_iter().chain(bulk).min()
    }

    fn heard(&self) -> u64 {
        self.connection.stats().udp_rx.datagrams
    }

    fn close(&mut self, Farewell { code, reason }: Farewell) -> BoxFuture<'_, ()> {
        self.connection.close(VarInt::from(u32::from(code)), reason.as_bytes());
        std::future::ready(()).boxed()
    }
}

impl Stream {
    fn new(send: SendStream, receive: RecvStream, lane: Lane, limit: usize) -> Self {
        // Only a stream that has ended has no priority any more.
        let _ = send.set_priority(i32::from(lane == Lane::Urgent));
        Self {
            send,
            receive,
            frames: Frames::new(limit),
            outgoing: Bytes::new(),
            stalled: None,
        }
    }

    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        next: &mut dyn FnMut() -> Option<String>,
    ) -> Result<(), LineError> {
        loop {
            if self.outgoing.is_empty() {
                match next() {
                    Some(text) => self.outgoing = frame(&text),
                    None => return Ok(()),
                }
            }
            match Pin::new(&mut self.send).poll_write(context, &self.outgoing) {
                Poll::Ready(written) => {
                    self.outgoing.advance(written.map_err(write_error)?);
                    self.stalled = None;
                }
                Poll::Pending => {
                    self.stalled.get_or_insert_with(Instant::now);
                    return Ok(());
                }
            }
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<Vec<u8>, LineError>> {
        let mut buffer = [0; READ];
        loop {
            // No more than to the end of the frame: nothing is left over to be kept.
            let wanted = self.frames.wanted().min(READ);
            let Some(room) = buffer.get_mut(..wanted) else {
                return Poll::Pending;
            };
            let count = match self.receive.poll_read(context, room) {
                Poll::Ready(count) => count.map_err(read_error)?,
                Poll::Pending => return Poll::Pending,
            };
            if count == 0 {
                return Poll::Ready(Err(LineError::Closed(String::new())));
            }
            let mut bytes = room.get(..count).unwrap_or_default();
            if let Some(payload) = self.frames.next(&mut bytes).map_err(frame_error)? {
                return Poll::Ready(Ok(payload));
            }
        }
    }

    /// The next frame, for the greetings.
    async fn read(&mut self) -> Result<Vec<u8>, LineError> {
        std::future::poll_fn(|context| self.poll_read(context)).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), LineError> {
        self.send.write_all(bytes).await.map_err(write_error)
    }
}

/// What both sides set.
fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_uni_streams(VarInt::from(0u32))
        .stream_receive_window(VarInt::from(STREAM))
        .receive_window(VarInt::from(2 * STREAM))
        .send_window(SENDING)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(IDLE.try_into().ok());
    transport
}

fn frame_error(error: BadFrame) -> LineError {
    match error {
        BadFrame::TooLarge { length, limit } => LineError::TooLarge { size: length, limit },
        error @ BadFrame::Greeting(_) => LineError::Malformed(error.into()),
    }
}

fn connection_error(error: ConnectionError) -> LineError {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let words = String::from_utf8_lossy(&close.reason);
            LineError::Closed(words.chars().filter(|c| !c.is_control()).take(200).collect())
        }
        error => LineError::Broken(error.into()),
    }
}

fn read_error(error: ReadError) -> LineError {
    match error {
        ReadError::ConnectionLost(error) => connection_error(error),
        ReadError::Reset(_) => LineError::Closed(String::new()),
        error => LineError::Broken(error.into()),
    }
}

fn write_error(error: WriteError) -> LineError {
    match error {
        WriteError::ConnectionLost(error) => connection_error(error),
        WriteError::Stopped(_) => LineError::Closed(String::new()),
        error => LineError::Broken(error.into()),
    }
}
