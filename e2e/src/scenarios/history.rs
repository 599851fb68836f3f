//! The history of values at the edge, at the size that it has by default.

use anyhow::{Context as _, Result, ensure};
use rumqttc::QoS;
use serde_json::{Value, json};

use super::devices::kit::Plant;
use super::mappers::configure;
use super::{Entry, needs_our_edge};
use crate::api::{elements, number, text};
use crate::system::Context;
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[("history_ten_thousand", false, ten_thousand)];

/// Values that are kept, that are published, and at a time.
const KEPT: usize = 10_000;
const PUBLISHED: usize = 10_500;
const AT_A_TIME: usize = 500;
/// Bytes of the file.
const BUDGET: i64 = 2 * 1024 * 1024;

/// The newest 10,000 of more values are kept, all of them, in the order of their time and within their bytes; they are found by time.
fn ten_thousand(context: &mut Context) -> Result<()> {
    needs_our_edge(context, "a history of values at the edge")?;
    let keys = format!("history: {{enable: true, maxValues: {KEPT}, maxBytes: {BUDGET}}}");
    configure(context.system()?, &[&keys])?;
    let outcome = kept(context);
    configure(context.system()?, &[])?;
    outcome
}

fn kept(context: &mut Context) -> Result<()> {
    let plant = Plant::new(context, "history", &["n"])?;
    plant.create("t1", &[("n", "0")])?;
    plant.until_known("t1")?;
    publish(&plant)?;
    let wanted: Vec<String> = (PUBLISHED - KEPT..PUBLISHED).map(|number| number.to_string()).collect();
    // A value is answered before it is written.
    let values = wait::until("the newest are kept", seconds(30), || {
        let values = all(&plant)?;
        let texts: Vec<&str> = values.iter().map(|(_, value)| value.as_str()).collect();
        ensure!(
            texts == wanted,
            "{} values are kept, from {:?} to {:?}",
            texts.len(),
            texts.first(),
            texts.last()
        );
        Ok(Some(values))
    })?;
    ensure!(values.is_sorted_by_key(|(time, _)| *time), "not in the order of time");
    by_time(&plant, &values)?;
    let metrics = plant.system.edge.fetch("http://127.0.0.1:10350/metrics")?;
    let bytes = metrics
        .lines()
        .find_map(|line| line.strip_prefix("edgecore_history_bytes "));
    let bytes: i64 = bytes.context("edgecore_history_bytes in /metrics")?.trim().parse()?;
    println!("    {KEPT} values of {PUBLISHED} kept in {bytes} bytes");
    ensure!(bytes > 0 && bytes <= BUDGET, "{bytes} bytes");
    plant.clean()
}

fn publish(plant: &Plant<'_>) -> Result<()> {
    let (mark, result) = (plant.mqtt.mark(), plant.topic("t1", "twin/update/result"));
    for first in (0..PUBLISHED).step_by(AT_A_TIME) {
        for number in first..first + AT_A_TIME {
            plant.publish("t1", &format!("n-{number}"), &[("n", &number.to_string())])?;
        }
        wait::quietly("the values answered", seconds(60), || {
            let answered = plant.mqtt.count(mark, |one| one.topic == result);
            ensure!(
                answered == first + AT_A_TIME,
                "{answered} of {} are answered",
                first + AT_A_TIME
            );
            Ok(Some(()))
        })?;
    }
    Ok(())
}

/// All values with their times, page by page.
fn all(plant: &Plant<'_>) -> Result<Vec<(i64, String)>> {
    let (mut values, mut after) = (Vec::new(), String::new());
    loop {
        let page = ask(plant, &format!("limit=1000{after}"))?;
        values.extend(values_of(&page));
        match text(&page, "/next") {
            "" => return Ok(values),
            next => after = format!("&after={next}"),
        }
    }
}

/// The moment of one in the middle gives it, and before the oldest there is nothing.
fn by_time(plant: &Plant<'_>, values: &[(i64, String)]) -> Result<()> {
    let middle = values.get(KEPT / 2).context("the one in the middle")?;
    let (time, next) = (middle.0, middle.0 + 1);
    let found = values_of(&ask(plant, &format!("from={time}&to={next}"))?);
    ensure!(
        found.contains(middle) && found.iter().all(|(at, _)| *at == time),
        "{middle:?} is not in {found:?}"
    );
    let oldest = values.first().context("the oldest")?.0;
    let before = values_of(&ask(plant, &format!("to={oldest}"))?);
    ensure!(before.is_empty(), "before the oldest: {before:?}");
    over_mqtt(plant, (time, next), &found)
}

/// The same question over MQTT has the same answer.
fn over_mqtt(plant: &Plant<'_>, (from, to): (i64, i64), wanted: &[(i64, String)]) -> Result<()> {
    let topic = plant.topic("t1", "history/get");
    let question = json!({"event_id": "between", "property": "n", "from": from, "to": to}).to_string();
    let mark = plant.mqtt.mark();
    plant.mqtt.publish(&topic, question, QoS::AtLeastOnce)?;
    let result = format!("{topic}/result");
    let answer = plant
        .mqtt
        .expect("values between two times over MQTT", mark, seconds(10), |one| {
            (one.topic == result).then(|| one.json())
        })?;
    let found = values_of(&answer);
    ensure!(
        text(&answer, "/event_id") == "between" && found == wanted,
        "{wanted:?} over HTTP, over MQTT {answer}"
    );
    Ok(())
}

fn ask(plant: &Plant<'_>, query: &str) -> Result<Value> {
    let base = format!("http://127.0.0.1:10350/devices/{}/t1/history", plant.namespace);
    let answer = plant.system.edge.fetch(&format!("{base}?property=n&{query}"))?;
    serde_json::from_str(&answer).with_context(|| answer)
}

fn values_of(page: &Value) -> Vec<(i64, String)> {
    elements(page, "/values")
        .map(|one| (number(one, "/time"), text(one, "/value").to_owned()))
        .collect()
}
