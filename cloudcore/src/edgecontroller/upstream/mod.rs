//! Requests of the edges: what they write to the API and what they ask of it (spec 02 §3).
//!
//! Reads [`Upstream`] of the hub, a bounded queue per shard; emits answers through the hub. A node's requests about one object
//! are worked on in order, all others side by side ([`lanes`]): neither a slow resource nor a busy node holds up another. Full
//! means: the node is told that it asks too much, the rest goes on.

mod desk;
mod lanes;
mod node;
mod pod;
mod reply;
#[cfg(test)]
mod tests;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::AssertUnwindSafe;

use common::Tasks;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use proto::{Message, NodeName, Source, Status};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{error, warn};

use super::metrics::Metrics;
use crate::cloudhub::{CloudHub, Upstream};
use lanes::{Lane, Lanes, Limits};
use reply::Peer;

pub(super) use desk::Desk;
pub(super) use node::annotate;

pub(super) fn start(
    desk: &Desk,
    hub: &CloudHub,
    mut upstream: mpsc::Receiver<Upstream>,
    metrics: &Metrics,
    tasks: &Tasks,
) {
    let shards: Vec<mpsc::Sender<Upstream>> = (0..SHARDS)
        .map(|_| {
            let (sender, receiver) = mpsc::channel(SHARD_QUEUE);
            tasks.spawn("upstream", work(desk.clone(), hub.clone(), metrics.clone(), receiver));
            sender
        })
        .collect();
    tasks.spawn("upstream router", async move {
        while let Some(request) = upstream.recv().await {
            let mut hasher = DefaultHasher::new();
            request.node.hash(&mut hasher);
            let shard = usize::try_from(hasher.finish() % SHARDS).unwrap_or_default();
            if let Some(shard) = shards.get(shard) {
                // A shard takes in at once; it is gone only when the process stops.
                let _ = shard.send(request).await;
            }
        }
    });
}

async fn work(desk: Desk, hub: CloudHub, metrics: Metrics, mut requests: mpsc::Receiver<Upstream>) {
    let mut lanes = Lanes::new(LIMITS);
    let mut running = FuturesUnordered::new();
    loop {
        while let Some((node, lane, request)) = lanes.next() {
            running.push(serve(&desk, &hub, &metrics, node, lane, request));
        }
        tokio::select! {
            Some(Upstream { node, message }) = requests.recv() => {
                let lane = Lane::of(&message);
                if let Err(refused) = lanes.push(node.clone(), lane, message) {
                    metrics.dropped(&refused, "full");
                    warn!(%node, resource = %refused.route, "node asks more than it may at a time, request refused");
                    let status = Status::failure(429, "TooManyRequests", "cloudcore has too many requests of this node waiting");
                    hub.send(&node, reply::refused(peer(&hub, &node), &refused, &status)).await;
                }
            }
            Some((node, lane)) = running.next() => lanes.done(&node, &lane),
            else => return,
        }
    }
}

async fn serve(
    desk: &Desk,
    hub: &CloudHub,
    metrics: &Metrics,
    node: NodeName,
    lane: Lane,
    request: Message,
) -> (NodeName, Lane) {
    if request.source == Source::MetaServer {
        // The edge API has a controller of its own.
        return (node, lane);
    }
    metrics.begun();
    let begun = Instant::now();
    match AssertUnwindSafe(desk.handle(peer(hub, &node), &node, &request))
        .catch_unwind()
        .await
    {
        Ok(messages) => {
            for message in messages {
                hub.send(&node, message).await;
            }
        }
        Err(_) => {
            metrics.dropped(&request, "panic");
            error!(%node, resource = %request.route, "a request made its handler panic; it stays without an answer")
        }
    }
    metrics.served(&request, begun.elapsed());
    (node, lane)
}

fn peer(hub: &CloudHub, node: &NodeName) -> Peer {
    match hub.features(node) {
        Some(features) if !features.is_empty() => Peer::Ours(features),
        _ => Peer::Go,
    }
}

/// Requests run in as many tasks, a node's always in the same.
const SHARDS: u64 = 4;
/// Requests between the hub and a shard.
const SHARD_QUEUE: usize = 256;
/// Of each shard. 64 requests of some 5 ms each are 12,000 a second.
const LIMITS: Limits = Limits {
    running: 64,
    running_of_node: 8,
    waiting_of_node: 256,
};
