//! What the container runtime alone needs for the same pods: sandbox, container, start, stop, removal over CRI, all at once, with
//! nothing of KubeEdge in between. `pods-30` and `delete-30` are held to it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use hyper_util::rt::TokioIo;
use proto::cri;
use proto::cri::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::edge::BUSYBOX;

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

/// Starts and removes `count` pods like those of the marks, at once.
pub(super) fn alone(socket: &Path, cgroup: &str, logs: &Path, count: usize) -> Result<Alone> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = RuntimeServiceClient::new(channel(socket.to_owned()));
        let begun = Instant::now();
        let made = try_join_all((0..count).map(|number| start(client.clone(), cgroup, logs, number))).await?;
        let start = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        try_join_all(made.into_iter().map(|made| remove(client.clone(), made))).await?;
        let delete = begun.elapsed().as_secs_f64();
        Ok(Alone { start, delete })
    })
}

async fn start(mut client: Client, cgroup: &str, logs: &Path, number: usize) -> Result<Made> {
    let name = format!("alone-{number}");
    let folder = logs.join(&name);
    std::fs::create_dir_all(&folder)?;
    let namespaces = cri::NamespaceOption {
        pid: cri::NamespaceMode::Container.into(),
        ..Default::default()
    };
    let config = cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.clone(),
            uid: name.clone(),
            namespace: "alone".into(),
            attempt: 0,
        }),
        hostname: name.clone(),
        log_directory: folder.to_string_lossy().into_owned(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: cgroup.to_owned(),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let request = cri::RunPodSandboxRequest {
        config: Some(config.clone()),
        ..Default::default()
    };
    let sandbox = client.run_pod_sandbox(request).await.context("RunPodSandbox")?;
    let sandbox = sandbox.into_inner().pod_sandbox_id;
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: sandbox.clone(),
        config: Some(cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata {
                name: "main".into(),
                attempt: 0,
            }),
            image: Some(cri::ImageSpec {
                image: BUSYBOX.into(),
                ..Default::default()
            }),
            command: super::IDLE.map(String::from).to_vec(),
            log_path: "main.log".into(),
            ..Default::default()
        }),
        sandbox_config: Some(config),
    };
    let container = client.create_container(request).await.context("CreateContainer")?;
    let container = container.into_inner().container_id;
    let request = cri::StartContainerRequest {
        container_id: container.clone(),
    };
    client.start_container(request).await.context("StartContainer")?;
    Ok(Made { sandbox, container })
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
