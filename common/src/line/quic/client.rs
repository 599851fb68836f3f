//! The edge's side: dialling, and what becomes of the path while the board moves.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use proto::quic::{ALPN, Hello, MAX_GREETING, Welcome, frame, greeting, parse_greeting};
use proto::{Lane, MAX_MESSAGE};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, ConnectError, Connection, ConnectionError, Endpoint, VarInt};
use thiserror::Error;

use super::{Farewell, LineError, QuicError, QuicLine, Stream, connection_error, frame_error, transport};

/// The edge shows so often that it is there, when nothing else does: a path that is gone is found within two of it. About 5 MB a day.
pub(super) const PROBE: Duration = Duration::from_secs(2);

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum DialError {
    /// This side cannot speak QUIC.
    #[error(transparent)]
    Quic(#[from] QuicError),
    /// The name is none that a certificate could hold.
    #[error("no QUIC connection")]
    Connect(#[from] ConnectError),
    /// TLS refused, one way or the other.
    #[error("TLS over QUIC failed")]
    Tls(#[source] ConnectionError),
    /// Nobody answered, or not as our hubs do.
    #[error("no QUIC connection")]
    Line(#[from] LineError),
    /// The cloud does not let this node in.
    #[error("refused: {} {}", .0.status, .0.text)]
    Refused(Welcome),
}

/// What the connection's packets travel by. While it exists the connection does too.
#[derive(Clone, Debug)]
pub struct Path {
    endpoint: Endpoint,
    connection: Connection,
}

impl Path {
    /// Datagrams that came: a path that is alive shows it every few seconds.
    pub fn heard(&self) -> u64 {
        self.connection.stats().udp_rx.datagrams
    }

    /// The server's address.
    pub fn remote(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// Goes on from a new socket, and tells the server by a packet from there.
    pub fn rebind(&self) -> io::Result<()> {
        self.endpoint.rebind(unbound(self.remote())?)
    }
}

/// Connects as the node of the certificate in `tls`. The server's certificate must hold `name`.
pub async fn dial(
    remote: SocketAddr,
    name: &str,
    mut tls: rustls::ClientConfig,
    hello: &Hello,
) -> Result<(QuicLine, Welcome, Path), DialError> {
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).map_err(QuicError::from)?));
    let mut transport = transport();
    transport
        .max_concurrent_bidi_streams(VarInt::from(0u32))
        .keep_alive_interval(Some(PROBE));
    config.transport_config(Arc::new(transport));
    let endpoint = Endpoint::new(
        quinn::EndpointConfig::default(),
        None,
        unbound(remote).map_err(QuicError::from)?,
        Arc::new(quinn::TokioRuntime),
    );
    let endpoint = endpoint.map_err(QuicError::from)?;
    let connecting = endpoint.connect_with(config, remote, name)?;
    let connection = connecting.await.map_err(handshake_error)?;
    let opened = async {
        let (send, receive) = connection.open_bi().await.map_err(connection_error)?;
        let mut urgent = Stream::new(send, receive, Lane::Urgent, MAX_GREETING);
        urgent.write(&greeting(hello)).await?;
        let (send, receive) = connection.open_bi().await.map_err(connection_error)?;
        let mut bulk = Stream::new(send, receive, Lane::Bulk, MAX_MESSAGE);
        // An empty frame: the server learns of a stream only when something is sent on it.
        bulk.write(&frame("")).await?;
        let answer = urgent.read().await?;
        urgent.frames.set_limit(MAX_MESSAGE);
        Ok::<_, LineError>((urgent, bulk, answer))
    };
    let (urgent, bulk, answer) = opened.await.map_err(|error| match error {
        // With TLS 1.3 a refused client certificate shows after the handshake.
        LineError::Broken(source) => match source.downcast::<ConnectionError>() {
            Ok(error) => handshake_error(*error),
            Err(source) => DialError::Line(LineError::Broken(source)),
        },
        error => DialError::Line(error),
    })?;
    let welcome: Welcome = parse_greeting(&answer).map_err(frame_error)?;
    if welcome.status != Welcome::ADMITTED {
        connection.close(VarInt::from(u32::from(Farewell::NORMAL.code)), b"");
        return Err(DialError::Refused(welcome));
    }
    let path = Path {
        endpoint,
        connection: connection.clone(),
    };
    let line = QuicLine {
        connection,
        urgent,
        bulk,
    };
    Ok((line, welcome, path))
}

/// The address that this machine would use towards another, as its routes are now. Nothing is sent.
pub fn end_of_route(remote: SocketAddr) -> io::Result<IpAddr> {
    let socket = unbound(remote)?;
    socket.connect(remote)?;
    Ok(socket.local_addr()?.ip())
}

/// Bound to no address: the kernel takes the one that the route says, packet by packet.
fn unbound(remote: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match remote {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0))
}

fn handshake_error(error: ConnectionError) -> DialError {
    /// Alerts of TLS are the last 256 of QUIC's own error codes (RFC 9001 §4.8).
    const ALERTS: std::ops::Range<u64> = 0x100..0x200;
    let code = match &error {
        ConnectionError::TransportError(error) => Some(u64::from(error.code)),
        ConnectionError::ConnectionClosed(close) => Some(u64::from(close.error_code)),
        _ => None,
    };
    if code.is_some_and(|code| ALERTS.contains(&code)) {
        DialError::Tls(error)
    } else {
        DialError::Line(connection_error(error))
    }
}
