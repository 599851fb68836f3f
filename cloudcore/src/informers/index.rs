//! What cloudcore remembers of the cluster: versions and references, no bodies. Pure: events in, changes for nodes out.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use proto::{Kind, Namespace, NodeName, Object, ObjectName, ObjectPath, Operation, Uid};

use super::change::{Change, Need};
use super::hosts::{EdgeHosts, Host, Listed, Lists, others_of};
use super::known::{Known, fingerprint, shell};
use super::references::{Reference, references};
use super::watches::Watch;
use crate::kubernetes::Seen;

#[derive(Default)]
pub(super) struct Index {
    nodes: HashMap<NodeName, NodeEntry>,
    lists: Lists,
    pods: HashMap<PodKey, PodEntry>,
    /// ConfigMaps and Secrets.
    objects: HashMap<ObjectPath, Known>,
    /// Who names them.
    located: HashMap<ObjectPath, HashMap<NodeName, Count>>,
    /// Nodes whose Pods are being looked up, with the Pods deleted meanwhile.
    looking: HashMap<NodeName, HashSet<Uid>>,
    /// What the running list of each watch held so far.
    listing: HashMap<Watch, HashSet<ObjectPath>>,
    synced: HashSet<Watch>,
    /// Counts the changes of what edges are called.
    renamed: u64,
    /// Nodes that are new or show another kubelet's port since the last look.
    port_changes: Vec<NodeName>,
}

type PodKey = (Namespace, ObjectName);

struct NodeEntry {
    known: Known,
    print: u64,
    owner: Box<str>,
    others: Arc<[Host]>,
    /// Where its kubelet is said to be; 0 for nowhere.
    port: u16,
    created: Option<Timestamp>,
    pods: HashSet<PodKey>,
}

impl NodeEntry {
    fn hosts(&self, node: &NodeName) -> EdgeHosts {
        EdgeHosts {
            node: node.clone(),
            others: self.others.clone(),
        }
    }
}

struct PodEntry {
    node: NodeName,
    known: Known,
    print: u64,
    references: Box<[Reference]>,
}

#[derive(Default)]
struct Count {
    all: u32,
    required: u32,
}

impl Index {
    /// Takes an event of a watch.
    pub(super) fn apply(&mut self, watch: Watch, seen: Seen) -> Vec<Change> {
        match seen {
            Seen::Listing => {
                self.listing.insert(watch, HashSet::new());
                Vec::new()
            }
            Seen::Listed(object) => {
                let path = watch.path(&object);
                if let Some(listed) = self.listing.get_mut(&watch) {
                    listed.insert(path.clone());
                }
                self.present(watch, path, object, true)
            }
            Seen::Synced => {
                self.synced.insert(watch);
                self.sweep(watch)
            }
            Seen::Added(object) => self.present(watch, watch.path(&object), object, true),
            Seen::Modified(object) => self.present(watch, watch.path(&object), object, false),
            Seen::Deleted(object) => self.absent(watch, &watch.path(&object), object),
        }
    }

    /// Takes the Pods that were looked up for a node that appeared.
    pub(super) fn found_pods(&mut self, node: &NodeName, pods: Vec<Object>) -> Vec<Change> {
        let deleted = self.looking.remove(node).unwrap_or_default();
        let pods = pods.into_iter().filter(|pod| !deleted.contains(&pod.uid()));
        pods.flat_map(|pod| self.present(Watch::Pods, Watch::Pods.path(&pod), pod, true))
            .collect()
    }

    /// Whether all that a node is to hold is known.
    pub(super) fn is_ready(&self, node: &NodeName) -> bool {
        self.synced.len() == Watch::ALL.len() && self.nodes.contains_key(node) && !self.looking.contains_key(node)
    }

    /// The annotation `cloudcore` of a node.
    pub(super) fn owner(&self, node: &NodeName) -> Option<&str> {
        self.nodes.get(node).map(|entry| &*entry.owner)
    }

    /// The port of a node's kubelet as its status has it; 0 when it has none.
    pub(super) fn kubelet_port(&self, node: &NodeName) -> Option<u16> {
        self.nodes.get(node).map(|entry| entry.port)
    }

    /// Nodes that are new or show another port since the last call.
    pub(super) fn take_port_changes(&mut self) -> Vec<NodeName> {
        std::mem::take(&mut self.port_changes)
    }

    pub(super) fn is_listed(&self, watch: Watch) -> bool {
        self.synced.contains(&watch)
    }

    /// What all edges are called.
    pub(super) fn hosts(&self) -> Vec<EdgeHosts> {
        self.nodes.iter().map(|(node, entry)| entry.hosts(node)).collect()
    }

    /// The edges whose Nodes list this address, by name.
    pub(super) fn nodes_at(&self, address: IpAddr) -> Vec<Listed> {
        let entries = self.lists.at(address).filter_map(|node| self.nodes.get_key_value(node));
        let one = |(node, entry): (&NodeName, &NodeEntry)| Listed {
            node: node.clone(),
            port: entry.port,
            created: entry.created,
        };
        entries.map(one).collect()
    }

    /// The addresses that a node's status lists.
    pub(super) fn addresses(&self, node: &NodeName) -> Vec<IpAddr> {
        let others = self.nodes.get(node).map(|entry| &*entry.others).unwrap_or_default();
        let address = |host: &Host| match host {
            Host::Address(address) => Some(*address),
            Host::Name(_) => None,
        };
        others.iter().filter_map(address).collect()
    }

    /// Grows with each change of what edges are called.
    pub(super) const fn renamed(&self) -> u64 {
        self.renamed
    }

    /// Whether there is such an edge node.
    pub(super) fn has_node(&self, node: &NodeName) -> bool {
        self.nodes.contains_key(node)
    }

    pub(super) fn known(&self, path: &ObjectPath) -> Option<&Known> {
        match path.kind {
            Kind::Node => self.nodes.get(path.name_str()).map(|entry| &entry.known),
            Kind::Pod => {
                let key = (path.namespace.clone(), path.name.clone()?);
                self.pods.get(&key).map(|entry| &entry.known)
            }
            _ => self.objects.get(path),
        }
    }

    pub(super) fn pod_node(&self, path: &ObjectPath) -> Option<&NodeName> {
        let key = (path.namespace.clone(), path.name.clone()?);
        self.pods.get(&key).map(|entry| &entry.node)
    }

    pub(super) fn need(&self, node: &NodeName, path: &ObjectPath) -> Need {
        match self.located.get(path).and_then(|nodes| nodes.get(node)) {
            None => Need::None,
            Some(Count { required: 0, .. }) => Need::Optional,
            Some(_) => Need::Required,
        }
    }

    /// Everything that a node is to hold: itself, its Pods, what they name and what exists of that.
    pub(super) fn wanted(&self, node: &NodeName) -> Vec<(ObjectPath, Known)> {
        let Some(entry) = self.nodes.get(node) else {
            return Vec::new();
        };
        let mut wanted = vec![(ObjectPath::cluster(Kind::Node, node.as_str()), entry.known.clone())];
        let mut named = HashSet::new();
        for key in &entry.pods {
            let Some(pod) = self.pods.get(key) else { continue };
            wanted.push((
                ObjectPath::new(key.0.clone(), Kind::Pod, key.1.clone()),
                pod.known.clone(),
            ));
            named.extend(pod.references.iter().map(|reference| &reference.path));
        }
        wanted.extend(
            named
                .into_iter()
                .filter_map(|path| Some((path.clone(), self.objects.get(path)?.clone()))),
        );
        wanted
    }

    fn present(&mut self, watch: Watch, path: ObjectPath, object: Object, added: bool) -> Vec<Change> {
        match watch {
            Watch::Nodes => self.node_present(&path, object),
            Watch::Pods => self.pod_present(path, object, added),
            Watch::ConfigMaps | Watch::Secrets => self.object_present(path, object, added),
        }
    }

    fn absent(&mut self, watch: Watch, path: &ObjectPath, object: Object) -> Vec<Change> {
        match watch {
            Watch::Nodes => self.node_absent(path),
            Watch::Pods => self.pod_absent(path, object),
            Watch::ConfigMaps | Watch::Secrets => self.object_absent(path, object),
        }
    }

    /// After a list: what was known and is not in it is gone.
    fn sweep(&mut self, watch: Watch) -> Vec<Change> {
        let Some(listed) = self.listing.remove(&watch) else {
            return Vec::new();
        };
        let gone: Vec<(ObjectPath, Uid)> = match watch {
            Watch::Nodes => {
                let paths = self.nodes.iter();
                let paths = paths.map(|(name, node)| (ObjectPath::cluster(Kind::Node, name.as_str()), &node.known));
                unlisted(paths, &listed)
            }
            Watch::Pods => {
                let paths = self.pods.iter();
                let paths =
                    paths.map(|((ns, name), pod)| (ObjectPath::new(ns.clone(), Kind::Pod, name.clone()), &pod.known));
                unlisted(paths, &listed)
            }
            Watch::ConfigMaps | Watch::Secrets => {
                let kind = watch.kind();
                let paths = self.objects.iter().filter(|(path, _)| path.kind == kind);
                unlisted(paths.map(|(path, known)| (path.clone(), known)), &listed)
            }
        };
        gone.into_iter()
            .flat_map(|(path, uid)| {
                let shell = shell(&path, &uid);
                self.absent(watch, &path, shell)
            })
            .collect()
    }

    fn node_present(&mut self, path: &ObjectPath, object: Object) -> Vec<Change> {
        let node = NodeName::new(path.name_str());
        let print = fingerprint(&object, false);
        let known = Known::of(&object);
        let Facts { owner, port, created } = facts_of(&object);
        let others = others_of(&object);
        if let Some(entry) = self.nodes.get_mut(&node) {
            let same = entry.print == print && entry.known.uid == known.uid;
            if entry.port != port || entry.known.uid != known.uid {
                entry.port = port;
                self.port_changes.push(node.clone());
            }
            entry.print = print;
            entry.known = known;
            entry.owner = owner;
            entry.created = created;
            if entry.others != others {
                self.lists.remove(&entry.hosts(&node));
                entry.others = others;
                self.lists.add(&entry.hosts(&node));
                self.renamed += 1;
            }
            return if same {
                Vec::new()
            } else {
                vec![Change::Node { node, object }]
            };
        }
        let entry = NodeEntry {
            known,
            print,
            owner,
            others,
            port,
            created,
            pods: HashSet::new(),
        };
        self.lists.add(&entry.hosts(&node));
        self.nodes.insert(node.clone(), entry);
        self.renamed += 1;
        self.port_changes.push(node.clone());
        let mut changes = vec![Change::Node {
            node: node.clone(),
            object,
        }];
        // Before the first list of Pods is complete, no Pod was skipped because its node was unknown: there is nothing to look for.
        if self.synced.contains(&Watch::Pods) || self.listing.contains_key(&Watch::Pods) {
            self.looking.insert(node.clone(), HashSet::new());
            changes.push(Change::NodeAppeared { node });
        }
        changes
    }

    fn node_absent(&mut self, path: &ObjectPath) -> Vec<Change> {
        let node = NodeName::new(path.name_str());
        let Some(entry) = self.nodes.remove(&node) else {
            return Vec::new();
        };
        self.lists.remove(&entry.hosts(&node));
        self.renamed += 1;
        self.looking.remove(&node);
        for key in entry.pods {
            if let Some(pod) = self.pods.remove(&key) {
                self.unlocate(&pod);
            }
        }
        vec![Change::NodeGone { node }]
    }

    fn pod_present(&mut self, path: ObjectPath, object: Object, added: bool) -> Vec<Change> {
        let Some(name) = path.name.clone() else {
            return Vec::new();
        };
        let key = (path.namespace.clone(), name);
        // Another object with this name: the deletion of the earlier one, perhaps on another node, was missed, and is made up for here.
        let old = self.pods.get(&key).map(|old| old.known.uid.clone());
        let mut changes = match old.filter(|old| *old != object.uid()) {
            Some(old) => self.pod_absent(&path, shell(&path, &old)),
            None => Vec::new(),
        };
        let Some(node) = object.spec_node_name() else {
            return changes;
        };
        let Some(node_entry) = self.nodes.get_mut(&node) else {
            return changes;
        };
        let mut known = Known::of(&object);
        let print = fingerprint(&object, true);
        let operation = match self.pods.get_mut(&key) {
            // A list that was asked for later may have overtaken the watch.
            Some(old) if old.known.uid == known.uid && old.known.version > known.version => return Vec::new(),
            Some(old) if old.known.uid == known.uid && old.print == print => {
                old.known.version = known.version;
                return Vec::new();
            }
            Some(_) => Operation::Update,
            None if added && !object.is_deleting() => Operation::Insert,
            None => Operation::Update,
        };
        known.told = known.version;
        node_entry.pods.insert(key.clone());
        let entry = PodEntry {
            node: node.clone(),
            known,
            print,
            references: references(&object),
        };
        self.locate(&entry);
        if let Some(old) = self.pods.insert(key, entry) {
            self.unlocate(&old);
        }
        changes.push(Change::Pod {
            node,
            operation,
            pod: object,
        });
        changes
    }

    fn pod_absent(&mut self, path: &ObjectPath, object: Object) -> Vec<Change> {
        if let Some(node) = object.spec_node_name()
            && let Some(deleted) = self.looking.get_mut(&node)
        {
            deleted.insert(object.uid());
        }
        let Some(name) = path.name.clone() else {
            return Vec::new();
        };
        let key = (path.namespace.clone(), name);
        if self.pods.get(&key).is_none_or(|pod| pod.known.uid != object.uid()) {
            return Vec::new();
        }
        let Some(pod) = self.pods.remove(&key) else {
            return Vec::new();
        };
        self.unlocate(&pod);
        if let Some(node) = self.nodes.get_mut(&pod.node) {
            node.pods.remove(&key);
        }
        vec![Change::Pod {
            node: pod.node,
            operation: Operation::Delete,
            pod: object,
        }]
    }

    fn object_present(&mut self, path: ObjectPath, object: Object, added: bool) -> Vec<Change> {
        let known = Known::of(&object);
        let old = self.objects.insert(path.clone(), known.clone());
        if old.as_ref() == Some(&known) {
            return Vec::new();
        }
        // Go sends Secrets as update even when they are new (spec 02 §2).
        let insert = added && old.is_none() && path.kind == Kind::ConfigMap;
        self.referenced(path, if insert { Operation::Insert } else { Operation::Update }, object)
    }

    fn object_absent(&mut self, path: &ObjectPath, object: Object) -> Vec<Change> {
        self.objects.remove(path);
        self.referenced(path.clone(), Operation::Delete, object)
    }

    fn referenced(&self, path: ObjectPath, operation: Operation, object: Object) -> Vec<Change> {
        let nodes: Vec<NodeName> = self
            .located
            .get(&path)
            .map(|nodes| nodes.keys().cloned().collect())
            .unwrap_or_default();
        if nodes.is_empty() {
            Vec::new()
        } else {
            vec![Change::Referenced {
                path,
                operation,
                object,
                nodes,
            }]
        }
    }

    fn locate(&mut self, pod: &PodEntry) {
        for reference in &pod.references {
            let count = self
                .located
                .entry(reference.path.clone())
                .or_default()
                .entry(pod.node.clone())
                .or_default();
            count.all += 1;
            count.required += u32::from(!reference.optional);
        }
    }

    fn unlocate(&mut self, pod: &PodEntry) {
        for reference in &pod.references {
            let Some(nodes) = self.located.get_mut(&reference.path) else {
                continue;
            };
            if let Some(count) = nodes.get_mut(&pod.node) {
                count.all = count.all.saturating_sub(1);
                count.required = count.required.saturating_sub(u32::from(!reference.optional));
                if count.all == 0 {
                    nodes.remove(&pod.node);
                }
            }
            if nodes.is_empty() {
                self.located.remove(&reference.path);
            }
        }
    }
}

#[derive(Default)]
struct Facts {
    /// The annotation `cloudcore`.
    owner: Box<str>,
    /// Of the kubelet.
    port: u16,
    created: Option<Timestamp>,
}

fn facts_of(node: &Object) -> Facts {
    #[derive(serde::Deserialize)]
    struct Node {
        metadata: Metadata,
        status: Option<Status>,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Status {
        daemon_endpoints: Option<Endpoints>,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Endpoints {
        kubelet_endpoint: Option<Endpoint>,
    }
    #[derive(serde::Deserialize)]
    struct Endpoint {
        #[serde(rename = "Port")]
        port: Option<u16>,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        annotations: Option<HashMap<String, String>>,
        creation_timestamp: Option<String>,
    }
    let Ok(view) = node.view::<Node>() else {
        return Facts::default();
    };
    let created = view.metadata.creation_timestamp.and_then(|time| time.parse().ok());
    let owner = view.metadata.annotations.unwrap_or_default().remove("cloudcore");
    let endpoints = view.status.and_then(|status| status.daemon_endpoints);
    let port = endpoints.and_then(|endpoints| endpoints.kubelet_endpoint?.port);
    Facts {
        owner: owner.unwrap_or_default().into(),
        port: port.unwrap_or_default(),
        created,
    }
}

fn unlisted<'a>(
    known: impl Iterator<Item = (ObjectPath, &'a Known)>,
    listed: &HashSet<ObjectPath>,
) -> Vec<(ObjectPath, Uid)> {
    known
        .filter(|(path, _)| !listed.contains(path))
        .map(|(path, known)| (path, known.uid.clone()))
        .collect()
}
