//! `e2e demo`: a whole system to look at, which stays until `--down`.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::api::{self, text};
use crate::cluster::{Cluster, ControlPlane};
use crate::edge::Wire;
use crate::mqtt::INTERNAL;
use crate::process;
use crate::run::{self, Run};
use crate::scenarios::web;
use crate::settings::Settings;
use crate::system::System;
use crate::wait::{self, seconds};

/// The name of its run.
pub(crate) const NAME: &str = "demo";
const NODE: &str = "edge-1";
const NAMESPACE: &str = "default";
/// What the demo makes in a cluster that is not its own, to be removed with it.
const WORKLOAD: &str = "hello-edge";
/// Its device, and the device's model.
const DEVICE: &str = "thermometer-1";
const MODEL: &str = "thermometer";
/// What the device reports.
const VALUE: &str = "21.5";

/// Starts the demo, or says that it runs.
pub fn up(settings: &Settings, kubeconfig: Option<&Path>) -> Result<()> {
    let (mut run, exists) = Run::named(settings, NAME)?;
    if exists {
        println!("The demo runs already.");
        let file = std::fs::read_to_string(run.folder().join("kubeconfig")).unwrap_or_default();
        hints(settings, file.trim());
        return Ok(());
    }
    let control_plane = kubeconfig.map_or("a control plane, ", |_| "");
    println!("Starting {control_plane}cloudcore and an edge; about half a minute.");
    let folder = run.folder().to_owned();
    let cluster = match kubeconfig {
        Some(file) => Cluster::existing(settings, file)?,
        None => {
            Cluster::start(settings, &folder.join("cluster"), &ControlPlane::default()).context("the control plane")?
        }
    };
    let config = cluster.kubeconfig().display().to_string();
    std::fs::write(folder.join("kubeconfig"), &config)?;
    let mut system = System::with_cluster(settings, &folder, Wire::Veth, cluster, NODE)?;
    system.cluster.apply(NAMESPACE, &web(WORKLOAD, 1))?;
    let pods = format!("{}?labelSelector=app%3D{WORKLOAD}", api::pods_path(NAMESPACE));
    let address = wait::until("Deployment Running", seconds(90), || {
        // The Deployment's own count too: it is what the user sees next.
        let deployment = system
            .api()
            .must(&format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{WORKLOAD}"))?;
        if api::number(&deployment, "/status/availableReplicas") < 1 {
            return Ok(None);
        }
        let pods = system.api().list(&pods)?;
        Ok(pods
            .iter()
            .find(|pod| api::is_ready(pod))
            .map(|pod| text(pod, "/status/podIP").to_owned()))
    })?;
    let url = format!("http://{address}:8080/page");
    let page = system.edge.fetch(&url)?;
    ensure!(page.contains("hello"), "{url} is {page:?}");
    println!(
        "\n{}",
        system
            .cluster
            .kubectl(&["get", "node,deployment,pod", "-o", "wide"])?
            .trim_end()
    );
    println!("\nThe pod's page, {url}, says: {}", page.trim_end());
    show_device(&system)?;
    let netns = system.edge.number().netns();
    system.edge.keep();
    system.cloud.keep();
    run.keep()?;
    hints(settings, &config);
    println!("  nsenter --net=/run/netns/{netns} curl -s {url}");
    println!(
        "  nsenter --net=/run/netns/{netns} mosquitto_pub -p {INTERNAL} -t '{}' -m '{}'",
        topic(),
        payload("25")
    );
    println!(
        "  tail -f {0}/edges/{NODE}/edgecore.log {0}/cloud/cloudcore.log",
        folder.display()
    );
    Ok(())
}

/// Makes a device, reports a value as a mapper on the edge does, and prints what the API says of it.
fn show_device(system: &System) -> Result<()> {
    system.cluster.apply(NAMESPACE, &device())?;
    let path = format!("/apis/devices.kubeedge.io/v1beta1/namespaces/{NAMESPACE}/devicestatuses/{DEVICE}");
    let shown = || {
        let status = system.api().get(&path)?.unwrap_or_default();
        let shown = api::elements(&status, "/status/twins").any(|twin| text(twin, "/reported/value") == VALUE);
        Ok(shown.then_some(()))
    };
    wait::until(
        "a value that a program on the edge published is in the API",
        seconds(60),
        || {
            // Until the edge knows the device, nobody takes it.
            let mut publish = system.edge.command("mosquitto_pub");
            let port = INTERNAL.to_string();
            process::run(publish.args(["-p", &port, "-q", "1", "-t", &topic(), "-m", &payload(VALUE)]))?;
            wait::quietly("the value", seconds(2), shown).map(Some)
        },
    )?;
    let columns = "custom-columns=DEVICE:.metadata.name,PROPERTY:.status.twins[*].propertyName,\
                   REPORTED:.status.twins[*].reported.value,TYPE:.status.twins[*].reported.metadata.type";
    let table = system
        .cluster
        .kubectl(&["get", "devicestatus", "-n", NAMESPACE, "-o", columns])?;
    println!("\n{}", table.trim_end());
    Ok(())
}

/// A model and a device of it on the edge.
fn device() -> String {
    format!(
        r#"apiVersion: devices.kubeedge.io/v1beta1
kind: DeviceModel
metadata: {{name: {MODEL}}}
spec:
  protocol: virtual
  properties:
  - {{name: temperature, type: FLOAT, accessMode: ReadWrite, unit: degree celsius}}
---
apiVersion: devices.kubeedge.io/v1beta1
kind: Device
metadata: {{name: {DEVICE}}}
spec:
  deviceModelRef: {{name: {MODEL}}}
  nodeName: {NODE}
  protocol: {{protocolName: virtual, configData: {{}}}}
  properties:
  - name: temperature
    desired: {{value: "20"}}
    reportToCloud: true
    visitors: {{protocolName: virtual, configData: {{}}}}
"#
    )
}

fn topic() -> String {
    format!("$hw/events/device/{NAMESPACE}/{DEVICE}/twin/update")
}

fn payload(value: &str) -> String {
    format!(r#"{{"twin":{{"temperature":{{"actual":{{"value":"{value}"}},"metadata":{{"type":"float"}}}}}}}}"#)
}

/// Stops it and removes everything.
pub fn down(settings: &Settings) -> Result<()> {
    let folder = run::base().join(NAME);
    if !folder.exists() {
        println!("The demo does not run.");
        return Ok(());
    }
    let config = std::fs::read_to_string(folder.join("kubeconfig")).unwrap_or_default();
    if !folder.join("cluster/pki").exists() && Path::new(config.trim()).is_file() {
        // Somebody's cluster: the demo's own objects go, the pods while there is an edge that ends them.
        let cluster = Cluster::existing(settings, Path::new(config.trim()))?;
        let delete = ["-n", NAMESPACE, "delete", "--ignore-not-found"];
        let workload = ["--cascade=foreground", "--timeout=60s", "deployment", WORKLOAD];
        if let Err(error) = cluster.kubectl(&[&delete[..], &workload[..]].concat()) {
            println!("The pods of {WORKLOAD} are not gone, Kubernetes removes them with their node: {error:#}");
        }
        cluster.kubectl(&[&delete[..], &["configmap,secret", WORKLOAD]].concat())?;
        cluster.kubectl(&[&delete[..], &["device", DEVICE]].concat())?;
        cluster.kubectl(&[&delete[..], &["devicemodel", MODEL]].concat())?;
        cluster.kubectl(&["delete", "--ignore-not-found", "node", NODE])?;
        println!("Left in the cluster, as others may need them: the namespace kubeedge and KubeEdge's CRDs.");
    }
    run::remove(&folder, settings)?;
    println!("The demo is gone.");
    Ok(())
}

fn hints(settings: &Settings, kubeconfig: &str) {
    let kubectl = settings.kubectl_name();
    println!("\nTo look at it:\n");
    println!("export KUBECONFIG={kubeconfig}");
    println!("  {kubectl} get node -o wide");
    println!("  {kubectl} get pod -A -o wide");
    println!("  {kubectl} get device,devicemodel");
    println!("  {kubectl} get devicestatus {DEVICE} -o yaml");
    println!("  {kubectl} scale deployment/{WORKLOAD} --replicas=3");
    println!("  e2e/demo --down        stops it and removes everything");
}
