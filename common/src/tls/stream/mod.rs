//! The server's end of a TLS connection, made for connections that are idle most of the time.
//!
//! The records are the library's (`rustls::unbuffered`); what is ours is the bytes around them. tokio-rustls keeps 4 KB for what is
//! read next, a third of what an idle edge costs a cloud that has 100,000 of them. Here an idle connection keeps no buffer at all.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, InsufficientSizeError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[cfg(test)]
mod tests;

/// Bytes that are read at once.
const READ: usize = 4096;
/// Bytes that are encrypted at once: one record.
const WRITE: usize = 16 * 1024;
/// What a record needs beyond its content.
const OVERHEAD: usize = 128;
/// Bytes that may wait for the rest of their record or handshake message; the library's own limit for both is 64 KB.
const WAITING: usize = 80 * 1024;

/// See the module. `S` is the connection below.
pub struct ServerStream<S> {
    io: S,
    connection: UnbufferedServerConnection,
    /// Of records that are not complete.
    incoming: Vec<u8>,
    /// Decrypted, not read yet.
    plaintext: BytesMut,
    /// Encrypted, not sent yet; the first `sent` bytes are.
    outgoing: Vec<u8>,
    sent: usize,
    /// The peer has said that it says no more.
    ended: bool,
    /// So have we.
    closed: bool,
}

/// What the connection waits for when all that came has been looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    Handshake,
    Traffic,
    /// Both sides have closed.
    Nothing,
}

/// What is to be encrypted.
#[derive(Clone, Copy)]
enum Say<'a> {
    Nothing,
    Data(&'a [u8]),
    Close,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ServerStream<S> {
    /// Waits for the client's handshake. `InvalidData` when the client, its certificate as a rule, is refused; it was told then.
    pub async fn accept(config: Arc<ServerConfig>, io: S) -> io::Result<Self> {
        let mut stream = Self {
            io,
            connection: UnbufferedServerConnection::new(config).map_err(io::Error::other)?,
            incoming: Vec::new(),
            plaintext: BytesMut::new(),
            outgoing: Vec::new(),
            sent: 0,
            ended: false,
            closed: false,
        };
        std::future::poll_fn(|context| stream.poll_handshake(context)).await?;
        Ok(stream)
    }

    /// The client's certificate and what it sent with it.
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.connection.peer_certificates()
    }

    fn poll_handshake(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let waits = self.advance(context, Say::Nothing)?;
            let sent = self.poll_send(context)?;
            match waits {
                Waits::Traffic => {
                    ready!(sent);
                    return Poll::Ready(Ok(()));
                }
                // Receiving goes on even while the peer takes nothing of ours: it may be waiting for us to read first.
                Waits::Handshake => ready!(self.poll_receive(context))?,
                Waits::Nothing => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            }
        }
    }

    /// Looks at what came. An error is told to the peer, as far as the connection takes it at once.
    fn advance(&mut self, context: &mut Context<'_>, say: Say<'_>) -> io::Result<Waits> {
        self.process(say).map_err(|error| {
            // Called with the same bytes as before, because the library keeps offsets into them; it gives the alert for the peer.
            let status = self.connection.process_tls_records(&mut self.incoming);
            if let Ok(ConnectionState::EncodeTlsData(mut state)) = status.state {
                let _ = append(&mut self.outgoing, OVERHEAD, |space| {
                    state.encode(space).map_err(Needs::from)
                });
            }
            let _ = self.poll_send(context);
            io::Error::new(io::ErrorKind::InvalidData, error)
        })
    }

    fn process(&mut self, say: Say<'_>) -> Result<Waits, rustls::Error> {
        loop {
            let status = self.connection.process_tls_records(&mut self.incoming);
            let mut discard = status.discard;
            let handled = match status.state {
                Ok(ConnectionState::ReadTraffic(mut state)) => loop {
                    match state.next_record() {
                        None => break Ok(None),
                        Some(Err(error)) => break Err(error),
                        Some(Ok(record)) => {
                            discard += record.discard;
                            self.plaintext.extend_from_slice(record.payload);
                        }
                    }
                },
                Ok(ConnectionState::EncodeTlsData(mut state)) => append(&mut self.outgoing, OVERHEAD, |space| {
                    state.encode(space).map_err(Needs::from)
                })
                .map(|()| None),
                Ok(ConnectionState::TransmitTlsData(state)) => {
                    // The bytes are in `outgoing` already, in the right order.
                    state.done();
                    Ok(None)
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.ended = true;
                    Ok(None)
                }
                Ok(ConnectionState::Closed) => Ok(Some(Waits::Nothing)),
                Ok(ConnectionState::BlockedHandshake) => Ok(Some(Waits::Handshake)),
                Ok(ConnectionState::WriteTraffic(mut state)) => match say {
                    Say::Nothing => Ok(()),
                    Say::Data(data) => append(&mut self.outgoing, data.len() + OVERHEAD, |space| {
                        state.encrypt(data, space).map_err(Needs::from)
                    }),
                    Say::Close => append(&mut self.outgoing, OVERHEAD, |space| {
                        state.queue_close_notify(space).map_err(Needs::from)
                    }),
                }
                .map(|()| Some(Waits::Traffic)),
                // Never offered to clients.
                Ok(_) => Err(rustls::Error::General("unexpected state of TLS".to_owned())),
                Err(error) => Err(error),
            };
            self.incoming.drain(..discard.min(self.incoming.len()));
            if self.incoming.is_empty() {
                self.incoming = Vec::new();
            }
            match handled? {
                // Some servers may speak before the client's last word.
                Some(Waits::Traffic) if self.connection.is_handshaking() => return Ok(Waits::Handshake),
                Some(waits) => return Ok(waits),
                None => {}
            }
        }
    }

    /// Sends what is encrypted.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.outgoing.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let sent = ready!(Pin::new(&mut self.io).poll_write(context, rest))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += sent;
        }
        (self.outgoing, self.sent) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// Reads some more.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [MaybeUninit::uninit(); READ];
        let mut space = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(context, &mut space))?;
        if space.filled().is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        if self.incoming.len() > WAITING {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a TLS message is too large",
            )));
        }
        self.incoming.extend_from_slice(space.filled());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ServerStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.plaintext.is_empty() {
                let length = this.plaintext.len().min(buffer.remaining());
                buffer.put_slice(this.plaintext.get(..length).unwrap_or_default());
                this.plaintext.advance(length);
                if this.plaintext.is_empty() {
                    this.plaintext = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            // Reading may have made something to say: new keys.
            let _ = this.poll_send(context)?;
            ready!(this.poll_receive(context))?;
            this.advance(context, Say::Nothing)?;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ServerStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_send(context))?;
        let data = data.get(..WRITE).unwrap_or(data);
        if this.closed || this.advance(context, Say::Data(data))? != Waits::Traffic {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let _ = this.poll_send(context)?;
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closed {
            self.closed = true;
            self.advance(context, Say::Close)?;
        }
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// Why something was not written.
enum Needs {
    Space(usize),
    Failed(rustls::Error),
}

impl From<EncodeError> for Needs {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(InsufficientSizeError { required_size }) => Self::Space(required_size),
            EncodeError::AlreadyEncoded => Self::Failed(rustls::Error::General(error.to_string())),
        }
    }
}

impl From<EncryptError> for Needs {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(InsufficientSizeError { required_size }) => Self::Space(required_size),
            EncryptError::EncryptExhausted => Self::Failed(rustls::Error::EncryptError),
        }
    }
}

/// Appends what `write` writes; `size` is a guess at how much that is.
fn append(
    outgoing: &mut Vec<u8>,
    size: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Needs>,
) -> Result<(), rustls::Error> {
    let start = outgoing.len();
    let mut size = size;
    loop {
        outgoing.resize(start + size, 0);
        let written = write(outgoing.get_mut(start..).unwrap_or_default());
        outgoing.truncate(start + written.as_ref().copied().unwrap_or_default());
        match written {
            Ok(_) => return Ok(()),
            Err(Needs::Space(required)) if required > size => size = required,
            Err(Needs::Space(_)) => return Err(rustls::Error::EncryptError),
            Err(Needs::Failed(error)) => return Err(error),
        }
    }
}
