//! `route.resource` as a type (spec 01 §2.4, spec 02 §1).
//!
//! Only the form on the wire between the two cores is known here: the `node/<id>/` prefix that Go puts before it inside cloudcore
//! never leaves a process, and ours has none.

use std::fmt;

use crate::ids::{Namespace, ObjectName};
use crate::words::{Group, words};

words! {
    /// The type segment of an object's path.
    Kind {
        /// A Pod.
        Pod = "pod",
        /// A pod's status, edges up to v1.11.
        PodStatus = "podstatus",
        /// A patch of a pod's status.
        PodPatch = "podpatch",
        /// A list of pods, edges up to v1.11.
        PodList = "podlist",
        /// A Node.
        Node = "node",
        /// A node's status, edges up to v1.11.
        NodeStatus = "nodestatus",
        /// A patch of a node's status.
        NodePatch = "nodepatch",
        /// A ConfigMap.
        ConfigMap = "configmap",
        /// A Secret.
        Secret = "secret",
        /// A Lease.
        Lease = "lease",
        /// A TokenRequest for a service account.
        ServiceAccountToken = "serviceaccounttoken",
        /// A PersistentVolume.
        PersistentVolume = "persistentvolume",
        /// A PersistentVolumeClaim.
        PersistentVolumeClaim = "persistentvolumeclaim",
        /// A VolumeAttachment.
        VolumeAttachment = "volumeattachment",
        /// A CertificateSigningRequest.
        CertificateSigningRequest = "certificatesigningrequest",
        /// A core/v1 Event.
        Event = "event",
        /// A volume of the container storage interface.
        Volume = "volume",
        /// A Service.
        Service = "service",
        /// Endpoints.
        Endpoints = "endpoints",
        /// A Device.
        Device = "device",
        /// A DeviceModel.
        DeviceModel = "devicemodel",
        /// The state of a rule.
        RuleStatus = "rulestatus",
        /// Access rules of a service account.
        ServiceAccountAccess = "serviceaccountaccess",
    }
}

/// What a message is about.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Route {
    /// `node`: keepalive.
    Node,
    /// `membership`: the devices of a node.
    Membership,
    /// `membership/detail`: the edge asks for them.
    MembershipDetail,
    /// `k8s/ca.crt`: the API server's certificate authority.
    ClusterCa,
    /// `watchapp/sync`: the watches that MetaServer still has.
    WatchSync,
    /// `inventory/sync`: what the edge holds, between our own programs.
    InventorySync,
    /// `<namespace>/<type>[/<name>]`: an object, a patch of one, a question for one.
    Object(ObjectPath),
    /// Anything else, forwarded untouched: topics, URLs, device twins, node tasks.
    Other(Box<str>),
}

/// `<namespace>/<type>[/<name>]`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ObjectPath {
    /// The namespace segment as sent: peers of different age put `null`, `default` or `namespace` before cluster-scoped objects.
    pub namespace: Namespace,
    /// The type segment.
    pub kind: Kind,
    /// The name, absent in questions for a list.
    pub name: Option<ObjectName>,
}

impl ObjectPath {
    /// The path of one object.
    pub fn new(namespace: impl Into<Namespace>, kind: Kind, name: impl Into<ObjectName>) -> Self {
        Self {
            namespace: namespace.into(),
            kind,
            name: Some(name.into()),
        }
    }

    /// The path of a cluster-scoped object.
    pub fn cluster(kind: Kind, name: impl Into<ObjectName>) -> Self {
        Self {
            namespace: Namespace::cluster(),
            kind,
            name: Some(name.into()),
        }
    }

    /// The name, empty when there is none.
    pub fn name_str(&self) -> &str {
        self.name.as_ref().map_or("", ObjectName::as_str)
    }
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.kind)?;
        self.name.as_ref().map_or(Ok(()), |name| write!(f, "/{name}"))
    }
}

impl From<ObjectPath> for Route {
    fn from(path: ObjectPath) -> Self {
        Self::Object(path)
    }
}

impl Route {
    /// Reads a resource; never fails, what has no type becomes [`Route::Other`]. `render(parse(text)) == text` for every text.
    pub fn parse(group: &Group, text: &str) -> Self {
        match text {
            "node" => return Self::Node,
            "membership" => return Self::Membership,
            "membership/detail" => return Self::MembershipDetail,
            "k8s/ca.crt" => return Self::ClusterCa,
            "watchapp/sync" => return Self::WatchSync,
            "inventory/sync" => return Self::InventorySync,
            _ => {}
        }
        if matches!(group, Group::User | Group::TaskManager | Group::Hub) {
            return Self::Other(text.into());
        }
        let mut parts = text.split('/');
        let (namespace, kind, name, rest) = (parts.next(), parts.next(), parts.next(), parts.next());
        match (namespace, kind, name, rest) {
            (Some(namespace), Some(kind), Some(name), None)
                if !namespace.is_empty() && !kind.is_empty() && !name.is_empty() =>
            {
                Self::Object(ObjectPath {
                    namespace: namespace.into(),
                    kind: kind.into(),
                    name: Some(name.into()),
                })
            }
            (Some(namespace), Some(kind), None, None) if !namespace.is_empty() => match Kind::from(kind) {
                Kind::Other(_) => Self::Other(text.into()),
                kind => Self::Object(ObjectPath {
                    namespace: namespace.into(),
                    kind,
                    name: None,
                }),
            },
            _ => Self::Other(text.into()),
        }
    }

    /// The resource as it stands on the wire.
    pub fn render(&self) -> String {
        self.to_string()
    }

    /// The object's path, when the message is about an object.
    pub fn object(&self) -> Option<&ObjectPath> {
        match self {
            Self::Object(path) => Some(path),
            _ => None,
        }
    }

    /// The type of the object, when the message is about an object.
    pub fn kind(&self) -> Option<&Kind> {
        self.object().map(|path| &path.kind)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Membership => f.write_str("membership"),
            Self::MembershipDetail => f.write_str("membership/detail"),
            Self::ClusterCa => f.write_str("k8s/ca.crt"),
            Self::WatchSync => f.write_str("watchapp/sync"),
            Self::InventorySync => f.write_str("inventory/sync"),
            Self::Object(path) => path.fmt(f),
            Self::Other(text) => f.write_str(text),
        }
    }
}
