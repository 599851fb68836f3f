//! The redirect rules: connections of this host to `<edge>:<virtual port>` go to the stream server of the cloudcore that has that port.
//!
//! Owns the chain `TUNNEL-PORT` of the host's nat table (or the table `kubeedge` of nftables), whoever filled it before: what is wanted
//! is compared with what is installed at the start, when the record of ports changes, when the kernel tells of a change, and every 5 s;
//! so rules of a killed cloudcore are replaced, and a flushed chain is back at once. Reads the record of [`super::tunnelport`]. Both
//! families have their own rules; a host that can have none of IPv6 keeps those of IPv4 and says so. Must not touch any other chain, nor
//! remove a rule because it knows no record. At a clean end the rules go, but those for other cloudcores. Runs in cloudcore
//! (`modules.iptablesManager.mode: internal`) or as a program of its own on the hosts of API servers (`cloudcore --iptables-manager`).
//! Spec 04 §12.

mod backend;
mod changes;
mod edges;
mod metrics;
mod nftables;
mod rules;
mod run;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use common::{Tasks, chain};
use prometheus_client::registry::Registry;
use proto::tunnelport::TunnelPortRecord;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::addresses::Addresses;
use backend::Backend;
use changes::Changes;
pub use edges::follow_edges;
use metrics::Metrics;
use rules::{Family, Redirect, wanted};

/// What a manager works from.
#[derive(Debug)]
pub struct Parts {
    /// Who has which port.
    pub records: watch::Receiver<Option<TunnelPortRecord>>,
    /// The port of the stream servers, of all cloudcores.
    pub stream_port: u16,
    /// The addresses of the cloudcore that this manager is part of, if it is part of one.
    pub own: Option<watch::Receiver<Addresses>>,
    /// The addresses of edges, when only connections to these are to be redirected.
    pub edges: Option<watch::Receiver<BTreeSet<IpAddr>>>,
}

/// Whether this host's connections to edges are redirected.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Redirects {
    /// Not known yet.
    #[default]
    Unknown,
    /// They are.
    Kept {
        /// How many rules there are.
        rules: usize,
        /// Whether none is missing for addresses of IPv6.
        v6: bool,
    },
    /// They cannot be.
    Unable {
        /// What is in the way.
        why: String,
    },
}

/// Keeps the rules until the tasks stop.
pub fn start(parts: Parts, registry: &mut Registry, tasks: &Tasks) -> watch::Receiver<Redirects> {
    let (state, told) = watch::channel(Redirects::Unknown);
    let manager = Manager {
        parts,
        state,
        metrics: Metrics::register(registry),
        backend: None,
        installed: None,
        v6: true,
        without_v6: false,
    };
    tasks.spawn_draining("iptablesmanager", |stop| manager.run(stop));
    told
}

struct Manager {
    parts: Parts,
    state: watch::Sender<Redirects>,
    metrics: Metrics,
    backend: Option<Backend>,
    /// What was last seen in its place.
    installed: Option<BTreeSet<Redirect>>,
    /// Whether rules for IPv6 may be there: looked for at the start and whenever some are wanted.
    v6: bool,
    /// Whether it was said that those for IPv6 cannot be had.
    without_v6: bool,
}

/// The outcome of one pass: the rules compared with what is wanted, and put right.
struct Pass {
    /// The rules that are in their place.
    rules: BTreeSet<Redirect>,
    /// How many commands it took.
    commands: usize,
    /// Why those for IPv6 are not among them, though they are wanted.
    without_v6: Option<String>,
}

impl Manager {
    async fn run(mut self, stop: CancellationToken) {
        let mut changes = Changes::subscribe().ok();
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let edges = async {
                match &mut self.parts.edges {
                    Some(edges) => edges.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            let told = async {
                match &mut changes {
                    Some(changes) => changes.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
                Ok(()) = self.parts.records.changed() => {}
                true = edges => {}
                told = told => match told {
                    Ok(()) => {}
                    Err(_) => changes = None,
                }
            }
            let begun = Instant::now();
            let Some(record) = self.parts.records.borrow_and_update().clone() else {
                continue;
            };
            self.reconcile(&record).await;
            // Its own changes and those of a busy kube-proxy are told too: one look a moment is enough.
            let pause = if matches!(*self.state.borrow(), Redirects::Unable { .. }) {
                RETRY
            } else {
                MOMENT
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(begun + pause) => {}
            }
        }
        self.leave().await;
    }

    /// Makes what is installed what is wanted.
    async fn reconcile(&mut self, record: &TunnelPortRecord) {
        // Others may change the rules between the look and the command.
        let mut outcome = self.install(record).await;
        for _ in 1..TRIES {
            let done = |pass: &Pass| pass.without_v6.is_none() || self.without_v6;
            if outcome.as_ref().is_ok_and(done) {
                break;
            }
            outcome = self.install(record).await;
        }
        match outcome {
            Ok(pass) => self.seen(pass),
            Err(why) => self.unable(why),
        }
    }

    async fn install(&mut self, record: &TunnelPortRecord) -> Result<Pass, String> {
        let edges = self.parts.edges.as_mut().map(|edges| edges.borrow_and_update().clone());
        let backend = match &self.backend {
            Some(backend) => backend,
            None => {
                let found = Backend::probe().await.map_err(|error| error.to_string())?;
                self.backend.insert(found)
            }
        };
        let mut pass = Pass {
            rules: BTreeSet::new(),
            commands: 0,
            without_v6: None,
        };
        for family in [Family::V4, Family::V6] {
            let wanted = wanted(record, self.parts.stream_port, edges.as_ref(), family);
            if family == Family::V6 && wanted.is_empty() && !self.v6 {
                continue;
            }
            let applied = backend.apply(&wanted, family).await;
            if family == Family::V6 {
                self.v6 = !wanted.is_empty();
                match &applied {
                    // A kernel without IPv6 has nothing to be removed.
                    Err(_) if wanted.is_empty() => continue,
                    // Failing for IPv6 must not cost the rules for IPv4: it is only reported.
                    Err(error) if !pass.rules.is_empty() => {
                        pass.without_v6 = Some(chain(error));
                        continue;
                    }
                    _ => {}
                }
            }
            pass.commands += applied.map_err(|error| chain(&error))?;
            pass.rules.extend(wanted);
        }
        Ok(pass)
    }

    fn seen(&mut self, pass: Pass) {
        let Pass {
            rules,
            commands,
            without_v6,
        } = pass;
        if let Some(why) = &without_v6
            && !self.without_v6
        {
            warn!(
                why,
                "connections to edges' IPv6 addresses cannot be redirected on this host, those to IPv4 addresses are: install ip6tables, \
                 and check that the kernel has a nat table for IPv6; it is tried again"
            );
        }
        self.without_v6 = without_v6.is_some();
        let backend = self.backend.as_ref().map(ToString::to_string).unwrap_or_default();
        if self.without_v6 {
            // Its program may be installed meanwhile.
            self.backend = None;
        }
        let count = rules.len();
        if self.installed.as_ref() != Some(&rules) {
            info!(
                backend,
                rules = count,
                commands,
                "connections to edges are redirected on this host"
            );
        } else if commands > 0 {
            warn!(
                backend,
                commands, "somebody changed the redirect rules of this host, they are put back"
            );
            self.metrics.repaired();
        }
        self.metrics.rules(count);
        self.installed = Some(rules);
        self.state.send_if_modified(|state| {
            let now = Redirects::Kept {
                rules: count,
                v6: !self.without_v6,
            };
            std::mem::replace(state, now.clone()) != now
        });
    }

    /// One warning; then it is tried again, as a package may be installed meanwhile.
    fn unable(&mut self, why: String) {
        self.metrics.rules(0);
        self.backend = None;
        self.installed = None;
        self.without_v6 = false;
        if !matches!(*self.state.borrow(), Redirects::Unable { .. }) {
            warn!(
                why,
                "connections to edges cannot be redirected on this host: run cloudcore as root with iptables or nft installed, or run \
                 the DaemonSet of config/manifests/04-iptables-manager.yaml on the hosts of the API servers, or point the API \
                 server's EgressSelectorConfiguration at cloudcore, which needs no rule; it is tried again"
            );
        }
        self.state.send_replace(Redirects::Unable { why });
    }

    /// The rules for other cloudcores stay: theirs is a host with an API server too.
    async fn leave(&mut self) {
        let Some(mut record) = self.parts.records.borrow().clone() else {
            return;
        };
        if !matches!(*self.state.borrow(), Redirects::Kept { .. }) {
            return;
        }
        match &self.parts.own {
            Some(own) => drop(record.release(own.borrow().first)),
            None => record = TunnelPortRecord::default(),
        }
        match self.install(&record).await {
            Ok(pass) => info!(left = pass.rules.len(), "redirect rules removed"),
            Err(why) => warn!(
                why,
                "redirect rules stay: remove the chain TUNNEL-PORT of the nat table by hand"
            ),
        }
    }
}

/// Tries at a time.
const TRIES: u32 = 3;
/// Between two looks at the rules, at most.
const PERIOD: Duration = Duration::from_secs(5);
/// Between two looks, at least.
const MOMENT: Duration = Duration::from_millis(500);
/// The same while it does not work.
const RETRY: Duration = Duration::from_secs(30);
