//! Whether the API server finds its way in: asked of the API server itself, with the first node that has a tunnel here.
//!
//! Owns the trial requests: `/healthz` of an edge's kubelet by way of `nodes/NAME/proxy`, each with a mark by which the stream server
//! knows it again. What became of it tells the way that works, or the hop that is broken and what to do: one line in the log when that
//! changes, and a metric. It is repeated, sooner while it does not work. Must not stop anything: logs and exec of edges are not what
//! cloudcore is for.

mod verdict;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use common::{Backoff, Tasks};
use parking_lot::Mutex;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use proto::NodeName;
use tokio::sync::watch;
use tracing::{info, warn};

use super::CloudStream;
use super::iptablesmanager::Redirects;
use crate::kubernetes::Kube;
use verdict::{Outcome, Verdict, judge};

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
            let outcome = try_once(&kube, &trials, &node).await;
            let state = redirects.as_ref().map(|redirects| redirects.borrow().clone());
            let verdict = judge(outcome, state.as_ref());
            // A node that has just come may not have its port in the API yet, and rules may be under way.
            let early = verdict.is_broken() && backoff.failures() < EARLY;
            if !early && known.as_ref() != Some(&verdict) {
                tell(&node, &verdict);
                for name in verdict::NAMES {
                    metric
                        .get_or_create(&[("way", name)])
                        .set(i64::from(name == verdict.name()));
                }
                known = Some(verdict.clone());
            }
            let pause = if verdict.is_broken() {
                backoff.next_delay()
            } else {
                backoff.reset();
                SELDOM
            };
            tokio::time::sleep(pause).await;
        }
    });
}

async fn try_once(kube: &Kube, trials: &Arc<Trials>, node: &NodeName) -> Outcome {
    let mark = uuid::Uuid::new_v4().simple().to_string();
    trials.begin(&mark);
    let path = format!("/api/v1/nodes/{node}/proxy/healthz?{MARK}{mark}");
    let answer = kube.read(&path, WITHIN).await;
    Outcome {
        answer,
        seen: trials.end(&mark),
    }
}

fn tell(node: &NodeName, verdict: &Verdict) {
    match verdict {
        Verdict::Works(Way::Port) => {
            info!(%node, "kubectl logs and exec work: the API server reaches edges by redirect rules");
        }
        Verdict::Works(Way::Egress) => {
            info!(%node, "kubectl logs and exec work: the API server reaches edges by the egress endpoint");
        }
        Verdict::Elsewhere => info!(
            %node,
            "the API server reaches the edge by another cloudcore, or directly"
        ),
        Verdict::Untested => {
            info!("whether kubectl logs and exec work is not tested: cloudcore's account may not get nodes/proxy")
        }
        Verdict::Broken { hop, todo, said } => warn!(%node, hop, said, "kubectl logs and exec do not work: {todo}"),
    }
}

/// In the query of a trial, before its mark.
const MARK: &str = "cloudcore-way-in=";
/// How long a trial may take: longer than the API server tries to connect.
const WITHIN: Duration = Duration::from_secs(35);
/// The first pauses, while it does not work; these trials are not spoken of.
const FIRST: Duration = Duration::from_secs(1);
const EARLY: u32 = 4;
/// The longest pause while it does not work.
const SOON: Duration = Duration::from_secs(30);
/// Between two trials when all is well.
const SELDOM: Duration = Duration::from_secs(600);
