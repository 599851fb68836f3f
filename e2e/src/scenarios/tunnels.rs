//! Who may open a tunnel, what the port of the tunnels answers to all others, and how a tunnel ends that is no such thing.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use proto::Features;
use proto::tunnel::upgrade::Upgrade;

use super::authorizer::{door_of, logged, now};
use super::kubectl::Transport;
use super::stream_ends::Running;
use super::streams::pod;
use super::{Entry, IDLE, needs_our_cloud};
use crate::hub::{Card, Door};
use crate::system::Context;

pub(super) const LIST: &[Entry] = &[("tunnel_door", false, door), ("tunnel_garbage", false, garbage)];

/// The node made by hand.
const NODE: &str = "tunnel-1";

/// A case: what it is, the certificate, the request, the status (0 when TLS says no), words of the log.
type Case<'a> = (&'a str, Option<&'a Card>, String, u16, &'a str);

/// The request of an edge.
fn head(node: &str) -> String {
    let upgrade = Upgrade {
        node: node.to_owned(),
        internal_ip: None,
        features: Features::default(),
    };
    upgrade.request("cloud", [7; 16])
}

/// A node comes in by its own certificate alone; each other one gets an answer that says why, and cloudcore logs it.
fn door(context: &mut Context) -> Result<()> {
    needs_our_cloud(context, "tunnels by the certificate's name")?;
    let system = context.system()?;
    let door = door_of(system)?;
    let (hour, year) = (Duration::from_secs(3600), Duration::from_secs(365 * 86_400));
    let card = door.forge(NODE, now(), hour, "[2]")?;
    let expired = door.forge(NODE, now().saturating_sub(year), hour, "[2]")?;
    let foreign = Door::foreign(NODE, now())?;
    let other = system.edge.name().to_owned();
    let refused = "tunnel of an edge refused";
    let cases: [Case<'_>; 11] = [
        (
            "another node's name",
            Some(&card),
            head(&other),
            403,
            "not that of node",
        ),
        ("no certificate", None, head(NODE), 0, refused),
        ("a certificate of another CA", Some(&foreign), head(NODE), 0, refused),
        ("an expired certificate", Some(&expired), head(NODE), 0, refused),
        ("no name", Some(&card), head(""), 400, "is missing or empty"),
        ("no HTTP", Some(&card), "\u{16}\u{3}\u{1}\r\n\r\n".into(), 400, refused),
        (
            "no upgrade",
            Some(&card),
            head(NODE).replace("Upgrade: websocket", "Accept: text/plain"),
            400,
            "not a WebSocket upgrade",
        ),
        (
            "a key that is none",
            Some(&card),
            head(NODE).replace("Sec-WebSocket-Key: ", "Sec-WebSocket-Key: x"),
            400,
            "Sec-WebSocket-Key",
        ),
        (
            "an old WebSocket",
            Some(&card),
            head(NODE).replace("Version: 13", "Version: 8"),
            426,
            "version 13",
        ),
        (
            "another path",
            Some(&card),
            head(NODE).replace("/v1/kubeedge/connect", "/v1/other"),
            404,
            "Page Not Found",
        ),
        (
            "a head without an end",
            Some(&card),
            head(NODE).trim_end().to_owned() + &"x".repeat(20_000),
            431,
            "too long",
        ),
    ];
    for (what, card, head, code, said) in cases {
        let before = system.cloud.log().len();
        let answer = door.tunnel(card, &head)?;
        ensure!(answer.code == code, "{what}: {answer:?}");
        logged(system, before, what, said)?;
    }
    let answer = door.tunnel(Some(&card), &head(NODE))?;
    ensure!(answer.code == 101, "its own name: {answer:?}");
    Ok(())
}

/// What is no frame of a client, or is over the limit, ends its tunnel with a reason that both sides know. The tunnel of another edge goes
/// on, with the command that runs in it.
fn garbage(context: &mut Context) -> Result<()> {
    needs_our_cloud(context, "a reason for the end of a tunnel")?;
    let system = context.system()?;
    let namespace = pod(system, "garbage", IDLE)?;
    let exec = ["exec", "-i", "-n", &namespace, "main", "--", "cat"];
    let mut exec = Running::start(system, &exec, Transport::WebSocket)?;
    exec.say("before\n")?;
    ensure!(exec.line()? == "before\n", "exec");
    let door = door_of(system)?;
    let card = door.forge(NODE, now(), Duration::from_secs(3600), "[2]")?;
    // The head of a masked text frame of 2^56 bytes.
    let endless: Vec<u8> = [0x81, 0xff, 1].into_iter().chain([0; 11]).collect();
    let cases: [(&str, &[u8], u16, &str); 3] = [
        ("garbage", &[0xff; 64], 1002, "a frame has reserved bits"),
        (
            "a frame without a mask",
            &[0x81, 1, b'x'],
            1002,
            "a frame is masked although",
        ),
        ("a frame over the limit", &endless, 1009, "is over the limit"),
    ];
    for (what, bytes, code, said) in cases {
        let before = system.cloud.log().len();
        let closed = door.break_tunnel(&card, &head(NODE), bytes).context(what)?;
        ensure!(closed.0 == code && closed.1.contains(said), "{what}: {closed:?}");
        logged(system, before, what, said)?;
    }
    exec.say("after\n")?;
    ensure!(exec.line()? == "after\n", "the exec of another edge ended");
    drop(exec);
    system.clean(&namespace)
}
