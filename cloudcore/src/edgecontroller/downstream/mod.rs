//! From changes of the cluster to messages for nodes (spec 02 §2).
//!
//! Reads [`Change`]s of the informers in order. Pods and Nodes go out as they come; of ConfigMaps and Secrets the watch tells the
//! version only, their bodies are fetched once for all nodes, those of one object in order. Nodes without a session are passed
//! over: what they miss is found when they connect.

#[cfg(test)]
mod tests;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use common::{Backoff, Tasks, chain};
use proto::inventory::is_of_devices;
use proto::{Group, Kind, Message, NodeName, Object, ObjectPath, Operation, Source, Uid};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::cloudhub::CloudHub;
use crate::informers::{Change, Informers, shell};
use crate::objectsync::ObjectSyncs;

pub(super) fn start(
    informers: &Informers,
    hub: &CloudHub,
    syncs: &ObjectSyncs,
    changes: mpsc::Receiver<Change>,
    tasks: &Tasks,
) {
    let fetchers = (0..FETCHERS)
        .map(|_| {
            let (sender, receiver) = mpsc::channel(FETCH_QUEUE);
            tasks.spawn("fetcher", fetch(informers.clone(), hub.clone(), receiver));
            sender
        })
        .collect();
    let pump = Pump {
        hub: hub.clone(),
        syncs: syncs.clone(),
        fetchers,
    };
    tasks.spawn("downstream", pump.run(changes));
}

/// A message with an object, for an edge.
pub(crate) fn object_message(path: ObjectPath, operation: Operation, object: &Object) -> Message {
    // A Go edge hands devices to its mappers only when they come from their own controller (spec 03 §2.2).
    let source = if is_of_devices(&path.kind) {
        Source::DeviceController
    } else {
        Source::EdgeController
    };
    Message::new(source, Group::Resource, operation, path, proto::Content::null()).with_object(object)
}

/// A message that an object is gone, by its uid alone.
pub(crate) fn deletion(path: &ObjectPath, uid: &Uid) -> Message {
    object_message(path.clone(), Operation::Delete, &shell(path, uid))
}

/// What leaves at once.
enum Step {
    Send(NodeName, Message),
    /// Fetch the body and send it to these nodes.
    Fetch(Fetch),
    /// The node is gone.
    End(NodeName),
}

struct Fetch {
    path: ObjectPath,
    operation: Operation,
    uid: Uid,
    nodes: Vec<NodeName>,
}

/// What a change means for nodes. Pure.
fn steps(change: Change) -> Vec<Step> {
    match change {
        Change::Pod { node, operation, pod } => {
            let path = ObjectPath::new(pod.namespace(), Kind::Pod, pod.name());
            vec![Step::Send(node, object_message(path, operation, &pod))]
        }
        Change::Node { node, object } => {
            let path = ObjectPath::cluster(Kind::Node, node.as_str());
            vec![Step::Send(node, object_message(path, Operation::Update, &object))]
        }
        Change::Referenced {
            path,
            operation: Operation::Delete,
            object,
            nodes,
        } => {
            let message = |_| deletion(&path, &object.uid());
            nodes.into_iter().map(|node| Step::Send(node, message(()))).collect()
        }
        Change::Referenced {
            path,
            operation,
            object,
            nodes,
        } => {
            vec![Step::Fetch(Fetch {
                path,
                operation,
                uid: object.uid(),
                nodes,
            })]
        }
        // Its Pods come as changes of their own.
        Change::NodeAppeared { .. } => Vec::new(),
        Change::NodeGone { node } => vec![Step::End(node)],
    }
}

struct Pump {
    hub: CloudHub,
    syncs: ObjectSyncs,
    fetchers: Vec<mpsc::Sender<Fetch>>,
}

impl Pump {
    async fn run(self, mut changes: mpsc::Receiver<Change>) {
        while let Some(change) = changes.recv().await {
            for step in steps(change) {
                self.take(step).await;
            }
        }
    }

    async fn take(&self, step: Step) {
        match step {
            Step::Send(node, message) => send(&self.hub, &node, message).await,
            Step::Fetch(mut fetch) => {
                fetch.nodes.retain(|node| self.hub.is_connected(node));
                if fetch.nodes.is_empty() {
                    return;
                }
                let mut hasher = DefaultHasher::new();
                fetch.path.hash(&mut hasher);
                let at = usize::try_from(hasher.finish() % FETCHERS).unwrap_or_default();
                if let Some(fetcher) = self.fetchers.get(at) {
                    // Gone only when the process stops.
                    let _ = fetcher.send(fetch).await;
                }
            }
            Step::End(node) => {
                info!(%node, "node is no edge node any more, its session ends");
                self.hub.disconnect(&node);
                self.syncs.node_gone(&node).await;
            }
        }
    }
}

async fn fetch(informers: Informers, hub: CloudHub, mut queue: mpsc::Receiver<Fetch>) {
    while let Some(fetch) = queue.recv().await {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let object = loop {
            match informers.body(&fetch.path).await {
                Ok(object) => break Some(object),
                Err(error) if error.is_transient() && backoff.failures() < FETCH_TRIES => {
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(error) => {
                    // Absent: its deletion comes as a change of its own.
                    if !error.is_not_found() {
                        warn!(object = %fetch.path, error = %chain(&error), "changed object cannot be read, its nodes keep the old one until they connect again");
                    }
                    break None;
                }
            }
        };
        // Another uid: the deletion of the first and the new one come as changes of their own.
        let Some(object) = object.filter(|object| object.uid() == fetch.uid) else {
            continue;
        };
        for node in &fetch.nodes {
            send(
                &hub,
                node,
                object_message(fetch.path.clone(), fetch.operation.clone(), &object),
            )
            .await;
        }
    }
}

async fn send(hub: &CloudHub, node: &NodeName, message: Message) {
    if !hub.is_connected(node) {
        return;
    }
    debug!(%node, resource = %message.route, operation = %message.operation, version = message.version, "sent to node");
    hub.send(node, message).await;
}

/// Bodies that are fetched at a time.
const FETCHERS: u64 = 8;
/// Changes of ConfigMaps and Secrets that wait for one fetcher before the pump waits.
const FETCH_QUEUE: usize = 128;
/// How often a body is asked for.
const FETCH_TRIES: u32 = 5;
