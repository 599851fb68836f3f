//! Who is let in, whatever the connection is carried by: the node that its certificate names, if it is not revoked and there is a
//! place for it (spec 01 §5.1, §5.2).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, StatusCode};
use proto::join::{CertificateName, issued_at};
use proto::{FEATURES_HEADER, Features, NodeName};
use rustls_pki_types::CertificateDer;
use tracing::warn;

use crate::cloudhub::session::Session;
use crate::cloudhub::vouch::{self, NotVouched};
use crate::cloudhub::{NodeLimit, Shared};

/// What a client certificate says.
pub(super) struct Card {
    name: Option<CertificateName>,
    issued: Option<Duration>,
}

impl Card {
    pub(super) fn of(certificate: Option<&CertificateDer<'_>>) -> Self {
        Self {
            name: certificate.and_then(|certificate| CertificateName::of_certificate(certificate)),
            issued: certificate.and_then(|certificate| issued_at(certificate)),
        }
    }
}

/// Why an edge is not let in, as the answer to an upgrade.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    label: &'static str,
    pub(super) text: String,
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
        let text = NotVouched::Revoked(node.clone()).to_string();
        Self::new(StatusCode::FORBIDDEN, "revoked", text)
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

/// A session that is known and not served yet: its edge is still to be told. Dropped before, by whatever end of the connection or of the
/// time for its handshake, it is left again.
pub(super) struct Admitted {
    shared: Arc<Shared>,
    session: Arc<Session>,
    served: bool,
}

impl Admitted {
    pub(super) fn features(&self) -> Features {
        self.session.features
    }

    /// Whoever serves it leaves it.
    pub(super) fn served(mut self) -> Arc<Session> {
        self.served = true;
        self.session.clone()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if !self.served {
            self.shared.leave(&self.session);
        }
    }
}

/// Lets the edge in that sent these headers: its session is known from now on. A refusal is logged and counted.
pub(super) fn admit(
    shared: &Arc<Shared>,
    headers: &HeaderMap,
    card: &Card,
    peer: SocketAddr,
) -> Result<Admitted, Refusal> {
    let judged = judge(shared.settings.legacy_certificates, headers, card.name.as_ref());
    let admitted = judged.and_then(|(node, features, legacy)| {
        if shared.revoked.read().refuses(&node, card.issued) {
            return Err(Refusal::revoked(&node));
        }
        let session = Session::new(node, features, legacy, card.issued, shared.metrics.clone());
        let session = shared.admit(session).map_err(Refusal::from)?;
        Ok(Admitted {
            shared: shared.clone(),
            session,
            served: false,
        })
    });
    admitted.inspect_err(|refusal| {
        shared.metrics.refused(refusal.label);
        warn!(%peer, certificate = ?card.name, reason = refusal.text, "edge refused");
    })
}

/// Who connects, with what, and whether by the name that edges up to v1.15 share.
fn judge(
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
    let legacy = vouch::is_legacy(&node, certificate, legacy_certificates)
        .map_err(|error| Refusal::new(StatusCode::FORBIDDEN, "identity", error.to_string()))?;
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

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::cloudhub::tests::edge::NodeIdentity;
    use crate::cloudhub::tests::fakes::World;

    #[tokio::test]
    async fn a_session_whose_edge_is_never_told_is_left() {
        let world = World::start(|_| {}).await;
        let identity = NodeIdentity::of_node(world.identity.authority(), "edge-1");
        let card = Card::of(Some(&identity.certificate));
        let headers = HeaderMap::from_iter([("node_id", "edge-1"), ("connectionuse", "msg")].map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        }));
        let admitted = || {
            let peer = ([192, 0, 2, 1], 1).into();
            admit(&world.hub.shared, &headers, &card, peer).ok().expect("admitted")
        };
        let first = admitted();
        let second = admitted();
        drop(first);
        assert_eq!(world.hub.connected_count(), 1, "the second one has its place");
        // As the end of the time for a handshake does.
        let handshake = async move {
            let _second = second;
            std::future::pending::<()>().await;
        };
        drop(handshake);
        assert_eq!(world.hub.connected_count(), 0);
        let session = admitted().served();
        assert_eq!(world.hub.connected_count(), 1);
        world.hub.shared.leave(&session);
        assert_eq!(world.hub.connected_count(), 0);
    }
}
