//! cloudcore with no more rights than its manifests give it: as a program under its service account, and as their Deployment
//! on an ordinary node.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rumqttc::QoS;
use serde_json::json;

use super::devices::kit::{Plant, Sides, owned, rows, set_external, update};
use super::reach::{MANAGER, remove_manager, start_pod, until_reached};
use super::stream_access::until_status;
use super::volumes::check_token;
use super::{Entry, bare, needs_our_cloud};
use crate::api::{self, elements, text};
use crate::edge::{EdgeHost, Uplink, Wire};
use crate::mqtt::{Client, INTERNAL};
use crate::process;
use crate::settings::{Settings, program};
use crate::system::{Context, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[
    ("account_rights", false, rights),
    ("account_serves_edges", false, account),
    ("deployment_serves_edges", false, deployment),
];

/// The node that the manifests' pods run on.
pub(super) const CLOUD_NODE: &str = "cloud-1";
const CRD: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/devices.devices.kubeedge.io";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/kubeedge/deployments/cloudcore";

/// What the API server lets the account do is what is committed, and nothing in it is too much.
fn rights(context: &mut Context) -> Result<()> {
    let manifests = context.settings.root.join("config/manifests");
    let kubectl = context.settings.kubectl();
    let system = context.system()?;
    prepare(system, &manifests)?;
    let committed = std::fs::read_to_string(manifests.join("rbac.can-i.txt"))?;
    let mut command = Command::new(manifests.join("rbac.sh"));
    command.arg(kubectl).arg("--kubeconfig");
    command.arg(system.cluster.kubeconfig());
    let real = process::run(&mut command)?;
    ensure!(
        real == committed,
        "rbac.can-i.txt is not what the API server says:\n{real}"
    );
    ensure!(!real.contains('*'), "the account may do anything to something");
    for (namespace, line) in lines(&real) {
        let (resource, rest) = line.split_once(' ').context("a line of the list")?;
        let verbs = rest
            .rsplit_once('[')
            .map_or("", |(_, verbs)| verbs.trim_end_matches(']'));
        let writes = ["create", "update", "patch", "delete"];
        ensure!(
            resource != "secrets" || namespace == "kubeedge" || !verbs.split(' ').any(|verb| writes.contains(&verb)),
            "the account writes secrets in {namespace}: {line}"
        );
    }
    Ok(())
}

fn lines(list: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut namespace = "";
    list.lines().filter_map(move |line| {
        if let Some(name) = line.strip_prefix("# namespace ") {
            namespace = name;
            return None;
        }
        Some((namespace, line))
    })
}

/// An edge registers with a cloudcore that is its service account and runs a pod with all that a pod may name; logs, exec and a device
/// work, also one that moves from one edge to another; nothing was forbidden on the way. Server certificate and token are made by the
/// account too.
fn account(context: &mut Context) -> Result<()> {
    needs_our_cloud(context, "running from these manifests")?;
    let manifests = context.settings.root.join("config/manifests");
    let (settings, run) = (context.settings.clone(), context.folder().to_owned());
    let sides = Sides::of(&settings)?;
    let system = context.system()?;
    prepare(system, &manifests)?;
    let admin = system.cluster.kubeconfig().to_owned();
    let own = run.join("account.kubeconfig");
    std::fs::copy(&admin, &own)?;
    let token = system
        .cluster
        .kubectl(&["create", "token", "cloudcore", "-n", "kubeedge", "--duration", "2h"])?;
    let own_text = own.to_string_lossy().into_owned();
    for change in [
        ["set-credentials", "account", "--token", token.trim()].as_slice(),
        &["set-context", "--current", "--user", "account"],
    ] {
        let mut command = Command::new(settings.kubectl());
        command.args(["--kubeconfig", &own_text, "config"]);
        // The command line holds the token: a failure must not print it.
        ensure!(
            command.args(change).output()?.status.success(),
            "kubectl config {}",
            change[0]
        );
    }
    system.cloud.stop()?;
    for made_again in ["cloudcoresecret", "tokensecret"] {
        system
            .api()
            .delete(&format!("/api/v1/namespaces/kubeedge/secrets/{made_again}"))?;
    }
    let log = system.cloud.folder().join("cloudcore.log");
    let before = std::fs::read_to_string(&log)?.len();
    system.cloud.set_kubeconfig(&own);
    let result = (|| {
        let edge = EdgeHost::start(&settings, &run, "account-1", Wire::Veth)?;
        system.cloud.advertise(edge.number().cloud_address());
        system.cloud.start()?;
        let uplink = system.cloud.uplink()?;
        let edge = serve(system, edge, &uplink)?;
        wait::until("the edge that was there before is back", seconds(60), renewal(system)?)?;
        moved(system, &edge, sides)?;
        leave(system, edge)?;
        streams(system, sides)?;
        device(system, sides)
    })();
    system.cloud.set_kubeconfig(&admin);
    system.cloud.stop()?;
    system.cloud.start()?;
    result?;
    let said = std::fs::read_to_string(&log)?;
    let forbidden: Vec<&str> = said
        .get(before..)
        .unwrap_or_default()
        .lines()
        .filter(|line| line.to_lowercase().contains("forbidden"))
        .collect();
    ensure!(
        forbidden.is_empty(),
        "cloudcore lacks rights:\n{}",
        forbidden.join("\n")
    );
    system.node_ready(seconds(60))
}

/// The committed Deployment on an ordinary node serves an edge, converts devices for an API server that finds it by its Service, and
/// logs and exec work by the committed DaemonSet that keeps the redirect rules. Changed is what the machine needs: the ports are the
/// run's, the folder is the run's, and without kube-proxy the API server has another
/// address.
fn deployment(context: &mut Context) -> Result<()> {
    needs_our_cloud(context, "running from these manifests")?;
    let manifests = context.settings.root.join("config/manifests");
    let (settings, run) = (context.settings.clone(), context.folder().to_owned());
    let sides = Sides::of(&settings)?;
    let system = context.system()?;
    prepare(system, &manifests)?;
    let uplink = system.cloud.uplink()?;
    system.cluster.start_node(CLOUD_NODE)?;
    system.cloud.stop()?;
    let result = (|| {
        import_image(system, &settings, &run)?;
        let edge = EdgeHost::start(&settings, &run, "deployed-1", Wire::Veth)?;
        for file in [
            "02-ha-configmap.yaml",
            "03-ha-deployment.yaml",
            "04-iptables-manager.yaml",
        ] {
            let manifest = std::fs::read_to_string(manifests.join(file))?;
            let addresses = [edge.number().cloud_address(), system.edge.number().cloud_address()];
            let manifest = fit(&manifest, system, &uplink, &addresses, &run.join("cloud-node"))?;
            system.cluster.apply("kubeedge", &manifest)?;
        }
        wait::until("cloudcore's pod Ready", seconds(60), || {
            Ok(cloudcores(system)?.iter().any(api::is_ready).then_some(()))
        })?;
        converts(system)?;
        let uplink = system.cloud.uplink()?;
        leave(system, serve(system, edge, &uplink)?)?;
        wait::until("the edge that was there before is back", seconds(60), renewal(system)?)?;
        streams(system, sides)?;
        let pods = cloudcores(system)?;
        let on_node = pods.iter().any(|pod| text(pod, "/spec/nodeName") == CLOUD_NODE);
        ensure!(on_node, "cloudcore does not run on {CLOUD_NODE}: {pods:?}");
        ensure!(
            pods.iter().all(|pod| api::restarts(pod) == 0),
            "cloudcore was restarted"
        );
        Ok(())
    })();
    if result.is_err() {
        for pod in ["deployment/cloudcore", MANAGER] {
            if let Ok(said) = system.cluster.kubectl(&["logs", "-n", "kubeedge", pod, "--tail", "30"]) {
                println!("----- {pod}\n{said}");
            }
        }
    }
    let removed = remove_manager(system, &settings);
    system.api().delete(DEPLOYMENT)?;
    for kind in ["services", "configmaps"] {
        system
            .api()
            .delete(&format!("/api/v1/namespaces/kubeedge/{kind}/cloudcore"))?;
    }
    let gone = wait::until("cloudcore's pod gone", seconds(60), || {
        Ok(cloudcores(system)?.is_empty().then_some(()))
    });
    system.cluster.stop_node(CLOUD_NODE)?;
    system.cloud.start()?;
    result?;
    removed?;
    gone?;
    system.node_ready(seconds(60))
}

/// Gives the node the image that the manifests name, made as the README says.
pub(super) fn import_image(system: &System, settings: &Settings, run: &Path) -> Result<()> {
    let archive = run.join("cloudcore.tar");
    let mut image = Command::new(settings.script("image"));
    image.arg("--program").arg(program(&settings.cloud, "cloudcore")?);
    image.args(["--iptables", "docker.io/library/cloudcore:latest"]);
    process::run(image.arg(&archive))?;
    system.cluster.import(CLOUD_NODE, &archive)?;
    std::fs::remove_file(&archive)?;
    Ok(())
}

/// A device of today is read in the version of before: the API server asks the pod's webhook, by the Service.
fn converts(system: &System) -> Result<()> {
    const DEVICE: &str = "apiVersion: devices.kubeedge.io/v1beta1\nkind: Device\nmetadata: {name: new}\n\
                          spec: {nodeName: nowhere, properties: [{name: temp, visitors: {protocolName: screen, configData: {line: 3}}}]}\n";
    wait::until("the API server told of the Service", seconds(60), || {
        let crd = system.api().must(CRD)?;
        let client = crd.pointer("/spec/conversion/webhook/clientConfig");
        let client = client.context("no conversion")?;
        let (service, bundle) = (text(client, "/service/name"), text(client, "/caBundle"));
        ensure!(service == "cloudcore" && !bundle.is_empty(), "{client}");
        Ok(Some(()))
    })?;
    let namespace = system.namespace("converted")?;
    system.cluster.apply(&namespace, DEVICE)?;
    let resource = "devices.v1alpha2.devices.kubeedge.io/new";
    // An API server that was told just now may not ask yet.
    let old = wait::until("v1alpha2 by the Service", seconds(20), || {
        let read = ["get", "-n", &namespace, resource, "-o", "json"];
        system.cluster.kubectl(&read).map(Some)
    })?;
    let old: serde_json::Value = serde_json::from_str(&old)?;
    ensure!(
        text(&old, "/apiVersion") == "devices.kubeedge.io/v1alpha2"
            && text(&old, "/spec/propertyVisitors/0/propertyName") == "temp",
        "{old}"
    );
    system.api().delete(&format!(
        "/apis/devices.kubeedge.io/v1beta1/namespaces/{namespace}/devices/new"
    ))?;
    system.api().delete(&format!("/api/v1/namespaces/{namespace}"))
}

/// Who asks for logs and exec is looked up, be it by certificate or by token.
fn streams(system: &System, sides: Sides) -> Result<()> {
    let namespace = start_pod(system, "reached", system.edge.name())?;
    until_reached(system, "logs and exec", &namespace)?;
    if sides.cloud {
        let token = system
            .cluster
            .kubectl(&["create", "token", "-n", &namespace, "default"])?;
        let bearer = format!("Authorization: Bearer {}", token.trim());
        until_status(system, "a token without the right: refused", &["-H", &bearer], "403")?;
    }
    system.clean(&namespace)
}

/// What a device reports is in the API.
fn device(system: &mut System, sides: Sides) -> Result<()> {
    set_external(system, false)?;
    let plant = Plant::on(system, sides, "reported", &["n"], INTERNAL)?;
    plant.create("t1", &[("n", "0")])?;
    plant.until_known("t1")?;
    plant.prime("t1", &[("n", "1")])?;
    plant.clean()
}

/// A Device that is given to another node is there, where its values are taken, and no longer where it was.
fn moved(system: &mut System, other: &EdgeHost, sides: Sides) -> Result<()> {
    if !(sides.cloud && sides.edge) {
        return Ok(());
    }
    set_external(system, false)?;
    let plant = Plant::on(system, sides, "moved", &["n"], INTERNAL)?;
    plant.create("t1", &[("n", "0")])?;
    plant.until_known("t1")?;
    let patch = json!({"spec": {"nodeName": other.name()}});
    plant.system.api().patch(&plant.path("devices", "t1"), &patch)?;
    let query = format!(
        "SELECT id FROM device WHERE id = '{0}/t1' UNION ALL SELECT key FROM meta WHERE key = '{0}/device/t1'",
        plant.namespace
    );
    wait::until("device moved: it is at its new node", sides.limit(), || {
        let there = rows(other, &query)?;
        Ok((there.lines().count() == 2).then_some(()))
    })?;
    wait::until("device moved: it is gone from where it was", sides.limit(), || {
        let left = rows(&plant.system.edge, &query)?;
        let members = plant.members("moved")?;
        ensure!(left.is_empty() && members.is_empty(), "left: {left} {members:?}");
        Ok(Some(()))
    })?;
    let mqtt = Client::connect(other, INTERNAL, &[])?;
    let values = [("n", "7")];
    mqtt.publish(
        &plant.topic("t1", "twin/update"),
        update("moved", &values),
        QoS::AtLeastOnce,
    )?;
    let what = "a value published at the new node: in the API";
    plant.until_reported(what, "t1", &owned(&values), sides.limit())?;
    plant.clean()
}

fn prepare(system: &System, manifests: &Path) -> Result<()> {
    let file = manifests.join("01-ha-prepare.yaml");
    system
        .cluster
        .kubectl(&["apply", "-f", &file.to_string_lossy()])
        .map(drop)
}

fn cloudcores(system: &System) -> Result<Vec<serde_json::Value>> {
    let mut pods = system.pods("kubeedge")?;
    pods.retain(|pod| text(pod, "/metadata/labels/kubeedge") == "cloudcore");
    Ok(pods)
}

/// True once the shared edge has renewed its lease, which only the cloudcore that runs now can have done for it.
fn renewal(system: &System) -> Result<impl FnMut() -> Result<Option<()>> + '_> {
    let path = format!(
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}",
        system.edge.name()
    );
    // An edge of Go is Ready some seconds before it has one.
    let renewed = move || -> Result<Option<String>> {
        let lease = system.api().get(&path)?;
        Ok(lease.map(|lease| text(&lease, "/spec/renewTime").to_owned()))
    };
    let first = renewed()?;
    Ok(move || {
        let now = renewed()?;
        Ok((now.is_some() && now != first).then_some(()))
    })
}

/// A manifest whose container knows the API server by its own address: there is no kube-proxy.
pub(super) fn with_server(manifest: &str, system: &System) -> Result<String> {
    let server = system.cluster.kubectl(&[
        "config",
        "view",
        "--minify",
        "-o",
        "jsonpath={.clusters[0].cluster.server}",
    ])?;
    let (host, port) = server
        .trim_start_matches("https://")
        .rsplit_once(':')
        .with_context(|| format!("the API server's address {server:?}"))?;
    let environment = format!(
        "          env: [{{name: KUBERNETES_SERVICE_HOST, value: \"{host}\"}}, {{name: KUBERNETES_SERVICE_PORT, value: \"{port}\"}}]\n"
    );
    let pull = "          imagePullPolicy: IfNotPresent\n";
    Ok(manifest.replace(pull, &format!("{pull}{environment}")))
}

/// A manifest with the run's ports, addresses and folder.
fn fit(manifest: &str, system: &System, uplink: &Uplink, addresses: &[String], folder: &Path) -> Result<String> {
    let (monitor, advertise) = (system.cloud.monitor(), addresses.join(", "));
    let (websocket, quic, https) = (uplink.websocket, uplink.websocket + 1, uplink.https);
    let (stream, tunnel) = (uplink.stream, uplink.tunnel);
    let manifest = manifest
        .replace("10000", &websocket.to_string())
        .replace("10001", &quic.to_string())
        .replace("10002", &https.to_string())
        .replace("10003", &stream.to_string())
        .replace("10004", &tunnel.to_string())
        .replace("path: /var/lib/kubeedge", &format!("path: {}", folder.display()))
        .replace(
            "      cloudHub:\n",
            &format!("      cloudHub:\n        advertiseAddress: [{advertise}]\n"),
        )
        .replace(
            "    modules:\n",
            &format!(
                "    commonConfig: {{monitorServer: {{bindAddress: \"{monitor}\"}}}}\n    modules:\n      \
                 cloudStream: {{streamPort: {stream}, tunnelPort: {tunnel}}}\n"
            ),
        );
    with_server(&manifest, system)
}

/// The edge registers and runs a pod with a ConfigMap, a Secret and a token of its own, which is removed.
fn serve(system: &System, mut edge: EdgeHost, uplink: &Uplink) -> Result<EdgeHost> {
    const OBJECTS: &str = r#"---
apiVersion: v1
kind: ConfigMap
metadata: {name: page}
data: {page: "hello"}
---
apiVersion: v1
kind: Secret
metadata: {name: password}
stringData: {password: "open sesame"}
"#;
    const VOLUMES: &str =
        "  volumes: [{name: page, configMap: {name: page}}, {name: password, secret: {secretName: password}}]";
    edge.write_config(uplink)?;
    edge.start_edgecore()?;
    let node = api::node_path(edge.name());
    let ready = wait::until("the edge's node Ready", seconds(60), || {
        ensure!(edge.edgecore()?.alive(), "edgecore ended");
        Ok(system
            .api()
            .get(&node)?
            .filter(|node| api::condition(node, "Ready") == "True")
            .map(drop))
    });
    ready.with_context(|| edge.log_tails().into_iter().map(|(_, tail)| tail).collect::<String>())?;
    let namespace = system.namespace("served")?;
    let container = format!(
        "{}\n    volumeMounts: [{{name: page, mountPath: /page}}, {{name: password, mountPath: /password}}]",
        super::IDLE
    );
    let pod = bare("main", edge.name(), VOLUMES, &container);
    system.cluster.apply(&namespace, &format!("{pod}{OBJECTS}"))?;
    system.until_pod("pod Running", (&namespace, "main"), 60, |pod| {
        let running = elements(pod, "/status/containerStatuses").all(|one| one.pointer("/state/running").is_some());
        (api::is_ready(pod) && running).then_some(())
    })?;
    let main = edge.container(&namespace, "main", "main")?;
    let read = |path: &str| edge.exec(&main, &["cat", path]);
    ensure!(read("/page/page")? == "hello", "the ConfigMap is not in the pod");
    ensure!(
        read("/password/password")? == "open sesame",
        "the Secret is not in the pod"
    );
    let token = read("/var/run/secrets/kubernetes.io/serviceaccount/token")?;
    check_token(system, &namespace, token.trim())?;
    system.api().delete(&format!("/api/v1/namespaces/{namespace}"))?;
    wait::until("the pod gone from the API and containerd", seconds(60), || {
        Ok((system.pods(&namespace)?.is_empty() && edge.running()?.is_empty()).then_some(()))
    })?;
    Ok(edge)
}

/// The edge goes for good.
fn leave(system: &System, mut edge: EdgeHost) -> Result<()> {
    edge.stop_edgecore()?;
    system.api().delete(&api::node_path(edge.name()))
}
