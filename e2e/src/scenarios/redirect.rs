//! The redirect rules of the API server's host and the record of tunnel ports that they are made from (spec 04 §12, §15 rows
//! 27 to 29). All of it happens in the network namespace of the run.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{Entry, our_cloud};
use crate::api::{self, Api, text};
use crate::cloud::CloudHost;
use crate::process::{self, Daemon, call};
use crate::settings::{is_ours, program};
use crate::system::{Context, Skip, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[
    ("redirect_rules", false, rules),
    ("redirect_record", false, record),
    ("redirect_two_cloudcores", false, two_cloudcores),
    ("redirect_pod_deleted", false, pod_deleted),
];

/// A flushed rule is to be back in 10 s.
pub(super) const REPAIR: u64 = 100;
const MAP: &str = "/api/v1/namespaces/kubeedge/configmaps/tunnelport";
const ANNOTATION: &str = "tunnelportrecord.kubeedge.io";

/// Rules of others beside ours, which must come through it all as they were.
pub(super) const OTHERS: &[&str] = &[
    "-N KUBE-SERVICES",
    "-A PREROUTING -m comment --comment theirs -j KUBE-SERVICES",
    "-A OUTPUT -p tcp -d 10.99.0.1 --dport 10351:10360 -j DNAT --to-destination 10.99.0.2:1",
    "-A POSTROUTING -s 10.99.0.0/16 -j MASQUERADE",
];

/// Go's cloudcore repairs nothing: it does not start, or leaves the entries.
pub(super) fn only_ours(context: &Context) -> Result<()> {
    if our_cloud(context)? {
        return Ok(());
    }
    Err(Skip("only our cloudcore keeps the record in order".to_owned()).into())
}

/// Changes the table of the rules.
pub(super) fn iptables(arguments: &str) -> Result<String> {
    let all: Vec<&str> = ["-w", "5", "-t", "nat"]
        .into_iter()
        .chain(arguments.split(' '))
        .collect();
    call("iptables", &all)
}

/// The whole of the host's rules, without what differs from one look to the next, and without `ours` when that is asked for.
pub(super) fn saved(program: &str, ours: bool) -> Result<Vec<String>> {
    let text = call(program, &[])?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    Ok(lines
        .filter(|line| ours || !line.contains("TUNNEL-PORT"))
        .map(str::to_owned)
        .collect())
}

pub(super) fn ours(program: &str) -> Result<Vec<String>> {
    Ok(saved(program, true)?
        .into_iter()
        .filter(|line| line.contains("TUNNEL-PORT"))
        .collect())
}

/// What spec 04 §12 says must be there for these entries, as iptables prints it.
pub(super) fn specified(entries: &[(String, u16)], stream: &str) -> Vec<String> {
    let stream = stream.rsplit(':').next().unwrap_or_default();
    let mut lines = vec![":TUNNEL-PORT - [0:0]".to_owned()];
    for chain in ["PREROUTING", "OUTPUT"] {
        lines.push(format!(
            r#"-A {chain} -m comment --comment "kubeedge tunnel port" -j TUNNEL-PORT"#
        ));
    }
    for (ip, port) in entries {
        lines.push(format!(
            "-A TUNNEL-PORT -p tcp -m tcp --dport {port} -j DNAT --to-destination {ip}:{stream}"
        ));
    }
    lines.sort();
    lines
}

/// Waits until exactly the rules for these entries are there, each once.
pub(super) fn until_specified(what: &str, system: &System, entries: &[(String, u16)]) -> Result<()> {
    let wanted = specified(entries, &system.cloud.stream());
    wait::until(what, seconds(REPAIR), || {
        let mut found = ours("iptables-save")?;
        found.sort();
        ensure!(found == wanted, "{found:#?} instead of {wanted:#?}");
        Ok(Some(()))
    })
}

/// Addresses of cloudcores with their ports.
pub(super) type Entries = Vec<(String, u16)>;

/// The record's entries and, apart, its taken ports.
pub(super) fn read_record(api: &Api) -> Result<(Entries, Vec<u16>)> {
    let map = api.must(MAP)?;
    let record: Value = serde_json::from_str(text(&map, &format!("/metadata/annotations/{ANNOTATION}")))
        .with_context(|| format!("no record in {map}"))?;
    let object = |key: &str| {
        record
            .get(key)
            .and_then(Value::as_object)
            .cloned()
            .context("a map is missing")
    };
    let mut entries = Vec::new();
    for (ip, port) in object("ipTunnelPort")? {
        let port = port.as_u64().and_then(|port| port.try_into().ok()).context("port")?;
        entries.push((ip, port));
    }
    let mut ports = Vec::new();
    for (port, taken) in object("port")? {
        ensure!(taken == true, "{record}");
        ports.push(port.parse()?);
    }
    entries.sort();
    ports.sort_unstable();
    let mut distinct: Vec<u16> = entries.iter().map(|(_, port)| *port).collect();
    distinct.sort_unstable();
    distinct.dedup();
    ensure!(distinct.len() == entries.len(), "a port is there twice: {record}");
    Ok((entries, ports))
}

fn write_record(api: &Api, annotation: &Value) -> Result<()> {
    api.patch(MAP, &json!({"metadata": {"annotations": {ANNOTATION: annotation}}}))
        .map(drop)
}

/// The address under which a cloudcore of this run is in the record: the one that its default route leaves from.
pub(super) fn own_address() -> Result<String> {
    let route = call("ip", &["-4", "route", "get", "192.0.2.1"])?;
    let mut words = route.split_whitespace().skip_while(|word| *word != "src");
    Ok(words.nth(1).context("no default route")?.to_owned())
}

/// Rules are those of the specification, come back when flushed, are replaced after a crash, go at the end; nobody else's change.
fn rules(context: &mut Context) -> Result<()> {
    let ours_only = our_cloud(context)?;
    let ours_beside = program(&context.settings.edge, "cloudcore")
        .ok()
        .filter(|path| is_ours(path));
    let system = context.system()?;
    for rule in OTHERS {
        iptables(rule)?;
    }
    let result = keep_rules(system, ours_only).and_then(|()| match ours_beside {
        Some(manager) if !ours_only => agree(system, &manager),
        _ => Ok(()),
    });
    for rule in OTHERS.iter().rev() {
        iptables(&rule.replacen("-N", "-X", 1).replacen("-A", "-D", 1))?;
    }
    if !system.cloud.cloudcore().is_ok_and(Daemon::alive) {
        system.cloud.start()?;
    }
    result?;
    system.node_ready(seconds(60))
}

fn keep_rules(system: &mut System, ours_only: bool) -> Result<()> {
    let others = saved("iptables-save", false)?;
    let entries = [(own_address()?, 10351)];
    until_specified("rules as specified", system, &entries)?;
    for broken in [
        "-F TUNNEL-PORT",
        "-D OUTPUT -m comment --comment kubeedge\u{a0}tunnel\u{a0}port -j TUNNEL-PORT",
    ] {
        let words: Vec<String> = broken.split(' ').map(|word| word.replace('\u{a0}', " ")).collect();
        let mut command = Command::new("iptables");
        process::run(command.args(["-w", "5", "-t", "nat"]).args(&words))?;
        until_specified(
            &format!("rules back after iptables {}", words.join(" ")),
            system,
            &entries,
        )?;
    }
    if !ours_only {
        return Ok(());
    }
    routed(system)?;
    system.cloud.kill();
    // What a cloudcore with another address and another port had left.
    iptables("-A TUNNEL-PORT -p tcp --dport 10351 -j DNAT --to-destination 10.99.0.3:10003")?;
    iptables("-A TUNNEL-PORT -p tcp --dport 10352 -j DNAT --to-destination 10.99.0.4:10003")?;
    system.cloud.start()?;
    until_specified("rules of a killed cloudcore replaced", system, &entries)?;
    ensure!(saved("iptables-save", false)? == others, "rules of others changed");
    system.cloud.stop()?;
    ensure!(
        ours("iptables-save")?.is_empty(),
        "rules are left: {:?}",
        ours("iptables-save")?
    );
    ensure!(
        saved("iptables-save", true)? == others,
        "not as before: {:#?} instead of {others:#?}",
        saved("iptables-save", true)?
    );
    let (entries, _) = read_record(system.api())?;
    ensure!(entries.len() == 1, "a host's address stays in the record: {entries:?}");
    Ok(())
}

/// A connection of another host that only passes through this one comes to the stream server, which asks who that is.
fn routed(system: &System) -> Result<()> {
    let mut command = system.edge.command("curl");
    command.args(["-sk", "-m", "35", "-o", "/dev/null", "-w", "%{http_code}"]);
    // An address that nobody has: the edge's default route leads here.
    let status = process::run(command.arg("https://192.0.2.9:10351/healthz"))?;
    ensure!(status == "401", "no answer of the stream server: {status}");
    Ok(())
}

/// Our manager beside Go's: neither finds anything to change.
fn agree(system: &System, cloudcore: &Path) -> Result<()> {
    let stream = system.cloud.stream();
    let port = stream.rsplit(':').next().unwrap_or_default();
    let mut command = Command::new(cloudcore);
    command.args(["--iptables-manager", "--forwardport", port, "--kubeconfig"]);
    let mut manager = Daemon::start(
        system.cloud.folder(),
        "manager",
        command.arg(system.cluster.kubeconfig()),
    )?;
    let wanted = specified(&[(own_address()?, 10351)], &stream);
    // Two rounds of Go's manager.
    let result = wait::stays("the rules as both want them", seconds(25), || {
        let mut found = ours("iptables-save")?;
        found.sort();
        Ok(found == wanted)
    });
    let log = manager.tail();
    manager.stop(seconds(30))?;
    result?;
    ensure!(
        log.contains("redirected") && !log.contains("WARN"),
        "they do not agree:\n{log}"
    );
    Ok(())
}

/// The ConfigMap in every state that somebody may have left it in.
fn record(context: &mut Context) -> Result<()> {
    only_ours(context)?;
    let system = context.system()?;
    let own = own_address()?;
    let ports = |entries: &[(String, u16)]| entries.iter().map(|(_, port)| *port).collect::<Vec<_>>();
    let alone = vec![(own.clone(), 10351)];
    let other = vec![("10.99.0.9".to_owned(), 10351), (own.clone(), 10352)];
    let go = r#"{"ipTunnelPort":{"10.99.0.9":10351},"port":{"10351":true}}"#;
    let left_by_go = r#"{"ipTunnelPort":{"10.99.0.9":10351},"port":{"10351":true,"10352":true,"10353":true}}"#;
    let cases = [
        ("no ConfigMap", None, &alone),
        ("no annotation", Some(Value::Null), &alone),
        ("an empty record", Some(json!("{}")), &alone),
        ("a broken record", Some(json!("{\"ipTunnelPort\":")), &alone),
        ("another cloudcore's record", Some(json!(go)), &other),
        ("ports without owners", Some(json!(left_by_go)), &other),
    ];
    for running in [true, false] {
        for (name, annotation, wanted) in &cases {
            if !running {
                system.cloud.stop()?;
            }
            match annotation {
                None => system.api().delete(MAP)?,
                Some(annotation) => write_record(system.api(), annotation)?,
            }
            if !running {
                system.cloud.start()?;
            }
            let way = if running { "while it runs" } else { "at the start" };
            wait::until(&format!("record repaired {way}: {name}"), seconds(60), || {
                let (entries, taken) = read_record(system.api())?;
                ensure!(entries == **wanted, "{entries:?}");
                ensure!(taken == ports(wanted), "{taken:?}");
                Ok(Some(()))
            })?;
            until_specified("rules follow", system, wanted)?;
        }
    }
    // With an IPv6 cloudcore in it, its rule is in the other table, and goes with the entry.
    let six = json!({"ipTunnelPort": {"fd00:99::5": 10352, &own: 10351}, "port": {"10351": true, "10352": true}});
    write_record(system.api(), &json!(six.to_string()))?;
    let stream = system.cloud.stream().replacen("127.0.0.1", "[fd00:99::5]", 1);
    wait::until("rule for IPv6", seconds(REPAIR), || {
        let line = format!("--dport 10352 -j DNAT --to-destination {stream}");
        Ok(ours("ip6tables-save")?
            .iter()
            .any(|rule| rule.ends_with(&line))
            .then_some(()))
    })?;
    until_specified("rule for IPv4", system, &alone)?;
    system.api().delete(MAP)?;
    wait::until("nothing for IPv6", seconds(REPAIR), || {
        Ok(ours("ip6tables-save")?.is_empty().then_some(()))
    })?;
    until_specified("rules of one cloudcore", system, &alone)
}

/// Two cloudcores that claim at the same moment, again and again, agree.
fn two_cloudcores(context: &mut Context) -> Result<()> {
    only_ours(context)?;
    let (settings, folder) = (context.settings.clone(), context.folder().join("second"));
    let system = context.system()?;
    let own = own_address()?;
    let mut second = CloudHost::new(&settings, &folder, &system.cluster)?;
    // One host cannot have two managers with stream servers on different ports.
    second.set_redirects("enable: true, mode: external, address: 10.99.0.7");
    system.cloud.stop()?;
    system.api().delete(MAP)?;
    let (one, two) = std::thread::scope(|scope| {
        let second = scope.spawn(|| second.start());
        (system.cloud.start(), second.join())
    });
    one?;
    two.map_err(|_| anyhow::anyhow!("the second start panicked"))??;
    let mut seen = Vec::new();
    for round in 0..5 {
        let entries = wait::quietly("both in the record", seconds(60), || {
            let (entries, taken) = read_record(system.api())?;
            ensure!(taken == [10351, 10352], "{taken:?}");
            ensure!(entries.len() == 2, "{entries:?}");
            Ok(Some(entries))
        })?;
        until_specified(&format!("rules for both, round {round}"), system, &entries)?;
        seen.push(entries);
        system.api().delete(MAP)?;
    }
    println!("    ports: {seen:?}");
    second.stop()?;
    wait::quietly("the record again", seconds(60), || read_record(system.api()).map(Some))?;
    // The second one was no pod with an address of its own: its entry would have stayed.
    write_record(system.api(), &json!("{}"))?;
    until_specified("rules of one cloudcore", system, &[(own, 10351)])?;
    system.node_ready(seconds(60))
}

/// The address of a deleted cloudcore pod leaves both maps of the record, and its rule goes; one of a host's network stays.
fn pod_deleted(context: &mut Context) -> Result<()> {
    only_ours(context)?;
    let system = context.system()?;
    let own = own_address()?;
    let pods = api::pods_path("kubeedge");
    for (name, host_network) in [("cloudcore-a", false), ("cloudcore-b", true)] {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"kubeedge": "cloudcore"}},
            "spec": {"nodeName": "nowhere", "hostNetwork": host_network, "containers": [{"name": "main", "image": "none"}],
                "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0}});
        system.api().create(&pods, &pod)?;
    }
    let status = |ip: &str| json!({"status": {"podIP": ip, "podIPs": [{"ip": ip}]}});
    system
        .api()
        .patch(&format!("{pods}/cloudcore-a/status"), &status("10.99.0.7"))?;
    system
        .api()
        .patch(&format!("{pods}/cloudcore-b/status"), &status("10.99.0.8"))?;
    let record = json!({"ipTunnelPort": {&own: 10351, "10.99.0.7": 10352, "10.99.0.8": 10353},
        "port": {"10351": true, "10352": true, "10353": true}});
    write_record(system.api(), &json!(record.to_string()))?;
    let all = ["10.99.0.7", "10.99.0.8"].map(str::to_owned);
    let all: Entries = [own.clone()].into_iter().chain(all).zip(10351..).collect();
    until_specified("rules for three", system, &all)?;
    for name in ["cloudcore-b", "cloudcore-a"] {
        system.api().delete(&format!("{pods}/{name}?gracePeriodSeconds=0"))?;
    }
    let left = vec![("10.99.0.8".to_owned(), 10353), (own.clone(), 10351)];
    wait::until("the pod's address out of the record", seconds(60), || {
        let (entries, taken) = read_record(system.api())?;
        ensure!(entries == left, "{entries:?}");
        ensure!(taken == [10351, 10353], "{taken:?}");
        Ok(Some(()))
    })?;
    until_specified(
        "rules for two",
        system,
        &[(own.clone(), 10351), ("10.99.0.8".to_owned(), 10353)],
    )?;
    write_record(system.api(), &json!("{}"))?;
    until_specified("rules of one cloudcore", system, &[(own, 10351)])
}
