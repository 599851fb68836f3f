//! Redirect rules for IPv6: beside those for IPv4 where cloudcore's host has both, and the way of kubectl to an edge that has IPv6
//! alone. Go's cloudcore has rules for IPv4 only (spec 04 §12).

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::reach::{start_pod, until_reached};
use super::redirect::{REPAIR, ours, own_address, read_record, saved, specified, until_specified};
use super::redirect_programs::{Manager, hide};
use super::{Entry, needs_our_cloud, our_edge};
use crate::api::{self, condition, text};
use crate::edge::{EdgeHost, Wire};
use crate::hub::pem;
use crate::process::{self, call};
use crate::settings::program;
use crate::system::{Context, Skip, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[
    ("redirect_ipv6_rules", false, rules),
    ("redirect_ipv6_edge", false, edge),
];

/// What cloudcore's host has as its address in IPv6, by its default route.
const OWN: &str = "fd00:198:18::1";
/// An address that nobody has: connections to it come to the stream server all the same.
const NOBODY: &str = "fd00:99:1::9";

/// Rules of others beside ours, which must come through it all as they were.
const OTHERS: &[&str] = &[
    "-N KUBE-SERVICES",
    "-A PREROUTING -m comment --comment theirs -j KUBE-SERVICES",
    "-A OUTPUT -p tcp -d fd00:99::1 --dport 10351:10360 -j DNAT --to-destination [fd00:99::2]:1",
    "-A POSTROUTING -s fd00:99::/64 -j MASQUERADE",
];

fn ip6tables(arguments: &str) -> Result<String> {
    let all: Vec<&str> = ["-w", "5", "-t", "nat"]
        .into_iter()
        .chain(arguments.split(' '))
        .collect();
    call("ip6tables", &all)
}

/// Whether cloudcore finds IPv6 when it starts, or gets it while it runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comes {
    Before,
    Later,
}

/// Does something while the run's network namespace has IPv6, with a cloudcore that knows.
fn with_ipv6(context: &mut Context, comes: Comes, work: impl FnOnce(&mut System) -> Result<()>) -> Result<()> {
    needs_our_cloud(context, "redirecting IPv6")?;
    if !Path::new("/proc/net/if_inet6").exists() {
        return Err(Skip("the kernel of this machine has no IPv6".to_owned()).into());
    }
    let system = context.system()?;
    let result = have_ipv6("add").and_then(|()| {
        match comes {
            Comes::Before => {
                system.cloud.stop()?;
                system.cloud.start()?;
            }
            Comes::Later => wait::until("a new address is noticed", seconds(120), || {
                Ok((!ours("ip6tables-save")?.is_empty()).then_some(()))
            })?,
        }
        work(system)
    });
    let undone = have_ipv6("del");
    system.cloud.stop()?;
    system.cloud.start()?;
    result?;
    undone?;
    until_specified("rules for IPv4 alone", system, &[(own_address()?, 10351)])?;
    wait::until("no rules for IPv6", seconds(REPAIR), || {
        let left = ours("ip6tables-save")?;
        ensure!(left.is_empty(), "{left:#?}");
        Ok(Some(()))
    })?;
    system.node_ready(seconds(60))
}

/// An address and a default route, which leads nowhere, as the namespace has them for IPv4: `add` or `del`.
fn have_ipv6(what: &str) -> Result<()> {
    let address = format!("{OWN}/64");
    let address = call("ip", &["-6", "addr", what, &address, "dev", "uplink", "nodad"]);
    let route = call("ip", &["-6", "route", what, "default", "dev", "uplink"]);
    address.and(route).map(drop)
}

/// Waits until exactly the rules of both families are there.
fn until_both(what: &str, system: &System) -> Result<()> {
    until_specified(&format!("{what}: IPv4"), system, &[(own_address()?, 10351)])?;
    let wanted = specified(&[(format!("[{OWN}]"), 10351)], &system.cloud.stream());
    wait::until(&format!("{what}: IPv6"), seconds(REPAIR), || {
        let mut found = ours("ip6tables-save")?;
        found.sort();
        ensure!(found == wanted, "{found:#?} instead of {wanted:#?}");
        Ok(Some(()))
    })
}

/// Rules of both families are made, come back when flushed, are replaced after a crash, go at the end; nobody else's change. The
/// record has them where a manager on another host finds them, and nothing that Go's would stumble over.
fn rules(context: &mut Context) -> Result<()> {
    let folder = context.folder().to_owned();
    let cloudcore = program(&context.settings.cloud, "cloudcore")?;
    with_ipv6(context, Comes::Later, |system| {
        for rule in OTHERS {
            ip6tables(rule)?;
        }
        let result = keep_rules(system).and_then(|()| elsewhere(system, &folder, &cloudcore));
        for rule in OTHERS.iter().rev() {
            ip6tables(&rule.replacen("-N", "-X", 1).replacen("-A", "-D", 1))?;
        }
        result
    })
}

fn keep_rules(system: &mut System) -> Result<()> {
    until_both("rules as specified", system)?;
    let others = saved("ip6tables-save", false)?;
    let (entries, _) = read_record(system.api())?;
    ensure!(entries == [(own_address()?, 10351)], "{entries:?}");
    redirected()?;
    for broken in [
        "-F TUNNEL-PORT",
        "-D OUTPUT -m comment --comment kubeedge\u{a0}tunnel\u{a0}port -j TUNNEL-PORT",
    ] {
        let words = broken.split(' ').map(|word| word.replace('\u{a0}', " "));
        let mut command = Command::new("ip6tables");
        process::run(command.args(["-w", "5", "-t", "nat"]).args(words))?;
        until_both("rules back", system)?;
        redirected()?;
    }
    system.cloud.kill();
    ip6tables("-A TUNNEL-PORT -p tcp --dport 10352 -j DNAT --to-destination [fd00:99::4]:10003")?;
    system.cloud.start()?;
    until_both("rules of a killed cloudcore replaced", system)?;
    ensure!(saved("ip6tables-save", false)? == others, "rules of others changed");
    system.cloud.stop()?;
    let left = saved("ip6tables-save", true)?;
    ensure!(left == others, "not as before: {left:#?} instead of {others:#?}");
    let left = ours("iptables-save")?;
    ensure!(left.is_empty(), "rules for IPv4 are left: {left:?}");
    system.cloud.start()?;
    until_both("rules after a start", system)
}

/// A connection to the tunnel port comes to the stream server, which asks who that is.
fn redirected() -> Result<()> {
    let page = format!("https://[{NOBODY}]:10351/healthz");
    let mut command = Command::new("curl");
    command.args(["-gsk", "-m", "35", "-o", "/dev/null", "-w", "%{http_code}"]);
    let status = process::run(command.arg(page))?;
    ensure!(status == "401", "no answer of the stream server: {status}");
    Ok(())
}

/// The manager of another host, which has nft alone, finds cloudcore's second address.
fn elsewhere(system: &System, folder: &Path, cloudcore: &Path) -> Result<()> {
    let setup = hide(&["iptables", "iptables-nft", "iptables-legacy"]);
    let mut manager = Manager::start(system, folder, "only-nft-ipv6", &setup, cloudcore)?;
    let rule = format!("tcp dport 10351 dnat to [{OWN}]:10003");
    let until = |manager: &Manager, what: &str| {
        wait::until(what, seconds(REPAIR), || {
            let rules = manager.run(&["nft", "list", "table", "ip6", "kubeedge"])?;
            Ok((rules.contains(&rule) && rules.contains("jump TUNNEL-PORT")).then_some(()))
        })
    };
    until(&manager, "rules by nft on another host")?;
    manager.run(&["nft", "flush", "table", "ip6", "kubeedge"])?;
    until(&manager, "rules back on another host")?;
    manager.daemon.stop(seconds(30))?;
    let left = manager.run(&["nft", "list", "ruleset"])?;
    ensure!(left.is_empty(), "a table is left: {left}");
    Ok(())
}

/// An edge that has IPv6 alone joins, and the API server has no other way to it than a rule for IPv6.
fn edge(context: &mut Context) -> Result<()> {
    let (settings, run) = (context.settings.clone(), context.folder().to_owned());
    let ours = our_edge(context)?;
    with_ipv6(context, Comes::Before, |system| {
        let mut edge = EdgeHost::start(&settings, &run, "ipv6", Wire::Veth)?;
        edge.change_to_ipv6()?;
        defaults(&edge, &program(&settings.cloud, "cloudcore")?)?;
        if ours {
            defaults(&edge, &program(&settings.edge, "edgecore")?)?;
        }
        if system.cloud.advertise(edge.number().cloud_address_v6()) {
            system.cloud.stop()?;
            system.cloud.start()?;
        }
        let result = reach_edge(system, &mut edge);
        edge.stop_edgecore()?;
        system.api().delete(&api::node_path(edge.name()))?;
        result.with_context(|| edge.log_tails().into_iter().map(|(_, tail)| tail).collect::<String>())
    })
}

/// On a host that has IPv6 alone, a program takes its default addresses from there.
fn defaults(edge: &EdgeHost, program: &Path) -> Result<()> {
    let address = edge.number().address_v6();
    let printed = process::run(edge.command(program).arg("--defaultconfig"))?;
    ensure!(printed.contains(&address), "{address} is not in\n{printed}");
    Ok(())
}

fn reach_edge(system: &mut System, edge: &mut EdgeHost) -> Result<()> {
    edge.write_config(&system.cloud.uplink()?)?;
    edge.start_edgecore()?;
    let path = api::node_path(edge.name());
    let node = wait::until("the node is Ready", seconds(90), || {
        let node = system.api().get(&path)?;
        Ok(node.filter(|node| condition(node, "Ready") == "True"))
    })?;
    let internal = api::elements(&node, "/status/addresses").filter(|one| text(one, "/type") == "InternalIP");
    let internal: Vec<&str> = internal.map(|one| text(one, "/address")).collect();
    ensure!(internal == [edge.number().address_v6()], "{internal:?}");
    let namespace = start_pod(system, "ipv6", edge.name())?;
    let result = until_reached(system, "logs and exec by IPv6", &namespace)
        .and_then(|()| {
            ip6tables("-F TUNNEL-PORT")?;
            until_both("rules back", system)?;
            until_reached(system, "logs and exec again", &namespace)
        })
        .and_then(|()| asked_for_by_address(system, edge));
    system.api().delete(&format!("/api/v1/namespaces/{namespace}"))?;
    wait::quietly("the pod gone", seconds(60), || {
        Ok(system.pods(&namespace)?.is_empty().then_some(()))
    })?;
    result
}

/// As metrics-server asks: by the node's address, which is all that the request says of the node, and which the certificate names.
fn asked_for_by_address(system: &System, edge: &EdgeHost) -> Result<()> {
    let authority = edge.folder().join("cloud-ca.pem");
    std::fs::write(&authority, pem("CERTIFICATE", &system.cloud.authority()?.ca))?;
    let pki = system.cluster.pki()?;
    let page = format!("https://[{}]:10351/stats/summary", edge.number().address_v6());
    wait::until("usage by the address of the node", seconds(60), || {
        let mut command = Command::new("curl");
        command.args(["-gsSf", "-m", "35", "--cacert"]).arg(&authority);
        command.arg("--cert").arg(pki.join("kubelet-client.crt"));
        command.arg("--key").arg(pki.join("kubelet-client.key"));
        let summary: Value = serde_json::from_str(&process::run(command.arg(&page))?)?;
        let node = text(&summary, "/node/nodeName");
        ensure!(node == edge.name(), "it is {node:?}");
        Ok(Some(()))
    })
}
