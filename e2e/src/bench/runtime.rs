//! What the container runtime alone needs for the same pods: sandbox, container, start, stop, removal over CRI, all at once, with
//! nothing of KubeEdge in between. `pods-30` and `delete-30` are held to it.
//!
//! It is asked for what edgecore asks for: profiles, masked paths, shares, labels, the three mounts of a pod with a service account
//! and a cgroup below the one of its class. The files that are mounted and the cgroups are made before the time begins.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use hyper_util::rt::TokioIo;
use proto::cri;
use proto::cri::image_service_client::ImageServiceClient;
use proto::cri::runtime_service_client::RuntimeServiceClient;
use proto::cri::security_profile::ProfileType;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::edge::BUSYBOX;
use crate::hosts::Cgroup;

type Client = RuntimeServiceClient<Channel>;

/// Longest time of one call.
const CALL: Duration = Duration::from_secs(120);
/// How long a stopped container may take, as the pods of the marks say.
const GRACE: i64 = 1;

/// What the runtime alone took, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alone {
    /// Until the last container was started.
    pub(super) start: f64,
    /// Until the last sandbox was removed.
    pub(super) delete: f64,
}

/// One pod's two parts.
struct Made {
    sandbox: String,
    container: String,
}

/// Starts and removes `count` pods like those of the marks, at once. `folder` is for their files.
pub(super) fn alone(socket: &Path, cgroup: &Cgroup, folder: &Path, count: usize) -> Result<Alone> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let image = runtime.block_on(image(socket))?;
    let pods = (0..count)
        .map(|number| Pod::new(cgroup, folder, &format!("alone-{number}"), &image))
        .collect::<Result<Vec<_>>>()?;
    let alone = runtime.block_on(async {
        let client = RuntimeServiceClient::new(channel(socket.to_owned()));
        let begun = Instant::now();
        let made = try_join_all(pods.iter().map(|pod| pod.start(client.clone()))).await?;
        let start = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        try_join_all(made.into_iter().map(|made| remove(client.clone(), made))).await?;
        let delete = begun.elapsed().as_secs_f64();
        anyhow::Ok(Alone { start, delete })
    })?;
    pods.iter().try_for_each(|pod| pod.cgroup.remove())?;
    Ok(alone)
}

/// What the runtime calls the image of the pods.
async fn image(socket: &Path) -> Result<String> {
    let request = cri::ImageStatusRequest {
        image: Some(cri::ImageSpec {
            image: BUSYBOX.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut client = ImageServiceClient::new(channel(socket.to_owned()));
    let found = client.image_status(request).await.context("ImageStatus")?;
    Ok(found.into_inner().image.context("the image of the marks")?.id)
}

/// A pod whose files and cgroup are there.
struct Pod {
    cgroup: Cgroup,
    sandbox: cri::PodSandboxConfig,
    container: cri::ContainerConfig,
}

impl Pod {
    fn new(cgroup: &Cgroup, folder: &Path, name: &str, image: &str) -> Result<Self> {
        let cgroup = cgroup.below(&format!("kubepods/besteffort/pod{name}"));
        cgroup.make()?;
        let folder = folder.join(name);
        let log_directory = folder.join("logs");
        std::fs::create_dir_all(log_directory.join("main"))?;
        let mounts = mounts(&folder)?;
        Ok(Self {
            sandbox: sandbox(name, &cgroup, &log_directory),
            container: container(name, image, mounts),
            cgroup,
        })
    }

    async fn start(&self, mut client: Client) -> Result<Made> {
        let request = cri::RunPodSandboxRequest {
            config: Some(self.sandbox.clone()),
            ..Default::default()
        };
        let sandbox = client.run_pod_sandbox(request).await.context("RunPodSandbox")?;
        let sandbox = sandbox.into_inner().pod_sandbox_id;
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.clone(),
            config: Some(self.container.clone()),
            sandbox_config: Some(self.sandbox.clone()),
        };
        let container = client.create_container(request).await.context("CreateContainer")?;
        let container = container.into_inner().container_id;
        let request = cri::StartContainerRequest {
            container_id: container.clone(),
        };
        client.start_container(request).await.context("StartContainer")?;
        Ok(Made { sandbox, container })
    }
}

/// The hosts file, the file of the termination message and the folder of the token.
fn mounts(folder: &Path) -> Result<Vec<cri::Mount>> {
    std::fs::create_dir_all(folder.join("token"))?;
    for file in ["hosts", "message", "token/token"] {
        std::fs::write(folder.join(file), "")?;
    }
    let mount = |container_path: &str, file: &str, readonly| cri::Mount {
        container_path: container_path.to_owned(),
        host_path: folder.join(file).to_string_lossy().into_owned(),
        readonly,
        ..Default::default()
    };
    Ok(vec![
        mount("/var/run/secrets/kubernetes.io/serviceaccount", "token", true),
        mount("/etc/hosts", "hosts", false),
        mount("/dev/termination-log", "message", false),
    ])
}

fn sandbox(name: &str, cgroup: &Cgroup, log_directory: &Path) -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.into(),
            uid: name.into(),
            namespace: "alone".into(),
            attempt: 0,
        }),
        hostname: name.into(),
        log_directory: log_directory.to_string_lossy().into_owned(),
        labels: labels(name),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: cgroup.root(),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                seccomp: Some(profile(ProfileType::RuntimeDefault)),
                namespace_options: Some(namespaces()),
                ..Default::default()
            }),
            resources: Some(shares()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container(name: &str, image: &str, mounts: Vec<cri::Mount>) -> cri::ContainerConfig {
    let paths = |list: &[&str]| list.iter().map(|path| (*path).to_owned()).collect();
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: "main".into(),
            attempt: 0,
        }),
        image: Some(cri::ImageSpec {
            image: image.into(),
            ..Default::default()
        }),
        command: super::IDLE.map(String::from).to_vec(),
        mounts,
        labels: labels(name),
        log_path: "main/0.log".into(),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(cri::LinuxContainerResources {
                oom_score_adj: 1000,
                ..shares()
            }),
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces()),
                masked_paths: paths(&MASKED),
                readonly_paths: paths(&READ_ONLY),
                seccomp: Some(profile(ProfileType::Unconfined)),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

fn labels(name: &str) -> HashMap<String, String> {
    let labels = [
        ("io.kubernetes.pod.name", name),
        ("io.kubernetes.pod.namespace", "alone"),
        ("io.kubernetes.pod.uid", name),
    ];
    labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn namespaces() -> cri::NamespaceOption {
    cri::NamespaceOption {
        pid: cri::NamespaceMode::Container.into(),
        ..Default::default()
    }
}

fn profile(kind: ProfileType) -> cri::SecurityProfile {
    cri::SecurityProfile {
        profile_type: kind.into(),
        ..Default::default()
    }
}

/// Those of a pod that asks for nothing.
fn shares() -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        cpu_shares: 2,
        cpu_period: 100_000,
        ..Default::default()
    }
}

async fn remove(mut client: Client, made: Made) -> Result<()> {
    let Made { sandbox, container } = made;
    let request = cri::StopContainerRequest {
        container_id: container,
        timeout: GRACE,
    };
    client.stop_container(request).await.context("StopContainer")?;
    let request = cri::StopPodSandboxRequest {
        pod_sandbox_id: sandbox.clone(),
    };
    client.stop_pod_sandbox(request).await.context("StopPodSandbox")?;
    let request = cri::RemovePodSandboxRequest {
        pod_sandbox_id: sandbox,
    };
    client.remove_pod_sandbox(request).await.context("RemovePodSandbox")?;
    Ok(())
}

fn channel(socket: PathBuf) -> Channel {
    // The address is not used, the connector is.
    Endpoint::from_static("http://localhost")
        .timeout(CALL)
        .connect_with_connector_lazy(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
}

/// What a container does not see of the kernel, and what it only reads.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
