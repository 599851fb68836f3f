//! EventBus by each broker that edgecore can use: its own, one that somebody else runs, both. One list of checks for all of them; what the
//! cloud has taken is asked of the cloud.

mod cloud;
mod tls;

use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use self::cloud::Taken;
use super::devices::kit::{Plant, Sides, owned, restart_with};
use super::{Entry, IDLE, bare, dmi};
use crate::api::{self, text};
use crate::edge::EdgeHost;
use crate::mqtt::{EXTERNAL, INTERNAL, start_mosquitto};
use crate::process;
use crate::settings::Settings;
use crate::system::{Context, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[
    ("eventbus_external", false, external),
    ("eventbus_own_broker", false, own_broker),
    ("eventbus_both_brokers", false, both_brokers),
    ("eventbus_tls", false, tls::external),
    ("eventbus_own_broker_tls", false, tls::own_broker),
];

/// Questions of the measurement.
const QUESTIONS: u32 = 2000;

/// A way into MQTT on the edge's host: a port there, and what mosquitto's clients have to say besides.
struct Door {
    port: u16,
    login: Vec<String>,
}

impl Door {
    const fn open(port: u16) -> Self {
        Self {
            port,
            login: Vec::new(),
        }
    }

    /// One of mosquitto's clients at this door.
    fn client(&self, edge: &EdgeHost, program: &str) -> Command {
        let mut command = edge.command("timeout");
        command.args([
            "10",
            program,
            "-h",
            "127.0.0.1",
            "-p",
            &self.port.to_string(),
            "-q",
            "1",
        ]);
        command.args(&self.login);
        command
    }
}

/// The shared system while edgecore runs with keys of the scenario, and what its cloud takes.
struct Bench<'a> {
    system: &'a mut System,
    sides: Sides,
    cloud: Taken,
}

impl Bench<'_> {
    fn edge(&self) -> &EdgeHost {
        &self.system.edge
    }

    /// Waits for a line of edgecore's log; all else goes on.
    fn told(&self, line: &str) -> Result<()> {
        wait::until(line, seconds(20), || Ok(self.edge().log().contains(line).then_some(())))
    }
}

/// Mode 2: first without a broker, which is one line and stops nothing; then with one, which goes away and comes back.
fn external(context: &mut Context) -> Result<()> {
    let settings = context.settings.clone();
    with_keys(context, &external_keys(2), |bench| {
        if bench.sides.edge {
            bench.told("no MQTT broker")?;
            // As long as a few tries take.
            wait::stays("one line for a missing broker", seconds(3), || {
                Ok(bench.edge().log().matches("no MQTT broker").count() == 1)
            })?;
            goes_on(bench, &settings)?;
        }
        let doors = [Door::open(EXTERNAL)];
        let mut broker = start_mosquitto(bench.edge())?;
        checks(bench, &doors)?;
        if bench.sides.edge {
            measure(&settings, bench.edge(), EXTERNAL)?;
        }
        broker.kill();
        let _broker = start_mosquitto(bench.edge())?;
        answers(bench, &doors[0])?;
        let topic = bench.cloud.by_rule();
        until_uploaded(bench, &doors[0], &topic, "a rule's topic after an outage of the broker")
    })
}

/// Without a broker: a pod runs, and a mapper's value reaches the API.
fn goes_on(bench: &Bench<'_>, settings: &Settings) -> Result<()> {
    let system = &*bench.system;
    let namespace = system.namespace("nobroker")?;
    system
        .cluster
        .apply(&namespace, &bare("main", system.edge.name(), "", IDLE))?;
    system.until_pod("no broker: a pod Ready", (&namespace, "main"), 60, |pod| {
        api::is_ready(pod).then_some(())
    })?;
    system.clean(&namespace)?;
    dmi::serves_a_mapper(system, settings, "nobroker", bench.sides.limit())
}

/// Mode 0.
fn own_broker(context: &mut Context) -> Result<()> {
    let keys = ["mqttMode: 0".to_owned(), internal_key()];
    with_keys(context, &keys, |bench| checks(bench, &[Door::open(INTERNAL)]))
}

/// Mode 1: what comes by either of the two is taken once.
fn both_brokers(context: &mut Context) -> Result<()> {
    let mut keys = external_keys(1);
    keys.push(internal_key());
    let _broker = start_mosquitto(&context.system()?.edge)?;
    let doors = [Door::open(INTERNAL), Door::open(EXTERNAL)];
    with_keys(context, &keys, |bench| checks(bench, &doors))
}

fn external_keys(mode: u8) -> Vec<String> {
    vec![
        format!("mqttMode: {mode}"),
        format!("mqttServerExternal: tcp://127.0.0.1:{EXTERNAL}"),
    ]
}

fn internal_key() -> String {
    format!("mqttServerInternal: tcp://127.0.0.1:{INTERNAL}")
}

/// What holds by every broker. The doors are those of one edgecore.
fn checks(bench: &mut Bench<'_>, doors: &[Door]) -> Result<()> {
    for door in doors {
        answers(bench, door)?;
        value(bench, door)?;
    }
    uploads(bench, doors)?;
    subscriptions(bench, doors)
}

/// Runs edgecore with these keys of `eventBus`, and then as it was.
fn with_keys(context: &mut Context, keys: &[String], work: impl FnOnce(&mut Bench<'_>) -> Result<()>) -> Result<()> {
    let sides = Sides::of(&context.settings)?;
    let system = context.system()?;
    restart(system, keys)?;
    let outcome = Taken::by(system, sides).and_then(|cloud| {
        let mut bench = Bench { system, sides, cloud };
        work(&mut bench)?;
        bench.cloud.clean(bench.system)
    });
    restart(context.system()?, &[])?;
    outcome
}

/// The log begins anew: its lines are counted.
fn restart(system: &mut System, keys: &[String]) -> Result<()> {
    let _ = std::fs::remove_file(system.edge.folder().join("edgecore.log"));
    restart_with(system, keys.to_vec())
}

/// What `mosquitto_rr` hears on one topic after it published on another.
fn ask(edge: &EdgeHost, door: &Door, topic: &str, payload: &str) -> Result<Value> {
    let answer = format!("{topic}/result");
    let mut command = door.client(edge, "mosquitto_rr");
    command.args(["-V", "311", "-W", "3", "-t", topic, "-e", &answer, "-m", payload]);
    let answer = process::run(&mut command)?;
    serde_json::from_str(&answer).with_context(|| format!("{topic}: {answer:?}"))
}

/// The node tells its devices, and, ours, that it does not know one, whichever form its name has: Go answers that on the topic of no device.
fn answers(bench: &Bench<'_>, door: &Door) -> Result<()> {
    let edge = bench.edge();
    let membership = format!("$hw/events/node/{}/membership/get", edge.name());
    wait::until(&format!("an answer over MQTT, port {}", door.port), seconds(20), || {
        ask(edge, door, &membership, r#"{"event_id":"m1"}"#)
            .map(|answer| (text(&answer, "/event_id") == "m1").then_some(()))
    })?;
    if !bench.sides.edge {
        return Ok(());
    }
    for device in ["default/nobody", "nobody"] {
        let topic = format!("$hw/events/device/{device}/twin/get");
        let answer = ask(edge, door, &topic, r#"{"event_id":"g1"}"#)?;
        ensure!(
            answer.pointer("/code").and_then(Value::as_i64) == Some(404),
            "{device}: {answer}"
        );
    }
    Ok(())
}

/// A device's value that is published here is in the API.
fn value(bench: &mut Bench<'_>, door: &Door) -> Result<()> {
    let name = format!("bus-{}", door.port);
    let plant = Plant::on(bench.system, bench.sides, &name, &["temperature"], door.port)?;
    let limit = plant.sides.limit();
    plant.create("t1", &[("temperature", "1")])?;
    plant.until_known("t1")?;
    plant.prime("t1", &[("temperature", "20")])?;
    plant.report("t1", "value", &[("temperature", "21")], limit)?;
    let what = format!("a value published at port {}: in the API", door.port);
    plant.until_reported(&what, "t1", &owned(&[("temperature", "21")]), limit)?;
    plant.clean()
}

fn publish(edge: &EdgeHost, door: &Door, topic: &str, payload: &[u8]) -> Result<()> {
    let file = edge.folder().join("payload");
    std::fs::write(&file, payload)?;
    let mut command = door.client(edge, "mosquitto_pub");
    process::run(command.args(["-t", topic, "-f"]).arg(&file)).map(drop)
}

/// Numbers, published by all doors in turn.
fn publish_numbers(bench: &Bench<'_>, doors: &[Door], numbers: std::ops::Range<u32>) -> Result<Vec<String>> {
    let topic = bench.cloud.always();
    let numbers: Vec<String> = numbers.map(|number| format!("number {number}")).collect();
    for (number, door) in numbers.iter().zip(doors.iter().cycle()) {
        publish(bench.edge(), door, &topic, number.as_bytes())?;
    }
    Ok(numbers)
}

/// Uploads reach the cloud, each once; of ours those of a time without a link too, and over a stop: Go's edgecore drops them.
fn uploads(bench: &mut Bench<'_>, doors: &[Door]) -> Result<()> {
    for door in doors {
        until_uploaded(bench, door, &bench.cloud.always(), "an upload")?;
    }
    let before = bench.cloud.count()?;
    let mut sent = publish_numbers(bench, doors, 0..20)?;
    bench.cloud.until("uploads: each once", before, &sent)?;
    if bench.sides.edge {
        bench.edge().set_link(false)?;
        sent.extend(unlinked(bench, doors)?);
        // Somebody else's broker keeps nothing for an edge that is away.
        if let Some(own) = doors.iter().find(|door| door.port == INTERNAL) {
            sent.extend(stopped(bench, own)?);
        }
        bench.edge().set_link(true)?;
        bench
            .cloud
            .until("uploads of a time without a link: each once", before, &sent)?;
        wait::until("an empty table", seconds(20), || {
            Ok((waiting(bench, "%")? == 0).then_some(()))
        })?;
        // One that came twice has come by now.
        bench.cloud.until("and no more", before, &sent)?;
    }
    Ok(())
}

/// Uploads while the link is cut; they are kept as they are. Gives how each of them is to arrive.
fn unlinked(bench: &Bench<'_>, doors: &[Door]) -> Result<Vec<String>> {
    let (edge, topic) = (bench.edge(), bench.cloud.always());
    if !bench.sides.cloud {
        // Go's cloud acknowledges nothing: what is handed to a connection that is dead is lost, until that is noticed.
        let probe = bench.cloud.nobodys();
        wait::until("the edge keeps uploads: it has no link", seconds(120), || {
            publish(edge, &doors[0], &probe, b"probe")?;
            wait::quietly("a row", seconds(2), || Ok((waiting(bench, &probe)? > 0).then_some(()))).map(Some)
        })?;
    }
    let mut sent = publish_numbers(bench, doors, 20..40)?;
    for door in doors {
        publish(edge, door, &topic, cloud::BINARY)?;
        sent.push(cloud::BINARY_AS_TEXT.to_owned());
    }
    let all = 20 + doors.len();
    wait::until("uploads in the database", seconds(20), || {
        Ok((waiting(bench, &topic)? == all).then_some(()))
    })?;
    let newest = "SELECT hex(payload) FROM bus_upload ORDER BY sequence DESC LIMIT 1";
    let kept = sql(edge, newest)?;
    let wanted: String = cloud::BINARY.iter().map(|byte| format!("{byte:02X}")).collect();
    ensure!(kept.trim() == wanted, "a binary payload is kept as {kept}");
    Ok(sent)
}

/// Uploads just before an orderly stop: the broker has acknowledged them, so they are kept.
fn stopped(bench: &mut Bench<'_>, own: &Door) -> Result<Vec<String>> {
    let topic = bench.cloud.always();
    let before = waiting(bench, &topic)?;
    let sent = publish_numbers(bench, std::slice::from_ref(own), 40..60)?;
    bench.system.edge.stop_edgecore()?;
    let kept = waiting(bench, &topic)?;
    ensure!(
        kept == before + sent.len(),
        "after a stop {kept} uploads wait, of {before} and {}",
        sent.len()
    );
    bench.system.edge.start_edgecore()?;
    Ok(sent)
}

/// How many uploads wait for the cloud, of topics like this.
fn waiting(bench: &Bench<'_>, topic: &str) -> Result<usize> {
    // The table is made when the first one has to wait.
    let made = "SELECT count(*) FROM sqlite_master WHERE name = 'bus_upload'";
    if sql(bench.edge(), made)?.trim() == "0" {
        return Ok(0);
    }
    let count = format!("SELECT count(*) FROM bus_upload WHERE topic LIKE '{topic}'");
    sql(bench.edge(), &count)?.trim().parse().context("a number")
}

/// Publishes until the cloud has taken one. The next one waits for the one before, which may only be slow: it would be counted later.
fn until_uploaded(bench: &Bench<'_>, door: &Door, topic: &str, what: &str) -> Result<()> {
    wait::until(&format!("{what}, port {}", door.port), seconds(60), || {
        let before = bench.cloud.count()?;
        publish(bench.edge(), door, topic, b"21")?;
        wait::quietly("it reaches the cloud", seconds(10), || {
            Ok((bench.cloud.count()? > before).then_some(()))
        })
        .map(Some)
    })
}

/// A row as a rule of the cloud leaves it is subscribed after a start.
fn subscriptions(bench: &mut Bench<'_>, doors: &[Door]) -> Result<()> {
    let topic = bench.cloud.by_rule();
    bench.system.edge.stop_edgecore()?;
    sql(
        bench.edge(),
        &format!("INSERT OR REPLACE INTO sub_topics VALUES ('{topic}')"),
    )?;
    bench.system.edge.start_edgecore()?;
    bench.system.node_ready(seconds(60))?;
    for door in doors {
        until_uploaded(
            bench,
            door,
            &topic,
            "an upload by a rule's subscription, after a restart",
        )?;
    }
    Ok(())
}

fn sql(edge: &EdgeHost, statement: &str) -> Result<String> {
    let database = edge.database();
    let mut command = Command::new("sqlite3");
    command.arg("-cmd").arg(".timeout 5000").arg(&database).arg(statement);
    process::run(&mut command)
}

/// Questions through the broker, all at once, all answered.
fn measure(settings: &Settings, edge: &EdgeHost, port: u16) -> Result<()> {
    const SCRIPT: &str = r#"
import sys, threading
import paho.mqtt.client as mqtt
port, count = int(sys.argv[1]), int(sys.argv[2])
done, heard, ready = threading.Event(), 0, threading.Event()
def message(client, _, got):
    global heard
    heard += 1
    if heard == count: done.set()
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.max_queued_messages_set(0)
client.max_inflight_messages_set(100)
client.on_message = message
client.on_subscribe = lambda *_: ready.set()
client.connect("127.0.0.1", port)
client.subscribe("$hw/events/device/+/+/twin/get/result", 0)
client.loop_start()
assert ready.wait(5)
for n in range(count): client.publish("$hw/events/device/default/nobody/twin/get", '{"event_id":"%d"}' % n, 1)
assert done.wait(60), heard
"#;
    let start = Instant::now();
    let mut command = edge.command(&settings.python);
    command.args(["-c", SCRIPT, &port.to_string(), &QUESTIONS.to_string()]);
    process::run(&mut command)?;
    println!(
        "    {QUESTIONS} questions by MQTT answered: {:.2} s",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}
