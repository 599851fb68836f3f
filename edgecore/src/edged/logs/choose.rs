//! Which container's log is meant: the one that runs, else the last that did.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, PodStatus};
use thiserror::Error;

use crate::edged::runtime::ContainerId;

/// Why there is no log, in the kubelet's words: kubectl shows them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoLog {
    /// The pod's status says nothing of the container.
    #[error("container {container:?} in pod {pod:?} is not available")]
    Unknown {
        /// Name of the pod.
        pod: String,
        /// Name of the container.
        container: String,
    },
    /// It has not run before.
    #[error("previous terminated container {container:?} in pod {pod:?} not found")]
    NoPrevious {
        /// Name of the pod.
        pod: String,
        /// Name of the container.
        container: String,
    },
    /// It ended, and nobody knows which one it was.
    #[error("container {container:?} in pod {pod:?} is terminated")]
    Ended {
        /// Name of the pod.
        pod: String,
        /// Name of the container.
        container: String,
    },
    /// It never ran.
    #[error("container {container:?} in pod {pod:?} is waiting to start{why}")]
    Waiting {
        /// Name of the pod.
        pod: String,
        /// Name of the container.
        container: String,
        /// What it waits for, with what stands between.
        why: String,
    },
}

/// The container to read, and its id with the runtime's name before it.
pub fn container_with_log(
    status: &PodStatus,
    pod: &str,
    container: &str,
    previous: bool,
) -> Result<(ContainerId, String), NoLog> {
    let names = || (pod.to_owned(), container.to_owned());
    let lists = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let found = lists
        .into_iter()
        .flatten()
        .flatten()
        .find(|status| status.name == container);
    let Some(status) = found else {
        let (pod, container) = names();
        return Err(NoLog::Unknown { pod, container });
    };
    let id = full_id(status, previous, &names)?;
    let bare = id.split_once("://").map_or(id.as_str(), |(_, id)| id);
    Ok((ContainerId::new(bare), id))
}

fn full_id(status: &ContainerStatus, previous: bool, names: &dyn Fn() -> (String, String)) -> Result<String, NoLog> {
    let id = |ended: &ContainerStateTerminated| ended.container_id.clone().filter(|id| !id.is_empty());
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let state = status.state.clone().unwrap_or_default();
    if previous {
        return last.and_then(id).ok_or_else(|| {
            let (pod, container) = names();
            NoLog::NoPrevious { pod, container }
        });
    }
    if state.running.is_some() {
        return Ok(status.container_id.clone().unwrap_or_default());
    }
    // Where the next one did not start, the last one's log is still there.
    if state.terminated.is_some() || last.is_some() {
        let ended = state.terminated.as_ref().and_then(id);
        return ended.or_else(|| last.and_then(id)).ok_or_else(|| {
            let (pod, container) = names();
            NoLog::Ended { pod, container }
        });
    }
    let why = match &state.waiting {
        Some(waiting) => match waiting.reason.as_deref().unwrap_or_default() {
            "ErrImagePull" => ": image can't be pulled".to_owned(),
            "ImagePullBackOff" => ": trying and failing to pull image".to_owned(),
            reason => format!(": {reason}"),
        },
        None => " - no logs yet".to_owned(),
    };
    let (pod, container) = names();
    Err(NoLog::Waiting { pod, container, why })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn choose(status: Value, previous: bool) -> Result<String, String> {
        let status = serde_json::from_value(json!({ "containerStatuses": [status] })).expect("a status");
        container_with_log(&status, "web", "main", previous)
            .map(|(id, _)| id.to_string())
            .map_err(|error| error.to_string())
    }

    fn status(state: Value, last: Value) -> Value {
        json!({
            "name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 1,
            "containerID": "containerd://now", "state": state, "lastState": last,
        })
    }

    #[test]
    fn the_running_one_is_read_else_the_last_that_ran() {
        let ended = |id: &str| json!({"terminated": {"exitCode": 1, "containerID": id}});
        let before = ended("containerd://before");
        let running = status(json!({"running": {}}), before.clone());
        assert_eq!(choose(running.clone(), false), Ok("now".into()));
        assert_eq!(choose(running, true), Ok("before".into()));
        let waiting = status(json!({"waiting": {"reason": "CrashLoopBackOff"}}), before.clone());
        assert_eq!(choose(waiting, false), Ok("before".into()));
        let failed = status(ended(""), before);
        assert_eq!(choose(failed, false), Ok("before".into()));
        let over = status(ended("containerd://last"), json!({}));
        assert_eq!(choose(over, false), Ok("last".into()));
    }

    #[test]
    fn without_a_log_the_reason_is_told_as_a_kubelet_tells_it() {
        let wait = |reason: &str| choose(status(json!({"waiting": {"reason": reason}}), json!({})), false);
        assert_eq!(
            wait("ErrImagePull"),
            Err(r#"container "main" in pod "web" is waiting to start: image can't be pulled"#.into())
        );
        assert_eq!(
            wait("ImagePullBackOff"),
            Err(r#"container "main" in pod "web" is waiting to start: trying and failing to pull image"#.into())
        );
        assert_eq!(
            wait("ContainerCreating"),
            Err(r#"container "main" in pod "web" is waiting to start: ContainerCreating"#.into())
        );
        assert_eq!(
            choose(status(json!({}), json!({})), false),
            Err(r#"container "main" in pod "web" is waiting to start - no logs yet"#.into())
        );
        assert_eq!(
            choose(status(json!({"running": {}}), json!({})), true),
            Err(r#"previous terminated container "main" in pod "web" not found"#.into())
        );
        let gone = status(json!({"terminated": {"exitCode": 1}}), json!({}));
        assert_eq!(
            choose(gone, false),
            Err(r#"container "main" in pod "web" is terminated"#.into())
        );
        assert_eq!(
            container_with_log(&PodStatus::default(), "web", "main", false).map_err(|e| e.to_string()),
            Err(r#"container "main" in pod "web" is not available"#.into())
        );
    }
}
