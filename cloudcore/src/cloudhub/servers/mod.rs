//! The two ports of the hub.

pub(super) mod httpserver;
pub(super) mod websocket;

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::StartError;

async fn listen(what: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let error = |source| StartError::Listen { what, address, source };
    let listener = TcpListener::bind(address).await.map_err(error)?;
    let bound = listener.local_addr().map_err(error)?;
    Ok((listener, bound))
}
