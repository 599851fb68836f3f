//! Port 10004: TLS with a client certificate of the edges' CA, then the tunnel of an edge, or a request that another cloudcore passes on
//! (spec 04 §2).
//!
//! What is wrong with a connection is said before the upgrade. The node of a tunnel is the one that the certificate names; Go's cloudcore
//! believes a header.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::places::{Place, Places};
use common::tls::client::certificates;
use common::tls::server::{ClientCertificates, client_verifier_of, server_config};
use common::tunnel::{self, TunnelSettings};
use http::StatusCode;
use proto::NodeName;
use proto::tunnel::Role;
use proto::tunnel::upgrade::{MAX_HEAD, Refused, Request};
use rustls::AlertDescription;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::field::display;
use tracing::{debug, info, warn};

use super::looks::Looks;
use super::sessions::Session;
use super::{Shared, StartError, forward, listen};
use crate::cloudhub::Identity;

/// Handshakes at once: a fleet that comes back together waits as sockets, of which nothing else is in our memory yet.
const HANDSHAKES: usize = 128;
/// How long TLS and upgrade may take.
const HANDSHAKE: Duration = Duration::from_secs(15);

pub(super) fn start(shared: &Arc<Shared>) -> Result<(), StartError> {
    let verifier = client_verifier_of(&shared.authorities)?;
    let certificate = shared.tunnel_certificate.resolver();
    let config = server_config(certificate, ClientCertificates::Required(verifier))?;
    let port = shared.settings.tunnel_port;
    let listener = listen("tunnels of edges (modules.cloudStream.tunnelPort)", port)?;
    info!(port, "listening for tunnels of edges");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    shared
        .tasks
        .spawn("tunnel listener", accept(shared.clone(), listener, acceptor));
    shared.tasks.spawn("revoked tunnels", revocations(shared.clone()));
    Ok(())
}

/// Whose certificates count on this port; `file` has the operator's.
pub(super) fn authorities(file: &Path, identity: &Identity) -> Vec<CertificateDer<'static>> {
    let mut found = if file.exists() {
        certificates(file).unwrap_or_else(|error| {
            warn!(error = %common::chain(&error), "modules.cloudStream.tlsTunnelCAFile cannot be used, CloudHub's CA is");
            Vec::new()
        })
    } else {
        Vec::new()
    };
    found.push(identity.ca().clone());
    found
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, acceptor: TlsAcceptor) {
    shared.hub.wait_for_revocations().await;
    let mut places = Places::new("tunnels of edges", HANDSHAKES);
    loop {
        match places.next(|_| listener.accept()).await {
            Ok((stream, peer, place)) => {
                let peer = common::listen::peer(peer);
                let task = connect(shared.clone(), acceptor.clone(), stream, peer, place);
                shared.tasks.spawn("tunnel handshake", task);
            }
            Err(error) => {
                warn!(%error, "cannot accept tunnels of edges");
                common::listen::pause().await;
            }
        }
    }
}

/// What came in.
enum Visitor {
    Edge(TlsStream<TcpStream>, Box<Admitted>),
    Cloudcore(TlsStream<TcpStream>),
}

struct Admitted {
    request: Request,
    node: NodeName,
    certificate: Option<CertificateDer<'static>>,
    /// What came behind the head.
    early: Vec<u8>,
}

async fn connect(shared: Arc<Shared>, acceptor: TlsAcceptor, stream: TcpStream, peer: SocketAddr, place: Place) {
    tunnel::tune(&stream);
    let visitor = timeout(HANDSHAKE, async {
        let tls = match acceptor.accept(stream).await {
            Ok(tls) => tls,
            Err(error) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    // The connection works, but what the other side shows is refused, mostly its certificate: the operator should know.
                    let reason = tls_reason(&error);
                    warn!(%peer, reason, "tunnel of an edge refused");
                    shared.sessions.refuse(peer.ip(), reason);
                } else {
                    debug!(%peer, %error, "TLS handshake of a tunnel failed");
                }
                return None;
            }
        };
        // It has a certificate that counts here.
        place.keep();
        greet(&shared, tls, peer).await
    });
    let visitor = match place.hold(visitor).await {
        Some(Ok(visitor)) => visitor,
        Some(Err(_)) => {
            debug!(%peer, "the handshake of a tunnel took too long");
            None
        }
        None => None,
    };
    drop(place);
    match visitor {
        Some(Visitor::Edge(tls, admitted)) => serve(&shared, tls, *admitted, peer).await,
        Some(Visitor::Cloudcore(tls)) => forward::serve(&shared, tls, peer).await,
        None => {}
    }
}

/// What TLS failed of; what the edge has against this side is said in words.
fn tls_reason(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    match cause {
        Some(rustls::Error::AlertReceived(AlertDescription::UnknownCA)) => {
            "the edge does not know the CA of this cloudcore's certificate: its rootCA.crt is another cluster's".into()
        }
        Some(rustls::Error::AlertReceived(AlertDescription::CertificateExpired)) => {
            "the edge finds this cloudcore's certificate not valid now: its clock is wrong, or cloudcore's".into()
        }
        _ => error.to_string(),
    }
}

async fn greet(shared: &Shared, mut tls: TlsStream<TcpStream>, peer: SocketAddr) -> Option<Visitor> {
    let certificate = tls
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .cloned();
    if certificate
        .as_ref()
        .is_some_and(|certificate| forward::is_cloudcore(certificate, shared.identity.authority()))
    {
        return Some(Visitor::Cloudcore(tls));
    }
    let refused = match read_request(&mut tls).await {
        Ok(None) => return None,
        Ok(Some((request, early))) => {
            let node = NodeName::from(request.upgrade.node.as_str());
            let Err(error) = shared.hub.vouch(&node, certificate.as_ref()) else {
                let admitted = Admitted {
                    request,
                    node,
                    certificate,
                    early,
                };
                return Some(Visitor::Edge(tls, Box::new(admitted)));
            };
            Refused {
                status: StatusCode::FORBIDDEN,
                text: error.to_string(),
            }
        }
        Err(refused) => refused,
    };
    warn!(%peer, status = %refused.status, reason = refused.text, "tunnel of an edge refused");
    shared.sessions.refuse(peer.ip(), refused.text.clone());
    // The peer may be gone already.
    if tls.write_all(refused.response().as_bytes()).await.is_ok() {
        let _ = tls.shutdown().await;
    }
    None
}

/// The edge's request and what came behind it; `None` when the edge left before.
async fn read_request(io: &mut (impl AsyncRead + Unpin)) -> Result<Option<(Request, Vec<u8>)>, Refused> {
    let mut bytes = Vec::with_capacity(1024);
    let mut looks = Looks::until(MAX_HEAD);
    loop {
        if looks.are_due(&bytes)
            && let Some(request) = Request::read(&bytes)?
        {
            let early = bytes.split_off(request.length);
            return Ok(Some((request, early)));
        }
        match io.read_buf(&mut bytes).await {
            Ok(length) if length > 0 => {}
            // The connection ended within the head. If the part that came is wrong already, the caller is told so.
            _ => return Request::read(&bytes).map(|_| None),
        }
    }
}

/// A tunnel from its upgrade to its end. The node need not exist yet.
async fn serve(shared: &Shared, mut tls: TlsStream<TcpStream>, admitted: Admitted, peer: SocketAddr) {
    let Admitted {
        request,
        node,
        certificate,
        early,
    } = admitted;
    let upgraded = async {
        tls.write_all(request.accept().as_bytes()).await?;
        tls.flush().await
    };
    if !matches!(timeout(HANDSHAKE, upgraded).await, Ok(Ok(()))) {
        return;
    }
    let features = request.common_features();
    let settings = TunnelSettings {
        role: Role::Cloud,
        features,
        early,
        metrics: shared.metrics.clone(),
    };
    // Requests are the edge's to serve: the cloud gets none.
    let (tunnel, _none) = tunnel::start(tls, settings, &shared.tasks);
    let session = shared.sessions.admit(Session {
        address: address_of(request.upgrade.internal_ip.as_deref(), peer),
        node,
        certificate,
        tunnel,
    });
    let address = session.address.map(display);
    info!(node = %session.node, %peer, address, %features, "tunnel of an edge is there");
    let why = session.tunnel.closed().await;
    info!(node = %session.node, %peer, reason = why, "tunnel of an edge ended");
    shared.sessions.leave(&session, why);
}

/// What the edge says, else where it comes from, as Go's cloudcore has it. It is a claim: Nodes that list the address go first.
fn address_of(internal: Option<&str>, peer: SocketAddr) -> Option<IpAddr> {
    match internal {
        Some(text) => text.parse().ok(),
        None => Some(peer.ip()),
    }
    .map(|address: IpAddr| address.to_canonical())
}

/// Ends the tunnels whose certificates are trusted no more.
async fn revocations(shared: Arc<Shared>) {
    let mut changes = shared.hub.revocations();
    while changes.changed().await.is_ok() {
        for session in shared.sessions.all() {
            if let Err(error) = shared.hub.trusts(&session.node, session.certificate.as_ref()) {
                warn!(node = %session.node, reason = %error, "the tunnel of the node ends");
                session.tunnel.close(&error.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::Features;
    use proto::tunnel::upgrade::Upgrade;

    use super::*;

    /// What is read of it when it comes one byte at a time.
    async fn trickled(bytes: &[u8]) -> Result<Option<(Request, Vec<u8>)>, Refused> {
        let (mut client, mut server) = tokio::io::duplex(1);
        let write = async move {
            // Nobody reads on after a refusal.
            let _ = client.write_all(bytes).await;
        };
        let read = async move { read_request(&mut server).await };
        tokio::join!(write, read).1
    }

    async fn status(bytes: &[u8]) -> u16 {
        trickled(bytes).await.expect_err("no upgrade").status.as_u16()
    }

    #[tokio::test]
    async fn a_request_that_trickles_in_is_read_or_refused() {
        let upgrade = Upgrade {
            node: "edge-1".to_owned(),
            internal_ip: None,
            features: Features::TUNNEL,
        };
        let head = upgrade.request("203.0.113.10:10004", [7; 16]);
        let (request, early) = trickled(head.as_bytes()).await.expect("good").expect("complete");
        assert_eq!((request.upgrade, early), (upgrade, Vec::new()));
        let broken_off = head.get(..head.len() - 1).expect("a part");
        assert!(trickled(broken_off.as_bytes()).await.expect("good so far").is_none());
        assert_eq!(status(&[b'G'; MAX_HEAD]).await, 431);
        assert_eq!(status(b"GET / HTTP/2").await, 400, "the edge says no more");
        let elsewhere = head.replace("/v1/kubeedge/connect", "/elsewhere");
        assert_eq!(status(elsewhere.as_bytes()).await, 404);
    }

    #[test]
    fn the_address_is_the_edges_word_else_the_peers() {
        let peer: SocketAddr = "[::ffff:10.0.0.7]:4711".parse().expect("an address");
        let of = |internal| address_of(internal, peer).map(|address| address.to_string());
        assert_eq!(of(Some("192.168.1.20")).as_deref(), Some("192.168.1.20"));
        assert_eq!(of(Some("::ffff:192.168.1.20")).as_deref(), Some("192.168.1.20"));
        assert_eq!(of(Some("edge")), None);
        assert_eq!(of(None).as_deref(), Some("10.0.0.7"));
    }
}
