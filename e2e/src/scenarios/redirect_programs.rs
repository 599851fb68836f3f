//! The manager of redirect rules as a program of its own, `cloudcore --iptables-manager`, with whatever a host has to make rules by.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::Entry;
use super::redirect::{OTHERS, REPAIR, only_ours, own_address, read_record, specified};
use crate::edge::{self, NUMBER};
use crate::hosts::HostNumber;
use crate::process::{self, Daemon};
use crate::settings::program;
use crate::system::{Context, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[("redirect_programs", false, programs)];

/// A rule that an earlier manager has left.
const STALE: &str = "-A TUNNEL-PORT -p tcp --dport 10359 -j DNAT --to-destination 10.99.0.4:10003";

/// In a network namespace of its own, with what hosts have: the legacy variant, only nft, nothing. What a killed manager has left is
/// replaced, and nobody else's rules change.
fn programs(context: &mut Context) -> Result<()> {
    let (settings, folder) = (context.settings.clone(), context.folder().to_owned());
    only_ours(context)?;
    let cloudcore = program(&settings.cloud, "cloudcore")?;
    let system = context.system()?;
    let entries = read_record(system.api())?.0;
    let wanted = specified(&entries, "any:10003");
    let start = |name: &str, setup: &str| Manager::start(system, &folder, name, setup, &cloudcore);

    for (name, setup, listing) in [
        ("nft", "", "iptables-nft-save"),
        // A host that uses the nat table of that variant.
        ("legacy", "iptables-legacy -t nat -N THEIRS", "iptables-legacy-save"),
    ] {
        by_iptables(&mut start(name, setup)?, name, listing, &wanted)?;
    }
    let (ip, port) = entries.first().context("an entry")?;
    let setup = hide(&["iptables", "iptables-nft", "iptables-legacy"]);
    by_nft(
        &mut start("only-nft", &setup)?,
        &format!("tcp dport {port} dnat to {ip}:10003"),
        &setup,
    )?;

    let mut manager = start(
        "nothing",
        &hide(&["iptables", "iptables-nft", "iptables-legacy", "nft"]),
    )?;
    wait::until("a warning that names the other ways", seconds(60), || {
        let log = std::fs::read_to_string(manager.daemon.log())?;
        let named = log.contains("04-iptables-manager.yaml") && log.contains("EgressSelectorConfiguration");
        Ok(named.then_some(()))
    })?;
    let log = std::fs::read_to_string(manager.daemon.log())?;
    ensure!(log.matches("WARN").count() == 1, "more than one warning:\n{log}");
    manager.daemon.stop(seconds(30))
}

fn by_iptables(manager: &mut Manager, name: &str, listing: &str, wanted: &[String]) -> Result<()> {
    let until_wanted = |manager: &Manager, what: &str| {
        wait::until(&format!("{what} by the variant {name}"), seconds(REPAIR), || {
            let mut found = manager.saved(listing)?;
            found.retain(|line| line.contains("TUNNEL-PORT"));
            found.sort();
            ensure!(found == wanted, "{found:#?}");
            Ok(Some(()))
        })
    };
    let program = if name == "legacy" {
        "iptables-legacy"
    } else {
        "iptables"
    };
    let nat = |manager: &Manager, rule: &str| {
        let words: Vec<&str> = [program, "-w", "5", "-t", "nat"]
            .into_iter()
            .chain(rule.split(' '))
            .collect();
        manager.run(&words)
    };
    until_wanted(manager, "rules")?;
    nat(manager, "-F TUNNEL-PORT")?;
    until_wanted(manager, "rules back")?;
    // But for the last, whose target is none of ours: not every kernel has it.
    for rule in OTHERS.iter().take(3) {
        nat(manager, rule)?;
    }
    let others = manager.others(listing)?;
    manager.daemon.kill();
    nat(manager, STALE)?;
    manager.launch("")?;
    until_wanted(manager, "rules of a killed manager replaced")?;
    let left = manager.others(listing)?;
    ensure!(
        left == others,
        "rules of others changed: {left:#?} instead of {others:#?}"
    );
    manager.daemon.stop(seconds(30))?;
    let (left, all) = (manager.others(listing)?, manager.saved(listing)?);
    ensure!(left == others, "rules of others changed at the end: {left:#?}");
    ensure!(!all.iter().any(|line| line.contains("TUNNEL-PORT")), "{all:#?}");
    Ok(())
}

/// `setup` hides what the host has besides.
fn by_nft(manager: &mut Manager, rule: &str, setup: &str) -> Result<()> {
    let until_there = |manager: &Manager, what: &str| {
        wait::until(&format!("{what} by nft alone"), seconds(REPAIR), || {
            let rules = manager.run(&["nft", "list", "table", "ip", "kubeedge"])?;
            let there = rules.contains(rule) && rules.contains("jump TUNNEL-PORT");
            Ok((there && !rules.contains("10359")).then_some(()))
        })
    };
    until_there(manager, "rules")?;
    manager.run(&["nft", "flush", "table", "ip", "kubeedge"])?;
    until_there(manager, "rules back")?;
    for command in [
        "add table ip theirs",
        "add chain ip theirs output { type nat hook output priority -90 ; }",
        "add rule ip theirs output ip daddr 10.99.0.1 tcp dport 10351-10360 dnat to 10.99.0.2:1",
    ] {
        manager.run(&["nft", command])?;
    }
    let theirs = |manager: &Manager| manager.run(&["nft", "list", "table", "ip", "theirs"]);
    let others = theirs(manager)?;
    manager.daemon.kill();
    manager.run(&[
        "nft",
        "add rule ip kubeedge TUNNEL-PORT tcp dport 10359 dnat to 10.99.0.4:10003",
    ])?;
    manager.launch(setup)?;
    until_there(manager, "rules of a killed manager replaced")?;
    manager.daemon.stop(seconds(30))?;
    let left = theirs(manager)?;
    ensure!(left == others, "a table of others changed: {left} instead of {others}");
    manager.run(&["nft", "delete table ip theirs"])?;
    ensure!(manager.run(&["nft", "list", "ruleset"])?.is_empty(), "a table is left");
    Ok(())
}

/// Shell lines that hide programs from what runs after them in the same mount namespace: they are no ordinary files any more.
pub(super) fn hide(names: &[&str]) -> String {
    let names = names.join(" ");
    format!(
        r#"for name in {names}; do
  file=$(command -v "$name") || continue
  mount --bind /dev/null "$(readlink -f "$file")"
done"#
    )
}

/// A `cloudcore --iptables-manager` on a host of its own.
pub(super) struct Manager {
    pub(super) daemon: Daemon,
    host: HostNumber,
    folder: PathBuf,
    cloudcore: PathBuf,
}

impl Manager {
    /// The host's first commands are `setup`.
    pub(super) fn start(system: &System, folder: &Path, name: &str, setup: &str, cloudcore: &Path) -> Result<Self> {
        let folder = folder.join("edges").join(name);
        std::fs::create_dir_all(&folder)?;
        let host = HostNumber::take(&folder.join(NUMBER))?;
        host.make_veth()?;
        let kubeconfig = folder.join("kubeconfig");
        let text = std::fs::read_to_string(system.cluster.kubeconfig())?;
        std::fs::write(&kubeconfig, text.replace("127.0.0.1", &own_address()?))?;
        let daemon = start(&folder, host, setup, cloudcore)?;
        Ok(Self {
            daemon,
            host,
            folder,
            cloudcore: cloudcore.to_owned(),
        })
    }

    /// Starts it again, after the commands of `setup`.
    fn launch(&mut self, setup: &str) -> Result<()> {
        self.daemon = start(&self.folder, self.host, setup, &self.cloudcore)?;
        Ok(())
    }

    pub(super) fn run(&self, words: &[&str]) -> Result<String> {
        let netns = format!("--net={}", self.host.netns_path().display());
        process::run(Command::new("nsenter").arg(netns).args(words))
    }

    fn saved(&self, program: &str) -> Result<Vec<String>> {
        Ok(self.run(&[program])?.lines().map(str::to_owned).collect())
    }

    /// What is not ours, without times and what was counted.
    fn others(&self, program: &str) -> Result<Vec<String>> {
        let lines = self.saved(program)?.into_iter();
        let lines = lines.filter(|line| !line.starts_with('#') && !line.contains("TUNNEL-PORT"));
        Ok(lines
            .map(|line| line.split(" [").next().unwrap_or_default().to_owned())
            .collect())
    }
}

fn start(folder: &Path, host: HostNumber, setup: &str, cloudcore: &Path) -> Result<Daemon> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", host.netns_path().display()));
    command.args(["unshare", "--mount", "--propagation", "private", "bash", "-ec"]);
    command
        .arg(format!("{setup}\nexec \"$@\""))
        .arg("manager")
        .arg(cloudcore);
    command
        .args(["--iptables-manager", "--forwardport=10003", "--kubeconfig"])
        .arg(folder.join("kubeconfig"));
    Daemon::start(folder, "manager", &mut command)
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.daemon.kill();
        if let Err(error) = edge::teardown(&self.folder) {
            eprintln!("e2e: {error:#}");
        }
    }
}
