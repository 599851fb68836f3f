//! `status.containerStatuses` and its two sisters.

use common::order;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::compute::{Input, seconds};
use super::phase::by_name;
use crate::edged::pods::decide::{init_containers, is_sidecar, main_containers, should_restart};
use crate::edged::pods::observed::{ContainerRecord, Life};
use crate::pod::Pod;

/// Reason of containers that vanished.
pub(super) const STATUS_UNKNOWN: &str = "ContainerStatusUnknown";

/// Which list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    Main,
    Init,
    Ephemeral,
}

/// The statuses of one list: main and ephemeral ones by name, init containers as in the spec.
pub(super) fn statuses(input: &Input<'_>, list: List) -> Vec<ContainerStatus> {
    let old = match list {
        List::Main => &input.old.container_statuses,
        List::Init => &input.old.init_container_statuses,
        List::Ephemeral => &input.old.ephemeral_container_statuses,
    };
    let old = old.as_deref().unwrap_or_default();
    let mut statuses: Vec<ContainerStatus> = match list {
        List::Main => main_containers(input.pod)
            .iter()
            .map(|c| status(input, c, by_name(old, &c.name), list))
            .collect(),
        List::Init => init_containers(input.pod)
            .iter()
            .map(|c| status(input, c, by_name(old, &c.name), list))
            .collect(),
        List::Ephemeral => ephemeral_containers(input.pod)
            .iter()
            .map(|c| status(input, c, by_name(old, &c.name), list))
            .collect(),
    };
    if list != List::Init {
        order::sort_by(&mut statuses, |a, b| a.name.cmp(&b.name));
    }
    statuses
}

/// Ephemeral containers as ordinary ones.
pub(crate) fn ephemeral_containers(pod: &Pod) -> Vec<Container> {
    let containers = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.ephemeral_containers.as_deref())
        .unwrap_or_default();
    containers
        .iter()
        .map(|c| Container {
            args: c.args.clone(),
            command: c.command.clone(),
            env: c.env.clone(),
            env_from: c.env_from.clone(),
            image: c.image.clone(),
            image_pull_policy: c.image_pull_policy.clone(),
            name: c.name.clone(),
            security_context: c.security_context.clone(),
            stdin: c.stdin,
            stdin_once: c.stdin_once,
            termination_message_path: c.termination_message_path.clone(),
            termination_message_policy: c.termination_message_policy.clone(),
            tty: c.tty,
            volume_devices: c.volume_devices.clone(),
            volume_mounts: c.volume_mounts.clone(),
            working_dir: c.working_dir.clone(),
            ..Container::default()
        })
        .collect()
}

fn status(input: &Input<'_>, container: &Container, old: Option<&ContainerStatus>, list: List) -> ContainerStatus {
    let mut lives = input.observed.containers.iter().filter(|c| c.name == container.name);
    let latest = lives.next();
    let mut status = latest.map_or_else(
        || absent(input, container, old),
        |record| present(input, container, record, old),
    );
    if let Some(before) = lives.next() {
        status.last_state = Some(state(input, before, old).0);
    }
    say_why_it_waits(input, container, latest, list, &mut status);
    set_ready(input, container, latest, list, &mut status);
    status
}

/// The status of a container that the runtime does not have.
fn absent(input: &Input<'_>, container: &Container, old: Option<&ContainerStatus>) -> ContainerStatus {
    if let Some(old) = old.filter(|old| old.state.as_ref().is_some_and(|s| s.terminated.is_some())) {
        return ContainerStatus {
            ready: false,
            ..old.clone()
        };
    }
    let waits_for = if init_containers(input.pod).is_empty() {
        "ContainerCreating"
    } else {
        "PodInitializing"
    };
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(waiting(waits_for, None)),
        last_state: Some(ContainerState::default()),
        volume_mounts: volume_mounts(container),
        ..ContainerStatus::default()
    };
    let Some(old) = old else { return status };
    status.restart_count = old.restart_count;
    status.last_state = Some(old.last_state.clone().unwrap_or_default());
    let was_running = old.state.as_ref().is_some_and(|s| s.running.is_some());
    let has_last = status.last_state.as_ref().is_some_and(|s| s.terminated.is_some());
    if was_running && !has_last {
        let message = "The container could not be located when the pod was deleted.  The container used to be Running";
        status.last_state = Some(ContainerState {
            terminated: Some(ContainerStateTerminated {
                reason: Some(STATUS_UNKNOWN.to_owned()),
                message: Some(message.to_owned()),
                exit_code: 137,
                ..Default::default()
            }),
            ..Default::default()
        });
        if input.pod.metadata.deletion_timestamp.is_none() {
            status.restart_count = status.restart_count.saturating_add(1);
        }
    }
    status
}

/// The status of a container that the runtime has.
fn present(
    input: &Input<'_>,
    container: &Container,
    record: &ContainerRecord,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let (state, lost) = state(input, record, old);
    let restarts = i32::try_from(record.restart_count).unwrap_or(i32::MAX);
    ContainerStatus {
        name: container.name.clone(),
        restart_count: if lost {
            old.map_or(restarts, |o| o.restart_count.saturating_add(1))
        } else {
            restarts
        },
        image: record.image.clone(),
        image_id: record.image_ref.clone(),
        container_id: Some(format!("{}://{}", input.runtime_name, record.id)),
        state: Some(state),
        last_state: Some(remembered(record, old)),
        volume_mounts: volume_mounts(container),
        ..ContainerStatus::default()
    }
}

/// The end before this life, where the runtime has forgotten it (a Go edgecore removes ended containers when it stops).
fn remembered(record: &ContainerRecord, old: Option<&ContainerStatus>) -> ContainerState {
    let same = |old: &&ContainerStatus| {
        old.container_id
            .as_deref()
            .is_some_and(|id| id.ends_with(record.id.as_str()))
            && i32::try_from(record.restart_count) == Ok(old.restart_count)
    };
    old.filter(same)
        .and_then(|old| old.last_state.clone())
        .unwrap_or_default()
}

/// A state, and whether it stands for a container that was lost while running.
fn state(input: &Input<'_>, record: &ContainerRecord, old: Option<&ContainerStatus>) -> (ContainerState, bool) {
    let id = || Some(format!("{}://{}", input.runtime_name, record.id));
    let was_running = old.and_then(|o| o.state.as_ref()).is_some_and(|s| s.running.is_some());
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    match record.life {
        Life::Running => {
            let running = ContainerStateRunning {
                started_at: Some(time(record.started_at)),
            };
            (
                ContainerState {
                    running: Some(running),
                    ..Default::default()
                },
                false,
            )
        }
        Life::Exited => {
            let terminated = ContainerStateTerminated {
                exit_code: record.exit_code,
                reason: text(&record.reason),
                message: text(&record.message),
                started_at: Some(time(record.started_at)),
                finished_at: Some(time(record.finished_at)),
                container_id: id(),
                ..Default::default()
            };
            (
                ContainerState {
                    terminated: Some(terminated),
                    ..Default::default()
                },
                false,
            )
        }
        Life::Unknown if was_running => {
            let terminated = ContainerStateTerminated {
                reason: Some(STATUS_UNKNOWN.to_owned()),
                message: Some("The container could not be located when the pod was terminated".to_owned()),
                exit_code: 137,
                ..Default::default()
            };
            (
                ContainerState {
                    terminated: Some(terminated),
                    ..Default::default()
                },
                true,
            )
        }
        Life::Created | Life::Unknown => {
            let waiting = ContainerStateWaiting::default();
            (
                ContainerState {
                    waiting: Some(waiting),
                    ..Default::default()
                },
                false,
            )
        }
    }
}

/// A container that is to be started, and is not for a reason, waits.
fn say_why_it_waits(
    input: &Input<'_>,
    container: &Container,
    latest: Option<&ContainerRecord>,
    list: List,
    status: &mut ContainerStatus,
) {
    let done = list == List::Init && latest.is_some_and(|r| r.life == Life::Exited && r.exit_code == 0);
    if (done && !is_sidecar(container)) || input.stopped || !should_restart(input.pod, latest) {
        return;
    }
    let Some((reason, message)) = input.reasons.get(&container.name) else {
        return;
    };
    if status.state.as_ref().is_some_and(|s| s.terminated.is_some()) {
        status.last_state = status.state.take();
    }
    status.state = Some(waiting(reason, (!message.is_empty()).then(|| message.clone())));
}

fn set_ready(
    input: &Input<'_>,
    container: &Container,
    latest: Option<&ContainerRecord>,
    list: List,
    status: &mut ContainerStatus,
) {
    if list == List::Ephemeral {
        return;
    }
    let running = status.state.as_ref().is_some_and(|s| s.running.is_some());
    let findings = latest.and_then(|r| input.findings.get(&r.id)).copied();
    let started = running && (container.startup_probe.is_none() || findings.is_some_and(|f| f.started));
    status.started = Some(started);
    if list == List::Init && !is_sidecar(container) {
        let code = status
            .state
            .as_ref()
            .and_then(|s| s.terminated.as_ref())
            .map(|t| t.exit_code);
        status.ready = code == Some(0);
        return;
    }
    let probed = container.readiness_probe.is_none() || findings.is_some_and(|f| f.ready == Some(true));
    status.ready = started && probed;
}

fn volume_mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_deref().filter(|mounts| !mounts.is_empty())?;
    let status = |read_only: bool| read_only.then(|| "Disabled".to_owned());
    Some(
        mounts
            .iter()
            .map(|mount| {
                let read_only = mount.read_only.unwrap_or(false);
                VolumeMountStatus {
                    name: mount.name.clone(),
                    mount_path: mount.mount_path.clone(),
                    read_only: read_only.then_some(true),
                    recursive_read_only: status(read_only),
                }
            })
            .collect(),
    )
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    let waiting = ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message,
    };
    ContainerState {
        waiting: Some(waiting),
        ..Default::default()
    }
}

fn time(nanoseconds: i64) -> Time {
    Time(seconds(
        Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::UNIX_EPOCH),
    ))
}
