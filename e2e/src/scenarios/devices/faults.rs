//! One of two cloudcores ends while values are under way.

use anyhow::{Result, ensure};

use super::kit::{Plant, Sides};
use crate::balancer::{Balancer, Turn};
use crate::cloud::CloudHost;
use crate::edge::Uplink;
use crate::system::Context;
use crate::wait::{self, pause, seconds};

/// Two cloudcores, the edge at one of them, which is killed while values come in: none is lost in the end, and the API never goes
/// back to an older one. What is changed in the cloud reaches the edge through whichever it is at.
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
    plant.create("t2", &[("n", "0")])?;
    plant.until_known("t2")?;
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
    plant.desire("t2", &[("n", "7")])?;
    wait::until(
        "desired value changed: at the edge through the other cloudcore",
        sides.limit(),
        || Ok(plant.stored_desired("t2", "n")?.filter(|value| value == "7")),
    )?;
    second.start()?;
    wait::stays("and no older one", seconds(3), || Ok(shown(plant)? == VALUES.1))
}
