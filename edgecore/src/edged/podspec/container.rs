//! One container of a pod (spec 05 §6, row 8).

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer};
use proto::cri;

use super::env::environment;
use super::labels::{container_annotations, container_labels};
use super::logs::{container_log_dir, container_log_path};
use super::mounts::mounts;
use super::resources::container_resources;
use super::security::{container_context, verify_non_root};
use crate::edged::context::PodContext;
use crate::edged::context::SpecError;
use crate::edged::context::{ContainerRef, MountedVolumes, ResolvedImage};
use crate::edged::runtime::ContainerId;

/// The user of an image as the runtime tells it: numeric, or by name. An image that names none runs as root.
pub fn image_user(image: &cri::Image) -> (Option<i64>, String) {
    match &image.uid {
        Some(uid) => (Some(uid.value), String::new()),
        None if image.username.is_empty() => (Some(0), String::new()),
        None => (None, image.username.clone()),
    }
}

/// Describes a container that the runtime is to make, and writes the small files that it mounts.
pub async fn container_config(
    ctx: &PodContext,
    container: ContainerRef<'_>,
    restart_count: u32,
    image: &ResolvedImage,
    pod_ips: &[IpAddr],
    volumes: &MountedVolumes,
) -> Result<cri::ContainerConfig, SpecError> {
    let spec = container.container;
    let mut env = environment(ctx, spec, pod_ips).await?;
    let mounts = mounts(ctx, &container, pod_ips, volumes, &env)?;
    verify_non_root(ctx, spec, image)?;
    let log_dir = container_log_dir(ctx, &spec.name);
    std::fs::create_dir_all(&log_dir).map_err(|error| SpecError::file("create", &log_dir, &error))?;
    let mut expanded = |what: &str, words: &Option<Vec<String>>| -> Result<Vec<String>, SpecError> {
        words
            .iter()
            .flatten()
            .map(|word| {
                env.expand(word)
                    .map_err(|error| SpecError::config(format!("{what}: {error}")))
            })
            .collect()
    };
    let (command, args) = (expanded("command", &spec.command)?, expanded("args", &spec.args)?);
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: spec.name.clone(),
            attempt: restart_count,
        }),
        image: Some(cri::ImageSpec {
            image: image.id.clone(),
            user_specified_image: spec.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command,
        args,
        working_dir: spec.working_dir.clone().unwrap_or_default(),
        envs: env.into_cri(),
        mounts,
        devices: Vec::new(),
        labels: container_labels(ctx, &container),
        annotations: container_annotations(ctx, &container, restart_count),
        log_path: container_log_path(&spec.name, restart_count),
        stdin: spec.stdin.unwrap_or(false),
        stdin_once: spec.stdin_once.unwrap_or(false),
        tty: spec.tty.unwrap_or(false),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(container_resources(ctx, spec)?),
            security_context: Some(container_context(ctx, &container, image)?),
        }),
        windows: None,
        cdi_devices: Vec::new(),
    })
}

/// Puts an ephemeral container into the process namespace of its target, unless the pod has one namespace anyway.
pub fn share_process_namespace(config: &mut cri::ContainerConfig, target: &ContainerId) {
    let security = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
    let Some(options) = security.and_then(|security| security.namespace_options.as_mut()) else {
        return;
    };
    if options.pid == i32::from(cri::NamespaceMode::Container) {
        options.pid = cri::NamespaceMode::Target.into();
        target.as_str().clone_into(&mut options.target_id);
    }
}

/// An ephemeral container has the fields of an ordinary one, beside its target.
pub fn ephemeral_as_container(container: &EphemeralContainer) -> Container {
    let c = container.clone();
    Container {
        args: c.args,
        command: c.command,
        env: c.env,
        env_from: c.env_from,
        image: c.image,
        image_pull_policy: c.image_pull_policy,
        lifecycle: c.lifecycle,
        liveness_probe: c.liveness_probe,
        name: c.name,
        ports: c.ports,
        readiness_probe: c.readiness_probe,
        resize_policy: c.resize_policy,
        resources: c.resources,
        restart_policy: c.restart_policy,
        security_context: c.security_context,
        startup_probe: c.startup_probe,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path,
        termination_message_policy: c.termination_message_policy,
        tty: c.tty,
        volume_devices: c.volume_devices,
        volume_mounts: c.volume_mounts,
        working_dir: c.working_dir,
    }
}
