//! The strategic merge patch that leads from one pod status to another.

use k8s_openapi::api::core::v1::PodStatus;
use proto::{Object, Uid};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Lists of a pod's status that are merged by a key; all other lists are replaced whole.
const MERGED: [(&str, &str); 3] = [("conditions", "type"), ("podIPs", "ip"), ("hostIPs", "ip")];

/// Fields that are removed when they are absent from the new status: those that a kubelet sets.
const OURS: [&str; 12] = [
    "phase",
    "reason",
    "message",
    "podIP",
    "podIPs",
    "hostIP",
    "hostIPs",
    "conditions",
    "containerStatuses",
    "initContainerStatuses",
    "ephemeralContainerStatuses",
    "startTime",
];

/// The status in an object, without nulls.
pub(super) fn status_of(object: &Object) -> Map<String, Value> {
    #[derive(Deserialize)]
    struct View {
        status: Option<Map<String, Value>>,
    }
    let mut status = object
        .view::<View>()
        .ok()
        .and_then(|view| view.status)
        .unwrap_or_default();
    status.values_mut().for_each(strip);
    status.retain(|_, value| !value.is_null());
    status
}

/// The patch, or nothing when there is nothing to change. The uid guards against a pod that was made again.
pub(super) fn patch(uid: &Uid, old: &Map<String, Value>, new: &PodStatus) -> Option<String> {
    let Ok(Value::Object(mut new)) = serde_json::to_value(new) else {
        return None;
    };
    new.values_mut().for_each(strip);
    new.retain(|_, value| !value.is_null());
    let mut status = Map::new();
    for (key, value) in &new {
        if old.get(key) == Some(value) {
            continue;
        }
        let merged = MERGED.iter().find(|(name, _)| name == key);
        match (merged, old.get(key).and_then(Value::as_array), value.as_array()) {
            (Some((_, by)), before, Some(after)) => {
                merge_list(&mut status, key, by, before.map_or(&[], Vec::as_slice), after);
            }
            _ => {
                status.insert(key.clone(), value.clone());
            }
        }
    }
    for key in OURS {
        if old.contains_key(key) && !new.contains_key(key) {
            status.insert(key.to_owned(), Value::Null);
        }
    }
    if status.is_empty() {
        return None;
    }
    Some(json!({"metadata": {"uid": uid}, "status": status}).to_string())
}

fn merge_list(patch: &mut Map<String, Value>, key: &str, by: &str, before: &[Value], after: &[Value]) {
    let find = |list: &[Value], id: &Value| list.iter().find(|item| item.get(by) == Some(id)).cloned();
    let order: Vec<Value> = after
        .iter()
        .filter_map(|item| item.get(by))
        .map(|id| json!({ (by): id }))
        .collect();
    let mut items = Vec::new();
    for item in after {
        let Some(id) = item.get(by) else { continue };
        match find(before, id) {
            Some(same) if same == *item => {}
            Some(Value::Object(old)) => items.push(difference(by, &old, item)),
            _ => items.push(item.clone()),
        }
    }
    for item in before {
        let Some(id) = item.get(by) else { continue };
        if find(after, id).is_none() {
            items.push(json!({"$patch": "delete", (by): id}));
        }
    }
    patch.insert(format!("$setElementOrder/{key}"), Value::Array(order));
    if !items.is_empty() {
        patch.insert(key.to_owned(), Value::Array(items));
    }
}

fn difference(by: &str, old: &Map<String, Value>, new: &Value) -> Value {
    let Value::Object(new) = new else { return new.clone() };
    let mut changed = Map::new();
    for (key, value) in new {
        if key == by || old.get(key) != Some(value) {
            changed.insert(key.clone(), value.clone());
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        changed.insert(key.clone(), Value::Null);
    }
    Value::Object(changed)
}

/// The status of a pod after a patch that was kept while there was no link; nothing if the patch is of another pod.
pub(crate) fn with_kept(uid: &Uid, status: Option<&PodStatus>, patch: &str) -> Option<PodStatus> {
    #[derive(Deserialize)]
    struct Kept {
        metadata: Guard,
        status: Value,
    }
    #[derive(Deserialize)]
    struct Guard {
        uid: String,
    }
    let kept: Kept = serde_json::from_str(patch).ok()?;
    if kept.metadata.uid != uid.as_str() {
        return None;
    }
    let mut value = serde_json::to_value(status?).ok()?;
    apply(&mut value, &kept.status);
    // As text, as pods are read everywhere else: a second way to read their status is 40 KB of program.
    serde_json::from_str(&value.to_string()).ok()
}

/// Strategic merge of a patch into a pod's status.
pub(crate) fn apply(status: &mut Value, patch: &Value) {
    if !status.is_object() {
        *status = Value::Object(Map::new());
    }
    let Some(map) = status.as_object_mut() else { return };
    for (key, value) in patch
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| !key.starts_with('$'))
    {
        let by = MERGED.iter().find(|(name, _)| name == key).map(|(_, by)| *by);
        match (by, value) {
            (_, Value::Null) => {
                map.remove(key);
            }
            (Some(by), Value::Array(items)) => {
                let list = map.entry(key.clone()).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    items.iter().for_each(|item| apply_item(list, by, item));
                }
            }
            _ => {
                map.insert(key.clone(), value.clone());
            }
        }
    }
}

fn apply_item(list: &mut Vec<Value>, by: &str, item: &Value) {
    let place = list.iter().position(|have| have.get(by) == item.get(by));
    if item.get("$patch").is_some() {
        list.retain(|have| have.get(by) != item.get(by));
        return;
    }
    let Some(Value::Object(old)) = place.and_then(|place| list.get_mut(place)) else {
        list.push(item.clone());
        return;
    };
    for (key, value) in item.as_object().into_iter().flatten() {
        if value.is_null() {
            old.remove(key);
        } else {
            old.insert(key.clone(), value.clone());
        }
    }
}

/// Nulls and absent fields are the same.
fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(strip);
            map.retain(|_, value| !value.is_null());
        }
        Value::Array(list) => list.iter_mut().for_each(strip),
        _ => {}
    }
}
