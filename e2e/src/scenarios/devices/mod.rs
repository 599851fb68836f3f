//! Devices end to end: models and devices in the cloud, mappers on MQTT at the edge, and what lies between.

mod faults;
pub(crate) mod input;
pub(crate) mod kit;
mod offline;
mod old_clients;
mod restarts;

use anyhow::{Context as _, Result, ensure};
use rumqttc::QoS;
use serde_json::json;

use self::kit::{MODEL, Plant, owned, rejoin, rows, update};
use super::{Entry, our_edge};
use crate::api::{self, text};
use crate::edge::Keys;
use crate::process;
use crate::system::{Context, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[
    ("device_life", false, life),
    ("device_bad_input", false, input::bad_input),
    ("device_bad_input_external", false, input::bad_input_external),
    ("device_rate", false, input::rate),
    ("device_rate_configured", false, input::rate_configured),
    ("device_offline", false, offline::offline),
    ("device_created_offline", false, offline::created_offline),
    ("device_restarts", false, restarts::restarts),
    ("device_replicas", false, faults::replicas),
    ("device_old_clients", false, old_clients::old_clients),
];

/// A device from its creation to its deletion: membership, model and device at the edge, a value up, a desired value down, its
/// state, and nothing left of it on either side. Its values are remembered where that is configured, and not where nothing is.
fn life(context: &mut Context) -> Result<()> {
    if !our_edge(context)? {
        return lived(context);
    }
    remember(context.system()?, &["history: {enable: true}"])?;
    let outcome = lived(context);
    remember(context.system()?, &[])?;
    outcome?;
    forgotten(context)
}

/// As an edge comes it keeps no history of a device whose value it has.
fn forgotten(context: &mut Context) -> Result<()> {
    let plant = Plant::new(context, "forgotten", &["temperature"])?;
    plant.create("t1", &[("temperature", "30")])?;
    plant.until_known("t1")?;
    plant.prime("t1", &[("temperature", "20")])?;
    let status = history(&plant)?;
    ensure!(status == "404", "a history that is off is answered {status}");
    plant.clean()
}

/// Restarts edgecore with these keys of `deviceTwin`.
fn remember(system: &mut System, keys: &[&str]) -> Result<()> {
    let twin = keys.iter().map(|line| (*line).to_owned()).collect();
    let keys = Keys {
        twin,
        ..Keys::default()
    };
    rejoin(system, |edge| edge.set_keys(keys))
}

fn lived(context: &mut Context) -> Result<()> {
    let plant = Plant::new(context, "life", &["temperature", "humidity"])?;
    let limit = plant.sides.limit();
    let id = format!("{}/t1", plant.namespace);
    let mark = plant.mqtt.mark();
    plant.create("t1", &[("temperature", "30")])?;
    plant
        .mqtt
        .expect("device created: membership on MQTT", mark, limit, |one| {
            let content = one.json();
            let added = api::elements(&content, "/added_devices").any(|device| text(device, "/id") == id);
            (one.topic.ends_with("/membership/updated") && added).then_some(())
        })?;
    wait::until("device and model in edgecore's database", limit, || {
        ensure!(plant.stored("devicemodel", MODEL)?.is_some(), "no model is stored");
        let desired = plant.stored_desired("t1", "temperature")?;
        Ok(desired.filter(|value| value == "30"))
    })?;
    plant.until_known("t1")?;

    plant.prime("t1", &[("temperature", "20")])?;
    published(
        &plant,
        &plant.topic("t1", "twin/update"),
        &update("up", &[("temperature", "21")]),
    )?;
    let wanted = owned(&[("temperature", "21")]);
    plant.until_reported("value published: in the API", "t1", &wanted, limit)?;
    ensure!(
        plant.twin("t1", "get")? == wanted,
        "twin/get: {:?}",
        plant.twin("t1", "get")?
    );
    state(&plant)?;

    plant.desire("t1", &[("temperature", "35")])?;
    wait::until("desired value changed: in edgecore's database", limit, || {
        let desired = plant.stored_desired("t1", "temperature")?;
        Ok(desired.filter(|value| value == "35"))
    })?;
    let version = |device: &serde_json::Value| text(device, "/metadata/resourceVersion").to_owned();
    let device = plant.system.api().must(&plant.path("devices", "t1"))?;
    let stored = plant.stored("device", "t1")?.context("the stored device")?;
    ensure!(version(&device) == version(&stored), "the edge stores another version");
    if plant.sides.cloud {
        anew(&plant)?;
    }
    gone(&plant)?;
    plant.clean()
}

/// A device's state reaches the API, with the time of it.
fn state(plant: &Plant<'_>) -> Result<()> {
    let (mark, result) = (plant.mqtt.mark(), plant.topic("t1", "state/update/result"));
    let question = json!({"event_id": "s", "timestamp": 1, "state": "online"}).to_string();
    plant
        .mqtt
        .publish(&plant.topic("t1", "state/update"), question, QoS::AtLeastOnce)?;
    let limit = plant.sides.limit();
    plant.mqtt.expect("state published: answered", mark, limit, |one| {
        (one.topic == result && text(&one.json(), "/device/state") == "online").then_some(())
    })?;
    let path = plant.path("devicestatuses", "t1");
    wait::until("state published: in the API", limit, || {
        let status = plant.system.api().must(&path)?;
        let time = text(&status, "/status/lastOnlineTime");
        ensure!(text(&status, "/status/state") == "online", "{}", status["status"]);
        ensure!(time.parse::<jiff::Timestamp>().is_ok(), "lastOnlineTime is {time:?}");
        Ok(Some(()))
    })
}

/// A device that is created under the name of one that was deleted just now has a status of its own, with nothing of the other's.
fn anew(plant: &Plant<'_>) -> Result<()> {
    let (api, limit, path) = (plant.system.api(), plant.sides.limit(), plant.path("devices", "t2"));
    plant.create("t2", &[("temperature", "30")])?;
    plant.until_known("t2")?;
    plant.prime("t2", &[("temperature", "20")])?;
    api.delete(&path)?;
    plant.create("t2", &[("humidity", "50")])?;
    let device = api.must(&path)?;
    let uid = text(&device, "/metadata/uid");
    wait::until("device created anew: in edgecore's database", limit, || {
        let stored = plant.stored("device", "t2")?;
        Ok(stored.filter(|stored| text(stored, "/metadata/uid") == uid).map(drop))
    })?;
    plant.report("t2", "anew", &[("humidity", "41")], limit)?;
    wait::until("device created anew: its own status in the API", limit, || {
        let status = api.get(&plant.path("devicestatuses", "t2"))?.unwrap_or_default();
        let owner = text(&status, "/metadata/ownerReferences/0/uid");
        ensure!(owner == uid, "the status is of {owner}, not of {uid}");
        let shown = plant.reported("t2")?;
        ensure!(shown == owned(&[("humidity", "41")]), "the API shows {shown:?}");
        Ok(Some(()))
    })?;
    api.delete(&path)
}

/// The device is deleted, then its model.
fn gone(plant: &Plant<'_>) -> Result<()> {
    let (api, limit, mark) = (plant.system.api(), plant.sides.limit(), plant.mqtt.mark());
    let id = format!("{}/t1", plant.namespace);
    ensure!(!plant.sides.edge || history(plant)? == "200", "nothing is remembered");
    api.delete(&plant.path("devices", "t1"))?;
    plant
        .mqtt
        .expect("device deleted: membership on MQTT", mark, limit, |one| {
            let content = one.json();
            let removed = api::elements(&content, "/removed_devices").any(|device| text(device, "/id") == id);
            (one.topic.ends_with("/membership/updated") && removed).then_some(())
        })?;
    wait::until("device deleted: gone from edgecore's database", limit, || {
        let unconfirmed = match plant.sides.edge {
            true => format!(
                " UNION ALL SELECT deviceid FROM device_unconfirmed WHERE deviceid = '{id}' \
                 UNION ALL SELECT deviceid FROM device_uid WHERE deviceid = '{id}'"
            ),
            false => String::new(),
        };
        let query = format!(
            "SELECT id FROM device WHERE id = '{id}' UNION ALL SELECT name FROM device_twin WHERE deviceid = '{id}' \
             UNION ALL SELECT name FROM device_attr WHERE deviceid = '{id}' \
             UNION ALL SELECT key FROM meta WHERE key IN ('{0}/device/t1', '{0}/devicemodel/{MODEL}') \
             OR type = 'mappertold' AND key LIKE '%/device/{id}'{unconfirmed}",
            plant.namespace
        );
        let left = rows(&plant.system.edge, &query)?;
        ensure!(left.is_empty(), "left: {left}");
        Ok(Some(()))
    })?;
    if plant.sides.edge {
        wait::until("device deleted: nothing is remembered", limit, || {
            let status = history(plant)?;
            ensure!(status == "404", "its history is answered {status}");
            Ok(Some(()))
        })?;
    }
    // The garbage collector of Kubernetes learns of new kinds every half minute.
    wait::until("device deleted: no DeviceStatus", seconds(90), || {
        Ok(api.get(&plant.path("devicestatuses", "t1"))?.is_none().then_some(()))
    })?;
    api.delete(&plant.path("devicemodels", MODEL))
}

/// The HTTP status of a question for the device's history.
fn history(plant: &Plant<'_>) -> Result<String> {
    let url = format!("http://127.0.0.1:10350/devices/{}/t1/history", plant.namespace);
    let mut command = plant.system.edge.command("curl");
    let status = process::run(command.args(["-s", "-m", "3", "-o", "/dev/null", "-w", "%{http_code}", &url]))?;
    Ok(status.trim().to_owned())
}

/// Publishes as people do by hand: with mosquitto's program.
fn published(plant: &Plant<'_>, topic: &str, payload: &str) -> Result<()> {
    let mut publisher = plant.system.edge.command("mosquitto_pub");
    let port = plant.port.to_string();
    process::run(publisher.args(["-p", &port, "-q", "1", "-t", topic, "-m", payload])).map(drop)
}
