//! What happens to devices while their node is away: nothing is lost, and all of it is there as soon as the node is back.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::kit::{Plant, Values, owned};
use crate::system::Context;
use crate::wait::{self, pause, seconds};

/// Properties of the device whose link is cut.
const PROPERTIES: [&str; 10] = ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9"];
/// Updates while the link is cut, and how long it is, in seconds: as asked, and scaled.
const LONG: (usize, u64) = (10_000, 60);
const SHORT: (usize, u64) = (1_000, 3);

/// A mapper goes on while the link is cut: edgecore answers all of it, and after the link's return the API shows the newest value of
/// each property, and no older one again.
pub(super) fn offline(context: &mut Context) -> Result<()> {
    let (updates, cut) = if context.long { LONG } else { SHORT };
    let plant = Plant::new(context, "offline", &PROPERTIES)?;
    let first = PROPERTIES.map(|property| (property, "first"));
    plant.create("t1", &PROPERTIES.map(|property| (property, "0")))?;
    plant.until_known("t1")?;
    plant.prime("t1", &first)?;

    let link = plant.system.edge.link()?;
    link.cut();
    let (start, mark) = (Instant::now(), plant.mqtt.mark());
    let mut newest = Values::new();
    for number in 0..updates {
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

/// Devices created, changed and deleted while edgecore is away are so at the edge right after its return.
pub(super) fn created_offline(context: &mut Context) -> Result<()> {
    let plant = Plant::new(context, "away", &["temperature"])?;
    for name in ["goes", "stays"] {
        plant.create(name, &[("temperature", "1")])?;
        plant.until_known(name)?;
    }
    plant.system.edge.stop_edgecore()?;
    plant.create("comes", &[("temperature", "1")])?;
    plant.desire("stays", &[("temperature", "2")])?;
    plant.system.api().delete(&plant.path("devices", "goes"))?;
    plant.system.edge.start_edgecore()?;
    plant.system.node_ready(seconds(60))?;
    let wanted = ["comes", "stays"].map(|name| format!("{}/{name}", plant.namespace));
    wait::until(
        "node back: membership is what the API says",
        plant.sides.limit(),
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
