//! The watches that the index lives on.

use proto::{Kind, Object, ObjectPath};

/// Which watch an event came from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Watch {
    /// Edge nodes.
    Nodes,
    /// Pods of all namespaces.
    Pods,
    /// Metadata of ConfigMaps.
    ConfigMaps,
    /// Metadata of Secrets.
    Secrets,
}

impl Watch {
    /// All, in the order in which their first lists are taken: Pods are kept for known nodes only.
    pub(super) const ALL: [Self; 4] = [Self::Nodes, Self::ConfigMaps, Self::Secrets, Self::Pods];

    pub(super) const fn kind(self) -> Kind {
        match self {
            Self::Nodes => Kind::Node,
            Self::Pods => Kind::Pod,
            Self::ConfigMaps => Kind::ConfigMap,
            Self::Secrets => Kind::Secret,
        }
    }

    /// Where an object of it travels.
    pub(super) fn path(self, object: &Object) -> ObjectPath {
        let kind = self.kind();
        if kind == Kind::Node {
            ObjectPath::cluster(kind, object.name())
        } else {
            ObjectPath::new(object.namespace(), kind, object.name())
        }
    }
}
