//! What a worker sees of its pod, and what it says of it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, PodStatus};
use tracing::info;

use super::{MESSAGES, Stage, Worker, pod_ip};
use crate::edged::context::{ContainerKind, ContainerRef};
use crate::edged::pods::decide::{self, Findings, init_containers, main_containers};
use crate::edged::pods::kill;
use crate::edged::pods::observed::{Life, observe};
use crate::edged::runtime::RuntimeError;
use crate::edged::status::{
    DEADLINE, Input, Report, ephemeral_containers, is_terminal, never_ran, pod_status, terminated,
};
use crate::pod::Pod;

impl Worker {
    /// Asks the runtime, and keeps what it said.
    pub(super) async fn look(&mut self) -> Result<(), RuntimeError> {
        let mut seen = observe(&*self.shared.runtime, &self.uid, &self.observed).await?;
        if let Some(ctx) = &self.ctx {
            for record in &mut seen.containers {
                let known = self
                    .observed
                    .by_id(&record.id)
                    .is_some_and(|known| known.life == Life::Exited);
                if record.life != Life::Exited || known {
                    continue;
                }
                if let Some(container) = kill::spec_of(ctx, &record.name) {
                    let message = self
                        .shared
                        .parts
                        .termination_message(ctx, &container, &record.status, MESSAGES);
                    if !message.is_empty() {
                        record.message = message;
                    }
                }
            }
        }
        self.observed = seen;
        self.mind_probes();
        Ok(())
    }

    /// Starts probes of containers that run, ends those of containers that do not.
    pub(super) fn mind_probes(&mut self) {
        let Some(ctx) = self.ctx.clone() else { return };
        let running: Vec<_> = self
            .observed
            .containers
            .iter()
            .filter(|c| c.life == Life::Running)
            .collect();
        self.probes.retain(|id, _| running.iter().any(|c| c.id == *id));
        self.findings.retain(|id, _| running.iter().any(|c| c.id == *id));
        if self.stage != Stage::Running {
            return;
        }
        let ip = pod_ip(&ctx, &self.observed);
        if decide::is_host_network(&ctx.pod) && self.probed != ip {
            // The node's address changed: nobody answers at the old one.
            self.probes.clear();
        }
        self.probed = ip;
        for record in running {
            if self.findings.contains_key(&record.id) && self.probes.contains_key(&record.id) {
                continue;
            }
            let Some((kind, container)) = probed(&ctx.pod, &record.name) else {
                continue;
            };
            // A container that was ready before edgecore stopped stays so until a probe says otherwise.
            let before = self.status.as_ref().or(ctx.pod.status.as_ref()).and_then(|status| {
                let lists = [&status.container_statuses, &status.init_container_statuses];
                lists.into_iter().flatten().flatten().find(|c| {
                    c.container_id
                        .as_deref()
                        .is_some_and(|id| id.ends_with(record.id.as_str()))
                })
            });
            self.findings.entry(record.id.clone()).or_insert_with(|| Findings {
                started: container.startup_probe.is_none() || before.is_some_and(|c| c.started == Some(true)),
                ready: before.filter(|c| c.ready).map(|_| true),
                kill: None,
            });
            let guard = self.shared.parts.start_probes(
                &ctx,
                ContainerRef { kind, container },
                &record.id,
                record.started_at,
                ip,
                self.probe_events.0.clone(),
            );
            self.probes.insert(record.id.clone(), guard);
        }
    }

    /// Computes the status and reports it.
    pub(super) async fn report(&mut self, stopped: bool, finished: bool) -> PodStatus {
        let ctx = self.ctx().clone();
        let empty = PodStatus::default();
        let old = self.status.as_ref().or(ctx.pod.status.as_ref()).unwrap_or(&empty);
        let now = (self.shared.clock)();
        let evicted = self.deadline().is_some_and(|at| at <= now).then_some(DEADLINE);
        let status = pod_status(&Input {
            pod: &ctx.pod,
            observed: &self.observed,
            old,
            findings: &self.findings,
            reasons: &self.reasons,
            stopped,
            evicted,
            runtime_name: &self.shared.runtime_name.borrow(),
            host_ips: &ctx.node.ips,
            qos_class: &self.shared.parts.qos_class(&ctx),
            now,
        });
        let mut sent = if finished && !never_ran(&status) {
            terminated(&ctx.pod, &status, now)
        } else {
            status.clone()
        };
        // No pod is reported as ended while one of its containers may run.
        let api_phase = ctx.pod.status.as_ref().and_then(|s| s.phase.as_deref());
        if is_terminal(sent.phase.as_deref()) && !is_terminal(api_phase) && self.observed.running().next().is_some() {
            sent.phase = old
                .phase
                .clone()
                .filter(|phase| !is_terminal(Some(phase)))
                .or_else(|| Some("Running".into()));
            sent.reason.clone_from(&old.reason);
            sent.message.clone_from(&old.message);
        }
        if old.phase != sent.phase {
            info!(pod = %self.key(), uid = %self.uid, from = old.phase, to = sent.phase, "pod phase");
        }
        let pending = |phase: Option<&str>| phase.is_none_or(|phase| phase == "Pending");
        let patience = if pending(old.phase.as_deref()) && pending(sent.phase.as_deref()) && !finished {
            PATIENCE
        } else if stopped && !finished {
            CLEANING
        } else {
            Duration::ZERO
        };
        let changed = self.status.as_ref() != Some(&sent);
        if changed || finished || !self.reported {
            self.reported = true;
            let report = Report {
                uid: self.uid.clone(),
                namespace: ctx.namespace().to_owned(),
                name: ctx.name().to_owned(),
                status: Arc::new(sent.clone()),
                patience,
                finished,
            };
            self.shared.statuses.report(report).await;
        }
        self.status = Some(sent);
        status
    }
}

/// What happens on the way to the first container is told when it takes longer than this.
const PATIENCE: Duration = Duration::from_secs(1);
/// That containers have ended is told together with that nothing of the pod is left, unless its volumes and cgroup take longer to go.
const CLEANING: Duration = Duration::from_millis(200);

/// The container of that name, if it is of a kind that is probed.
fn probed<'a>(pod: &'a Pod, name: &str) -> Option<(ContainerKind, &'a Container)> {
    if ephemeral_containers(pod).iter().any(|c| c.name == name) {
        return None;
    }
    let main = main_containers(pod)
        .iter()
        .find(|c| c.name == name)
        .map(|c| (ContainerKind::Main, c));
    main.or_else(|| {
        let sidecars = init_containers(pod).iter().filter(|c| decide::is_sidecar(c));
        sidecars
            .filter(|c| c.name == name)
            .map(|c| (ContainerKind::Sidecar, c))
            .next()
    })
}
