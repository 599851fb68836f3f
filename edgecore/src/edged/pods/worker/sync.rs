//! A pod that is to run: one look, one plan, one step.

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Outcome, Retry, Stage, Worker, pod_ip};
use crate::edged::context::{ContainerKind, MountedVolumes, PodContext};
use crate::edged::events::Severity;
use crate::edged::pods::decide::{self, Facts, decide};
use crate::edged::pods::kill;
use crate::edged::pods::observed::Life;
use crate::edged::pods::start::{NotStarted, Place};
use crate::edged::runtime::RuntimeError;
use crate::edged::status::is_terminal;

impl Worker {
    /// One look at a pod that is to run.
    pub(super) async fn sync(&mut self) -> Outcome {
        if let Err(error) = self.look().await {
            return self.failed("the runtime was not asked", &error);
        }
        let status = self.report(false, false).await;
        if is_terminal(status.phase.as_deref()) {
            self.stage = Stage::Terminating;
            return Outcome::Again;
        }
        match self.bring_about().await {
            Ok(outcome) => outcome,
            Err(error) => self.failed("pod not synced", &error),
        }
    }

    pub(super) async fn bring_about(&mut self) -> Result<Outcome, RuntimeError> {
        let ctx = self.ctx().clone();
        let host_network = decide::is_host_network(&ctx.pod);
        let network_ready = *self.shared.network_ready.borrow();
        if network_ready == Some(false) && !host_network {
            debug!(pod = %self.key(), "waits for the network of pods");
            return Ok(self.later(Retry::Network));
        }
        let plan = self.plan();
        debug!(pod = %self.key(), ?plan, "plan");
        // A cgroup is needed only where something starts: looking at a running pod should not cost a walk through the hierarchy.
        if plan.starts()
            && let Err(error) = self.shared.parts.create_cgroup(&ctx).await
        {
            warn!(pod = %self.key(), error, "pod has no cgroup");
            let message = format!("unable to ensure pod container exists: {error}");
            self.tell(Severity::Warning, "FailedCreatePodContainer", message);
            return Ok(self.later(Retry::Error));
        }
        let Some(volumes) = self.mount(&ctx).await else {
            let delay = self.mount_backoff.next_delay();
            return Ok(Outcome::Wait(Instant::now() + delay));
        };
        if plan.kill_pod {
            if plan.create_sandbox.is_some() && !self.observed.sandboxes.is_empty() {
                let message = "Pod sandbox changed, it will be killed and re-created.";
                self.tell(Severity::Normal, "SandboxChanged", message);
            }
            let grace = kill::pod_grace(&ctx);
            let shared = self.shared.clone();
            kill::kill_pod(&shared.runtime, &shared.parts, Some(&ctx), &self.observed, grace).await?;
        }
        // What is killed with the pod is not killed once more: its hook would run twice.
        for (id, reason, grace) in plan.kill.iter().filter(|_| !plan.kill_pod) {
            info!(pod = %self.key(), %id, reason, "container is killed");
            let Some(record) = self.observed.by_id(id).cloned() else {
                continue;
            };
            self.tell_killing(&record.name, reason.clone());
            let grace = grace.map_or_else(|| kill::pod_grace(&ctx), kill::grace);
            let ip = pod_ip(&ctx, &self.observed);
            let shared = self.shared.clone();
            let deadline = Instant::now() + grace;
            kill::kill_container(
                &shared.runtime,
                &shared.parts,
                Some(&ctx),
                &record,
                deadline,
                ip,
                async {},
            )
            .await?;
            self.findings.remove(id);
        }
        if plan.kill_pod || !plan.kill.is_empty() {
            self.look().await?;
        }
        if plan.kill_pod && plan.create_sandbox.is_none() {
            self.report(false, false).await;
            return Ok(self.rest());
        }
        if !plan.starts() {
            self.reasons.clear();
            self.calls.sightings.settled(&self.observed);
            return Ok(self.rest());
        }
        self.start_all(&ctx, plan, &volumes).await
    }

    pub(super) async fn start_all(
        &mut self,
        ctx: &PodContext,
        plan: decide::Plan,
        volumes: &MountedVolumes,
    ) -> Result<Outcome, RuntimeError> {
        let attempt = plan
            .create_sandbox
            .or_else(|| self.observed.sandboxes.first().map(|s| s.attempt))
            .unwrap_or(0);
        let config = match self.shared.parts.sandbox_config(ctx, attempt).await {
            Ok(config) => config,
            Err(error) => {
                warn!(pod = %self.key(), %error, "no sandbox can be made of the pod");
                return Ok(self.later(Retry::Error));
            }
        };
        let id = match (plan.create_sandbox, plan.sandbox) {
            (Some(_), _) | (None, None) => {
                let handler = ctx
                    .pod
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.runtime_class_name.clone())
                    .unwrap_or_default();
                let id = match self.shared.runtime.run_sandbox(config.clone(), handler).await {
                    Ok(id) => id,
                    Err(error) => {
                        let message = format!("Failed to create pod sandbox: {error}");
                        self.tell(Severity::Warning, "FailedCreatePodSandBox", message);
                        return Err(error);
                    }
                };
                info!(pod = %self.key(), uid = %self.uid, sandbox = %id, attempt, "sandbox started");
                self.look().await?;
                self.report(false, false).await;
                id
            }
            (None, Some(id)) => id,
        };
        let ips = if decide::is_host_network(&ctx.pod) {
            ctx.node.ips.clone()
        } else {
            self.observed.ips().to_vec()
        };
        let place = Place { id, config, ips };
        let observed = self.observed.clone();
        let mut retry = None;
        let mut started = false;
        for (kind, index) in plan.start {
            let Some(container) = self.container_at(kind, index) else {
                continue;
            };
            match self.start_container(kind, &container, &place, volumes, &observed).await {
                Ok(()) => {
                    self.reasons.remove(&container.name);
                    started = true;
                }
                Err(NotStarted {
                    reason,
                    message,
                    retry: when,
                }) => {
                    if reason != "CrashLoopBackOff" && reason != "ImagePullBackOff" {
                        warn!(pod = %self.key(), container = container.name, reason, message, "container not started");
                    }
                    self.tell_not_started(kind, &container.name, &reason, &message);
                    self.reasons.insert(container.name.clone(), (reason, message));
                    retry = sooner(retry, self.instant(when));
                    // An init container that does not start holds back those after it.
                    if kind == ContainerKind::Init {
                        break;
                    }
                }
            }
        }
        self.look().await?;
        self.report(false, false).await;
        if let Some(retry) = retry {
            return Ok(Outcome::Wait(retry));
        }
        if self.plan().is_empty() {
            self.calls.sightings.settled(&self.observed);
        } else if started && self.observed.containers.iter().all(|c| is_certain(c.life)) {
            // What follows: the next init container, or the end of one that has ended at once. A runtime that does not know whether
            // what it started runs is asked again later.
            return Ok(Outcome::Again);
        }
        Ok(self.rest())
    }

    /// What is to be done, by what was seen last.
    fn plan(&self) -> decide::Plan {
        decide(&Facts {
            pod: &self.ctx().pod,
            observed: &self.observed,
            findings: &self.findings,
            hash: &|container| self.shared.parts.container_hash(container),
        })
    }

    pub(super) async fn mount(&mut self, ctx: &PodContext) -> Option<MountedVolumes> {
        if let Some(volumes) = &self.volumes {
            if let Err(error) = self.shared.parts.refresh(ctx).await {
                warn!(pod = %self.key(), %error, "a volume was not brought up to date");
            }
            return Some(volumes.clone());
        }
        match self.shared.parts.mount(ctx).await {
            Ok(volumes) => {
                self.mount_backoff.reset();
                self.volumes = Some(volumes.clone());
                Some(volumes)
            }
            Err(error) => {
                warn!(pod = %self.key(), %error, "volumes are not in place");
                let message = format!(
                    "MountVolume.SetUp failed for volume \"{}\" : {}",
                    error.volume, error.message
                );
                self.tell(Severity::Warning, "FailedMount", message);
                None
            }
        }
    }
}

/// What events say, in kubelet's words.
impl Worker {
    fn tell(&self, severity: Severity, reason: &'static str, message: impl Into<String>) {
        self.shared.events.pod(&self.ctx().pod, severity, reason, message);
    }

    pub(super) fn tell_killing(&self, container: &str, message: String) {
        let place = (kill::kind_of(self.ctx(), container), container);
        self.shared
            .events
            .container(&self.ctx().pod, place, Severity::Normal, "Killing", message);
    }

    fn tell_not_started(&self, kind: ContainerKind, container: &str, reason: &str, message: &str) {
        let (reason, message) = match reason {
            "CrashLoopBackOff" => {
                let pod = self.long_name();
                let message = format!("Back-off restarting failed container {container} in pod {pod}");
                ("BackOff", message)
            }
            "PostStartHookError" => ("FailedPostStartHook", message.to_owned()),
            // What is wrong with the image was told where it was found.
            "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" | "ImageInspectError" => {
                ("Failed", format!("Error: {reason}"))
            }
            _ => ("Failed", format!("Error: {message}")),
        };
        let place = (kind, container);
        self.shared
            .events
            .container(&self.ctx().pod, place, Severity::Warning, reason, message);
    }
}

const fn is_certain(life: Life) -> bool {
    matches!(life, Life::Running | Life::Exited)
}

fn sooner(a: Option<Instant>, b: Instant) -> Option<Instant> {
    Some(a.map_or(b, |a| a.min(b)))
}
