//! One write of a DeviceStatus.

use proto::Uid;
use proto::device::{DeviceId, DeviceStatus};

use super::change::Merged;
use super::slots::Job;
use crate::kubernetes::{ApiError, DEVICE_STATUSES, DEVICES, Kube, PatchKind};

/// What a write did.
pub(super) struct Written {
    pub(super) status: DeviceStatus,
    pub(super) merged: Merged,
}

/// Brings a change into the API. Somebody else may write meanwhile: the patch names the version that it builds on, so that a newer
/// value is never lost to an older one, and a conflict is settled by reading anew.
pub(super) async fn write(kube: &Kube, uid: &Uid, job: &mut Job, of_device: bool) -> Result<Written, ApiError> {
    let mut tries = 0;
    let mut known = job.stored.take();
    loop {
        tries += 1;
        let mut status = match known.take() {
            Some(status) => status,
            None => read(kube, &job.device).await?,
        };
        let merged = job.change.merge(&mut status, proto::message::now_millis());
        if merged.changed {
            job.is_behind = of_device;
            match store(kube, &job.device, uid, &status).await {
                Ok(version) => status.version = version,
                // Also one that vanished, or appeared, since it was read.
                Err(error)
                    if tries < TRIES && (error.is_conflict() || error.is_already_exists() || error.is_not_found()) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            }
        }
        if job.is_behind {
            let patch = status.patch_of_device();
            let (namespace, name) = (&job.device.namespace, job.device.name.as_str());
            kube.patch(&DEVICES, namespace, name, "", PatchKind::Merge, &patch)
                .await?;
            job.is_behind = false;
        }
        return Ok(Written { status, merged });
    }
}

/// Without a version when there is none.
async fn read(kube: &Kube, device: &DeviceId) -> Result<DeviceStatus, ApiError> {
    match kube
        .get(&DEVICE_STATUSES, &device.namespace, device.name.as_str())
        .await
    {
        Ok(object) => Ok(DeviceStatus::of(&object).unwrap_or_else(|_| DeviceStatus {
            version: object.meta().resource_version.clone(),
            ..DeviceStatus::default()
        })),
        Err(error) if error.is_not_found() => Ok(DeviceStatus::default()),
        Err(error) => Err(error),
    }
}

/// Returns the version that it has now.
async fn store(kube: &Kube, device: &DeviceId, uid: &Uid, status: &DeviceStatus) -> Result<String, ApiError> {
    let (namespace, name) = (&device.namespace, device.name.as_str());
    let object = if status.version.is_empty() {
        kube.create(&DEVICE_STATUSES, namespace, &status.object(device, uid))
            .await?
    } else {
        kube.patch(&DEVICE_STATUSES, namespace, name, "", PatchKind::Merge, &status.patch())
            .await?
    };
    Ok(object.meta().resource_version.clone())
}

/// How often a conflict is settled before the write waits for its next turn.
const TRIES: u32 = 4;
