//! The versions of devices at a real API server: the schema, the webhook that checks and converts, and what holds without it. Only
//! ours: Go's CRDs lose what they cannot store.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{Entry, needs_our_cloud};
use crate::api::{elements, text};
use crate::process;
use crate::system::{Context, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[("device_versions", false, device_versions)];

const CRD: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/devices.devices.kubeedge.io";
const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/kubeedge-cloudcore";

/// How long what cloudcore does at its next look may take: it looks every 10 s.
const LOOKS: u64 = 100;

/// As KubeEdge's examples for v1alpha2 have it, with what v1beta1 has no place for: an expression without key, `data`, an order of twins
/// of its own.
const OLD: &str = r#"
apiVersion: devices.kubeedge.io/v1alpha2
kind: DeviceModel
metadata: {name: old-model}
spec:
  protocol: modbus
  properties:
  - {name: temp, description: in the room, type: {double: {accessMode: ReadOnly, minimum: -40, maximum: 99.5, unit: C, defaultValue: 20}}}
  - {name: "on", type: {boolean: {accessMode: ReadWrite}}}
---
apiVersion: devices.kubeedge.io/v1alpha2
kind: Device
metadata: {name: old, labels: {model: old-model}}
spec:
  deviceModelRef: {name: old-model}
  nodeSelector: {nodeSelectorTerms: [{matchExpressions: [{key: "", operator: In, values: [nowhere]}]}]}
  protocol: {modbus: {slaveID: 1}, common: {com: {serialPort: /dev/ttyS0, baudRate: 9600, parity: even}, customizedValues: {a: [1, 0.1]}}}
  propertyVisitors:
  - {propertyName: temp, collectCycle: 500, modbus: {register: HoldingRegister, offset: 2, limit: 1, scale: 0.1, isSwap: true}}
  - {propertyName: label, customizedProtocol: {protocolName: screen, configData: {line: 3}}}
  data: {dataTopic: $ke/events/device/+/data/update, dataProperties: [{propertyName: temp, metadata: {unit: C}}]}
status:
  twins:
  - {propertyName: "on", desired: {value: "true", metadata: {type: boolean}}, reported: {value: "false"}}
  - {propertyName: temp, reported: {value: "21", metadata: {timestamp: "1767323045000"}}}
"#;

/// Both kinds in a version, as one list.
fn devices_path(version: &str, namespace: &str, name: &str) -> String {
    format!("/apis/devices.kubeedge.io/{version}/namespaces/{namespace}/devices/{name}")
}

fn device_versions(context: &mut Context) -> Result<()> {
    needs_our_cloud(context, "a conversion of devices without loss")?;
    let system = context.system()?;
    told(system)?;
    let namespace = system.namespace("versions")?;
    refusals(system, &namespace)?;
    both_ways(system, &namespace)?;
    repaired(system)?;
    system.cloud.set_webhook(false);
    system.cloud.stop()?;
    let without = system.cloud.start().and_then(|()| without_webhook(system, &namespace));
    system.cloud.set_webhook(true);
    system.cloud.stop()?;
    system.cloud.start()?;
    without?;
    wait::until("v1alpha2 is back", seconds(LOOKS), || {
        Ok(system
            .api()
            .get(&devices_path("v1alpha2", &namespace, "old"))
            .is_ok()
            .then_some(()))
    })?;
    system.api().delete(&format!("/api/v1/namespaces/{namespace}"))?;
    system.node_ready(seconds(60))
}

/// Cloudcore has told the API server where its webhook is. It takes API servers a moment to use it.
fn told(system: &System) -> Result<()> {
    wait::until("the API server told of the webhook", seconds(LOOKS), || {
        let hooks = system.api().get(HOOKS)?;
        let told = hooks.is_some_and(|hooks| {
            elements(&hooks, "/webhooks").all(|hook| !text(hook, "/clientConfig/caBundle").is_empty())
        });
        Ok((told && !bundle(system)?.is_empty()).then_some(()))
    })
}

fn bundle(system: &System) -> Result<String> {
    let crd = system.api().must(CRD)?;
    Ok(text(&crd, "/spec/conversion/webhook/clientConfig/caBundle").to_owned())
}

fn device(properties: &str) -> String {
    format!(
        "apiVersion: devices.kubeedge.io/v1beta1\nkind: Device\nmetadata: {{name: new}}\nspec: {{nodeName: nowhere, properties: {properties}}}\n"
    )
}

/// What kubectl says on refusing a manifest.
fn refusal(system: &System, namespace: &str, manifest: &str) -> Result<String> {
    let mut command = system.cluster.kubectl_command();
    command.args(["create", "-n", namespace, "-f", "-"]);
    match process::feed(&mut command, manifest) {
        Ok(said) => anyhow::bail!("taken: {said}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

/// The rule of the webhook and those of the schema.
fn refusals(system: &System, namespace: &str) -> Result<()> {
    let model = "apiVersion: devices.kubeedge.io/v1beta1\nkind: DeviceModel\nmetadata: {name: m}\nspec: {properties: [{name: a, type: INTEGER}]}\n";
    let old = "apiVersion: devices.kubeedge.io/v1alpha2\nkind: Device\nmetadata: {name: new}\nspec: {propertyVisitors: [{propertyName: a}, {propertyName: a}]}\n";
    let unique = "property names must be unique.";
    // An API server that was told just now may not ask yet.
    wait::until("a name that is there twice refused", seconds(LOOKS), || {
        let said = refusal(system, namespace, &device("[{name: a}, {name: a}]"));
        if said.is_err() {
            system.api().delete(&devices_path("v1beta1", namespace, "new"))?;
        }
        Ok(said.ok().filter(|said| said.contains(unique)).map(drop))
    })?;
    for (manifest, said) in [
        (
            device("[{name: a, desired: {}}]").as_str(),
            "spec.properties[0].desired.value: Required value",
        ),
        (model, "spec.properties[0].type: Unsupported value: \"INTEGER\""),
        (old, unique),
    ] {
        let given = refusal(system, namespace, manifest)?;
        ensure!(given.contains(said), "{said:?} is not in {given:?}");
    }
    Ok(())
}

/// What is seen of an object but for what the API server and kubectl keep of it.
fn own(mut object: Value) -> Value {
    if let Some(metadata) = object.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.retain(|name, _| matches!(name.as_str(), "name" | "labels"));
    }
    object
}

/// Created in v1alpha2 with kubectl, seen as v1beta1, seen again as it was; changed in each version, seen in the other.
fn both_ways(system: &System, namespace: &str) -> Result<()> {
    let mut command = system.cluster.kubectl_command();
    command.args(["create", "-n", namespace, "-f", "-", "-o", "json", "--dry-run=client"]);
    let written = process::feed(&mut command, OLD)?;
    let written: Vec<Value> = serde_json::Deserializer::from_str(&written)
        .into_iter()
        .collect::<Result<_, _>>()
        .context("kubectl's JSON of what is written")?;
    system.cluster.apply(namespace, OLD)?;
    for (place, (kind, name)) in [("devicemodels", "old-model"), ("devices", "old")]
        .into_iter()
        .enumerate()
    {
        let read = |version: &str| -> Result<Value> {
            let resource = format!("{kind}.{version}.devices.kubeedge.io/{name}");
            let text = system
                .cluster
                .kubectl(&["get", "-n", namespace, &resource, "-o", "json"])?;
            Ok(serde_json::from_str(&text)?)
        };
        let written = own(written.get(place).cloned().context("an object of the manifest")?);
        let seen = own(read("v1alpha2")?);
        ensure!(seen == written, "{kind}: written {written}\nseen {seen}");
        let new = read("v1beta1")?;
        let properties: Vec<&str> = elements(&new, "/spec/properties")
            .map(|one| text(one, "/name"))
            .collect();
        let expected: &[&str] = if kind == "devices" {
            &["temp", "label", "on"]
        } else {
            &["temp", "on"]
        };
        ensure!(properties == expected, "{kind} in v1beta1: {new}");
    }
    let path = |version| devices_path(version, namespace, "old");
    let desired = json!({"spec": {"nodeName": "elsewhere"}});
    system.api().patch(&path("v1beta1"), &desired)?;
    let seen = system.api().must(&path("v1alpha2"))?;
    let node = text(
        &seen,
        "/spec/nodeSelector/nodeSelectorTerms/0/matchExpressions/0/values/0",
    );
    ensure!(node == "elsewhere", "{seen}");
    ensure!(
        text(&seen, "/spec/data/dataTopic") == "$ke/events/device/+/data/update",
        "{seen}"
    );
    let twins = json!({"status": {"twins": [{"propertyName": "on", "desired": {"value": "false"}}]}});
    system.api().patch(&path("v1alpha2"), &twins)?;
    let seen = system.api().must(&path("v1beta1"))?;
    let values: Vec<&str> = elements(&seen, "/spec/properties")
        .map(|one| text(one, "/desired/value"))
        .collect();
    ensure!(values == ["", "", "false"], "{seen}");
    Ok(())
}

/// Somebody breaks the authority: v1alpha2 is refused, and back after cloudcore's next look.
fn repaired(system: &System) -> Result<()> {
    let before = bundle(system)?;
    let broken = json!({"spec": {"conversion": {"webhook": {"clientConfig": {"caBundle": null}}}}});
    system.api().patch(CRD, &broken)?;
    wait::until("the authority is put back", seconds(LOOKS), || {
        Ok((bundle(system)? == before).then_some(()))
    })
}

/// v1beta1 needs no webhook: read, listed, watched, written and created, also what was created in v1alpha2.
fn without_webhook(system: &System, namespace: &str) -> Result<()> {
    let old = devices_path("v1alpha2", namespace, "old");
    wait::until("v1alpha2 refused", seconds(LOOKS), || {
        Ok(system.api().get(&old).is_err().then_some(()))
    })?;
    let path = devices_path("v1beta1", namespace, "old");
    let reported = json!({"status": {"twins": [{"propertyName": "temp", "reported": {"value": "22"}}]}});
    let written = system.api().patch(&path, &reported)?;
    ensure!(text(&written, "/status/twins/0/reported/value") == "22", "{written}");
    system
        .cluster
        .apply(namespace, &device("[{name: a, desired: {value: \"1\"}}]"))?;
    let collection = path.trim_end_matches("/old");
    ensure!(system.api().list(collection)?.len() == 2, "two devices");
    // Its end is that of its time, in which it may not come to watch.
    wait::until("watched", seconds(60), || {
        let mut command = system.cluster.kubectl_command();
        command.args([
            "get",
            "devices",
            "-n",
            namespace,
            "--watch",
            "--request-timeout",
            "2s",
            "-o",
            "name",
        ]);
        let watched = String::from_utf8_lossy(&command.output()?.stdout).into_owned();
        ensure!(watched.contains("devices.kubeedge.io/new"), "{watched}");
        Ok(Some(()))
    })?;
    system.api().delete(&devices_path("v1beta1", namespace, "new"))
}
