//! What to do about a pod: a pure function of its spec and of what the runtime has of it.
//!
//! Kubelet's rules (spec 05 §6 rows 5, 8, 9, 14, 16, 17), but for one thing: containers know their sandbox, so what init containers did
//! in an earlier one never counts.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Container;

use super::observed::{ContainerRecord, Life, Observed};
use crate::edged::context::ContainerKind;
use crate::edged::runtime::{ContainerId, SandboxId};
use crate::pod::Pod;

/// What the probes found out about a container, as far as decisions go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// The startup probe succeeded, or there is none.
    pub(crate) started: bool,
    /// The readiness probe's last word; `None` before its first.
    pub(crate) ready: Option<bool>,
    /// A probe wants the container killed: its name and its own grace time.
    pub(crate) kill: Option<(&'static str, Option<i64>)>,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Stop all containers and the sandbox first.
    pub(super) kill_pod: bool,
    /// Create a sandbox with this attempt.
    pub(super) create_sandbox: Option<u32>,
    /// The sandbox to use, when none is created.
    pub(super) sandbox: Option<SandboxId>,
    /// Containers to kill, with the reason and the probe's grace time.
    pub(super) kill: Vec<(ContainerId, String, Option<i64>)>,
    /// Containers to start, by kind and place in the list of that kind's spec.
    pub(super) start: Vec<(ContainerKind, usize)>,
}

impl Plan {
    /// Whether all is as it should be.
    pub(super) fn is_empty(&self) -> bool {
        !self.kill_pod && self.kill.is_empty() && !self.starts()
    }

    /// Whether a sandbox or a container is to start.
    pub(super) const fn starts(&self) -> bool {
        self.create_sandbox.is_some() || !self.start.is_empty()
    }
}

/// `spec.restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    pub(crate) fn of(pod: &Pod) -> Self {
        match pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }
}

/// Everything a decision depends on.
pub(super) struct Facts<'a> {
    pub(super) pod: &'a Pod,
    pub(super) observed: &'a Observed,
    pub(super) findings: &'a BTreeMap<ContainerId, Findings>,
    /// The hash of a container's spec.
    pub(super) hash: &'a dyn Fn(&Container) -> String,
}

/// Whether a container is an init container that keeps running.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether the pod is in the host's network.
pub(crate) fn is_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

/// The pod's init containers.
pub(crate) fn init_containers(pod: &Pod) -> &[Container] {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.init_containers.as_deref())
        .unwrap_or_default()
}

/// The pod's main containers.
pub(crate) fn main_containers(pod: &Pod) -> &[Container] {
    pod.spec
        .as_ref()
        .map(|spec| spec.containers.as_slice())
        .unwrap_or_default()
}

/// Whether a new sandbox is needed, with its attempt.
pub(crate) fn needs_sandbox(pod: &Pod, observed: &Observed) -> Option<u32> {
    let Some(newest) = observed.sandboxes.first() else {
        return Some(0);
    };
    let ready = observed.sandboxes.iter().filter(|s| s.ready).count();
    let host = is_host_network(pod);
    let moved = newest.host_network.is_some_and(|h| h != host);
    let no_address = !host && newest.network_known && newest.ips.is_empty();
    (ready > 1 || !newest.ready || moved || no_address).then_some(newest.attempt.saturating_add(1))
}

/// Whether a container that does not run should.
pub(crate) fn should_restart(pod: &Pod, record: Option<&ContainerRecord>) -> bool {
    if pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let Some(record) = record else { return true };
    match record.life {
        Life::Running => false,
        Life::Created | Life::Unknown => true,
        Life::Exited => match RestartPolicy::of(pod) {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => record.exit_code != 0,
            RestartPolicy::Never => false,
        },
    }
}

/// Decides.
pub(super) fn decide(facts: &Facts<'_>) -> Plan {
    let pod = facts.pod;
    match needs_sandbox(pod, facts.observed) {
        Some(attempt) => with_new_sandbox(pod, facts.observed, attempt),
        None => in_sandbox(facts),
    }
}

fn with_new_sandbox(pod: &Pod, observed: &Observed, attempt: u32) -> Plan {
    let mut plan = Plan {
        kill_pod: true,
        ..Plan::default()
    };
    let policy = RestartPolicy::of(pod);
    if policy == RestartPolicy::Never && attempt != 0 && !observed.containers.is_empty() {
        return plan;
    }
    let start: Vec<_> = main_containers(pod)
        .iter()
        .enumerate()
        .filter(|(_, c)| !(policy == RestartPolicy::OnFailure && observed.latest(&c.name).is_some_and(succeeded)))
        .map(|(index, _)| (ContainerKind::Main, index))
        .collect();
    let initialized = main_containers(pod).iter().any(|c| observed.latest(&c.name).is_some());
    if start.is_empty() && (initialized || init_containers(pod).is_empty()) {
        return plan;
    }
    plan.create_sandbox = Some(attempt);
    plan.start = match init_containers(pod).first() {
        Some(first) => vec![(kind_of_init(first), 0)],
        None => start,
    };
    plan
}

fn in_sandbox(facts: &Facts<'_>) -> Plan {
    let (pod, observed) = (facts.pod, facts.observed);
    let Some(sandbox) = observed.sandboxes.first().map(|s| s.id.clone()) else {
        return Plan::default();
    };
    let mut plan = Plan {
        sandbox: Some(sandbox.clone()),
        ..Plan::default()
    };
    for (index, container) in ephemeral_names(pod).enumerate() {
        if observed.latest(container).is_none() {
            plan.start.push((ContainerKind::Ephemeral, index));
        }
    }
    if !decide_init(facts, &sandbox, &mut plan) {
        return plan;
    }
    decide_main(facts, &mut plan);
    plan
}

/// Adds what init containers need. Returns whether main containers may be looked at.
fn decide_init(facts: &Facts<'_>, sandbox: &SandboxId, plan: &mut Plan) -> bool {
    let (pod, observed) = (facts.pod, facts.observed);
    let inits = init_containers(pod);
    if inits.is_empty() {
        return true;
    }
    let mut initialized = main_containers(pod)
        .iter()
        .any(|c| observed.latest_in(sandbox, &c.name).is_some());
    let mut later_started = initialized;
    let mut start = BTreeSet::new();
    let policy = RestartPolicy::of(pod);
    for (index, container) in inits.iter().enumerate().rev() {
        let sidecar = is_sidecar(container);
        let Some(record) = observed.latest_in(sandbox, &container.name) else {
            if later_started && sidecar {
                start.insert(index);
            }
            continue;
        };
        if later_started && !sidecar {
            continue;
        }
        let last = index + 1 == inits.len();
        match record.life {
            Life::Created => {
                start.insert(index);
            }
            Life::Running if sidecar => {
                let findings = facts.findings.get(&record.id).copied().unwrap_or_default();
                if let Some((probe, grace)) = findings.kill {
                    plan.kill.push((
                        record.id.clone(),
                        format!("Init container {} failed {probe} probe", container.name),
                        grace,
                    ));
                    start.insert(index);
                } else if changed(facts, container, record) {
                    let reason = format!("Init container {} definition changed", container.name);
                    plan.kill.push((record.id.clone(), reason, None));
                    start.insert(index);
                }
                if findings.started {
                    if last {
                        initialized = true;
                    } else if !later_started {
                        start.insert(index + 1);
                    }
                }
            }
            Life::Running => {}
            Life::Exited if sidecar => {
                start.insert(index);
            }
            Life::Exited if succeeded(record) => {
                if last {
                    initialized = true;
                } else {
                    start.insert(index + 1);
                }
            }
            Life::Exited | Life::Unknown => {
                if policy == RestartPolicy::Never && !sidecar {
                    *plan = Plan {
                        kill_pod: true,
                        sandbox: plan.sandbox.take(),
                        ..Plan::default()
                    };
                    return false;
                }
                if record.life == Life::Unknown {
                    let reason = "Init container is in \"unknown\" state, try killing it before restart".to_owned();
                    plan.kill.push((record.id.clone(), reason, None));
                }
                start.insert(index);
            }
        }
        later_started = true;
    }
    if !later_started {
        start.insert(0);
    }
    plan.start.extend(
        start
            .into_iter()
            .filter_map(|i| inits.get(i).map(|c| (kind_of_init(c), i))),
    );
    initialized
}

fn decide_main(facts: &Facts<'_>, plan: &mut Plan) {
    let (pod, observed) = (facts.pod, facts.observed);
    let mut kept = 0;
    let mut started = 0;
    for (index, container) in main_containers(pod).iter().enumerate() {
        let record = observed.latest(&container.name);
        let Some(running) = record.filter(|r| r.life == Life::Running) else {
            if should_restart(pod, record) {
                plan.start.push((ContainerKind::Main, index));
                started += 1;
                if let Some(unknown) = record.filter(|r| r.life == Life::Unknown) {
                    let reason = "Container is in \"unknown\" state, try killing it before restart".to_owned();
                    plan.kill.push((unknown.id.clone(), reason, None));
                }
            }
            continue;
        };
        let findings = facts.findings.get(&running.id).copied().unwrap_or_default();
        let (why, grace, restart) = if changed(facts, container, running) {
            (format!("Container {} definition changed", container.name), None, true)
        } else if let Some((probe, grace)) = findings.kill {
            let again = RestartPolicy::of(pod) != RestartPolicy::Never;
            (
                format!("Container {} failed {probe} probe", container.name),
                grace,
                again,
            )
        } else {
            kept += 1;
            continue;
        };
        if restart {
            plan.kill
                .push((running.id.clone(), format!("{why}, will be restarted"), grace));
            plan.start.push((ContainerKind::Main, index));
            started += 1;
        } else {
            plan.kill.push((running.id.clone(), why, grace));
        }
    }
    if kept == 0 && started == 0 {
        plan.kill_pod = true;
        plan.start.clear();
    }
}

/// Whether the container was made from another spec. A Go edgecore of long ago hashed the whole spec: there the image's name decides.
fn changed(facts: &Facts<'_>, container: &Container, record: &ContainerRecord) -> bool {
    let Some(hash) = &record.hash else { return false };
    if *hash == (facts.hash)(container) {
        return false;
    }
    record.restart_delay.is_some() || !same_image(container.image.as_deref().unwrap_or_default(), record)
}

/// Whether a container that somebody else made runs the image that the spec names.
fn same_image(wanted: &str, record: &ContainerRecord) -> bool {
    let wanted = crate::edged::images::normalize(wanted);
    [&record.image, &record.image_requested]
        .into_iter()
        .any(|image| wanted.is_some() && crate::edged::images::normalize(image) == wanted)
}

fn succeeded(record: &ContainerRecord) -> bool {
    record.life == Life::Exited && record.exit_code == 0
}

fn kind_of_init(container: &Container) -> ContainerKind {
    if is_sidecar(container) {
        ContainerKind::Sidecar
    } else {
        ContainerKind::Init
    }
}

fn ephemeral_names(pod: &Pod) -> impl Iterator<Item = &str> {
    let containers = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.ephemeral_containers.as_deref())
        .unwrap_or_default();
    containers.iter().map(|c| c.name.as_str())
}
