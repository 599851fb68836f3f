//! Programs that end while values are under way: edgecore, the broker and cloudcore in any order, and one of two cloudcores.

use anyhow::{Result, ensure};

use super::kit::{Plant, Sides, Values, owned, set_external};
use crate::balancer::{Balancer, Turn};
use crate::cloud::CloudHost;
use crate::edge::Uplink;
use crate::link::Random;
use crate::mqtt::{self, Mosquitto, start_mosquitto};
use crate::system::Context;
use crate::wait::{self, pause, seconds};

const PROPERTIES: [&str; 3] = ["a", "b", "c"];
/// Steps of one seed.
const STEPS: usize = 6;
/// Seeds without `--long` and with it.
const SEEDS: (u64, u64) = (2, 20);

/// edgecore, the broker and cloudcore are killed and started in an order drawn from a seed, with reports and desired values between:
/// in the end both sides show each value that edgecore accepted last, and the edge what was desired last.
pub(super) fn restarts(context: &mut Context) -> Result<()> {
    let seeds = if context.long { SEEDS.1 } else { SEEDS.0 };
    let mut broker = start_mosquitto(&context.system()?.edge)?;
    set_external(context.system()?, true)?;
    let result = all_seeds(context, seeds, &mut broker);
    drop(broker);
    set_external(context.system()?, false)?;
    result
}

fn all_seeds(context: &mut Context, seeds: u64, broker: &mut Mosquitto) -> Result<()> {
    let mut plant = Plant::at(context, "restarts", &PROPERTIES, mqtt::EXTERNAL)?;
    plant.create("t1", &PROPERTIES.map(|property| (property, "0")))?;
    plant.until_known("t1")?;
    plant.prime("t1", &PROPERTIES.map(|property| (property, "first")))?;
    for seed in 0..seeds {
        one_seed(&mut plant, seed, broker)?;
    }
    plant.clean()
}

fn one_seed(plant: &mut Plant<'_>, seed: u64, broker: &mut Mosquitto) -> Result<()> {
    let mut random = Random(seed);
    let mut draw = |below: usize| usize::try_from(random.draw() % 1000).unwrap_or(0) % below;
    let start = PROPERTIES.map(|property| (property, "start"));
    plant.report("t1", &format!("start-{seed}"), &start, seconds(60))?;
    let mut reported = owned(&start);
    let mut desired = Values::new();
    let mut done = Vec::new();
    for step in 0..STEPS {
        let (property, value) = (PROPERTIES[draw(PROPERTIES.len())], format!("{seed}-{step}"));
        let kind = draw(4);
        done.push(["edgecore", "broker", "cloudcore", "nobody"][kind]);
        match kind {
            0 => {
                plant.system.edge.kill_edgecore();
                plant.system.edge.start_edgecore()?;
            }
            1 => {
                broker.kill();
                *broker = start_mosquitto(&plant.system.edge)?;
            }
            2 => {
                plant.system.cloud.kill();
                plant.system.cloud.start()?;
            }
            _ => {}
        }
        if draw(2) == 0 {
            desired = owned(&PROPERTIES.map(|property| (property, value.as_str())));
            let list: Vec<(&str, &str)> = PROPERTIES.map(|property| (property, value.as_str())).into();
            plant.desire("t1", &list)?;
        }
        plant.report("t1", &format!("step-{seed}-{step}"), &[(property, &value)], seconds(60))?;
        reported.insert(property.to_owned(), value);
    }
    let what = format!("seed {seed} ({}): both sides agree", done.join(", "));
    wait::until(&what, seconds(60), || {
        let twin = plant.twin("t1", "end")?;
        ensure!(twin == reported, "the edge tells {twin:?}, accepted was {reported:?}");
        let shown = plant.reported("t1")?;
        ensure!(shown == reported, "the API shows {shown:?}, accepted was {reported:?}");
        for (property, value) in &desired {
            let stored = plant.stored_desired("t1", property)?;
            ensure!(
                stored.as_ref() == Some(value),
                "desired is {value} of {property}, stored {stored:?}"
            );
        }
        Ok(Some(()))
    })
}

/// Two cloudcores, the edge at one of them, which is killed while values come in: none is lost in the end, and the API never goes
/// back to an older one.
pub(super) fn replicas(context: &mut Context) -> Result<()> {
    let (settings, run) = (context.settings.clone(), context.folder().to_owned());
    let sides = Sides::of(&settings)?;
    let mut plant = Plant::new(context, "twocores", &["n"])?;
    plant.create("t1", &[("n", "0")])?;
    plant.until_known("t1")?;
    plant.prime("t1", &[("n", "0")])?;
    let mut second = CloudHost::new(&settings, &run.join("second"), &plant.system.cluster)?;
    second.set_redirects("enable: false");
    second.advertise(plant.system.edge.number().cloud_address());
    second.start()?;
    let ways = [second.uplink()?, plant.system.cloud.uplink()?];
    let balance = |port: fn(&Uplink) -> u16| Balancer::start(Turn::First, ways.iter().map(port).collect());
    let (websocket, https, tunnel) = (
        balance(|way| way.websocket)?,
        balance(|way| way.https)?,
        balance(|way| way.tunnel)?,
    );
    let uplink = Uplink {
        websocket: websocket.port(),
        https: https.port(),
        tunnel: tunnel.port(),
        ..plant.system.cloud.uplink()?
    };
    plant.system.edge.stop_edgecore()?;
    plant.system.edge.write_config(&uplink)?;
    plant.system.edge.start_edgecore()?;
    plant.system.node_ready(seconds(60))?;
    let result = one_killed(&mut plant, &mut second, sides);
    second.kill();
    plant.system.edge.stop_edgecore()?;
    plant.system.join()?;
    result?;
    plant.clean()
}

fn one_killed(plant: &mut Plant<'_>, second: &mut CloudHost, sides: Sides) -> Result<()> {
    /// Values before the kill, and in all.
    const VALUES: (u32, u32) = (40, 120);
    let mut newest = 0;
    let mut shown = |plant: &Plant<'_>| -> Result<u32> {
        let value = plant
            .reported("t1")?
            .get("n")
            .and_then(|value| value.parse().ok())
            .unwrap_or(0);
        ensure!(value >= newest, "the API shows {value} after {newest}");
        newest = value;
        Ok(value)
    };
    for number in 1..=VALUES.1 {
        if number == VALUES.0 {
            second.kill();
        }
        plant.publish("t1", &format!("n-{number}"), &[("n", &number.to_string())])?;
        // The pace of a mapper: more than the cloud is asked to write.
        pause(std::time::Duration::from_millis(25));
        shown(plant)?;
    }
    // The edge has to find the other one first.
    wait::until(
        "the last value in the API through the other cloudcore",
        sides.limit() * 3,
        || Ok((shown(plant)? == VALUES.1).then_some(())),
    )?;
    second.start()?;
    wait::stays("and no older one", seconds(3), || Ok(shown(plant)? == VALUES.1))
}
