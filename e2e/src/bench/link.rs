//! The mark of a bad link: a pod on an edge whose packets take 200 ms each way and get lost, 1 of 20, by either transport of the hub.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{Bench, LIMIT, list, median};
use crate::api;
use crate::edge::{EdgeHost, Wire};
use crate::link::Quality;
use crate::settings::{Settings, is_ours, program};
use crate::wait;

const QUALITY: Quality = Quality {
    delay: Duration::from_millis(200),
    jitter: Duration::ZERO,
    loss: 0.05,
    rate: 0,
    cut: false,
};
pub(super) const SEED: u64 = 20_261_129;

impl Bench {
    /// `link@ws` and `link@quic`: a pod created until it is Ready. The note has how long an edge that starts anew takes to connect.
    pub(super) fn link(&mut self, settings: &Settings, run: &Path) -> Result<()> {
        let ours = is_ours(&program(&settings.cloud, "cloudcore")?) && is_ours(&program(&settings.edge, "edgecore")?);
        for (name, quic) in [("ws", false), ("quic", true)] {
            if quic && !ours {
                println!("  link@quic: only our programs speak QUIC");
                continue;
            }
            let mut edge = EdgeHost::start(settings, run, &format!("link-{name}"), Wire::Tun(SEED))?;
            let outcome = self.over(&mut edge, name, (quic, ours));
            let tails = || edge.log_tails().into_iter().map(|(_, tail)| tail).collect::<String>();
            outcome.with_context(tails)?;
            drop(edge);
            self.system.api().delete(&api::node_path(&format!("link-{name}")))?;
        }
        Ok(())
    }

    /// Starts the edgecore of a further edge and waits until its node is Ready over a good link.
    pub(super) fn joined(&mut self, edge: &mut EdgeHost) -> Result<()> {
        if self.system.cloud.advertise(edge.number().cloud_address()) {
            self.system.cloud.stop()?;
            self.system.cloud.start()?;
        }
        edge.write_config(&self.system.cloud.uplink()?)?;
        edge.start_edgecore()?;
        let path = api::node_path(edge.name());
        wait::quietly("the node is Ready over a good link", LIMIT, || {
            let node = self.system.api().get(&path)?;
            Ok(node.filter(|node| api::condition(node, "Ready") == "True").map(drop))
        })
    }

    fn over(&mut self, edge: &mut EdgeHost, name: &str, (quic, ours): (bool, bool)) -> Result<()> {
        edge.set_quic(quic);
        self.joined(edge)?;
        let connected = if ours {
            Some(reconnected(edge, quic)?)
        } else {
            edge.link()?.set(QUALITY);
            None
        };
        let times = self.pod_starts(edge)?;
        let note = format!(
            "runs={} median of {}, each in containerd; 200 ms each way, 5 % lost{}",
            times.len(),
            list(&times),
            connected.map_or_else(String::new, |connected| format!("; {connected}"))
        );
        self.push(&format!("link@{name}"), median(&times), "s", note);
        edge.stop_edgecore()
    }
}

/// Starts edgecore anew over the bad link: how long it takes to connect, and, where WebSocket is there first, to come back to QUIC.
fn reconnected(edge: &mut EdgeHost, quic: bool) -> Result<String> {
    edge.stop_edgecore()?;
    edge.link()?.set(QUALITY);
    let from = edge.log().len();
    let start = Instant::now();
    edge.start_edgecore()?;
    // By QUIC or not, one after the other.
    let connections = || -> Vec<bool> {
        let log = edge.log().split_off(from);
        let lines = log.lines().filter(|line| line.contains("connected to cloudcore"));
        lines.map(|line| line.contains("quic")).collect()
    };
    let what = "connected over the bad link";
    let first = wait::quietly(what, LIMIT, || Ok(connections().first().copied()))?;
    let connected = start.elapsed().as_secs_f64();
    if first == quic {
        return Ok(format!("connected in {connected:.2} s"));
    }
    // QUIC's handshake lost more than one packet; QUIC is tried again after 10 s, and the pods are for it to carry.
    wait::quietly("back on QUIC", LIMIT, || {
        Ok(connections().contains(&quic).then_some(()))
    })?;
    let back = start.elapsed().as_secs_f64();
    Ok(format!(
        "connected in {connected:.2} s by WebSocket, back on QUIC at {back:.2} s"
    ))
}
