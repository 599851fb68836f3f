//! One stream of a tunnel, for whoever serves or forwards it.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use proto::tunnel::{Connect, Key, Read};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::shared::{Shared, Side};

/// A stream that the cloud opened.
#[derive(Debug)]
pub struct Incoming {
    /// What it asks for.
    pub connect: Connect,
    /// Its bytes.
    pub stream: TunnelStream,
}

/// One stream. Reading ends when the peer has removed it and everything was read; it fails when the tunnel is lost or the stream was
/// ended at its cap. Shutting down or dropping it removes it, once: what was written before goes first. There is no half-close.
pub struct TunnelStream {
    shared: Arc<Shared>,
    key: Key,
    id: u64,
}

impl TunnelStream {
    pub(super) const fn new(shared: Arc<Shared>, key: Key, id: u64) -> Self {
        Self { shared, key, id }
    }

    /// Its number on the wire, for logs.
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Resolves when the stream is over, although bytes may still wait to be read: the peer removed it, it failed, or the tunnel is lost.
    /// One waits at a time.
    pub async fn over(&self) {
        std::future::poll_fn(|context| {
            self.shared.poll(self.key, Side::Watcher, context, |mux| {
                if mux.is_open(self.key) {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            })
        })
        .await;
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        self.shared.poll(self.key, Side::Reader, context, |mux| {
            let mut taken = false;
            // Small pieces of a Go peer come in blocks, a few of which fill a reader's buffer.
            loop {
                let count = match mux.read(self.key) {
                    Read::Bytes(bytes) => {
                        let count = bytes.len().min(buf.remaining());
                        buf.put_slice(&bytes[..count]);
                        count
                    }
                    _ if taken => return Poll::Ready(Ok(())),
                    Read::Wait => return Poll::Pending,
                    Read::End => return Poll::Ready(Ok(())),
                    Read::Failed(reason) => {
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, reason)));
                    }
                };
                mux.consume(self.key, count);
                taken = true;
                if buf.remaining() == 0 {
                    return Poll::Ready(Ok(()));
                }
            }
        })
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.shared.poll(self.key, Side::Writer, context, |mux| {
            match mux.write(self.key, bytes) {
                Some(0) if !bytes.is_empty() => Poll::Pending,
                Some(count) => Poll::Ready(Ok(count)),
                None => Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::BrokenPipe,
                    mux.ended().unwrap_or("the stream was removed"),
                ))),
            }
        })
    }

    /// Bytes go as soon as the tunnel can take them; nobody has to wait for that.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.with(|mux| mux.finish(self.key));
        Poll::Ready(Ok(()))
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        self.shared.release(self.key);
    }
}

impl fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelStream")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
