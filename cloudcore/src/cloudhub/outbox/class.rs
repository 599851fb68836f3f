//! Which messages a node must acknowledge, and how they are kept until then (spec 01 §5.6).

use proto::{Answer, Kind, Message, Operation, Route, Source};

use crate::cloudhub::records::ObjectRef;

/// Parts of a resource that make a message one without acknowledgement. Go looks for them anywhere in the resource; here names do not
/// count, or a Pod called `membership-0` would be sent once and never again.
const NOTICES: [&str; 6] = [
    "inventory/sync",
    "podlist",
    "membership",
    "twin/cloud_updated",
    "serviceaccounttoken",
    "k8s/ca.crt",
];

/// The classes as they are counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(in crate::cloudhub) enum Class {
    /// The state of an object: kept until acknowledged, newest wins.
    State,
    /// The answer to a request: repeated for one cycle, then nobody waits for it.
    Answer,
    /// Sent once.
    Notice,
}

impl Class {
    pub(in crate::cloudhub) const ALL: [Self; 3] = [Self::State, Self::Answer, Self::Notice];

    pub(in crate::cloudhub) const fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Answer => "answer",
            Self::Notice => "notice",
        }
    }
}

/// How a message travels.
#[derive(Debug)]
pub(in crate::cloudhub) enum Lane {
    Notice,
    /// With the object that it carries, if any: a node that asked for an object is recorded as having it.
    Answer(Option<ObjectRef>),
    State(ObjectRef, State),
}

/// What a state message says about its object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::cloudhub) struct State {
    /// The resource version; `None` when it is absent or no number: such a message cannot be compared and is sent.
    pub(in crate::cloudhub) version: Option<u64>,
    pub(in crate::cloudhub) rank: Rank,
}

/// A message never replaces one of higher rank.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::cloudhub) enum Rank {
    /// The object lives.
    Live,
    /// It has a deletion timestamp.
    Deleting,
    /// It is gone.
    Deleted,
}

/// The lane of a message. One without an object that could be told from others is sent once.
pub(in crate::cloudhub) fn lane(message: &Message) -> Lane {
    if needs_no_ack(message) {
        return Lane::Notice;
    }
    if message.operation == Operation::Response {
        let object = message.content.object().ok();
        let object = object.filter(|object| !object.meta().uid.is_empty() && !object.meta().kind.is_empty());
        return Lane::Answer(object.as_ref().map(ObjectRef::from));
    }
    let Ok(object) = message.content.object() else {
        return Lane::Notice;
    };
    if object.meta().uid.is_empty() {
        return Lane::Notice;
    }
    let rank = match message.operation {
        Operation::Delete => Rank::Deleted,
        _ if object.is_deleting() => Rank::Deleting,
        _ => Rank::Live,
    };
    let version = if message.version.is_empty() {
        object.version()
    } else {
        message.version.parse().ok()
    };
    Lane::State(ObjectRef::from(&object), State { version, rank })
}

fn needs_no_ack(message: &Message) -> bool {
    let resource = match &message.route {
        Route::Object(path) => path.kind.as_str().to_owned(),
        route => route.render(),
    };
    if NOTICES.iter().any(|part| resource.contains(part)) {
        return true;
    }
    if message.operation.is_volume()
        || message.operation == Operation::ApplicationResponse
        || message.group == proto::Group::User
        || matches!(message.source, Source::TaskManager | Source::NodeUpgradeJobController)
    {
        return true;
    }
    let response = message.operation == Operation::Response;
    if response && is_plain_answer(message) {
        return true;
    }
    message.source == Source::EdgeController
        && match message.route.kind() {
            Some(Kind::Node) => message.operation != Operation::Update,
            Some(Kind::Pod) => response,
            Some(
                Kind::Lease | Kind::NodePatch | Kind::PodPatch | Kind::PodStatus | Kind::CertificateSigningRequest,
            ) => true,
            _ => false,
        }
}

/// `"OK"` or an error outside of an envelope.
fn is_plain_answer(message: &Message) -> bool {
    match message.content.answer() {
        Answer::Ok => true,
        Answer::Failed(_) => message.content.get().starts_with(r#"{"ErrStatus""#),
        Answer::Envelope(_) | Answer::Plain(_) => false,
    }
}
