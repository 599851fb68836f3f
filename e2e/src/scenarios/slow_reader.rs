//! Readers that do not read: each holds up its own stream and nobody else's.

use std::mem;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::kubectl::{Transport, kubectl};
use super::stream_ends::{Running, Usage, told, until_left};
use super::streams::{checksum, pod};
use super::{Entry, IDLE, needs_our_cloud, needs_our_edge, our_edge};
use crate::cloud::http_body;
use crate::system::{Context, System};
use crate::wait::{self, pause, seconds};

pub(super) const LIST: &[Entry] = &[
    ("slow_reader", false, slow_reader),
    ("slow_reader_of_the_end", false, slow_reader_of_the_end),
];

/// What the container gives: more than all sockets on the way hold.
const FILE: &str = "/tmp/file";
const SIZE: u64 = 50_000_000;
/// What the one gives that is killed.
const FLOOD: u64 = 300_000_000;
/// Resident megabytes that a core may have gained with streams that nobody reads: 1 MiB of each, and what its allocator keeps.
const ROOM: f64 = 16.0;
/// The same for a cloudcore whose edge knows no credits: up to 64 MiB of a node may wait.
const CAP: f64 = 68.0;
/// What commands give whose reader pauses: some of it fits into the sockets of the first host, some into all on the way.
const PAUSED: [usize; 6] = [500_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000, 16_000_000];
/// Longer than client-go's 5 s between pings.
const PAUSE: Duration = seconds(7);
/// Bytes a second through the tunnel while nothing goes on.
const QUIET: usize = 64 * 1024;

/// Commands that say more than is read of them, by both of kubectl's transports: 50 MB of another come through beside them, neither core
/// grows, one is then read to its end and the other killed. An edge of Go's knows no credits: there a stream whose reader is too slow
/// is ended alone.
fn slow_reader(context: &mut Context) -> Result<()> {
    needs_our_cloud(context, "a slow reader that holds up nobody else")?;
    let credits = our_edge(context)?;
    let system = context.system()?;
    let namespace = pod(system, "slow", IDLE)?;
    let container = system.edge.container(&namespace, "main", "main")?;
    let shell = |line: &str| system.edge.exec(&container, &["sh", "-c", line]);
    shell(&format!("head -c {SIZE} /dev/urandom > {FILE}"))?;
    let sum_of = |files: &str| -> Result<String> {
        let said = shell(&format!("cat {files} | sha256sum"))?;
        Ok(said.split(' ').next().unwrap_or_default().to_owned())
    };
    let (once, twice) = (sum_of(FILE)?, sum_of(&format!("{FILE} {FILE}"))?);
    wait::until("exec works", seconds(60), || {
        let said = kubectl(system, &["exec", "-n", &namespace, "main", "--", "true"], b"")?;
        Ok((said.code() == Some(0)).then_some(()))
    })?;
    whole(system, "alone", &namespace, &once)?;
    let before = Usage::of_cores(system)?;
    let capped = counted(system, "streams_capped")?;

    let begin = |what: &str, transport: Transport| -> Result<Running> {
        let script = format!("echo begun; exec {what}");
        let command = ["exec", "-n", &namespace, "main", "--", "sh", "-c", &script];
        let mut running = Running::start(system, &command, transport)?;
        ensure!(running.line()? == "begun\n", "exec");
        Ok(running)
    };
    // Over WebSocket kubectl gives up when it has not read for 61 s (client-go's websocket.go).
    let mut slow = begin(&format!("cat {FILE} {FILE}"), Transport::Spdy)?;
    // Of a WebSocket that is gone the API server reads the rest of the output, for as long as there is some (client-go's v2.go, copyStdout).
    let flood = begin(&format!("head -c {FLOOD} /dev/zero"), Transport::WebSocket)?;
    let mut last = counted(system, "bytes_received")?;
    wait::until("the slow ones stand still", seconds(60), || {
        pause(seconds(1));
        let now = counted(system, "bytes_received")?;
        Ok((now.saturating_sub(mem::replace(&mut last, now)) < QUIET).then_some(()))
    })?;
    whole(system, "beside slow ones", &namespace, &once)?;
    let now = Usage::of_cores(system)?;
    let rooms = [
        ("cloudcore", if credits { ROOM } else { CAP + ROOM }),
        ("edgecore", ROOM),
    ];
    for ((now, before), (name, room)) in now.iter().zip(&before).zip(rooms) {
        let (now, before) = (now.megabytes, before.megabytes);
        println!("    {name}: {before:.1} -> {now:.1} MB");
        // What another's edgecore keeps is its own affair.
        ensure!(
            now <= before + room || (name == "edgecore" && !credits),
            "{name} grew from {before:.1} to {now:.1} MB"
        );
    }
    let capped = counted(system, "streams_capped")? - capped;
    println!("    {capped} streams ended at their cap");
    if credits {
        ensure!(!slow.has_ended()?, "a stream has ended that nobody reads");
        let (bytes, code) = slow.rest()?;
        ensure!(
            code == Some(0) && checksum(&bytes)? == twice,
            "read on: {} bytes, exit code {code:?}",
            bytes.len()
        );
    }
    ensure!(
        !credits || capped == 0,
        "there are credits, and {capped} streams were ended"
    );
    drop((slow, flood));
    until_left(system, &before)?;
    system.clean(&namespace)
}

/// Commands that have ended long before their output is read, by readers that pause: nothing of it is lost, however much waits on the way.
/// kubectl pings meanwhile, and a ping that meets a closed connection would end it. Over WebSocket it is the API server's own connection
/// that it meets: there the end is lost before any kubelet could know, and kubectl exits with 1.
fn slow_reader_of_the_end(context: &mut Context) -> Result<()> {
    needs_our_cloud(context, "a connection that stays until the end is read")?;
    needs_our_edge(context, "pings that wait until the end is read")?;
    let system = context.system()?;
    let namespace = pod(system, "paused", IDLE)?;
    let mut readers = Vec::new();
    for size in PAUSED {
        let script = format!("echo begun; head -c {size} /dev/zero; echo ended");
        let command = ["exec", "-n", &namespace, "main", "--", "sh", "-c", &script];
        let mut reader = Running::start(system, &command, Transport::Spdy)?;
        ensure!(reader.line()? == "begun\n", "exec");
        readers.push((size, reader));
    }
    pause(PAUSE);
    for (size, reader) in &mut readers {
        let (bytes, code) = reader.rest()?;
        ensure!(
            code == Some(0) && bytes.len() == *size + 6 && bytes.ends_with(b"\0ended\n"),
            "{} of {size} bytes, exit code {code:?}",
            bytes.len()
        );
    }
    system.clean(&namespace)
}

/// The file comes whole out of the pod.
fn whole(system: &System, what: &str, namespace: &str, sum: &str) -> Result<()> {
    let start = Instant::now();
    let said = kubectl(system, &["exec", "-n", namespace, "main", "--", "cat", FILE], b"")?;
    ensure!(
        checksum(&said.output.stdout)? == sum,
        "{what}: {} bytes, {}",
        said.output.stdout.len(),
        said.error()
    );
    println!("    {SIZE} bytes {what}: {:.2} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// A counter of cloudcore's tunnels.
fn counted(system: &System, name: &str) -> Result<usize> {
    let text = http_body(&system.cloud.monitor(), "/metrics").context("cloudcore's metrics")?;
    told(&text, &format!("cloudcore_tunnel_{name}_total"))
}
