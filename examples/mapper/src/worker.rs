//! The task of one device.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use common::{Backoff, chain};
use proto::dmi::pb;
use tokio::time::Instant;
use tonic::Status;
use tracing::{debug, info, warn};

use crate::device::{Device, Property};
use crate::plan::{Plan, Step};
use crate::{Driver, Failure, Protocol};

/// What edgecore is told.
pub(crate) trait Reports: Clone + Send + Sync + 'static {
    fn values(&self, report: pb::ReportDeviceStatusRequest) -> impl Future<Output = Result<(), Status>> + Send;
    fn state(&self, report: pb::ReportDeviceStatesRequest) -> impl Future<Output = Result<(), Status>> + Send;
}

/// Serves a device until it is dropped.
pub(crate) async fn serve<P: Protocol, R: Reports>(protocol: Arc<P>, device: Device, reports: R) {
    let (namespace, name) = (&device.namespace, &device.name);
    let mut driver = match protocol.driver(&device) {
        Ok(driver) => driver,
        Err(error) => {
            warn!(%namespace, %name, %error, "the device's configuration cannot be used: it waits for another");
            state(&device, &reports, "unknown").await;
            return;
        }
    };
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
    let mut said = false;
    loop {
        let failure = match driver.connect().await {
            Ok(()) => {
                info!(%namespace, %name, "connected");
                (said, backoff) = (false, Backoff::new(Duration::from_millis(500), Duration::from_secs(10)));
                state(&device, &reports, "online").await;
                work(&device, &mut driver, &reports).await
            }
            Err(failure) => failure,
        };
        if !std::mem::replace(&mut said, true) {
            warn!(%namespace, %name, error = chain(&failure), "the device cannot be reached: dialled until it answers");
            state(&device, &reports, "offline").await;
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Works with a device until it is lost.
async fn work<D: Driver, R: Reports>(device: &Device, driver: &mut D, reports: &R) -> Failure {
    let mut plan = Plan::new(device, Instant::now());
    loop {
        let done = match plan.next(Instant::now()) {
            Step::Write(index) => write(device, driver, &mut plan, index).await,
            Step::Read(indices) => read(device, driver, &mut plan, indices, reports).await,
            Step::Wait(until) => {
                tokio::time::sleep_until(until).await;
                Ok(())
            }
        };
        if let Err(failure) = done {
            return failure;
        }
    }
}

async fn write<D: Driver>(device: &Device, driver: &mut D, plan: &mut Plan, index: usize) -> Result<(), Failure> {
    let Some((property, value)) = device
        .properties
        .get(index)
        .and_then(|one| Some((one, one.desired.as_ref()?)))
    else {
        return Ok(());
    };
    let done = match property.refusal(value) {
        Some(reason) => Err(Failure::Refused(reason)),
        None => driver.write(property, value).await,
    };
    match done {
        Err(failure @ Failure::Lost(_)) => return Err(failure),
        Err(Failure::Refused(reason)) => {
            warn!(namespace = %device.namespace, name = %device.name, property = %property.name, value, reason, "the desired value is refused");
            plan.written(index, false, Instant::now());
        }
        Ok(()) => {
            info!(namespace = %device.namespace, name = %device.name, property = %property.name, value, "the desired value is written");
            plan.written(index, true, Instant::now());
        }
    }
    Ok(())
}

/// Reads and reports in one call what is new. What edgecore did not take is news again at the next reading.
async fn read<D: Driver, R: Reports>(
    device: &Device,
    driver: &mut D,
    plan: &mut Plan,
    indices: Vec<usize>,
    reports: &R,
) -> Result<(), Failure> {
    let mut news = Vec::new();
    for index in indices {
        let Some(property) = device.properties.get(index) else {
            continue;
        };
        match driver.read(property).await {
            Ok(value) if property.to_cloud && plan.is_news(index, &value, Instant::now()) => {
                news.push((index, property, value));
            }
            Ok(_) => {}
            Err(Failure::Refused(reason)) => {
                debug!(namespace = %device.namespace, name = %device.name, property = %property.name, reason, "cannot be read");
            }
            Err(lost) => return Err(lost),
        }
        plan.read(index, Instant::now());
    }
    if news.is_empty() {
        return Ok(());
    }
    let twins = news.iter().map(|(_, property, value)| twin(property, value));
    let report = pb::ReportDeviceStatusRequest {
        device_name: device.name.clone(),
        device_namespace: device.namespace.clone(),
        reported_device: Some(pb::DeviceStatus {
            twins: twins.collect(),
            ..pb::DeviceStatus::default()
        }),
    };
    match reports.values(report).await {
        Ok(()) => {
            for (index, _, value) in news {
                plan.reported(index, value, Instant::now());
            }
        }
        Err(error) => debug!(namespace = %device.namespace, name = %device.name, %error, "values were not taken"),
    }
    Ok(())
}

fn twin(property: &Property, value: &str) -> pb::Twin {
    let now = jiff::Timestamp::now().as_millisecond().to_string();
    let text = |value: &str| pb::TwinProperty {
        value: value.to_owned(),
        metadata: [
            ("timestamp".to_owned(), now.clone()),
            ("type".to_owned(), property.twin_type().to_owned()),
        ]
        .into(),
    };
    pb::Twin {
        property_name: property.name.clone(),
        // Go's edgecore ends when this is absent.
        observed_desired: Some(text(property.desired.as_deref().unwrap_or_default())),
        reported: Some(text(value)),
    }
}

async fn state<R: Reports>(device: &Device, reports: &R, state: &str) {
    let report = pb::ReportDeviceStatesRequest {
        device_name: device.name.clone(),
        device_namespace: device.namespace.clone(),
        state: state.to_owned(),
    };
    if let Err(error) = reports.state(report).await {
        debug!(namespace = %device.namespace, name = %device.name, state, %error, "the state was not taken");
    }
}
