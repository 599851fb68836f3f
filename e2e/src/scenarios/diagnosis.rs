//! `cloudcore --diagnose`: each hop between the API server and the container runtime is broken in turn, and named.

use std::process::Command;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::redirect::{iptables, ours};
use super::{Entry, needs_our_cloud, our_edge};
use crate::cloud::REDIRECTS;
use crate::process;
use crate::settings::program;
use crate::system::{Context, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[("diagnosis_names_the_hop", false, names)];

fn names(context: &mut Context) -> Result<()> {
    needs_our_cloud(context, "--diagnose")?;
    // A tunnel of Go's edge may be silent for two minutes before it is taken for broken: its pings end for other reasons too.
    let ours = our_edge(context)?;
    let patience = seconds(if ours { 90 } else { 180 });
    let cloudcore = program(&context.settings.cloud, "cloudcore")?;
    let system = context.system()?;
    let (config, node) = (system.cluster.kubeconfig().to_owned(), system.edge.name().to_owned());
    let uplink = system.cloud.uplink()?;
    let diagnose = || -> Result<String> {
        let mut command = Command::new(&cloudcore);
        command.args([
            "--diagnose",
            &node,
            "--forwardport",
            &uplink.stream.to_string(),
            "--kubeconfig",
        ]);
        let output = command.arg(&config).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let says = |what: &str, wanted: &str| {
        wait::until(what, patience, || {
            let said = diagnose()?;
            let broken = said.lines().find(|line| line.starts_with("BROKEN"));
            let named = broken.map_or("nothing", |line| line.trim_start_matches("BROKEN").trim_start());
            let (hop, words) = wanted.split_once(" … ").unwrap_or((wanted, ""));
            ensure!(named.starts_with(hop) && named.contains(words), "{said}");
            println!("    {}", named.chars().take(150).collect::<String>());
            Ok(Some(()))
        })
    };
    says("all is well", "nothing")?;
    let result = broken(system, &uplink, &says).and_then(|()| {
        // Go's edge believes every tunnel server.
        if ours { foreign_authority(system, &says) } else { Ok(()) }
    });
    let result = result.and_then(|()| broken_on(system, &says));
    system.cloud.set_redirects(REDIRECTS);
    system.repair()?;
    result?;
    says("all is well again", "nothing")
}

fn broken(system: &mut System, uplink: &crate::edge::Uplink, says: &dyn Fn(&str, &str) -> Result<()>) -> Result<()> {
    let port = uplink.stream.to_string();
    let block = ["INPUT", "-p", "tcp", "--dport", &port, "-j", "DROP"];
    rule("-I", &block)?;
    let named = says("the stream server's port is blocked", "stream server");
    rule("-D", &block)?;
    named?;

    let port = uplink.tunnel.to_string();
    let block = [
        "INPUT",
        "-p",
        "tcp",
        "--dport",
        &port,
        "-j",
        "REJECT",
        "--reject-with",
        "tcp-reset",
    ];
    rule("-I", &block)?;
    let named = says("the tunnel is down", "tunnel");
    rule("-D", &block)?;
    named?;
    says("the tunnel is back", "nothing")?;

    let edgecore = system.edge.edgecore()?.pid();
    process::signal(edgecore, Signal::SIGSTOP);
    let named = says("edgecore hangs", "edge");
    process::signal(edgecore, Signal::SIGCONT);
    named?;
    says("edgecore goes on", "nothing")?;

    system.edge.kill_edgecore();
    let named = says("edgecore is dead", "edge");
    system.edge.start_edgecore()?;
    named?;
    says("edgecore runs", "nothing")
}

/// Another cluster's CA where cloudcore's should be.
fn foreign_authority(system: &mut System, says: &dyn Fn(&str, &str) -> Result<()>) -> Result<()> {
    let [file, ..] = system.edge.certificate_files();
    let good = std::fs::read(&file)?;
    system.edge.kill_edgecore();
    std::fs::copy(system.cluster.pki()?.join("ca.crt"), &file)?;
    system.edge.start_edgecore()?;
    let named = says("the edge has another cluster's CA", "tunnel … does not know the CA");
    system.edge.kill_edgecore();
    std::fs::write(&file, good)?;
    system.edge.start_edgecore()?;
    named?;
    says("the edge knows the CA again", "nothing")
}

/// What is broken at the ends: the runtime, the rules.
fn broken_on(system: &mut System, says: &dyn Fn(&str, &str) -> Result<()>) -> Result<()> {
    system.edge.stop_containerd()?;
    let named = says("the runtime is stopped", "runtime");
    system.edge.start_containerd()?;
    named?;
    says("the runtime runs", "nothing")?;

    flushed(system, says)?;

    // The certificate is of CloudHub's CA.
    let ca = system.cluster.pki()?.join("ca.crt");
    let flag = format!("--kubelet-certificate-authority={}", ca.display());
    system.cluster.set_apiserver_flags(vec![flag])?;
    let named = says("the API server does not believe the certificate", "certificate");
    system.cluster.set_apiserver_flags(Vec::new())?;
    named
}

/// With cloudcore in the mode in which others keep the rules: its own it would make anew before anybody asks.
fn flushed(system: &mut System, says: &dyn Fn(&str, &str) -> Result<()>) -> Result<()> {
    let rules = format!("*nat\n{}\nCOMMIT\n", ours("iptables-save")?.join("\n"));
    // A clean end takes the rules away, and nobody puts them back.
    system.cloud.stop()?;
    system.cloud.set_redirects("enable: true, mode: external");
    system.cloud.start()?;
    let named = says("no redirect rules", "redirect").and_then(|()| {
        let mut restore = Command::new("iptables-restore");
        process::feed(restore.args(["-w", "5", "--noflush"]), &rules)?;
        says("the rules are made by hand", "nothing")?;
        iptables("-F TUNNEL-PORT")?;
        says("the rules are flushed", "redirect")
    });
    system.cloud.stop()?;
    system.cloud.set_redirects(REDIRECTS);
    system.cloud.start()?;
    named?;
    says("the rules are back", "nothing")
}

fn rule(change: &str, rule: &[&str]) -> Result<()> {
    process::run(Command::new("iptables").args(["-w", change]).args(rule)).map(drop)
}
