//! Where the API server looks for the kubelets of the nodes whose tunnels are here: `kubeletEndpoint.Port` in their status.
//!
//! Owns nothing; reads the tunnels, the virtual port of this cloudcore and the port that each Node shows; writes that one field. A Node
//! that appears after its tunnel, or is deleted and made again, gets it as well. A port that another cloudcore wrote is left alone,
//! unless the tunnel came just now: two of them would else take turns for as long as an old tunnel lives on (spec 04 §2, §12).

use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::{Tasks, chain};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use proto::tunnelport::FIRST_PORT;
use proto::{Namespace, NodeName};
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::HOLDER_ANNOTATION;
use super::sessions::Sessions;
use crate::addresses::Addresses;
use crate::informers::Informers;
use crate::kubernetes::{Kube, NODES, PatchKind};
use crate::waiting::Waiting;

pub(super) struct NodePorts {
    pub(super) kube: Kube,
    pub(super) informers: Informers,
    pub(super) sessions: Arc<Sessions>,
    pub(super) port: watch::Receiver<u16>,
    /// Where other cloudcores reach the tunnels that are here.
    pub(super) own: watch::Receiver<Addresses>,
    pub(super) tunnel_port: u16,
}

impl NodePorts {
    pub(super) fn start(self, tasks: &Tasks) {
        tasks.spawn("ports of nodes", self.run());
    }

    async fn run(mut self) {
        let (mut arrivals, mut shown) = (self.sessions.arrivals(), self.informers.port_changes());
        let mut waiting = Waiting::default();
        let (mut port, mut own) = (self.port.clone(), self.own.clone());
        let mut known = own.borrow_and_update().first;
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < AT_A_TIME
                && let Some(node) = waiting.pop()
            {
                let holder = SocketAddr::new(self.own.borrow().first, self.tunnel_port);
                running.push(assert(&self.kube, *self.port.borrow_and_update(), holder, node));
            }
            tokio::select! {
                arrived = arrivals.recv() => match arrived {
                    Ok(node) => waiting.push(node),
                    Err(RecvError::Lagged(_)) => self.all(&mut waiting),
                    Err(RecvError::Closed) => return,
                },
                changed = shown.recv() => match changed {
                    Ok(node) if self.is_lost(&node) => waiting.push(node),
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => self.all(&mut waiting),
                    Err(RecvError::Closed) => return,
                },
                Ok(()) = port.changed() => self.all(&mut waiting),
                Ok(()) = own.changed() => {
                    let first = own.borrow_and_update().first;
                    if first != mem::replace(&mut known, first) {
                        self.kept(&mut waiting);
                    }
                }
                Some((node, again)) = running.next() => if again && self.sessions.get(&node).is_some() {
                    waiting.push(node);
                },
            }
        }
    }

    fn all(&self, waiting: &mut Waiting<NodeName>) {
        for session in self.sessions.all() {
            waiting.push(session.node.clone());
        }
    }

    /// Those that no other cloudcore has claimed: a tunnel may have gone there, and its end not be known here.
    fn kept(&self, waiting: &mut Waiting<NodeName>) {
        let port = *self.port.borrow();
        for session in self.sessions.all() {
            if self.informers.kubelet_port(&session.node) == Some(port) {
                waiting.push(session.node.clone());
            }
        }
    }

    /// Whether a node whose tunnel is here shows the port of a kubelet.
    fn is_lost(&self, node: &NodeName) -> bool {
        self.sessions.get(node).is_some() && self.informers.kubelet_port(node).is_some_and(|port| port < FIRST_PORT)
    }
}

/// Writes the port; says whether to try again.
async fn assert(kube: &Kube, port: u16, holder: SocketAddr, node: NodeName) -> (NodeName, bool) {
    // The field's name begins with a capital letter (spec 04 §2).
    let patch = json!({
        "metadata": {"annotations": {HOLDER_ANNOTATION: holder.to_string()}},
        "status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": port}}},
    });
    let name = node.as_str();
    let written = kube
        .patch(
            &NODES,
            &Namespace::cluster(),
            name,
            "status",
            PatchKind::Merge,
            &patch.to_string(),
        )
        .await;
    match written {
        Ok(_) => {
            debug!(%node, port, "the node's port is that of the tunnel");
            (node, false)
        }
        // It is written when the Node appears.
        Err(error) if error.is_not_found() => (node, false),
        Err(error) => {
            warn!(%node, error = chain(&error), "the port of the node's kubelet was not written, trying again in {RETRY:?}: kubectl logs and exec do not find the node until then");
            tokio::time::sleep(RETRY).await;
            (node, true)
        }
    }
}

/// Nodes that are written at a time.
const AT_A_TIME: usize = 32;
/// Until another try.
const RETRY: Duration = Duration::from_secs(2);
