//! A pod's status from its spec, what the runtime has, what probes found and what was said before.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, HostIP, PodCondition, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions::{self, Condition};
use super::containers::{self, STATUS_UNKNOWN};
use super::phase::{self, is_terminal};
use crate::edged::admission::Refusal;
use crate::edged::pods::decide::{self, Findings};
use crate::edged::pods::observed::Observed;
use crate::edged::runtime::ContainerId;
use crate::pod::Pod;

/// Reason and message of pods that ran for longer than `activeDeadlineSeconds`.
pub(crate) const DEADLINE: (&str, &str) = (
    "DeadlineExceeded",
    "Pod was active on the node longer than the specified deadline",
);

/// What a status is made of.
pub(crate) struct Input<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) observed: &'a Observed,
    /// What was said last; the API's status at first.
    pub(crate) old: &'a PodStatus,
    pub(crate) findings: &'a BTreeMap<ContainerId, Findings>,
    /// Why containers do not start, by name: reason and message.
    pub(crate) reasons: &'a BTreeMap<String, (String, String)>,
    /// All containers were stopped for good.
    pub(crate) stopped: bool,
    /// Why the pod has to end although its containers could go on: reason and message.
    pub(crate) evicted: Option<(&'static str, &'static str)>,
    /// The name before container ids, `containerd` for example.
    pub(crate) runtime_name: &'a str,
    pub(crate) host_ips: &'a [IpAddr],
    pub(crate) qos_class: &'a str,
    pub(crate) now: Timestamp,
}

/// Computes.
pub(crate) fn pod_status(input: &Input<'_>) -> PodStatus {
    let pod = input.pod;
    let api = pod.status.as_ref();
    if never_ran(input.old) && input.observed.containers.is_empty() {
        return input.old.clone();
    }
    let mut status = PodStatus {
        qos_class: Some(input.qos_class.to_owned()),
        container_statuses: Some(containers::statuses(input, containers::List::Main)),
        init_container_statuses: some(containers::statuses(input, containers::List::Init)),
        ephemeral_container_statuses: some(containers::statuses(input, containers::List::Ephemeral)),
        resource_claim_statuses: api.and_then(|s| s.resource_claim_statuses.clone()),
        nominated_node_name: api.and_then(|s| s.nominated_node_name.clone()),
        ..PodStatus::default()
    };
    set_addresses(input, &mut status);
    set_phase(input, &mut status);
    set_conditions(input, &mut status);
    status.start_time = input
        .old
        .start_time
        .clone()
        .or_else(|| api.and_then(|s| s.start_time.clone()))
        .or_else(|| Some(Time(seconds(input.now))));
    status
}

/// Whether two statuses have the same from others than us: their conditions, what they decide, an end.
pub(crate) fn same_beside_ours(a: Option<&PodStatus>, b: Option<&PodStatus>) -> bool {
    let theirs = |status: Option<&'_ PodStatus>| {
        let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let conditions: Vec<PodCondition> = conditions
            .iter()
            .filter(|c| !conditions::is_ours(&c.type_))
            .cloned()
            .collect();
        let claims = status.and_then(|s| s.resource_claim_statuses.clone());
        let nominated = status.and_then(|s| s.nominated_node_name.clone());
        let over = is_terminal(status.and_then(|s| s.phase.as_deref()));
        (conditions, claims, nominated, over)
    };
    theirs(a) == theirs(b)
}

/// The status of a pod that gets no place on this node.
pub(crate) fn refused(refusal: &Refusal, qos_class: String, now: Timestamp) -> PodStatus {
    PodStatus {
        phase: Some("Failed".to_owned()),
        reason: Some(refusal.reason.clone()),
        message: Some(format!("Pod was rejected: {}", refusal.message)),
        qos_class: Some(qos_class),
        start_time: Some(Time(seconds(now))),
        ..PodStatus::default()
    }
}

/// Whether this is the status of a pod that failed before it had containers: it stays as it is.
pub(crate) fn never_ran(status: &PodStatus) -> bool {
    is_terminal(status.phase.as_deref()) && status.container_statuses.as_ref().is_none_or(Vec::is_empty)
}

/// The last status of a pod whose containers and volumes are gone: whatever is not known to have ended well has failed.
pub(crate) fn terminated(pod: &Pod, status: &PodStatus, now: Timestamp) -> PodStatus {
    let mut last = status.clone();
    let lost = || {
        let message = "The container could not be located when the pod was terminated".to_owned();
        Some(ContainerState {
            terminated: Some(ContainerStateTerminated {
                reason: Some(STATUS_UNKNOWN.to_owned()),
                message: Some(message),
                exit_code: 137,
                ..Default::default()
            }),
            ..Default::default()
        })
    };
    let ended = |state: &Option<ContainerState>| state.as_ref().is_some_and(|s| s.terminated.is_some());
    if phase::was_initialized(pod) {
        for container in last
            .container_statuses
            .iter_mut()
            .flatten()
            .filter(|c| !ended(&c.state))
        {
            container.state = lost();
        }
    }
    if let Some(inits) = &mut last.init_container_statuses {
        let waiting = |state: &Option<ContainerState>| state.as_ref().is_none_or(|s| s.waiting.is_some());
        let begun = inits
            .iter()
            .rposition(|c| !waiting(&c.state) || ended(&c.last_state))
            .map_or(1, |i| i + 1);
        for container in inits.iter_mut().take(begun).filter(|c| !ended(&c.state)) {
            container.state = lost();
        }
    }
    if !is_terminal(last.phase.as_deref()) {
        last.phase = Some("Failed".into());
    }
    conditions::close(&mut last, now);
    last
}

fn set_addresses(input: &Input<'_>, status: &mut PodStatus) {
    let texts: Vec<String> = input.observed.ips().iter().map(ToString::to_string).collect();
    if let Some(first) = input.host_ips.first() {
        status.host_ip = Some(first.to_string());
        status.host_ips = Some(
            input
                .host_ips
                .iter()
                .take(2)
                .map(|ip| HostIP { ip: ip.to_string() })
                .collect(),
        );
    }
    let texts = if decide::is_host_network(input.pod) {
        input.host_ips.iter().take(2).map(ToString::to_string).collect()
    } else if texts.is_empty() && has_ended(input) {
        // Who looks at an ended pod still finds where it was.
        input
            .old
            .pod_ips
            .iter()
            .flatten()
            .map(|address| address.ip.clone())
            .collect()
    } else {
        texts
    };
    status.pod_ip = texts.first().cloned();
    status.pod_ips = some(texts.into_iter().map(|ip| PodIP { ip }).collect());
}

/// Whether the pod's sandboxes were stopped, not just lost.
fn has_ended(input: &Input<'_>) -> bool {
    let sandboxes = &input.observed.sandboxes;
    let over = is_terminal(input.old.phase.as_deref());
    (over || !sandboxes.is_empty()) && sandboxes.iter().all(|sandbox| !sandbox.ready)
}

fn set_phase(input: &Input<'_>, status: &mut PodStatus) {
    let api = input.pod.status.as_ref();
    let api_phase = api.and_then(|s| s.phase.as_deref());
    let old_phase = input.old.phase.as_deref();
    let computed = phase::phase(input.pod, status, input.stopped);
    // A terminal phase never changes, whatever the runtime forgot.
    let phase = if is_terminal(api_phase) {
        api_phase.unwrap_or(computed)
    } else if is_terminal(old_phase) {
        old_phase.unwrap_or(computed)
    } else {
        computed
    };
    if Some(phase) == old_phase {
        let or_api = |old: &Option<String>, api: Option<&String>| old.clone().or_else(|| api.cloned());
        status.reason = or_api(&input.old.reason, api.and_then(|s| s.reason.as_ref()));
        status.message = or_api(&input.old.message, api.and_then(|s| s.message.as_ref()));
    }
    status.phase = Some(phase.to_owned());
    if let Some((reason, message)) = input
        .evicted
        .filter(|_| !is_terminal(api_phase) && !is_terminal(old_phase))
    {
        status.phase = Some("Failed".to_owned());
        status.reason = Some(reason.to_owned());
        status.message = Some(message.to_owned());
    }
}

fn set_conditions(input: &Input<'_>, status: &mut PodStatus) {
    let pod = input.pod;
    let foreign = pod
        .status
        .as_ref()
        .and_then(|s| s.conditions.as_deref())
        .unwrap_or_default();
    let mut all: Vec<PodCondition> = foreign
        .iter()
        .filter(|c| !conditions::is_ours(&c.type_))
        .cloned()
        .collect();
    let ready_to_start = decide::needs_sandbox(pod, input.observed).is_none();
    let containers_ready = conditions::containers_ready(pod, status);
    let ours = [
        Condition::plain("PodReadyToStartContainers", ready_to_start),
        conditions::initialized(pod, status),
        conditions::ready(pod, &all, &containers_ready),
        containers_ready,
        Condition::plain("PodScheduled", true),
    ];
    let old = input.old.conditions.as_deref().unwrap_or_default();
    let api = pod
        .status
        .as_ref()
        .and_then(|s| s.conditions.as_deref())
        .unwrap_or_default();
    all.extend(
        ours.into_iter()
            .map(|c| c.dated(if old.is_empty() { api } else { old }, input.now)),
    );
    status.conditions = Some(all);
}

/// The API keeps whole seconds.
pub(super) fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}
