//! The marks of devices: what a mapper's values cost from MQTT at the edge to the API.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rumqttc::QoS;

use super::{Bench, CPU_WINDOW, LIMIT, SETTLE};
use crate::mqtt::{self, Client};
use crate::process;
use crate::scenarios::devices::input::{BURST, WRITES, Writes, check_pace};
use crate::scenarios::devices::kit::{Plant, Sides, owned, update};
use crate::settings::Settings;
use crate::wait::{self, pause, seconds};

/// The marks.
pub(super) const NAMES: [&str; 3] = ["twin-answer", "twin-api", "twin-load"];
/// Updates of one device, as fast as they go.
const UPDATES: usize = 2_000;
/// Devices that are updated once a second, and how many of them at a time.
const DEVICES: usize = 1_000;
const AT_A_TIME: usize = 10;
/// How many writes a second all devices of a node may cause, and how many more.
const WRITES_OF_NODE: f64 = 100.0;
const BURST_OF_NODE: f64 = 100.0;

/// What a burst of updates took.
struct Burst {
    answered: usize,
    answer: f64,
    api: f64,
    writes: usize,
}

impl Bench {
    /// Takes those of the marks that are wanted.
    pub(super) fn devices(&mut self, settings: &Settings, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
        let sides = Sides::of(settings)?;
        if wanted("twin-answer") || wanted("twin-api") {
            for (end, qos) in [("", QoS::AtMostOnce), ("@qos1", QoS::AtLeastOnce)] {
                let burst = self.burst(sides, qos)?;
                let Burst { answered, writes, .. } = burst;
                if wanted("twin-answer") {
                    let note = format!("runs=1 {answered} of {UPDATES} updates answered on MQTT");
                    self.push(&format!("twin-answer{end}"), burst.answer, "s", note);
                }
                if wanted("twin-api") {
                    let note = format!("runs=1 the last of {UPDATES} values in the API, {writes} writes");
                    self.push(&format!("twin-api{end}"), burst.api, "s", note);
                }
            }
        }
        if wanted("twin-load") {
            self.twin_load(sides)?;
        }
        Ok(())
    }

    /// 2,000 values of one device.
    fn burst(&mut self, sides: Sides, qos: QoS) -> Result<Burst> {
        let plant = Plant::on(&mut self.system, sides, "burst", &["n"], mqtt::INTERNAL)?;
        plant.create("t1", &[("n", "0")])?;
        plant.until_known("t1")?;
        plant.prime("t1", &[("n", "first")])?;
        let writes = Writes::watch(&plant)?;
        let (mark, topic, start) = (plant.mqtt.mark(), plant.topic("t1", "twin/update"), Instant::now());
        for number in 1..=UPDATES {
            let payload = update(&format!("n-{number}"), &[("n", &number.to_string())]);
            plant.mqtt.publish(&topic, payload, qos)?;
        }
        let result = format!("{topic}/result");
        let count = || plant.mqtt.count(mark, |one| one.topic == result);
        // With QoS 0 the broker of another edge may lose some: what came until nothing more comes is told. Ours makes a client wait
        // before it loses what the client says, and its answers have room for far more than these.
        let mut last = (count(), Instant::now());
        wait::quietly("the answers", LIMIT, || {
            if count() != last.0 {
                last = (count(), Instant::now());
            }
            Ok((last.0 == UPDATES || last.1.elapsed() > seconds(10)).then_some(()))
        })?;
        let (answered, answer) = (last.0, (last.1 - start).as_secs_f64());
        ensure!(
            answered == UPDATES || (qos == QoS::AtMostOnce && !sides.edge),
            "{answered} of {UPDATES} were answered"
        );
        let newest = owned(&[("n", &UPDATES.to_string())]);
        wait::quietly("the last value in the API", LIMIT, || {
            Ok((plant.reported("t1")? == newest).then_some(()))
        })?;
        let api = start.elapsed().as_secs_f64();
        if sides.cloud {
            check_pace("API writes", writes.count(), start, WRITES, BURST)?;
        }
        let writes = writes.count();
        plant.clean()?;
        Ok(Burst {
            answered,
            answer,
            api,
            writes,
        })
    }

    /// 1,000 devices, each updated once a second: what edgecore needs for it.
    fn twin_load(&mut self, sides: Sides) -> Result<()> {
        let plant = Plant::on(&mut self.system, sides, "load", &["n"], mqtt::INTERNAL)?;
        let names: Vec<String> = (0..DEVICES).map(|number| format!("t{number}")).collect();
        for name in &names {
            plant.create(name, &[("n", "0")])?;
        }
        wait::until("all devices known at the edge", LIMIT, || {
            let known = plant.members("load")?.len();
            ensure!(known == DEVICES, "membership/get tells of {known}");
            Ok(Some(()))
        })?;
        let pid = plant.system.edge.edgecore()?.pid();
        let results = format!("$hw/events/device/{}/+/twin/update/result", plant.namespace);
        let mapper = Client::connect(&plant.system.edge, mqtt::INTERNAL, &[&results])?;
        let mut sent = feed(&plant, &mapper, &names, SETTLE / 2, 0)?;
        let (cpu, start) = (process::cpu_seconds(pid)?, Instant::now());
        let writes = Writes::watch(&plant)?;
        let watched = Instant::now();
        sent = feed(&plant, &mapper, &names, CPU_WINDOW, sent)?;
        let cores = (process::cpu_seconds(pid)? - cpu) / start.elapsed().as_secs_f64();
        let memory = process::resident_mb(pid)?;
        if sides.cloud {
            check_pace("API writes of one device", writes.most(), watched, WRITES, BURST)?;
            check_pace("API writes", writes.count(), watched, WRITES_OF_NODE, BURST_OF_NODE)?;
        }
        let writes = f64::from(u32::try_from(writes.count())?) / watched.elapsed().as_secs_f64();
        wait::quietly("all updates answered", LIMIT, || {
            let answered = mapper.mark();
            ensure!(answered == sent, "{answered} of {sent} are answered");
            Ok(Some(()))
        })?;
        // The newest of each device; programs of others are asked for the last of all.
        let judged = if sides.cloud && sides.edge { DEVICES } else { 1 };
        for last in sent - judged..sent {
            let newest = owned(&[("n", &last.to_string())]);
            let device = &names[last % DEVICES];
            wait::quietly("the last value in the API", LIMIT, || {
                let shown = plant.reported(device)?;
                ensure!(shown == newest, "{device}: the API shows {shown:?}, not {last}");
                Ok(Some(()))
            })?;
        }
        plant.clean()?;
        let note = format!(
            "{DEVICES} devices, {sent} updates in all, one a second each, all answered; {writes:.0} API writes/s"
        );
        self.push("twin-load", cores, "cores", note.clone());
        self.push("twin-load@rss", memory, "MB", note);
        Ok(())
    }
}

/// Updates one device after the other, all once a second, for a time; returns the number of the next update.
fn feed(plant: &Plant<'_>, mapper: &Client, names: &[String], time: Duration, first: usize) -> Result<usize> {
    let (start, mut number) = (Instant::now(), first);
    let step = Duration::from_secs(1) * u32::try_from(AT_A_TIME)? / u32::try_from(names.len())?;
    let mut due = start;
    while start.elapsed() < time {
        for _ in 0..AT_A_TIME {
            let topic = plant.topic(&names[number % names.len()], "twin/update");
            let payload = update(&number.to_string(), &[("n", &number.to_string())]);
            mapper.publish(&topic, payload, QoS::AtLeastOnce)?;
            number += 1;
        }
        due += step;
        pause(due.saturating_duration_since(Instant::now()));
    }
    Ok(number)
}
