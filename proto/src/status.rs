//! `metav1.Status`: how Kubernetes says that a request failed.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An error of the Kubernetes API. Unknown fields of `details` and `metadata` are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// `kind`, absent in what Go sends between the cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// `apiVersion`, absent in what Go sends between the cores.
    #[serde(default, rename = "apiVersion", skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// List metadata; `{}` as a rule.
    #[serde(default = "empty_object")]
    pub metadata: Value,
    /// `Success` or `Failure`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// For programs: `NotFound`, `AlreadyExists`, `Conflict`, `Forbidden`, …
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What the error is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
    /// HTTP status code.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub code: u16,
}

impl Status {
    /// A failure with the given code, reason and message.
    pub fn failure(code: u16, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind: None,
            api_version: None,
            metadata: empty_object(),
            status: "Failure".into(),
            message: message.into(),
            reason: reason.into(),
            details: None,
            code,
        }
    }

    /// Whether nothing can be created because the namespace is being deleted.
    pub fn is_namespace_terminating(&self) -> bool {
        let causes = self
            .details
            .as_ref()
            .and_then(|details| details.get("causes")?.as_array());
        causes
            .into_iter()
            .flatten()
            .any(|cause| cause.get("reason").and_then(Value::as_str) == Some("NamespaceTerminating"))
    }

    /// What the API server answers for an object that does not exist; `kind` is the resource as named there (`lease`, `pods`).
    pub fn not_found(group: &str, kind: &str, name: &str) -> Self {
        let resource = if group.is_empty() {
            kind.to_owned()
        } else {
            format!("{kind}.{group}")
        };
        let mut details = serde_json::Map::new();
        details.insert("name".into(), name.into());
        if !group.is_empty() {
            details.insert("group".into(), group.into());
        }
        details.insert("kind".into(), kind.into());
        Self {
            details: Some(Value::Object(details)),
            ..Self::failure(404, "NotFound", format!("{resource} \"{name}\" not found"))
        }
    }

    /// An error that is not one of the API server's: always a full status, never `{}` (spec 02 §3.2).
    pub fn internal(message: impl Into<String>) -> Self {
        Self::failure(500, "InternalError", message)
    }

    /// As JSON, whole: what a kubelet sends on the error stream of a command.
    pub fn to_json(&self) -> Vec<u8> {
        let whole = Self {
            kind: Some("Status".into()),
            api_version: Some("v1".into()),
            ..self.clone()
        };
        serde_json::to_vec(&whole).unwrap_or_default()
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code == 404 || self.reason == "NotFound"
    }

    /// Whether the object exists already.
    pub fn is_already_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }

    /// Whether the object changed meanwhile.
    pub fn is_conflict(&self) -> bool {
        self.reason == "Conflict" || (self.code == 409 && !self.is_already_exists())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.message.is_empty(), self.reason.is_empty()) {
            (false, _) => f.write_str(&self.message),
            (true, false) => f.write_str(&self.reason),
            (true, true) => write!(f, "error {}", self.code),
        }
    }
}

impl std::error::Error for Status {}

fn empty_object() -> Value {
    Value::Object(serde_json::Map::new())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(code: &u16) -> bool {
    *code == 0
}
