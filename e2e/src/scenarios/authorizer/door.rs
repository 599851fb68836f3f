//! Who is let in at the ports of CloudHub, and who is put out.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::super::needs_our_cloud;
use super::{NODE, REFUSES, door_of, node_by_hand, now};
use crate::api;
use crate::hub::Door;
use crate::system::{Context, System};
use crate::wait::{self, seconds};

/// What is refused before a node can say anything, at both ports.
pub(super) fn door(context: &mut Context) -> Result<()> {
    needs_our_cloud(context, REFUSES)?;
    let system = context.system()?;
    let door = door_of(system)?;
    let (hour, year) = (Duration::from_secs(3600), Duration::from_secs(365 * 86_400));
    let other = system.edge.name().to_owned();
    let own = door.join(NODE)?;
    let from = now();
    let expired = door.forge(NODE, from.saturating_sub(year), hour, "[2]")?;
    let early = door.forge(NODE, from + year, hour, "[2]")?;
    let server = door.forge(NODE, from, hour, "[1]")?;
    let foreign = Door::foreign(NODE, from)?;
    for (what, name, card, code, said) in [
        (
            "a node_id that is not the certificate's",
            other.as_str(),
            Some(&own),
            403,
            "not that of node",
        ),
        ("no client certificate", NODE, None, 0, "edge refused"),
        ("a certificate of another CA", NODE, Some(&foreign), 0, "edge refused"),
        ("an expired certificate", NODE, Some(&expired), 0, "edge refused"),
        ("a certificate of next year", NODE, Some(&early), 0, "edge refused"),
        ("a certificate for servers", NODE, Some(&server), 0, "edge refused"),
    ] {
        let before = system.cloud.log().len();
        let refusal = door
            .connect(name, card)?
            .err()
            .with_context(|| format!("{what} was let in"))?;
        ensure!(refusal.code == code, "{what}: {refusal:?}");
        logged(system, before, what, said)?;
    }
    let token = system.cloud.token()?;
    let forged = format!("{token}x");
    for (what, node, subject, token, card, status) in [
        ("a forged token", NODE, NODE, Some(&forged), None, 401),
        ("no token", NODE, NODE, None, None, 401),
        (
            "another name in the request",
            NODE,
            other.as_str(),
            Some(&token),
            None,
            500,
        ),
        (
            "another node's certificate",
            other.as_str(),
            other.as_str(),
            None,
            Some(&own),
            401,
        ),
        ("a renewal in another name", NODE, other.as_str(), None, Some(&own), 500),
        (
            "a renewal with an expired certificate",
            NODE,
            NODE,
            None,
            Some(&expired),
            401,
        ),
        (
            "a renewal with another CA's certificate",
            NODE,
            NODE,
            None,
            Some(&foreign),
            401,
        ),
    ] {
        let before = system.cloud.log().len();
        let (code, body, _) = door.apply(node, subject, token.map(String::as_str), card)?;
        ensure!(code == status, "{what}: {code} {}", String::from_utf8_lossy(&body));
        logged(system, before, what, "no certificate issued")?;
    }
    Ok(())
}

pub(in crate::scenarios) fn logged(system: &System, before: usize, what: &str, said: &str) -> Result<()> {
    let line = wait::quietly(&format!("a line about: {what}"), seconds(20), || {
        let log = system.cloud.log();
        let new = log.get(before..).unwrap_or_default();
        Ok(new.lines().find(|line| line.contains(said)).map(str::to_owned))
    })?;
    println!(
        "    refused: {what}: {}",
        line.split_once("reason=").map_or(line.as_str(), |(_, reason)| reason)
    );
    Ok(())
}

/// A line in the ConfigMap `kubeedge/revokednodes` ends the node's session within a second and keeps its certificate out, at both
/// ports and over a restart of cloudcore; a time in it lets the node join anew. Deleting the Node object ends its session too.
pub(super) fn revoked_node(context: &mut Context) -> Result<()> {
    needs_our_cloud(context, REFUSES)?;
    let system = context.system()?;
    let door = door_of(system)?;
    let card = door.join(NODE)?;
    let mut node = node_by_hand(system, &door)?;
    system.api().delete(&api::node_path(NODE))?;
    ensure!(node.ended(seconds(10)), "the session of a deleted Node goes on");
    let mut node = node_by_hand(system, &door)?;
    let list = |value: &str| json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "revokednodes"}, "data": {NODE: value}});
    system
        .api()
        .create("/api/v1/namespaces/kubeedge/configmaps", &list("stolen"))?;
    let revoked = Instant::now();
    ensure!(node.ended(seconds(10)), "the session of a revoked node goes on");
    println!(
        "    session of a revoked node ended: {:.2} s",
        revoked.elapsed().as_secs_f64()
    );
    drop(node);
    let is_out = |what: &str| -> Result<()> {
        let before = system.cloud.log().len();
        let refusal = door
            .connect(NODE, Some(&card))?
            .err()
            .context("a revoked node was let in")?;
        ensure!(refusal.code == 403, "{refusal:?}");
        logged(system, before, what, "revoked")?;
        let (status, ..) = door.apply(NODE, NODE, None, Some(&card))?;
        ensure!(status == 401, "a revoked certificate was renewed: {status}");
        Ok(())
    };
    is_out("a revoked node")?;
    let token = system.cloud.token()?;
    let (status, ..) = door.apply(NODE, NODE, Some(&token), None)?;
    ensure!(status == 401, "a revoked node got a certificate by a token: {status}");
    // Certificates of before now are out, the token is good again.
    // They know whole seconds.
    crate::wait::pause(seconds(1));
    let time = process_time()?;
    system.api().patch(
        "/api/v1/namespaces/kubeedge/configmaps/revokednodes",
        &json!({"data": {NODE: time}}),
    )?;
    wait::until("the node may join again", seconds(10), || {
        let (status, ..) = door.apply(NODE, NODE, Some(&token), None)?;
        Ok((status == 200).then_some(()))
    })?;
    is_out("the old certificate")?;
    let new = door.join(NODE)?;
    let node = door.connect(NODE, Some(&new))?;
    ensure!(node.is_ok(), "the new certificate is refused: {:?}", node.err());
    system
        .api()
        .delete("/api/v1/namespaces/kubeedge/configmaps/revokednodes")?;
    system.api().delete(&api::node_path(NODE))?;
    system.node_ready(seconds(10))
}

/// The time now, as operators write it.
fn process_time() -> Result<String> {
    crate::process::call("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]).map(|text| text.trim().to_owned())
}
