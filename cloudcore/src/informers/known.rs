//! What is remembered of an object.

use std::hash::{DefaultHasher, Hash, Hasher};

use proto::inventory::Item;
use proto::{Object, ObjectPath, Uid};

/// A version of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Known {
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.resourceVersion`; 0 for what is no number.
    pub version: u64,
    /// The version of the last change that edges are told of: for Pods, the last that was not one of the edge's own status alone.
    pub told: u64,
}

impl Known {
    /// What stands in an object's metadata.
    pub fn of(object: &Object) -> Self {
        let version = object.version().unwrap_or_default();
        Self {
            uid: object.uid(),
            version,
            told: version,
        }
    }

    /// As a line of the inventory.
    pub fn item(&self, path: ObjectPath) -> Item {
        Item {
            path,
            uid: self.uid.clone(),
            version: self.version.to_string().into(),
        }
    }
}

/// What stands for an object of which only this is known (spec 02 §4: the form that edges take as "gone").
pub fn shell(path: &ObjectPath, uid: &Uid) -> Object {
    let mut metadata = serde_json::Map::new();
    metadata.insert("name".into(), path.name_str().into());
    if !path.namespace.is_cluster() {
        metadata.insert("namespace".into(), path.namespace.as_str().into());
    }
    metadata.insert("uid".into(), uid.as_str().into());
    Object::from_value(&serde_json::json!({ "metadata": metadata })).expect("a JSON object is an object")
}

/// A hash of what makes a difference to an edge: not the version, not who manages which field and, for Pods, not the status, which
/// the edge itself reports, but for what another said there.
pub(super) fn fingerprint(object: &Object, without_status: bool) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Ok(mut map) = object.view::<serde_json::Map<String, serde_json::Value>>() {
        if let Some(serde_json::Value::Object(metadata)) = map.get_mut("metadata") {
            metadata.retain(|key, _| !matches!(key.as_str(), "resourceVersion" | "generation" | "managedFields"));
        }
        if without_status {
            let status = map.remove("status");
            status.as_ref().is_some_and(is_called_unready).hash(&mut hasher);
        }
        map.remove("kind");
        map.remove("apiVersion");
        serde_json::Value::Object(map).to_string().hash(&mut hasher);
    }
    hasher.finish()
}

/// Whether a Pod's status says that it is not ready although its containers are. So it is while a readiness gate is closed, and after the
/// node was away: Kubernetes' node lifecycle controller changes that one condition, and a kubelet (Go's edges have one) puts it right
/// only when it hears of it.
fn is_called_unready(status: &serde_json::Value) -> bool {
    let conditions = status.get("conditions").and_then(serde_json::Value::as_array);
    let says = |kind: &str, value: &str| {
        conditions.is_some_and(|conditions| {
            let mut conditions = conditions.iter();
            conditions.any(|condition| condition["type"] == kind && condition["status"] == value)
        })
    };
    says("Ready", "False") && says("ContainersReady", "True")
}
