//! Port 10000: TLS with a client certificate of the edges' CA, then a WebSocket upgrade on any path (spec 01 §3).
//!
//! What is wrong with a connection is said before the upgrade: a Go edge takes that as a failed dial and tries again, whereas a
//! connection that is accepted and not served looks alive to it for 30 s (spec 01 §5.1).

use std::net::SocketAddr;
use std::sync::Arc;

use common::line::websocket::{self, Counted, WebSocketLine};
use common::places::{Place, Places};
use common::tls::stream::ServerStream;
use http::{HeaderValue, StatusCode};
use proto::FEATURES_HEADER;
use rustls::ServerConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::Role;
use tracing::{debug, info, warn};

use super::admission::{Admitted, Card, Refusal, admit};
use super::{HANDSHAKE, listen, tls_config};
use crate::cloudhub::{Shared, StartError, session};

/// Handshakes at once: a fleet that comes back together waits as sockets, of which nothing else is in our memory yet.
pub(in crate::cloudhub) const HANDSHAKES: usize = 128;

/// When a node that found no place may ask again, in seconds.
const RETRY_AFTER: &str = "30";

/// What Go's server says to a request that is no upgrade.
const BAD_REQUEST: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 12\r\nConnection: close\r\n\r\nBad Request\n";

pub(in crate::cloudhub) async fn start(shared: &Arc<Shared>) -> Result<SocketAddr, StartError> {
    let tls = Arc::new(tls_config(shared)?);
    let (listener, bound) = listen("edges (modules.cloudHub.websocket)", shared.settings.websocket)?;
    info!(address = %bound, "listening for edges");
    shared
        .tasks
        .spawn("edge listener", accept(shared.clone(), listener, tls));
    Ok(bound)
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, tls: Arc<ServerConfig>) {
    shared.wait_for_revocations().await;
    let mut places = Places::new("edges", HANDSHAKES);
    loop {
        match places.next(|_| listener.accept()).await {
            Ok((stream, peer, place)) => {
                let peer = common::listen::peer(peer);
                let task = connect(shared.clone(), tls.clone(), stream, peer, place);
                shared.tasks.spawn("edge handshake", task);
            }
            Err(error) => {
                warn!(%error, "cannot accept connections of edges");
                common::listen::pause().await;
            }
        }
    }
}

/// The handshakes. The session gets a task of its own, so that what they needed is given back.
async fn connect(shared: Arc<Shared>, tls: Arc<ServerConfig>, stream: TcpStream, peer: SocketAddr, place: Place) {
    websocket::tune(&stream);
    let upgraded = timeout(HANDSHAKE, async {
        let tls = match ServerStream::accept(tls, stream).await {
            Ok(tls) => tls,
            Err(error) => {
                shared.metrics.refused("tls");
                if error.kind() == std::io::ErrorKind::InvalidData {
                    // The connection works, but what the other side shows is refused, mostly its certificate: the operator should know.
                    warn!(%peer, reason = %error, "edge refused");
                } else {
                    debug!(%peer, %error, "TLS handshake of an edge failed");
                }
                return None;
            }
        };
        // It has a certificate of the edges' CA.
        if !place.keep() {
            return None;
        }
        upgrade(&shared, tls, peer).await
    });
    let upgraded = match place.hold(upgraded).await {
        Some(Ok(upgraded)) => upgraded,
        Some(Err(_)) => {
            shared.metrics.refused("timeout");
            debug!(%peer, "the handshake of an edge took too long");
            None
        }
        None => {
            shared.metrics.refused("displaced");
            None
        }
    };
    drop(place);
    if let Some((admitted, socket)) = upgraded {
        let session = admitted.served();
        let line = Box::new(WebSocketLine::new(socket, session.features.has_lanes()));
        let serve = session::serve(shared.clone(), session, "websocket", line);
        shared.tasks.spawn("edge session", serve);
    }
}

type Tls = ServerStream<TcpStream>;

async fn upgrade(
    shared: &Arc<Shared>,
    mut tls: Tls,
    peer: SocketAddr,
) -> Option<(Admitted, WebSocketStream<Counted<Tls>>)> {
    let card = Card::of(tls.peer_certificates().and_then(|chain| chain.first()));
    let mut entry = None;
    #[expect(clippy::result_large_err, reason = "the type is that of the WebSocket library")]
    let decide = |request: &Request, mut response: Response| match admit(shared, request.headers(), &card, peer) {
        Ok(admitted) => {
            let features = admitted.features();
            if !features.is_empty()
                && let Ok(value) = HeaderValue::from_str(&features.to_string())
            {
                response.headers_mut().insert(FEATURES_HEADER, value);
            }
            entry = Some(admitted);
            Ok(response)
        }
        Err(refusal) => Err(answer(refusal)),
    };
    // Nothing can follow the request before it is answered, so that no bytes are lost when the stream is wrapped anew.
    let accepted = tokio_tungstenite::accept_hdr_async_with_config(&mut tls, decide, Some(websocket::config())).await;
    let failed = accepted.err();
    match (entry, failed) {
        (Some(admitted), None) => {
            let socket =
                WebSocketStream::from_raw_socket(Counted::new(tls), Role::Server, Some(websocket::config())).await;
            Some((admitted, socket))
        }
        (entry, failed) => {
            drop(entry);
            if let Some(WsError::Protocol(error)) = failed {
                debug!(%peer, %error, "no WebSocket upgrade");
                // The peer may be gone already.
                let _ = tls.write_all(BAD_REQUEST).await;
            }
            let _ = tls.shutdown().await;
            None
        }
    }
}

/// Says no before the upgrade.
fn answer(refusal: Refusal) -> ErrorResponse {
    let mut response = ErrorResponse::new(None);
    *response.status_mut() = refusal.status;
    let headers = response.headers_mut();
    headers.insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(refusal.text.len()));
    if refusal.status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(http::header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
    }
    *response.body_mut() = Some(refusal.text);
    response
}
