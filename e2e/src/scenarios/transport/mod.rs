//! The hub's two transports: pods over QUIC, networks that swallow UDP, a board that moves, slow and bad lines. Only ours speak QUIC.

mod slow;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use common::line::quic::end_of_route;
use proto::{Content, Group, Message, MsgId, Operation, Route, Source};
use tokio::time::{MissedTickBehavior, interval};

use slow::slow_line;

use super::authorizer::{door_of, now};
use super::{Entry, IDLE, bare, faults, needs_our_cloud, pods, volumes, workloads};
use crate::api;
use crate::link::Quality;
use crate::settings::{Settings, is_ours, program};
use crate::system::{Context, Skip, System};
use crate::talker::{Call, Talker, Way, inside};
use crate::wait::{self, pause, seconds};

pub(super) const LIST: &[Entry] = &[
    ("quic_pods", false, pods_over_quic),
    ("quic_link_cut", false, |context| {
        over_quic(context, faults::link_cut_silently)
    }),
    ("quic_udp_blocked", false, |context| over_quic(context, udp_blocked)),
    ("quic_address_change", false, |context| {
        over_quic(context, address_change)
    }),
    ("bad_line_websocket", false, |context| bad_line(context, Way::WebSocket)),
    ("bad_line_quic", false, |context| bad_line(context, Way::Quic)),
    ("slow_line_websocket", false, |context| {
        with_extras(context)?;
        slow_line(context, Way::WebSocket)
    }),
    ("slow_line_quic", false, |context| {
        over_quic(context, |context| slow_line(context, Way::Quic))
    }),
];

/// The node made by hand.
const NODE: &str = "talker-1";
/// After so long without UDP the node is connected by WebSocket (s); ten times that is waited.
const FALL_BACK: f64 = 5.0;

fn with_extras(context: &mut Context) -> Result<()> {
    let Settings { cloud, edge, .. } = &context.settings;
    if is_ours(&program(cloud, "cloudcore")?) && is_ours(&program(edge, "edgecore")?) {
        return Ok(());
    }
    Err(Skip("only our programs speak QUIC and have lanes".into()).into())
}

/// Runs a scenario with the shared edge on QUIC, and puts it back on WebSocket.
fn over_quic(context: &mut Context, scenario: impl FnOnce(&mut Context) -> Result<()>) -> Result<()> {
    with_extras(context)?;
    switch(context.system()?, true)?;
    let outcome = scenario(context);
    let back = switch(context.system()?, false);
    outcome.and(back)
}

/// The scenarios of pods, all of them over QUIC; with `--long` also the long ones and those that break things.
fn pods_over_quic(context: &mut Context) -> Result<()> {
    let long = context.long;
    let lists = [workloads::LIST, volumes::LIST, pods::LIST]
        .into_iter()
        .chain(long.then_some(faults::LIST));
    over_quic(context, |context| {
        for (name, needs_long, scenario) in lists.flatten() {
            if *needs_long && !long {
                continue;
            }
            let start = Instant::now();
            scenario(context).with_context(|| format!("{name} over QUIC"))?;
            println!("    {name} over QUIC: {:.1} s", start.elapsed().as_secs_f64());
            let last = connections(context.system()?).pop();
            ensure!(
                last.as_deref() == Some("quic"),
                "after {name} the edge is connected by {last:?}"
            );
        }
        Ok(())
    })
}

fn switch(system: &mut System, quic: bool) -> Result<()> {
    system.edge.set_quic(quic);
    system.edge.write_config(&system.cloud.uplink()?)?;
    system.edge.stop_edgecore()?;
    let before = connections(system).len();
    system.edge.start_edgecore()?;
    let wanted = if quic { "quic" } else { "websocket" };
    wait::quietly(&format!("connected over {wanted}"), seconds(50), || {
        let all = connections(system);
        Ok((all.len() > before && all.last().is_some_and(|last| last == wanted)).then_some(()))
    })?;
    system.node_ready(seconds(60))
}

/// The transports of the edge's connections since its log began.
fn connections(system: &System) -> Vec<String> {
    let log = system.edge.log();
    let lines = log.lines().filter(|line| line.contains("connected to cloudcore"));
    let transports = lines.filter_map(|line| {
        let (_, rest) = line.split_once("transport=")?;
        let word = rest.split_whitespace().next()?;
        Some(word.trim_matches('"').to_owned())
    });
    transports.collect()
}

/// UDP is dropped in the midst of a session: the node is connected by WebSocket within seconds and never leaves Ready, also when its
/// edgecore starts anew meanwhile; once UDP passes again, it is back on QUIC.
fn udp_blocked(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let port = system.cloud.uplink()?.quic().to_string();
    let rules = |system: &System, what: &str| -> Result<()> {
        for (chain, end) in [("OUTPUT", "--dport"), ("INPUT", "--sport")] {
            let arguments = ["-w", what, chain, "-p", "udp", end, port.as_str(), "-j", "DROP"];
            crate::process::run(system.edge.command("iptables").args(arguments))?;
        }
        Ok(())
    };
    let by_websocket = |system: &System, what: &str, before: usize| {
        wait::until(what, seconds(50), || {
            let all = connections(system);
            Ok((all.len() > before && all.last().is_some_and(|last| last == "websocket")).then_some(()))
        })
    };
    let before = connections(system).len();
    rules(system, "-A")?;
    let start = Instant::now();
    let fallen = by_websocket(system, "connected by WebSocket", before);
    let took = start.elapsed().as_secs_f64();
    let ready = fallen.and_then(|()| {
        ensure!(is_ready(system)?, "the node is not Ready");
        changed_label(system, "blocked")?;
        // One that has never had a session over QUIC finds its way too.
        system.edge.stop_edgecore()?;
        let before = connections(system).len();
        system.edge.start_edgecore()?;
        by_websocket(system, "connected by WebSocket after a restart", before)?;
        changed_label(system, "blocked-again")
    });
    rules(system, "-D")?;
    ready?;
    println!("    connected by WebSocket {took:.2} s after UDP was blocked, asked are {FALL_BACK} s");
    wait::until("back on QUIC", seconds(120), || {
        ensure!(is_ready(system)?, "the node left Ready");
        Ok(connections(system)
            .last()
            .is_some_and(|last| last == "quic")
            .then_some(()))
    })?;
    changed_label(system, "back")
}

fn is_ready(system: &System) -> Result<bool> {
    let node = system.api().must(&api::node_path(system.edge.name()))?;
    Ok(api::condition(&node, "Ready") == "True")
}

/// A pod comes and goes: messages pass both ways.
fn changed_label(system: &System, name: &str) -> Result<()> {
    let namespace = system.namespace(name)?;
    system
        .cluster
        .apply(&namespace, &bare("one", system.edge.name(), "", IDLE))?;
    system.converged("a pod runs", &namespace, 1, 60)?;
    system.clean(&namespace)
}

/// The board's address changes while a Deployment rolls and a node made by hand asks numbered questions: no question and no answer is
/// lost, and nobody connects again.
fn address_change(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let call = call(system)?;
    let host = system.edge.number();
    let asked = inside(host, move || async move {
        let mut talker = Talker::connect(&call, Way::Quic).await?;
        numbered(&mut talker, &MOVING).await
    });
    let namespace = system.namespace("moving")?;
    system.cluster.apply(&namespace, &super::web("web", 1))?;
    system.converged("Deployment Running", &namespace, 1, 60)?;
    let (before, log) = (connections(system).len(), system.edge.log().len());
    let old = host.address();
    let new = old
        .strip_suffix(".2")
        .map(|network| format!("{network}.3"))
        .context("an edge is number 2")?;
    // Of two addresses with the same prefix the second would go with the first.
    let (old, new) = (format!("{old}/24"), format!("{new}/25"));
    for (from, to) in [(&old, &new), (&new, &old)] {
        host.inside(&["addr", "add", to, "dev", "eth0"])?;
        // With its address go its routes.
        host.inside(&["addr", "del", from, "dev", "eth0"])?;
        host.inside(&[
            "route",
            "replace",
            "default",
            "via",
            &host.cloud_address(),
            "dev",
            "eth0",
        ])?;
        system
            .cluster
            .kubectl(&["-n", &namespace, "rollout", "restart", "deployment/web"])?;
        pause(seconds(4));
    }
    let outcome = asked.join().map_err(|_| anyhow::anyhow!("the talker panicked"))?;
    system
        .cluster
        .kubectl(&["-n", &namespace, "rollout", "status", "deployment/web", "--timeout=60s"])?;
    system.converged("rolled", &namespace, 1, 60)?;
    let (count, longest) = outcome?;
    println!("    {count} questions, all answered once, the slowest in {longest:?}");
    let log = system.edge.log().split_off(log);
    ensure!(log.contains("address changed"), "edgecore did not see the change");
    ensure!(connections(system).len() == before, "edgecore connected again:\n{log}");
    system.clean(&namespace)
}

fn call(system: &System) -> Result<Call> {
    let door = door_of(system)?;
    let card = door.forge(NODE, now(), Duration::from_secs(86_400), "[2]")?;
    Ok(Call {
        address: system.edge.number().cloud_address(),
        uplink: system.cloud.uplink()?,
        tls: door.client(&card)?,
        node: NODE.to_owned(),
    })
}

/// The line of the marks `link@ws` and `link@quic`, on which packets also overtake each other.
const BAD: Quality = Quality {
    delay: Duration::from_millis(200),
    jitter: Duration::from_millis(50),
    loss: 0.05,
    rate: 0,
    cut: false,
};

/// Packets are late, lost and overtaken: each numbered question of a node made by hand is answered once all the same.
fn bad_line(context: &mut Context, way: Way) -> Result<()> {
    needs_our_cloud(context, "a line with lanes")?;
    let system = context.system()?;
    let call = call(system)?;
    let (connected, connection) = std::sync::mpsc::sync_channel(1);
    let asked = inside(system.edge.number(), move || async move {
        let mut talker = Talker::connect(&call, way).await?;
        connected.send(())?;
        numbered(&mut talker, &BURSTS).await
    });
    let link = system.edge.link()?;
    let before = link.overtaken();
    // Without a connection the talker says why there is none.
    if connection.recv_timeout(seconds(50)).is_ok() {
        link.set(BAD);
    }
    let outcome = asked.join().map_err(|_| anyhow::anyhow!("the talker panicked"));
    let overtaken = link.overtaken() - before;
    link.heal();
    let (count, longest) = outcome??;
    println!(
        "    {count} questions, all answered once, the slowest in {longest:.0?}; {overtaken} packets were overtaken"
    );
    ensure!(overtaken > 0, "no packet overtook another");
    system.node_ready(seconds(120))
}

/// How questions are asked.
struct Pace {
    at_once: usize,
    every: Duration,
    period: Duration,
    /// How long the last answers may take.
    patience: Duration,
}

/// Beside a host that moves.
const MOVING: Pace = Pace {
    at_once: 1,
    every: Duration::from_millis(20),
    period: Duration::from_secs(14),
    patience: Duration::from_secs(20),
};
/// Packets close to each other, as those that overtake are, and fewer than a line that loses so many can carry.
const BURSTS: Pace = Pace {
    at_once: 6,
    every: Duration::from_secs(1),
    period: Duration::from_secs(10),
    patience: Duration::from_secs(120),
};

/// Asks numbered questions and, over QUIC, follows the host's address as edgecore does; returns how many were asked and the longest
/// wait.
async fn numbered(talker: &mut Talker, pace: &Pace) -> Result<(usize, Duration)> {
    let mut address = talker.path.as_ref().and_then(|path| end_of_route(path.remote()).ok());
    let (mut ask, mut alive, mut look) = (
        interval(pace.every),
        interval(Duration::from_secs(10)),
        interval(Duration::from_millis(500)),
    );
    ask.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let start = Instant::now();
    let mut open: HashMap<MsgId, Instant> = HashMap::new();
    let (mut count, mut longest) = (0, Duration::ZERO);
    loop {
        let asking = start.elapsed() < pace.period;
        if !asking && open.is_empty() {
            return Ok((count, longest));
        }
        ensure!(
            start.elapsed() < pace.period + pace.patience,
            "{} of {count} questions were not answered",
            open.len()
        );
        tokio::select! {
            heard = talker.hear() => {
                let message = heard?;
                let since = message.parent.as_ref().and_then(|id| open.remove(id));
                let since = since.with_context(|| format!("an answer that nobody waits for: {}", message.route))?;
                longest = longest.max(since.elapsed());
            }
            _ = ask.tick(), if asking => {
                for _ in 0..pace.at_once {
                    let question = request(Operation::Query, "k8s/ca.crt");
                    open.insert(question.id.clone(), Instant::now());
                    talker.say(&question);
                }
                count += pace.at_once;
            }
            _ = alive.tick() => talker.say(&Message::keepalive()),
            _ = look.tick() => {
                if let Some(path) = &talker.path
                    && let Ok(present) = end_of_route(path.remote())
                    && address != Some(present)
                {
                    address = Some(present);
                    path.rebind()?;
                }
            }
        }
    }
}

fn request(operation: Operation, resource: &str) -> Message {
    let route = Route::parse(&Group::Meta, resource);
    Message::new(Source::Edged, Group::Meta, operation, route, Content::null())
}
