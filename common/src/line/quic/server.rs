//! The cloud's side: a UDP port, and the greeting of who comes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proto::quic::{ALPN, Hello, MAX_GREETING, Welcome, greeting, parse_greeting};
use proto::{Lane, MAX_MESSAGE};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    Connecting, Connection, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, ValidationTokenConfig, VarInt,
};
use rustls_pki_types::CertificateDer;
use tokio::time::timeout;

use super::{Farewell, LineError, QuicError, QuicLine, Stream, connection_error, frame_error, transport};

/// One socket serves all edges: what the kernel keeps for us while we are busy. It gives what it may.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// Connections that wait to be accepted, with those that wait for a place; more are not answered.
const WAITING: usize = 2 * crate::places::WAITING;
/// How long a refused edge may take to read why.
const PARTING: Duration = Duration::from_secs(2);

/// Opens the port. A connection is accepted by [`greet`].
pub fn listen(address: SocketAddr, mut tls: rustls::ServerConfig) -> Result<Endpoint, QuicError> {
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    let mut transport = transport();
    transport.max_concurrent_bidi_streams(VarInt::from(2u32));
    let mut tokens = ValidationTokenConfig::default();
    // For clients that come again soon; an edge stays.
    tokens.sent(0);
    config
        .transport_config(Arc::new(transport))
        .validation_token_config(tokens)
        .max_incoming(WAITING)
        .migration(true);
    let socket = crate::listen::udp(address)?;
    let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER);
    let endpoint = Endpoint::new(EndpointConfig::default(), Some(config), socket, Arc::new(TokioRuntime))?;
    Ok(endpoint)
}

/// Someone with a good certificate who has said hello.
pub struct Guest {
    connection: Connection,
    urgent: Stream,
    bulk: Stream,
    /// What was said.
    pub hello: Hello,
}

/// Shakes hands and hears the hello. Between the two `known` is called: the certificate is good.
pub async fn greet(connecting: Connecting, known: impl FnOnce()) -> Result<Guest, LineError> {
    let connection = connecting.await.map_err(connection_error)?;
    known();
    let (send, receive) = connection.accept_bi().await.map_err(connection_error)?;
    let mut urgent = Stream::new(send, receive, Lane::Urgent, MAX_GREETING);
    let hello = parse_greeting(&urgent.read().await?).map_err(frame_error)?;
    urgent.frames.set_limit(MAX_MESSAGE);
    let (send, receive) = connection.accept_bi().await.map_err(connection_error)?;
    let bulk = Stream::new(send, receive, Lane::Bulk, MAX_MESSAGE);
    Ok(Guest {
        connection,
        urgent,
        bulk,
        hello,
    })
}

impl Guest {
    /// The client's certificate.
    pub fn certificate(&self) -> Option<CertificateDer<'static>> {
        let identity = self.connection.peer_identity()?;
        let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        chain.into_iter().next()
    }

    /// Lets the edge in.
    pub async fn admit(mut self, welcome: &Welcome) -> Result<QuicLine, LineError> {
        self.urgent.write(&greeting(welcome)).await?;
        Ok(QuicLine {
            connection: self.connection,
            urgent: self.urgent,
            bulk: self.bulk,
        })
    }

    /// Says why not, and closes once that has been read.
    pub async fn refuse(mut self, welcome: &Welcome) {
        if self.urgent.write(&greeting(welcome)).await.is_ok() {
            let _ = timeout(PARTING, self.connection.closed()).await;
        }
        let code = VarInt::from(u32::from(Farewell::policy("").code));
        self.connection.close(code, b"refused");
    }
}
