//! `status.phase`.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, PodStatus};

use crate::edged::pods::decide::{RestartPolicy, init_containers, is_sidecar, main_containers};
use crate::pod::Pod;

/// Whether a phase is the last one.
pub(crate) fn is_terminal(phase: Option<&str>) -> bool {
    matches!(phase, Some("Succeeded" | "Failed"))
}

#[derive(Default)]
struct Count {
    unknown: u32,
    running: u32,
    waiting: u32,
    stopped: u32,
    succeeded: u32,
}

/// The phase that follows from the statuses of containers; `stopped` says that nothing will be started again.
pub(super) fn phase(pod: &Pod, status: &PodStatus, stopped: bool) -> &'static str {
    let policy = RestartPolicy::of(pod);
    let inits = status.init_container_statuses.as_deref().unwrap_or_default();
    let mains = status.container_statuses.as_deref().unwrap_or_default();
    let (mut pending_init, mut pending_sidecar, mut failed_init) = (0, 0, 0);
    let mut count = Count::default();
    for container in init_containers(pod) {
        let found = by_name(inits, &container.name);
        let state = found.and_then(|c| c.state.as_ref());
        let last_exit = found.and_then(last_exit);
        if is_sidecar(container) {
            match (found, State::of(state)) {
                (None, _) => count.unknown += 1,
                (Some(c), State::Running) => {
                    if c.started != Some(true) {
                        pending_sidecar += 1;
                    }
                    count.running += 1;
                }
                (_, State::Exited(_)) => {}
                (_, State::Waiting) if last_exit.is_some() => {}
                (_, State::Waiting) => {
                    pending_sidecar += 1;
                    count.waiting += 1;
                }
                (_, State::None) => {
                    pending_sidecar += 1;
                    count.unknown += 1;
                }
            }
            continue;
        }
        match State::of(state) {
            State::Exited(code) => failed_init += u32::from(code != 0),
            State::Waiting => match last_exit {
                Some(code) => failed_init += u32::from(code != 0),
                None => pending_init += 1,
            },
            State::Running | State::None => pending_init += 1,
        }
    }
    for container in main_containers(pod) {
        let found = by_name(mains, &container.name);
        match State::of(found.and_then(|c| c.state.as_ref())) {
            State::Running => count.running += 1,
            State::Exited(code) => {
                count.stopped += 1;
                count.succeeded += u32::from(code == 0);
            }
            State::Waiting if found.and_then(last_exit).is_some() => count.stopped += 1,
            State::Waiting => count.waiting += 1,
            State::None => count.unknown += 1,
        }
    }
    if failed_init > 0 && policy == RestartPolicy::Never {
        return "Failed";
    }
    if pending_init > 0 || (pending_sidecar > 0 && !any_main_started(mains)) || count.waiting > 0 {
        return "Pending";
    }
    if count.unknown > 0 {
        return "Pending";
    }
    if count.running > 0 {
        return "Running";
    }
    if count.stopped == 0 {
        return "Pending";
    }
    let all_well = count.stopped == count.succeeded;
    match (stopped, policy) {
        (true, _) if all_well => "Succeeded",
        (true, _) => "Failed",
        (false, RestartPolicy::Always) => "Running",
        (false, _) if all_well => "Succeeded",
        (false, RestartPolicy::Never) => "Failed",
        (false, RestartPolicy::OnFailure) => "Running",
    }
}

/// Whether any main container has ever started, by its status.
pub(super) fn any_main_started(mains: &[ContainerStatus]) -> bool {
    mains
        .iter()
        .any(|c| last_exit(c).is_some() || matches!(State::of(c.state.as_ref()), State::Running | State::Exited(_)))
}

/// Whether the pod's init containers had ended well, by what the API knows.
pub(super) fn was_initialized(pod: &Pod) -> bool {
    let Some(last) = init_containers(pod).last() else {
        return true;
    };
    let Some(status) = &pod.status else { return false };
    let begun = |c: &ContainerStatus| last_exit(c).is_some() || !matches!(State::of(c.state.as_ref()), State::Waiting);
    if status.container_statuses.iter().flatten().any(begun) {
        return true;
    }
    let inits = status.init_container_statuses.as_deref().unwrap_or_default();
    let Some(found) = by_name(inits, &last.name) else {
        return false;
    };
    if is_sidecar(last) {
        return matches!(State::of(found.state.as_ref()), State::Running) && found.started == Some(true);
    }
    matches!(State::of(found.state.as_ref()), State::Exited(0)) || last_exit(found) == Some(0)
}

/// A container's status by its name.
pub(super) fn by_name<'a>(statuses: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|c| c.name == name)
}

enum State {
    Running,
    Exited(i32),
    Waiting,
    None,
}

impl State {
    fn of(state: Option<&ContainerState>) -> Self {
        let Some(state) = state else { return Self::None };
        if state.running.is_some() {
            return Self::Running;
        }
        if let Some(terminated) = &state.terminated {
            return Self::Exited(terminated.exit_code);
        }
        if state.waiting.is_some() {
            Self::Waiting
        } else {
            Self::None
        }
    }
}

fn last_exit(status: &ContainerStatus) -> Option<i32> {
    status.last_state.as_ref()?.terminated.as_ref().map(|t| t.exit_code)
}
