//! Logs and exec by way of the redirect rules, where nobody touches anything: an edge that has just come, and an API server on a
//! host of its own with the manager of rules in a pod beside it.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::account::{CLOUD_NODE, import_image, with_server};
use super::{Entry, bare};
use crate::api::{self, condition, text};
use crate::cloud::REDIRECTS;
use crate::cluster::ControlPlane;
use crate::edge::{EdgeHost, Wire};
use crate::process;
use crate::settings::{Settings, is_ours, program};
use crate::system::{Context, Skip, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[
    ("reach_fresh_edges", false, fresh_edges),
    ("reach_by_daemonset", false, by_daemonset),
];

/// A fresh edge is to have logs and exec within 5 s of being Ready.
const REACHED: u64 = 50;
const SAYS: &str = r#"    command: [sh, -c, "trap 'exit 0' TERM; echo hello; sleep 1000000 & wait"]"#;

/// A pod on a node, as soon as there is a way to say so.
pub(super) fn start_pod(system: &System, name: &str, node: &str) -> Result<String> {
    let namespace = system.namespace(name)?;
    system.cluster.apply(&namespace, &bare("main", node, "", SAYS))?;
    Ok(namespace)
}

/// What cloudcore logs when its trial came by a redirect rule.
const BY_RULES: &str = "the API server reaches edges by redirect rules";

/// Waits until cloudcore's log has a text in what was added since it had that length.
fn until_said(system: &System, before: usize, what: &str, text: &str) -> Result<()> {
    wait::until(what, seconds(120), || {
        let log = system.cloud.log();
        Ok(log.get(before..).is_some_and(|new| new.contains(text)).then_some(()))
    })
}

/// Waits until kubectl gets the log of the pod and runs a command in it.
pub(super) fn until_reached(system: &System, what: &str, namespace: &str) -> Result<()> {
    wait::until(what, seconds(REACHED), || {
        let logs = system.cluster.kubectl(&["logs", "-n", namespace, "main"])?;
        ensure!(logs == "hello\n", "{logs:?}");
        let said = system
            .cluster
            .kubectl(&["exec", "-n", namespace, "main", "--", "hostname"])?;
        ensure!(said == "main\n", "{said:?}");
        Ok(Some(()))
    })
}

/// Edges with addresses that no certificate and no rule has seen before.
fn fresh_edges(context: &mut Context) -> Result<()> {
    let (settings, run) = (context.settings.clone(), context.folder().to_owned());
    let ours = is_ours(&program(&settings.cloud, "cloudcore")?);
    let system = context.system()?;
    if ours {
        until_said(system, 0, "cloudcore says that it works", BY_RULES)?;
    }
    let first = fresh_edge(system, &settings, &run, "fresh-0")?;
    // The first one's host is there still: this address is another.
    drop(fresh_edge(system, &settings, &run, "fresh-1")?);
    drop(first);
    system.node_ready(seconds(60))
}

/// An edge comes, and nobody does anything for it: logs and exec work soon after it is Ready. Its edgecore is stopped then; its host
/// keeps the address until it is dropped.
pub(super) fn fresh_edge(system: &mut System, settings: &Settings, run: &Path, name: &str) -> Result<EdgeHost> {
    let mut edge = EdgeHost::start(settings, run, name, Wire::Veth)?;
    // The hub's own certificate has the addresses that edges dial; those of edges nobody knows beforehand.
    if system.cloud.advertise(edge.number().cloud_address()) {
        system.cloud.stop()?;
        system.cloud.start()?;
    }
    edge.write_config(&system.cloud.uplink()?)?;
    edge.start_edgecore()?;
    let path = api::node_path(name);
    wait::until("the fresh node is Ready", seconds(90), || {
        let node = system.api().get(&path)?;
        Ok(node.filter(|node| condition(node, "Ready") == "True").map(drop))
    })?;
    let ready = Instant::now();
    let namespace = start_pod(system, name, name)?;
    let reached = until_reached(system, "logs and exec", &namespace);
    println!("    {name}, from Ready on: {:.2} s", ready.elapsed().as_secs_f64());
    system.api().delete(&format!("/api/v1/namespaces/{namespace}"))?;
    wait::quietly("the pod gone", seconds(60), || {
        Ok(system.pods(&namespace)?.is_empty().then_some(()))
    })?;
    edge.stop_edgecore()?;
    system.api().delete(&path)?;
    reached.with_context(|| edge.log_tails().into_iter().map(|(_, tail)| tail).collect::<String>())?;
    Ok(edge)
}

/// The API server is on a host of its own, which is a node too: the DaemonSet's pod makes the rules there, and there are none where
/// cloudcore is. An edge that comes later is reached too. The rules go with the DaemonSet.
fn by_daemonset(context: &mut Context) -> Result<()> {
    let (settings, run) = (context.settings.clone(), context.folder().to_owned());
    if !is_ours(&program(&settings.cloud, "cloudcore")?) {
        return Err(Skip("the manager is a part of our cloudcore".to_owned()).into());
    }
    let plane = ControlPlane {
        apart: true,
        ..ControlPlane::default()
    };
    let system = context.system_with(&plane)?;
    system.cloud.stop()?;
    system.cloud.set_redirects("enable: true, mode: external");
    let before = system.cloud.log().len();
    system.cloud.start()?;
    system.node_ready(seconds(60))?;
    until_said(
        system,
        before,
        "cloudcore says what is missing",
        "04-iptables-manager.yaml",
    )?;
    ensure!(
        !process::call("iptables-save", &["-t", "nat"])?.contains("TUNNEL-PORT"),
        "an external manager is asked for, and cloudcore has rules"
    );
    if system.api().get("/api/v1/namespaces/kubeedge")?.is_none() {
        system.cluster.kubectl(&["create", "namespace", "kubeedge"])?;
    }
    system.cluster.start_node(CLOUD_NODE)?;
    let namespace = start_pod(system, "apart", system.edge.name())?;
    let result = by_pod(system, &settings, &run, &namespace, before);
    if result.is_err()
        && let Ok(said) = system
            .cluster
            .kubectl(&["logs", "-n", "kubeedge", MANAGER, "--tail", "30"])
    {
        println!("----- the manager in its pod\n{said}");
    }
    let removed = remove_manager(system, &settings);
    system.cluster.stop_node(CLOUD_NODE)?;
    system.clean(&namespace)?;
    system.cloud.stop()?;
    system.cloud.set_redirects(REDIRECTS);
    system.cloud.start()?;
    result?;
    removed?;
    system.node_ready(seconds(60))
}

/// The manifest as it is committed, but for the run's port and the API server's address. The pod complains of nothing.
fn by_pod(system: &mut System, settings: &Settings, run: &Path, namespace: &str, before: usize) -> Result<()> {
    import_image(system, settings, run)?;
    let stream = system.cloud.stream();
    let port = stream.rsplit(':').next().unwrap_or_default();
    let manifest = std::fs::read_to_string(settings.root.join(MANIFEST))?;
    let manifest = with_server(&manifest.replace("10003", port), system)?;
    system.cluster.apply("kubeedge", &manifest)?;
    let name = wait::until("the manager's pod Running", seconds(60), || {
        let pods = managers(system)?;
        let states: Vec<_> = pods
            .iter()
            .map(|pod| pod.pointer("/status/containerStatuses"))
            .collect();
        ensure!(pods.iter().any(api::is_ready), "{states:?}");
        Ok(pods.first().map(|pod| api::name(pod).to_owned()))
    })?;
    until_reached(system, "logs and exec by the manager beside the API server", namespace)?;
    until_said(system, before, "cloudcore says that it works", BY_RULES)?;
    drop(fresh_edge(system, settings, run, "fresh-apart")?);
    let pods = managers(system)?;
    ensure!(
        pods.len() == 1 && pods.iter().all(|pod| api::restarts(pod) == 0),
        "more than one pod, or one that was restarted: {pods:?}"
    );
    let log = system.cluster.kubectl(&["logs", "-n", "kubeedge", &name])?;
    ensure!(!log.contains("WARN") && !log.contains("ERROR"), "complaints:\n{log}");
    Ok(())
}

/// The DaemonSet's pods.
fn managers(system: &System) -> Result<Vec<Value>> {
    let mut pods = system.pods("kubeedge")?;
    pods.retain(|pod| text(pod, "/metadata/labels/k8s-app") == "iptables-manager");
    Ok(pods)
}

/// Deletes what is in the manifest of the manager of rules, all at once; its rules go too.
pub(super) fn remove_manager(system: &System, settings: &Settings) -> Result<()> {
    let manifest = settings.root.join(MANIFEST);
    let manifest = manifest.to_string_lossy();
    system
        .cluster
        .kubectl(&["delete", "--ignore-not-found", "-f", &manifest])?;
    let rules = || match system.cluster.host() {
        Some(host) => {
            let netns = format!("--net={}", host.netns_path().display());
            process::call("nsenter", &[&netns, "iptables-save", "-t", "nat"])
        }
        None => process::call("iptables-save", &["-t", "nat"]),
    };
    wait::until("pod and rules gone with the DaemonSet", seconds(60), || {
        ensure!(managers(system)?.is_empty(), "the pod is there");
        let rules = rules()?;
        ensure!(!rules.contains("TUNNEL-PORT"), "rules are left:\n{rules}");
        Ok(Some(()))
    })
}

const MANIFEST: &str = "config/manifests/04-iptables-manager.yaml";
pub(super) const MANAGER: &str = "daemonset/cloud-iptables-manager";
