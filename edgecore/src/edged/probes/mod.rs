//! Questions to containers: are you up, ready, alive (spec 05 §6, row 20).
//!
//! Owns one task per container that has probes; a container without costs nothing. Reads the container's probes. Emits what changed,
//! to the pod's worker. Must not kill or restart: that is the worker's.

mod check;
mod grpc;
mod metrics;
mod worker;

use std::net::IpAddr;
use std::sync::Arc;

use common::Tasks;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::edged::context::{ContainerRef, PodContext, ProbeEvent};
use crate::edged::events::Events;
use crate::edged::runtime::{ContainerId, Runtime};
use check::Checker;
use worker::Worker;

pub use metrics::ProbeMetrics;

/// The probes of this node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Probes {
    runtime: Arc<dyn Runtime>,
    tasks: Tasks,
    metrics: ProbeMetrics,
    events: Events,
    /// Containers that ran before are asked at random moments first: after a restart of this program all would be asked at once.
    since: Timestamp,
}

/// The probes of one container; they end when this is dropped.
#[derive(Debug)]
#[must_use = "dropping the handle ends the probes"]
pub struct ProbeHandle {
    _end: Option<DropGuard>,
}

impl Probes {
    /// Nothing runs yet.
    pub(crate) fn new(runtime: Arc<dyn Runtime>, metrics: ProbeMetrics, events: Events, tasks: Tasks) -> Self {
        Self {
            runtime,
            tasks,
            metrics,
            events,
            since: Timestamp::now(),
        }
    }

    /// Starts the probes of a container that runs. Until an event says otherwise a container with a startup probe has not started, one
    /// with a readiness probe is not ready, and all live.
    pub fn start(
        &self,
        ctx: &PodContext,
        container: ContainerRef<'_>,
        id: &ContainerId,
        started_at: Timestamp,
        pod_ip: Option<IpAddr>,
        events: mpsc::Sender<ProbeEvent>,
    ) -> ProbeHandle {
        let spec = container.container;
        if spec.startup_probe.is_none() && spec.readiness_probe.is_none() && spec.liveness_probe.is_none() {
            return ProbeHandle { _end: None };
        }
        let checker = Checker {
            runtime: self.runtime.clone(),
            pod: ctx.title(),
            metrics: self.metrics.container(ctx, &spec.name, id.as_str()),
            object: ctx.pod.clone(),
            events: self.events.clone(),
            kind: container.kind,
            container: spec.clone(),
            id: id.clone(),
            pod_ip,
        };
        let now = Timestamp::now();
        // The clock may have been set meanwhile: a container that starts in the future has just started.
        let age = now.duration_since(started_at).try_into().unwrap_or_default();
        let worker = Worker::new(spec, id, age, started_at < self.since, events);
        let end = CancellationToken::new();
        let ended = end.clone();
        self.tasks.spawn("probes", async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = worker.run(&checker) => {}
            }
        });
        ProbeHandle {
            _end: Some(end.drop_guard()),
        }
    }
}
