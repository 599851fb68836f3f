//! emptyDir: a folder that lives as long as its pod.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use k8s_openapi::api::core::v1::EmptyDirVolumeSource;

use super::files::is_mounted;
use super::{make_dirs, mounts, ownership, volume_dir};
use crate::edged::context::{MountedVolume, PodContext};
use crate::edged::podspec::{QosClass, all_limited, pod_limits};
use crate::edged::quantity::Quantity;

/// Makes the folder. `refused` tells whether an error means that nothing can be mounted here.
pub(super) fn mount(
    ctx: &PodContext,
    name: &str,
    source: &EmptyDirVolumeSource,
    refused: impl Fn(&io::Error) -> bool,
) -> Result<MountedVolume, String> {
    let dir = volume_dir(ctx, "empty-dir", name);
    let memory = match source.medium.as_deref() {
        None | Some("") => false,
        Some("Memory") => true,
        Some(other) => return Err(format!("emptyDir medium {other:?} is not supported on this node")),
    };
    let size = if memory { Some(memory_size(ctx, source)?) } else { None };
    // The mark that a kubelet leaves, too: a program in the pod may have changed modes and owners since.
    let marks = ctx.dir().join("plugins").join("kubernetes.io~empty-dir").join(name);
    let ready = marks.join("ready");
    let make = || -> io::Result<()> {
        if let Some(parent) = dir.parent() {
            make_dirs(parent)?;
        }
        make_dirs(&dir)?;
        let mounted = is_mounted(&dir)?;
        if ready.exists() && (mounted || !memory) {
            return Ok(());
        }
        if memory && !mounted {
            match mounts::tmpfs(&dir, size) {
                Err(error) if !refused(&error) => return Err(error),
                _ => {}
            }
        }
        fs::set_permissions(&dir, PermissionsExt::from_mode(0o777))?;
        ownership::set(
            &dir,
            ctx.spec().security_context.as_ref().and_then(|pod| pod.fs_group),
            false,
        )?;
        mark(&marks, &ready)
    };
    make().map_err(|error| format!("{}: {error}", dir.display()))?;
    Ok(MountedVolume {
        host_path: dir,
        read_only: false,
        selinux_relabel: true,
    })
}

fn mark(marks: &Path, ready: &Path) -> io::Result<()> {
    make_dirs(marks)?;
    fs::write(ready, [])
}

/// The least of what the pod, the node and the volume allow.
fn memory_size(ctx: &PodContext, source: &EmptyDirVolumeSource) -> Result<u64, String> {
    let mut size = ctx.node.allocatable_memory_bytes;
    let limited = ctx.qos() == QosClass::Guaranteed
        || (ctx.qos() == QosClass::Burstable && all_limited(ctx, "memory").map_err(|error| error.message)?);
    let pod = pod_limits(ctx)
        .map_err(|error| error.message)?
        .get("memory")
        .copied()
        .unwrap_or_default();
    let own = match &source.size_limit {
        Some(text) => Quantity::try_from(text).map_err(|error| error.to_string())?,
        None => Quantity::ZERO,
    };
    for limit in [if limited { pod.value() } else { 0 }, own.value()] {
        if limit > 0 && (size <= 0 || limit < size) {
            size = limit;
        }
    }
    Ok(u64::try_from(size).unwrap_or_default())
}
