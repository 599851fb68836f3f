//! Installing cloudcore beside a cluster, by its unit, on a host where nothing is installed.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::Entry;
use super::install::{boot, journal, main_pid};
use crate::edge::{FreshHost, Init, PROGRAMS};
use crate::process;
use crate::settings::{is_ours, program};
use crate::system::{Context, Skip};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[("install_cloudcore_systemd", false, cloudcore_systemd)];

/// cloudcore by its unit, with a file that leaves all ports as they are: start, a kill and the restart after it, restart, stop.
fn cloudcore_systemd(context: &mut Context) -> Result<()> {
    // Of the edge's folder, which is the one that hosts see.
    let beside = program(&context.settings.edge, "cloudcore").is_ok_and(|path| is_ours(&path));
    if !beside || !is_ours(&program(&context.settings.cloud, "cloudcore")?) {
        bail!(Skip("only our cloudcore is installed here".to_owned()));
    }
    let unit = std::fs::read_to_string(context.settings.root.join("systemd/cloudcore.service"))?;
    let host = boot(context, "install-5", Init::Systemd)?;
    let system = context.system()?;
    let run = process::call("ip", &ROUTE)?;
    let kubeconfig = system.cluster.kubectl(&["config", "view", "--raw", "--flatten"])?;
    let kubeconfig = kubeconfig.replace("127.0.0.1", source(&run)?);
    let route = host.run("ip", &ROUTE)?;
    let address = source(&route)?;
    let copy = format!("{PROGRAMS}/cloudcore");
    host.run("install", &["-m", "755", &copy, "/usr/local/bin/cloudcore"])?;
    put(&host, "/etc/systemd/system/cloudcore.service", &unit)?;
    put(&host, "/etc/kubeedge/kubeconfig", &kubeconfig)?;
    put(&host, "/etc/kubeedge/config/cloudcore.yaml", &cloudcore_yaml(address))?;
    host.run("systemctl", &["daemon-reload"])?;
    host.run("systemctl", &["enable", "cloudcore"])?;
    host.run("systemctl", &["start", "cloudcore"])?;
    let ca = system.cloud.authority()?.ca;
    up(&host, "started", address, 1, &ca)?;

    let old = main_pid(&host, "cloudcore")?;
    host.run("kill", &["-9", &old])?;
    // After 10 s.
    wait::until("systemd has started the killed cloudcore again", seconds(100), || {
        let new = main_pid(&host, "cloudcore")?;
        Ok((new != "0" && new != old).then_some(()))
    })?;
    up(&host, "killed", address, 2, &ca)?;

    let old = main_pid(&host, "cloudcore")?;
    host.run("systemctl", &["restart", "cloudcore"])?;
    ensure!(
        main_pid(&host, "cloudcore")? != old,
        "systemctl restart changed nothing"
    );
    up(&host, "restarted", address, 3, &ca)?;

    host.run("systemctl", &["stop", "cloudcore"])?;
    let show = ["show", "-p", "ActiveState,Result,ExecMainStatus", "cloudcore"];
    let mut state: Vec<String> = host.run("systemctl", &show)?.lines().map(str::to_owned).collect();
    state.sort();
    ensure!(
        state == ["ActiveState=inactive", "ExecMainStatus=0", "Result=success"],
        "after systemctl stop: {state:?}"
    );
    ensure!(
        !host.output("pidof", &["cloudcore"])?.status.success(),
        "cloudcore still runs"
    );
    let journal = journal(&host, "cloudcore")?;
    ensure!(
        !journal.contains(&system.cloud.token()?),
        "the journal has the join token"
    );
    ensure!(
        !journal.contains("stop-sigterm") && !journal.contains("panicked"),
        "no orderly end:\n{journal}"
    );
    Ok(())
}

/// A cloudcore on a host has come up for the `times`th time and serves the cluster's CA, to the machine too.
fn up(host: &FreshHost, what: &str, address: &str, times: usize, ca: &[u8]) -> Result<()> {
    wait::until(&format!("cloudcore up after it was {what}"), seconds(60), || {
        let said = journal(host, "cloudcore")?;
        ensure!(said.matches("cloudcore is up").count() == times, "its journal:\n{said}");
        host.run("curl", &["-sSf", "-m", "3", "http://127.0.0.1:9091/readyz"])
            .map(Some)
    })?;
    let state = host.output("systemctl", &["is-active", "cloudcore"])?;
    ensure!(state.status.success(), "{what}, and the service is not active");
    let url = format!("https://{address}:10002/ca.crt");
    let served = Command::new("curl").args(["-skSf", "-m", "20", &url]).output()?;
    ensure!(
        served.stdout == ca,
        "{url} is not the cluster's CA: {}",
        String::from_utf8_lossy(&served.stderr)
    );
    Ok(())
}

/// cloudcore.yaml as somebody writes it by hand, without what the shared cloudcore has in the API or in its network: the record of
/// tunnel ports, redirect rules, the webhook.
fn cloudcore_yaml(address: &str) -> String {
    format!(
        r"apiVersion: cloudcore.config.kubeedge.io/v1alpha1
kind: CloudCore
kubeAPIConfig:
  kubeConfig: /etc/kubeedge/kubeconfig
modules:
  cloudHub:
    advertiseAddress: [{address}]
  cloudStream: {{enable: false}}
  iptablesManager: {{enable: false}}
  webhook: {{enable: false}}
"
    )
}

/// How a host finds the address that it is reached at.
const ROUTE: [&str; 4] = ["-4", "route", "get", "192.0.2.1"];

/// The address that a route leaves from.
fn source(route: &str) -> Result<&str> {
    let mut words = route.split_whitespace().skip_while(|word| *word != "src");
    words.nth(1).context("no default route")
}

/// Writes a file on a host, its folder too.
fn put(host: &FreshHost, path: &str, text: &str) -> Result<()> {
    const SCRIPT: &str = r#"mkdir -p "${1%/*}"; cat > "$1""#;
    process::feed(host.command("bash").args(["-ec", SCRIPT, "put", path]), text).map(drop)
}
