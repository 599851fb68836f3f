//! The Node object of this machine: registered, kept up to date, kept alive.
//!
//! Owns what was last reported. Reads facts of the machine, its address, the runtime's state, the link. Emits the Node, patches of its
//! status, the lease. Must not touch containers; nothing here is stored: the status is made anew after each connect. Behaviour: spec 05
//! §5.3.

mod facts;
mod lease;
mod status;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use common::{Backoff, Tasks};
use jiff::Timestamp;
use proto::{NodeName, Object};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

pub(crate) use facts::processes;
pub use facts::{Machine, NodeFacts, SystemFacts, Usage};
pub(crate) use view::NodeView;

use crate::address;
use crate::metamanager::{MetaManager, RequestError};
use crate::uplink::{AskError, Link};
use status::{Pressure, Report, Shortages};

/// Pauses between tries to register: as a kubelet's.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(7);

/// What the runtime says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeState {
    /// `RuntimeReady`.
    pub ready: bool,
    /// `NetworkReady`.
    pub network_ready: bool,
    /// `containerd`, as the runtime calls itself.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Why it is not ready, for people; empty when it is.
    pub reason: String,
}

/// What pods of this node may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocatable {
    /// Thousandths of processors.
    pub cpu_millis: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Bytes of disk.
    pub disk_bytes: i64,
}

impl Allocatable {
    /// Of a machine: what is there without what is reserved.
    pub fn of(settings: &Settings, facts: &dyn NodeFacts) -> Self {
        status::allocatable(settings, &facts.machine(), &facts.usage())
    }
}

/// What keeps pods away that do not stand it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Taint {
    /// `key`.
    pub key: String,
    /// `value`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// `effect`.
    pub effect: String,
}

/// What this part needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node.
    pub node: NodeName,
    /// The label and address of kind Hostname.
    pub hostname: String,
    /// Where logs and exec are served: `daemonEndpoints.kubeletEndpoint`.
    pub port: u16,
    /// `status.nodeInfo.kubeletVersion`.
    pub kubelet_version: String,
    /// `nodeLabels`.
    pub labels: BTreeMap<String, String>,
    /// `registerWithTaints`.
    pub taints: Vec<Taint>,
    /// `registerSchedulable`.
    pub schedulable: bool,
    /// `maxPods`.
    pub max_pods: i32,
    /// `kubeReserved`.
    pub kube_reserved: BTreeMap<String, String>,
    /// `systemReserved`.
    pub system_reserved: BTreeMap<String, String>,
    /// `evictionHard`.
    pub eviction_hard: BTreeMap<String, String>,
    /// `evictionPressureTransitionPeriod`: how long a shortage is told after it has passed.
    pub pressure_hold: Duration,
    /// `nodeStatusUpdateFrequency`: how often the status is computed.
    pub look: Duration,
    /// `nodeStatusReportFrequency`: how often it is sent although nothing changed.
    pub report: Duration,
    /// `nodeLeaseDurationSeconds`.
    pub lease_seconds: u32,
}

/// What the Node is made from.
pub struct Parts {
    /// Where it is stored, and the way to the cloud.
    pub meta: MetaManager,
    /// What the runtime says of itself.
    pub runtime: watch::Receiver<RuntimeState>,
    /// The address of kind InternalIP.
    pub address: watch::Receiver<IpAddr>,
    /// The machine.
    pub facts: Arc<dyn NodeFacts>,
}

/// Registers the node and keeps it up to date until the process stops.
pub fn start(settings: Settings, parts: Parts, tasks: &Tasks) {
    let Parts {
        meta,
        runtime,
        address,
        facts,
    } = parts;
    let (uid, uid_seen) = watch::channel(None);
    tasks.spawn(
        "lease",
        lease::keep(meta.clone(), settings.node.clone(), settings.lease_seconds, uid_seen),
    );
    let keeper = Keeper {
        machine: facts.machine(),
        settings,
        meta,
        runtime,
        address,
        facts,
        uid,
        sent: None,
        shortages: Shortages::default(),
        registered: false,
        was_ready: None,
        said: String::new(),
    };
    tasks.spawn("node", keeper.run());
}

struct Keeper {
    settings: Settings,
    meta: MetaManager,
    runtime: watch::Receiver<RuntimeState>,
    address: watch::Receiver<IpAddr>,
    facts: Arc<dyn NodeFacts>,
    machine: Machine,
    uid: watch::Sender<Option<String>>,
    sent: Option<(Report, Instant)>,
    shortages: Shortages,
    registered: bool,
    was_ready: Option<bool>,
    said: String,
}

impl Keeper {
    async fn run(mut self) {
        let mut link = self.meta.link();
        let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE).with_jitter(0.1);
        let mut session = Link::Down;
        let mut runtime_lost = false;
        loop {
            let Ok(now) = link.wait_for(|link| link.is_up()).await.map(|link| *link) else {
                return;
            };
            if now != session {
                // The cloud may have counted the node as lost meanwhile: everything is said again.
                session = now;
                self.sent = None;
            }
            let pause = match self.report().await {
                Ok(()) => {
                    backoff.reset();
                    self.said.clear();
                    self.settings.look
                }
                Err(error) => {
                    self.say(&error);
                    backoff.next_delay()
                }
            };
            tokio::select! {
                changed = self.runtime.changed(), if !runtime_lost => runtime_lost = changed.is_err(),
                () = address::changed(&mut self.address) => {}
                _ = link.wait_for(|now| now.is_up() && *now != session) => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn report(&mut self) -> Result<(), RequestError> {
        let usage = self.facts.usage();
        let state = self.runtime.borrow_and_update().clone();
        let address = *self.address.borrow_and_update();
        let seen = Pressure::of(&self.settings, &self.machine, &usage);
        let pressure = self.shortages.tell(seen, Instant::now(), self.settings.pressure_hold);
        let report = Report::new(&self.settings, address, &self.machine, &usage, pressure, &state);
        if self.was_ready != Some(report.is_ready()) {
            self.was_ready = Some(report.is_ready());
            info!(node = %self.settings.node, ready = report.is_ready(), reason = state.reason, "node status");
        }
        if let Some((sent, at)) = &self.sent
            && at.elapsed() < self.settings.report
            && *sent == report
        {
            return Ok(());
        }
        if !self.registered {
            return self.register(report).await;
        }
        let stored = self.meta.node().await?;
        self.patch(report, stored.as_ref()).await
    }

    async fn register(&mut self, report: Report) -> Result<(), RequestError> {
        // A Node in the database is in the API too, as a rule: patching it without asking first saves one message on the way to Ready.
        match self.meta.node().await {
            Ok(Some(stored)) => match self.patch(report.clone(), Some(&stored)).await {
                Err(RequestError::Refused(status)) if status.is_not_found() => {}
                other => return other,
            },
            // Go's cloudcore of v1.12 does not answer when there is no such Node.
            Ok(None) | Err(RequestError::Unanswered(AskError::Timeout(_))) => {}
            Err(error) => return Err(error),
        }
        let node = report
            .node(&self.settings, Timestamp::now())
            .map_err(|source| RequestError::Unreadable {
                what: self.settings.node.to_string(),
                source,
            })?;
        match self.meta.create_node(&node).await {
            Ok(node) => {
                info!(node = %self.settings.node, "node registered");
                self.accepted(report, &node);
                Ok(())
            }
            Err(RequestError::Refused(status)) if status.is_already_exists() => {
                let stored = self.meta.fetch_node().await?;
                self.patch(report, Some(&stored)).await
            }
            Err(error) => Err(error),
        }
    }

    async fn patch(&mut self, report: Report, stored: Option<&Object>) -> Result<(), RequestError> {
        let patch = report.patch(&self.settings, stored, Timestamp::now());
        let node = self.meta.patch_node_status(&patch).await?;
        if !self.registered {
            info!(node = %self.settings.node, "node taken over");
        }
        self.accepted(report, &node);
        Ok(())
    }

    fn accepted(&mut self, report: Report, node: &Object) {
        self.registered = true;
        self.sent = Some((report, Instant::now()));
        let uid = Some(node.meta().uid.clone()).filter(|uid| !uid.is_empty());
        if uid.is_some() && *self.uid.borrow() != uid {
            self.uid.send_replace(uid);
        }
    }

    /// One line for each cause.
    fn say(&mut self, error: &RequestError) {
        let trouble = common::chain(error);
        if trouble == self.said {
            debug!(node = %self.settings.node, error = trouble, "node status still not reported");
        } else {
            warn!(node = %self.settings.node, error = trouble, "node status not reported");
            self.said = trouble;
        }
    }
}
