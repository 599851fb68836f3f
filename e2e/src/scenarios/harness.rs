//! The harness itself: hosts are apart, links can be broken, nothing is left behind.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Entry;
use crate::edge::{BUSYBOX, EdgeHost, Wire};
use crate::link::Quality;
use crate::process::{self, call};
use crate::run;
use crate::system::Context;
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[
    ("harness_edge_host", false, edge_host),
    ("harness_bad_link", false, bad_link),
];

/// Two edges at once: own containers, own /etc/kubeedge; a power cut ends everything on one only; nothing remains.
fn edge_host(context: &mut Context) -> Result<()> {
    let run = context.folder().to_owned();
    let mut one = EdgeHost::start(&context.settings, &run, "harness-1", Wire::Veth)?;
    let two = EdgeHost::start(&context.settings, &run, "harness-2", Wire::Veth)?;
    std::fs::write(one.folder().join("etc/marker"), "one")?;
    let marker = crate::process::run(one.command("cat").arg("/etc/kubeedge/marker"))?;
    ensure!(marker == "one", "/etc/kubeedge of the first edge is not its own");
    ensure!(
        crate::process::run(two.command("cat").arg("/etc/kubeedge/marker")).is_err(),
        "/etc/kubeedge is shared"
    );
    for edge in [&one, &two] {
        let cgroup = format!("{}/kubepods/x", edge.number().cgroup().root());
        edge.ctr(&["run", "-d", "--cgroup", &cgroup, BUSYBOX, "sleeper", "sleep", "1000"])?;
        ensure!(edge.ctr(&["task", "ls"])?.contains("sleeper"), "no task in containerd");
        crate::process::run(
            edge.command("ping")
                .args(["-c", "1", "-W", "2", &edge.number().cloud_address()]),
        )
        .or_else(|_| {
            crate::process::run(
                edge.command("/bin/busybox")
                    .args(["ping", "-c", "1", &edge.number().cloud_address()]),
            )
        })?;
    }
    one.power_off()?;
    ensure!(
        one.number().cgroup().processes("").is_empty(),
        "processes survived the power cut"
    );
    ensure!(
        two.ctr(&["task", "ls"])?.contains("sleeper"),
        "the other edge lost its task"
    );
    one.power_on()?;
    ensure!(
        !one.ctr(&["task", "ls"])?.contains("sleeper"),
        "a task survived the power cut"
    );
    let (first, second) = (one.number(), two.number());
    let folder = one.folder().to_owned();
    // Or another run has a number again before it is looked at.
    let lock = process::lock(&run::base().join("lock"))?;
    drop((one, two));
    for number in [first, second] {
        ensure!(!number.netns_path().exists(), "a network namespace is left");
        ensure!(number.cgroup().processes("").is_empty(), "processes are left");
        ensure!(
            !call("ip", &["link"])?.contains(&format!(" {}", number.interface())),
            "an interface is left"
        );
    }
    drop(lock);
    ensure!(!folder.exists(), "{} is left", folder.display());
    ensure!(
        !std::fs::read_to_string("/proc/mounts")?.contains("harness-1"),
        "mounts are left"
    );
    Ok(())
}

/// A TUN link delays, loses, reorders, is cut silently and by interface, and heals.
fn bad_link(context: &mut Context) -> Result<()> {
    let run = context.folder().to_owned();
    let edge = EdgeHost::start(&context.settings, &run, "harness-3", Wire::Tun(1))?;
    let address = edge.number().cloud_address();
    // It ends with the last answer; those that do not come are waited for.
    let ping_for = |count: u32, patience: &str| -> Result<u32> {
        let mut command = edge.command("/bin/busybox");
        command.args(["ping", "-c", &count.to_string(), "-W", patience, "-A", &address]);
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let got = text
            .lines()
            .find_map(|line| line.split_once(" packets received")?.0.rsplit(' ').next()?.parse().ok());
        got.with_context(|| format!("ping said {text:?}"))
    };
    let ping = |count| ping_for(count, "1");
    for _ in 0..3 {
        ensure!(ping_for(1, "10")? == 1, "a good link loses packets");
    }
    let link = edge.link()?;
    link.set(Quality {
        delay: Duration::from_millis(100),
        ..Quality::default()
    });
    let start = Instant::now();
    ensure!(
        ping_for(1, "10")? == 1 && start.elapsed() >= Duration::from_millis(200),
        "100 ms each way took {:?}",
        start.elapsed()
    );
    link.set(Quality {
        jitter: Duration::from_millis(50),
        ..Quality::default()
    });
    let order = sent_in_order(&edge, 40)?;
    ensure!(!order.is_sorted(), "no packet overtook another: {order:?}");
    ensure!(link.overtaken() > 0, "the link does not count what was overtaken");
    link.set(Quality {
        loss: 0.5,
        ..Quality::default()
    });
    let got = ping(8)?;
    ensure!(got < 8, "half of the packets should be lost, {got} of 8 arrived");
    link.cut();
    ensure!(ping(1)? == 0, "packets pass a cut link");
    link.heal();
    wait::quietly("a healed link", seconds(20), || Ok((ping(1)? == 1).then_some(())))?;
    edge.set_link(false)?;
    ensure!(ping(1)? == 0, "packets pass an interface that is down");
    edge.set_link(true)?;
    wait::quietly("an interface that is up again", seconds(20), || {
        Ok((ping(1)? == 1).then_some(()))
    })
}

/// Sends numbered packets from the edge one after the other; how they arrive in the cloud.
fn sent_in_order(edge: &EdgeHost, count: usize) -> Result<Vec<usize>> {
    let address = edge.number().cloud_address();
    let socket = UdpSocket::bind((address.as_str(), 0))?;
    socket.set_read_timeout(Some(seconds(20)))?;
    let port = socket.local_addr()?.port();
    let script = format!("for ((n = 0; n < {count}; n++)); do echo $n > /dev/udp/{address}/{port}; done");
    crate::process::run(edge.command("bash").args(["-ec", &script]))?;
    let mut packet = [0; 16];
    (0..count)
        .map(|_| {
            let length = socket.recv(&mut packet).context("a packet through the link")?;
            let text = std::str::from_utf8(packet.get(..length).unwrap_or_default())?;
            Ok(text.trim().parse()?)
        })
        .collect()
}
