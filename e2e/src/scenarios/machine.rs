//! What is wrong with the machine: ports that are taken, a runtime that is away, disks that are read-only or full. One clear line
//! each, the programs go on or end as they should, containers are not touched, and what is put right works again.

use std::net::{TcpListener, UdpSocket};

use anyhow::{Context as _, Result, ensure};

use super::faults::{no_restarts, workload};
use super::identity::{SAYS, one_line};
use super::{Entry, needs_our_cloud, needs_our_edge};
use crate::api;
use crate::process::{self, Daemon};
use crate::system::{Context, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[
    ("port_taken_at_the_edge", false, port_taken_at_the_edge),
    ("port_taken_in_the_cloud", false, port_taken_in_the_cloud),
    ("runtime_away", false, runtime_away),
    ("disk_read_only", false, disk_read_only),
    ("disk_full", false, disk_full),
    ("disk_full_and_damaged", false, disk_full_and_damaged),
];

const DISK: &str = "/var/lib/kubeedge";

/// Mounts the disk of the database in another way.
fn mount(system: &System, how: &str) -> Result<()> {
    let mut command = system.edge.command("mount");
    process::run(command.args(["-o", how, DISK])).map(drop)
}

/// Runs edgecore in a trouble that is there before it starts; it is put right while it runs.
fn trouble(
    context: &mut Context,
    name: &str,
    said: &str,
    begin: impl FnOnce(&mut System) -> Result<()>,
    end: impl FnOnce(&mut System) -> Result<()>,
) -> Result<()> {
    let system = context.system()?;
    let (namespace, before) = workload(system, name, 1)?;
    system.edge.stop_edgecore()?;
    begin(system)?;
    one_line(system, name, said)?;
    wait::stays("containers stay", seconds(4), || {
        Ok(system.edge.containers(&namespace)? == before)
    })?;
    end(system)?;
    system.node_ready(seconds(60))?;
    system.converged("put right", &namespace, 1, 60)?;
    ensure!(system.edge.containers(&namespace)? == before, "containers changed");
    no_restarts(system, &namespace)?;
    system.clean(&namespace)
}

/// The port of edgecore's local server is another program's: edgecore works without it and takes it once it is free.
fn port_taken_at_the_edge(context: &mut Context) -> Result<()> {
    needs_our_edge(context, SAYS)?;
    let mut holder = None;
    trouble(
        context,
        "port",
        "the local server cannot listen",
        |system| {
            let folder = system.edge.folder().to_owned();
            let mut command = system.edge.command("/bin/busybox");
            command.args(["nc", "-ll", "-p", "10350", "-e", "/bin/true"]);
            let started = Daemon::start(&folder, "nc", &mut command)?;
            holder = Some(started);
            wait::quietly("the port is taken", seconds(20), || {
                let sockets = process::run(system.edge.command("cat").arg("/proc/net/tcp"))?;
                let more = process::run(system.edge.command("cat").arg("/proc/net/tcp6"))?;
                // 10350 in hexadecimal, listening.
                Ok([sockets, more].concat().contains(":286E 0").then_some(()))
            })
        },
        |_| Ok(()),
    )?;
    let mut holder = holder.context("the port's holder")?;
    holder.kill();
    let system = context.system()?;
    // It is tried every 5 s.
    wait::until("the port is used once it is free", seconds(50), || {
        let page =
            process::run(
                system
                    .edge
                    .command("curl")
                    .args(["-sSf", "-m", "3", "http://127.0.0.1:10350/healthz"]),
            );
        Ok((page? == "ok").then_some(()))
    })
}

/// What cloudcore does when one of its ports is another program's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Ends,
    GoesOn,
    TriesAgain,
}

/// cloudcore without the port of its hub, of the join or of streams ends and says which one it is; without QUIC or its monitor it says
/// so and serves; without that of the webhook it serves too, and takes it once it is free.
fn port_taken_in_the_cloud(context: &mut Context) -> Result<()> {
    needs_our_cloud(context, SAYS)?;
    let system = context.system()?;
    let uplink = system.cloud.uplink()?;
    let address = system.cloud.monitor();
    let (_, monitor) = address.rsplit_once(':').context("address")?;
    for (port, without) in [
        (uplink.websocket, Without::Ends),
        (uplink.https, Without::Ends),
        (uplink.stream, Without::Ends),
        (uplink.tunnel, Without::Ends),
        (uplink.quic(), Without::GoesOn),
        (monitor.parse::<u16>()?, Without::GoesOn),
        (system.cloud.webhook_port(), Without::TriesAgain),
    ] {
        start_without(system, port, without).with_context(|| format!("port {port} taken"))?;
    }
    // The last one goes on, with all its ports.
    system.node_ready(seconds(60))
}

/// Starts cloudcore while somebody has the port.
fn start_without(system: &mut System, port: u16, without: Without) -> Result<()> {
    system.cloud.stop()?;
    let from = system.cloud.log().len();
    let taken = wait::quietly("the port", seconds(60), || {
        let any = ("0.0.0.0", port);
        Ok(Some((TcpListener::bind(any)?, UdpSocket::bind(any)?)))
    })?;
    let started = system.cloud.start();
    if without != Without::Ends {
        started?;
    } else {
        // Its first ports may have been open for a moment.
        let status = system.cloud.cloudcore()?.exited(seconds(60))?;
        ensure!(
            status.and_then(|status| status.code()) == Some(1),
            "cloudcore ended with {status:?}"
        );
    }
    let new = |system: &System| system.cloud.log().get(from..).unwrap_or_default().to_owned();
    let (address, words) = (format!(":{port}"), format!("on port {port} for"));
    let complains = |line: &&str| {
        let of_it = line.contains(&address) || line.contains(&words);
        of_it && (line.contains("ERROR") || line.contains("WARN"))
    };
    // What it needs not it may look for after it serves.
    let said = wait::quietly("a line about it", seconds(60), || {
        Ok(new(system).lines().any(|line| complains(&line)).then_some(()))
    });
    let log = new(system);
    said.with_context(|| log.clone())?;
    let lines: Vec<&str> = log.lines().filter(complains).collect();
    // One line, or one for each try.
    let clear = match without {
        Without::Ends | Without::GoesOn => lines.len() == 1,
        Without::TriesAgain => lines.iter().all(|line| line.contains("trying again")),
    };
    ensure!(clear, "{log}");
    println!("    {}", lines.first().copied().unwrap_or_default());
    drop(taken);
    if without == Without::TriesAgain {
        wait::until("the port is used once it is free", seconds(60), || {
            let listens = "listening for the API server's questions about devices";
            Ok(new(system).contains(listens).then_some(()))
        })?;
    }
    Ok(())
}

/// containerd is not there: the node is not Ready, and its containers run on; containerd comes and all is well.
fn runtime_away(context: &mut Context) -> Result<()> {
    needs_our_edge(context, SAYS)?;
    trouble(
        context,
        "runtime",
        "the container runtime is not ready",
        |system| system.edge.stop_containerd(),
        |system| {
            let node = api::node_path(system.edge.name());
            wait::until("API shows the node not Ready", seconds(60), || {
                Ok((api::condition(&system.api().must(&node)?, "Ready") == "False").then_some(()))
            })?;
            system.edge.start_containerd()
        },
    )
}

/// The disk of the database is read-only, as after an error of the file system: what is stored is used.
fn disk_read_only(context: &mut Context) -> Result<()> {
    needs_our_edge(context, SAYS)?;
    trouble(
        context,
        "readonly",
        "the disk of the database is read-only or full",
        |system| mount(system, "remount,ro,bind"),
        |system| mount(system, "remount,rw,bind"),
    )
}

/// The disk of the database is full: a small file system with the database on it and no room beside it.
fn disk_full(context: &mut Context) -> Result<()> {
    needs_our_edge(context, SAYS)?;
    // The database of an edge that has run many pods is larger than a new one's: the file system has its size and one page.
    const FILL: &str = r#"mkdir -p "$2"; cp -a "$1"/. "$2"; size=$(($(stat -c %s "$1"/edgecore.db) + 4096))
mount -t tmpfs -o size=$size tmpfs "$1"
cp -a "$2"/edgecore.db "$1"/; dd if=/dev/zero of="$1"/ballast bs=4k 2>/dev/null || true"#;
    trouble(
        context,
        "full",
        "the disk of the database is read-only or full",
        |system| {
            let aside = system.edge.folder().join("aside");
            let mut command = system.edge.command("bash");
            process::run(command.args(["-ec", FILL, "fill", DISK]).arg(aside)).map(drop)
        },
        |system| {
            std::fs::remove_dir_all(system.edge.folder().join("aside"))?;
            process::run(system.edge.command("rm").arg(format!("{DISK}/ballast")))?;
            system.edge.stop_edgecore()?;
            process::run(system.edge.command("umount").arg(DISK))?;
            system.edge.start_edgecore()
        },
    )
}

/// The disk is full, as above, and the database on it was cut short: it gives way, and with room again edgecore goes on by itself.
fn disk_full_and_damaged(context: &mut Context) -> Result<()> {
    needs_our_edge(context, SAYS)?;
    const FILL: &str = r#"size=$(stat -c %s "$1"/edgecore.db); mkdir -p "$2"; cp -a "$1"/edgecore.db "$2"/
mount -t tmpfs -o size=$((size + 4096)) tmpfs "$1"
cp -a "$2"/edgecore.db "$1"/; truncate -s $((size / 2 / 4096 * 4096)) "$1"/edgecore.db
dd if=/dev/zero of="$1"/ballast bs=4k 2>/dev/null || true"#;
    trouble(
        context,
        "cut-short",
        "the database is damaged and was set aside",
        |system| {
            let aside = system.edge.folder().join("aside");
            let mut command = system.edge.command("bash");
            process::run(command.args(["-ec", FILL, "fill", DISK]).arg(aside)).map(drop)
        },
        |system| mount(system, "remount,size=64m"),
    )?;
    let system = context.system()?;
    system.edge.stop_edgecore()?;
    std::fs::remove_dir_all(system.edge.folder().join("aside"))?;
    process::run(system.edge.command("umount").arg(DISK))?;
    system.edge.start_edgecore()?;
    system.node_ready(seconds(60))
}
