//! The tunnels that are here, by node and by address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::tunnel::{Tunnel, TunnelStream};
use parking_lot::{Mutex, RwLock};
use proto::NodeName;
use proto::tunnel::{Connect, ConnectKind, RefusedOpen};
use rustls_pki_types::CertificateDer;
use tokio::sync::broadcast;
use tokio::time::Instant;

/// The tunnel of a node.
pub(super) struct Session {
    pub(super) node: NodeName,
    /// The InternalIP that it claims, which nobody vouches for; `None` for what is no address.
    pub(super) address: Option<IpAddr>,
    /// What it was let in by.
    pub(super) certificate: Option<CertificateDer<'static>>,
    pub(super) tunnel: Tunnel,
}

/// A request for the kubelet of an edge.
pub(super) struct Ask {
    pub(super) kind: ConnectKind,
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
}

/// The tunnels of this cloudcore.
pub(super) struct Sessions {
    known: RwLock<Known>,
    /// One counter over all nodes: an id is never used twice (spec 04 §4).
    streams: AtomicU64,
    /// Why the last tunnel of a node that has none now ended, and when.
    ended: Mutex<HashMap<NodeName, (String, Instant)>>,
    /// Why the last connection from an address became no tunnel, and when.
    refused: Mutex<HashMap<IpAddr, (String, Instant)>>,
    arrivals: broadcast::Sender<NodeName>,
}

#[derive(Default)]
struct Known {
    nodes: HashMap<NodeName, Arc<Session>>,
    addresses: HashMap<IpAddr, Vec<NodeName>>,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self {
            known: RwLock::default(),
            streams: AtomicU64::new(0),
            ended: Mutex::default(),
            refused: Mutex::default(),
            arrivals: broadcast::channel(ARRIVALS).0,
        }
    }

    /// Makes the tunnel the node's, and ends the one that it had.
    pub(super) fn admit(&self, session: Session) -> Arc<Session> {
        let session = Arc::new(session);
        let mut known = self.known.write();
        let replaced = known.nodes.insert(session.node.clone(), session.clone());
        if let Some(replaced) = &replaced {
            known.forget_address(replaced);
        }
        if let Some(address) = session.address {
            known.addresses.entry(address).or_default().push(session.node.clone());
        }
        drop(known);
        self.ended.lock().remove(&session.node);
        if let Some(replaced) = replaced {
            replaced.tunnel.close("the node has a newer tunnel");
        }
        // Without a listener nobody misses it.
        let _ = self.arrivals.send(session.node.clone());
        session
    }

    /// Forgets the tunnel, unless the node has another one by now.
    pub(super) fn leave(&self, session: &Arc<Session>, why: String) {
        let mut known = self.known.write();
        let is_last = known
            .nodes
            .get(&session.node)
            .is_some_and(|last| Arc::ptr_eq(last, session));
        if !is_last {
            return;
        }
        known.nodes.remove(&session.node);
        known.forget_address(session);
        drop(known);
        let mut ended = self.ended.lock();
        if ended.len() >= ENDED {
            ended.clear();
        }
        ended.insert(session.node.clone(), (why, Instant::now()));
    }

    pub(super) fn get(&self, node: &NodeName) -> Option<Arc<Session>> {
        self.known.read().nodes.get(node).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Session>> {
        self.known.read().nodes.values().cloned().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.known.read().nodes.len()
    }

    /// The nodes whose tunnels claim an address.
    pub(super) fn claimants(&self, address: IpAddr) -> Vec<NodeName> {
        self.known.read().addresses.get(&address).cloned().unwrap_or_default()
    }

    /// Why the node's last tunnel ended, and how long ago; `None` while it has one, or when it is not known.
    pub(super) fn ended(&self, node: &NodeName) -> Option<(String, Instant)> {
        self.ended.lock().get(node).cloned()
    }

    /// Notes why a connection became no tunnel.
    pub(super) fn refuse(&self, peer: IpAddr, why: String) {
        let mut refused = self.refused.lock();
        if refused.len() >= ENDED {
            refused.clear();
        }
        refused.insert(peer.to_canonical(), (why, Instant::now()));
    }

    /// Why the last connection from an address became no tunnel, and how long ago that was.
    pub(super) fn refused(&self, peer: IpAddr) -> Option<(String, Instant)> {
        self.refused.lock().get(&peer.to_canonical()).cloned()
    }

    /// Nodes whose tunnels come from now on.
    pub(super) fn arrivals(&self) -> broadcast::Receiver<NodeName> {
        self.arrivals.subscribe()
    }

    /// Opens a stream by a request.
    ///
    /// # Errors
    /// When the tunnel has ended meanwhile, or the request is too large for a message.
    pub(super) async fn open(&self, session: &Session, ask: Ask) -> Result<TunnelStream, RefusedOpen> {
        let Ask {
            kind,
            method,
            target,
            headers,
        } = ask;
        let connect = Connect {
            id: self.streams.fetch_add(1, Ordering::Relaxed) + 1,
            kind,
            method,
            target,
            headers,
        };
        session.tunnel.open(connect).await
    }
}

impl Known {
    fn forget_address(&mut self, session: &Session) {
        let Some(address) = session.address else { return };
        let Some(nodes) = self.addresses.get_mut(&address) else {
            return;
        };
        nodes.retain(|node| *node != session.node);
        if nodes.is_empty() {
            self.addresses.remove(&address);
        }
    }
}

/// Arrivals that a slow listener may fall behind by.
const ARRIVALS: usize = 4096;
/// Ends, and likewise refusals, that are remembered.
const ENDED: usize = 4096;

#[cfg(test)]
mod tests {
    use common::Tasks;
    use common::tunnel::{self, TunnelMetrics, TunnelSettings};
    use proto::Features;
    use proto::tunnel::Role;

    use super::*;

    fn session(node: &str, address: &str) -> Session {
        let (io, _other) = tokio::io::duplex(1024);
        let settings = TunnelSettings {
            role: Role::Cloud,
            features: Features::TUNNEL,
            early: Vec::new(),
            metrics: TunnelMetrics::default(),
        };
        Session {
            node: node.into(),
            address: address.parse().ok(),
            certificate: None,
            tunnel: tunnel::start(io, settings, &Tasks::new()).0,
        }
    }

    #[tokio::test]
    async fn a_late_end_of_an_old_tunnel_leaves_its_successor() {
        let sessions = Sessions::new();
        let old = sessions.admit(session("a", "10.0.0.1"));
        let new = sessions.admit(session("a", "10.0.0.2"));
        sessions.leave(&old, "late".into());
        assert!(sessions.get(&"a".into()).is_some_and(|known| Arc::ptr_eq(&known, &new)));
        assert!(sessions.claimants([10, 0, 0, 1].into()).is_empty());
        assert_eq!(sessions.claimants([10, 0, 0, 2].into()), [NodeName::from("a")]);
        assert!(sessions.ended(&"a".into()).is_none());
        sessions.leave(&new, "cut".into());
        assert_eq!(sessions.len(), 0);
        assert!(sessions.claimants([10, 0, 0, 2].into()).is_empty());
        assert!(sessions.ended(&"a".into()).is_some_and(|(why, _)| why == "cut"));
    }

    #[tokio::test]
    async fn two_nodes_may_claim_an_address() {
        let sessions = Sessions::new();
        let first = sessions.admit(session("a", "10.0.0.1"));
        let _second = sessions.admit(session("b", "10.0.0.1"));
        assert_eq!(sessions.claimants([10, 0, 0, 1].into()), ["a", "b"].map(NodeName::from));
        sessions.leave(&first, String::new());
        assert_eq!(sessions.claimants([10, 0, 0, 1].into()), [NodeName::from("b")]);
    }
}
