//! Pods of this node's own: files of a folder, run with or without a cloud.
//!
//! Owns what the folder held when it was last read. Reads the files, the set of pods and the Node. Emits the set of all pods of this
//! node, in which a pod of a file carries the object that mirrors it in the API, and creates and removes those mirrors. Must not
//! start or stop anything, and must not wait for the cloud. Behaviour: spec 05 §6 row 38.

mod file;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::chain;
use futures::StreamExt;
use proto::{BadObject, NodeName, Object, Uid};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use super::admission::is_static;
use super::api::Api;
use crate::metamanager::{DesiredPod, PodSet};
use crate::pod::Pod;
use file::Folder;

/// How often the folder is looked at; unchanged files are not read again.
const PERIOD: Duration = Duration::from_secs(5);
/// Mirrors that are made or removed at the same time.
const AT_ONCE: usize = 4;
/// Holds the uid of the pod that an object mirrors.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The uid of the pod of a file that this one stands for in the API.
fn mirrored(pod: &Pod) -> Option<Uid> {
    pod.metadata.annotations.as_ref()?.get(MIRROR).map(Uid::new)
}

/// Whether a pod of the set has nothing in the API that a status could be written to.
pub(super) fn lacks_mirror(pod: &DesiredPod) -> bool {
    is_static(&pod.pod) && pod.object.uid().as_str() == pod.pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Follows folder and set until the process stops; without a folder the set is passed on as it is, but for mirrors.
pub(super) async fn run(path: Option<PathBuf>, node: NodeName, api: Arc<dyn Api>, all: watch::Sender<Arc<PodSet>>) {
    let mut folder = path.map(|path| Folder::new(path, node.clone()));
    let mut pods = api.pods();
    let mut files = BTreeMap::new();
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let set = pods.borrow_and_update().clone();
        all.send_replace(Arc::new(merge(&set, &files)));
        loop {
            tokio::select! {
                changed = pods.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    break;
                }
                _ = ticks.tick() => {}
            }
            if let Some(found) = folder.as_mut().and_then(Folder::read) {
                files = found;
                all.send_replace(Arc::new(merge(&set, &files)));
            }
            if api.link().borrow().is_up() && set.ready {
                mirror(&*api, &node, &set, &files).await;
            }
        }
    }
}

/// All pods of the node: those of the API without mirrors, those of files with what their mirrors know.
fn merge(set: &PodSet, files: &BTreeMap<Uid, Arc<DesiredPod>>) -> PodSet {
    let (mirrors, mut pods): (BTreeMap<_, _>, BTreeMap<_, _>) = set
        .pods
        .iter()
        .map(|(uid, pod)| (uid.clone(), pod.clone()))
        .partition(|(_, pod)| mirrored(&pod.pod).is_some());
    for (uid, file) in files {
        let mirror = mirrors.values().find(|pod| mirrored(&pod.pod).as_ref() == Some(uid));
        let pod = match mirror {
            Some(mirror) => {
                let mut pod = (*file.pod).clone();
                pod.status.clone_from(&mirror.pod.status);
                let (pod, object) = (Arc::new(pod), mirror.object.clone());
                Arc::new(DesiredPod { pod, object })
            }
            None => file.clone(),
        };
        pods.insert(uid.clone(), pod);
    }
    PodSet { pods, ..set.clone() }
}

/// Removes mirrors of what is in no file any more, and of what somebody deletes; makes those that are missing.
async fn mirror(api: &dyn Api, node: &NodeName, set: &PodSet, files: &BTreeMap<Uid, Arc<DesiredPod>>) {
    let mirrors = || set.pods.values().filter_map(|pod| Some((mirrored(&pod.pod)?, pod)));
    let stale = mirrors().filter(|(uid, pod)| !files.contains_key(uid) || pod.object.is_deleting());
    futures::stream::iter(stale)
        .for_each_concurrent(AT_ONCE, |(_, pod)| async move {
            let object = &pod.object;
            let (namespace, name, uid) = (object.namespace(), object.name(), object.uid());
            match api.delete_pod(namespace.as_str(), name.as_str(), &uid, 0).await {
                Ok(()) => info!(pod = %format_args!("{namespace}/{name}"), "mirror of a pod of this node is removed"),
                Err(error) => {
                    warn!(pod = %format_args!("{namespace}/{name}"), error = chain(&error), "mirror is not removed")
                }
            }
        })
        .await;
    let taken = |file: &DesiredPod| {
        let name = (&file.pod.metadata.namespace, &file.pod.metadata.name);
        set.pods
            .values()
            .any(|pod| name == (&pod.pod.metadata.namespace, &pod.pod.metadata.name))
    };
    let missing: Vec<&Arc<DesiredPod>> = files.values().filter(|file| !taken(file)).collect();
    if missing.is_empty() {
        return;
    }
    // The API demands the node's uid as the owner's.
    let Ok(Some(owner)) = api.node().await else { return };
    for file in missing {
        let pod = format!("{}/{}", file.object.namespace(), file.object.name());
        let created = match mirror_of(&file.object, node, &owner.uid()) {
            Ok(object) => api.create_pod(&object).await,
            Err(error) => {
                warn!(pod, error = chain(&error), "pod of this node cannot be mirrored");
                continue;
            }
        };
        match created {
            Ok(_) => info!(pod, "pod of this node is mirrored in the API"),
            Err(error) if error.status().is_some_and(|status| status.reason == "AlreadyExists") => {}
            Err(error) => warn!(
                pod,
                error = chain(&error),
                "pod of this node is not mirrored in the API"
            ),
        }
    }
}

/// The object that stands for a pod of a file in the API: without its uid, which the API gives anew.
fn mirror_of(file: &Object, node: &NodeName, owner: &Uid) -> Result<Object, BadObject> {
    let mut object: Map<String, Value> = file.view()?;
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        let uid = meta.remove("uid").unwrap_or_default();
        if let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.insert(MIRROR.to_owned(), uid);
        }
        let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": node, "uid": owner, "controller": true}]);
        meta.insert("ownerReferences".to_owned(), owner);
    }
    Object::from_value(&object)
}
