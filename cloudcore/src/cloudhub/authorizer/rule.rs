//! How a message is decided on.

use proto::{Kind, Message, NodeName, Object, ObjectPath, Operation, Route, Source};
use serde_json::Value;

use super::review::ReviewRequest;

/// Where the leases of nodes are.
const LEASES: &str = "kube-node-lease";

/// Marks the image in the API of a pod that the node made from a file.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What a mirror pod may not name: Kubernetes' node authorizer lets a node read whatever its pods refer to, so that a pod which a
/// node makes itself would open any Secret to it. The same as the API server's NodeRestriction asks of kubelets.
const REFERENCES: [&str; 9] = [
    "secret",
    "secretRef",
    "secretKeyRef",
    "secretName",
    "configMap",
    "configMapRef",
    "configMapKeyRef",
    "persistentVolumeClaim",
    "imagePullSecrets",
];

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rule {
    Allow,
    Refuse(&'static str),
    /// Allowed for a pod that is bound to the node.
    BoundPod(ObjectPath),
    /// Kubernetes decides.
    Review(ReviewRequest),
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
    if always || matches!(message.source, Source::MetaServer | Source::Twin) {
        return Rule::Allow;
    }
    match &message.route {
        Route::ClusterCa | Route::InventorySync | Route::Node | Route::WatchSync => Rule::Allow,
        Route::Membership | Route::MembershipDetail => Rule::Allow,
        Route::Object(path) => object_rule(node, message, path),
        Route::Other(_) => Rule::Refuse("no node asks for such a resource"),
    }
}

fn object_rule(node: &NodeName, message: &Message, path: &ObjectPath) -> Rule {
    let own = path.name_str() == node.as_str();
    match &path.kind {
        Kind::Volume | Kind::RuleStatus | Kind::Event => Rule::Allow,
        Kind::Node | Kind::NodeStatus | Kind::NodePatch if message.operation == Operation::Delete => {
            review(message, path)
        }
        Kind::Node | Kind::NodeStatus | Kind::NodePatch => own_only(own, "a node may read and write its own Node only"),
        Kind::Lease => own_only(
            own && path.namespace.as_str() == LEASES,
            "a node may read and write its own Lease only",
        ),
        Kind::PodStatus if path.name.is_none() => Rule::Allow,
        Kind::PodStatus | Kind::PodPatch => Rule::BoundPod(path.clone()),
        Kind::Pod => match message.operation {
            Operation::Delete => Rule::BoundPod(path.clone()),
            Operation::Insert => mirror_pod(node, message, path),
            _ => review(message, path),
        },
        _ => review(message, path),
    }
}

fn own_only(own: bool, reason: &'static str) -> Rule {
    if own { Rule::Allow } else { Rule::Refuse(reason) }
}

fn mirror_pod(node: &NodeName, message: &Message, path: &ObjectPath) -> Rule {
    let Ok(pod) = message.content.object() else {
        return Rule::Refuse("the content is no pod");
    };
    if pod.spec_node_name().as_ref() != Some(node) {
        return Rule::Refuse("a node may make pods for itself only");
    }
    if pod.name().as_str() != path.name_str() || pod.namespace() != path.namespace {
        return Rule::Refuse("the pod is not the one that the resource names");
    }
    if has_references(&pod) {
        return Rule::Refuse(
            "a node may make mirror pods only, which name no service account, Secret, ConfigMap or volume claim",
        );
    }
    Rule::Allow
}

fn has_references(pod: &Object) -> bool {
    let Ok(pod) = pod.view::<Value>() else { return true };
    let is_mirror = pod
        .pointer("/metadata/annotations")
        .is_some_and(|annotations| annotations.get(MIRROR).is_some());
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let has_account = ["serviceAccountName", "serviceAccount"].iter().any(|key| {
        spec.get(key)
            .and_then(Value::as_str)
            .is_some_and(|name| !name.is_empty())
    });
    !is_mirror || has_account || names(spec)
}

fn names(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, value)| {
            (REFERENCES.contains(&key.as_str())
                && !value.is_null()
                && value.as_array().is_none_or(|list| !list.is_empty()))
                || names(value)
        }),
        Value::Array(list) => list.iter().any(names),
        _ => false,
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
