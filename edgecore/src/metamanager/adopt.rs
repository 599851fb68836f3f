//! Pods of a lost database, fetched back one by one from a cloud that believes it delivered them.
//!
//! Such a cloud answers no question for a pod, but it answers a patch of a pod's status with the whole pod: a patch that names
//! nothing but the uid changes nothing and brings the object (spec 05 §3.4).

use proto::{Content, Object};
use serde_json::json;
use tracing::{info, warn};

use super::{MetaManager, RequestError, RunningPod};

/// What came of asking.
#[derive(Debug)]
pub(super) enum Fetched {
    /// The pod is wanted.
    Wanted(Object),
    /// The API has no such pod any more.
    Gone,
    /// The cloud did not say: nobody knows yet.
    Unknown,
}

/// Asks the cloud for one pod.
pub(super) async fn fetch(meta: &MetaManager, pod: &RunningPod) -> Fetched {
    let patch = Content::json(&json!({"metadata": {"uid": pod.uid}}));
    match meta.ask_pod_patch(&pod.namespace, &pod.name, patch.get()).await {
        Ok(object) if object.uid() == pod.uid => {
            info!(pod = %format_args!("{}/{}", pod.namespace, pod.name), uid = %pod.uid, "running pod adopted");
            Fetched::Wanted(object)
        }
        Ok(_) => Fetched::Gone,
        Err(RequestError::Refused(status)) if status.is_not_found() || status.is_conflict() || status.code == 422 => {
            Fetched::Gone
        }
        Err(error) => {
            warn!(
                pod = %format_args!("{}/{}", pod.namespace, pod.name), uid = %pod.uid, error = common::chain(&error),
                "cannot learn whether a running pod is still wanted; it keeps running and is asked for again"
            );
            Fetched::Unknown
        }
    }
}
