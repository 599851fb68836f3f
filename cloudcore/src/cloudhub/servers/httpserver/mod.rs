//! Port 10002: the CA, certificates for nodes, the node check of keadm, reports on node tasks (spec 01 §7.1).
//!
//! A client certificate is asked for and looked at here, not by TLS, so that an edge with an expired one reads why it is refused.

mod certificate;
mod routes;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::places::{Place, Places};
use common::tls::server::{ClientCertificates, client_verifier, server_config};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use super::listen;
use crate::cloudhub::{Shared, StartError};

/// Connections at once.
const CONNECTIONS: usize = 256;

/// How long a connection lives: TLS, one request or a few.
const LIFETIME: Duration = Duration::from_secs(60);

/// How long TLS may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(15);

/// Who asks.
#[derive(Clone)]
struct Caller {
    /// The certificate that was shown; possession of its key is proven, nothing else.
    shown: Option<CertificateDer<'static>>,
    /// Kept when it is clear that this is a node, or is to be one.
    place: Arc<Place>,
}

pub(in crate::cloudhub) async fn start(shared: &Arc<Shared>) -> Result<SocketAddr, StartError> {
    let config = server_config(shared.identity.server_certificate(), ClientCertificates::Requested)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let verifier = client_verifier(shared.identity.ca().clone())?;
    let router = routes::router(shared.clone(), verifier);
    let (listener, bound) = listen("joining nodes (modules.cloudHub.https)", shared.settings.https)?;
    info!(address = %bound, "listening for joining nodes");
    shared
        .tasks
        .spawn("join listener", accept(shared.clone(), listener, acceptor, router));
    Ok(bound)
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, acceptor: TlsAcceptor, router: axum::Router) {
    shared.wait_for_revocations().await;
    let mut places = Places::new("joining nodes", CONNECTIONS);
    loop {
        match places.next(|_| listener.accept()).await {
            Ok((stream, peer, place)) => {
                let peer = common::listen::peer(peer);
                let task = connect(acceptor.clone(), router.clone(), stream, peer, Arc::new(place));
                shared.tasks.spawn("join request", task);
            }
            Err(error) => {
                warn!(%error, "cannot accept connections of joining nodes");
                common::listen::pause().await;
            }
        }
    }
}

async fn connect(
    acceptor: TlsAcceptor,
    router: axum::Router,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    place: Arc<Place>,
) {
    let served = timeout(LIFETIME, async {
        let tls = timeout(HANDSHAKE, acceptor.accept(stream)).await??;
        let chain = tls.get_ref().1.peer_certificates();
        let caller = Caller {
            shown: chain.and_then(|chain| chain.first()).cloned(),
            place: place.clone(),
        };
        let service = TowerToHyperService::new(router.layer(axum::Extension(caller)));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(tls), service);
        connection.await.map_err(std::io::Error::other)
    });
    match place.hold(served).await {
        // `None`: the connection had to make room for another one. It ends without an answer.
        None | Some(Ok(Ok(()))) => {}
        Some(Ok(Err(error))) => debug!(%peer, error = common::chain(&error), "connection of a joining node failed"),
        Some(Err(_)) => debug!(%peer, "connection of a joining node took too long"),
    }
}
