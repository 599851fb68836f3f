//! CloudHub: the sessions with the edges, and the only way out of the cloud.
//!
//! Owns the connections on port 10000, one outbox per connected node, and the certificates and tokens by which nodes join (port
//! 10002). Reads messages for nodes from the controllers ([`CloudHub::send`]); emits the nodes' messages ([`Upstream`]) and their
//! coming and going ([`SessionEvent`]). Keepalive, acknowledgements, errors of edges and the question for the cluster's CA are
//! answered here and go no further. It holds no objects for nodes that are away: who wants them delivered sends what is missing
//! on [`SessionEvent::Connected`]. It writes nothing to the API but the join secrets; delivery is recorded through
//! [`DeliveryRecords`]. Spec 01, spec 02 §4; behaviour documented by KubeEdge under "CloudHub".

mod records;
mod settings;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use proto::{Features, Message, NodeName};
use tokio::sync::broadcast;

pub use records::{DeliveryRecords, ObjectRef};
pub use settings::Settings;

/// Session events that a slow listener may fall behind by; one that lags reads [`CloudHub::connected`] anew.
const SESSION_EVENTS: usize = 4096;

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

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct CloudHub {
    shared: Arc<Shared>,
}

struct Shared {
    sessions: RwLock<HashMap<NodeName, Arc<Session>>>,
    records: Arc<dyn DeliveryRecords>,
    events: broadcast::Sender<SessionEvent>,
}

struct Session {
    features: Features,
}

impl CloudHub {
    /// Sends a message to a node. Returns at once: what cannot leave yet waits in the node's outbox, where a newer state of the same
    /// object takes the place of an older one. For a node without a session, a first delivery of an object is recorded as begun,
    /// so that it is delivered once the node is back; everything else is dropped.
    pub async fn send(&self, node: &NodeName, message: Message) {
        let session = self.shared.sessions.read().get(node).cloned();
        if session.is_none()
            && let Ok(object) = message.content.object()
            && self.shared.records.recorded(node, &object.uid()).is_none()
        {
            self.shared.records.begin(node, &ObjectRef::from(&object)).await;
        }
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

    /// Ends the node's session: its Node object was deleted, or its certificate is trusted no more.
    pub fn disconnect(&self, node: &NodeName) {
        self.shared.sessions.write().remove(node);
    }
}
