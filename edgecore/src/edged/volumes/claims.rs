//! PersistentVolumeClaims whose volume is a path of this node: local and hostPath.

use std::fs;
use std::io;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{HostPathVolumeSource, PersistentVolume, PersistentVolumeClaim, Volume};
use proto::{Kind, ObjectPath};

use super::{host_path, make_dirs, mounts, ownership, volume_dir};
use crate::edged::context::{MountedVolume, PodContext};
use crate::edged::podspec::source_text;

/// The claim behind a volume.
pub(super) struct Claim {
    name: String,
    read_only: bool,
}

/// The volume behind a claim.
pub(super) struct Claimed {
    volume: String,
    read_only: bool,
    place: Place,
}

enum Place {
    Local(PathBuf),
    HostPath(HostPathVolumeSource),
}

/// The claim that a volume names, or that was made for it.
pub(super) fn claim_of(ctx: &PodContext, volume: &Volume) -> Option<Claim> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some(Claim {
            name: source.claim_name.clone(),
            read_only: source.read_only == Some(true),
        });
    }
    let name = format!("{}-{}", ctx.name(), volume.name);
    volume.ephemeral.as_ref().map(|_| Claim { name, read_only: false })
}

/// Asks for the claim and its volume.
pub(super) async fn resolve(ctx: &PodContext, claim: &Claim) -> Result<Claimed, String> {
    let path = ObjectPath::new(ctx.namespace(), Kind::PersistentVolumeClaim, claim.name.as_str());
    let object = ctx.api.object(&path).await;
    let object = object.map_err(|error| source_text(&path.kind, &claim.name, &error))?;
    let found: PersistentVolumeClaim = object
        .view()
        .map_err(|error| format!("persistentvolumeclaim {:?}: {}", claim.name, common::chain(&error)))?;
    let volume = found
        .spec
        .and_then(|spec| spec.volume_name)
        .filter(|name| !name.is_empty());
    let Some(volume) = volume else {
        return Err(format!(
            "PVC {}/{} is not bound to a volume yet",
            ctx.namespace(),
            claim.name
        ));
    };
    let path = ObjectPath::cluster(Kind::PersistentVolume, volume.as_str());
    let object = ctx.api.object(&path).await;
    let object = object.map_err(|error| source_text(&path.kind, &volume, &error))?;
    let found: PersistentVolume = object
        .view()
        .map_err(|error| format!("persistentvolume {volume:?}: {}", common::chain(&error)))?;
    let spec = found.spec.unwrap_or_default();
    if spec.claim_ref.as_ref().is_none_or(|claimed| {
        claimed.name.as_deref() != Some(&claim.name) || claimed.namespace.as_deref() != Some(ctx.namespace())
    }) {
        return Err(format!(
            "PV {volume} is not bound to PVC {}/{}",
            ctx.namespace(),
            claim.name
        ));
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(format!(
            "PV {volume} is a block device, which is not supported on this node"
        ));
    }
    let place = match (spec.local, spec.host_path) {
        (Some(local), _) => Place::Local(local.path.into()),
        (None, Some(source)) => Place::HostPath(source),
        (None, None) => {
            return Err(format!(
                "PV {volume} is neither local nor hostPath, other kinds are not supported on this node"
            ));
        }
    };
    Ok(Claimed {
        volume,
        read_only: claim.read_only,
        place,
    })
}

/// Puts the volume in place.
pub(super) fn mount(ctx: &PodContext, claimed: &Claimed) -> Result<MountedVolume, String> {
    let source = match &claimed.place {
        Place::HostPath(source) => {
            let host_path = host_path::check(source)?;
            return Ok(MountedVolume {
                host_path,
                read_only: claimed.read_only,
                selinux_relabel: false,
            });
        }
        Place::Local(source) => source,
    };
    let dir = volume_dir(ctx, "local-volume", &claimed.volume);
    let bind = || -> io::Result<()> {
        fs::metadata(source)?;
        make_dirs(&dir)?;
        // Twice mounted would have to be twice unmounted, also by a kubelet.
        if !mounts::is_mount_point(&dir)? {
            mounts::bind(source, &dir)?;
        }
        let pod = ctx.spec().security_context.as_ref();
        let group = pod.and_then(|pod| pod.fs_group);
        let on_mismatch = pod.and_then(|pod| pod.fs_group_change_policy.as_deref()) == Some("OnRootMismatch");
        let settled = on_mismatch && ownership::root_fits(&dir, group, false);
        if !claimed.read_only && !settled {
            ownership::set(&dir, group, false)?;
        }
        Ok(())
    };
    bind().map_err(|error| format!("local volume {} of PV {}: {error}", source.display(), claimed.volume))?;
    Ok(MountedVolume {
        host_path: dir,
        read_only: claimed.read_only,
        selinux_relabel: true,
    })
}
