//! The ports of the hub: WebSocket (10000), QUIC (10001) and HTTPS for joining (10002).
//!
//! Owns the listeners and connections that have not said yet whose they are. Reads handshakes; emits sessions, once `admission` has let a
//! node in. Must not read messages: that is the session's.

mod admission;
pub(super) mod httpserver;
pub(super) mod quic;
pub(super) mod websocket;

use std::net::SocketAddr;
use std::time::Duration;

use common::tls::server::{ClientCertificates, ServerTlsError, client_verifier, server_config};
use tokio::net::TcpListener;

use super::{Shared, StartError};

/// How long TLS and what precedes the first message may take.
const HANDSHAKE: Duration = Duration::from_secs(15);

fn listen(what: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let error = |source| StartError::Listen { what, address, source };
    let listener = common::listen::tcp(address).map_err(error)?;
    let bound = listener.local_addr().map_err(error)?;
    Ok((listener, bound))
}

/// TLS for edges: a client certificate of their CA is required.
fn tls_config(shared: &Shared) -> Result<rustls::ServerConfig, ServerTlsError> {
    let verifier = client_verifier(shared.identity.ca().clone())?;
    server_config(
        shared.identity.server_certificate(),
        ClientCertificates::Required(verifier),
    )
}
