//! Several cloudcores behind one address. Only ours pass requests on to each other.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::kubectl::{Said, kubectl};
use super::stream_access::{asking, token_of, unseen};
use super::stream_ends::{Running, TICKER, begin, ends, shells};
use super::{Entry, bare, needs_our_cloud};
use crate::api::{self, text};
use crate::balancer::{Balancer, Turn};
use crate::cloud::{CloudHost, REDIRECTS, http_body};
use crate::edge::{EdgeHost, Uplink, Wire};
use crate::process;
use crate::settings::{Settings, is_ours, program};
use crate::system::{Context, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[("replicas_exec", false, exec)];

/// Two cloudcores behind a balancer that sends the API server's connections to either in turn: exec works for the edges of both, and
/// goes on working while one is killed, for its own edge as soon as that is at the other one. What went by way of both is told of its end.
fn exec(context: &mut Context) -> Result<()> {
    needs_our_cloud(context, "passing requests on between cloudcores")?;
    let (settings, run) = (context.settings.clone(), context.folder().to_owned());
    let system = context.system()?;
    // While the first one runs, so that the second one's ports are others.
    let second = CloudHost::new(&settings, &run.join("second"), &system.cluster)?;
    // The rules of this scenario lead to the balancer.
    system.cloud.stop()?;
    system.cloud.set_redirects("enable: false");
    let result = both(system, second, &settings, &run);
    system.cloud.set_redirects(REDIRECTS);
    if system.cloud.cloudcore().is_ok() {
        system.cloud.stop()?;
    }
    system.cloud.start()?;
    result?;
    system.node_ready(seconds(60))
}

fn both(system: &mut System, mut second: CloudHost, settings: &Settings, run: &Path) -> Result<()> {
    let mut hosts = Vec::new();
    for name in ["replica-1", "replica-2"] {
        hosts.push(EdgeHost::start(settings, run, name, Wire::Veth)?);
    }
    second.set_redirects("enable: false");
    for host in &hosts {
        system.cloud.advertise(host.number().cloud_address());
        second.advertise(host.number().cloud_address());
    }
    system.cloud.start()?;
    second.start()?;
    let first = system.cloud.cloudcore()?.pid();
    let ours = is_ours(&program(&settings.edge, "edgecore")?);
    let ways = [system.cloud.uplink()?, second.uplink()?];
    let stream = Balancer::start(Turn::Each, ways.iter().map(|way| way.stream).collect())?;
    let mut balancers = Vec::new();
    let mut redirects = Vec::new();
    let namespace = system.namespace("replicas")?;
    for (number, edge) in hosts.iter_mut().enumerate() {
        // Each edge is at one of them, and at the other one when that is gone.
        let mut order = ways.to_vec();
        order.rotate_left(number);
        let mut balanced = |port: fn(&Uplink) -> u16| -> Result<u16> {
            let balancer = Balancer::start(Turn::First, order.iter().map(port).collect())?;
            let port = balancer.port();
            balancers.push(balancer);
            Ok(port)
        };
        let uplink = Uplink {
            websocket: balanced(|way| way.websocket)?,
            https: balanced(|way| way.https)?,
            tunnel: balanced(|way| way.tunnel)?,
            stream: stream.port(),
            token: system.cloud.token()?,
        };
        redirects.push(Redirect::new(edge, stream.port())?);
        edge.write_config(&uplink)?;
        edge.start_edgecore()?;
        let node = api::node_path(edge.name());
        wait::until("an edge Ready", seconds(60), || {
            Ok(system
                .api()
                .get(&node)?
                .filter(|node| api::condition(node, "Ready") == "True"))
        })?;
        let pod = bare(edge.name(), edge.name(), "", TICKER);
        system.cluster.apply(&namespace, &pod)?;
        system.until_pod("pod Ready", (&namespace, edge.name()), 60, |pod| {
            api::is_ready(pod).then_some(())
        })?;
    }
    let names: Vec<String> = hosts.iter().map(|host| host.name().to_owned()).collect();
    let run = |pod: &str| kubectl(system, &["exec", "-n", &namespace, pod, "--", "echo", "here"], b"");
    for name in &names {
        // By each of them: the one without the tunnel hears later who has it.
        wait::until("exec works", seconds(60), || {
            for _ in 0..2 {
                let said = run(name)?;
                ensure!(said.text() == "here\n", "{}", said.error());
            }
            Ok(Some(()))
        })?;
        // Twice on each cloudcore.
        for _ in 0..4 {
            let said = run(name)?;
            ensure!(said.text() == "here\n", "{name}: {}", said.error());
        }
    }
    let metrics = http_body(&second.monitor(), "/metrics")?;
    ensure!(
        metrics.contains("cloudcore_tunnel_tunnels 1\n"),
        "the second cloudcore has not the tunnel of one edge: {:?}",
        metrics
            .lines()
            .find(|line| line.starts_with("cloudcore_tunnel_tunnels"))
    );
    by_address(system, &hosts, &ways)?;
    without_token(system, &namespace, &mut hosts[1], ways[0].stream)?;
    let (mut execs, mut logs) = under_way(system, &hosts[1], &namespace, first, &ways)?;
    owner_gone(system, &mut second, &mut hosts[1], &run)?;
    ends(&mut execs, &mut logs, "lost its connection")?;
    wait::until("nothing is left of what was under way", seconds(60), || {
        let left = forwards(first, ways[1].tunnel)?;
        let commands = shells(&hosts[1], &namespace, &names[1])?;
        // An edge of Go's may keep its commands.
        ensure!(
            left == 0 && (commands == 0 || !ours),
            "{left} connections, {commands} commands"
        );
        Ok(Some(()))
    })?;
    for _ in 0..4 {
        let said = run(&names[0])?;
        ensure!(
            said.text() == "here\n",
            "while the other cloudcore is dead: {}",
            said.error()
        );
    }
    wait::until(
        "exec works for the edge of the cloudcore that was killed",
        seconds(60),
        || {
            let said = run(&names[1])?;
            ensure!(said.text() == "here\n", "{}", said.error());
            Ok(Some(()))
        },
    )?;
    second.start()?;
    for name in names.iter().chain(&names) {
        let said = run(name)?;
        ensure!(said.text() == "here\n", "with both again, {name}: {}", said.error());
    }
    system.api().delete(&format!("/api/v1/namespaces/{namespace}"))?;
    wait::until("the pods are gone", seconds(60), || {
        Ok(system.pods(&namespace)?.is_empty().then_some(()))
    })?;
    for edge in &mut hosts {
        edge.stop_edgecore()?;
        system.api().delete(&api::node_path(edge.name()))?;
    }
    second.stop()
}

/// Commands and a follower on an edge of the second cloudcore, which all go by way of the first.
fn under_way(
    system: &System,
    edge: &EdgeHost,
    namespace: &str,
    first: Pid,
    ways: &[Uplink],
) -> Result<(Vec<Running>, Running)> {
    let _way = Redirect::new(edge, ways[0].stream)?;
    let begun = begin(system, namespace, edge.name())?;
    let passed_on = forwards(first, ways[1].tunnel)?;
    ensure!(passed_on >= 3, "{passed_on} of 3 requests were passed on");
    Ok(begun)
}

/// How many connections a cloudcore has to the tunnel port of another one.
fn forwards(cloudcore: Pid, port: u16) -> Result<usize> {
    let links = process::connections_to(cloudcore, port)?;
    let files = std::fs::read_dir(format!("/proc/{cloudcore}/fd"))?;
    let targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    Ok(targets.filter(|target| links.contains(target)).count())
}

/// Who knows no more of an edge than its address, as metrics-server may, is answered by either cloudcore.
fn by_address(system: &System, hosts: &[EdgeHost], ways: &[Uplink]) -> Result<()> {
    for (host, way) in hosts.iter().flat_map(|host| ways.iter().map(move |way| (host, way))) {
        let said = health(system, host, way.stream)?;
        ensure!(said == "ok\n200", "{} at port {}: {said}", host.name(), way.stream);
    }
    Ok(())
}

/// What a cloudcore answers to a question for an edge's health by the edge's address, and in the last line the status.
fn health(system: &System, edge: &EdgeHost, stream: u16) -> Result<String> {
    let pki = system.cluster.pki()?;
    let mut command = Command::new("curl");
    command
        .args(["-sk", "-m", "35", "-w", "\n%{http_code}", "--cert"])
        .arg(pki.join("kubelet-client.crt"));
    command.arg("--key").arg(pki.join("kubelet-client.key"));
    command.args(["-H", &format!("Host: {}:10351", edge.number().address())]);
    process::run(command.arg(format!("https://127.0.0.1:{stream}/healthz")))
}

/// What is passed on to the cloudcore of an edge's tunnel comes to the edge without the caller's token.
fn without_token(system: &System, namespace: &str, edge: &mut EdgeHost, stream: u16) -> Result<()> {
    let kubectl = |words: &[&str]| system.cluster.kubectl(words);
    let edgecore = edge.edgecore()?.pid();
    let (edge, server) = (&*edge, format!("127.0.0.1:{stream}"));
    let token = token_of(system, namespace, "caller")?;
    let bearer = format!("Authorization: Bearer {}", token.trim());
    let (role, account) = (
        "--clusterrole=system:kubelet-api-admin",
        format!("--serviceaccount={namespace}:caller"),
    );
    kubectl(&["create", "clusterrolebinding", namespace, role, &account])?;
    let unseen = unseen("passed on", edgecore, token.trim(), &|mark| {
        let status = process::run(asking(edge, &server, "healthz").args(["-H", bearer.as_str(), "-H", mark]))?;
        ensure!(status == "200", "{status}");
        Ok(())
    });
    kubectl(&["delete", "clusterrolebinding", namespace])?;
    unseen
}

/// The cloudcore that has an edge's tunnel dies while the edge does not notice: whoever asks is told by a 503 which one it was.
fn owner_gone(
    system: &System,
    second: &mut CloudHost,
    edge: &mut EdgeHost,
    exec: &dyn Fn(&str) -> Result<Said>,
) -> Result<()> {
    let node = system.api().must(&api::node_path(edge.name()))?;
    let owner = text(&node, "/metadata/annotations/kubeedge.io~1tunnel").to_owned();
    let stream = system.cloud.uplink()?.stream;
    let edgecore = edge.edgecore()?.pid();
    process::signal(edgecore, Signal::SIGSTOP);
    second.kill();
    let said = exec(edge.name());
    let answer = health(system, edge, stream);
    process::signal(edgecore, Signal::SIGCONT);
    let answer = answer?;
    ensure!(
        answer.ends_with("\n503") && answer.contains(&owner),
        "the owner {owner:?} of the tunnel is gone, yet: {answer}"
    );
    let said = said?.error();
    ensure!(
        !owner.is_empty() && said.contains("cannot be reached") && said.contains(&owner),
        "the owner {owner:?} of the tunnel is gone, yet: {said}"
    );
    println!("    {}", said.trim());
    Ok(())
}

/// Sends the API server's connections to an edge's tunnel ports to a port of this machine, until it is dropped: a later edge has that
/// address again. Of two the newer one counts.
struct Redirect {
    rule: Vec<String>,
}

impl Redirect {
    fn new(edge: &EdgeHost, port: u16) -> Result<Self> {
        let target = format!("{}:{port}", edge.number().cloud_address());
        let address = edge.number().address();
        let rule = [
            "OUTPUT",
            "-p",
            "tcp",
            "-d",
            &address,
            "--dport",
            "10351:10360",
            "-j",
            "DNAT",
            "--to-destination",
            &target,
        ];
        let rule: Vec<String> = rule.map(str::to_owned).into();
        Self::change("-I", &rule)?;
        Ok(Self { rule })
    }

    fn change(action: &str, rule: &[String]) -> Result<()> {
        let mut command = Command::new("iptables");
        process::run(command.args(["-w", "-t", "nat", action]).args(rule)).map(drop)
    }
}

impl Drop for Redirect {
    fn drop(&mut self) {
        if let Err(error) = Self::change("-D", &self.rule) {
            println!("    {error:#}");
        }
    }
}
