//! The writes: of one record one at a time, of those that wait the last.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use common::{Backoff, chain};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use proto::{Namespace, Object};
use serde_json::json;
use tokio::sync::mpsc;
use tracing::warn;

use crate::cloudhub::ObjectRef;
use crate::kubernetes::{ApiError, CLUSTER_OBJECT_SYNCS, Kube, OBJECT_SYNCS, PatchKind, Resource};

/// A change of one record.
pub(super) struct Write {
    pub(super) name: String,
    pub(super) namespace: Namespace,
    pub(super) want: Want,
}

#[derive(Clone)]
pub(super) enum Want {
    /// Exists, with version `"0"` if it is new.
    Begin(ObjectRef),
    /// Exists with this version.
    Version(ObjectRef, Box<str>),
    /// Does not exist.
    Delete,
}

pub(super) async fn run(kube: Kube, mut queue: mpsc::Receiver<Write>) {
    let mut pending: HashMap<String, (Namespace, Want)> = HashMap::new();
    let mut order: VecDeque<String> = VecDeque::new();
    let mut busy: HashSet<String> = HashSet::new();
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < AT_A_TIME {
            let Some(at) = order.iter().position(|name| !busy.contains(name)) else {
                break;
            };
            let Some(name) = order.remove(at) else { break };
            let Some((namespace, want)) = pending.remove(&name) else {
                continue;
            };
            busy.insert(name.clone());
            running.push(perform(&kube, name, namespace, want));
        }
        tokio::select! {
            Some(write) = queue.recv(), if pending.len() < WAITING => {
                if pending.insert(write.name.clone(), (write.namespace, write.want)).is_none() {
                    order.push_back(write.name);
                }
            }
            Some(name) = running.next() => {
                busy.remove(&name);
            }
            else => return,
        }
    }
}

/// Tries several times; what fails for good is found and repeated by the reconciliation.
async fn perform(kube: &Kube, name: String, namespace: Namespace, want: Want) -> String {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));
    loop {
        match once(kube, &name, &namespace, &want).await {
            Ok(()) => return name,
            // The namespace is being deleted: its objects go with it, and so do their records.
            Err(error) if error.is_namespace_terminating() => return name,
            Err(error) if backoff.failures() + 1 < TRIES && (error.is_transient() || error.is_conflict()) => {
                tokio::time::sleep(backoff.next_delay()).await;
            }
            Err(error) => {
                warn!(objectsync = %name, %namespace, error = %chain(&error), "delivery record was not written, the object may be sent once more");
                return name;
            }
        }
    }
}

async fn once(kube: &Kube, name: &str, namespace: &Namespace, want: &Want) -> Result<(), ApiError> {
    let resource = if namespace.is_cluster() {
        CLUSTER_OBJECT_SYNCS
    } else {
        OBJECT_SYNCS
    };
    match want {
        Want::Begin(object) => match create(kube, &resource, name, namespace, object).await {
            Ok(()) => set_version(kube, &resource, name, namespace, "0").await,
            Err(error) if error.is_already_exists() => Ok(()),
            Err(error) => Err(error),
        },
        Want::Version(object, version) => match set_version(kube, &resource, name, namespace, version).await {
            Err(error) if error.is_not_found() => {
                create(kube, &resource, name, namespace, object).await?;
                set_version(kube, &resource, name, namespace, version).await
            }
            result => result,
        },
        Want::Delete => match kube.delete(&resource, namespace, name, "").await {
            Err(error) if error.is_not_found() => Ok(()),
            result => result,
        },
    }
}

async fn create(
    kube: &Kube,
    resource: &Resource,
    name: &str,
    namespace: &Namespace,
    object: &ObjectRef,
) -> Result<(), ApiError> {
    let mut metadata = json!({ "name": name });
    if !namespace.is_cluster() {
        metadata["namespace"] = namespace.as_str().into();
    }
    let body = json!({
        "apiVersion": resource.api_version(), "kind": &*resource.kind, "metadata": metadata,
        "spec": {"objectAPIVersion": &*object.api_version, "objectKind": &*object.kind, "objectName": object.name.as_str()}});
    let body = Object::from_value(&body).expect("a JSON object is an object");
    kube.create(resource, namespace, &body).await.map(drop)
}

/// A merge patch cannot conflict with another cloudcore's write.
async fn set_version(
    kube: &Kube,
    resource: &Resource,
    name: &str,
    ns: &Namespace,
    version: &str,
) -> Result<(), ApiError> {
    let patch = json!({"status": {"objectResourceVersion": version}}).to_string();
    kube.patch(resource, ns, name, "status", PatchKind::Merge, &patch)
        .await
        .map(drop)
}

/// Writes under way.
const AT_A_TIME: usize = 16;
/// Records that wait to be written before the queue is left to fill.
const WAITING: usize = 65_536;
/// How often a write is tried.
const TRIES: u32 = 5;
