//! gRPC over Unix sockets from Go: a stream in front of an HTTP/2 server that makes the clients' `:authority` acceptable.
//!
//! grpc-go takes the path of the socket for the authority, percent-encoded since 1.6x and bare before; the `h2` crate refuses both and
//! resets each request (spec 03 §5). What such a client sends passes through [`Tolerant`], which changes nothing but the text of an
//! authority that is none: each byte that cannot be in one becomes `-`. The text keeps its length, so the client's and the server's
//! header tables stay the same size, entry by entry, and nothing has to be remembered from one request to the next.
//!
//! What cannot be read passes as it is: the server behind is the one to refuse it. Memory is bounded by [`MAX_BLOCK`].

mod frames;
mod hpack;
#[cfg(test)]
mod tests;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub use frames::Filter;

/// The largest block of headers that is looked into. Servers take less.
pub const MAX_BLOCK: usize = 64 * 1024;
/// Bytes that are read at once.
const PIECE: usize = 4096;

/// A client's stream, with an authority that a server accepts.
#[derive(Debug)]
pub struct Tolerant<T> {
    stream: T,
    filter: Filter,
    ready: BytesMut,
}

impl<T> Tolerant<T> {
    /// Around a stream of which nothing was read yet.
    pub fn new(stream: T) -> Self {
        Self {
            stream,
            filter: Filter::default(),
            ready: BytesMut::new(),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Tolerant<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.ready.is_empty() {
            let mut piece = [0; PIECE];
            let mut read = ReadBuf::new(&mut piece);
            std::task::ready!(Pin::new(&mut this.stream).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                this.filter.finish(&mut this.ready);
                break;
            }
            this.filter.push(read.filled(), &mut this.ready);
        }
        let length = this.ready.len().min(buffer.remaining());
        buffer.put_slice(&this.ready.split_to(length));
        if !this.ready.has_remaining() {
            this.ready = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Tolerant<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
