//! CloudHub: the sessions with the edges, and the only way out of the cloud.
//!
//! Owns the connections on ports 10000 (WebSocket) and 10001 (QUIC), one outbox per connected node, and the certificates and tokens by
//! which nodes join (port 10002). Reads messages for nodes from the controllers ([`CloudHub::send`]); emits the nodes' messages
//! ([`Upstream`]) and their coming and going ([`SessionEvent`]). Keepalive, acknowledgements, errors of edges and the question for the
//! cluster's CA are answered here and go no further. It holds no objects for nodes that are away: who wants them delivered sends what is
//! missing on [`SessionEvent::Connected`]. It writes nothing to the API but the join secrets; delivery is recorded through
//! [`DeliveryRecords`]. Spec 01, spec 02 §4; behaviour documented by KubeEdge under "CloudHub".

mod authorizer;
mod identity;
mod metrics;
mod outbox;
mod records;
mod revoked;
mod servers;
mod session;
mod settings;
#[cfg(test)]
pub(crate) mod tests;
mod uploads;
mod vouch;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::Tasks;
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;
use proto::device::DeviceId;
use proto::{Features, Message, NodeName, ObjectPath, Status};
use thiserror::Error;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::timeout;
use tracing::warn;

pub use authorizer::{AccessReview, ReviewRequest};
pub(crate) use identity::unix_now;
pub use identity::{Identity, IdentityError, SecretError, SecretStore, StoredSecret};
pub use records::{DeliveryRecords, ObjectRef};
pub use revoked::Revoked;
pub use settings::{BadSetting, Settings};
pub use vouch::NotVouched;

use metrics::{Metrics, SessionCollector};
use outbox::{Lane, Rank};
use session::{End, Session};

/// Session events that a slow listener may fall behind by; one that lags reads [`CloudHub::connected`] anew.
const SESSION_EVENTS: usize = 4096;
/// The first list of revoked certificates takes so long at most without a warning.
const REVOCATIONS: Duration = Duration::from_secs(10);

/// A message of a node, for the controllers.
#[derive(Debug)]
pub struct Upstream {
    /// The node whose session it came through.
    pub node: NodeName,
    /// The message.
    pub message: Message,
}

/// A node came or went.
#[derive(Clone, Debug)]
pub enum SessionEvent {
    /// A session was accepted; also when it replaces one of the same node.
    Connected {
        /// The node.
        node: NodeName,
        /// What both sides can do; empty for Go edges.
        features: Features,
        /// Whether the certificate is of the form that edges up to v1.15 have.
        legacy: bool,
    },
    /// The node's last session ended.
    Disconnected {
        /// The node.
        node: NodeName,
    },
}

/// Where a pod runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodPlace {
    /// There is no such pod.
    Absent,
    /// It waits for a node.
    Unbound,
    /// On this node.
    Node(NodeName),
}

/// What the hub asks the cluster about, beside access reviews.
pub trait Cluster: Send + Sync {
    /// Whether a Node object of this name exists; an error is the API's.
    fn node_exists<'a>(&'a self, node: &'a NodeName) -> BoxFuture<'a, Result<bool, Status>>;

    /// Where a pod runs; an error is the API's.
    fn place_of_pod<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<PodPlace, Status>>;

    /// Whether a node may report about a device: not when the Device is known to be another node's.
    fn may_report(&self, node: &NodeName, device: &DeviceId) -> bool;

    /// PEM text of the CA that the API server's certificate is of; empty when unknown.
    fn certificate_authority(&self) -> Arc<str>;

    /// A node's report on a task by way of port 10002 (keadm v1.12 to v1.15: `/nodeupgrade`; later: `/task/…/status`).
    fn task_report(&self, report: TaskReport);
}

/// A report on a node task that came over HTTPS (spec 01 §7.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskReport {
    /// The node, as its certificate says.
    pub node: NodeName,
    /// `upgrade`, `imageprepull`, …
    pub task_type: String,
    /// The task's id.
    pub task_id: String,
    /// The report as it came, JSON.
    pub body: String,
}

/// What [`CloudHub::start`] needs.
pub struct Parts {
    /// The configuration.
    pub settings: Settings,
    /// CA, server certificate and token.
    pub identity: Identity,
    /// Kubernetes' own authorizer.
    pub access: Arc<dyn AccessReview>,
    /// Questions about the cluster.
    pub cluster: Arc<dyn Cluster>,
    /// Where acknowledgements are recorded.
    pub records: Arc<dyn DeliveryRecords>,
    /// Where the nodes' messages go. When it is full, sessions wait and read no more until there is room.
    pub upstream: mpsc::Sender<Upstream>,
    /// Where those of their DeviceTwins go, likewise; `None` where nobody looks after devices.
    pub twins: Option<mpsc::Sender<Upstream>>,
    /// The group that the hub's tasks belong to.
    pub tasks: Tasks,
}

/// Why the hub does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A port cannot be had.
    #[error("cannot listen on {address} for {what}")]
    Listen {
        /// What it is for.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The CA cannot serve TLS.
    #[error("cannot serve TLS with the CA and certificate of the secrets casecret and cloudcoresecret")]
    Tls(#[from] common::tls::server::ServerTlsError),
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct CloudHub {
    shared: Arc<Shared>,
    websocket: SocketAddr,
    quic: Option<SocketAddr>,
    https: SocketAddr,
}

/// What the handle, the servers and the sessions share.
struct Shared {
    settings: Settings,
    identity: Identity,
    authorizer: authorizer::Authorizer,
    cluster: Arc<dyn Cluster>,
    records: Arc<dyn DeliveryRecords>,
    upstream: mpsc::Sender<Upstream>,
    twins: Option<mpsc::Sender<Upstream>>,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    uploads: uploads::Uploads,
    sessions: RwLock<HashMap<NodeName, Arc<Session>>>,
    /// Nodes whose last session had an inventory: they need no delivery records while they are away.
    inventoried: Mutex<HashSet<NodeName>>,
    revoked: RwLock<Revoked>,
    /// Whether the first list is there; told with each one.
    revocations: watch::Sender<bool>,
    events: broadcast::Sender<SessionEvent>,
}

impl CloudHub {
    /// Opens the ports and serves. The tasks end with `parts.tasks`.
    pub async fn start(parts: Parts, registry: &mut Registry) -> Result<Self, StartError> {
        let Parts {
            settings,
            identity,
            access,
            cluster,
            records,
            upstream,
            twins,
            tasks,
        } = parts;
        let metrics = Arc::new(Metrics::default());
        metrics.register(registry);
        let uploads = uploads::Uploads::default();
        uploads.register(registry);
        let shared = Arc::new(Shared {
            authorizer: authorizer::Authorizer::new(&settings, access, cluster.clone()),
            settings,
            identity,
            cluster,
            records,
            upstream,
            twins,
            tasks,
            metrics,
            uploads,
            sessions: RwLock::default(),
            inventoried: Mutex::default(),
            revoked: RwLock::default(),
            revocations: watch::channel(false).0,
            events: broadcast::channel(SESSION_EVENTS).0,
        });
        registry.register_collector(Box::new(SessionCollector(Arc::downgrade(&shared))));
        let https = servers::httpserver::start(&shared).await?;
        let websocket = servers::websocket::start(&shared).await?;
        let quic = servers::quic::start(&shared);
        Ok(Self {
            shared,
            websocket,
            quic,
            https,
        })
    }

    /// Where edges connect; the port is the real one when 0 was asked for.
    pub const fn websocket_address(&self) -> SocketAddr {
        self.websocket
    }

    /// Where our own edges connect over QUIC; `None` where there is none.
    pub const fn quic_address(&self) -> Option<SocketAddr> {
        self.quic
    }

    /// Where nodes join.
    pub const fn https_address(&self) -> SocketAddr {
        self.https
    }

    /// Sends a message to a node. Returns at once: what cannot leave yet waits in the node's outbox, where a newer state of the same
    /// object takes the place of an older one. For a node without a session, a first delivery of an object is recorded as begun,
    /// so that it is delivered once the node is back; everything else is dropped.
    pub async fn send(&self, node: &NodeName, message: Message) {
        self.shared.send(node, message).await;
    }

    /// Whether the node has a session here.
    pub fn is_connected(&self, node: &NodeName) -> bool {
        self.shared.sessions.read().contains_key(node)
    }

    /// What the node's session can do; `None` without a session.
    pub fn features(&self, node: &NodeName) -> Option<Features> {
        self.shared.sessions.read().get(node).map(|session| session.features)
    }

    /// The nodes with a session here.
    pub fn connected(&self) -> Vec<NodeName> {
        self.shared.sessions.read().keys().cloned().collect()
    }

    /// How many nodes have a session here.
    pub fn connected_count(&self) -> usize {
        self.shared.sessions.read().len()
    }

    /// Coming and going from now on. A listener that lags asks [`CloudHub::connected`].
    pub fn sessions(&self) -> broadcast::Receiver<SessionEvent> {
        self.shared.events.subscribe()
    }

    /// From now on trusts the certificates on this list no more, and ends the sessions that stand on them.
    pub fn revoke(&self, revoked: Revoked) {
        let sessions: Vec<Arc<Session>> = self.shared.sessions.read().values().cloned().collect();
        // The list is in place before the sessions are ended: none of them finds its way back meanwhile.
        *self.shared.revoked.write() = revoked;
        self.shared.revocations.send_replace(true);
        let revoked = self.shared.revoked.read();
        for session in sessions {
            if revoked.refuses(&session.node, session.issued) {
                warn!(node = %session.node, "the certificate of the node is revoked, its session ends");
                session.end(End::Disconnected);
            }
        }
    }

    /// Told when the list of revoked certificates changes: ask [`CloudHub::trusts`] anew. False until there is a first list.
    pub fn revocations(&self) -> watch::Receiver<bool> {
        self.shared.revocations.subscribe()
    }

    /// Waits for the first list of revoked certificates. Until then nobody is let in: a revoked node must not profit by a restart.
    pub async fn wait_for_revocations(&self) {
        self.shared.wait_for_revocations().await;
    }

    /// Ends the node's session: its Node object was deleted, or its certificate is trusted no more.
    pub fn disconnect(&self, node: &NodeName) {
        let session = self.shared.sessions.read().get(node).cloned();
        if let Some(session) = session {
            session.end(End::Disconnected);
        }
        self.shared.inventoried.lock().remove(node);
    }
}

/// No place for another node.
struct NodeLimit;

impl Shared {
    /// Returns when it is known which nodes are revoked. Connections that come meanwhile wait in the kernel's queue.
    async fn wait_for_revocations(&self) {
        let mut known = self.revocations.subscribe();
        // This cannot fail: the sender is a part of `self`, so it lives as long as anybody waits here.
        let known = async { drop(known.wait_for(|known| *known).await) };
        tokio::pin!(known);
        if timeout(REVOCATIONS, &mut known).await.is_err() {
            warn!(
                "nobody is let in before it is known who is revoked: the ConfigMap kubeedge/revokednodes cannot be asked for so far"
            );
            known.await;
        }
    }

    async fn send(&self, node: &NodeName, message: Message) {
        let lane = outbox::lane(&message);
        let session = self.sessions.read().get(node).cloned();
        let recorded = match &lane {
            Lane::State(object, state) if state.rank == Rank::Live && self.keeps_records(node, session.as_deref()) => {
                let recorded = self.records.recorded(node, &object.uid);
                if recorded.is_none() {
                    self.records.begin(node, object).await;
                }
                recorded
            }
            _ => None,
        };
        if let Some(session) = session {
            session.offer(message, lane, recorded.as_deref());
        }
    }

    fn keeps_records(&self, node: &NodeName, session: Option<&Session>) -> bool {
        session.map_or_else(
            || !self.inventoried.lock().contains(node),
            |session| !session.features.has_inventory(),
        )
    }

    /// Makes the session known and ends the one that the node had. The limit does not count the session that is replaced.
    fn admit(&self, session: Session) -> Result<Arc<Session>, NodeLimit> {
        let session = Arc::new(session);
        let (node, features) = (session.node.clone(), session.features);
        let mut sessions = self.sessions.write();
        if sessions.len() >= self.settings.node_limit && !sessions.contains_key(&node) {
            return Err(NodeLimit);
        }
        let replaced = sessions.insert(node.clone(), session.clone());
        drop(sessions);
        if let Some(replaced) = replaced {
            replaced.end(End::Replaced);
        }
        let mut inventoried = self.inventoried.lock();
        if features.has_inventory() {
            inventoried.insert(node);
        } else {
            inventoried.remove(&node);
        }
        Ok(session)
    }

    /// Forgets the session, unless another one has its place already.
    fn leave(&self, session: &Arc<Session>) {
        let mut sessions = self.sessions.write();
        let is_last = sessions
            .get(&session.node)
            .is_some_and(|known| Arc::ptr_eq(known, session));
        if is_last {
            sessions.remove(&session.node);
        }
        drop(sessions);
        if is_last {
            self.emit(SessionEvent::Disconnected {
                node: session.node.clone(),
            });
        }
    }

    fn emit(&self, event: SessionEvent) {
        // Without a listener nobody misses it.
        let _ = self.events.send(event);
    }
}
