//! What a new connection of a node leads to.

use common::{Tasks, chain};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use proto::NodeName;
use tokio::sync::broadcast::error::RecvError;
use tracing::warn;

use super::upstream::{Desk, annotate};
use crate::cloudhub::{CloudHub, SessionEvent};
use crate::synccontroller::SyncController;
use crate::waiting::Waiting;

pub(super) fn start(desk: Desk, hub: CloudHub, reconciler: SyncController, tasks: &Tasks) {
    tasks.spawn("sessions", async move {
        let mut events = hub.sessions();
        let mut own = desk.own.clone();
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
                // The annotation of all nodes says where this cloudcore was.
                Ok(()) = own.changed() => hub.connected().into_iter().for_each(|node| waiting.push(node)),
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

/// Nodes that are welcomed at a time.
const AT_A_TIME: usize = 32;
