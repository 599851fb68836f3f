//! Sees to it that each Device with a node has a DeviceStatus (spec 03 §2.1).
//!
//! A missing one holds nothing up: the Device goes to its node, and a report makes the DeviceStatus too. Every cloudcore tries; that it
//! exists already is success.

use std::time::Duration;

use common::{Backoff, Tasks, chain};
use futures::{StreamExt, stream};
use proto::Uid;
use proto::device::{DeviceId, DeviceStatus};
use tracing::{debug, warn};

use super::metrics::Metrics;
use crate::informers::devices::Devices;
use crate::kubernetes::{ApiError, DEVICE_STATUSES, Kube};

pub(super) fn start(devices: &Devices, kube: &Kube, metrics: &Metrics, tasks: &Tasks) {
    let (devices, kube, metrics) = (devices.clone(), kube.clone(), metrics.clone());
    tasks.spawn("device statuses", async move {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        loop {
            let lacking = devices.lacking().await;
            let outcomes: Vec<_> = stream::iter(lacking)
                .map(|(device, uid)| {
                    let kube = &kube;
                    async move { (create(kube, &device, &uid).await, device) }
                })
                .buffer_unordered(AT_A_TIME)
                .collect()
                .await;
            let mut failed = None;
            for (outcome, device) in outcomes {
                match outcome {
                    Ok(()) => metrics.write("created"),
                    Err(error) => {
                        devices.still_lacks(&device);
                        failed = Some((device, error));
                    }
                }
            }
            let Some((device, error)) = failed else {
                backoff.reset();
                continue;
            };
            metrics.write("failed");
            let (first, delay) = (backoff.failures() == 0, backoff.next_delay());
            if first {
                warn!(%device, ?delay, error = %chain(&error), "cannot make the DeviceStatus of a device, trying again; it needs the right to create devicestatuses");
            } else {
                debug!(%device, ?delay, error = %chain(&error), "cannot make the DeviceStatus of a device");
            }
            tokio::time::sleep(delay).await;
        }
    });
}

async fn create(kube: &Kube, device: &DeviceId, uid: &Uid) -> Result<(), ApiError> {
    let object = DeviceStatus::default().object(device, uid);
    match kube.create(&DEVICE_STATUSES, &device.namespace, &object).await {
        // A namespace under deletion takes no new objects. Its Devices go with it, perhaps a moment after their DeviceStatuses: nothing to
        // repair.
        Err(error) if !error.is_already_exists() && !error.is_namespace_terminating() => Err(error),
        _ => Ok(()),
    }
}

/// Requests at a time.
const AT_A_TIME: usize = 4;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kubernetes::fake::FakeApi;

    #[tokio::test]
    async fn a_namespace_that_is_deleted_needs_none() {
        let api = FakeApi::default();
        let device = DeviceId {
            namespace: "ns".into(),
            name: "d".into(),
        };
        let forbidden = |details| {
            let message = "devicestatuses.devices.kubeedge.io \"d\" is forbidden";
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
                "reason": "Forbidden", "details": details, "code": 403})
        };
        let cause = json!({"reason": "NamespaceTerminating", "message": "namespace ns is being terminated", "field": "metadata.namespace"});
        api.force(Some((403, forbidden(json!({"name": "d", "causes": [cause]})))));
        create(&api.kube(), &device, &"u".into())
            .await
            .expect("nothing to make");
        api.force(Some((403, forbidden(json!({"name": "d"})))));
        create(&api.kube(), &device, &"u".into()).await.expect_err("no right");
    }
}
