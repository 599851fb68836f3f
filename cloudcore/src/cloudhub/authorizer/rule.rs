//! How a message is decided on.

use proto::device::{DeviceId, DeviceTopic};
use proto::{Kind, Message, NodeName, ObjectPath, Operation, Route, Source};

use super::content;
use super::request::ReviewRequest;

/// Where the leases of nodes are.
const LEASES: &str = "kube-node-lease";

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rule {
    Allow,
    Refuse(&'static str),
    /// Allowed for a pod that is bound to the node.
    BoundPod(ObjectPath),
    /// Kubernetes decides.
    Review(ReviewRequest),
    /// Both of these.
    BoundPodAndReview(ObjectPath, ReviewRequest),
    /// Allowed for a device of the node.
    OwnDevice(DeviceId),
}

pub(super) fn rule(node: &NodeName, message: &Message) -> Rule {
    let always = matches!(
        message.operation,
        Operation::Response
            | Operation::Error
            | Operation::Upload
            | Operation::Prepull
            | Operation::Upgrade
            | Operation::Keepalive
            | Operation::UpdateNodeActionStatus
    );
    if always {
        return Rule::Allow;
    }
    if matches!(message.source, Source::MetaServer | Source::Twin) {
        return match message.route.kind() {
            Some(kind) if is_of_edged(kind) => Rule::Refuse("devices and the edge API have no say in such objects"),
            _ => DeviceTopic::of(&message.route).map_or(Rule::Allow, |topic| Rule::OwnDevice(topic.device)),
        };
    }
    match &message.route {
        Route::ClusterCa | Route::InventorySync | Route::Node | Route::WatchSync => Rule::Allow,
        Route::Membership | Route::MembershipDetail => Rule::Allow,
        Route::Object(_) if proto::json::is_ambiguous(&message.content.loose_document()) => {
            Rule::Refuse(content::AMBIGUOUS)
        }
        Route::Object(path) => object_rule(node, message, path),
        Route::Other(_) => Rule::Refuse("no node asks for such a resource"),
    }
}

/// What edged and MetaManager ask about, and nobody else.
const fn is_of_edged(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Node
            | Kind::NodeStatus
            | Kind::NodePatch
            | Kind::Pod
            | Kind::PodStatus
            | Kind::PodPatch
            | Kind::Lease
            | Kind::Secret
            | Kind::ConfigMap
            | Kind::ServiceAccountToken
            | Kind::PersistentVolume
            | Kind::PersistentVolumeClaim
            | Kind::VolumeAttachment
            | Kind::CertificateSigningRequest
            | Kind::Event
    )
}

fn object_rule(node: &NodeName, message: &Message, path: &ObjectPath) -> Rule {
    use Operation::{Delete, Insert, Patch, Update};
    let own = path.name_str() == node.as_str();
    let operation = &message.operation;
    match &path.kind {
        Kind::Volume | Kind::RuleStatus => Rule::Allow,
        Kind::Event if matches!(operation, Insert | Update | Patch) => content::event(node, message),
        Kind::Node | Kind::NodeStatus | Kind::NodePatch if *operation == Delete => review(message, path),
        Kind::Node | Kind::NodeStatus | Kind::NodePatch if !own => {
            Rule::Refuse("a node may read and write its own Node only")
        }
        Kind::Node | Kind::NodeStatus if *operation == Insert => content::checked(content::registration(message)),
        Kind::NodePatch => content::checked(content::node_patch(message)),
        Kind::Node | Kind::NodeStatus => Rule::Allow,
        Kind::Lease if !own || path.namespace.as_str() != LEASES => {
            Rule::Refuse("a node may read and write its own Lease only")
        }
        Kind::Lease if matches!(operation, Insert | Update) => content::checked(content::lease(message, path)),
        Kind::Lease => Rule::Allow,
        // The statuses of several pods in one message: the content names them, and whoever writes them asks of each whether it is bound to
        // this node.
        Kind::PodStatus if path.name.is_none() => Rule::Allow,
        Kind::PodStatus => Rule::BoundPod(path.clone()),
        Kind::PodPatch => match content::pod_patch(message) {
            Ok(()) => Rule::BoundPod(path.clone()),
            Err(reason) => Rule::Refuse(reason),
        },
        Kind::Pod if *operation == Delete => Rule::BoundPod(path.clone()),
        Kind::Pod if *operation == Insert => content::checked(content::mirror_pod(node, message, path)),
        Kind::CertificateSigningRequest if *operation == Insert => match content::signing_request(node, message) {
            Ok(()) => review(message, path),
            Err(reason) => Rule::Refuse(reason),
        },
        Kind::ServiceAccountToken => match (content::pod_of_token(message, path), review(message, path)) {
            (Ok(pod), Rule::Review(request)) => Rule::BoundPodAndReview(pod, request),
            (Err(reason), _) => Rule::Refuse(reason),
            (_, other) => other,
        },
        _ => review(message, path),
    }
}

fn review(message: &Message, path: &ObjectPath) -> Rule {
    let (group, resource, subresource, namespaced) = match &path.kind {
        Kind::Pod => ("", "pods", "", true),
        Kind::PodStatus | Kind::PodPatch => ("", "pods", "status", true),
        Kind::Node | Kind::NodeStatus | Kind::NodePatch => ("", "nodes", "", false),
        Kind::ConfigMap => ("", "configmaps", "", true),
        Kind::Secret => ("", "secrets", "", true),
        Kind::Service => ("", "services", "", true),
        Kind::Endpoints => ("", "endpoints", "", true),
        Kind::ServiceAccountToken => ("", "serviceaccounts", "token", true),
        Kind::PersistentVolume => ("", "persistentvolumes", "", false),
        Kind::PersistentVolumeClaim => ("", "persistentvolumeclaims", "", true),
        Kind::VolumeAttachment => ("storage.k8s.io", "volumeattachments", "", false),
        Kind::CertificateSigningRequest => ("certificates.k8s.io", "certificatesigningrequests", "", false),
        _ => return Rule::Refuse("no node asks for such a resource"),
    };
    let verb = match message.operation {
        Operation::Query if path.kind == Kind::ServiceAccountToken => "create",
        Operation::Insert => "create",
        Operation::Query => "get",
        Operation::Update => "update",
        Operation::Patch => "patch",
        Operation::Delete => "delete",
        _ => return Rule::Refuse("no such request"),
    };
    let namespace = if namespaced { path.namespace.as_str() } else { "" };
    let name = path.name_str().into();
    Rule::Review(ReviewRequest {
        verb,
        group,
        resource,
        subresource,
        namespace: namespace.into(),
        name,
    })
}
