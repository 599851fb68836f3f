//! What happens to devices while their node is away: nothing is lost, and all of it is there as soon as the node is back.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::json;

use super::super::dmi::Mapper;
use super::kit::{MODEL, Plant, Values, owned};
use crate::api::{self, text};
use crate::settings::Settings;
use crate::system::Context;
use crate::wait::{self, pause, seconds};

/// Properties of the device whose link is cut.
const PROPERTIES: [&str; 10] = ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9"];
/// Updates while the link is cut, and how long it is at least, in seconds: as asked, and scaled.
const LONG: (usize, u64) = (10_000, 60);
const SHORT: (usize, u64) = (1_000, 3);
/// The device that is made again.
const AGAIN: &str = "again";
/// What our edgecore logs when it has noticed: after 20 s of silence.
const NOTICED: &str = "connection to cloudcore lost";

/// A mapper goes on while the link is cut: edgecore answers all of it, half of it before it has noticed (ours), half after that, and after
/// the link's return the API shows the newest value of each property, and no older one again.
pub(super) fn offline(context: &mut Context) -> Result<()> {
    let (updates, cut) = if context.long { LONG } else { SHORT };
    let plant = Plant::new(context, "offline", &PROPERTIES)?;
    let first = PROPERTIES.map(|property| (property, "first"));
    plant.create("t1", &PROPERTIES.map(|property| (property, "0")))?;
    plant.until_known("t1")?;
    plant.prime("t1", &first)?;

    let noticed = || plant.system.edge.log().matches(NOTICED).count();
    let before = noticed();
    let link = plant.system.edge.link()?;
    link.cut();
    let (start, mark) = (Instant::now(), plant.mqtt.mark());
    let mut newest = Values::new();
    for number in 0..updates {
        if number == updates / 2 && plant.sides.edge {
            wait::until("link cut: the edge notices", seconds(120), || {
                Ok((noticed() > before).then_some(()))
            })?;
        }
        let property = PROPERTIES[number % PROPERTIES.len()];
        let value = number.to_string();
        plant.publish("t1", &format!("offline-{number}"), &[(property, &value)])?;
        newest.insert(property.to_owned(), value);
    }
    let result = plant.topic("t1", "twin/update/result");
    wait::until("all updates answered without a cloud", seconds(60), || {
        let answered = plant.mqtt.count(mark, |one| one.topic == result);
        ensure!(answered == updates, "{answered} of {updates} are answered");
        Ok(Some(()))
    })?;
    pause(seconds(cut).saturating_sub(start.elapsed()));
    link.heal();
    let limit = plant.sides.limit() * 2;
    plant.until_reported(
        "link back: the newest values in the API (asked: 2 s)",
        "t1",
        &newest,
        limit,
    )?;
    wait::stays("and no older ones", seconds(2), || Ok(plant.reported("t1")? == newest))?;
    ensure!(
        plant.twin("t1", "after")? == newest,
        "the edge has {:?}",
        plant.twin("t1", "after")?
    );
    plant.clean()
}

/// Devices created, changed and deleted while edgecore is away are so at the edge right after its return; of ours a mapper hears of them,
/// and of a model that changed meanwhile, and a device that was deleted and made again begins anew.
pub(super) fn created_offline(context: &mut Context) -> Result<()> {
    let settings = context.settings.clone();
    let plant = Plant::new(context, "away", &["temperature"])?;
    for name in ["goes", "stays"] {
        plant.create(name, &[("temperature", "1")])?;
        plant.until_known(name)?;
    }
    let ours = plant.sides.cloud && plant.sides.edge;
    if ours {
        plant.create(AGAIN, &[("temperature", "1")])?;
        plant.until_known(AGAIN)?;
        plant.prime(AGAIN, &[("temperature", "9")])?;
    }
    let mut mapper = ours.then(|| serving(&plant, &settings)).transpose()?;
    plant.system.edge.stop_edgecore()?;
    describe_model(&plant, "in the hall")?;
    plant.create("comes", &[("temperature", "1")])?;
    plant.desire("stays", &[("temperature", "2")])?;
    plant.system.api().delete(&plant.path("devices", "goes"))?;
    if ours {
        plant.system.api().delete(&plant.path("devices", AGAIN))?;
        plant.create(AGAIN, &[("temperature", "1")])?;
    }
    plant.system.edge.start_edgecore()?;
    plant.system.node_ready(seconds(60))?;
    let names = [AGAIN, "comes", "stays"]
        .into_iter()
        .filter(|name| ours || *name != AGAIN);
    let wanted: Vec<String> = names.map(|name| format!("{}/{name}", plant.namespace)).collect();
    // Edgecore has to start and to dial first.
    wait::until(
        "node back: membership is what the API says",
        plant.sides.limit() * 3,
        || {
            let members = plant.members("back")?;
            ensure!(members == wanted, "membership/get tells of {members:?}");
            Ok(Some(()))
        },
    )?;
    wait::until("node back: so is edgecore's database", plant.sides.limit(), || {
        let gone = plant.stored("device", "goes")?.is_none();
        ensure!(gone, "the deleted device is still stored");
        let desired = plant.stored_desired("stays", "temperature")?;
        ensure!(desired.as_deref() == Some("2"), "the desired value is {desired:?}");
        Ok(plant.stored("device", "comes")?.map(drop))
    })?;
    if let Some(mapper) = &mut mapper {
        let calls = vec![
            ("UpdateDeviceModel", "in the hall"),
            ("RegisterDevice", "comes"),
            ("UpdateDevice", "stays"),
            ("RemoveDevice", "goes"),
            ("RemoveDevice", AGAIN),
            ("RegisterDevice", AGAIN),
        ];
        mapper.called_all("node back: the mapper is told", calls, plant.sides.limit())?;
        wait::until(
            "node back: what was made again begins anew",
            plant.sides.limit(),
            || {
                let twin = plant.twin(AGAIN, "anew")?;
                ensure!(twin.is_empty(), "its twin has {twin:?}");
                Ok(Some(()))
            },
        )?;
        // The value that the former one had.
        plant.prime(AGAIN, &[("temperature", "9")])?;
    }
    plant.prime("comes", &[("temperature", "20")])?;
    plant.report("comes", "next", &[("temperature", "21")], plant.sides.limit())?;
    let wanted = owned(&[("temperature", "21")]);
    plant.until_reported(
        "a value of the new device in the API",
        "comes",
        &wanted,
        plant.sides.limit(),
    )?;
    plant.clean()
}

/// A mapper that registered, and knows all devices.
fn serving(plant: &Plant<'_>, settings: &Settings) -> Result<Mapper> {
    let mut mapper = Mapper::start(plant.system, settings, "go", "virtual", "away")?;
    wait::quietly("the mapper registers and gets its devices", seconds(60), || {
        mapper.say("register")?;
        let answer = mapper.answer("MapperRegister")?;
        let knows = |name: &str| api::elements(&answer, "/response/deviceList").any(|one| text(one, "/name") == name);
        Ok(["goes", "stays", AGAIN].into_iter().all(knows).then_some(()))
    })?;
    mapper.say("serve")?;
    Ok(mapper)
}

/// Changes nothing but the model.
fn describe_model(plant: &Plant<'_>, description: &str) -> Result<()> {
    let property =
        json!({"name": "temperature", "type": "STRING", "accessMode": "ReadWrite", "description": description});
    let patch = json!({"spec": {"properties": [property]}});
    let path = plant.path("devicemodels", MODEL);
    plant.system.api().patch(&path, &patch).map(drop)
}
