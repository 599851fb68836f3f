//! What a broken mapper publishes, and a fast one: each bad payload has its answer, memory stays, and the API server is not flooded.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rumqttc::QoS;
use serde_json::json;

use super::super::{needs_our_cloud, our_edge};
use super::kit::{Plant, owned, set_external, update};
use super::old_clients::restart_cloud;
use crate::api::{number, text};
use crate::mqtt::{EXTERNAL, Heard, start_mosquitto};
use crate::process;
use crate::system::{Context, Skip};
use crate::wait::{self, pause, seconds};

/// The properties of the device that is sent bad input.
const PROPERTIES: [&str; 2] = ["count", "a/b#c"];
/// Names of devices that do not exist, and how many of them others than ours are sent: they take a minute for all.
const TOPICS: usize = 10_000;
const TOPICS_OF_OTHERS: usize = 500;
/// What an update of such a device is answered.
const UNKNOWN: &str = "update rejected due to the device is not existed";
/// What they may cost edgecore, in MB.
const MEMORY: f64 = 8.0;
/// The longest payload that is read, in bytes.
const MEGABYTE: usize = 1024 * 1024;
/// A payload that makes a packet longer than edgecore takes from a broker, in bytes.
const TOO_LARGE: usize = 16 * MEGABYTE + 1;
/// With it the topic of an update has 65,530 bytes, and with the end of its answer's topic more than 65,535.
const LONG_NAME: usize = 65_500;
/// Updates of one device, ...
const UPDATES: usize = 2_000;
/// ... how many writes a second they may cause, ...
pub(crate) const WRITES: f64 = 10.0;
/// ... and how many at once.
pub(crate) const BURST: f64 = 10.0;
/// Where the paces are configured, so many devices ...
const DEVICES: usize = 6;
/// ... that report for so long ...
const REPORTING: Duration = seconds(2);
/// ... could be written 12 times a second by their own pace, ...
const PACES: &str = "writesPerDevice: 2, writesPerNode: 4";
/// ... but by that of their edge so often, ...
const WRITES_OF_NODE: f64 = 4.0;
/// ... with the first one at once and one that was under way before.
const BURST_OF_NODE: f64 = 2.0;

/// A payload that is refused.
struct Bad {
    what: &'static str,
    device: &'static str,
    payload: Vec<u8>,
    code: i64,
    /// What the reason begins with.
    reason: &'static str,
}

fn bad(what: &'static str, device: &'static str, payload: impl Into<Vec<u8>>, code: i64, reason: &'static str) -> Bad {
    Bad {
        what,
        device,
        payload: payload.into(),
        code,
        reason,
    }
}

/// What every edgecore answers so.
fn refused() -> Vec<Bad> {
    const UNREADABLE: &str = "Unmarshal update request body failed";
    const NO_TWIN: &str = "Update twin error";
    let with = |twin: serde_json::Value| json!({"event_id": "bad", "timestamp": 1, "twin": twin}).to_string();
    vec![
        bad("not JSON", "t1", "not json", 400, UNREADABLE),
        bad("a list", "t1", "[]", 400, UNREADABLE),
        bad("no twin", "t1", r#"{"event_id":"bad","twin":null}"#, 400, NO_TWIN),
        bad(
            "a wrong type",
            "t1",
            with(json!({"count": {"actual": {"value": "abc"}}})),
            400,
            "the value is not int or integer",
        ),
        bad(
            "an int of more than 64 bits",
            "t1",
            with(json!({"count": {"actual": {"value": "99999999999999999999"}}})),
            400,
            "the value is not int or integer",
        ),
        bad(
            "a key that is too long",
            "t1",
            with(json!({"k".repeat(129): {"actual": {"value": "1"}}})),
            400,
            "The key of twin must only include",
        ),
        bad(
            "an unknown device",
            "nobody",
            with(json!({"count": {"actual": {"value": "1"}}})),
            404,
            UNKNOWN,
        ),
    ]
}

/// What ends a worker of Go's edgecore, or is accepted there.
fn refused_by_ours() -> Vec<Bad> {
    // The longest that is read, and one byte more.
    let [megabyte, longer] = [MEGABYTE, MEGABYTE + 1].map(|length| {
        let (before, after) = (r#"{"twin":{"count":{"actual":{"value":""#, r#""}}}}"#);
        let digits = "1".repeat(length - before.len() - after.len());
        format!("{before}{digits}{after}")
    });
    vec![
        bad(
            "an actual value without a value",
            "t1",
            r#"{"twin":{"count":{"actual":{}}}}"#,
            400,
            "",
        ),
        bad(
            "a value that is no string",
            "t1",
            r#"{"twin":{"count":{"expected":{"value":1}}}}"#,
            400,
            "",
        ),
        bad("null", "t1", "null", 400, ""),
        bad("not UTF-8", "t1", b"{\"twin\":{\"\xff\":null}}".to_vec(), 400, ""),
        bad("a megabyte", "t1", megabyte, 400, "The value of twin must only include"),
        bad("more than a megabyte", "t1", longer, 400, ""),
    ]
}

/// Each bad payload is answered, ours on the topic of the device that was addressed; after all of it, after a topic that is none, and
/// after 10,000 topics of devices that do not exist, the device works as before and the same edgecore runs, which has not grown.
pub(super) fn bad_input(context: &mut Context) -> Result<()> {
    let plant = Plant::new(context, "bad", &PROPERTIES)?;
    bad_inputs(&plant)?;
    plant.clean()
}

/// The same by a broker that somebody else runs. edgecore keeps its connection to it; a packet that is too large costs it one, which it
/// makes again.
pub(super) fn bad_input_external(context: &mut Context) -> Result<()> {
    if !our_edge(context)? {
        return Err(Skip("device_bad_input has this broker where the edge is not ours".to_owned()).into());
    }
    let _broker = start_mosquitto(&context.system()?.edge)?;
    set_external(context.system()?, true)?;
    let outcome = Plant::at(context, "bad-external", &PROPERTIES, EXTERNAL).and_then(|plant| {
        bad_inputs(&plant)?;
        long_topic(&plant)?;
        too_large(&plant)?;
        plant.clean()
    });
    set_external(context.system()?, false)?;
    outcome
}

fn bad_inputs(plant: &Plant<'_>) -> Result<()> {
    plant.create("t1", &PROPERTIES.map(|property| (property, "1")))?;
    plant.until_known("t1")?;
    let (pid, connected) = (process_of(plant)?, connections(plant));
    let typed =
        json!({"event_id": "typed", "twin": {"count": {"actual": {"value": "1"}, "metadata": {"type": "int"}}}});
    let (mark, topic) = (plant.mqtt.mark(), plant.topic("t1", "twin/update"));
    plant.mqtt.publish(&topic, typed.to_string(), QoS::AtLeastOnce)?;
    plant.mqtt.expect("a good update answered", mark, seconds(10), |one| {
        (one.topic == format!("{topic}/result") && one.json().get("twin").is_some()).then_some(())
    })?;
    let mut cases = refused();
    if plant.sides.edge {
        cases.extend(refused_by_ours());
    }
    for case in &cases {
        answered(plant, case)?;
    }
    if plant.sides.edge {
        wildcard(plant)?;
    }
    // A name that MQTT would read as levels or a wildcard is one to the twin; of a device it makes a topic that is nobody's.
    plant.report("t1", "levels", &[("a/b#c", "x/y")], seconds(10))?;
    let (mark, deeper) = (plant.mqtt.mark(), plant.topic("t1/x", "twin/update"));
    plant.publish("t1/x", "deeper", &[("count", "9")])?;
    many_topics(plant)?;
    plant.report("t1", "last", &[("count", "2")], seconds(10))?;
    let answers = plant.mqtt.count(mark, |one| one.topic == format!("{deeper}/result"));
    ensure!(answers == 0, "{deeper} is answered");
    let twin = plant.twin("t1", "after")?;
    ensure!(
        twin == owned(&[("count", "2"), ("a/b#c", "x/y")]),
        "the twin is {twin:?}"
    );
    ensure!(process::alive(pid), "edgecore ended");
    ensure!(connections(plant) == connected, "edgecore lost its broker");
    Ok(())
}

/// How often our edgecore connected to a broker outside, in all of its log.
fn connections(plant: &Plant<'_>) -> usize {
    plant.system.edge.log().matches("connected to the MQTT broker").count()
}

/// The answer's topic would be longer than MQTT has any: it is not published, and edgecore keeps its connection.
fn long_topic(plant: &Plant<'_>) -> Result<()> {
    let connected = connections(plant);
    let name = format!(r"name=$(head -c {LONG_NAME} /dev/zero | tr '\0' x)");
    let topic = r#""\$hw/events/device/$name/twin/update""#;
    let script = format!("{name}; mosquitto_pub -p {} -q 1 -t {topic} -m '{{}}'", plant.port);
    process::run(plant.system.edge.command("timeout").args(["60", "bash", "-c", &script]))?;
    plant.report("t1", "after the long topic", &[("count", "3")], seconds(10))?;
    ensure!(
        connections(plant) == connected,
        "edgecore lost its broker over a long topic"
    );
    Ok(())
}

/// The broker takes a packet that edgecore does not: edgecore connects again, once, and then works as before.
fn too_large(plant: &Plant<'_>) -> Result<()> {
    let (pid, connected) = (process_of(plant)?, connections(plant));
    // A topic that the scenario's own client does not hear.
    let client = format!(
        "mosquitto_pub -p {} -q 1 -t '$hw/events/device/nobody/twin/update' -s",
        plant.port
    );
    let script = format!("head -c {TOO_LARGE} /dev/zero | {client}");
    process::run(plant.system.edge.command("timeout").args(["60", "bash", "-c", &script]))?;
    wait::until("a packet that is too large: connected again", seconds(10), || {
        Ok((connections(plant) > connected).then_some(()))
    })?;
    plant.report("t1", "again", &[("count", "4")], seconds(10))?;
    ensure!(process::alive(pid), "edgecore ended");
    ensure!(
        connections(plant) == connected + 1,
        "edgecore lost its broker more than once"
    );
    Ok(())
}

fn answered(plant: &Plant<'_>, case: &Bad) -> Result<()> {
    let (mark, topic) = (plant.mqtt.mark(), plant.topic(case.device, "twin/update"));
    plant.mqtt.publish(&topic, case.payload.clone(), QoS::AtLeastOnce)?;
    let answer = plant
        .mqtt
        .expect_quietly("an answer", mark, seconds(10), |one| {
            one.topic.ends_with("twin/update/result").then(|| one.clone())
        })
        .with_context(|| case.what)?;
    let content = answer.json();
    let (code, reason) = (number(&content, "/code"), text(&content, "/reason"));
    ensure!(
        code == case.code && reason.starts_with(case.reason),
        "{} is answered by {content}",
        case.what
    );
    if plant.sides.edge {
        ensure!(
            answer.topic == format!("{topic}/result"),
            "{} is answered on {}",
            case.what,
            answer.topic
        );
    }
    Ok(())
}

/// Who publishes on a topic with a wildcard has its connection ended (MQTT 3.1.1, 3.3.2-2). mosquitto's clients refuse to.
fn wildcard(plant: &Plant<'_>) -> Result<()> {
    let topic = plant.topic("a#b", "twin/update");
    let (body, name) = (u8::try_from(topic.len() + 4)?, topic.len());
    ensure!(body < 128, "a length of one byte");
    let connect = r"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03raw";
    let publish = format!(r"\x30\x{body:02x}\x00\x{name:02x}{topic}{{}}");
    let talk = format!("printf '{connect}' >&3; head -c 4 <&3; printf '{publish}' >&3; cat <&3");
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{}; {{ {talk}; }} | od -An -tx1", plant.port);
    let mut client = plant.system.edge.command("timeout");
    let answered = process::run(client.args(["10", "bash", "-c", &script])).context("the connection is not ended")?;
    ensure!(answered.trim() == "20 02 00 00", "the broker answered {answered}");
    Ok(())
}

fn many_topics(plant: &Plant<'_>) -> Result<()> {
    let pid = process_of(plant)?;
    let topics = if plant.sides.edge { TOPICS } else { TOPICS_OF_OTHERS };
    let (before, taken, start) = (process::resident_mb(pid)?, plant.mqtt.taken(), Instant::now());
    let mark = plant.mqtt.mark();
    for number in 0..topics {
        let topic = plant.topic(&format!("nobody-{number}"), "twin/update");
        plant
            .mqtt
            .publish(&topic, update("many", &[("count", "1")]), QoS::AtLeastOnce)?;
    }
    wait::quietly("the broker took all", seconds(60), || {
        let now = plant.mqtt.taken() - taken;
        ensure!(now >= topics, "{now} of {topics}");
        Ok(Some(()))
    })?;
    let took = start.elapsed().as_secs_f64();
    if plant.sides.edge {
        all_refused(plant, mark, topics)?;
    }
    plant.report("t1", "between", &[("count", "3")], seconds(30))?;
    let grown = process::resident_mb(pid)? - before;
    println!("    {topics} topics of unknown devices: {took:.1} s, edgecore {grown:+.1} MB of {before:.1}");
    if plant.sides.edge {
        ensure!(grown <= MEMORY, "edgecore grew by {grown:.1} MB");
    }
    Ok(())
}

/// Each of the devices that do not exist has its refusal, on a topic of its own.
fn all_refused(plant: &Plant<'_>, mark: usize, topics: usize) -> Result<()> {
    wait::until("updates of unknown devices answered", seconds(60), || {
        let now = plant.mqtt.count(mark, is_of_nobody);
        ensure!(now >= topics, "{now} of {topics} are answered");
        Ok(Some(()))
    })?;
    let mut answers = plant.mqtt.since(mark);
    answers.retain(is_of_nobody);
    let refusals = answers.iter().filter(|one| {
        let content = one.json();
        number(&content, "/code") == 404 && text(&content, "/reason") == UNKNOWN
    });
    let refused: BTreeSet<&str> = refusals.map(|one| one.topic.as_str()).collect();
    ensure!(
        answers.len() == topics && refused.len() == topics,
        "{topics} unknown devices have {} answers, {} of them are refused",
        answers.len(),
        refused.len()
    );
    Ok(())
}

/// Whether it is an answer for one of the many devices that do not exist.
fn is_of_nobody(one: &Heard) -> bool {
    one.topic.contains("/nobody-") && one.topic.ends_with("/twin/update/result")
}

fn process_of(plant: &Plant<'_>) -> Result<nix::unistd::Pid> {
    let text = std::fs::read_to_string(plant.system.edge.folder().join("edgecore.pid"))?;
    Ok(nix::unistd::Pid::from_raw(text.trim().parse()?))
}

/// A mapper publishes 2,000 values as fast as it can: all are answered, the last one is in the API, and the API server had at most 10
/// writes a second for it.
pub(super) fn rate(context: &mut Context) -> Result<()> {
    let plant = Plant::new(context, "rate", &["n"])?;
    plant.create("t1", &[("n", "0")])?;
    plant.until_known("t1")?;
    plant.prime("t1", &[("n", "first")])?;
    let writes = Writes::watch(&plant)?;
    let (mark, start) = (plant.mqtt.mark(), Instant::now());
    for number in 1..=UPDATES {
        plant.publish("t1", &format!("n-{number}"), &[("n", &number.to_string())])?;
    }
    let result = plant.topic("t1", "twin/update/result");
    wait::until("2,000 updates answered", seconds(120), || {
        let answered = plant.mqtt.count(mark, |one| one.topic == result);
        ensure!(answered == UPDATES, "{answered} of {UPDATES} are answered");
        Ok(Some(()))
    })?;
    let newest = owned(&[("n", &UPDATES.to_string())]);
    plant.until_reported("the last value in the API", "t1", &newest, seconds(120))?;
    // What comes late counts as well.
    pause(seconds(1));
    check_pace("API writes", writes.count(), start, WRITES, BURST)?;
    plant.clean()
}

/// What was written since `start` is so much a second at most, and a burst.
pub(crate) fn check_pace(what: &str, count: usize, start: Instant, pace: f64, burst: f64) -> Result<()> {
    let took = start.elapsed().as_secs_f64();
    println!("    {count} {what} in {took:.1} s");
    let allowed = pace.mul_add(took, burst);
    ensure!(
        f64::from(u32::try_from(count)?) <= allowed,
        "{count} {what} in {took:.1} s, at most {allowed:.0} are good"
    );
    ensure!(count > 0, "no write was seen: the watch does not work");
    Ok(())
}

/// With paces from the configuration, devices that report faster than their edge may be written: each ends with its newest value, and
/// the API server had no more writes for all of them than the edge may cause.
pub(super) fn rate_configured(context: &mut Context) -> Result<()> {
    needs_our_cloud(context, "a pace of writes that is configured")?;
    let mut plant = Plant::new(context, "paces", &["n"])?;
    let names: Vec<String> = (1..=DEVICES).map(|number| format!("t{number}")).collect();
    for name in &names {
        plant.create(name, &[("n", "0")])?;
    }
    for name in &names {
        plant.until_known(name)?;
    }
    let outcome = restart_cloud(&mut plant, PACES).and_then(|()| paced(&plant, &names));
    restart_cloud(&mut plant, "")?;
    outcome?;
    plant.system.node_ready(seconds(120))?;
    plant.clean()
}

fn paced(plant: &Plant<'_>, names: &[String]) -> Result<()> {
    let first = names.first().context("a device")?;
    let back = owned(&[("n", "back")]);
    wait::until("cloudcore restarted: a value in the API", seconds(60), || {
        // A Go edge drops what it is told while it has no link.
        plant.report(first, "back", &[("n", "back")], seconds(10))?;
        Ok((plant.reported(first)? == back).then_some(()))
    })?;
    let writes = Writes::watch(plant)?;
    let (start, mut number) = (Instant::now(), 0_u32);
    while start.elapsed() < REPORTING {
        number += 1;
        for name in names {
            plant.publish(name, &format!("n-{number}"), &[("n", &number.to_string())])?;
        }
        // The pace of a mapper.
        pause(Duration::from_millis(25));
    }
    let newest = owned(&[("n", &number.to_string())]);
    for name in names {
        plant.until_reported("the last value in the API", name, &newest, seconds(30))?;
    }
    wait::stays("and no other one", seconds(1), || {
        let shown: Result<Vec<_>> = names.iter().map(|name| plant.reported(name)).collect();
        Ok(shown?.iter().all(|values| *values == newest))
    })?;
    check_pace("API writes", writes.count(), start, WRITES_OF_NODE, BURST_OF_NODE)
}

/// Counts the changes of a DeviceStatus, as the API server tells them.
pub(crate) struct Writes {
    /// By the DeviceStatus.
    counts: Arc<Mutex<BTreeMap<String, usize>>>,
    kubectl: std::process::Child,
}

impl Writes {
    /// Watches all DeviceStatus of the scenario's namespace.
    pub(crate) fn watch(plant: &Plant<'_>) -> Result<Self> {
        let mut command = plant.system.cluster.kubectl_command();
        command.args(["get", "devicestatuses", "-n", &plant.namespace, "--watch", "-o", "name"]);
        let mut kubectl = command.stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(kubectl.stdout.take().context("standard output")?);
        let counts = Arc::default();
        let writes = Self {
            counts: Arc::clone(&counts),
            kubectl,
        };
        std::thread::spawn(move || {
            for name in output.lines().map_while(Result::ok) {
                *hold(&counts).entry(name).or_default() += 1;
            }
        });
        // The first lines tell what is there already.
        wait::quietly("the watch of DeviceStatus", seconds(30), || {
            Ok((writes.count() > 0).then_some(()))
        })?;
        pause(seconds(1));
        hold(&writes.counts).clear();
        Ok(writes)
    }

    /// How many so far.
    pub(crate) fn count(&self) -> usize {
        hold(&self.counts).values().sum()
    }

    /// How many of the one that was written most.
    pub(crate) fn most(&self) -> usize {
        hold(&self.counts).values().max().copied().unwrap_or_default()
    }
}

fn hold(counts: &Mutex<BTreeMap<String, usize>>) -> MutexGuard<'_, BTreeMap<String, usize>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Writes {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}
