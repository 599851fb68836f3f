//! What surrounds containers, as a trait: tests do without volumes, cgroups and probes.

use std::any::Any;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Container;
use proto::{Uid, cri};
use tokio::sync::mpsc;

use crate::edged::context::{
    ContainerRef, MountedVolumes, PodContext, ProbeEvent, ResolvedImage, SpecError, VolumeError,
};
use crate::edged::runtime::ContainerId;

/// Keeps a container's probes going; dropping it ends them.
pub(crate) type ProbeGuard = Box<dyn Any + Send>;

/// What the worker needs done around containers.
pub(crate) trait Parts: Send + Sync + fmt::Debug {
    fn sandbox_config<'a>(
        &'a self,
        ctx: &'a PodContext,
        attempt: u32,
    ) -> BoxFuture<'a, Result<cri::PodSandboxConfig, SpecError>>;

    fn container_config<'a>(
        &'a self,
        ctx: &'a PodContext,
        container: ContainerRef<'a>,
        restart_count: u32,
        image: &'a ResolvedImage,
        pod_ips: &'a [IpAddr],
        volumes: &'a MountedVolumes,
    ) -> BoxFuture<'a, Result<cri::ContainerConfig, SpecError>>;

    fn container_hash(&self, container: &Container) -> String;
    fn qos_class(&self, ctx: &PodContext) -> String;
    fn credentials<'a>(&'a self, ctx: &'a PodContext, image: &'a str) -> BoxFuture<'a, Vec<cri::AuthConfig>>;
    fn termination_message(
        &self,
        ctx: &PodContext,
        container: &Container,
        status: &cri::ContainerStatus,
        limit: usize,
    ) -> String;

    fn create_cgroup<'a>(&'a self, ctx: &'a PodContext) -> BoxFuture<'a, Result<(), String>>;
    fn remove_cgroup<'a>(&'a self, uid: &'a Uid) -> BoxFuture<'a, Result<(), String>>;

    /// Shares processor time between the classes of pods; after pods came or went.
    fn balance<'a>(&'a self, pods: &'a [PodContext]) -> BoxFuture<'a, ()>;

    fn mount<'a>(&'a self, ctx: &'a PodContext) -> BoxFuture<'a, Result<MountedVolumes, VolumeError>>;
    fn refresh<'a>(&'a self, ctx: &'a PodContext) -> BoxFuture<'a, Result<(), VolumeError>>;
    fn unmount<'a>(&'a self, uid: &'a Uid) -> BoxFuture<'a, Result<(), VolumeError>>;
    /// Uids of pods that left folders or cgroups behind.
    fn orphans(&self) -> BoxFuture<'_, Vec<Uid>>;

    fn start_probes(
        &self,
        ctx: &PodContext,
        container: ContainerRef<'_>,
        id: &ContainerId,
        started_at: i64,
        pod_ip: Option<IpAddr>,
        findings: mpsc::Sender<ProbeEvent>,
    ) -> ProbeGuard;

    fn post_start<'a>(
        &'a self,
        ctx: &'a PodContext,
        container: &'a Container,
        id: &'a ContainerId,
        pod_ip: Option<IpAddr>,
    ) -> BoxFuture<'a, Result<(), String>>;
    fn pre_stop<'a>(
        &'a self,
        ctx: &'a PodContext,
        container: &'a Container,
        id: &'a ContainerId,
        pod_ip: Option<IpAddr>,
        limit: Duration,
    ) -> BoxFuture<'a, Result<(), String>>;
    /// Links the container's log into the folder of all logs.
    fn link_log<'a>(
        &'a self,
        ctx: &'a PodContext,
        container: &'a str,
        restart_count: u32,
        id: &'a ContainerId,
    ) -> BoxFuture<'a, ()>;
    /// Removes the pod's logs and their links.
    fn remove_logs<'a>(&'a self, namespace: &'a str, name: &'a str, uid: &'a Uid) -> BoxFuture<'a, ()>;
    /// The number of the newest log of a container, where the runtime forgot its containers.
    fn last_log_number(&self, ctx: &PodContext, container: &str) -> Option<u32>;
}
