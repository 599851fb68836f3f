//! A slow line full of bulk: what is urgent passes all the same.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use proto::{Content, Group, Message, MsgId, Operation};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::super::{IDLE, bare};
use super::{NODE, call, is_ready, request};
use crate::api::{self, text};
use crate::cloud::http_body;
use crate::link::Quality;
use crate::system::{Context, System};
use crate::talker::{Talker, Way, inside};
use crate::wait::{self, pause, seconds};

/// What an urgent message is to take beside a bulk transfer, both ways; ten times that fails.
const URGENT: Duration = Duration::from_secs(1);
const MEGABIT: u32 = 1_000_000;
/// Bytes of the object that comes down.
const BULK: usize = 900_000;
/// Bytes of a record that goes up.
const RECORD: usize = 200_000;
/// How old the edge's lease may become, which it renews every 10 s (s): the API server would take it for lost after 40.
const LEASE: f64 = 15.0;

/// A line of 1 Mbit/s that is full of what the edge itself has to take, and then of what a node made by hand sends and gets: the edge stays
/// Ready and renews its lease in time, and the node's urgent messages and their answers pass all the same, acknowledgements too.
pub(super) fn slow_line(context: &mut Context, way: Way) -> Result<()> {
    let period = seconds(if context.long { 60 } else { 12 });
    // Long enough for a lease that nobody renews to become too old.
    let own = seconds(if context.long { 60 } else { 20 });
    let system = context.system()?;
    let name = way.name();
    let namespace = system.namespace(&format!("bulk-{name}"))?;
    let node = json!({"metadata": {"name": NODE, "labels": {"node-role.kubernetes.io/edge": ""}}});
    if system.api().get(&api::node_path(NODE))?.is_none() {
        system.api().create("/api/v1/nodes", &node)?;
    }
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    for (map, text) in [("big", bulk(0)), ("small", String::new()), ("own", String::new())] {
        let map = json!({"metadata": {"name": map}, "data": {"k": text}});
        system.api().create(&maps, &map)?;
    }
    let volume = "  volumes: [{name: own, configMap: {name: own}}]";
    let container = format!("{IDLE}\n    volumeMounts: [{{name: own, mountPath: /own}}]");
    let carrier = bare("carrier", system.edge.name(), volume, &container);
    system.cluster.apply(&namespace, &carrier)?;
    system.converged("carrier Running", &namespace, 1, 60)?;
    let link = Quality {
        delay: Duration::from_millis(20),
        rate: MEGABIT,
        ..Quality::default()
    };
    system.edge.link()?.set(link);
    let carried = carry(system, &format!("{maps}/own"), own)?;
    let main = system.edge.container(&namespace, "carrier", "main")?;
    wait::until("the last of it in the container", seconds(60), || {
        let start = system.edge.exec(&main, &["head", "-c", "8", "/own/k"])?;
        Ok((start == format!("{:08}", carried - 1)).then_some(()))
    })?;
    println!("    {name}: {carried} changes of {BULK} bytes for the edge, which kept its lease");
    let volumes = "  volumes: [{name: big, configMap: {name: big}}, {name: small, configMap: {name: small}}]";
    system.cluster.apply(&namespace, &bare("reader", NODE, volumes, IDLE))?;
    let (call, resource) = (call(system)?, format!("{namespace}/configmap/big"));
    let (connected, connection) = std::sync::mpsc::sync_channel(1);
    let measured = inside(system.edge.number(), move || async move {
        let mut talker = Talker::connect(&call, way).await?;
        connected.send(())?;
        let up = busy(&mut talker, period, &Bulk::Up).await.context("up")?;
        let down = busy(&mut talker, period, &Bulk::Down(resource)).await.context("down")?;
        Ok([("up", up), ("down", down)])
    });
    // Without a connection the talker says why there is none.
    let is_connected = connection.recv_timeout(seconds(50)).is_ok();
    let until = is_connected.then(|| Instant::now() + period - URGENT * 2);
    let changed = changing(system, &format!("{maps}/small"), until, || measured.is_finished());
    let measured = measured.join().map_err(|_| anyhow::anyhow!("the talker panicked"));
    system.edge.link()?.set(Quality::default());
    system.cluster.kubectl(&[
        "-n",
        &namespace,
        "delete",
        "pod",
        "reader",
        "--force",
        "--grace-period=0",
    ])?;
    system.api().delete(&api::node_path(NODE))?;
    for (direction, figures) in measured?? {
        let Figures {
            p99,
            worst,
            count,
            bytes,
        } = figures;
        println!(
            "    {name} {direction}: {bytes} bytes of bulk beside {count} urgent exchanges, p99 {p99:.0?} (asked are {URGENT:?}), longest {worst:.0?}"
        );
        ensure!(bytes > 0, "no bulk passed");
        ensure!(p99 <= URGENT * 10, "{direction}: p99 is {p99:?}, asked are {URGENT:?}");
    }
    let mut changed = changed?;
    let (p99, worst) = slowest(&mut changed)?;
    println!(
        "    {name} up: {} changes acknowledged, p99 {p99:.0?} (asked are {URGENT:?}), longest {worst:.0?}",
        changed.len()
    );
    system.clean(&namespace)
}

/// A large text, another one for each number.
fn bulk(number: usize) -> String {
    format!("{number:08}{}", "x".repeat(BULK))
}

/// A large ConfigMap of a pod on the edge changes as soon as the edge has acknowledged all there is, for a time; the edge stays alive
/// meanwhile. Returns how often.
fn carry(system: &System, map: &str, period: Duration) -> Result<usize> {
    let start = Instant::now();
    let mut carried = 0;
    while start.elapsed() < period {
        let (before, _) = states(system)?;
        let change = json!({"data": {"k": bulk(carried)}});
        system.api().patch(map, &change)?;
        loop {
            is_alive(system)?;
            let (acknowledged, oldest) = states(system)?;
            if acknowledged > before && oldest <= 0.0 {
                break;
            }
            ensure!(
                start.elapsed() < period * 10,
                "{carried} changes have come, the next one has not"
            );
            pause(Duration::from_millis(500));
        }
        carried += 1;
    }
    Ok(carried)
}

/// The edge's node is Ready, and its lease is not older than a renewal and what that may take.
fn is_alive(system: &System) -> Result<()> {
    ensure!(is_ready(system)?, "the edge left Ready");
    let name = system.edge.name();
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}");
    let lease = system.api().must(&path)?;
    let renewed: Timestamp = text(&lease, "/spec/renewTime")
        .parse()
        .context("the lease's renewTime")?;
    let age = Timestamp::now().duration_since(renewed).as_secs_f64();
    ensure!(age <= LEASE, "the edge's lease is {age:.1} s old");
    Ok(())
}

/// Until the talker is done the edge stays alive; a ConfigMap of the talker's node changes again and again up to a moment at which its
/// bulk still fills the direction of the acknowledgements. Returns how long each change took until it was acknowledged.
fn changing(system: &System, map: &str, until: Option<Instant>, is_done: impl Fn() -> bool) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    while !is_done() {
        if until.is_some_and(|until| Instant::now() < until) {
            let (before, _) = states(system)?;
            let start = Instant::now();
            let change = json!({"data": {"k": times.len().to_string()}});
            system.api().patch(map, &change)?;
            wait::quietly("a change is acknowledged", URGENT * 10, || {
                let (acknowledged, oldest) = states(system)?;
                Ok((acknowledged > before && oldest <= 0.0).then_some(()))
            })?;
            times.push(start.elapsed());
        }
        is_alive(system)?;
        pause(Duration::from_millis(500));
    }
    Ok(times)
}

/// How many objects nodes have acknowledged, and for how many seconds the oldest waits that they have not.
fn states(system: &System) -> Result<(f64, f64)> {
    let text = http_body(&system.cloud.monitor(), "/metrics")?;
    let value = |name: &str| {
        let start = format!("cloudcore_hub_messages_{name}{{class=\"state\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&start));
        value.map(str::parse::<f64>).transpose()
    };
    let oldest = value("oldest_age_seconds")?.context("no age of the oldest message")?;
    // Not told before the first one.
    Ok((value("acked_total")?.unwrap_or_default(), oldest))
}

enum Bulk {
    /// An object that is asked for again and again.
    Down(String),
    /// Records of no consequence.
    Up,
}

struct Figures {
    p99: Duration,
    worst: Duration,
    count: usize,
    /// Bytes of bulk messages that have passed, or begun to.
    bytes: usize,
}

/// Keeps one direction full, and measures urgent exchanges meanwhile.
async fn busy(talker: &mut Talker, period: Duration, bulk: &Bulk) -> Result<Figures> {
    let mut tick = interval(Duration::from_millis(100));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // Made once: what takes time here would count as the line's.
    let mut record = request(Operation::Upload, "e2e/bulk");
    record.group = Group::User;
    record.content = Content::text(&"x".repeat(RECORD));
    let record = record.encode();
    let start = Instant::now();
    let (mut open, mut times): (HashMap<MsgId, Instant>, Vec<Duration>) = (HashMap::new(), Vec::new());
    let (mut asked, mut bytes): (Option<MsgId>, usize) = (None, 0);
    // What is left of the other direction's bulk may hold up the first object of this one.
    while start.elapsed() < period || (bytes == 0 && start.elapsed() < period * 10) {
        match bulk {
            Bulk::Down(resource) if asked.is_none() => {
                let question = request(Operation::Query, resource);
                asked = Some(question.id.clone());
                talker.say(&question);
            }
            Bulk::Up if talker.waiting() == 0 => {
                talker.say_bulk(record.clone());
                bytes += record.len();
            }
            _ => {}
        }
        tokio::select! {
            heard = talker.hear() => {
                let message = heard?;
                let parent = message.parent.clone();
                if let Some(since) = parent.as_ref().and_then(|id| open.remove(id)) {
                    times.push(since.elapsed());
                    continue;
                }
                if parent.is_some() && parent == asked {
                    asked = None;
                    bytes += message.content.get().len();
                    if message.content.get().len() < BULK {
                        bail!("instead of the object: {}", message.content.get());
                    }
                }
                talker.say(&Message::ack_of(&message));
            }
            _ = tick.tick() => {
                // A lease: as urgent as a keepalive, and answered.
                let question = request(Operation::Query, &format!("kube-node-lease/lease/{NODE}"));
                open.insert(question.id.clone(), Instant::now());
                talker.say(&question);
                talker.say(&Message::keepalive());
            }
        }
    }
    // Those still under way count with the time they took so far.
    let late = timeout(Duration::from_secs(10), async {
        while !open.is_empty() {
            let message = talker.hear().await?;
            if let Some(since) = message.parent.as_ref().and_then(|id| open.remove(id)) {
                times.push(since.elapsed());
            }
        }
        anyhow::Ok(())
    });
    let _ = late.await;
    times.extend(open.values().map(Instant::elapsed));
    let (p99, worst) = slowest(&mut times)?;
    Ok(Figures {
        p99,
        worst,
        count: times.len(),
        bytes,
    })
}

/// The 99th percentile and the longest.
fn slowest(times: &mut [Duration]) -> Result<(Duration, Duration)> {
    times.sort_unstable();
    let worst = times.last().copied().context("no exchange")?;
    let p99 = times.get(times.len() * 99 / 100).copied();
    Ok((p99.unwrap_or(worst), worst))
}
