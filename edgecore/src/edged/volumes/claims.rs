//! PersistentVolumeClaims whose volume is a path of this node: local and hostPath.

use std::fs;
use std::io;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::HostPathVolumeSource;
use proto::{Kind, ObjectPath, view};

use super::{host_path, make_dirs, mounts, ownership, volume_dir};
use crate::edged::context::{MountedVolume, PodContext};
use crate::edged::podspec::source_text;
use crate::pod::Volume;

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

view! {
    /// What is read of a PersistentVolumeClaim.
    struct ClaimView { "spec" spec: ClaimSpec }
    struct ClaimSpec { "volumeName" volume: String }

    /// What is read of a PersistentVolume: the library's own view has all its 22 sources.
    struct VolumeView { "spec" spec: VolumeSpec }
    struct VolumeSpec {
        "claimRef" claim: Option<ClaimReference>,
        "volumeMode" mode: String,
        "local" local: Option<Local>,
        "hostPath" host_path: Option<HostPathVolumeSource>,
    }
    struct ClaimReference { "name" name: String, "namespace" namespace: String }
    struct Local { "path" path: String }
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
    let found: ClaimView = object
        .view()
        .map_err(|error| format!("persistentvolumeclaim {:?}: {}", claim.name, common::chain(&error)))?;
    let volume = found.spec.volume;
    if volume.is_empty() {
        return Err(format!(
            "PVC {}/{} is not bound to a volume yet",
            ctx.namespace(),
            claim.name
        ));
    }
    let path = ObjectPath::cluster(Kind::PersistentVolume, volume.as_str());
    let object = ctx.api.object(&path).await;
    let object = object.map_err(|error| source_text(&path.kind, &volume, &error))?;
    let found: VolumeView = object
        .view()
        .map_err(|error| format!("persistentvolume {volume:?}: {}", common::chain(&error)))?;
    let spec = found.spec;
    let is_ours = |of: &ClaimReference| of.name == claim.name && of.namespace == ctx.namespace();
    if !spec.claim.as_ref().is_some_and(is_ours) {
        return Err(format!(
            "PV {volume} is not bound to PVC {}/{}",
            ctx.namespace(),
            claim.name
        ));
    }
    if spec.mode == "Block" {
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
