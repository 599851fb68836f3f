//! What a request holds, where its resource alone does not tell whom it concerns.
//!
//! cloudcore writes to the API as itself, so that the API server's admission plugin NodeRestriction sees no node: what it asks of
//! kubelets is asked here.

use proto::join::{CertificateName, PeerName};
use proto::{Kind, Message, NodeName, Object, ObjectPath, Operation, json};
use serde_json::{Map, Value};

use super::rule::Rule;
use crate::labels::is_label_of_nodes;

pub(super) type Reason = &'static str;

/// Marks the image in the API of a pod that the node made from a file.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What a mirror pod may not name: Kubernetes' node authorizer lets a node read whatever its pods refer to, so that a pod which a
/// node makes itself would open any Secret to it. The same as the API server's NodeRestriction asks of kubelets.
const REFERENCES: [&str; 12] = [
    "secret",
    "secretRef",
    "secretKeyRef",
    "secretName",
    "configMap",
    "configMapRef",
    "configMapKeyRef",
    "persistentVolumeClaim",
    "imagePullSecrets",
    "nodePublishSecretRef",
    "ephemeral",
    "resourceClaims",
];

/// Signers of the certificates that a kubelet has.
const SIGNERS: [&str; 2] = [
    "kubernetes.io/kubelet-serving",
    "kubernetes.io/kube-apiserver-client-kubelet",
];

/// Metadata that a patch of a status may name: what tells which object is meant, and annotations.
const PATCHED_METADATA: [&str; 6] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "annotations",
];

const FORBIDDEN_LABELS: Reason =
    "a node may not give itself labels of Kubernetes but those of kubelets and of edge nodes";

pub(super) const AMBIGUOUS: Reason = "a request may not name a key twice, nor one that its readers keep for themselves";

pub(super) fn checked(verdict: Result<(), Reason>) -> Rule {
    match verdict {
        Ok(()) => Rule::Allow,
        Err(reason) => Rule::Refuse(reason),
    }
}

/// A Node that is to be made.
pub(super) fn registration(message: &Message) -> Result<(), Reason> {
    let node: Value = match message.content.parse() {
        Ok(node) => node,
        // Refused, as another reader may understand what ours cannot, such as a number beyond all bounds.
        Err(_) if message.content.document().trim_start().starts_with('{') => return Err("the content is no Node"),
        // Let through as harmless: nobody can make an object of it, and the answer to the edge tells what is wrong.
        Err(_) => Value::Null,
    };
    let labels = node["metadata"]["labels"].as_object();
    if labels.into_iter().flatten().all(|(key, _)| is_label_of_nodes(key)) {
        Ok(())
    } else {
        Err(FORBIDDEN_LABELS)
    }
}

/// A patch of a Node's status, which reaches its metadata too.
pub(super) fn node_patch(message: &Message) -> Result<(), Reason> {
    let mut metadata = status_patch(message)?;
    // `null` would take all labels away.
    let is_permitted = metadata.remove("labels").is_none_or(|labels| {
        labels
            .as_object()
            .is_some_and(|labels| labels.keys().all(|key| is_label_of_nodes(key)))
    });
    if !is_permitted {
        return Err(FORBIDDEN_LABELS);
    }
    only_plain(&metadata)
}

/// A patch of a Pod's status.
pub(super) fn pod_patch(message: &Message) -> Result<(), Reason> {
    only_plain(&status_patch(message)?)
}

fn only_plain(metadata: &Map<String, Value>) -> Result<(), Reason> {
    if metadata.keys().all(|key| PATCHED_METADATA.contains(&key.as_str())) {
        Ok(())
    } else {
        Err("a node may not change labels, owners or finalizers with a status")
    }
}

/// The metadata in a patch of a status. A directive there or beside it could put away what nodes have no say in; those within the
/// status are kubelets' own, such as the order of conditions.
fn status_patch(message: &Message) -> Result<Map<String, Value>, Reason> {
    let Ok(Value::Object(mut patch)) = json::from_str(&message.content.loose_document()) else {
        return Err("the content is no patch");
    };
    if patch
        .iter()
        .any(|(key, value)| is_directive(key) || (key != "status" && has_directive(value)))
    {
        return Err("a patch of a status may hold directives within the status only");
    }
    match patch.remove("metadata") {
        None => Ok(Map::new()),
        Some(Value::Object(metadata)) => Ok(metadata),
        Some(_) => Err("the content is no patch"),
    }
}

/// What a strategic merge patch takes for an order, whatever the key's depth.
fn is_directive(key: &str) -> bool {
    key.starts_with('$')
}

fn has_directive(patch: &Value) -> bool {
    match patch {
        Value::Object(map) => map.iter().any(|(key, value)| is_directive(key) || has_directive(value)),
        Value::Array(list) => list.iter().any(has_directive),
        _ => false,
    }
}

/// A Lease is made under the name in its content.
pub(super) fn lease(message: &Message, path: &ObjectPath) -> Result<(), Reason> {
    let Ok(lease) = message.content.object() else {
        // Let through as harmless: nobody can make an object of it, and the answer to the edge tells what is wrong.
        return Ok(());
    };
    if lease.name().as_str() == path.name_str() {
        Ok(())
    } else {
        Err("the Lease is not the one that the resource names")
    }
}

/// An Event has to be about the node or one of its pods, and be called after it, as kubelet calls its own.
pub(super) fn event(node: &NodeName, message: &Message) -> Rule {
    let content: Value = message.content.parse().unwrap_or_default();
    let event = if message.operation == Operation::Patch {
        if let Err(reason) = event_patch(text(&content, "/patchData")) {
            return Rule::Refuse(reason);
        }
        &content["event"]
    } else {
        &content
    };
    let (kind, name) = (text(event, "/involvedObject/kind"), text(event, "/involvedObject/name"));
    let is_named_after = text(event, "/metadata/name")
        .strip_prefix(name)
        .is_some_and(|rest| rest.starts_with('.'));
    if name.is_empty() || !is_named_after {
        return Rule::Refuse("an Event of a node has to be called after the object that it is about");
    }
    match kind {
        "Node" if name == node.as_str() => Rule::Allow,
        "Pod" => Rule::BoundPod(ObjectPath::new(
            text(event, "/involvedObject/namespace"),
            Kind::Pod,
            name,
        )),
        _ => Rule::Refuse("a node may write Events about itself and its pods only"),
    }
}

fn event_patch(patch: &str) -> Result<(), Reason> {
    if json::is_ambiguous(patch) {
        return Err(AMBIGUOUS);
    }
    let Ok(patch @ Value::Object(_)) = json::from_str(patch) else {
        return Err("the content is no patch");
    };
    let has_subject = ["metadata", "involvedObject"]
        .iter()
        .any(|key| patch.get(key).is_some());
    if has_subject || has_directive(&patch) {
        return Err("a patch of an Event may not change what it is about");
    }
    Ok(())
}

/// A certificate of Kubernetes itself: cloudcore asks for it, the name in it counts.
pub(super) fn signing_request(node: &NodeName, message: &Message) -> Result<(), Reason> {
    let content: Value = message.content.parse().unwrap_or_default();
    if !SIGNERS.contains(&text(&content, "/spec/signerName")) {
        return Err("a node may ask the signers of kubelets' certificates only");
    }
    match CertificateName::of_encoded_request(text(&content, "/spec/request")).and_then(|name| name.peer()) {
        Some(PeerName::Node(name)) if name == *node => Ok(()),
        _ => Err("a node may ask for certificates in its own name only"),
    }
}

/// The pod that a token is asked for; without one it would outlive the pod, and leave with it.
pub(super) fn pod_of_token(message: &Message, path: &ObjectPath) -> Result<ObjectPath, Reason> {
    let content: Value = message.content.parse().unwrap_or_default();
    let (kind, name) = (
        text(&content, "/spec/boundObjectRef/kind"),
        text(&content, "/spec/boundObjectRef/name"),
    );
    if kind != "Pod" || name.is_empty() || text(&content, "/spec/boundObjectRef/uid").is_empty() {
        return Err("a node may ask for tokens only that are bound to a pod by name and uid");
    }
    Ok(ObjectPath::new(path.namespace.clone(), Kind::Pod, name))
}

/// The image in the API of a pod that the node made from a file.
pub(super) fn mirror_pod(node: &NodeName, message: &Message, path: &ObjectPath) -> Result<(), Reason> {
    let Ok(pod) = message.content.object() else {
        return Err("the content is no pod");
    };
    if pod.spec_node_name().as_ref() != Some(node) {
        return Err("a node may make pods for itself only");
    }
    if pod.name().as_str() != path.name_str() || pod.namespace() != path.namespace {
        return Err("the pod is not the one that the resource names");
    }
    if owners(&pod).any(|(kind, name)| kind != "Node" || name != node.as_str()) {
        return Err("a pod that a node makes may be owned by that Node only");
    }
    if has_references(&pod) {
        return Err(
            "a node may make mirror pods only, which name no service account, Secret, ConfigMap or volume claim",
        );
    }
    Ok(())
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

fn owners(pod: &Object) -> impl Iterator<Item = (String, String)> {
    let pod: Value = pod.view().unwrap_or_default();
    let owners = pod["metadata"]["ownerReferences"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    owners
        .into_iter()
        .map(|owner| (text(&owner, "/kind").to_owned(), text(&owner, "/name").to_owned()))
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

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
