//! Pods on this node: a kubelet over the container runtime interface.
//!
//! Owns one worker per pod, the picture of the runtime's state and the statuses of pods. Reads the set of pods and the objects they
//! use from MetaManager, and the runtime's state. Emits patches of pod statuses and the runtime's health. Must not know messages, and
//! touches no container because of a lost link, a restart of this program or a damaged database. Behaviour: spec 05 §5 to §7.
//!
//! What each part is for:
//!
//! - `runtime`: calls of the container runtime interface, with a fake for tests;
//! - `podspec`: from a pod to the runtime's configurations, no side effects but reading;
//! - `volumes`, `cgroups`, `hooks`, `probes`: what surrounds containers;
//! - `pods`: decides what to do about one pod, and does it.

pub mod api;
pub mod cgroups;
pub mod context;
mod gc;
mod health;
pub mod hooks;
mod http_get;
mod images;
pub mod node;
mod pleg;
mod pods;
pub mod podspec;
pub mod probes;
pub mod quantity;
pub mod runtime;
mod status;
#[cfg(test)]
pub(crate) mod testing;
pub mod volumes;

use std::sync::Arc;
use std::time::Duration;

use common::Tasks;
use jiff::Timestamp;
use proto::Uid;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info};

use crate::metamanager::{MetaManager, RunningPod};
use api::Api;
use context::{NodeFacts, Settings};
use images::Images;
use node::RuntimeState;
use pods::{Clock, Parts, PodManager, Shared};
use runtime::{LABEL_POD_NAME, LABEL_POD_NAMESPACE, LABEL_POD_UID, Runtime};
use status::StatusManager;

/// The handle: what other modules may know of the runtime.
#[derive(Clone, Debug)]
pub struct Edged {
    runtime: Arc<dyn Runtime>,
    state: watch::Receiver<RuntimeState>,
    listed: watch::Receiver<Option<Instant>>,
}

impl Edged {
    /// What the runtime says of itself.
    pub fn runtime_state(&self) -> watch::Receiver<RuntimeState> {
        self.state.clone()
    }

    /// The runtime, for streams and logs.
    pub fn runtime(&self) -> &Arc<dyn Runtime> {
        &self.runtime
    }

    /// Whether the state of containers was listed within the last three minutes.
    pub fn is_listing(&self) -> bool {
        self.listed.borrow().is_some_and(|at| at.elapsed() < UNHEALTHY)
    }
}

/// Without a list of containers for this long edged is not healthy.
const UNHEALTHY: Duration = Duration::from_secs(180);
const RETRY: Duration = Duration::from_secs(2);

/// Puts the parts together and starts them.
fn assemble(
    runtime: Arc<dyn Runtime>,
    parts: Arc<dyn Parts>,
    api: Arc<dyn Api>,
    settings: Arc<Settings>,
    node: watch::Receiver<Arc<NodeFacts>>,
    clock: Clock,
    tasks: &Tasks,
) -> Edged {
    let (state_sender, state) = watch::channel(RuntimeState::default());
    let (network_sender, network_ready) = watch::channel(None);
    let (name_sender, runtime_name) = watch::channel("containerd".to_owned());
    let (listed_sender, listed) = watch::channel(None);
    tasks.spawn(
        "edged-health",
        health::run(runtime.clone(), state_sender, network_sender, name_sender),
    );
    let shared = Arc::new(Shared {
        runtime: runtime.clone(),
        parts,
        api: api.clone(),
        images: Images::new(runtime.clone(), &settings),
        statuses: StatusManager::start(api.clone(), tasks),
        settings: settings.clone(),
        node,
        network_ready,
        runtime_name,
        clock,
    });
    tasks.spawn("edged-gc", gc::run(runtime.clone(), api, settings));
    let manager = PodManager::new(shared, tasks);
    tasks.spawn("edged-pleg", pleg::run(runtime.clone(), manager.waker(), listed_sender));
    tasks.spawn("edged-pods", manager.run());
    Edged { runtime, state, listed }
}

/// Tells MetaManager which pods run, so that a database that lost its rows gets them back.
async fn adopt(runtime: Arc<dyn Runtime>, meta: MetaManager) {
    let sandboxes = loop {
        match runtime.list_sandboxes(None).await {
            Ok(sandboxes) => break sandboxes,
            Err(error) => debug!(%error, "waiting for the runtime"),
        }
        tokio::time::sleep(RETRY).await;
    };
    let mut running: Vec<RunningPod> = sandboxes
        .iter()
        .filter(|sandbox| sandbox.state == proto::cri::PodSandboxState::SandboxReady as i32)
        .filter_map(|sandbox| {
            let label = |key: &str| sandbox.labels.get(key);
            Some(RunningPod {
                namespace: label(LABEL_POD_NAMESPACE)?.as_str().into(),
                name: label(LABEL_POD_NAME)?.as_str().into(),
                uid: Uid::new(label(LABEL_POD_UID)?),
            })
        })
        .collect();
    running.dedup();
    info!(pods = running.len(), "pods found running");
    meta.adopt(running).await;
}

/// The time of day.
fn wall_clock() -> Clock {
    Arc::new(Timestamp::now)
}

// The parts' interfaces, beside the types in `context`:
//
// - `podspec::sandbox_config(&PodContext, attempt: u32) -> Result<cri::PodSandboxConfig, SpecError>`, async;
// - `podspec::container_config(&PodContext, ContainerRef<'_>, restart_count: u32, &ResolvedImage, pod_ips: &[IpAddr],
//   &MountedVolumes) -> Result<cri::ContainerConfig, SpecError>`, async: env from objects, creates the termination message file;
// - `podspec::container_hash(&Container) -> String`;
// - `podspec::pull_credentials(&PodContext, image: &str) -> Vec<cri::AuthConfig>`, async: best first, the caller tries
//   anonymously after the last;
// - `podspec::termination_message(&Container, &cri::ContainerStatus, limit: usize) -> String`: from file or log;
// - `volumes::Volumes::{new(Arc<Settings>), mount(&self, &PodContext) -> Result<MountedVolumes, VolumeError>,
//   refresh(&self, &PodContext) -> Result<(), VolumeError>, unmount(&self, &Uid) -> Result<(), VolumeError>,
//   orphans(&self) -> Vec<Uid>}`, async; `mount` may be called again and does nothing then; `unmount` removes the pod's folder;
// - `cgroups::PodCgroups::{new(Arc<Settings>, CgroupDriver), create(&self, &PodContext) -> Result<String, CgroupError>, parent(&Pod)
//   -> String, remove(&self, &Uid) -> Result<(), CgroupError>, orphans(&self) -> Vec<Uid>}`;
// - `probes::Probes::{new(Arc<dyn Runtime>, Tasks), start(&self, &PodContext, ContainerRef<'_>, &ContainerId, started_at: Timestamp,
//   pod_ip: Option<IpAddr>, mpsc::Sender<ProbeEvent>) -> ProbeHandle}`; dropping the handle ends the container's probes;
// - `hooks::{post_start, pre_stop}(&dyn Runtime, &PodContext, &Container, &ContainerId, pod_ip: Option<IpAddr>, limit: Duration)
//   -> Result<(), HookError>`, async.
