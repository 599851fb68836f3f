//! What was delivered to whom: the hub's view of ObjectSync.

use futures::future::BoxFuture;
use proto::{Namespace, NodeName, Object, ObjectName, Uid};

/// Which object a delivery record is about.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ObjectRef {
    /// `apiVersion`; may be empty for deletes, whose content is a shell.
    pub api_version: Box<str>,
    /// `kind`; may be empty likewise.
    pub kind: Box<str>,
    /// The namespace; the cluster scope for cluster-scoped objects.
    pub namespace: Namespace,
    /// The name.
    pub name: ObjectName,
    /// The uid, by which an outbox and ObjectSync know the object.
    pub uid: Uid,
}

impl From<&Object> for ObjectRef {
    fn from(object: &Object) -> Self {
        Self {
            api_version: object.meta().api_version.as_str().into(),
            kind: object.meta().kind.as_str().into(),
            namespace: object.namespace(),
            name: object.name(),
            uid: object.uid(),
        }
    }
}

/// Where acknowledgements are recorded (ObjectSync and ClusterObjectSync; spec 02 §4).
///
/// The methods that write return as soon as the write is queued: sessions call them between two frames. A write that fails is
/// retried by the implementation; the newest version of a record wins there.
pub trait DeliveryRecords: Send + Sync {
    /// The version that the node has acknowledged; `None` without a record, `""` and `"0"` for a record that was begun only.
    fn recorded(&self, node: &NodeName, uid: &Uid) -> Option<String>;

    /// A first delivery begins: makes the record with version `"0"` if there is none.
    fn begin<'a>(&'a self, node: &'a NodeName, object: &'a ObjectRef) -> BoxFuture<'a, ()>;

    /// The node acknowledged this version.
    fn acked<'a>(&'a self, node: &'a NodeName, object: &'a ObjectRef, version: &'a str) -> BoxFuture<'a, ()>;

    /// The node acknowledged the deletion: the record goes.
    fn deleted<'a>(&'a self, node: &'a NodeName, object: &'a ObjectRef) -> BoxFuture<'a, ()>;
}
