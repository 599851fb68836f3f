//! `status.conditions`.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::compute::seconds;
use super::phase::{any_main_started, by_name};
use crate::edged::pods::decide::{init_containers, is_sidecar, main_containers};
use crate::pod::Pod;

/// A condition without its time.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    kind: &'static str,
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Condition {
    /// One that needs no reason.
    pub(super) const fn plain(kind: &'static str, status: bool) -> Self {
        Self {
            kind,
            status,
            reason: None,
            message: None,
        }
    }

    const fn with(kind: &'static str, status: bool, reason: &'static str, message: Option<String>) -> Self {
        Self {
            kind,
            status,
            reason: Some(reason),
            message,
        }
    }

    /// With the time at which its status last changed.
    pub(super) fn dated(self, old: &[PodCondition], now: Timestamp) -> PodCondition {
        let status = if self.status { "True" } else { "False" };
        let since = old
            .iter()
            .find(|c| c.type_ == self.kind && c.status == status)
            .and_then(|c| c.last_transition_time.clone())
            .unwrap_or_else(|| Time(seconds(now)));
        PodCondition {
            type_: self.kind.to_owned(),
            status: status.to_owned(),
            reason: self.reason.map(str::to_owned),
            message: self.message,
            last_transition_time: Some(since),
            ..PodCondition::default()
        }
    }
}

/// Whether the condition is a kubelet's to set.
pub(super) fn is_ours(kind: &str) -> bool {
    matches!(
        kind,
        "PodScheduled" | "Ready" | "Initialized" | "ContainersReady" | "PodReadyToStartContainers"
    )
}

/// `ContainersReady`.
pub(super) fn containers_ready(pod: &Pod, status: &PodStatus) -> Condition {
    const KIND: &str = "ContainersReady";
    let inits = status.init_container_statuses.as_deref().unwrap_or_default();
    let mains = status.container_statuses.as_deref().unwrap_or_default();
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    let wanted = init_containers(pod)
        .iter()
        .filter(|c| is_sidecar(c))
        .map(|c| (c, by_name(inits, &c.name)))
        .chain(main_containers(pod).iter().map(|c| (c, by_name(mains, &c.name))));
    for (container, found) in wanted {
        match found {
            None => unknown.push(container.name.as_str()),
            Some(found) if !found.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    match status.phase.as_deref() {
        Some("Succeeded") if unknown.is_empty() => return Condition::with(KIND, false, "PodCompleted", None),
        Some("Failed") => return Condition::with(KIND, false, "PodFailed", None),
        _ => {}
    }
    match problems(&[
        ("containers with unknown status", &unknown),
        ("containers with unready status", &unready),
    ]) {
        None => Condition::plain(KIND, true),
        message => Condition::with(KIND, false, "ContainersNotReady", message),
    }
}

/// `Ready`.
pub(super) fn ready(pod: &Pod, foreign: &[PodCondition], containers: &Condition) -> Condition {
    const KIND: &str = "Ready";
    if !containers.status {
        return Condition {
            kind: KIND,
            ..containers.clone()
        };
    }
    let gates = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.readiness_gates.as_deref())
        .unwrap_or_default();
    let mut closed = Vec::new();
    for gate in gates {
        let kind = &gate.condition_type;
        match foreign.iter().find(|c| c.type_ == *kind) {
            None => closed.push(format!(
                "corresponding condition of pod readiness gate \"{kind}\" does not exist."
            )),
            Some(found) if found.status != "True" => closed.push(format!(
                "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
                found.status
            )),
            Some(_) => {}
        }
    }
    if closed.is_empty() {
        return Condition::plain(KIND, true);
    }
    Condition::with(KIND, false, "ReadinessGatesNotReady", Some(closed.join(", ")))
}

/// `Initialized`.
pub(super) fn initialized(pod: &Pod, status: &PodStatus) -> Condition {
    const KIND: &str = "Initialized";
    let inits = status.init_container_statuses.as_deref().unwrap_or_default();
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for container in init_containers(pod) {
        match by_name(inits, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(found) => {
                let done = if is_sidecar(container) {
                    found.started == Some(true)
                } else {
                    found.ready
                };
                if !done {
                    incomplete.push(container.name.as_str());
                }
            }
        }
    }
    if status.phase.as_deref() == Some("Succeeded") && unknown.is_empty() {
        return Condition::with(KIND, true, "PodCompleted", None);
    }
    if any_main_started(status.container_statuses.as_deref().unwrap_or_default()) {
        return Condition::plain(KIND, true);
    }
    match problems(&[
        ("containers with unknown status", &unknown),
        ("containers with incomplete status", &incomplete),
    ]) {
        None => Condition::plain(KIND, true),
        message => Condition::with(KIND, false, "ContainersNotInitialized", message),
    }
}

/// No pod in its last phase is ready.
pub(super) fn close(status: &mut PodStatus, now: Timestamp) {
    let reason = if status.phase.as_deref() == Some("Failed") {
        "PodFailed"
    } else {
        "PodCompleted"
    };
    for condition in status.conditions.iter_mut().flatten() {
        if matches!(condition.type_.as_str(), "Ready" | "ContainersReady") && condition.status == "True" {
            condition.status = "False".to_owned();
            condition.reason = Some(reason.to_owned());
            condition.message = None;
            condition.last_transition_time = Some(Time(seconds(now)));
        }
    }
}

fn problems(lists: &[(&str, &Vec<&str>)]) -> Option<String> {
    let texts: Vec<String> = lists
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what}: [{}]", names.join(" ")))
        .collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}
