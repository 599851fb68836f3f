//! The folder of pods.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use common::order;
use jiff::Timestamp;
use proto::{BadObject, NodeName, Object, Uid};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tracing::warn;

use crate::metamanager::DesiredPod;

/// What tells that a file has changed.
type Stamp = (u64, Option<SystemTime>);

/// A folder of manifests, or a single one.
pub(super) struct Folder {
    path: PathBuf,
    node: NodeName,
    seen: Option<BTreeMap<PathBuf, Stamp>>,
    pods: BTreeMap<PathBuf, Arc<DesiredPod>>,
}

impl Folder {
    pub(super) fn new(path: PathBuf, node: NodeName) -> Self {
        Self {
            path,
            node,
            seen: None,
            pods: BTreeMap::new(),
        }
    }

    /// The pods, if any file was changed since the last call. A file that cannot be read keeps the pod that it had: nobody means to
    /// stop a pod by a half-written file.
    pub(super) fn read(&mut self) -> Option<BTreeMap<Uid, Arc<DesiredPod>>> {
        let files = match list(&self.path) {
            Ok(files) => files,
            Err(error) => {
                if self.seen.as_ref().is_some_and(|seen| !seen.is_empty()) {
                    warn!(path = %self.path.display(), %error, "the folder of this node's pods cannot be read, they stay as they are");
                }
                return None;
            }
        };
        if self.seen.as_ref() == Some(&files) {
            return None;
        }
        self.pods.retain(|path, _| files.contains_key(path));
        let before = self.seen.replace(files.clone()).unwrap_or_default();
        for (path, stamp) in files {
            if before.get(&path) == Some(&stamp) {
                continue;
            }
            match read_pod(&path, &self.node) {
                Ok(pod) => {
                    self.pods.insert(path, Arc::new(pod));
                }
                Err(error) => {
                    warn!(file = %path.display(), error = common::chain(&error), "file is no pod, what it held before stays");
                }
            }
        }
        let pods = self.pods.values();
        Some(order::map(pods.map(|pod| (pod.object.uid(), pod.clone()))))
    }
}

/// Why a file is no pod.
#[derive(Debug, Error)]
enum BadFile {
    #[error("cannot be read")]
    Io(#[from] std::io::Error),
    #[error("is neither YAML nor JSON: {0}")]
    Yaml(config::Problem),
    #[error("holds a {0:?}, write one object of kind Pod and apiVersion v1")]
    Kind(String),
    #[error("has no metadata.name")]
    Nameless,
    #[error("is not a pod that Kubernetes knows")]
    Pod(#[from] BadObject),
}

fn list(path: &Path) -> std::io::Result<BTreeMap<PathBuf, Stamp>> {
    let stamp = |meta: &std::fs::Metadata| (meta.len(), meta.modified().ok());
    let meta = std::fs::metadata(path)?;
    if meta.is_file() {
        return Ok([(path.to_owned(), stamp(&meta))].into());
    }
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        // Editors keep their drafts in dot files.
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if let Ok(meta) = std::fs::metadata(entry.path())
            && meta.is_file()
        {
            files.insert(entry.path(), stamp(&meta));
        }
    }
    Ok(files)
}

fn read_pod(path: &Path, node: &NodeName) -> Result<DesiredPod, BadFile> {
    let text = std::fs::read_to_string(path)?;
    let mut value = config::json(&text).map_err(BadFile::Yaml)?;
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default();
    if kind != "Pod" {
        return Err(BadFile::Kind(kind.to_owned()));
    }
    set_defaults(&mut value);
    let seed = format!("{value}host:{node}file:{}", path.display());
    identify(&mut value, node, &seed).ok_or(BadFile::Nameless)?;
    assign(&mut value, node);
    let object = Object::from_value(&value)?;
    let pod = Arc::new(object.view()?);
    Ok(DesiredPod { pod, object })
}

/// Gives it what makes it a pod of this node: its name there, a uid, where it comes from. `None` without a name.
fn identify(pod: &mut Value, node: &NodeName, seed: &str) -> Option<()> {
    let meta = pod.get_mut("metadata")?.as_object_mut()?;
    let name = meta.get("name")?.as_str().filter(|name| !name.is_empty())?;
    let name = format!("{name}-{}", node.as_str().to_lowercase());
    meta.insert("name".to_owned(), name.into());
    present(meta, "namespace", || "default".into());
    let uid = present(meta, "uid", || uid_of(seed).into()).clone();
    if let Some(annotations) = present(meta, "annotations", || json!({})).as_object_mut() {
        annotations.insert("kubernetes.io/config.source".to_owned(), "file".into());
        annotations.insert("kubernetes.io/config.hash".to_owned(), uid);
        annotations.insert(
            "kubernetes.io/config.seen".to_owned(),
            Timestamp::now().to_string().into(),
        );
    }
    Some(())
}

/// What the scheduler would have said of it.
fn assign(pod: &mut Value, node: &NodeName) {
    let Some(pod) = pod.as_object_mut() else { return };
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("nodeName".to_owned(), node.as_str().into());
        if let Some(tolerations) = present(spec, "tolerations", || json!([])).as_array_mut() {
            tolerations.push(json!({"operator": "Exists", "effect": "NoExecute"}));
        }
    }
    if let Some(status) = present(pod, "status", || json!({})).as_object_mut() {
        status.insert("phase".to_owned(), "Pending".into());
    }
}

/// The value of a key, put there if there is none.
fn present<'a>(map: &'a mut Map<String, Value>, key: &str, default: impl FnOnce() -> Value) -> &'a mut Value {
    let value = map.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = default();
    }
    value
}

/// The same for the same content at the same place: 32 hexadecimal digits.
fn uid_of(seed: &str) -> String {
    let digest = Sha256::digest(seed.as_bytes());
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// What the API server would have filled in and others rely on.
fn set_defaults(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    let defaults = [
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("enableServiceLinks", json!(true)),
    ];
    for (key, value) in defaults {
        spec.entry(key).or_insert(value);
    }
    for list in ["containers", "initContainers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            container
                .entry("terminationMessagePath")
                .or_insert(json!("/dev/termination-log"));
            container.entry("terminationMessagePolicy").or_insert(json!("File"));
        }
    }
}
