//! Whether the API server finds its way in: asked of the API server itself, with the first node that has a tunnel here.
//!
//! Owns the trial requests: `/healthz` of an edge's kubelet by way of `nodes/NAME/proxy`, each with a mark by which the stream server
//! knows it again. What became of it tells the way that works, or the hop that is broken and what to do: one line in the log when that
//! changes, and a metric. It is repeated, sooner while it does not work. Must not stop anything: logs and exec of edges are not what
//! cloudcore is for.

mod verdict;

use std::collections::HashMap;
use std::time::Duration;

use common::{Backoff, Tasks};
use parking_lot::Mutex;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use proto::NodeName;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::CloudStream;
use super::diagnosis::diagnose;
use super::iptablesmanager::Redirects;
use crate::kubernetes::Kube;
use verdict::{NONE, Verdict};

/// By which way a request came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// To the port of the stream server: by redirect rules, here or on the API server's host.
    Port,
    /// By the egress endpoint.
    Egress,
}

/// The trials under way, by their marks, and by which way each has come.
#[derive(Debug, Default)]
pub(super) struct Trials(Mutex<HashMap<String, Option<Way>>>);

impl Trials {
    /// A request has come: remembered if it is a trial.
    pub(super) fn arrived(&self, target: &str, way: Way) {
        let Some((_, mark)) = target.split_once(MARK) else {
            return;
        };
        if let Some(seen) = self.0.lock().get_mut(mark) {
            *seen = Some(way);
        }
    }

    fn begin(&self, mark: &str) {
        self.0.lock().insert(mark.to_owned(), None);
    }

    fn end(&self, mark: &str) -> Option<Way> {
        self.0.lock().remove(mark).flatten()
    }
}

/// Tries the way in whenever there is a tunnel, until the tasks stop.
pub fn start(
    kube: Kube,
    streams: CloudStream,
    redirects: Option<watch::Receiver<Redirects>>,
    registry: &mut Registry,
    tasks: &Tasks,
) {
    let metric = Family::<[(&'static str, &'static str); 1], Gauge>::default();
    registry.register(
        "cloudcore_cloudstream_way_in",
        "By which way the API server reaches the kubelets of edges: 1 for what the last trial found",
        metric.clone(),
    );
    let trials = streams.trials();
    tasks.spawn("way in", async move {
        let mut known: Option<Verdict> = None;
        let mut backoff = Backoff::new(FIRST, SOON);
        loop {
            let node = streams.some_node().await;
            let start = Instant::now();
            let verdict = match try_once(&kube, &trials, &node).await {
                Some(verdict) => Some(verdict),
                // A node that has just come may not have its port in the API yet, and rules may be under way.
                None if backoff.failures() < EARLY && start.elapsed() < SLOW => None,
                None => {
                    let report = diagnose(&kube, &node, streams.port()).await;
                    let state = redirects.as_ref().map(|redirects| redirects.borrow().clone());
                    Verdict::of_walk(&report, state.as_ref())
                }
            };
            let works = verdict.as_ref().is_some_and(|verdict| verdict.name() != NONE);
            if let Some(verdict) = verdict
                && known.as_ref() != Some(&verdict)
            {
                tell(&node, &verdict);
                for name in verdict::NAMES {
                    metric
                        .get_or_create(&[("way", name)])
                        .set(i64::from(name == verdict.name()));
                }
                known = Some(verdict);
            }
            let pause = if works {
                backoff.reset();
                SELDOM
            } else {
                backoff.next_delay()
            };
            tokio::time::sleep(pause).await;
        }
    });
}

/// One trial; nothing when it failed in a way that has to be looked into.
async fn try_once(kube: &Kube, trials: &Trials, node: &NodeName) -> Option<Verdict> {
    let mark = uuid::Uuid::new_v4().simple().to_string();
    trials.begin(&mark);
    let answer = kube.node_proxy(node, &format!("healthz?{MARK}{mark}")).await;
    Verdict::of(&answer, trials.end(&mark))
}

fn tell(node: &NodeName, verdict: &Verdict) {
    match verdict {
        Verdict::Works(Way::Port) => {
            info!(%node, "kubectl logs and exec work: the API server reaches edges by redirect rules");
        }
        Verdict::Works(Way::Egress) => {
            info!(%node, "kubectl logs and exec work: the API server reaches edges by the egress endpoint");
        }
        Verdict::Elsewhere => info!(%node, "the API server reaches the edge by another cloudcore, or directly"),
        Verdict::Untested => {
            info!("whether kubectl logs and exec work is not tested: cloudcore's account may not get nodes/proxy");
        }
        Verdict::Broken { hop, text, todo } => {
            warn!(%node, %hop, seen = text, todo, "kubectl logs and exec do not work");
        }
    }
}

/// In the query of a trial, before its mark.
const MARK: &str = "cloudcore-way-in=";
/// The first pauses, while it does not work; these trials are not spoken of.
const FIRST: Duration = Duration::from_secs(1);
const EARLY: u32 = 4;
/// A trial that has no answer for so long is not early: its connection ends nowhere.
const SLOW: Duration = Duration::from_secs(10);
/// The longest pause while it does not work.
const SOON: Duration = Duration::from_secs(30);
/// Between two trials when all is well.
const SELDOM: Duration = Duration::from_secs(600);
