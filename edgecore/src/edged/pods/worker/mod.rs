//! The worker of one pod.
//!
//! Owns everything about its pod: `look` sees and reports, `sync` brings about, `end` takes away.

mod end;
mod look;
mod sync;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use common::backoff::random_unit;
use common::{Backoff, chain};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;
use proto::Uid;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tracing::warn;

use super::decide::{self, Findings};
use super::observed::Observed;
use super::parts::{Parts, ProbeGuard};
use super::sightings::Sightings;
use crate::edged::admission::Refusal;
use crate::edged::api::Api;
use crate::edged::context::{Finding, MountedVolumes, NodeFacts, PodContext, ProbeEvent, Settings};
use crate::edged::events::{Events, Severity};
use crate::edged::images::{Images, PullDelays};
use crate::edged::runtime::{ContainerId, Runtime, RuntimeError};
use crate::edged::status::{StatusManager, refused, with_kept};
use crate::metamanager::PodSet;
use crate::pod::Pod;

/// Findings of a pod's probes that wait for its worker; probes wait when there are more.
const FINDINGS: usize = 32;
/// After an error, where nothing will tell that it is over.
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
    pub(crate) events: Events,
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
    /// Not to be here: known before, or found in the runtime without anybody knowing it. With the seconds that it may take to end, where
    /// whoever deleted it said so.
    Gone(Option<i64>),
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
    pub(super) sightings: Arc<Sightings>,
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
    /// What [`Wanted::Gone`] gives it.
    gone_grace: Option<i64>,
    observed: Observed,
    volumes: Option<MountedVolumes>,
    mount_backoff: Backoff,
    status: Option<PodStatus>,
    /// Whether the status manager was told since edgecore started.
    reported: bool,
    reasons: BTreeMap<String, (String, String)>,
    findings: BTreeMap<ContainerId, Findings>,
    probes: BTreeMap<ContainerId, ProbeGuard>,
    /// Where they ask.
    probed: Option<IpAddr>,
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
            gone_grace: None,
            observed: Observed::default(),
            volumes: None,
            mount_backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(30)),
            status: None,
            reported: false,
            reasons: BTreeMap::new(),
            findings: BTreeMap::new(),
            probes: BTreeMap::new(),
            probed: None,
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
                () = self.calls.sightings.news() => {}
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
            let (reason, message) = (refusal.reason.clone(), refusal.message.clone());
            self.shared.events.pod(&ctx.pod, Severity::Warning, reason, message);
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
            Wanted::Gone(grace) => {
                self.gone_grace = grace;
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
        // A deadline that has passed was dealt with when it was first seen.
        match left.and_then(|left| Duration::try_from(left).ok()) {
            Some(left) if !left.is_zero() => until.min(Instant::now() + left),
            _ => until,
        }
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
        Wanted::Gone(_) => true,
        Wanted::Pod(pod) => pod.metadata.deletion_timestamp.is_some(),
    };
    if wanted.wait_for(ends).await.is_err() {
        std::future::pending().await
    }
}

fn pod_ip(ctx: &PodContext, observed: &Observed) -> Option<IpAddr> {
    if decide::is_host_network(&ctx.pod) {
        ctx.node.ips.first().copied()
    } else {
        observed.ips().first().copied()
    }
}
