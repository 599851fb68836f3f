//! The address of an edge whose file names none: it is the host's, as that changes.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::reach::{start_pod, until_reached};
use super::{Entry, needs_our_edge};
use crate::api::{self, elements, text};
use crate::edge::Keys;
use crate::hosts::HostNumber;
use crate::system::{Context, System};
use crate::wait::{self, pause, seconds};

pub(super) const LIST: &[Entry] = &[("own_address", false, own_address)];

/// Over a WebSocket a connection from an address that is gone is lost after 20 s; from then on the address is told within 10 s.
const TOLD: u64 = 120;

/// edgecore starts on a host without a network, which then comes with one address and goes on with another: the Node and its pods have
/// it, and logs and exec work, each time.
fn own_address(context: &mut Context) -> Result<()> {
    needs_our_edge(context, "following the host's address")?;
    let system = context.system()?;
    let host = system.edge.number();
    let own = host.address();
    let other = own
        .strip_suffix(".2")
        .map(|network| format!("{network}.3"))
        .context("an edge is number 2")?;
    // Of two addresses with the same prefix the second would go with the first.
    let (own, other) = (format!("{own}/24"), format!("{other}/25"));
    let namespace = start_pod(system, "own-address", system.edge.name())?;
    system.until_pod("pod Ready", (&namespace, "main"), 60, |pod| {
        api::is_ready(pod).then_some(())
    })?;
    system.edge.stop_edgecore()?;
    let outcome = lose(host, &own)
        .and_then(|()| start(system, true))
        .and_then(|()| follow(system, &namespace, &own, &other));
    system.edge.stop_edgecore()?;
    for address in [&own, &other] {
        // One of them is not there.
        let _ = lose(host, address);
    }
    have(host, &own)?;
    start(system, false)?;
    system.node_ready(seconds(90))?;
    outcome?;
    until_told("the operator's address", system, &namespace, &own)?;
    system.clean(&namespace)
}

fn follow(system: &System, namespace: &str, own: &str, other: &str) -> Result<()> {
    let host = system.edge.number();
    // It has seen that there is none.
    pause(seconds(3));
    have(host, other)?;
    until_told("an address that comes after the start", system, namespace, other)?;
    until_reached(system, "logs and exec there", namespace)?;
    have(host, own)?;
    lose(host, other)?;
    // With an address go its routes.
    have_route(host)?;
    let start = Instant::now();
    until_told("an address that changes", system, namespace, own)?;
    until_reached(system, "logs and exec by the new one", namespace)?;
    println!("    all of it after the change: {:.2} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn start(system: &mut System, without_address: bool) -> Result<()> {
    system.edge.set_keys(Keys {
        without_address,
        ..Keys::default()
    });
    system.edge.write_config(&system.cloud.uplink()?)?;
    system.edge.start_edgecore()
}

fn have(host: HostNumber, address: &str) -> Result<()> {
    host.inside(&["addr", "add", address, "dev", "eth0"])?;
    have_route(host)
}

fn have_route(host: HostNumber) -> Result<()> {
    let cloud = host.cloud_address();
    host.inside(&["route", "replace", "default", "via", &cloud, "dev", "eth0"])
        .map(drop)
}

fn lose(host: HostNumber, address: &str) -> Result<()> {
    host.inside(&["addr", "del", address, "dev", "eth0"]).map(drop)
}

/// Waits until the Node and the pod `main` have the address, which comes with the length of its prefix.
fn until_told(what: &str, system: &System, namespace: &str, address: &str) -> Result<()> {
    let (address, _) = address.split_once('/').context("no length")?;
    wait::until(what, seconds(TOLD), || {
        let node = system.api().must(&api::node_path(system.edge.name()))?;
        let internal = elements(&node, "/status/addresses").filter(|one| text(one, "/type") == "InternalIP");
        let internal: Vec<&str> = internal.map(|one| text(one, "/address")).collect();
        ensure!(internal == [address], "the Node has {internal:?}");
        let pod = system.pod(namespace, "main")?;
        let host = text(&pod, "/status/hostIP");
        ensure!(host == address, "the pod has {host:?}");
        Ok(Some(()))
    })
}
