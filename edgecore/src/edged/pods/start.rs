//! Brings up a sandbox and starts containers.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use proto::cri;
use tokio::time::Instant;
use tracing::{info, warn};

use super::backoff::{Restart, restart};
use super::decide::{init_containers, main_containers};
use super::observed::{ANNOTATION_RESTART_DELAY, Life, Observed};
use super::worker::{Retry, Worker};
use crate::edged::context::{ContainerKind, ContainerRef, MountedVolumes, PodContext};
use crate::edged::events::Severity;
use crate::edged::podspec;
use crate::edged::runtime::SandboxId;
use crate::edged::status::ephemeral_containers;

/// Why a container was not started: for `waiting`, and when to try again.
pub(super) struct NotStarted {
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) retry: Retry,
}

impl NotStarted {
    fn new(reason: &str, message: impl Into<String>) -> Self {
        Self {
            reason: reason.to_owned(),
            message: message.into(),
            retry: Retry::Error,
        }
    }
}

/// The sandbox that containers are put into.
pub(super) struct Place {
    pub(super) id: SandboxId,
    pub(super) config: cri::PodSandboxConfig,
    pub(super) ips: Vec<IpAddr>,
}

impl Worker {
    /// The container at a place of the spec.
    pub(super) fn container_at(&self, kind: ContainerKind, index: usize) -> Option<Container> {
        match kind {
            ContainerKind::Init | ContainerKind::Sidecar => init_containers(&self.ctx().pod).get(index).cloned(),
            ContainerKind::Main => main_containers(&self.ctx().pod).get(index).cloned(),
            ContainerKind::Ephemeral => ephemeral_containers(&self.ctx().pod).into_iter().nth(index),
        }
    }

    /// Starts one container: back-off, image, configuration, create, start, hook.
    pub(super) async fn start_container(
        &mut self,
        kind: ContainerKind,
        container: &Container,
        place: &Place,
        volumes: &MountedVolumes,
        observed: &Observed,
    ) -> Result<(), NotStarted> {
        let next_delay = self.mind_backoff(container, observed)?;
        let ctx = self.ctx().clone();
        let shared = self.shared.clone();
        let image_name = container.image.clone().unwrap_or_default();
        let credentials = shared.parts.credentials(&ctx, &image_name).await;
        let tell = |severity, reason, message: String| {
            let place = (kind, container.name.as_str());
            shared.events.container(&ctx.pod, place, severity, reason, message);
        };
        let image = shared
            .images
            .ensure(container, credentials, &place.config, &mut self.pulls, &tell)
            .await
            .map_err(|error| NotStarted {
                reason: error.reason.to_owned(),
                message: error.message,
                retry: error.retry_at.map_or(Retry::Error, Retry::At),
            })?;
        let restarts = self.restart_count(container, observed);
        let container_ref = ContainerRef { kind, container };
        let mut config = shared
            .parts
            .container_config(&ctx, container_ref, restarts, &image, &place.ips, volumes)
            .await
            .map_err(|error| NotStarted::new(error.reason, error.message))?;
        if let Some(target) = target(&ctx, container_ref) {
            let found = observed.latest(target).filter(|record| record.life == Life::Running);
            let Some(found) = found else {
                let message = format!("unable to find target container {target}");
                return Err(NotStarted::new("CreateContainerConfigError", message));
            };
            podspec::share_process_namespace(&mut config, &found.id);
        }
        config
            .annotations
            .insert(ANNOTATION_RESTART_DELAY.to_owned(), next_delay.to_string());
        let runtime = &shared.runtime;
        let id = runtime
            .create_container(&place.id, config, place.config.clone())
            .await
            .map_err(|error| NotStarted::new("CreateContainerError", error.message))?;
        tell(
            Severity::Normal,
            "Created",
            format!("Created container: {}", container.name),
        );
        if let Err(error) = runtime.start_container(&id).await {
            return Err(NotStarted::new("RunContainerError", error.message));
        }
        info!(pod = %self.key(), container = container.name, %id, restarts, "container started");
        tell(
            Severity::Normal,
            "Started",
            format!("Started container {}", container.name),
        );
        shared.parts.link_log(&ctx, &container.name, restarts, &id).await;
        let hook = container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.post_start.as_ref());
        if hook.is_some() {
            let ip = place.ips.first().copied();
            if let Err(error) = shared.parts.post_start(&ctx, container, &id, ip).await {
                warn!(pod = %self.key(), container = container.name, error, "postStart hook failed");
                let grace = super::kill::pod_grace(&ctx);
                if let Err(error) = runtime.stop_container(&id, grace).await {
                    warn!(pod = %self.key(), container = container.name, %error, "container not stopped");
                }
                return Err(NotStarted::new("PostStartHookError", error));
            }
        }
        Ok(())
    }

    fn mind_backoff(&self, container: &Container, observed: &Observed) -> Result<u64, NotStarted> {
        let last = observed
            .containers
            .iter()
            .find(|c| c.name == container.name && c.life == Life::Exited);
        let now = self.now_nanos();
        match restart(last, now) {
            Restart::Now { next_delay } => Ok(next_delay),
            Restart::Wait { until, delay } => {
                let (delay, name, pod) = (go_duration(delay), &container.name, self.long_name());
                let left = u64::try_from(until.saturating_sub(now)).unwrap_or(0);
                Err(NotStarted {
                    reason: "CrashLoopBackOff".to_owned(),
                    message: format!("back-off {delay} restarting failed container={name} pod={pod}"),
                    retry: Retry::At(Instant::now() + Duration::from_nanos(left)),
                })
            }
        }
    }

    fn restart_count(&self, container: &Container, observed: &Observed) -> u32 {
        if let Some(last) = observed.latest(&container.name) {
            return last.restart_count.saturating_add(1);
        }
        self.shared
            .parts
            .last_log_number(self.ctx(), &container.name)
            .map_or(0, |n| n.saturating_add(1))
    }
}

/// The container whose processes an ephemeral container is to see.
fn target<'a>(ctx: &'a PodContext, container: ContainerRef<'_>) -> Option<&'a str> {
    if container.kind != ContainerKind::Ephemeral {
        return None;
    }
    let all = ctx.pod.spec.as_ref()?.ephemeral_containers.as_deref()?;
    let found = all.iter().find(|c| c.name == container.container.name)?;
    found.target_container_name.as_deref().filter(|name| !name.is_empty())
}

/// Seconds as Go prints durations.
fn go_duration(seconds: u64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, s) => format!("{s}s"),
        (m, s) => format!("{m}m{s}s"),
    }
}
