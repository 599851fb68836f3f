//! Requests about the node itself: registration, status, labels (spec 02 §3.3, §3.6; spec 01 §5.9).

use std::time::Duration;

use common::chain;
use jiff::Timestamp;
use proto::{Message, Namespace, Object, ObjectPath, Status};
use serde_json::{Map, Value, json};
use tracing::{info, warn};

use super::desk::{Desk, metadata_patch};
use super::reply;
use crate::kubernetes::{ApiError, NODES, PatchKind};
use crate::labels::is_label_of_nodes;

/// `insert` of a Node: the answer tells kubelet to go on, or that the Node exists already.
pub(super) async fn register(desk: &Desk, request: &Message, path: &ObjectPath) -> Message {
    let (node, labels) = match prepared(request, path, &desk.address()) {
        Ok(prepared) => prepared,
        Err(status) => return reply::failed(request, &reply::node_shell(), &status),
    };
    match create(desk, path.name_str(), &node, &labels).await {
        Ok(node) => {
            info!(node = path.name_str(), "node registered");
            reply::written(request, &node)
        }
        Err(error) => {
            if !error.is_already_exists() {
                warn!(node = path.name_str(), error = %chain(&error), "node was not registered");
            }
            let mut shell = reply::node_shell();
            if labels.as_object().is_some_and(|labels| !labels.is_empty()) {
                shell["metadata"]["labels"] = labels;
            }
            reply::failed(request, &shell, &error.into_status())
        }
    }
}

/// `insert` of a nodestatus (edges up to v1.11): nothing happens to a Node that exists; errors are texts.
pub(super) async fn legacy_register(desk: &Desk, request: &Message, path: &ObjectPath) -> Message {
    let failed = |status: &Status| reply::as_node(reply::text(request, &status.to_string()), path);
    let (node, labels) = match prepared(request, path, &desk.address()) {
        Ok(prepared) => prepared,
        Err(status) => return failed(&status),
    };
    match create(desk, path.name_str(), &node, &labels).await {
        Ok(_) => info!(node = path.name_str(), "node registered"),
        Err(error) if error.is_already_exists() => {}
        Err(error) => return failed(&error.into_status()),
    }
    reply::as_node(reply::ok(request), path)
}

/// `update` of a Node: its labels and annotations are added. No answer on error, as in Go.
pub(super) async fn update(desk: &Desk, request: &Message, path: &ObjectPath) -> Option<Message> {
    let node: Value = request.content.parse().ok()?;
    if desk.authorization
        && let Some(label) = forbidden(desk, path.name_str(), &node["metadata"]["labels"]).await
    {
        let reason = format!("a node may not change the label {label} of itself");
        warn!(node = path.name_str(), operation = %request.operation, route = %request.route, reason, "request of the edge refused");
        return None;
    }
    let patch = metadata_patch(&node["metadata"]["labels"], &node["metadata"]["annotations"]);
    // Unlike Go's, this patch obeys no directives among labels and annotations.
    match patch_node(desk, path.name_str(), "", PatchKind::Merge, &patch).await {
        Ok(node) => Some(reply::ok_at(request, &node)),
        Err(error) => {
            warn!(node = path.name_str(), error = %chain(&error), "labels and annotations of an edge were not written");
            None
        }
    }
}

/// A label among these that a node may not change and that is not so already: old edges send all that the Node has.
async fn forbidden(desk: &Desk, name: &str, labels: &Value) -> Option<String> {
    let labels = labels.as_object()?.iter();
    let labels: Vec<(&String, &Value)> = labels.filter(|(key, _)| !is_label_of_nodes(key)).collect();
    if labels.is_empty() {
        return None;
    }
    let present: Value = match desk.kube.get(&NODES, &Namespace::cluster(), name).await {
        Ok(node) => node.view().unwrap_or_default(),
        Err(_) => Value::Null,
    };
    let present = &present["metadata"]["labels"];
    let changed = labels
        .iter()
        .find(|(key, value)| present.get(key.as_str()) != Some(value));
    changed.map(|(key, _)| (*key).clone())
}

/// `patch` of a nodepatch: kubelet's own patch of the status.
pub(super) async fn patch_status(desk: &Desk, request: &Message, path: &ObjectPath) -> Message {
    let patch = request.content.loose_document();
    match patch_node(desk, path.name_str(), "status", PatchKind::Strategic, &patch).await {
        Ok(node) => reply::written_at(request, &node),
        Err(error) => reply::failed(request, &reply::node_shell(), &error.into_status()),
    }
}

/// `update` of a nodestatus (edges up to v1.11). No answer on error, as in Go.
pub(super) async fn legacy_status(desk: &Desk, request: &Message, path: &ObjectPath) -> Option<Message> {
    let written = async {
        let report: Value = request.content.parse().map_err(|error| chain(&error))?;
        for _ in 0..WRITES {
            let node = desk
                .kube
                .get(&NODES, &Namespace::cluster(), path.name_str())
                .await
                .map_err(|error| chain(&error))?;
            let updated = with_status(&node, &report, Timestamp::now())?;
            match desk
                .kube
                .update(&NODES, &Namespace::cluster(), path.name_str(), "status", &updated)
                .await
            {
                Err(error) if error.is_conflict() => {}
                result => return result.map_err(|error| chain(&error)),
            }
        }
        Err("the Node changed each time it was written".to_owned())
    };
    match written.await {
        Ok(node) => Some(reply::as_node(reply::ok_at(request, &node), path)),
        Err(error) => {
            warn!(node = path.name_str(), error, "status of an edge was not written");
            None
        }
    }
}

/// Writes which cloudcore a node is connected to; other cloudcores find it by this.
pub(in crate::edgecontroller) async fn annotate(desk: &Desk, name: &str) -> Result<(), ApiError> {
    let patch = metadata_patch(&Value::Null, &json!({ ANNOTATION: desk.address() }));
    let mut result = Ok(());
    for _ in 0..ANNOTATE_TRIES {
        result = patch_node(desk, name, "", PatchKind::Merge, &patch).await.map(drop);
        match &result {
            // A node that is not registered yet gets the annotation with its registration.
            Err(error) if error.is_not_found() => return Ok(()),
            Err(_) => tokio::time::sleep(ANNOTATE_PAUSE).await,
            Ok(()) => break,
        }
    }
    result
}

/// The Node, and those of its labels that are Kubernetes' own: the answer to one that was not created names them.
fn prepared(request: &Message, path: &ObjectPath, address: &str) -> Result<(Object, Value), Box<Status>> {
    let bad = |text: String| Box::new(Status::failure(400, "BadRequest", text));
    let mut node: Map<String, Value> = request.content.parse().map_err(|error| bad(chain(&error)))?;
    node.insert("kind".into(), "Node".into());
    node.insert("apiVersion".into(), "v1".into());
    let metadata = node.entry("metadata").or_insert_with(|| json!({}));
    let Some(metadata) = metadata.as_object_mut() else {
        return Err(bad("metadata is no object".into()));
    };
    metadata.insert("name".into(), path.name_str().into());
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    if !annotations.is_object() {
        *annotations = json!({});
    }
    annotations[ANNOTATION] = address.into();
    let labels = metadata.get("labels").and_then(Value::as_object);
    let kept = labels.into_iter().flatten().filter(|(key, _)| is_kubernetes_label(key));
    let labels: Map<String, Value> = kept.map(|(key, value)| (key.clone(), value.clone())).collect();
    let node = Object::from_value(&node).map_err(|error| bad(chain(&error)))?;
    Ok((node, Value::Object(labels)))
}

/// Creates the Node. With its labels at once, unlike Go, which adds Kubernetes' own in a second step: nobody sees a Node without
/// its role.
async fn create(desk: &Desk, name: &str, node: &Object, labels: &Value) -> Result<Object, ApiError> {
    let created = desk.kube.create(&NODES, &Namespace::cluster(), node).await;
    if created.as_ref().is_err_and(ApiError::is_already_exists) {
        repair_role(desk, name, labels).await?;
    }
    created
}

/// A Node that Go's cloudcore created while its labels failed has no role; one that has its role keeps what an administrator made of it.
async fn repair_role(desk: &Desk, name: &str, labels: &Value) -> Result<(), ApiError> {
    if labels.get(ROLE).is_none() {
        return Ok(());
    }
    let node = desk.kube.get(&NODES, &Namespace::cluster(), name).await?;
    let node: Value = node.view().unwrap_or_default();
    if node["metadata"]["labels"].get(ROLE).is_some() {
        return Ok(());
    }
    warn!(node = name, "node had no edge role, its labels are written again");
    label(desk, name, labels).await.map(drop)
}

async fn label(desk: &Desk, name: &str, labels: &Value) -> Result<Object, ApiError> {
    let patch = metadata_patch(labels, &Value::Null);
    let mut tries = 0;
    loop {
        tries += 1;
        match patch_node(desk, name, "", PatchKind::Merge, &patch).await {
            Err(error) if tries < WRITES && (error.is_transient() || error.is_conflict()) => {
                warn!(node = name, tries, error = %chain(&error), "labels of a node were not written, trying again");
                tokio::time::sleep(LABEL_PAUSE).await;
            }
            result => return result,
        }
    }
}

async fn patch_node(desk: &Desk, name: &str, sub: &str, kind: PatchKind, patch: &str) -> Result<Object, ApiError> {
    desk.kube
        .patch(&NODES, &Namespace::cluster(), name, sub, kind, patch)
        .await
}

/// The Node with the status that an old edge reports in words of its own (spec 02 §3.6).
fn with_status(node: &Object, report: &Value, now: Timestamp) -> Result<Object, String> {
    let Some(mut status) = report.get("Status").and_then(Value::as_object).cloned() else {
        return Err("the report holds no Status".into());
    };
    let mut node: Value = node.view().map_err(|error| chain(&error))?;
    for condition in status
        .get_mut("conditions")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let beat = condition["lastHeartbeatTime"]
            .as_str()
            .and_then(|text| text.parse::<Timestamp>().ok());
        if beat.is_none_or(|beat| now.duration_since(beat).as_secs() > HEARTBEAT_SECONDS) {
            condition["lastHeartbeatTime"] = seconds(now).into();
        }
    }
    let old = node["status"].take();
    if let Some(attached) = old.get("volumesAttached") {
        status.insert("volumesAttached".into(), attached.clone());
    }
    if let Some(port) = old
        .pointer(KUBELET_PORT)
        .filter(|port| port.as_i64().is_some_and(|port| port != 0))
    {
        status.insert("daemonEndpoints".into(), json!({"kubeletEndpoint": {"Port": port}}));
    }
    node["status"] = Value::Object(status);
    for (resource, list) in report["ExtendResources"].as_object().into_iter().flatten() {
        let annotations = &mut node["metadata"]["annotations"];
        if !annotations.is_object() {
            *annotations = json!({});
        }
        annotations[resource] = list.to_string().into();
        if resource == GPU {
            let healthy: Vec<Value> = list
                .as_array()
                .into_iter()
                .flatten()
                .map(|card| json!({"id": card.get("name").unwrap_or(&Value::Null), "healthy": true}))
                .collect();
            annotations[GPU_STATUS] = Value::Array(healthy).to_string().into();
        }
    }
    Object::from_value(&node).map_err(|error| chain(&error))
}

/// RFC 3339 without a fraction, as Kubernetes writes times.
pub(super) fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

fn is_kubernetes_label(key: &str) -> bool {
    key.split_once('/')
        .is_some_and(|(prefix, _)| prefix == "kubernetes.io" || prefix.ends_with(".kubernetes.io"))
}

const ROLE: &str = "node-role.kubernetes.io/edge";
const ANNOTATION: &str = "cloudcore";
const KUBELET_PORT: &str = "/daemonEndpoints/kubeletEndpoint/Port";
const GPU: &str = "nvidia.com/gpu";
const GPU_STATUS: &str = "huawei.com/gpu-status";
/// `nodeUpdateFrequency`: an older heartbeat is taken for a clock that is wrong.
const HEARTBEAT_SECONDS: i64 = 10;
/// How often a write is tried.
const WRITES: u32 = 5;
const LABEL_PAUSE: Duration = Duration::from_millis(500);
const ANNOTATE_TRIES: u32 = 3;
const ANNOTATE_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_report_keeps_what_the_server_owns() {
        let node = Object::from_value(&json!({"metadata": {"name": "n"}, "status": {"volumesAttached": [1],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10350}}, "phase": "x"}}))
        .expect("node");
        let report = json!({"UID": "", "Status": {"conditions": [{"type": "Ready", "lastHeartbeatTime": "1970-01-01T00:00:00Z"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}}}, "ExtendResources": {"nvidia.com/gpu": [{"name": "g0"}]}});
        let now: Timestamp = "2026-11-21T00:00:00.5Z".parse().expect("time");
        let updated: Value = with_status(&node, &report, now).expect("status").view().expect("value");
        assert_eq!(updated["status"]["volumesAttached"], json!([1]));
        assert_eq!(updated["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], 10350);
        assert_eq!(
            updated["status"]["conditions"][0]["lastHeartbeatTime"],
            "2026-11-21T00:00:00Z"
        );
        assert_eq!(updated["status"].get("phase"), None);
        assert_eq!(
            updated["metadata"]["annotations"]["huawei.com/gpu-status"],
            r#"[{"healthy":true,"id":"g0"}]"#
        );
        assert!(with_status(&node, &json!("x"), now).is_err());
    }

    #[test]
    fn labels_of_kubernetes_are_those_with_its_prefix() {
        for (key, is) in [
            ("kubernetes.io/os", true),
            ("node-role.kubernetes.io/edge", true),
            ("notkubernetes.io/x", false),
            ("example.com/x", false),
            ("kubernetes.io", false),
        ] {
            assert_eq!(is_kubernetes_label(key), is, "{key}");
        }
    }
}
