//! Clients made for KubeEdge before v1.23, which look for reported values in the Device itself. Go's cloudcore has not written them
//! there since.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::super::needs_our_cloud;
use super::kit::{MODEL, Plant};
use crate::api::{elements, text};
use crate::system::Context;
use crate::wait::{self, seconds};

/// As a client of then makes one, with what is desired in its status.
fn old(node: &str) -> String {
    format!(
        r#"apiVersion: devices.kubeedge.io/v1alpha2
kind: Device
metadata: {{name: old}}
spec:
  deviceModelRef: {{name: {MODEL}}}
  nodeSelector: {{nodeSelectorTerms: [{{matchExpressions: [{{key: "", operator: In, values: [{node}]}}]}}]}}
  protocol: {{customizedProtocol: {{protocolName: virtual, configData: {{bus: 1}}}}}}
  propertyVisitors:
  - {{propertyName: "n", collectCycle: 1000, reportCycle: 1000, customizedProtocol: {{protocolName: virtual, configData: {{register: 2}}}}}}
status: {{twins: [{{propertyName: "n", desired: {{value: "30"}}}}]}}
"#
    )
}

/// Without a hand: values of a Device of v1alpha2, and of one that a cloud of v1.22 left with values, are in the Device; one of v1beta1
/// costs no second write. With `statusOfDevice: true` values are in every Device.
pub(super) fn old_clients(context: &mut Context) -> Result<()> {
    needs_our_cloud(context, "values in the Device beside those in its DeviceStatus")?;
    let mut plant = Plant::new(context, "old", &["n"])?;
    // An API server that was told of the webhook just now may not ask it yet, and what one that is gone told it stands until that one was
    // silent for some looks, 10 s apart.
    wait::quietly("v1alpha2 is served", seconds(90), || {
        let manifest = old(plant.system.edge.name());
        plant.system.cluster.apply(&plant.namespace, &manifest).map(Some)
    })?;
    plant.create("new", &[("n", "30")])?;
    plant.create("left", &[("n", "30")])?;
    let stale = json!({"status": {"twins": [{"propertyName": "n", "reported": {"value": "stale"}}]}});
    plant.system.api().patch(&plant.path("devices", "left"), &stale)?;
    let before = version(&plant, "new")?;
    for name in ["old", "left", "new"] {
        plant.until_known(name)?;
        plant.prime(name, &[("n", "1")])?;
        plant.report(name, "two", &[("n", "2")], plant.sides.limit())?;
    }
    until_seen(&plant, "v1alpha2: the value in kubectl's Device", "old", "2")?;
    let device = kubectl(&plant, "v1alpha2", "old")?;
    ensure!(
        text(&device, "/status/twins/0/desired/value") == "30",
        "what is desired: {device}"
    );
    until_seen(&plant, "left by v1.22: the value in kubectl's Device", "left", "2")?;
    let device = kubectl(&plant, "v1beta1", "left")?;
    ensure!(text(&device, "/status/twins/0/reported/value") == "2", "{device}");
    ensure!(version(&plant, "new")? == before, "a Device of v1beta1 was written");

    restart_cloud(&mut plant, "statusOfDevice: true")?;
    let outcome = wait::until("statusOfDevice: the value in kubectl's Device", seconds(60), || {
        // A Go edge drops what it is told while it has no link.
        plant.report("new", "three", &[("n", "3")], seconds(10))?;
        seen(&plant, "new", "3").map(Some)
    });
    restart_cloud(&mut plant, "")?;
    outcome?;
    plant.system.node_ready(seconds(120))?;
    plant.clean()
}

/// Restarts cloudcore with these keys of `deviceController`.
pub(super) fn restart_cloud(plant: &mut Plant<'_>, keys: &str) -> Result<()> {
    let cloud = &mut plant.system.cloud;
    cloud.set_device_keys(keys);
    cloud.stop()?;
    cloud.start()
}

fn version(plant: &Plant<'_>, name: &str) -> Result<String> {
    let device = plant.system.api().must(&plant.path("devices", name))?;
    Ok(text(&device, "/metadata/resourceVersion").to_owned())
}

fn kubectl(plant: &Plant<'_>, version: &str, name: &str) -> Result<Value> {
    let resource = format!("devices.{version}.devices.kubeedge.io/{name}");
    let get = ["get", "-n", &plant.namespace, &resource, "-o", "json"];
    Ok(serde_json::from_str(&plant.system.cluster.kubectl(&get)?)?)
}

/// Whether a client of v1alpha2 sees this value.
fn seen(plant: &Plant<'_>, name: &str, wanted: &str) -> Result<()> {
    let device = kubectl(plant, "v1alpha2", name)?;
    let twin = elements(&device, "/status/twins").find(|twin| text(twin, "/propertyName") == "n");
    let value = twin.map_or("", |twin| text(twin, "/reported/value"));
    ensure!(value == wanted, "{name} shows {value:?}");
    Ok(())
}

fn until_seen(plant: &Plant<'_>, what: &str, name: &str, wanted: &str) -> Result<()> {
    wait::until(what, plant.sides.limit(), || seen(plant, name, wanted).map(Some))
}
