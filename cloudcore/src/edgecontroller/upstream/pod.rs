//! Requests about Pods: mirror pods, status, deletion (spec 02 §3.4, §3.5).

use common::chain;
use jiff::Timestamp;
use proto::{Content, Group, Kind, Message, Namespace, NodeName, Object, ObjectPath, Operation, Source, Status};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::desk::{Desk, content_object};
use super::node::seconds;
use super::reply;
use crate::kubernetes::{ApiError, PODS, PatchKind};

/// `insert`: the mirror of a static pod.
pub(super) async fn create(desk: &Desk, request: &Message, path: &ObjectPath) -> Message {
    let created = match content_object(request, &PODS) {
        Ok(pod) => desk.kube.create(&PODS, &path.namespace, &pod).await,
        Err(status) => return reply::failed(request, &reply::pod_shell(), &status),
    };
    match created {
        Ok(pod) => reply::written_at(request, &pod),
        Err(error) => reply::failed(request, &reply::pod_shell(), &error.into_status()),
    }
}

/// `patch` of a podpatch: kubelet's own patch of the status.
pub(super) async fn patch_status(desk: &Desk, request: &Message, path: &ObjectPath) -> Message {
    let patch = request.content.loose_document();
    let patched = desk
        .kube
        .patch(
            &PODS,
            &path.namespace,
            path.name_str(),
            "status",
            PatchKind::Strategic,
            &patch,
        )
        .await;
    match patched {
        Ok(pod) => reply::written_at(request, &pod),
        Err(error) => reply::failed(request, &reply::pod_shell(), &error.into_status()),
    }
}

/// `delete`: the containers have ended. A Pod that is gone, or is another one by now, is a success.
pub(super) async fn delete(desk: &Desk, request: &Message, path: &ObjectPath) -> Message {
    let options = delete_options(&request.content);
    match desk
        .kube
        .delete(&PODS, &path.namespace, path.name_str(), &options.to_string())
        .await
    {
        Ok(()) => {
            info!(pod = %path, "pod deleted, its edge has ended it");
            reply::ok(request)
        }
        Err(error) if error.is_not_found() => reply::ok(request),
        Err(error) if error.is_conflict() && is_another(desk, path, &options).await => reply::ok(request),
        Err(error) => {
            warn!(pod = %path, error = %chain(&error), "pod that its edge has ended was not deleted");
            reply::bare(request, &error.into_status())
        }
    }
}

/// `update` of a podstatus (edges up to v1.11): one entry or a list of them.
pub(super) async fn legacy_status(desk: &Desk, node: &NodeName, request: &Message, path: &ObjectPath) -> Vec<Message> {
    let reports: Vec<Report> = match request.content.parse::<Value>() {
        Ok(Value::Array(entries)) => entries
            .into_iter()
            .filter_map(|entry| serde_json::from_value(entry).ok())
            .collect(),
        Ok(entry) => serde_json::from_value(entry).into_iter().collect(),
        Err(_) => Vec::new(),
    };
    let mut messages = Vec::new();
    let mut failure = reports
        .is_empty()
        .then(|| Status::failure(400, "BadRequest", "the report holds no pod status"));
    for report in reports {
        match report_status(desk, node, &path.namespace, &report).await {
            Ok(Outcome::Written) => {}
            Ok(Outcome::Gone) => messages.push(gone(&path.namespace, &report)),
            Ok(Outcome::Elsewhere) => {
                let reason = format!("pod {}/{} is not bound to this node", path.namespace, report.name);
                warn!(%node, operation = %request.operation, route = %request.route, reason, "request of the edge refused");
                failure = Some(Status::failure(403, "Forbidden", reason));
            }
            Err(error) => {
                warn!(namespace = %path.namespace, pod = report.name, error = %chain(&error), "pod status was not written");
                failure = Some(error.into_status());
            }
        }
    }
    messages.push(failure.map_or_else(|| reply::ok(request), |status| reply::bare(request, &status)));
    messages
}

/// One entry of a podstatus; the keys are Go's field names.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    #[serde(default, rename = "UID")]
    uid: String,
    name: String,
    status: serde_json::Map<String, Value>,
}

enum Outcome {
    Written,
    /// The Pod does not exist, or is another one.
    Gone,
    /// The Pod is another node's.
    Elsewhere,
}

async fn report_status(
    desk: &Desk,
    node: &NodeName,
    namespace: &Namespace,
    report: &Report,
) -> Result<Outcome, ApiError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let pod = match desk.kube.get(&PODS, namespace, &report.name).await {
            Ok(pod) if desk.authorization && pod.spec_node_name().as_ref() != Some(node) => {
                return Ok(Outcome::Elsewhere);
            }
            Ok(pod) if pod.meta().uid == report.uid => pod,
            Ok(_) => return Ok(Outcome::Gone),
            Err(error) if error.is_not_found() => return Ok(Outcome::Gone),
            Err(error) => return Err(error),
        };
        let updated = with_status(&pod, report, Timestamp::now());
        match desk
            .kube
            .update(&PODS, namespace, &report.name, "status", &updated)
            .await
        {
            Ok(pod) => {
                if has_ended(&pod) {
                    let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": report.uid}}).to_string();
                    match desk.kube.delete(&PODS, namespace, &report.name, &options).await {
                        Err(error) if !error.is_not_found() => return Err(error),
                        _ => {}
                    }
                }
                return Ok(Outcome::Written);
            }
            Err(error) if error.is_conflict() && tries < WRITES => {}
            Err(error) => return Err(error),
        }
    }
}

/// Tells the edge that its Pod is gone. Go sends no uid, which makes its edges drop whatever has the name; ours names the Pod.
fn gone(namespace: &Namespace, report: &Report) -> Message {
    let content = json!({
        "metadata": {"name": report.name, "namespace": namespace, "uid": report.uid, "creationTimestamp": null},
        "spec": {"containers": null}, "status": {}});
    let path = ObjectPath::new(namespace.clone(), Kind::Pod, report.name.as_str());
    Message::new(
        Source::EdgeController,
        Group::Resource,
        Operation::Delete,
        path,
        Content::json(&content),
    )
}

/// The Pod with the status that an old edge reports; what the report does not know better is kept.
fn with_status(pod: &Object, report: &Report, now: Timestamp) -> Object {
    let Ok(mut updated) = pod.view::<Value>() else {
        return pod.clone();
    };
    let old = updated["status"].take();
    let mut status = Value::Object(report.status.clone());
    for condition in list(&mut status, "conditions") {
        if !matches!(condition["type"].as_str(), Some("Ready" | "Initialized")) {
            continue;
        }
        let before = old["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|old| old["type"] == condition["type"]);
        if let Some(before) = before.filter(|before| before["status"] == condition["status"]) {
            condition["lastTransitionTime"] = before["lastTransitionTime"].clone();
        }
        if let Some(time) = condition["lastTransitionTime"]
            .as_str()
            .and_then(|text| text.parse::<Timestamp>().ok())
        {
            condition["lastTransitionTime"] = seconds(time).into();
        }
    }
    status["startTime"] = match &old["startTime"] {
        Value::Null => seconds(now).into(),
        time => time.clone(),
    };
    list(&mut status, "containerStatuses").sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    let order: Vec<Value> = updated["spec"]["initContainers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|init| init["name"].clone())
        .collect();
    list(&mut status, "initContainerStatuses").sort_by_key(|init| {
        order
            .iter()
            .position(|name| *name == init["name"])
            .unwrap_or(usize::MAX)
    });
    updated["status"] = status;
    Object::from_value(&updated).unwrap_or_else(|_| pod.clone())
}

fn list<'a>(status: &'a mut Value, key: &str) -> &'a mut [Value] {
    status
        .get_mut(key)
        .and_then(Value::as_array_mut)
        .map_or(&mut [], Vec::as_mut_slice)
}

/// Whether a Pod that is to be deleted has nothing left running.
fn has_ended(pod: &Object) -> bool {
    let Ok(value) = pod.view::<Value>() else { return false };
    let status = &value["status"];
    let ended = matches!(status["phase"].as_str(), Some("Succeeded" | "Failed"));
    let running = ["containerStatuses", "initContainerStatuses"]
        .iter()
        .flat_map(|key| status[*key].as_array().into_iter().flatten())
        .any(|container| {
            container["state"]
                .get("running")
                .is_some_and(|running| !running.is_null())
        });
    pod.is_deleting() && ended && !running
}

/// What an edge asks for, by its age: an object; the object in base64; the bare uid.
fn delete_options(content: &Content) -> Value {
    let document = content.loose_document();
    if let Ok(options @ Value::Object(_)) = proto::json::from_str(&document) {
        return options;
    }
    match content.as_text() {
        Some(uid) if !uid.is_empty() => json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}),
        _ => json!({"gracePeriodSeconds": 0}),
    }
}

/// Whether the Pod of that name has another uid than the one that was to be deleted.
async fn is_another(desk: &Desk, path: &ObjectPath, options: &Value) -> bool {
    let Some(uid) = options.pointer("/preconditions/uid").and_then(Value::as_str) else {
        return false;
    };
    match desk.kube.get(&PODS, &path.namespace, path.name_str()).await {
        Ok(pod) => pod.meta().uid != uid,
        Err(error) => error.is_not_found(),
    }
}

/// How often a status is written when the Pod changes meanwhile.
const WRITES: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delete_options_of_every_age() {
        let object = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "u"}});
        for content in [
            Content::json(&object),
            Content::text(&object.to_string()),
            Content::text("eyJncmFjZVBlcmlvZFNlY29uZHMiOiAwLCAicHJlY29uZGl0aW9ucyI6IHsidWlkIjogInUifX0="),
            Content::text("u"),
        ] {
            assert_eq!(delete_options(&content), object, "{}", content.get());
        }
        assert_eq!(delete_options(&Content::null()), json!({"gracePeriodSeconds": 0}));
    }

    #[test]
    fn an_old_report_keeps_times_and_order() {
        let pod = Object::from_value(&json!({"metadata": {"name": "p", "uid": "u"},
            "spec": {"initContainers": [{"name": "z"}, {"name": "a"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}]}}))
        .expect("pod");
        let report: Report = serde_json::from_value(json!({"UID": "u", "Name": "p", "Status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00.5Z"}],
            "containerStatuses": [{"name": "b"}, {"name": "a"}], "initContainerStatuses": [{"name": "a"}, {"name": "z"}]}}))
        .expect("report");
        let updated: Value = with_status(&pod, &report, "2026-11-21T00:00:00.7Z".parse().expect("time"))
            .view()
            .expect("value");
        let status = &updated["status"];
        assert_eq!(status["conditions"][0]["lastTransitionTime"], "2020-01-01T00:00:00Z");
        assert_eq!(status["startTime"], "2026-11-21T00:00:00Z");
        assert_eq!(status["containerStatuses"], json!([{"name": "a"}, {"name": "b"}]));
        assert_eq!(status["initContainerStatuses"], json!([{"name": "z"}, {"name": "a"}]));
    }
}
