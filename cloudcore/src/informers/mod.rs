//! Shared watches of the cluster, kept compact: one for all edges, whatever their number.
//!
//! Owns the index of edge nodes, their Pods, and the ConfigMaps and Secrets of the cluster: uid, version and references, no bodies. A
//! body passes through with its event, or is asked of the API server when an edge needs it (a few are kept for a moment, see `BODIES`).
//! What concerns devices is in [`devices`]. Reads Nodes with the edge label, Pods, and the metadata of ConfigMaps and Secrets. Emits
//! [`Change`]s, in order, over one bounded queue: when the reader is slow the watches wait. One task writes the index; readers take a
//! short lock. Must not write to the API or know messages. Spec 02 §2.

mod bodies;
mod change;
pub mod devices;
mod hosts;
mod index;
mod known;
mod references;
mod task;
#[cfg(test)]
mod tests;
mod watches;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use common::Tasks;
use parking_lot::{Mutex, RwLock};
use proto::inventory::{Item, is_of_devices};
use proto::{Kind, NodeName, Object, ObjectPath};
use tokio::sync::{Notify, broadcast, mpsc, watch};

use crate::kubernetes::{ApiError, Kube, NODES, PODS};
use bodies::Bodies;
use devices::Devices;
use index::Index;

pub use change::{Change, Need};
pub use hosts::{EdgeHosts, Host, Listed};
pub use known::{Known, shell};
pub use watches::Watch;

/// What the cluster holds, as far as edges are concerned. Cheap to clone.
#[derive(Clone)]
pub struct Informers {
    kube: Kube,
    index: Arc<RwLock<Index>>,
    bodies: Arc<Mutex<Bodies>>,
    synced: watch::Receiver<bool>,
    renamed: watch::Receiver<u64>,
    /// Told when a node may have become ready.
    readiness: Arc<Notify>,
    ports: broadcast::Sender<NodeName>,
    devices: Devices,
}

impl Informers {
    /// Starts the watches. The receiver must be read, or they stand still.
    pub fn start(kube: Kube, tasks: &Tasks) -> (Self, mpsc::Receiver<Change>) {
        let (changes, receiver) = mpsc::channel(CHANGES);
        let (synced_in, synced) = watch::channel(false);
        let (renamed_in, renamed) = watch::channel(0);
        let informers = Self {
            kube,
            index: Arc::default(),
            bodies: Arc::new(Mutex::new(Bodies::new(BODIES))),
            synced,
            renamed,
            readiness: Arc::default(),
            ports: broadcast::channel(PORTS).0,
            devices: Devices::new(),
        };
        task::start(&informers, changes, (synced_in, renamed_in), tasks);
        (informers, receiver)
    }

    /// Devices and their models.
    pub const fn devices(&self) -> &Devices {
        &self.devices
    }

    /// Whether the first lists are complete.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits for the first lists.
    pub async fn synced(&self) {
        let mut synced = self.synced.clone();
        // Only an end of the process takes the sender away.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Waits until all that a node is to hold is known. Returns whether it is: a node may never come to be an edge node.
    pub async fn ready_for(&self, node: &NodeName, limit: Duration) -> bool {
        let ready = async {
            loop {
                let changed = self.readiness.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if self.is_ready(node) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(limit, ready).await.is_ok()
    }

    /// Whether all that a node is to hold is known now.
    pub fn is_ready(&self, node: &NodeName) -> bool {
        self.index.read().is_ready(node)
    }

    /// Whether the Node says that this cloudcore has its connection.
    pub fn is_owned_by(&self, node: &NodeName, address: &str) -> bool {
        self.index.read().owner(node) == Some(address)
    }

    /// The port at which the API server looks for a node's kubelet; 0 when the status has none, `None` without such a node.
    pub fn kubelet_port(&self, node: &NodeName) -> Option<u16> {
        self.index.read().kubelet_port(node)
    }

    /// Nodes that appear or show another port of their kubelet, from now on. Who lags looks at the nodes of interest anew.
    pub fn port_changes(&self) -> broadcast::Receiver<NodeName> {
        self.ports.subscribe()
    }

    /// Whether there is such an edge node.
    pub fn has_node(&self, node: &NodeName) -> bool {
        self.index.read().has_node(node)
    }

    /// What all edges are called by whoever dials them.
    pub fn hosts(&self) -> Vec<EdgeHosts> {
        self.index.read().hosts()
    }

    /// The edges whose Nodes list this address, by name.
    pub fn nodes_at(&self, address: IpAddr) -> Vec<Listed> {
        self.index.read().nodes_at(address)
    }

    /// The addresses that a node's status lists.
    pub fn addresses(&self, node: &NodeName) -> Vec<IpAddr> {
        self.index.read().addresses(node)
    }

    /// A number that changes whenever [`Informers::hosts`] would give another answer.
    pub fn hosts_changed(&self) -> watch::Receiver<u64> {
        self.renamed.clone()
    }

    /// The version of an edge's Node, a Pod of an edge, a ConfigMap, a Secret, a Device or a DeviceModel; `None` when it does not exist.
    pub fn known(&self, path: &ObjectPath) -> Option<Known> {
        if is_of_devices(&path.kind) {
            return self.devices.known(path);
        }
        self.index.read().known(path).cloned()
    }

    /// Where a Pod runs, if on an edge.
    pub fn pod_node(&self, path: &ObjectPath) -> Option<NodeName> {
        self.index.read().pod_node(path).cloned()
    }

    /// How the Pods of a node need a ConfigMap or Secret.
    pub fn need(&self, node: &NodeName, path: &ObjectPath) -> Need {
        self.index.read().need(node, path)
    }

    /// Everything that a node is to hold.
    pub fn wanted(&self, node: &NodeName) -> Vec<(ObjectPath, Known)> {
        let mut wanted = self.index.read().wanted(node);
        wanted.extend(self.devices.wanted(node));
        wanted
    }

    /// The same as an inventory.
    pub fn inventory(&self, node: &NodeName) -> Vec<Item> {
        self.wanted(node)
            .into_iter()
            .map(|(path, known)| known.item(path))
            .collect()
    }

    /// The body of a ConfigMap, Secret, Device or DeviceModel, not older than what the watch told.
    pub async fn body(&self, path: &ObjectPath) -> Result<Object, ApiError> {
        if let Some(model) = self.devices.model(path) {
            return Ok(model);
        }
        let known = self.known(path);
        if let Some(known) = &known
            && let Some(object) = self.bodies.lock().get(path, known)
        {
            return Ok(object);
        }
        let resource = task::resource_of(&path.kind);
        let object = self.kube.get(&resource, &path.namespace, path.name_str()).await?;
        let object = object.with_type(&resource.api_version(), &resource.kind);
        self.bodies.lock().put(path, &object);
        Ok(object)
    }

    /// The Node object.
    pub async fn node(&self, node: &NodeName) -> Result<Object, ApiError> {
        let object = self
            .kube
            .get(&NODES, &proto::Namespace::cluster(), node.as_str())
            .await?;
        Ok(object.with_type("v1", "Node"))
    }

    /// The Pods that are bound to a node, from the API server.
    pub async fn pods_of(&self, node: &NodeName) -> Result<Vec<Object>, ApiError> {
        let query = format!("fieldSelector=spec.nodeName%3D{node}");
        let page = self.kube.list(&PODS, None, &query, "application/json").await?;
        Ok(page.items.into_iter().map(|pod| pod.with_type("v1", "Pod")).collect())
    }

    /// The bodies of what a node is to hold, as far as they still exist. Many Pods come by one request.
    pub async fn fetch(&self, node: &NodeName, paths: &[ObjectPath]) -> Result<Vec<(ObjectPath, Object)>, ApiError> {
        let mut found = Vec::new();
        if paths.iter().any(|path| path.kind == Kind::Pod) {
            for pod in self.pods_of(node).await? {
                let path = ObjectPath::new(pod.namespace(), Kind::Pod, pod.name());
                if paths.contains(&path) {
                    found.push((path, pod));
                }
            }
        }
        for path in paths.iter().filter(|path| path.kind != Kind::Pod) {
            let body = if path.kind == Kind::Node {
                self.node(node).await
            } else {
                self.body(path).await
            };
            match body {
                Ok(object) => found.push((path.clone(), object)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

/// Changes of ports that a slow listener may fall behind by.
const PORTS: usize = 4096;
/// Changes that wait for the edge controller before the watches stand still.
const CHANGES: usize = 1024;
/// Bytes of ConfigMaps and Secrets that are kept, newest use last: many edges ask for the same ones at the same time.
const BODIES: usize = 2 * 1024 * 1024;
