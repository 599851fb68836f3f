//! Port 10000: TLS with a client certificate of the edges' CA, then a WebSocket upgrade on any path (spec 01 §3).
//!
//! What is wrong with a connection is said before the upgrade: a Go edge takes that as a failed dial and tries again, whereas a
//! connection that is accepted and not served looks alive to it for 30 s (spec 01 §5.1).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::tls::server::{ClientCertificates, client_verifier, server_config};
use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, StatusCode};
use proto::join::{CertificateName, PeerName, issued_at};
use proto::{FEATURES_HEADER, Features, NodeName};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::Role;
use tracing::{debug, info, warn};

use super::listen;
use crate::cloudhub::session::{self, Session};
use crate::cloudhub::{NodeLimit, Shared, StartError};

/// Handshakes at once: a fleet that comes back together waits in the kernel's queue instead of in our memory.
const HANDSHAKES: usize = 128;

/// How long TLS and upgrade may take.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// When a node that found no place may ask again, in seconds.
const RETRY_AFTER: &str = "30";

/// What Go's server says to a request that is no upgrade.
const BAD_REQUEST: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 12\r\nConnection: close\r\n\r\nBad Request\n";

pub(in crate::cloudhub) async fn start(shared: &Arc<Shared>) -> Result<SocketAddr, StartError> {
    let verifier = client_verifier(shared.identity.ca().clone())?;
    let config = server_config(
        shared.identity.server_certificate(),
        ClientCertificates::Required(verifier),
    )?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (listener, bound) = listen("edges (modules.cloudHub.websocket)", shared.settings.websocket).await?;
    info!(address = %bound, "listening for edges");
    shared
        .tasks
        .spawn("edge listener", accept(shared.clone(), listener, acceptor));
    Ok(bound)
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, acceptor: TlsAcceptor) {
    let places = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let task = connect(shared.clone(), acceptor.clone(), stream, peer, place);
                shared.tasks.spawn("edge handshake", task);
            }
            Err(error) => {
                // Out of file descriptors, as a rule: a pause lets some of them come free.
                warn!(%error, "cannot accept connections of edges");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// The handshakes. The session gets a task of its own, so that what they needed is given back.
async fn connect(
    shared: Arc<Shared>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    place: OwnedSemaphorePermit,
) {
    // Messages are written whole: waiting for more to send only delays them. A socket without the option works as well.
    let _ = stream.set_nodelay(true);
    let upgraded = timeout(HANDSHAKE, async {
        let tls = match acceptor.accept(stream).await {
            Ok(tls) => tls,
            Err(error) => {
                shared.metrics.refused("tls");
                if error.kind() == std::io::ErrorKind::InvalidData {
                    // Not a broken connection: the certificate, as a rule.
                    warn!(%peer, reason = %error, "edge refused");
                } else {
                    debug!(%peer, %error, "TLS handshake of an edge failed");
                }
                return None;
            }
        };
        upgrade(&shared, tls, peer).await
    });
    let upgraded = upgraded.await.unwrap_or_else(|_| {
        shared.metrics.refused("timeout");
        debug!(%peer, "the handshake of an edge took too long");
        None
    });
    drop(place);
    if let Some((session, socket)) = upgraded {
        shared
            .tasks
            .spawn("edge session", session::serve(shared.clone(), session, socket));
    }
}

type Tls = tokio_rustls::server::TlsStream<TcpStream>;

async fn upgrade(
    shared: &Arc<Shared>,
    mut tls: Tls,
    peer: SocketAddr,
) -> Option<(Arc<Session>, WebSocketStream<Box<Tls>>)> {
    let certificate = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let name = certificate.and_then(|certificate| CertificateName::of_certificate(certificate));
    let issued = certificate.and_then(|certificate| issued_at(certificate));
    let mut session = None;
    #[expect(clippy::result_large_err, reason = "the type is that of the WebSocket library")]
    let decide = |request: &Request, mut response: Response| {
        let admitted = admission(shared.settings.legacy_certificates, request.headers(), name.as_ref()).and_then(
            |(node, features, legacy)| {
                if shared.revoked.read().refuses(&node, issued) {
                    return Err(Refusal::revoked(&node));
                }
                let session = Session::new(node, features, legacy, issued, shared.metrics.clone());
                shared.admit(session).map_err(Refusal::from)
            },
        );
        match admitted {
            Ok(admitted) => {
                if !admitted.features.is_empty()
                    && let Ok(value) = HeaderValue::from_str(&admitted.features.to_string())
                {
                    response.headers_mut().insert(FEATURES_HEADER, value);
                }
                session = Some(admitted);
                Ok(response)
            }
            Err(refusal) => {
                shared.metrics.refused(refusal.label);
                warn!(%peer, certificate = ?name, reason = refusal.text, "edge refused");
                Err(refusal.response())
            }
        }
    };
    // Nothing can follow the request before it is answered, so that no bytes are lost when the stream is wrapped anew.
    let accepted = tokio_tungstenite::accept_hdr_async_with_config(&mut tls, decide, Some(session::config())).await;
    let failed = accepted.err();
    match (session, failed) {
        (Some(session), None) => {
            let socket = WebSocketStream::from_raw_socket(Box::new(tls), Role::Server, Some(session::config())).await;
            Some((session, socket))
        }
        (session, failed) => {
            if let Some(session) = session {
                shared.leave(&session);
            }
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

struct Refusal {
    status: StatusCode,
    label: &'static str,
    text: String,
}

impl Refusal {
    fn new(status: StatusCode, label: &'static str, text: impl Into<String>) -> Self {
        Self {
            status,
            label,
            text: text.into(),
        }
    }

    fn revoked(node: &NodeName) -> Self {
        let text = format!("the certificate of node {node} is revoked (ConfigMap kubeedge/revokednodes)");
        Self::new(StatusCode::FORBIDDEN, "revoked", text)
    }

    fn response(self) -> ErrorResponse {
        let mut response = ErrorResponse::new(None);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
        headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(self.text.len()));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(http::header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        *response.body_mut() = Some(self.text);
        response
    }
}

impl From<NodeLimit> for Refusal {
    fn from(NodeLimit: NodeLimit) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "limit",
            "as many nodes are connected as modules.cloudHub.nodeLimit allows",
        )
    }
}

/// Who connects, with what, and whether by the name that edges up to v1.15 share.
fn admission(
    legacy_certificates: bool,
    headers: &HeaderMap,
    certificate: Option<&CertificateName>,
) -> Result<(NodeName, Features, bool), Refusal> {
    // The first of several: a Go edge adds the header once more with each dial (spec 01 §3.1).
    let first = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .trim()
    };
    if first("ConnectionUse") != "msg" {
        let text = "the header ConnectionUse must be \"msg\"";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "request", text));
    }
    let node = first("Node_id");
    if !is_node_name(node) {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "request",
            "the header Node_id must be the node's name",
        ));
    }
    if !is_same_origin(headers) {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "origin",
            "the Origin is not this host",
        ));
    }
    let node = NodeName::from(node);
    let legacy = match certificate.and_then(CertificateName::peer) {
        Some(PeerName::Node(name)) if name == node => false,
        Some(PeerName::Legacy) if legacy_certificates => {
            warn!(%node, "the edge's certificate names no node, as before v1.16: it is taken at its word; \
                modules.cloudHub.legacyCertificates: false ends that");
            true
        }
        _ => {
            let text = format!("the client certificate is not that of node {node}");
            return Err(Refusal::new(StatusCode::FORBIDDEN, "identity", text));
        }
    };
    Ok((
        node,
        Features::parse(first(FEATURES_HEADER)).common(Features::OURS),
        legacy,
    ))
}

/// A DNS subdomain, as Node objects are named.
fn is_node_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
}

fn is_same_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let host = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"))
        .is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
}
