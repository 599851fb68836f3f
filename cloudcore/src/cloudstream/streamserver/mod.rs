//! Port 10003: what a kubelet serves on 10250, for all edges (spec 04 §7). HTTP/1.1 over TLS, one request to a connection.
//!
//! Owns a connection until it ends. Reads the head of its request (`head`, `route`), asks `access` whether the caller may, and chooses the
//! edge (`choose`); then it passes bytes between the caller and a stream of that edge's tunnel (`relay`), and says what is left to say when
//! that breaks (`lastword`). Must not change what a stream carries, but with `streamCompat` (`compat`).

mod address;
mod choose;
mod compat;
mod head;
mod lastword;
mod refusal;
mod relay;
mod route;
#[cfg(test)]
mod seeds;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::chain;
use common::places::{Place, Places};
use common::tls::server::{ClientCertificates, ServerTlsError, server_config};
use http::StatusCode;
use proto::NodeName;
use proto::tunnel::ConnectKind;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tracing::{debug, info, warn};

pub(super) use address::Rivals;
pub(super) use head::{FORWARDED_BY, Head, NODE_HEADER};
pub(super) use refusal::Refusal;
pub(super) use relay::{Opening, relay};
pub(super) use route::Route;

use super::access::{Credentials, Denied};
use super::certificates::{StreamCertificates, original_destination};
use super::sessions::{Ask, Session};
use super::wayin::Way;
use super::{Shared, StartError, forward, listen};
use crate::informers::Host;
use head::HEAD_WITHIN;

/// Connections at once. Each is a stream of a tunnel, or wants to become one.
const CONNECTIONS: usize = 8192;

/// How long clients are told of cloudcore's end.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);

/// TLS as a kubelet has it: a client certificate is asked for, and looked at after the head of the request.
pub(super) fn tls(certificates: &StreamCertificates) -> Result<ServerConfig, ServerTlsError> {
    let mut config = server_config(certificates.resolver(), ClientCertificates::Requested)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

pub(super) fn start(shared: &Arc<Shared>) -> Result<(), StartError> {
    let port = shared.settings.stream_port;
    let listener = listen("the API server (modules.cloudStream.streamPort)", port)?;
    info!(port, "listening for requests to the kubelets of edges");
    shared.tasks.spawn("stream listener", accept(shared.clone(), listener));
    Ok(())
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let mut places = Places::new("requests to the kubelets of edges", CONNECTIONS);
    loop {
        match places.next(|_| listener.accept()).await {
            Ok((stream, peer, place)) => {
                let peer = common::listen::peer(peer);
                // Keystrokes are sent one by one. A socket without the option works as well.
                let _ = stream.set_nodelay(true);
                let server = shared.clone();
                shared.tasks.spawn_lingering("stream", LAST_WORDS, async move {
                    let destination = original_destination(&stream);
                    let served = serve(&server, stream, (peer, Way::Port), destination, Some(&place));
                    // `None`: the connection had to make room for another one. It ends without an answer.
                    let _ = place.hold(served).await;
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept requests to the kubelets of edges");
                common::listen::pause().await;
            }
        }
    }
}

/// One connection, from its TLS handshake on. Its place on the port, if it has one, is its own when it is let in.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    io: impl AsyncRead + AsyncWrite + Unpin + Send,
    (peer, way): (SocketAddr, Way),
    destination: Option<Host>,
    place: Option<&Place>,
) {
    let acceptor = shared.certificates.acceptor(&shared.tls, destination);
    let begun = timeout(HEAD_WITHIN, async {
        let mut tls = acceptor
            .accept(io)
            .await
            .inspect_err(|error| debug!(%peer, %error, "TLS handshake of a caller failed"))
            .ok()?;
        let head = Head::read(&mut tls).await;
        Some((tls, head))
    });
    let Ok(Some((mut tls, head))) = begun.await else { return };
    let (head, early) = match head {
        Ok(read) => read,
        Err(None) => return,
        Err(Some(refusal)) => return refuse(&mut tls, &refusal).await,
    };
    shared.trials.arrived(&head.target, way);
    let certificates = tls.get_ref().1.peer_certificates().map(<[_]>::to_vec);
    match decide(shared, &head, &certificates.unwrap_or_default()).await {
        Ok((route, node)) => {
            if let Some(place) = place {
                place.keep();
            }
            debug!(%peer, %node, target = head.path(), "request for a kubelet");
            pass_on(shared, &mut tls, &head, &route, node, early).await;
        }
        Err(refusal) => {
            debug!(%peer, status = %refusal.status, reason = refusal.text, target = head.path(), "request for a kubelet refused");
            refuse(&mut tls, &refusal).await;
        }
    }
}

/// Who asks, for what, of which node, and whether they may.
async fn decide(
    shared: &Shared,
    head: &Head,
    certificates: &[CertificateDer<'static>],
) -> Result<(Route, NodeName), Refusal> {
    let Some(access) = &shared.access else {
        let route = Route::of(head)?;
        let node = choose::node(shared, head, &route).await?;
        return Ok((route, node));
    };
    let token = head.bearer();
    let credentials = Credentials {
        certificates,
        token: token.as_deref(),
    };
    let subject = access.authenticate(credentials).await?;
    let route = Route::of(head)?;
    let node = choose::node(shared, head, &route).await?;
    access.authorize(&subject, &node, route.right).await?;
    Ok((route, node))
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Unauthorized => Self::new(StatusCode::UNAUTHORIZED, "Unauthorized"),
            Denied::Forbidden(text) => Self::new(StatusCode::FORBIDDEN, text),
            Denied::Unknown(text) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, text),
        }
    }
}

/// To the node's tunnel, or to the cloudcore that has it.
async fn pass_on<C>(shared: &Shared, client: &mut C, head: &Head, route: &Route, node: NodeName, early: Vec<u8>)
where
    C: AsyncRead + AsyncWrite + Unpin + Send,
{
    if let Some(session) = shared.sessions.get(&node) {
        return to_edge(shared, client, head, route, &session, early).await;
    }
    match forward::dial(shared, head, &node).await {
        Ok(owner) => relay(client, owner, Opening::new(&node, route, early), shared.tasks.token()).await,
        Err(refusal) => refuse(client, &refusal).await,
    }
}

/// By a stream of the node's tunnel.
pub(super) async fn to_edge<C>(
    shared: &Shared,
    client: &mut C,
    head: &Head,
    route: &Route,
    session: &Session,
    early: Vec<u8>,
) where
    C: AsyncRead + AsyncWrite + Unpin + Send,
{
    let kind = if shared.settings.compat {
        route.go_kind
    } else {
        ConnectKind::Exec
    };
    let ask = Ask {
        kind,
        method: head.method.clone(),
        target: head.target.clone(),
        headers: head.forwarded_headers(),
    };
    match shared.sessions.open(session, ask).await {
        Ok(stream) if kind.is_body_only() => {
            compat::relay_body(client, stream, Opening::new(&session.node, route, early)).await
        }
        Ok(stream) => {
            relay(
                client,
                stream,
                Opening::new(&session.node, route, early),
                shared.tasks.token(),
            )
            .await
        }
        Err(closed) => {
            let text = format!("edge node {}: {}", session.node, chain(&closed));
            refuse(client, &Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text)).await;
        }
    }
}

/// Answers with an error and ends the connection.
pub(super) async fn refuse(client: &mut (impl AsyncWrite + Unpin), refusal: &Refusal) {
    // The client may be gone already.
    if client.write_all(refusal.response().as_bytes()).await.is_ok() {
        let _ = client.shutdown().await;
    }
}
