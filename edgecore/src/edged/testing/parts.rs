//! What surrounds containers, as far as a test needs it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Container;
use parking_lot::Mutex;
use proto::{Uid, cri};
use tokio::sync::mpsc;

use crate::edged::context::{
    ContainerRef, MountedVolumes, PodContext, ProbeEvent, ResolvedImage, SpecError, VolumeError,
};
use crate::edged::pods::{Parts, ProbeGuard, decide};
use crate::edged::podspec;
use crate::edged::runtime::{ContainerId, LABEL_CONTAINER_NAME, LABEL_POD_NAME, LABEL_POD_NAMESPACE, LABEL_POD_UID};

/// Nothing around containers; probes are sent by the test.
#[derive(Debug, Default)]
pub(crate) struct FakeParts {
    probes: Mutex<Vec<(String, ContainerId, mpsc::Sender<ProbeEvent>)>>,
    pub(crate) mount_error: Mutex<Option<String>>,
    pub(crate) refreshed: Mutex<Vec<Uid>>,
    pub(crate) unmounted: Mutex<Vec<Uid>>,
}

impl FakeParts {
    /// The newest container of that name and where its probes report.
    pub(crate) fn probe(&self, container: &str) -> Option<(ContainerId, mpsc::Sender<ProbeEvent>)> {
        let probes = self.probes.lock();
        probes
            .iter()
            .rev()
            .find(|(name, _, _)| name == container)
            .map(|(_, id, sender)| (id.clone(), sender.clone()))
    }

    /// How often probes were started.
    pub(crate) fn probes_started(&self) -> usize {
        self.probes.lock().len()
    }
}

fn labels(ctx: &PodContext) -> HashMap<String, String> {
    [
        (LABEL_POD_UID.to_owned(), ctx.uid().to_string()),
        (LABEL_POD_NAME.to_owned(), ctx.name().to_owned()),
        (LABEL_POD_NAMESPACE.to_owned(), ctx.namespace().to_owned()),
    ]
    .into()
}

impl Parts for FakeParts {
    fn sandbox_config<'a>(
        &'a self,
        ctx: &'a PodContext,
        attempt: u32,
    ) -> BoxFuture<'a, Result<cri::PodSandboxConfig, SpecError>> {
        let metadata = Some(cri::PodSandboxMetadata {
            name: ctx.name().to_owned(),
            uid: ctx.uid().to_string(),
            namespace: ctx.namespace().to_owned(),
            attempt,
        });
        let network = if decide::is_host_network(&ctx.pod) {
            cri::NamespaceMode::Node
        } else {
            cri::NamespaceMode::Pod
        };
        let namespace_options = Some(cri::NamespaceOption {
            network: network.into(),
            ..Default::default()
        });
        let security_context = Some(cri::LinuxSandboxSecurityContext {
            namespace_options,
            ..Default::default()
        });
        let config = cri::PodSandboxConfig {
            metadata,
            labels: labels(ctx),
            linux: Some(cri::LinuxPodSandboxConfig {
                security_context,
                ..Default::default()
            }),
            ..Default::default()
        };
        futures::future::ready(Ok(config)).boxed()
    }

    fn container_config<'a>(
        &'a self,
        ctx: &'a PodContext,
        container: ContainerRef<'a>,
        restart_count: u32,
        _: &'a ResolvedImage,
        _: &'a [IpAddr],
        _: &'a MountedVolumes,
    ) -> BoxFuture<'a, Result<cri::ContainerConfig, SpecError>> {
        let container = container.container;
        let mut labels = labels(ctx);
        labels.insert(LABEL_CONTAINER_NAME.to_owned(), container.name.clone());
        let annotations = [
            (
                "io.kubernetes.container.hash".to_owned(),
                self.container_hash(container),
            ),
            (
                "io.kubernetes.container.restartCount".to_owned(),
                restart_count.to_string(),
            ),
        ];
        let image = container.image.clone().unwrap_or_default();
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata {
                name: container.name.clone(),
                attempt: restart_count,
            }),
            image: Some(cri::ImageSpec {
                image,
                ..Default::default()
            }),
            labels,
            annotations: annotations.into(),
            ..Default::default()
        };
        futures::future::ready(Ok(config)).boxed()
    }

    fn container_hash(&self, container: &Container) -> String {
        podspec::container_hash(container)
    }

    fn qos_class(&self, _: &PodContext) -> String {
        "BestEffort".to_owned()
    }

    fn credentials<'a>(&'a self, ctx: &'a PodContext, image: &'a str) -> BoxFuture<'a, Vec<cri::AuthConfig>> {
        podspec::pull_credentials(ctx, image).boxed()
    }

    fn termination_message(&self, _: &PodContext, _: &Container, _: &cri::ContainerStatus, _: usize) -> String {
        String::new()
    }

    fn create_cgroup<'a>(&'a self, _: &'a PodContext) -> BoxFuture<'a, Result<(), String>> {
        futures::future::ready(Ok(())).boxed()
    }

    fn remove_cgroup<'a>(&'a self, _: &'a Uid) -> BoxFuture<'a, Result<(), String>> {
        futures::future::ready(Ok(())).boxed()
    }

    fn balance<'a>(&'a self, _: &'a [PodContext]) -> BoxFuture<'a, ()> {
        futures::future::ready(()).boxed()
    }

    fn mount<'a>(&'a self, _: &'a PodContext) -> BoxFuture<'a, Result<MountedVolumes, VolumeError>> {
        let error = self.mount_error.lock().clone();
        let mounted = error.map_or_else(
            || Ok(MountedVolumes::default()),
            |message| {
                Err(VolumeError {
                    volume: "data".into(),
                    message,
                })
            },
        );
        futures::future::ready(mounted).boxed()
    }

    fn refresh<'a>(&'a self, ctx: &'a PodContext) -> BoxFuture<'a, Result<(), VolumeError>> {
        self.refreshed.lock().push(ctx.uid());
        futures::future::ready(Ok(())).boxed()
    }

    fn unmount<'a>(&'a self, uid: &'a Uid) -> BoxFuture<'a, Result<(), VolumeError>> {
        self.unmounted.lock().push(uid.clone());
        futures::future::ready(Ok(())).boxed()
    }

    fn orphans(&self) -> BoxFuture<'_, Vec<Uid>> {
        futures::future::ready(Vec::new()).boxed()
    }

    fn start_probes(
        &self,
        _: &PodContext,
        container: ContainerRef<'_>,
        id: &ContainerId,
        _: i64,
        _: Option<IpAddr>,
        findings: mpsc::Sender<ProbeEvent>,
    ) -> ProbeGuard {
        self.probes
            .lock()
            .push((container.container.name.clone(), id.clone(), findings));
        Box::new(())
    }

    fn post_start<'a>(
        &'a self,
        _: &'a PodContext,
        _: &'a Container,
        _: &'a ContainerId,
        _: Option<IpAddr>,
    ) -> BoxFuture<'a, Result<(), String>> {
        futures::future::ready(Ok(())).boxed()
    }

    fn pre_stop<'a>(
        &'a self,
        _: &'a PodContext,
        _: &'a Container,
        _: &'a ContainerId,
        _: Option<IpAddr>,
        _: Duration,
    ) -> BoxFuture<'a, Result<(), String>> {
        tokio::time::sleep(Duration::from_secs(3)).map(Ok).boxed()
    }

    fn link_log<'a>(&'a self, _: &'a PodContext, _: &'a str, _: u32, _: &'a ContainerId) -> BoxFuture<'a, ()> {
        futures::future::ready(()).boxed()
    }

    fn remove_logs<'a>(&'a self, _: &'a str, _: &'a str, _: &'a Uid) -> BoxFuture<'a, ()> {
        futures::future::ready(()).boxed()
    }

    fn last_log_number(&self, _: &PodContext, _: &str) -> Option<u32> {
        None
    }
}
