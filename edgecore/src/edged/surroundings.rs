//! The parts as they are on a real machine.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use common::chain;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use proto::{Uid, cri};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::cgroups::PodCgroups;
use super::context::{
    ContainerRef, MountedVolumes, NodeFacts, PodContext, ProbeEvent, ResolvedImage, Settings, SpecError, VolumeError,
};
use super::pods::{Parts, ProbeGuard};
use super::probes::Probes;
use super::runtime::{ContainerId, Runtime};
use super::volumes::Volumes;
use super::{hooks, podspec};

/// A postStart hook may take as long as it takes; kubelet has no limit either, but a lost answer must not hold a worker for ever.
const POST_START_LIMIT: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(super) struct Surroundings {
    runtime: Arc<dyn Runtime>,
    settings: Arc<Settings>,
    volumes: Volumes,
    cgroups: PodCgroups,
    probes: Probes,
}

impl Surroundings {
    pub(super) fn new(runtime: Arc<dyn Runtime>, settings: Arc<Settings>, probes: Probes) -> Self {
        Self {
            volumes: Volumes::new(settings.clone()),
            cgroups: PodCgroups::new(settings.clone(), settings.cgroup_driver),
            probes,
            runtime,
            settings,
        }
    }

    /// Keeps what the machine needs for itself from pods, once.
    pub(super) async fn enforce(&self, node: &NodeFacts) {
        let Some(reserved) = self.settings.reserved else { return };
        let cpu = node.cpu_millis.saturating_sub(reserved.cpu_millis);
        let memory = node.memory_bytes.saturating_sub(reserved.memory_bytes);
        if let Err(error) = self.cgroups.enforce(cpu, memory).await {
            warn!(
                error = chain(&error),
                "what is reserved for the machine is not kept from pods"
            );
        }
    }
}

impl Parts for Surroundings {
    fn sandbox_config<'a>(
        &'a self,
        ctx: &'a PodContext,
        attempt: u32,
    ) -> BoxFuture<'a, Result<cri::PodSandboxConfig, SpecError>> {
        podspec::sandbox_config(ctx, attempt).boxed()
    }

    fn container_config<'a>(
        &'a self,
        ctx: &'a PodContext,
        container: ContainerRef<'a>,
        restart_count: u32,
        image: &'a ResolvedImage,
        pod_ips: &'a [IpAddr],
        volumes: &'a MountedVolumes,
    ) -> BoxFuture<'a, Result<cri::ContainerConfig, SpecError>> {
        podspec::container_config(ctx, container, restart_count, image, pod_ips, volumes).boxed()
    }

    fn container_hash(&self, container: &Container) -> String {
        podspec::container_hash(container)
    }

    fn qos_class(&self, ctx: &PodContext) -> String {
        ctx.qos().as_str().to_owned()
    }

    fn credentials<'a>(&'a self, ctx: &'a PodContext, image: &'a str) -> BoxFuture<'a, Vec<cri::AuthConfig>> {
        podspec::pull_credentials(ctx, image).boxed()
    }

    fn termination_message(
        &self,
        ctx: &PodContext,
        container: &Container,
        status: &cri::ContainerStatus,
        limit: usize,
    ) -> String {
        podspec::termination_message(ctx, container, status, limit)
    }

    fn create_cgroup<'a>(&'a self, ctx: &'a PodContext) -> BoxFuture<'a, Result<(), String>> {
        async { self.cgroups.create(ctx).await.map(drop).map_err(|error| chain(&error)) }.boxed()
    }

    fn remove_cgroup<'a>(&'a self, uid: &'a Uid) -> BoxFuture<'a, Result<(), String>> {
        async { self.cgroups.remove(uid).await.map_err(|error| chain(&error)) }.boxed()
    }

    fn balance<'a>(&'a self, pods: &'a [PodContext]) -> BoxFuture<'a, ()> {
        async {
            if let Err(error) = self.cgroups.balance(pods).await {
                warn!(
                    error = chain(&error),
                    "processor time is not shared out between the classes of pods"
                );
            }
        }
        .boxed()
    }

    fn mount<'a>(&'a self, ctx: &'a PodContext) -> BoxFuture<'a, Result<MountedVolumes, VolumeError>> {
        self.volumes.mount(ctx).boxed()
    }

    fn refresh<'a>(&'a self, ctx: &'a PodContext) -> BoxFuture<'a, Result<(), VolumeError>> {
        self.volumes.refresh(ctx).boxed()
    }

    fn unmount<'a>(&'a self, uid: &'a Uid) -> BoxFuture<'a, Result<(), VolumeError>> {
        self.volumes.unmount(uid).boxed()
    }

    fn orphans(&self) -> BoxFuture<'_, Vec<Uid>> {
        async {
            let mut uids = self.volumes.orphans().await;
            uids.extend(self.cgroups.orphans().await);
            uids
        }
        .boxed()
    }

    fn start_probes(
        &self,
        ctx: &PodContext,
        container: ContainerRef<'_>,
        id: &ContainerId,
        started_at: i64,
        pod_ip: Option<IpAddr>,
        findings: mpsc::Sender<ProbeEvent>,
    ) -> ProbeGuard {
        let started = Timestamp::from_nanosecond(i128::from(started_at)).unwrap_or(Timestamp::UNIX_EPOCH);
        Box::new(self.probes.start(ctx, container, id, started, pod_ip, findings))
    }

    fn post_start<'a>(
        &'a self,
        ctx: &'a PodContext,
        container: &'a Container,
        id: &'a ContainerId,
        pod_ip: Option<IpAddr>,
    ) -> BoxFuture<'a, Result<(), String>> {
        let hook = hooks::post_start(&*self.runtime, ctx, container, id, pod_ip, POST_START_LIMIT);
        async { hook.await.map_err(|error| chain(&error)) }.boxed()
    }

    fn pre_stop<'a>(
        &'a self,
        ctx: &'a PodContext,
        container: &'a Container,
        id: &'a ContainerId,
        pod_ip: Option<IpAddr>,
        limit: Duration,
    ) -> BoxFuture<'a, Result<(), String>> {
        let hook = hooks::pre_stop(&*self.runtime, ctx, container, id, pod_ip, limit);
        async { hook.await.map_err(|error| chain(&error)) }.boxed()
    }

    fn link_log<'a>(
        &'a self,
        ctx: &'a PodContext,
        container: &'a str,
        restart_count: u32,
        id: &'a ContainerId,
    ) -> BoxFuture<'a, ()> {
        async move {
            let log = podspec::pod_log_dir(ctx).join(podspec::container_log_path(container, restart_count));
            let link = podspec::container_log_link(ctx, container, id.as_str());
            let _ = tokio::fs::create_dir_all(&self.settings.container_logs_directory).await;
            let _ = tokio::fs::remove_file(&link).await;
            if let Err(error) = tokio::fs::symlink(&log, &link).await {
                debug!(link = %link.display(), %error, "the container's log is not linked");
            }
        }
        .boxed()
    }

    fn remove_logs<'a>(&'a self, namespace: &'a str, name: &'a str, uid: &'a Uid) -> BoxFuture<'a, ()> {
        let logs = self.settings.pod_log_directory(namespace, name, uid.as_str());
        let links = self.settings.container_logs_directory.clone();
        async move {
            if let Err(error) = tokio::fs::remove_dir_all(&logs).await
                && error.kind() != std::io::ErrorKind::NotFound
            {
                warn!(folder = %logs.display(), %error, "logs of a pod that is gone are not removed");
            }
            let Ok(mut entries) = tokio::fs::read_dir(&links).await else {
                return;
            };
            while let Ok(Some(entry)) = entries.next_entry().await {
                let points_there = tokio::fs::read_link(entry.path())
                    .await
                    .is_ok_and(|target| target.starts_with(&logs));
                if points_there {
                    let _ = tokio::fs::remove_file(entry.path()).await;
                }
            }
        }
        .boxed()
    }

    fn last_log_number(&self, ctx: &PodContext, container: &str) -> Option<u32> {
        let entries = std::fs::read_dir(podspec::container_log_dir(ctx, container)).ok()?;
        let names = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| name.split_once(".log")?.0.parse().ok()).max()
    }
}
