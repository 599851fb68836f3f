//! Removes what nobody needs any more: dead containers with their logs, sandboxes that are not the newest, logs that a pod left, images when
//! the disk fills.
//!
//! Owns when an image was last seen in use. Reads the runtime's lists and the set of pods. Pods that are gone are removed by their
//! workers, not here. Behaviour: spec 05 §6 rows 32 and 33.

mod images;
mod logs;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::order;
use proto::{Uid, cri};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, warn};

use crate::edged::context::Settings;
use crate::edged::log_rotation;
use crate::edged::runtime::{ContainerId, LABEL_CONTAINER_NAME, LABEL_POD_UID, Runtime, RuntimeError, SandboxId};
use crate::metamanager::PodSet;
use images::ImageCollector;

/// As often as kubelet.
const CONTAINERS: Duration = Duration::from_secs(60);
/// Every fifth time images are looked at, too.
const IMAGES: u32 = 5;

/// Runs for ever.
pub(super) async fn run(runtime: Arc<dyn Runtime>, pods: watch::Receiver<Arc<PodSet>>, settings: Arc<Settings>) {
    let mut ticks = tokio::time::interval_at(Instant::now() + CONTAINERS, CONTAINERS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut collector = ImageCollector::default();
    let mut round = 0u32;
    loop {
        ticks.tick().await;
        let set = pods.borrow().clone();
        if set.ready
            && let Err(error) = containers(&*runtime, &settings, |uid| set.pods.contains_key(uid)).await
        {
            warn!(%error, "dead containers are not removed");
        }
        if let Err(error) = logs::orphans(&*runtime, &pods, &settings).await {
            warn!(%error, "logs of pods that are gone are not looked for");
        }
        round = round.wrapping_add(1);
        if round.is_multiple_of(IMAGES)
            && let Err(error) = collector.collect(&*runtime, &settings.image_gc).await
        {
            warn!(%error, "unused images are not removed");
        }
    }
}

/// Removes dead containers beyond those to keep of each name, with their logs, and sandboxes without containers that are neither ready
/// nor their pod's newest.
async fn containers(
    runtime: &dyn Runtime,
    settings: &Settings,
    is_known: impl Fn(&Uid) -> bool,
) -> Result<(), RuntimeError> {
    let keep = settings.dead_containers_per_container;
    let mut by_name: BTreeMap<(Uid, String), Vec<cri::Container>> = BTreeMap::new();
    let mut all = runtime.list_containers(None).await?;
    all.retain(|c| c.labels.contains_key(LABEL_POD_UID));
    for container in &all {
        let uid = container
            .labels
            .get(LABEL_POD_UID)
            .map(Uid::new)
            .unwrap_or_else(|| Uid::new(""));
        let name = container.labels.get(LABEL_CONTAINER_NAME).cloned().unwrap_or_default();
        if is_known(&uid) {
            by_name.entry((uid, name)).or_default().push(container.clone());
        }
    }
    let mut removed = Vec::new();
    for group in by_name.values_mut() {
        order::sort_by_key(group, |c| std::cmp::Reverse(c.created_at));
        let running = cri::ContainerState::ContainerRunning as i32;
        let dead = group
            .iter()
            .filter(|c| c.state == cri::ContainerState::ContainerExited as i32);
        // The newest one tells the state of its container, so it is never removed while it is the only one.
        let kept = keep.max(usize::from(!group.iter().any(|c| c.state == running)));
        for container in dead.skip(kept) {
            debug!(id = container.id, "dead container is removed");
            runtime.remove_container(&ContainerId::new(&container.id)).await?;
            log_rotation::remove(settings, container).await;
            removed.push(container.id.clone());
        }
    }
    all.retain(|c| !removed.contains(&c.id));
    sandboxes(runtime, &all, is_known).await
}

async fn sandboxes(
    runtime: &dyn Runtime,
    containers: &[cri::Container],
    is_known: impl Fn(&Uid) -> bool,
) -> Result<(), RuntimeError> {
    let mut by_pod: BTreeMap<Uid, Vec<cri::PodSandbox>> = BTreeMap::new();
    for sandbox in runtime.list_sandboxes(None).await? {
        if let Some(uid) = sandbox.labels.get(LABEL_POD_UID).map(Uid::new).filter(&is_known) {
            by_pod.entry(uid).or_default().push(sandbox);
        }
    }
    for group in by_pod.values_mut() {
        order::sort_by_key(group, |s| std::cmp::Reverse(s.created_at));
        for sandbox in group.iter().skip(1) {
            let used = containers.iter().any(|c| c.pod_sandbox_id == sandbox.id);
            if !used && sandbox.state != cri::PodSandboxState::SandboxReady as i32 {
                debug!(id = sandbox.id, "old sandbox is removed");
                runtime.remove_sandbox(&SandboxId::new(&sandbox.id)).await?;
            }
        }
    }
    Ok(())
}
