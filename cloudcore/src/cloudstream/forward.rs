//! Requests for nodes whose tunnels are at another cloudcore: passed on there once, by mutual TLS of the edges' CA on the port of the
//! tunnels (spec 04 §12).
//!
//! Where a tunnel is stands in the Node: our own annotation has the address of the tunnel's holder, and `cloudcore`, which Go's write
//! too, the address of the cloudcore that has the node's session. The caller was let in by the first cloudcore; the second one takes
//! its word, known by its certificate.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use common::chain;
use common::tls::client::{Identity, cloud_config_any_name};
use http::StatusCode;
use proto::join::{Authority, CertificateName, ServerNames};
use proto::{Namespace, NodeName};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::Deserialize;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::debug;

use super::streamserver::{FORWARDED_BY, Head, NODE_HEADER, Refusal, Route, refuse, to_edge};
use super::{HOLDER_ANNOTATION, Shared};
use crate::cloudhub::unix_now;
use crate::kubernetes::NODES;

/// Common name of the certificates that cloudcores show each other. No edge gets one like it.
const CLOUDCORE: &str = "system:kubeedge:cloudcore";
/// Organization of certificates that the CA signs for others than edges.
const KUBEEDGE: &str = "KubeEdge";
/// Where Go and we write which cloudcore has the node's session.
const OWNER_ANNOTATION: &str = "cloudcore";
/// How long connection and handshake may take.
const DIAL: Duration = Duration::from_secs(5);
/// An edge that is refused tries again within this time.
const REFUSED: Duration = Duration::from_secs(120);
/// How long the head of a request that is passed on may take.
const HEAD: Duration = Duration::from_secs(10);

#[derive(Debug, Error)]
enum DialError {
    #[error("no connection within {DIAL:?}")]
    Late,
    #[error("no connection")]
    Io(#[from] std::io::Error),
    #[error("no certificate to show")]
    Issue(#[source] proto::join::AuthorityError),
    #[error("no TLS")]
    Tls(#[from] common::tls::client::ClientTlsError),
    #[error("the key of the certificate cannot be used: {0}")]
    Key(&'static str),
    #[error(
        "its certificate is neither for this address nor for the names of the one that this cloudcore shows there, or it is an edge's"
    )]
    Stranger,
}

/// Whether a certificate, which TLS has verified, is another cloudcore's. CloudHub's CA alone signs these: whom an operator's besides
/// gives the name is not known here.
pub(super) fn is_cloudcore(certificate: &CertificateDer<'_>, authority: &Authority) -> bool {
    let named = CertificateName::of_certificate(certificate)
        .is_some_and(|name| name.organization == KUBEEDGE && name.common_name == CLOUDCORE);
    named && authority.signed(certificate)
}

/// Whether a server's certificate, which TLS has verified but for the name, is a cloudcore's. CloudHub's CA signs servers for
/// cloudcores, and for edges that ask. An operator's may sign anybody's: `named` for the address that was dialled, or for the names
/// of `own`, which replicas share.
fn is_server(
    certificate: &CertificateDer<'_>,
    named: bool,
    authority: &Authority,
    own: Option<&CertificateDer<'_>>,
) -> bool {
    if authority.signed(certificate) {
        return CertificateName::of_certificate(certificate).is_some_and(|name| name.peer().is_none());
    }
    let is_own = |own: &CertificateDer<'_>| {
        let wanted = ServerNames::of_certificate(own).unwrap_or_default();
        let names = ServerNames::of_certificate(certificate).unwrap_or_default();
        own == certificate || (wanted != ServerNames::default() && names.contain(&wanted))
    };
    named || own.is_some_and(is_own)
}

/// Passes the head of a request on to the cloudcore that has the node's tunnel; what comes back is the answer.
pub(super) async fn dial(shared: &Shared, head: &Head, node: &NodeName) -> Result<TlsStream<TcpStream>, Refusal> {
    let mut tried = Vec::new();
    for holder in holders(shared, node).await? {
        match connect(shared, head, node, holder).await {
            Ok(stream) => {
                debug!(%node, %holder, "request passed on to another cloudcore");
                return Ok(stream);
            }
            Err(error) => tried.push(format!("{holder}: {}", chain(&error))),
        }
    }
    let mut text = not_here(shared, node);
    if !tried.is_empty() {
        text = format!(
            "{text}; the cloudcore that has it cannot be reached: {}",
            tried.join("; ")
        );
    }
    Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text))
}

fn not_here(shared: &Shared, node: &NodeName) -> String {
    let why = shared.sessions.ended(node).map_or_else(String::new, |(why, when)| {
        format!(" (its tunnel ended {} s ago: {why})", when.elapsed().as_secs())
    });
    let refused = shared.informers.addresses(node).into_iter().find_map(|address| {
        let (why, when) = shared.sessions.refused(address)?;
        let ago = when.elapsed();
        (ago < REFUSED).then(|| {
            format!(
                "; a connection from {address} was refused {} s ago: {why}",
                ago.as_secs()
            )
        })
    });
    let refused = refused.unwrap_or_default();
    let session = if shared.hub.is_connected(node) {
        ""
    } else {
        ", nor has it a session with CloudHub"
    };
    format!(
        "edge node {node} is not connected to this cloudcore ({}){session}{why}{refused}",
        shared.address()
    )
}

/// The other cloudcores that may have the tunnel, the likeliest first.
async fn holders(shared: &Shared, node: &NodeName) -> Result<Vec<SocketAddr>, Refusal> {
    #[derive(Deserialize)]
    struct Node {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(default)]
        annotations: BTreeMap<String, String>,
    }
    let object = match shared.kube.get(&NODES, &Namespace::cluster(), node.as_str()).await {
        Ok(object) => object,
        Err(error) if error.is_not_found() => {
            return Err(Refusal::new(StatusCode::NOT_FOUND, format!("there is no node {node}")));
        }
        Err(error) => {
            let text = format!("{}; who has it is not known: {}", not_here(shared, node), chain(&error));
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text));
        }
    };
    let annotations = object
        .view::<Node>()
        .map(|node| node.metadata.annotations)
        .unwrap_or_default();
    Ok(others(&annotations, &shared.address(), shared.settings.tunnel_port))
}

/// Those that a Node's annotations name, but not the one that asks, which is at `address` and `port`.
fn others(annotations: &BTreeMap<String, String>, address: &str, port: u16) -> Vec<SocketAddr> {
    let named = |key: &str| annotations.get(key).map(String::as_str).unwrap_or_default();
    let owner = named(OWNER_ANNOTATION)
        .parse()
        .ok()
        .map(|ip: IpAddr| SocketAddr::new(ip, port));
    let mut all: Vec<SocketAddr> = named(HOLDER_ANNOTATION).parse().ok().into_iter().chain(owner).collect();
    all.dedup();
    all.retain(|holder| holder.ip().to_string() != address || holder.port() != port);
    all
}

async fn connect(
    shared: &Shared,
    head: &Head,
    node: &NodeName,
    holder: SocketAddr,
) -> Result<TlsStream<TcpStream>, DialError> {
    let authority = shared.identity.authority();
    let issued = authority
        .issue_client(CLOUDCORE, unix_now())
        .map_err(DialError::Issue)?;
    let identity = Identity {
        chain: vec![CertificateDer::from(issued.certificate)],
        key: PrivateKeyDer::try_from(issued.key).map_err(DialError::Key)?,
    };
    // The address that is dialled here need not be in the other cloudcore's certificate: all share one, with the names that edges dial. An
    // operator's certificate may even come from another CA. So any name passes here, and `is_server` decides below.
    let (config, mismatch) = cloud_config_any_name(&shared.authorities, Some(identity))?;
    let connector = TlsConnector::from(Arc::new(config));
    let dialled = timeout(DIAL, async {
        let stream = TcpStream::connect(holder).await?;
        // Keystrokes are sent one by one. A socket without the option works as well.
        let _ = stream.set_nodelay(true);
        let mut tls = connector.connect(ServerName::from(holder.ip()), stream).await?;
        let certificate = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let own = shared.tunnel_certificate.present();
        let known = certificate.is_some_and(|shown| is_server(shown, !mismatch.is_set(), authority, own.as_ref()));
        if !known {
            return Err(DialError::Stranger);
        }
        let mut text = format!("{} {} HTTP/1.1\r\n", head.method, head.target);
        let address = shared.address();
        let own = [(NODE_HEADER, node.as_str()), (FORWARDED_BY, address.as_str())];
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
        for (name, value) in head.forwarded_headers().into_iter().chain(own) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        tls.write_all(text.as_bytes()).await?;
        tls.flush().await?;
        Ok::<_, DialError>(tls)
    });
    dialled.await.map_err(|_| DialError::Late)?
}

/// A request of another cloudcore: served by a tunnel that is here, or not at all.
pub(super) async fn serve(shared: &Shared, mut tls: impl AsyncRead + AsyncWrite + Unpin + Send, peer: SocketAddr) {
    let read = timeout(HEAD, Head::read(&mut tls)).await;
    let (head, early) = match read {
        Ok(Ok(read)) => read,
        Ok(Err(Some(refusal))) => return refuse(&mut tls, &refusal).await,
        Ok(Err(None)) | Err(_) => return,
    };
    let node = NodeName::from(head.header(NODE_HEADER).unwrap_or_default());
    debug!(%peer, %node, by = head.header(FORWARDED_BY), "request of another cloudcore");
    let found = Route::of(&head).and_then(|route| {
        let session = shared.sessions.get(&node);
        let session = session.ok_or_else(|| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, not_here(shared, &node)))?;
        Ok((route, session))
    });
    match found {
        Ok((route, session)) => to_edge(shared, &mut tls, &head, &route, &session, early).await,
        Err(refusal) => refuse(&mut tls, &refusal).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloudhub::tests::edge::NodeIdentity;

    #[test]
    fn a_cloudcore_is_one_by_name_and_by_cloudhubs_ca() {
        let now = unix_now();
        let (own, other) = (
            Authority::generate(now).expect("a CA"),
            Authority::generate(now).expect("a CA"),
        );
        for (signer, name, expected) in [
            (&own, CLOUDCORE, true),
            (&own, "system:node:edge-1", false),
            (&other, CLOUDCORE, false),
        ] {
            let issued = signer.issue_client(name, now).expect("issued");
            let certificate = CertificateDer::from(issued.certificate);
            assert_eq!(is_cloudcore(&certificate, &own), expected, "{name}");
        }
    }

    #[test]
    fn a_server_of_an_operators_ca_is_a_cloudcore_by_its_names_alone() {
        let now = unix_now();
        let (hub, operator) = (
            Authority::generate(now).expect("a CA"),
            Authority::generate(now).expect("a CA"),
        );
        let server = |signer: &Authority, dns: &[&str]| {
            let names = ServerNames {
                dns: dns.iter().map(|name| (*name).to_owned()).collect(),
                addresses: Vec::new(),
            };
            CertificateDer::from(signer.issue_server(&names, now).expect("issued").certificate)
        };
        let edge = NodeIdentity::issue(&hub, &CertificateName::of_node(&"a".into()), "a", now, "[1,2]");
        let (own, nameless) = (server(&operator, &["cloud.example"]), server(&operator, &[]));
        for (certificate, named, own, expected) in [
            (&server(&hub, &["other.example"]), false, &own, true),
            (&edge.certificate, true, &own, false),
            (&own, false, &own, true),
            (&server(&operator, &["a.example", "cloud.example"]), false, &own, true),
            (&server(&operator, &["mail.example"]), false, &own, false),
            (&server(&operator, &["mail.example"]), true, &own, true),
            (&server(&operator, &["mail.example"]), false, &nameless, false),
            (&nameless, false, &nameless, true),
        ] {
            let names = ServerNames::of_certificate(certificate);
            assert_eq!(
                is_server(certificate, named, &hub, Some(own)),
                expected,
                "{names:?} {named}"
            );
        }
    }

    #[test]
    fn the_holder_of_the_tunnel_is_tried_before_the_owner_of_the_session() {
        const OWN: &str = "10.0.0.1";
        for (holder, owner, expected) in [
            ("10.0.0.2:20004", "10.0.0.3", &["10.0.0.2:20004", "10.0.0.3:10004"][..]),
            // A node of Go's cloudcore.
            ("", "10.0.0.3", &["10.0.0.3:10004"]),
            ("", "fd00::3", &["[fd00::3]:10004"]),
            ("10.0.0.2:20004", "", &["10.0.0.2:20004"]),
            ("10.0.0.2:10004", "10.0.0.2", &["10.0.0.2:10004"]),
            // The session is here, the tunnel elsewhere, and the other way round.
            ("10.0.0.2:10004", OWN, &["10.0.0.2:10004"]),
            ("10.0.0.1:10004", "10.0.0.3", &["10.0.0.3:10004"]),
            // Another cloudcore of this host.
            ("10.0.0.1:20004", OWN, &["10.0.0.1:20004"]),
            ("10.0.0.1:10004", OWN, &[]),
            ("elsewhere", "somewhere", &[]),
            ("", "", &[]),
        ] {
            let annotations = [(HOLDER_ANNOTATION, holder), (OWNER_ANNOTATION, owner)];
            let annotations = annotations.into_iter().filter(|(_, value)| !value.is_empty());
            let annotations: BTreeMap<_, _> = annotations
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect();
            let found: Vec<String> = others(&annotations, OWN, 10004)
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(found, expected, "{holder:?} {owner:?}");
        }
    }
}
