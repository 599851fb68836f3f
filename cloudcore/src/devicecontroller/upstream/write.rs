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

#[cfg(test)]
mod tests {
    use proto::device::TwinUpdate;
    use serde_json::{Value, json};

    use super::*;
    use crate::kubernetes::fake::FakeApi;

    const STATUS: &str = "/apis/devices.kubeedge.io/v1beta1/namespaces/ns/devicestatuses/d";
    const DEVICE: &str = "/apis/devices.kubeedge.io/v1beta1/namespaces/ns/devices/d";
    const AT: i64 = 1_795_217_800_000;

    fn job(property: &str, value: &str, at: i64) -> Job {
        let text = format!(
            r#"{{"twin":{{"{property}":{{"actual":{{"value":"{value}","metadata":{{"timestamp":{at}}}}}}}}}}}"#
        );
        Job {
            device: DeviceId::new("ns", "d"),
            change: TwinUpdate::parse(text.as_bytes()).expect("twin").into(),
            reports: Default::default(),
            stored: None,
            is_behind: false,
        }
    }

    fn value(api: &FakeApi, at: usize) -> Value {
        api.get(STATUS).expect("stored")["status"]["twins"][at]["reported"]["value"].clone()
    }

    #[tokio::test]
    async fn a_missing_status_is_made_with_its_owner_and_then_patched_by_one_request() {
        let api = FakeApi::default();
        let first = write(&api.kube(), &"u".into(), &mut job("a", "1", AT), false)
            .await
            .expect("written");
        let stored = api.get(STATUS).expect("made");
        assert_eq!(stored["metadata"]["ownerReferences"][0]["uid"], "u");
        assert_eq!(value(&api, 0), "1");
        let before = api.log().len();
        let mut next = job("b", "2", AT);
        next.stored = Some(first.status);
        write(&api.kube(), &"u".into(), &mut next, false)
            .await
            .expect("written");
        assert_eq!((value(&api, 0), value(&api, 1)), ("1".into(), "2".into()));
        assert_eq!(api.log().get(before..), Some(&[format!("PATCH {STATUS}")][..]));
    }

    #[tokio::test]
    async fn what_others_wrote_stays_and_a_newer_value_of_theirs_wins() {
        let api = FakeApi::default();
        let first = write(&api.kube(), &"u".into(), &mut job("a", "1", AT), false)
            .await
            .expect("written");
        // Another cloudcore is ahead, and somebody keeps notes of their own.
        write(&api.kube(), &"u".into(), &mut job("a", "3", AT + 2), false)
            .await
            .expect("written");
        let mut object = api.get(STATUS).expect("stored");
        object["status"]["extensions"] = json!({"note": "mine"});
        api.put(STATUS, object);
        let mut late = job("a", "2", AT + 1);
        late.stored = Some(first.status.clone());
        let written = write(&api.kube(), &"u".into(), &mut late, false)
            .await
            .expect("settled");
        let Merged { changed, older } = written.merged;
        assert_eq!((changed, older, value(&api, 0)), (false, 1, "3".into()));
        let mut newer = job("a", "4", AT + 3);
        newer.stored = Some(first.status);
        write(&api.kube(), &"u".into(), &mut newer, false)
            .await
            .expect("settled");
        assert_eq!(value(&api, 0), "4");
        assert_eq!(api.get(STATUS).expect("stored")["status"]["extensions"]["note"], "mine");
    }

    #[tokio::test]
    async fn a_failure_is_told_and_leaves_the_change_to_be_tried_again() {
        let api = FakeApi::default();
        api.refuse(&format!("GET {STATUS}"), 403, "Forbidden");
        let mut job = job("a", "1", AT);
        assert!(write(&api.kube(), &"u".into(), &mut job, false).await.is_err());
        assert!(!job.change.is_empty());
        write(&api.kube(), &"u".into(), &mut job, false).await.expect("written");
        assert_eq!(value(&api, 0), "1");
    }

    #[tokio::test]
    async fn the_status_of_the_device_follows_where_it_is_asked_for() {
        let api = FakeApi::default();
        api.put(
            DEVICE,
            json!({"metadata": {"name": "d", "namespace": "ns"}, "spec": {"nodeName": "n"}}),
        );
        api.refuse(&format!("PATCH {DEVICE}"), 403, "Forbidden");
        let mut job = job("a", "1", AT);
        assert!(write(&api.kube(), &"u".into(), &mut job, true).await.is_err());
        assert!(job.is_behind && api.get(DEVICE).expect("there").get("status").is_none());
        write(&api.kube(), &"u".into(), &mut job, true).await.expect("written");
        let device = api.get(DEVICE).expect("there");
        assert_eq!(
            (
                &device["status"]["twins"][0]["reported"]["value"],
                &device["spec"]["nodeName"]
            ),
            (&"1".into(), &"n".into())
        );
    }
}
