//! What a new connection of a node leads to.

use std::mem;
use std::time::Duration;

use common::{Tasks, chain};
use futures::stream::FuturesUnordered;
use futures::{StreamExt, stream};
use proto::NodeName;
use tokio::sync::broadcast::error::RecvError;
use tracing::warn;

use super::upstream::{Desk, annotate};
use crate::cloudhub::{CloudHub, SessionEvent};
use crate::synccontroller::SyncController;
use crate::waiting::Waiting;

pub(super) fn start(desk: Desk, hub: CloudHub, reconciler: SyncController, tasks: &Tasks) {
    tasks.spawn("owner of nodes", follow_address(desk.clone(), hub.clone()));
    tasks.spawn("sessions", async move {
        let mut events = hub.sessions();
        let mut waiting = Waiting::default();
        for node in hub.connected() {
            waiting.push(node);
        }
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < AT_A_TIME
                && let Some(node) = waiting.pop()
            {
                running.push(welcome(&desk, &hub, &reconciler, node));
            }
            tokio::select! {
                event = events.recv() => match event {
                    Ok(SessionEvent::Connected { node, .. }) => waiting.push(node),
                    Ok(SessionEvent::Disconnected { node }) => reconciler.forget(&node),
                    Err(RecvError::Lagged(missed)) => {
                        warn!(missed, "fell behind the sessions, all nodes are looked at anew");
                        hub.connected().into_iter().for_each(|node| waiting.push(node));
                    }
                    Err(RecvError::Closed) => return,
                },
                Some(()) = running.next() => {}
            }
        }
    });
}

async fn welcome(desk: &Desk, hub: &CloudHub, reconciler: &SyncController, node: NodeName) {
    let informers = &desk.informers;
    // A node that is not registered yet gets the annotation with its registration: no request for each edge of a new fleet.
    let unregistered = informers.is_synced() && !informers.has_node(&node);
    if !unregistered
        && !informers.is_owned_by(&node, &desk.address())
        && let Err(error) = annotate(desk, node.as_str()).await
    {
        warn!(%node, error = %chain(&error), "annotation cloudcore was not written: other cloudcores cannot find this node until it connects again");
    }
    reconciler.forget(&node);
    if hub.features(&node).is_some_and(|features| !features.has_inventory()) {
        reconciler.reconcile(&node).await;
    }
}

/// Writes another address of this host to the nodes that still name the one of before: others may have gone to another cloudcore, and
/// the end of their connections not be known here.
async fn follow_address(desk: Desk, hub: CloudHub) {
    let mut own = desk.own.clone();
    let mut known = desk.address();
    while own.changed().await.is_ok() {
        let before = mem::replace(&mut known, desk.address());
        while before != desk.address() {
            let connected = hub.connected().into_iter();
            let left: Vec<NodeName> = connected
                .filter(|node| desk.informers.is_owned_by(node, &before))
                .collect();
            if left.is_empty() {
                break;
            }
            let written = stream::iter(left).map(|node| readdress(&desk, node));
            written.buffer_unordered(AT_A_TIME).collect::<()>().await;
            // What was written comes back by the watch.
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn readdress(desk: &Desk, node: NodeName) {
    if let Err(error) = annotate(desk, node.as_str()).await {
        warn!(%node, error = %chain(&error), "annotation cloudcore was not written, it is tried again: other cloudcores look for this node where this one was before");
    }
}

/// How long after a change of address it is checked whether all nodes name the new one.
const PAUSE: Duration = Duration::from_secs(5);
/// Nodes that are welcomed at a time.
const AT_A_TIME: usize = 32;
