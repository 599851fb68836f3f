//! One write of a DeviceStatus, and where clients of before v1.23 look, of the Device.

use common::chain;
use proto::Uid;
use proto::device::{DeviceFacts, DeviceId, DeviceStatus};
use serde_json::json;
use tracing::{debug, warn};

use super::change::{Change, Merged};
use super::slots::Job;
use crate::informers::Known;
use crate::kubernetes::{ApiError, DEVICE_STATUSES, DEVICES, Kube, PatchKind};

/// What a write did.
pub(super) struct Written {
    pub(super) status: DeviceStatus,
    pub(super) merged: Merged,
}

/// Brings a change into the API. Somebody else may write meanwhile: the patch names the version that it builds on, so that a newer
/// value is never lost to an older one, and a conflict is settled by reading anew. `always` is whether every Device shows its values.
pub(super) async fn write(kube: &Kube, device: &Known, job: &mut Job, always: bool) -> Result<Written, ApiError> {
    let (mut tries, mut has_stored, was_behind) = (0, false, job.is_behind);
    // While the Device was behind its DeviceStatus, others may have written: what is remembered would hide that, so it is read anew.
    let (mut known, mut version) = (job.stored.take().filter(|_| !was_behind), device.version.to_string());
    let mut uid = device.uid.clone();
    // An earlier run of cloudcore may have ended between the two writes.
    job.is_behind |= job.of_device && known.is_none();
    loop {
        tries += 1;
        let mut status = match current(kube, &job.device, &mut uid, known.take()).await {
            Ok(status) => status,
            Err(error) if tries < TRIES && error.is_conflict() => continue,
            Err(error) => return Err(error),
        };
        let mut merged = job.change.merge(&mut status, proto::message::now_millis());
        if merged.changed {
            job.is_behind = job.of_device;
            match store(kube, &job.device, &uid, &status).await {
                Ok(version) => {
                    if status.version.is_empty() {
                        status.owners.push(uid.clone());
                    }
                    status.version = version;
                    has_stored = true;
                    // The change is written. If the object is changed from here on, somebody else wrote something newer.
                    job.change = Change::default();
                }
                // Not only a plain conflict: the object may also have vanished or appeared since it was read.
                Err(error)
                    if tries < TRIES && (error.is_conflict() || error.is_already_exists() || error.is_not_found()) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            }
        }
        if job.is_behind {
            match show(kube, &job.device, &version, &status).await {
                Ok(()) => job.is_behind = false,
                // Another cloudcore may have shown newer values: both are read anew.
                Err(error) if tries < TRIES && error.is_conflict() => {
                    let object = kube
                        .get(&DEVICES, &job.device.namespace, job.device.name.as_str())
                        .await?;
                    version.clone_from(&object.meta().resource_version);
                    job.is_behind = always || DeviceFacts::of(&object).is_ok_and(|facts| facts.has_old_clients);
                    continue;
                }
                Err(error) if is_lasting(&error) => {
                    let (device, error) = (&job.device, chain(&error));
                    if was_behind {
                        debug!(%device, error, "the status of a device is refused again");
                    } else {
                        warn!(
                            %device,
                            error,
                            "the API server does not take the status of a device, clients of v1alpha2 do not see its values; its \
                             DeviceStatus has them"
                        );
                    }
                }
                Err(error) => return Err(error),
            }
        }
        merged.changed |= has_stored;
        return Ok(Written { status, merged });
    }
}

/// In the Device as it was at this version.
async fn show(kube: &Kube, device: &DeviceId, version: &str, status: &DeviceStatus) -> Result<(), ApiError> {
    let (namespace, name) = (&device.namespace, device.name.as_str());
    let patch = status.patch_of_device(version);
    kube.patch(&DEVICES, namespace, name, "", PatchKind::Merge, &patch)
        .await
        .map(drop)
}

/// Whether a Device is refused for what it is, or for a right that is missing: its DeviceStatus must not wait for it.
fn is_lasting(error: &ApiError) -> bool {
    error.status().is_some() && !error.is_transient() && !error.is_conflict() && !error.is_not_found()
}

/// The DeviceStatus of the Device that has the name now, whose uid is brought up to date; without a version when there is none. That of
/// an earlier Device is taken away: the garbage collector is about to, and would take along whatever is written into it.
async fn current(
    kube: &Kube,
    device: &DeviceId,
    uid: &mut Uid,
    known: Option<DeviceStatus>,
) -> Result<DeviceStatus, ApiError> {
    let status = match known {
        Some(status) => status,
        None => read(kube, device).await?,
    };
    if status.is_of(uid) {
        return Ok(status);
    }
    // Another cloudcore may know of a newer Device, and have written.
    let (namespace, name) = (&device.namespace, device.name.as_str());
    *uid = kube.get(&DEVICES, namespace, name).await?.uid();
    if status.is_of(uid) {
        return Ok(status);
    }
    let options = json!({"preconditions": {"resourceVersion": status.version}}).to_string();
    match kube.delete(&DEVICE_STATUSES, namespace, name, &options).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(DeviceStatus::default()),
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
    use serde_json::Value;

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
            node: "n".into(),
            is_retry: false,
            change: TwinUpdate::parse(text.as_bytes()).expect("twin").into(),
            of_device: false,
            reports: Default::default(),
            stored: None,
            is_behind: false,
        }
    }

    /// The Device.
    fn known(version: u64) -> Known {
        Known {
            uid: "u".into(),
            version,
            told: version,
        }
    }

    fn value(api: &FakeApi, at: usize) -> Value {
        api.get(STATUS).expect("stored")["status"]["twins"][at]["reported"]["value"].clone()
    }

    #[tokio::test]
    async fn a_missing_status_is_made_with_its_owner_and_then_patched_by_one_request() {
        let api = FakeApi::default();
        let first = write(&api.kube(), &known(1), &mut job("a", "1", AT), false)
            .await
            .expect("written");
        let stored = api.get(STATUS).expect("made");
        assert_eq!(stored["metadata"]["ownerReferences"][0]["uid"], "u");
        assert_eq!(value(&api, 0), "1");
        let before = api.log().len();
        let mut next = job("b", "2", AT);
        next.stored = Some(first.status);
        write(&api.kube(), &known(1), &mut next, false).await.expect("written");
        assert_eq!((value(&api, 0), value(&api, 1)), ("1".into(), "2".into()));
        assert_eq!(api.log().get(before..), Some(&[format!("PATCH {STATUS}")][..]));
    }

    #[tokio::test]
    async fn what_others_wrote_stays_and_a_newer_value_of_theirs_wins() {
        let api = FakeApi::default();
        let first = write(&api.kube(), &known(1), &mut job("a", "1", AT), false)
            .await
            .expect("written");
        // Another cloudcore is ahead, and somebody keeps notes of their own.
        write(&api.kube(), &known(1), &mut job("a", "3", AT + 2), false)
            .await
            .expect("written");
        let mut object = api.get(STATUS).expect("stored");
        object["status"]["extensions"] = json!({"note": "mine"});
        api.put(STATUS, object);
        let mut late = job("a", "2", AT + 1);
        late.stored = Some(first.status.clone());
        let written = write(&api.kube(), &known(1), &mut late, false).await.expect("settled");
        let Merged { changed, older } = written.merged;
        assert_eq!((changed, older, value(&api, 0)), (false, 1, "3".into()));
        let mut newer = job("a", "4", AT + 3);
        newer.stored = Some(first.status);
        write(&api.kube(), &known(1), &mut newer, false).await.expect("settled");
        assert_eq!(value(&api, 0), "4");
        assert_eq!(api.get(STATUS).expect("stored")["status"]["extensions"]["note"], "mine");
    }

    #[tokio::test]
    async fn a_failure_is_told_and_leaves_the_change_to_be_tried_again() {
        let api = FakeApi::default();
        api.refuse(&format!("GET {STATUS}"), 403, "Forbidden");
        let mut job = job("a", "1", AT);
        assert!(write(&api.kube(), &known(1), &mut job, false).await.is_err());
        assert!(!job.change.is_empty());
        write(&api.kube(), &known(1), &mut job, false).await.expect("written");
        assert_eq!(value(&api, 0), "1");
    }

    /// A DeviceStatus of an earlier Device of the name, beside the Device that has it now, with the uid `u`.
    async fn left_over(api: &FakeApi) -> DeviceStatus {
        api.put(
            DEVICE,
            json!({"metadata": {"name": "d", "namespace": "ns", "uid": "u"}, "spec": {"nodeName": "n"}}),
        );
        let earlier = Known {
            uid: "earlier".into(),
            ..known(1)
        };
        let written = write(&api.kube(), &earlier, &mut job("a", "1", AT + 5), false).await;
        written.expect("written").status
    }

    fn owner(api: &FakeApi) -> Value {
        api.get(STATUS).expect("stored")["metadata"]["ownerReferences"][0]["uid"].clone()
    }

    #[tokio::test]
    async fn the_status_of_an_earlier_device_of_the_name_makes_room_for_one_of_the_new_device() {
        for is_remembered in [false, true] {
            let api = FakeApi::default();
            let left = left_over(&api).await;
            let before = api.get(STATUS).expect("left");
            assert_eq!(owner(&api), "earlier");
            let mut job = job("b", "2", AT);
            job.stored = is_remembered.then_some(left);
            let written = write(&api.kube(), &known(1), &mut job, false).await.expect("written");
            let after = api.get(STATUS).expect("made");
            assert_eq!((owner(&api), value(&api, 0)), ("u".into(), "2".into()));
            assert_eq!(after["status"]["twins"].as_array().map(Vec::len), Some(1));
            // The garbage collector removes what it has seen by its uid.
            assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"]);
            assert!(written.status.is_of(&"u".into()) && !written.status.is_of(&"earlier".into()));
        }
    }

    #[tokio::test]
    async fn somebody_else_may_take_the_earlier_status_away_first() {
        for (code, reason) in [(404, "NotFound"), (409, "Conflict")] {
            let api = FakeApi::default();
            left_over(&api).await;
            api.refuse(&format!("DELETE {STATUS}"), code, reason);
            write(&api.kube(), &known(1), &mut job("b", "2", AT), false)
                .await
                .expect("written");
            assert_eq!((owner(&api), value(&api, 0)), ("u".into(), "2".into()), "{reason}");
        }
    }

    #[tokio::test]
    async fn without_the_right_to_take_it_away_the_garbage_collector_is_waited_for() {
        let api = FakeApi::default();
        left_over(&api).await;
        api.refuse(&format!("DELETE {STATUS}"), 403, "Forbidden");
        let mut job = job("b", "2", AT);
        assert!(write(&api.kube(), &known(1), &mut job, false).await.is_err());
        assert_eq!((owner(&api), value(&api, 0)), ("earlier".into(), "1".into()));
        api.remove(STATUS, None);
        write(&api.kube(), &known(1), &mut job, false).await.expect("written");
        assert_eq!((owner(&api), value(&api, 0)), ("u".into(), "2".into()));
    }

    #[tokio::test]
    async fn a_status_of_a_newer_device_than_is_known_stays() {
        let api = FakeApi::default();
        api.put(
            DEVICE,
            json!({"metadata": {"name": "d", "namespace": "ns", "uid": "u"}}),
        );
        write(&api.kube(), &known(1), &mut job("a", "1", AT), false)
            .await
            .expect("written");
        let late = Known {
            uid: "earlier".into(),
            ..known(1)
        };
        write(&api.kube(), &late, &mut job("b", "2", AT), false)
            .await
            .expect("written");
        assert_eq!(
            (owner(&api), value(&api, 0), value(&api, 1)),
            ("u".into(), "1".into(), "2".into())
        );
        assert!(!api.log().contains(&format!("DELETE {STATUS}")));
    }

    #[tokio::test]
    async fn a_status_without_an_owner_is_written_as_it_is() {
        let api = FakeApi::default();
        api.put(
            STATUS,
            json!({"metadata": {"name": "d", "namespace": "ns"}, "status": {"extensions": {"note": "mine"}}}),
        );
        write(&api.kube(), &known(1), &mut job("a", "1", AT), false)
            .await
            .expect("written");
        assert_eq!(value(&api, 0), "1");
        assert_eq!(api.get(STATUS).expect("stored")["status"]["extensions"]["note"], "mine");
    }

    /// A Device in the API, and what the informers know of it.
    fn put_device(api: &FakeApi) -> Known {
        let device = json!({"metadata": {"name": "d", "namespace": "ns"}, "spec": {"nodeName": "n"}});
        let stored = api.put(DEVICE, device);
        let version = stored["metadata"]["resourceVersion"]
            .as_str()
            .and_then(|text| text.parse().ok());
        known(version.expect("a version"))
    }

    fn shown(api: &FakeApi) -> Value {
        api.get(DEVICE).expect("there")["status"]["twins"][0]["reported"]["value"].clone()
    }

    fn old(value: &str, at: i64) -> Job {
        Job {
            of_device: true,
            ..job("a", value, at)
        }
    }

    #[tokio::test]
    async fn the_status_of_the_device_follows_where_it_is_asked_for() {
        let api = FakeApi::default();
        let device = put_device(&api);
        write(&api.kube(), &device, &mut job("a", "0", AT), false)
            .await
            .expect("written");
        assert!(shown(&api).is_null());
        api.refuse(&format!("PATCH {DEVICE}"), 503, "ServiceUnavailable");
        let mut job = old("1", AT + 1);
        assert!(write(&api.kube(), &device, &mut job, false).await.is_err());
        assert!(job.is_behind && shown(&api).is_null());
        write(&api.kube(), &device, &mut job, false).await.expect("written");
        assert_eq!((shown(&api), job.is_behind), ("1".into(), false));
        assert_eq!(api.get(DEVICE).expect("there")["spec"]["nodeName"], "n");
    }

    #[tokio::test]
    async fn a_device_that_is_refused_holds_up_nothing_and_is_tried_with_the_next_value() {
        let api = FakeApi::default();
        let device = put_device(&api);
        api.refuse(&format!("PATCH {DEVICE}"), 403, "Forbidden");
        let mut job = old("1", AT);
        assert!(
            write(&api.kube(), &device, &mut job, false)
                .await
                .expect("written")
                .merged
                .changed
        );
        assert_eq!((value(&api, 0), job.is_behind), ("1".into(), true));
        let mut next = Job {
            is_behind: true,
            ..old("1", AT)
        };
        write(&api.kube(), &device, &mut next, false).await.expect("written");
        assert_eq!((shown(&api), next.is_behind), ("1".into(), false));
    }

    #[tokio::test]
    async fn the_device_never_goes_back_to_what_another_cloudcore_has_overtaken() {
        let api = FakeApi::default();
        let device = put_device(&api);
        write(&api.kube(), &device, &mut old("2", AT + 1), false)
            .await
            .expect("written");
        // This one wrote an older value before, and comes to the Device only now.
        let mut late = Job {
            is_behind: true,
            ..old("1", AT)
        };
        write(&api.kube(), &device, &mut late, false).await.expect("settled");
        assert_eq!((shown(&api), late.is_behind), ("2".into(), false));
    }
}
