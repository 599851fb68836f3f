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
//! - `images`, `gc`: images before containers need them, and what nobody needs any more;
//! - `volumes`, `cgroups`, `hooks`, `probes`: what surrounds containers;
//! - `pleg`: notices what changes in the runtime, and wakes the workers that it concerns;
//! - `static_pods`: pods from files of this node, and their mirrors in the API;
//! - `logs`, `log_rotation`: reads logs of containers, turns them over;
//! - `node`, `status`, `events`: tell the API of the node, of its pods and what happened to them;
//! - `admission`: whether a newcomer fits;
//! - `pods`: decides what to do about one pod, and does it;
//! - `context`, `api`, `surroundings`: what the others are given: facts of pods and the node, questions to MetaManager, the real machine.

mod admission;
pub mod api;
pub mod cgroups;
pub mod context;
mod events;
mod gc;
mod health;
pub mod hooks;
mod http_get;
mod images;
pub mod log_rotation;
pub mod logs;
pub mod node;
mod pleg;
mod pods;
pub mod podspec;
pub mod probes;
pub mod quantity;
pub mod runtime;
mod static_pods;
mod status;
mod surroundings;
#[cfg(test)]
pub(crate) mod testing;
pub mod volumes;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use common::Tasks;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;
use proto::Uid;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info};

use crate::metamanager::{MetaManager, PodSet, RunningPod};
use api::Api;
use context::{CgroupDriver, NodeFacts, Settings};
use events::Events;
use images::Images;
use node::{NodeView, RuntimeState};
use pods::{Clock, Parts, PodManager, Shared};
use probes::{ProbeMetrics, Probes};
use quantity::Quantity;
use runtime::{Client, LABEL_POD_NAME, LABEL_POD_NAMESPACE, LABEL_POD_UID, Runtime};
use status::{StatusManager, Statuses};
use surroundings::Surroundings;

/// The handle: what other modules may know of the runtime.
#[derive(Clone, Debug)]
pub struct Edged {
    runtime: Arc<dyn Runtime>,
    state: watch::Receiver<RuntimeState>,
    listed: watch::Receiver<Option<Instant>>,
    pods: watch::Receiver<Arc<PodSet>>,
    statuses: Statuses,
    probes: ProbeMetrics,
}

impl Edged {
    /// Starts everything; waits for nobody. `facts` are what the machine itself tells, `address` is the node's as it changes.
    pub fn start(
        settings: Settings,
        facts: NodeFacts,
        address: watch::Receiver<IpAddr>,
        meta: MetaManager,
        tasks: &Tasks,
    ) -> Self {
        let client = Client::new(
            &settings.runtime_socket,
            &settings.image_socket,
            settings.runtime_timeout,
        );
        let runtime: Arc<dyn Runtime> = Arc::new(client);
        let channels = Channels::new();
        let edged = Self::new(runtime.clone(), &channels);
        let health = health::run(
            runtime.clone(),
            channels.state.clone(),
            channels.network.clone(),
            channels.name.clone(),
        );
        tasks.spawn("edged-health", health);
        tasks.spawn("edged-adopt", adopt(runtime.clone(), meta.clone()));
        let (facts, node) = watch::channel(Arc::new(facts));
        let tables = meta.tables();
        let api: Arc<dyn Api> = Arc::new(meta);
        tasks.spawn("edged-address", follow_address(address, facts.clone()));
        tasks.spawn("edged-node", follow_node(api.clone(), facts));
        let group = tasks.clone();
        tasks.spawn("edged-start", async move {
            let cgroup_driver = cgroup_driver(&*runtime, settings.cgroup_driver).await;
            let settings = Arc::new(Settings {
                cgroup_driver,
                ..settings
            });
            let metrics = channels.probes.clone();
            let events = if settings.report_event {
                Events::start(api.clone(), tables, &node.borrow().name, &group)
            } else {
                Events::default()
            };
            let probes = Probes::new(runtime.clone(), metrics, events.clone(), group.clone());
            let parts = Arc::new(Surroundings::new(runtime.clone(), settings.clone(), probes));
            let capacity = node.borrow().clone();
            parts.enforce(&capacity).await;
            let outside = Outside {
                runtime,
                parts,
                api,
                events,
                clock: Arc::new(Timestamp::now),
            };
            assemble(outside, &channels, settings, node, &group);
        });
        edged
    }

    fn new(runtime: Arc<dyn Runtime>, channels: &Channels) -> Self {
        Self {
            runtime,
            state: channels.state.subscribe(),
            listed: channels.listed.subscribe(),
            pods: channels.pods.subscribe(),
            statuses: channels.statuses.clone(),
            probes: channels.probes.clone(),
        }
    }

    /// What the runtime says of itself.
    pub fn runtime_state(&self) -> watch::Receiver<RuntimeState> {
        self.state.clone()
    }

    /// The runtime, for streams and logs.
    pub fn runtime(&self) -> &Arc<dyn Runtime> {
        &self.runtime
    }

    /// All pods of this node, those of files among them.
    pub fn pods(&self) -> watch::Receiver<Arc<PodSet>> {
        self.pods.clone()
    }

    /// The status of a pod as last computed here; `None` before its worker has looked.
    pub fn status(&self, uid: &Uid) -> Option<Arc<PodStatus>> {
        self.statuses.get(uid)
    }

    /// How probes went.
    pub fn probe_metrics(&self) -> &ProbeMetrics {
        &self.probes
    }

    /// Whether the state of containers was listed within the last three minutes.
    pub fn is_listing(&self) -> bool {
        self.listed.borrow().is_some_and(|at| at.elapsed() < UNHEALTHY)
    }
}

/// Without a list of containers for this long edged is not healthy.
const UNHEALTHY: Duration = Duration::from_secs(180);
const RETRY: Duration = Duration::from_secs(2);
const NODE_PERIOD: Duration = Duration::from_secs(60);

/// How the parts tell each other of the runtime.
struct Channels {
    state: watch::Sender<RuntimeState>,
    network: watch::Sender<Option<bool>>,
    name: watch::Sender<String>,
    listed: watch::Sender<Option<Instant>>,
    pods: watch::Sender<Arc<PodSet>>,
    statuses: Statuses,
    probes: ProbeMetrics,
}

impl Channels {
    fn new() -> Self {
        Self {
            state: watch::channel(RuntimeState::default()).0,
            network: watch::channel(None).0,
            name: watch::channel("containerd".to_owned()).0,
            listed: watch::channel(None).0,
            pods: watch::channel(Arc::default()).0,
            statuses: Statuses::default(),
            probes: ProbeMetrics::default(),
        }
    }
}

/// Puts the parts together and starts them.
fn assemble(
    outside: Outside,
    channels: &Channels,
    settings: Arc<Settings>,
    node: watch::Receiver<Arc<NodeFacts>>,
    tasks: &Tasks,
) {
    let Outside {
        runtime,
        parts,
        api,
        events,
        clock,
    } = outside;
    let (all, pods) = (channels.pods.clone(), channels.pods.subscribe());
    let name = node.borrow().name.clone();
    let statics = static_pods::run(settings.static_pod_path.clone(), name, api.clone(), all);
    tasks.spawn("edged-static-pods", statics);
    let shared = Arc::new(Shared {
        runtime: runtime.clone(),
        parts,
        api: api.clone(),
        pods: pods.clone(),
        images: Images::new(runtime.clone(), &settings),
        statuses: StatusManager::start(api, pods.clone(), channels.statuses.clone(), tasks),
        settings: settings.clone(),
        events,
        node,
        network_ready: channels.network.subscribe(),
        runtime_name: channels.name.subscribe(),
        clock,
    });
    if let Some(policy) = settings.log_rotation {
        let rotation = log_rotation::run(runtime.clone(), pods.clone(), settings.clone(), policy);
        tasks.spawn("edged-log-rotation", rotation);
    }
    tasks.spawn("edged-gc", gc::run(runtime.clone(), pods, settings));
    let manager = PodManager::new(shared, tasks);
    tasks.spawn(
        "edged-pleg",
        pleg::run(runtime, manager.waker(), channels.listed.clone()),
    );
    tasks.spawn("edged-pods", manager.run());
}

/// What is not edged's own; tests have another.
struct Outside {
    runtime: Arc<dyn Runtime>,
    parts: Arc<dyn Parts>,
    api: Arc<dyn Api>,
    events: Events,
    clock: Clock,
}

/// Asks the runtime, once it is there, who names cgroups.
async fn cgroup_driver(runtime: &dyn Runtime, configured: CgroupDriver) -> CgroupDriver {
    loop {
        match runtime.runtime_config().await {
            Ok(config) => {
                let driver = config.linux.map(|linux| linux.cgroup_driver);
                return match driver.map(proto::cri::CgroupDriver::try_from) {
                    Some(Ok(proto::cri::CgroupDriver::Systemd)) => CgroupDriver::Systemd,
                    Some(Ok(proto::cri::CgroupDriver::Cgroupfs)) => CgroupDriver::Cgroupfs,
                    _ => configured,
                };
            }
            Err(error) if error.is_unimplemented() => return configured,
            Err(error) => debug!(%error, "waiting for the runtime"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Keeps the address of the node that pods know.
async fn follow_address(mut address: watch::Receiver<IpAddr>, facts: watch::Sender<Arc<NodeFacts>>) {
    loop {
        let ips = vec![*address.borrow_and_update()];
        facts.send_if_modified(|facts| {
            let changed = facts.ips != ips;
            if changed {
                *facts = Arc::new(NodeFacts {
                    ips,
                    ..(**facts).clone()
                });
            }
            changed
        });
        if address.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps what pods may know of the node as the Node object says.
async fn follow_node(api: Arc<dyn Api>, facts: watch::Sender<Arc<NodeFacts>>) {
    loop {
        if let Ok(Some(node)) = api.node().await
            && let Ok(node) = node.view::<NodeView>()
        {
            let allocatable = node.status.and_then(|status| status.allocatable).unwrap_or_default();
            let amount = |name: &str| allocatable.get(name).and_then(|text| Quantity::parse(&text.0).ok());
            facts.send_if_modified(|facts| {
                let mut next = (**facts).clone();
                next.allocatable_cpu_millis = amount("cpu").map_or(next.allocatable_cpu_millis, Quantity::milli_value);
                next.allocatable_memory_bytes = amount("memory").map_or(next.allocatable_memory_bytes, Quantity::value);
                next.allocatable_disk_bytes =
                    amount("ephemeral-storage").map_or(next.allocatable_disk_bytes, Quantity::value);
                let changed = **facts != next;
                *facts = Arc::new(next);
                changed
            });
        }
        tokio::time::sleep(NODE_PERIOD).await;
    }
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
        // Without the pods that come from files: the cloud never had them.
        .filter(|sandbox| !sandbox.annotations.contains_key("kubernetes.io/config.hash"))
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
