//! What the runtime has of one pod.

use std::net::IpAddr;

use common::order;
use proto::{Uid, cri};

use crate::edged::runtime::{ContainerId, LABEL_CONTAINER_NAME, Runtime, RuntimeError, SandboxId};

/// Annotation with the hash of the container's spec.
const ANNOTATION_HASH: &str = "io.kubernetes.container.hash";
/// Annotation with the number of restarts before this one.
const ANNOTATION_RESTARTS: &str = "io.kubernetes.container.restartCount";
/// Annotation with the grace time of the pod, for pods that nobody knows any more.
const ANNOTATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Our own annotation: seconds to wait before the next start, should this container end. It survives a restart of edgecore.
pub(crate) const ANNOTATION_RESTART_DELAY: &str = "edged.kubeedge.io/restart-delay-seconds";

/// Sandboxes and containers of a pod, newest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    pub(crate) sandboxes: Vec<Sandbox>,
    pub(crate) containers: Vec<ContainerRecord>,
}

/// A sandbox.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    pub(crate) id: SandboxId,
    pub(crate) attempt: u32,
    pub(crate) ready: bool,
    pub(crate) created_at: i64,
    /// Whether it is in the host's network; `None` when the runtime does not tell.
    pub(crate) host_network: Option<bool>,
    /// Whether the runtime tells about the network at all.
    pub(crate) network_known: bool,
    pub(crate) ips: Vec<IpAddr>,
}

/// What a container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Created,
    Running,
    Exited,
    Unknown,
}

/// A container. Times are nanoseconds since 1970, 0 for never.
#[derive(Clone, Debug)]
pub(crate) struct ContainerRecord {
    pub(crate) id: ContainerId,
    pub(crate) sandbox: SandboxId,
    pub(crate) name: String,
    pub(crate) life: Life,
    pub(crate) created_at: i64,
    pub(crate) started_at: i64,
    pub(crate) finished_at: i64,
    pub(crate) exit_code: i32,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) image: String,
    pub(crate) image_ref: String,
    /// The name that the container was created with.
    pub(crate) image_requested: String,
    pub(crate) hash: Option<String>,
    pub(crate) restart_count: u32,
    pub(crate) restart_delay: Option<u64>,
    pub(crate) pod_grace: Option<u64>,
    /// For reading the termination message.
    pub(crate) status: cri::ContainerStatus,
}

impl Observed {
    /// The newest container of that name.
    pub(crate) fn latest(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The newest container of that name in a sandbox.
    pub(crate) fn latest_in(&self, sandbox: &SandboxId, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|c| c.name == name && c.sandbox == *sandbox)
    }

    /// The container with that id.
    pub(crate) fn by_id(&self, id: &ContainerId) -> Option<&ContainerRecord> {
        self.containers.iter().find(|c| c.id == *id)
    }

    /// Containers that run, or may run.
    pub(crate) fn running(&self) -> impl Iterator<Item = &ContainerRecord> {
        self.containers
            .iter()
            .filter(|c| matches!(c.life, Life::Running | Life::Unknown))
    }

    /// The newest sandbox's addresses, if it is ready.
    pub(crate) fn ips(&self) -> &[IpAddr] {
        self.sandboxes
            .first()
            .filter(|s| s.ready)
            .map_or(&[], |s| s.ips.as_slice())
    }
}

/// Asks the runtime about one pod. What cannot change any more is taken from `previous`.
pub(crate) async fn observe(runtime: &dyn Runtime, uid: &Uid, previous: &Observed) -> Result<Observed, RuntimeError> {
    let (sandboxes, containers) =
        futures::try_join!(runtime.list_sandboxes(Some(uid)), runtime.list_containers(Some(uid)))?;
    let mut seen = Observed::default();
    for listed in sandboxes {
        match sandbox(runtime, listed, previous).await {
            Ok(record) => seen.sandboxes.push(record),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    for listed in containers {
        let id = ContainerId::new(&listed.id);
        if let Some(known) = previous.by_id(&id).filter(|known| known.life == Life::Exited) {
            seen.containers.push(known.clone());
            continue;
        }
        match runtime.container_status(&id).await {
            Ok(status) => seen.containers.push(record(listed, status)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    order::sort_by_key(&mut seen.sandboxes, |s| std::cmp::Reverse((s.created_at, s.attempt)));
    order::sort_by_key(&mut seen.containers, |c| {
        std::cmp::Reverse((c.created_at, c.restart_count))
    });
    Ok(seen)
}

async fn sandbox(runtime: &dyn Runtime, listed: cri::PodSandbox, previous: &Observed) -> Result<Sandbox, RuntimeError> {
    let id = SandboxId::new(&listed.id);
    let ready = listed.state == cri::PodSandboxState::SandboxReady as i32;
    if let Some(known) = previous
        .sandboxes
        .iter()
        .find(|known| known.id == id && known.ready == ready)
    {
        return Ok(known.clone());
    }
    let status = runtime.sandbox_status(&id).await?;
    let options = status
        .linux
        .and_then(|linux| linux.namespaces)
        .and_then(|namespaces| namespaces.options);
    let mut ips = Vec::new();
    let network_known = status.network.is_some();
    if let Some(network) = status.network {
        let more = network.additional_ips.into_iter().map(|ip| ip.ip);
        ips.extend(
            std::iter::once(network.ip)
                .chain(more)
                .filter_map(|ip| ip.parse::<IpAddr>().ok()),
        );
    }
    Ok(Sandbox {
        id,
        attempt: listed.metadata.map_or(0, |m| m.attempt),
        ready: status.state == cri::PodSandboxState::SandboxReady as i32,
        created_at: listed.created_at,
        host_network: options.map(|o| o.network == cri::NamespaceMode::Node as i32),
        network_known,
        ips,
    })
}

fn record(listed: cri::Container, status: cri::ContainerStatus) -> ContainerRecord {
    let life = match cri::ContainerState::try_from(status.state) {
        Ok(cri::ContainerState::ContainerCreated) => Life::Created,
        Ok(cri::ContainerState::ContainerRunning) => Life::Running,
        Ok(cri::ContainerState::ContainerExited) => Life::Exited,
        _ => Life::Unknown,
    };
    let number = |key: &str| status.annotations.get(key).and_then(|text| text.parse().ok());
    let restarts = status
        .annotations
        .get(ANNOTATION_RESTARTS)
        .and_then(|text| text.parse().ok());
    ContainerRecord {
        id: ContainerId::new(&listed.id),
        sandbox: SandboxId::new(&listed.pod_sandbox_id),
        name: status
            .labels
            .get(LABEL_CONTAINER_NAME)
            .cloned()
            .or_else(|| listed.metadata.as_ref().map(|m| m.name.clone()))
            .unwrap_or_default(),
        life,
        created_at: status.created_at,
        started_at: if life == Life::Created { 0 } else { status.started_at },
        finished_at: if life == Life::Exited { status.finished_at } else { 0 },
        exit_code: status.exit_code,
        reason: status.reason.clone(),
        message: status.message.clone(),
        image: status.image.as_ref().map(|i| i.image.clone()).unwrap_or_default(),
        image_ref: status.image_ref.clone(),
        image_requested: listed.image.as_ref().map(requested).unwrap_or_default(),
        hash: status.annotations.get(ANNOTATION_HASH).cloned(),
        restart_count: restarts.or_else(|| listed.metadata.map(|m| m.attempt)).unwrap_or(0),
        restart_delay: number(ANNOTATION_RESTART_DELAY),
        pod_grace: number(ANNOTATION_GRACE),
        status,
    }
}

fn requested(spec: &cri::ImageSpec) -> String {
    if spec.user_specified_image.is_empty() {
        spec.image.clone()
    } else {
        spec.user_specified_image.clone()
    }
}
