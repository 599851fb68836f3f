//! Ends containers and sandboxes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Container;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::decide::{init_containers, is_sidecar, main_containers};
use super::observed::{ContainerRecord, Observed};
use super::parts::Parts;
use crate::edged::context::{ContainerKind, PodContext};
use crate::edged::runtime::{Runtime, RuntimeError};
use crate::edged::status::ephemeral_containers;

/// Every container gets this long, whatever its pod says and its hooks used up.
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// Grace time of pods that nobody knows any more and whose containers do not tell.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);
/// More than a year is as good as for ever.
const LONGEST_GRACE: Duration = Duration::from_secs(366 * 24 * 3600);

/// Stops all containers of a pod, then its sandboxes. Sidecars end after the main containers, in reverse order.
pub(super) async fn kill_pod(
    runtime: &Arc<dyn Runtime>,
    parts: &Arc<dyn Parts>,
    ctx: Option<&PodContext>,
    observed: &Observed,
    grace: Duration,
) -> Result<(), RuntimeError> {
    let ip = observed.ips().first().copied();
    let deadline = Instant::now() + grace;
    let running: Vec<&ContainerRecord> = observed.running().collect();
    let sidecars: Vec<&str> = ctx.map_or_else(Vec::new, |ctx| {
        init_containers(&ctx.pod)
            .iter()
            .filter(|c| is_sidecar(c))
            .map(|c| c.name.as_str())
            .collect()
    });
    // How many containers of a later place are left: a container ends when none is. Main containers are the last place.
    let place = |name: &str| {
        sidecars
            .iter()
            .position(|sidecar| *sidecar == name)
            .unwrap_or(sidecars.len())
    };
    let (done, _) = watch::channel(Vec::<usize>::new());
    let stops = running.iter().map(|record| {
        let own = place(&record.name);
        let later: Vec<usize> = running
            .iter()
            .map(|other| place(&other.name))
            .filter(|other| *other > own)
            .collect();
        let mut ended = done.subscribe();
        let done = done.clone();
        async move {
            let turn = async move {
                let all = |ended: &Vec<usize>| ended.iter().filter(|place| **place > own).count() >= later.len();
                let _ = ended.wait_for(all).await;
            };
            let stopped = kill_container(runtime, parts, ctx, record, deadline, ip, turn).await;
            done.send_modify(|ended| ended.push(own));
            stopped
        }
    });
    for outcome in join_all(stops).await {
        outcome?;
    }
    for sandbox in &observed.sandboxes {
        if sandbox.ready {
            runtime.stop_sandbox(&sandbox.id).await?;
        }
    }
    Ok(())
}

/// Stops one container: its hook, its turn, then the signal.
pub(super) async fn kill_container(
    runtime: &Arc<dyn Runtime>,
    parts: &Arc<dyn Parts>,
    ctx: Option<&PodContext>,
    record: &ContainerRecord,
    deadline: Instant,
    ip: Option<IpAddr>,
    turn: impl Future<Output = ()>,
) -> Result<(), RuntimeError> {
    let left = || deadline.saturating_duration_since(Instant::now());
    if let Some((ctx, container)) = ctx.and_then(|ctx| Some((ctx, spec_of(ctx, &record.name)?))) {
        let hook = container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        if hook.is_some() && !left().is_zero() {
            let ran = tokio::time::timeout(left(), parts.pre_stop(ctx, &container, &record.id, ip, left())).await;
            match ran {
                Ok(Ok(())) => debug!(container = record.name, id = %record.id, "preStop hook done"),
                Ok(Err(error)) => warn!(container = record.name, id = %record.id, error, "preStop hook failed"),
                Err(_) => warn!(container = record.name, id = %record.id, "preStop hook used up the grace time"),
            }
        }
    }
    let _ = tokio::time::timeout(left(), turn).await;
    let grace = left().max(LEAST_GRACE);
    info!(container = record.name, id = %record.id, grace = grace.as_secs(), "stopping container");
    runtime.stop_container(&record.id, grace).await
}

/// The grace time of a pod that is to end.
pub(super) fn pod_grace(ctx: &PodContext) -> Duration {
    let meta = &ctx.pod.metadata;
    let deletion = meta.deletion_timestamp.as_ref().and(meta.deletion_grace_period_seconds);
    let spec = ctx
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.termination_grace_period_seconds);
    grace(deletion.or(spec).unwrap_or(30))
}

/// A grace time from somebody else's seconds: the API takes any number, clocks do not.
pub(super) fn grace(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default().max(1)).min(LONGEST_GRACE)
}

/// The grace time of a pod that is only known by its containers.
pub(super) fn orphan_grace(observed: &Observed) -> Duration {
    observed
        .containers
        .iter()
        .find_map(|c| c.pod_grace)
        .map_or(DEFAULT_GRACE, Duration::from_secs)
        .min(LONGEST_GRACE)
}

/// Which list of the spec names a container.
pub(super) fn kind_of(ctx: &PodContext, name: &str) -> ContainerKind {
    let spec = ctx.pod.spec.as_ref();
    let ephemeral = spec.and_then(|spec| spec.ephemeral_containers.as_ref());
    if init_containers(&ctx.pod).iter().any(|c| c.name == name) {
        ContainerKind::Init
    } else if ephemeral.is_some_and(|all| all.iter().any(|c| c.name == name)) {
        ContainerKind::Ephemeral
    } else {
        ContainerKind::Main
    }
}

/// A container's spec by its name.
pub(super) fn spec_of(ctx: &PodContext, name: &str) -> Option<Container> {
    let lists = main_containers(&ctx.pod).iter().chain(init_containers(&ctx.pod));
    lists
        .filter(|c| c.name == name)
        .cloned()
        .chain(ephemeral_containers(&ctx.pod))
        .find(|c| c.name == name)
}
