//! Kubernetes objects as raw JSON with a view of their metadata.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::content::Content;
use crate::ids::{Namespace, NodeName, ObjectName, Uid};

/// An object as the API server sent it: unknown fields are never dropped. Cheap to clone.
#[derive(Clone)]
pub struct Object {
    raw: Arc<RawValue>,
    meta: Arc<Meta>,
}

/// What every reader needs of `metadata`, and the two type fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// `apiVersion`; empty in objects of typed lists and of Go's informers.
    pub api_version: String,
    /// `kind`; empty likewise.
    pub kind: String,
    /// `metadata.namespace`, absent for cluster-scoped objects.
    pub namespace: Option<String>,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`, may be empty in what peers build by hand.
    pub uid: String,
    /// `metadata.resourceVersion`, may be empty.
    pub resource_version: String,
    /// `metadata.deletionTimestamp`.
    pub deletion_timestamp: Option<String>,
    /// `metadata.deletionGracePeriodSeconds`.
    pub deletion_grace_period_seconds: Option<i64>,
}

/// Text that is not an object.
#[derive(Debug, Error)]
pub enum BadObject {
    /// The text is not JSON, or a field of `metadata` has the wrong type.
    #[error("not a Kubernetes object")]
    Json(#[source] serde_json::Error),
    /// The JSON is no object.
    #[error("not a Kubernetes object but a JSON {0}")]
    NotAnObject(&'static str),
}

impl Object {
    /// Reads an object from JSON text.
    pub fn parse(text: &str) -> Result<Self, BadObject> {
        Self::from_raw(RawValue::from_string(text.to_owned()).map_err(BadObject::Json)?)
    }

    /// Takes raw JSON.
    pub fn from_raw(raw: Box<RawValue>) -> Result<Self, BadObject> {
        match raw.get().as_bytes().first() {
            Some(b'{') => {}
            Some(b'[') => return Err(BadObject::NotAnObject("list")),
            Some(b'"') => return Err(BadObject::NotAnObject("string")),
            _ => return Err(BadObject::NotAnObject("scalar")),
        }
        let view: View = serde_json::from_str(raw.get()).map_err(BadObject::Json)?;
        let meta = view.into_meta();
        Ok(Self {
            raw: raw.into(),
            meta: meta.into(),
        })
    }

    /// Builds an object from a value, for objects that we make ourselves.
    pub fn from_value<T: serde::Serialize>(value: &T) -> Result<Self, BadObject> {
        Self::from_raw(serde_json::value::to_raw_value(value).map_err(BadObject::Json)?)
    }

    /// The same object with `kind` and `apiVersion` where they were missing (spec 02 §1: every object sent down needs them).
    #[must_use]
    pub fn with_type(self, api_version: &str, kind: &str) -> Self {
        if !self.meta.kind.is_empty() && !self.meta.api_version.is_empty() {
            return self;
        }
        let mut head = serde_json::Map::new();
        if self.meta.kind.is_empty() {
            head.insert("kind".into(), kind.into());
        }
        if self.meta.api_version.is_empty() {
            head.insert("apiVersion".into(), api_version.into());
        }
        let head = serde_json::Value::Object(head).to_string();
        // An empty string for either key would make it a duplicate: such text is re-encoded, all other text is only prefixed.
        let body = self.raw.get();
        let text = if has_empty_type(body) {
            // The values stay as they are: a number may be larger than any type of ours.
            let Ok(mut map) = serde_json::from_str::<BTreeMap<String, Content>>(body) else {
                return self;
            };
            if self.meta.kind.is_empty() {
                map.insert("kind".into(), Content::text(kind));
            }
            if self.meta.api_version.is_empty() {
                map.insert("apiVersion".into(), Content::text(api_version));
            }
            Content::json(&map).get().to_owned()
        } else {
            let inner = body.strip_prefix('{').unwrap_or(body);
            let comma = if inner.trim_start().starts_with('}') { "" } else { "," };
            format!("{}{comma}{inner}", head.strip_suffix('}').unwrap_or(&head))
        };
        RawValue::from_string(text)
            .ok()
            .and_then(|raw| Self::from_raw(raw).ok())
            .unwrap_or(self)
    }

    /// The same object without `kind` and `apiVersion`: what Go answers to create, update and patch (spec 02 §3.2).
    #[must_use]
    pub fn without_type(&self) -> Self {
        let Ok(mut map) = self.view::<serde_json::Map<String, serde_json::Value>>() else {
            return self.clone();
        };
        map.remove("kind");
        map.remove("apiVersion");
        Self::from_value(&map).unwrap_or_else(|_| self.clone())
    }

    /// The JSON.
    pub fn raw(&self) -> &Arc<RawValue> {
        &self.raw
    }

    /// The JSON text.
    pub fn json(&self) -> &str {
        self.raw.get()
    }

    /// The metadata view.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The uid.
    pub fn uid(&self) -> Uid {
        Uid::new(&self.meta.uid)
    }

    /// The namespace; cluster scope when the object has none.
    pub fn namespace(&self) -> Namespace {
        self.meta
            .namespace
            .as_deref()
            .filter(|n| !n.is_empty())
            .map_or_else(Namespace::cluster, Namespace::new)
    }

    /// The name.
    pub fn name(&self) -> ObjectName {
        ObjectName::new(&self.meta.name)
    }

    /// The resource version as a number; `None` for anything that is not one.
    pub fn version(&self) -> Option<u64> {
        self.meta.resource_version.parse().ok()
    }

    /// Whether deletion was asked for.
    pub fn is_deleting(&self) -> bool {
        self.meta.deletion_timestamp.is_some()
    }

    /// A typed view, for reading only.
    pub fn view<T: DeserializeOwned>(&self) -> Result<T, BadObject> {
        crate::json::from_str(self.raw.get()).map_err(BadObject::Json)
    }

    /// `spec.nodeName` of a Pod.
    pub fn spec_node_name(&self) -> Option<NodeName> {
        #[derive(Deserialize)]
        struct Spec {
            #[serde(rename = "nodeName")]
            node_name: Option<String>,
        }
        #[derive(Deserialize)]
        struct Pod {
            spec: Option<Spec>,
        }
        let pod: Pod = self.view().ok()?;
        pod.spec?.node_name.filter(|name| !name.is_empty()).map(NodeName::from)
    }
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.json() == other.json()
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Meta {
            kind,
            namespace,
            name,
            uid,
            resource_version,
            ..
        } = &*self.meta;
        write!(
            f,
            "{kind} {}/{name} uid {uid} version {resource_version}",
            namespace.as_deref().unwrap_or("-")
        )
    }
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct View {
    api_version: Option<String>,
    kind: Option<String>,
    metadata: Option<MetadataView>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct MetadataView {
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    deletion_timestamp: Option<String>,
    deletion_grace_period_seconds: Option<i64>,
}

impl View {
    fn into_meta(self) -> Meta {
        let metadata = self.metadata.unwrap_or_default();
        Meta {
            api_version: self.api_version.unwrap_or_default(),
            kind: self.kind.unwrap_or_default(),
            namespace: metadata.namespace,
            name: metadata.name.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            resource_version: metadata.resource_version.unwrap_or_default(),
            deletion_timestamp: metadata.deletion_timestamp,
            deletion_grace_period_seconds: metadata.deletion_grace_period_seconds,
        }
    }
}

/// Whether the object carries one of the type keys with an empty or null value.
fn has_empty_type(body: &str) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Keys<'a> {
        #[serde(borrow, default, deserialize_with = "crate::content::present")]
        kind: Option<&'a RawValue>,
        #[serde(borrow, default, deserialize_with = "crate::content::present")]
        api_version: Option<&'a RawValue>,
    }
    serde_json::from_str::<Keys<'_>>(body).map_or(true, |keys| {
        [keys.kind, keys.api_version]
            .into_iter()
            .flatten()
            .any(|value| matches!(value.get(), "\"\"" | "null"))
    })
}
