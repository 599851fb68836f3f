//! What a container finds mounted (spec 05 §6, rows 26, 28, 29).

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::VolumeMount;
use proto::cri::{self, MountPropagation};

use super::env::Environment;
use super::expand::expand_path;
use super::hosts::write_hosts;
use crate::edged::context::ContainerRef;
use crate::edged::context::MountedVolumes;
use crate::edged::context::PodContext;
use crate::edged::context::SpecError;
use crate::edged::volumes::{SubPath, make_dirs, prepare_sub_path};

pub(super) fn mounts(
    ctx: &PodContext,
    container: &ContainerRef,
    pod_ips: &[IpAddr],
    volumes: &MountedVolumes,
    env: &Environment,
) -> Result<Vec<cri::Mount>, SpecError> {
    let spec = container.container;
    let mut all = Vec::new();
    let mut wants_hosts = ctx.host_network() || !pod_ips.is_empty();
    for (index, mount) in spec.volume_mounts.iter().flatten().enumerate() {
        wants_hosts &= mount.mount_path != HOSTS;
        all.push(volume_mount(ctx, container, index, mount, volumes, env)?);
    }
    if wants_hosts {
        let host_path = write_hosts(ctx, pod_ips)?;
        all.push(plain(HOSTS.into(), host_path.to_string_lossy().into_owned()));
    }
    if let Some(path) = spec.termination_message_path.as_deref().filter(|path| !path.is_empty()) {
        let file = message_file(ctx, &spec.name)?;
        all.push(plain(absolute(path), file.to_string_lossy().into_owned()));
    }
    Ok(all)
}

fn volume_mount(
    ctx: &PodContext,
    container: &ContainerRef,
    index: usize,
    mount: &VolumeMount,
    volumes: &MountedVolumes,
    env: &Environment,
) -> Result<cri::Mount, SpecError> {
    let (name, container) = (&mount.name, &container.container.name);
    let volume = volumes.volumes.get(name).ok_or_else(|| {
        SpecError::config(format!(
            "cannot find volume {name:?} to mount into container {container:?}"
        ))
    })?;
    let text = |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty()).map(ToOwned::to_owned);
    let sub_path = match text(&mount.sub_path_expr) {
        Some(expression) => Some(expand_path(&expression, |name| env.get(name))?),
        None => text(&mount.sub_path),
    };
    let host_path = match sub_path.filter(|path| !path.is_empty()) {
        Some(path) => {
            let wanted = SubPath {
                pod_dir: &ctx.dir(),
                volume: name,
                base: &volume.host_path,
                path: &path,
                container,
                index,
            };
            prepare_sub_path(&wanted).map_err(SpecError::config)?
        }
        None => volume.host_path.clone(),
    };
    let propagation = match mount.mount_propagation.as_deref() {
        None | Some("None") => MountPropagation::PropagationPrivate,
        Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => MountPropagation::PropagationBidirectional,
        Some(other) => return Err(SpecError::config(format!("invalid MountPropagation mode: {other:?}"))),
    };
    if mount.recursive_read_only.as_deref() == Some("Enabled") {
        return Err(SpecError::config(format!(
            "volume {name:?} requested recursive read-only mode, but it is not supported by the runtime"
        )));
    }
    Ok(cri::Mount {
        readonly: mount.read_only == Some(true) || volume.read_only,
        propagation: propagation.into(),
        selinux_relabel: volume.selinux_relabel,
        ..plain(absolute(&mount.mount_path), host_path.to_string_lossy().into_owned())
    })
}

/// The folder of a container's termination messages, which no container sees as a whole.
pub(super) fn message_dir(ctx: &PodContext, container: &str) -> PathBuf {
    ctx.dir().join("containers").join(container)
}

/// A fresh file for the termination message of this run; its name differs from run to run, as the runtime remembers it per container.
fn message_file(ctx: &PodContext, container: &str) -> Result<PathBuf, SpecError> {
    let dir = message_dir(ctx, container);
    let id = uuid::Uuid::new_v4().simple().to_string();
    let path = dir.join(id.get(..8).unwrap_or(&id));
    let create = || {
        make_dirs(&dir)?;
        std::fs::File::create(&path)?;
        // Whatever user the container runs as, and whatever our umask is.
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666))
    };
    create().map_err(|error| SpecError::file("create", &path, &error))?;
    Ok(path)
}

fn plain(container_path: String, host_path: String) -> cri::Mount {
    cri::Mount {
        container_path,
        host_path,
        ..Default::default()
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

const HOSTS: &str = "/etc/hosts";
