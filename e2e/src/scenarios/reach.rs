//! Logs and exec by way of the redirect rules, where nobody touches anything: an edge that has just come, and an API server on a
//! host of its own with the manager of rules as a program beside it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::{Entry, bare};
use crate::api::{self, condition};
use crate::cloud::REDIRECTS;
use crate::cluster::ControlPlane;
use crate::edge::{EdgeHost, Wire};
use crate::process::{self, Daemon};
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

/// The API server is in a network namespace of its own, where the manager runs with the rights of its manifest: rules there, and
/// none where cloudcore is. An edge that comes later is reached too.
fn by_daemonset(context: &mut Context) -> Result<()> {
    let (settings, run) = (context.settings.clone(), context.folder().to_owned());
    let cloudcore = program(&settings.cloud, "cloudcore")?;
    if !is_ours(&cloudcore) {
        return Err(Skip("the manager is a part of our cloudcore".to_owned()).into());
    }
    let plane = ControlPlane {
        apart: true,
        ..ControlPlane::default()
    };
    let folder = run.join("cloud");
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
    let manifest = settings.root.join("config/manifests/04-iptables-manager.yaml");
    let manifest = manifest.to_string_lossy();
    if system.api().get("/api/v1/namespaces/kubeedge")?.is_none() {
        system.cluster.kubectl(&["create", "namespace", "kubeedge"])?;
    }
    system.cluster.kubectl(&["apply", "-f", &manifest])?;
    let kubeconfig = account(system, &settings.kubernetes, &folder)?;
    let host = system.cluster.host().context("the control plane has no host")?;
    let port = system.cloud.stream().rsplit(':').next().unwrap_or_default().to_owned();
    let netns = format!("--net={}", host.netns_path().display());
    let mut command = Command::new("nsenter");
    command.arg(&netns).arg(&cloudcore);
    command.args(["--iptables-manager", "--forwardport", &port, "--kubeconfig"]);
    let mut manager = Daemon::start(&folder, "iptables-manager", command.arg(&kubeconfig))?;
    let namespace = start_pod(system, "apart", system.edge.name())?;
    let result = until_reached(system, "logs and exec by the manager beside the API server", &namespace)
        .with_context(|| manager.tail())
        .and_then(|()| {
            until_said(system, before, "cloudcore says that it works", BY_RULES)?;
            drop(fresh_edge(system, &settings, &run, "fresh-apart")?);
            manager.stop(seconds(30))?;
            let rules = process::run(Command::new("nsenter").args([&netns, "iptables-save", "-t", "nat"]))?;
            ensure!(!rules.contains("TUNNEL-PORT"), "rules are left:\n{rules}");
            let log = std::fs::read_to_string(manager.log())?;
            ensure!(!log.contains("WARN") && !log.contains("ERROR"), "complaints:\n{log}");
            Ok(())
        });
    manager.kill();
    system.cluster.kubectl(&["delete", "-f", &manifest])?;
    system.clean(&namespace)?;
    system.cloud.stop()?;
    system.cloud.set_redirects(REDIRECTS);
    system.cloud.start()?;
    result?;
    system.node_ready(seconds(60))
}

/// A kubeconfig with the token of the manager's account.
fn account(system: &System, kubernetes: &Path, folder: &Path) -> Result<PathBuf> {
    let own = folder.join("iptables-manager.kubeconfig");
    std::fs::copy(system.cluster.kubeconfig(), &own)?;
    let token = system.cluster.kubectl(&[
        "create",
        "token",
        "iptables-manager-sa",
        "-n",
        "kubeedge",
        "--duration",
        "1h",
    ])?;
    for change in [
        ["set-credentials", "account", "--token", token.trim()].as_slice(),
        &["set-context", "--current", "--user", "account"],
    ] {
        let mut command = Command::new(kubernetes);
        command.args(["kubectl", "config", "--kubeconfig"]).arg(&own);
        // The command line holds the token: a failure must not print it.
        ensure!(
            command.args(change).output()?.status.success(),
            "kubectl config {}",
            change[0]
        );
    }
    Ok(own)
}
