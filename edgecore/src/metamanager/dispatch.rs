//! What one downstream message means: pure, the database and the socket are elsewhere (spec 05 §3.2).

use std::sync::Arc;

use proto::{Content, Group, Kind, Message, NodeName, Object, ObjectPath, Operation, Route, Source, Uid};
use serde::Deserialize;

use super::DesiredPod;
use super::store::Op;
use crate::pod::Pod;

/// What to do with a message.
#[derive(Debug)]
pub(super) enum Plan {
    /// Make the changes, tell of them, acknowledge.
    Apply(Box<Step>),
    /// Say that it cannot be done.
    Refuse(String),
    /// Nothing, and nobody waits.
    Ignore(&'static str),
}

/// A change of one object.
#[derive(Debug)]
pub(super) struct Step {
    /// For the database; the first one's outcome decides whether anything is told.
    pub(super) ops: Vec<Op>,
    /// For the listeners.
    pub(super) news: News,
    /// To be sent after commit.
    pub(super) ack: Option<Message>,
}

/// Whom a change concerns.
#[derive(Debug)]
pub(super) enum News {
    /// A pod of this node.
    Pod(Arc<DesiredPod>),
    /// A pod that is no longer wanted here; an empty uid means whichever has the name.
    PodGone {
        /// Namespace and name.
        path: ObjectPath,
        /// The uid.
        uid: Uid,
        /// Seconds that it was given to end, if its deletion said so.
        grace: Option<i64>,
    },
    /// Any other object.
    Changed(ObjectPath),
    /// Nobody.
    None,
}

/// Decides.
pub(super) fn plan(message: &Message, node: &NodeName) -> Plan {
    match &message.operation {
        Operation::Insert | Operation::Update => stored(message, node, true),
        Operation::Delete => removed(message),
        // A list that nobody asked for: Go stores what it is sent, and acknowledges nothing.
        Operation::Response if message.parent.is_none() => match stored(message, node, false) {
            Plan::Refuse(_) => Plan::Ignore("an answer to no question"),
            plan => plan,
        },
        Operation::Patch => Plan::Ignore("a patch from the cloud"),
        operation if operation.is_volume() => {
            Plan::Refuse("volumes of the container storage interface are not served here".into())
        }
        _ => Plan::Ignore("an operation unknown here"),
    }
}

/// The acknowledgement: source, group and route as received, but for inserts of devices, which Go reroutes before (spec 05 §3.2).
pub(super) fn ack_of(message: &Message) -> Message {
    let mut ack = Message::ack_of(message);
    if message.source == Source::DeviceController && message.operation == Operation::Insert {
        ack.source = Source::Meta;
        ack.group = Group::Twin;
    }
    ack
}

/// The answer that makes the cloud send the message again later.
pub(super) fn refusal_of(message: &Message, reason: &str) -> Message {
    Message::new(
        Source::MetaManager,
        Group::Resource,
        Operation::Error,
        message.route.clone(),
        Content::text(reason),
    )
    .answering(&message.id)
}

/// The pod, if it is this node's: MetaServer's watches bring those of others (spec 05 §5.2).
pub(super) fn pod_of_node(object: &Object, node: &NodeName) -> Result<Option<Arc<DesiredPod>>, proto::BadObject> {
    if object.spec_node_name().as_ref() != Some(node) {
        return Ok(None);
    }
    let pod = Arc::new(object.view::<Pod>()?);
    Ok(Some(Arc::new(DesiredPod {
        object: object.clone(),
        pod,
    })))
}

fn named(message: &Message) -> Result<&ObjectPath, String> {
    match &message.route {
        Route::Object(path) if path.name.is_some() => Ok(path),
        other => Err(format!("{other} names no object")),
    }
}

fn stored(message: &Message, node: &NodeName, acked: bool) -> Plan {
    let path = match named(message) {
        Ok(path) => path.clone(),
        Err(reason) => return Plan::Refuse(reason),
    };
    let object = match message.content.object() {
        Ok(object) => object,
        Err(error) => return Plan::Refuse(format!("{path}: {}", common::chain(&error))),
    };
    let object = typed(&path.kind, object);
    let news = match &path.kind {
        Kind::Pod => match pod_of_node(&object, node) {
            Ok(Some(pod)) => News::Pod(pod),
            Ok(None) => News::None,
            Err(error) => return Plan::Refuse(format!("{path}: {}", common::chain(&error))),
        },
        Kind::Node => News::None,
        _ => News::Changed(path.clone()),
    };
    let ack = acked.then(|| ack_of(message));
    Plan::Apply(Box::new(Step {
        ops: vec![Op::Put { path, object }],
        news,
        ack,
    }))
}

fn removed(message: &Message) -> Plan {
    let path = match named(message) {
        Ok(path) => path.clone(),
        Err(reason) => return Plan::Refuse(reason),
    };
    // A cloud that no longer finds an object sends a delete without a body, or with an object without a uid: it matches whatever is there.
    let object = if message.content.is_null() {
        None
    } else {
        match message.content.object() {
            Ok(object) => Some(typed(&path.kind, object)),
            Err(error) => return Plan::Refuse(format!("{path}: {}", common::chain(&error))),
        }
    };
    let uid = object.as_ref().map_or_else(|| Uid::new(""), Object::uid);
    let grace = object.as_ref().and_then(grace);
    let mut ops = vec![Op::Remove {
        path: path.clone(),
        uid: uid.clone(),
        object,
    }];
    let news = if path.kind == Kind::Pod {
        ops.push(Op::RemoveTokens(uid.clone()));
        ops.push(Op::RemovePatch { path: path.clone() });
        News::PodGone { path, uid, grace }
    } else {
        News::Changed(path)
    };
    Plan::Apply(Box::new(Step {
        ops,
        news,
        ack: Some(ack_of(message)),
    }))
}

/// The grace time of an object that is being deleted, in seconds.
fn grace(object: &Object) -> Option<i64> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Meta {
        deletion_grace_period_seconds: Option<i64>,
    }
    #[derive(Deserialize)]
    struct View {
        metadata: Meta,
    }
    let view: View = object.is_deleting().then(|| object.view().ok())??;
    view.metadata.deletion_grace_period_seconds
}

/// Answers to inserts and patches carry no type; rows need one.
pub(super) fn typed(kind: &Kind, object: Object) -> Object {
    match kind {
        Kind::Pod => object.with_type("v1", "Pod"),
        Kind::Node => object.with_type("v1", "Node"),
        Kind::ConfigMap => object.with_type("v1", "ConfigMap"),
        Kind::Secret => object.with_type("v1", "Secret"),
        Kind::PersistentVolume => object.with_type("v1", "PersistentVolume"),
        Kind::PersistentVolumeClaim => object.with_type("v1", "PersistentVolumeClaim"),
        Kind::VolumeAttachment => object.with_type("storage.k8s.io/v1", "VolumeAttachment"),
        Kind::Service => object.with_type("v1", "Service"),
        Kind::Endpoints => object.with_type("v1", "Endpoints"),
        _ => object,
    }
}
