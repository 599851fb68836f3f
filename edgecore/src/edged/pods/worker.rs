//! The worker of one pod.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::backoff::random_unit;
use common::{Backoff, chain};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use proto::Uid;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::decide::{self, Facts, Findings, decide, init_containers, main_containers};
use super::kill;
use super::observed::{Life, Observed, observe};
use super::parts::{Parts, ProbeGuard};
use super::start::{NotStarted, Place};
use crate::edged::admission::Refusal;
use crate::edged::api::Api;
use crate::edged::context::{
    ContainerKind, ContainerRef, Finding, MountedVolumes, NodeFacts, PodContext, ProbeEvent, Settings,
};
use crate::edged::images::{Images, PullDelays};
use crate::edged::runtime::{ContainerId, Runtime, RuntimeError};
use crate::edged::status::{
    DEADLINE, Input, Report, StatusManager, ephemeral_containers, is_terminal, never_ran, pod_status, refused,
    terminated, with_kept,
};
use crate::metamanager::PodSet;

/// Findings of a pod's probes that wait for its worker; probes wait when there are more.
const FINDINGS: usize = 32;
/// After an error that nothing tells the end of.
const ERROR_DELAY: Duration = Duration::from_secs(10);
/// While the network of pods is not ready.
const NETWORK_DELAY: Duration = Duration::from_secs(1);
/// Termination messages of one pod in bytes.
const MESSAGES: usize = 12 * 1024;

/// The time of day; tests have their own.
pub(crate) type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What all workers use.
pub(crate) struct Shared {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) parts: Arc<dyn Parts>,
    pub(crate) api: Arc<dyn Api>,
    /// All pods of this node, with those of files and without their mirrors.
    pub(crate) pods: watch::Receiver<Arc<PodSet>>,
    pub(crate) images: Images,
    pub(crate) statuses: StatusManager,
    pub(crate) settings: Arc<Settings>,
    pub(crate) node: watch::Receiver<Arc<NodeFacts>>,
    /// `None` until the runtime was reached.
    pub(crate) network_ready: watch::Receiver<Option<bool>>,
    pub(crate) runtime_name: watch::Receiver<String>,
    pub(crate) clock: Clock,
}

/// What is wanted of a pod.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// To be on this node, running or ending as the object says.
    Pod(Arc<Pod>),
    /// Not to be here: known before, or found in the runtime without anybody knowing it.
    Gone,
}

/// When to look again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Retry {
    /// After an error.
    Error,
    /// While the network is not ready.
    Network,
    /// At a known time.
    At(Instant),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    /// Containers are to be stopped.
    Terminating,
    /// Containers are gone, volumes and cgroups are to go.
    Cleaning,
    /// Nothing is left but ended containers, kept for their logs.
    Terminated,
}

/// How the manager reaches a worker.
pub(super) struct Calls {
    pub(super) wanted: watch::Receiver<Wanted>,
    pub(super) wake: Arc<Notify>,
    /// Cleared once the pod's containers are gone.
    pub(super) holds: Arc<AtomicBool>,
}

pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) pulls: PullDelays,
    uid: Uid,
    calls: Calls,
    /// Why the pod has no place on this node.
    refusal: Option<Refusal>,
    ctx: Option<PodContext>,
    stage: Stage,
    /// The pod was to be gone at some time: should it be wanted again, another worker starts it anew.
    was_gone: bool,
    observed: Observed,
    volumes: Option<MountedVolumes>,
    mount_backoff: Backoff,
    status: Option<PodStatus>,
    /// Whether the status manager was told since edgecore started.
    reported: bool,
    reasons: BTreeMap<String, (String, String)>,
    findings: BTreeMap<ContainerId, Findings>,
    probes: BTreeMap<ContainerId, ProbeGuard>,
    probe_events: (mpsc::Sender<ProbeEvent>, mpsc::Receiver<ProbeEvent>),
}

/// What came out of one look at the pod.
enum Outcome {
    /// Look again then, or when something happens.
    Wait(Instant),
    /// Look again at once.
    Again,
    /// Nothing is left: the worker ends.
    Done,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, uid: Uid, calls: Calls, refusal: Option<Refusal>) -> Self {
        Self {
            shared,
            pulls: PullDelays::default(),
            uid,
            calls,
            refusal,
            ctx: None,
            stage: Stage::Running,
            was_gone: false,
            observed: Observed::default(),
            volumes: None,
            mount_backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(30)),
            status: None,
            reported: false,
            reasons: BTreeMap::new(),
            findings: BTreeMap::new(),
            probes: BTreeMap::new(),
            probe_events: mpsc::channel(FINDINGS),
        }
    }

    /// Works until nothing of the pod is left and nobody wants it.
    pub(super) async fn run(mut self) {
        self.remember().await;
        loop {
            let gone = self.take_wanted();
            let mut stop = self.calls.wanted.clone();
            let outcome = if self.stage == Stage::Running && !gone {
                // The end of a pod does not wait for the pull of its image.
                tokio::select! {
                    outcome = self.sync() => outcome,
                    () = ending(&mut stop) => Outcome::Again,
                }
            } else {
                self.end(gone).await
            };
            let until = match outcome {
                Outcome::Done => return,
                Outcome::Again => continue,
                Outcome::Wait(until) => self.before_deadline(until),
            };
            tokio::select! {
                changed = self.calls.wanted.changed() => if changed.is_err() { return },
                () = self.calls.wake.notified() => {}
                event = self.probe_events.1.recv() => if let Some(event) = event { self.note(event) },
                () = tokio::time::sleep_until(until) => {}
            }
            while let Ok(event) = self.probe_events.1.try_recv() {
                self.note(event);
            }
        }
    }

    /// What was to be reported before edgecore stopped, while there was no link: a finished job is not run again.
    async fn remember(&mut self) {
        self.take_wanted();
        let Some(ctx) = self.ctx.clone() else { return };
        match ctx.api.pod_patch(ctx.namespace(), ctx.name()).await {
            Ok(Some(patch)) => self.status = with_kept(&self.uid, ctx.pod.status.as_ref(), &patch),
            Ok(None) => {}
            Err(error) => warn!(pod = %self.key(), error = chain(&error), "the last status is not known"),
        }
        if let Some(refusal) = self.refusal.take() {
            let qos_class = self.shared.parts.qos_class(&ctx);
            self.status = Some(refused(&refusal, qos_class, (self.shared.clock)()));
        }
    }

    /// The pod; only asked for where there is one.
    pub(super) fn ctx(&self) -> &PodContext {
        self.ctx.as_ref().expect("only pods with an object are synced")
    }

    /// `namespace/name`, for logs.
    pub(super) fn key(&self) -> String {
        self.ctx.as_ref().map_or_else(
            || format!("uid {}", self.uid),
            |ctx| format!("{}/{}", ctx.namespace(), ctx.name()),
        )
    }

    /// As kubelet writes it in messages.
    pub(super) fn long_name(&self) -> String {
        let ctx = self.ctx();
        format!("{}_{}({})", ctx.name(), ctx.namespace(), self.uid)
    }

    pub(super) fn now_nanos(&self) -> i64 {
        i64::try_from((self.shared.clock)().as_nanosecond()).unwrap_or(i64::MAX)
    }

    /// Takes the newest desired state. Returns whether the pod is to be gone.
    fn take_wanted(&mut self) -> bool {
        let wanted = self.calls.wanted.borrow_and_update().clone();
        match wanted {
            Wanted::Gone => {
                if self.stage == Stage::Running {
                    self.stage = Stage::Terminating;
                }
                self.was_gone = true;
                true
            }
            Wanted::Pod(pod) => {
                if pod.metadata.deletion_timestamp.is_some() && self.stage == Stage::Running {
                    self.stage = Stage::Terminating;
                }
                self.ctx = Some(PodContext {
                    pod,
                    node: self.shared.node.borrow().clone(),
                    settings: self.shared.settings.clone(),
                    api: self.shared.api.clone(),
                });
                self.was_gone
            }
        }
    }

    fn note(&mut self, event: ProbeEvent) {
        let findings = self.findings.entry(event.id).or_default();
        match event.finding {
            Finding::Started => findings.started = true,
            Finding::Ready(ready) => findings.ready = Some(ready),
            Finding::Kill { probe, grace_seconds } => findings.kill = Some((probe, grace_seconds)),
        }
    }

    /// Asks the runtime, and keeps what it said.
    async fn look(&mut self) -> Result<(), RuntimeError> {
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
                        .termination_message(&container, &record.status, MESSAGES);
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
    fn mind_probes(&mut self) {
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
    async fn report(&mut self, stopped: bool, finished: bool) -> PodStatus {
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
        let changed = self.status.as_ref() != Some(&sent);
        if changed || finished || !self.reported {
            self.reported = true;
            let report = Report {
                uid: self.uid.clone(),
                namespace: ctx.namespace().to_owned(),
                name: ctx.name().to_owned(),
                status: Arc::new(sent.clone()),
                finished,
            };
            self.shared.statuses.report(report).await;
        }
        self.status = Some(sent);
        status
    }

    /// When the pod has run for as long as it may.
    fn deadline(&self) -> Option<Timestamp> {
        let pod = &self.ctx.as_ref()?.pod;
        let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
        let status = self.status.as_ref().or(pod.status.as_ref())?;
        let started = status.start_time.as_ref()?.0;
        started.checked_add(jiff::SignedDuration::from_secs(seconds)).ok()
    }

    /// The time of the next look, not later than the end of the pod's time.
    fn before_deadline(&self, until: Instant) -> Instant {
        if self.stage != Stage::Running {
            return until;
        }
        let left = self.deadline().map(|at| at.duration_since((self.shared.clock)()));
        // One that is over already was looked at.
        match left.and_then(|left| Duration::try_from(left).ok()) {
            Some(left) if !left.is_zero() => until.min(Instant::now() + left),
            _ => until,
        }
    }

    /// One look at a pod that is to run.
    async fn sync(&mut self) -> Outcome {
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

    async fn bring_about(&mut self) -> Result<Outcome, RuntimeError> {
        let ctx = self.ctx().clone();
        let host_network = decide::is_host_network(&ctx.pod);
        let network_ready = *self.shared.network_ready.borrow();
        if network_ready == Some(false) && !host_network {
            debug!(pod = %self.key(), "waits for the network of pods");
            return Ok(self.later(Retry::Network));
        }
        if let Err(error) = self.shared.parts.create_cgroup(&ctx).await {
            warn!(pod = %self.key(), error, "pod has no cgroup");
            return Ok(self.later(Retry::Error));
        }
        let Some(volumes) = self.mount(&ctx).await else {
            let delay = self.mount_backoff.next_delay();
            return Ok(Outcome::Wait(Instant::now() + delay));
        };
        let plan = decide(&Facts {
            pod: &ctx.pod,
            observed: &self.observed,
            findings: &self.findings,
            hash: &|container| self.shared.parts.container_hash(container),
        });
        debug!(pod = %self.key(), ?plan, "plan");
        if plan.kill_pod {
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
        if plan.start.is_empty() && plan.create_sandbox.is_none() {
            self.reasons.clear();
            return Ok(self.rest());
        }
        self.start_all(&ctx, plan, &volumes).await
    }

    async fn start_all(
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
                let id = self.shared.runtime.run_sandbox(config.clone(), handler).await?;
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
        if started && retry.is_none() {
            // Another look finds what follows: the next init container, or rest.
            return Ok(self.rest());
        }
        Ok(retry.map_or_else(|| self.rest(), Outcome::Wait))
    }

    async fn mount(&mut self, ctx: &PodContext) -> Option<MountedVolumes> {
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
                None
            }
        }
    }

    /// One look at a pod that is to end, or to be gone.
    async fn end(&mut self, gone: bool) -> Outcome {
        let ended = match self.stage {
            Stage::Running | Stage::Terminating => self.terminate(gone).await,
            Stage::Cleaning => self.clean(gone).await,
            Stage::Terminated => self.remove(gone).await,
        };
        ended.unwrap_or_else(|error| self.failed("pod not ended", &error))
    }

    async fn terminate(&mut self, gone: bool) -> Result<Outcome, RuntimeError> {
        self.probes.clear();
        self.look().await?;
        let ctx = self.ctx.clone();
        if ctx.is_some() && !gone {
            self.report(false, false).await;
        }
        let grace = ctx
            .as_ref()
            .map_or_else(|| kill::orphan_grace(&self.observed), kill::pod_grace);
        let anything = self.observed.running().next().is_some() || self.observed.sandboxes.iter().any(|s| s.ready);
        if anything {
            info!(pod = %self.key(), uid = %self.uid, grace = grace.as_secs(), gone, "pod ends");
        }
        let shared = self.shared.clone();
        let observed = self.observed.clone();
        {
            // A shorter grace time, or the pod's removal, must not wait for the longer one.
            let mut shorter = self.calls.wanted.clone();
            let kill = kill::kill_pod(&shared.runtime, &shared.parts, ctx.as_ref(), &observed, grace);
            tokio::select! {
                killed = kill => killed?,
                () = less_grace(&mut shorter, grace) => return Ok(Outcome::Again),
            }
        }
        self.look().await?;
        if self.observed.running().next().is_some() {
            warn!(pod = %self.key(), "containers run although the runtime said that they were stopped");
            return Ok(self.later(Retry::Error));
        }
        if ctx.is_some() && !gone {
            self.report(true, false).await;
        }
        self.calls.holds.store(false, Ordering::Relaxed);
        self.stage = Stage::Cleaning;
        Ok(Outcome::Again)
    }

    async fn clean(&mut self, gone: bool) -> Result<Outcome, RuntimeError> {
        if let Err(error) = self.shared.parts.unmount(&self.uid).await {
            warn!(pod = %self.key(), uid = %self.uid, %error, "volumes are not removed");
            return Ok(self.later(Retry::Error));
        }
        self.volumes = None;
        if let Err(error) = self.shared.parts.remove_cgroup(&self.uid).await {
            warn!(pod = %self.key(), uid = %self.uid, error, "cgroup is not removed");
        }
        if self.ctx.is_some() && !gone {
            self.report(true, true).await;
        }
        self.stage = Stage::Terminated;
        Ok(Outcome::Again)
    }

    async fn remove(&mut self, gone: bool) -> Result<Outcome, RuntimeError> {
        if !gone {
            // Ended pods stay for their logs, and a pod whose deletion comes later is reported once more.
            if self.ctx().pod.metadata.deletion_timestamp.is_some() {
                self.report(true, true).await;
            }
            return Ok(self.rest());
        }
        self.look().await?;
        for container in &self.observed.containers {
            self.shared.runtime.remove_container(&container.id).await?;
        }
        for sandbox in &self.observed.sandboxes {
            self.shared.runtime.remove_sandbox(&sandbox.id).await?;
        }
        if let Some(ctx) = &self.ctx {
            self.shared
                .parts
                .remove_logs(ctx.namespace(), ctx.name(), &self.uid)
                .await;
        }
        info!(pod = %self.key(), uid = %self.uid, "pod is gone");
        Ok(Outcome::Done)
    }

    fn failed(&self, what: &str, error: &RuntimeError) -> Outcome {
        warn!(pod = %self.key(), uid = %self.uid, error = chain(error), "{what}");
        self.later(Retry::Error)
    }

    fn later(&self, retry: Retry) -> Outcome {
        Outcome::Wait(self.instant(retry))
    }

    fn instant(&self, retry: Retry) -> Instant {
        match retry {
            Retry::Error => Instant::now() + ERROR_DELAY.mul_f64(random_unit().mul_add(0.5, 1.0)),
            Retry::Network => Instant::now() + NETWORK_DELAY,
            Retry::At(at) => at,
        }
    }

    /// Until something happens, but not for ever.
    fn rest(&self) -> Outcome {
        Outcome::Wait(
            Instant::now()
                + self
                    .shared
                    .settings
                    .sync_frequency
                    .mul_f64(random_unit().mul_add(0.5, 1.0)),
        )
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("runtime", &self.runtime)
            .finish_non_exhaustive()
    }
}

/// Resolves when the pod is to end.
async fn ending(wanted: &mut watch::Receiver<Wanted>) {
    let ends = |wanted: &Wanted| match wanted {
        Wanted::Gone => true,
        Wanted::Pod(pod) => pod.metadata.deletion_timestamp.is_some(),
    };
    if wanted.wait_for(ends).await.is_err() {
        std::future::pending().await
    }
}

/// Resolves when the pod is given less time than it had.
async fn less_grace(wanted: &mut watch::Receiver<Wanted>, grace: Duration) {
    let less = |wanted: &Wanted| match wanted {
        Wanted::Gone => false,
        Wanted::Pod(pod) => pod
            .metadata
            .deletion_grace_period_seconds
            .is_some_and(|seconds| kill::grace(seconds) < grace),
    };
    if wanted.wait_for(less).await.is_err() {
        std::future::pending().await
    }
}

fn sooner(a: Option<Instant>, b: Instant) -> Option<Instant> {
    Some(a.map_or(b, |a| a.min(b)))
}

fn pod_ip(ctx: &PodContext, observed: &Observed) -> Option<IpAddr> {
    if decide::is_host_network(&ctx.pod) {
        ctx.node.ips.first().copied()
    } else {
        observed.ips().first().copied()
    }
}

/// The container of that name, if it is of a kind that is probed.
fn probed<'a>(pod: &'a Pod, name: &str) -> Option<(ContainerKind, &'a k8s_openapi::api::core::v1::Container)> {
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
