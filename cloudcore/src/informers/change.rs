//! What the index tells.

use proto::{NodeName, Object, ObjectPath, Operation};

/// What nodes have to hear of.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A Pod of a node.
    Pod {
        /// Where it is to run.
        node: NodeName,
        /// Insert, update or delete.
        operation: Operation,
        /// The Pod; only its metadata when it vanished unseen.
        pod: Object,
    },
    /// The node itself.
    Node {
        /// Which.
        node: NodeName,
        /// The Node.
        object: Object,
    },
    /// An edge node that was not known before: its Pods have to be looked up.
    NodeAppeared {
        /// Which.
        node: NodeName,
    },
    /// The Node was deleted, or is no edge node any more.
    NodeGone {
        /// Which.
        node: NodeName,
    },
    /// A ConfigMap or Secret that Pods of these nodes name. Its body is not known here.
    Referenced {
        /// Which.
        path: ObjectPath,
        /// Insert, update or delete.
        operation: Operation,
        /// Its metadata.
        object: Object,
        /// Whom it concerns.
        nodes: Vec<NodeName>,
    },
}

/// How a node needs a ConfigMap or Secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// No Pod of the node names it.
    None,
    /// All Pods that name it start without it.
    Optional,
    /// A Pod cannot start without it.
    Required,
}
