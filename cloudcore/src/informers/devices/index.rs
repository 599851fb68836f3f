//! What cloudcore remembers of devices. Pure: events in, changes for nodes out.

use std::collections::{HashMap, HashSet};

use proto::device::{DeviceFacts, DeviceId, Member};
use proto::{Kind, Namespace, NodeName, Object, ObjectPath, Operation, Uid};
use tracing::warn;

use super::super::known::{Known, fingerprint, shell};
use super::entry::DeviceEntry;
use super::member;
use crate::kubernetes::Seen;

/// What nodes have to hear of.
#[derive(Clone, Debug, PartialEq)]
pub enum DeviceChange {
    /// A Device came to a node. It may need its model before it.
    Added {
        /// The node.
        node: NodeName,
        /// The Device.
        device: Object,
        /// Its model, if the node did not need it so far.
        model: Option<Object>,
    },
    /// A Device changed and stays where it is.
    Updated {
        /// The node.
        node: NodeName,
        /// The Device.
        device: Object,
        /// Its model, if the node did not need it so far.
        model: Option<Object>,
    },
    /// A Device left a node.
    Removed {
        /// The node.
        node: NodeName,
        /// The Device; only its metadata when it vanished unseen.
        device: Object,
        /// Its model, if no other Device of the node needs it.
        model: Option<Object>,
    },
    /// A DeviceModel came, changed or went.
    Model {
        /// The nodes with Devices of it.
        nodes: Vec<NodeName>,
        /// Insert, update or delete.
        operation: Operation,
        /// The DeviceModel; only its metadata when it vanished unseen.
        model: Object,
    },
    /// All Devices and DeviceModels are known now.
    Ready,
}

/// Where a device belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DevicePlace {
    /// Not all devices are known.
    Unknown,
    /// There is no such Device.
    Absent,
    /// It is on no node.
    Unbound,
    /// On this node.
    Node(NodeName),
}

/// Which watch an event came from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Watch {
    Models,
    Devices,
    Statuses,
}

#[derive(Default)]
pub(super) struct Index {
    devices: HashMap<DeviceId, DeviceEntry>,
    models: HashMap<DeviceId, ModelEntry>,
    statuses: HashSet<DeviceId>,
    nodes: HashMap<NodeName, HashSet<DeviceId>>,
    /// How many Devices of a node need a model, whether it exists or not.
    users: HashMap<DeviceId, HashMap<NodeName, u32>>,
    /// Devices with a node and without a DeviceStatus that nobody deals with.
    lacking: HashSet<DeviceId>,
    listing: HashMap<Watch, HashSet<DeviceId>>,
    listed: HashSet<Watch>,
}

struct ModelEntry {
    object: Object,
    print: u64,
}

impl Index {
    /// Takes an event of a watch.
    pub(super) fn apply(&mut self, watch: Watch, seen: Seen) -> Vec<DeviceChange> {
        match seen {
            Seen::Listing => {
                self.listing.insert(watch, HashSet::new());
                Vec::new()
            }
            Seen::Listed(object) => {
                if let Some(listed) = self.listing.get_mut(&watch) {
                    listed.insert(id_of(&object));
                }
                self.present(watch, object)
            }
            Seen::Synced => self.sweep(watch),
            Seen::Added(object) | Seen::Modified(object) => self.present(watch, object),
            Seen::Deleted(object) => self.absent(watch, &id_of(&object), object),
        }
    }

    /// Whether the first lists of Devices and models are complete.
    pub(super) fn is_ready(&self) -> bool {
        self.is_listed(Watch::Models) && self.is_listed(Watch::Devices)
    }

    pub(super) fn is_listed(&self, watch: Watch) -> bool {
        self.listed.contains(&watch)
    }

    pub(super) fn place(&self, device: &DeviceId) -> DevicePlace {
        match self.devices.get(device) {
            None => DevicePlace::Absent,
            Some(entry) => entry.node.clone().map_or(DevicePlace::Unbound, DevicePlace::Node),
        }
    }

    pub(super) fn entry(&self, device: &DeviceId) -> Option<&DeviceEntry> {
        self.devices.get(device)
    }

    /// In the order of their names.
    pub(super) fn members(&self, node: &NodeName) -> Vec<Member> {
        let mut ids: Vec<&DeviceId> = self.nodes.get(node).into_iter().flatten().collect();
        ids.sort();
        let of = |id: &DeviceId| Some(member(id, &self.devices.get(id)?.description));
        ids.into_iter().filter_map(of).collect()
    }

    /// Models come before the devices.
    pub(super) fn wanted(&self, node: &NodeName) -> Vec<(ObjectPath, Known)> {
        let mut models = HashSet::new();
        let mut devices = Vec::new();
        for id in self.nodes.get(node).into_iter().flatten() {
            let Some(entry) = self.devices.get(id) else { continue };
            devices.push((path_of(id, Kind::Device), entry.known.clone()));
            models.extend(entry.model_id(id));
        }
        let models = models.into_iter().filter_map(|id| {
            let known = Known::of(&self.models.get(&id)?.object);
            Some((path_of(&id, Kind::DeviceModel), known))
        });
        models.chain(devices).collect()
    }

    /// Whether this is a Device whose model is not there or not `delivered`.
    pub(super) fn waits(&self, path: &ObjectPath, delivered: impl Fn(&Uid) -> bool) -> bool {
        let device = id_at(path).filter(|_| path.kind == Kind::Device);
        let model = device.and_then(|id| self.devices.get(&id)?.model_id(&id));
        model.is_some_and(|model| {
            let model = self.models.get(&model);
            model.is_none_or(|model| !delivered(&model.object.uid()))
        })
    }

    pub(super) fn known(&self, path: &ObjectPath) -> Option<Known> {
        let id = id_at(path)?;
        match path.kind {
            Kind::Device => self.devices.get(&id).map(|entry| entry.known.clone()),
            Kind::DeviceModel => self.models.get(&id).map(|entry| Known::of(&entry.object)),
            _ => None,
        }
    }

    pub(super) fn model(&self, path: &ObjectPath) -> Option<Object> {
        let id = id_at(path).filter(|_| path.kind == Kind::DeviceModel)?;
        self.models.get(&id).map(|entry| entry.object.clone())
    }

    /// Nothing before the DeviceStatuses are known: most of them exist.
    pub(super) fn take_lacking(&mut self, limit: usize) -> Vec<(DeviceId, Uid)> {
        if !self.is_listed(Watch::Statuses) || !self.is_ready() {
            return Vec::new();
        }
        let taken: Vec<DeviceId> = self.lacking.iter().take(limit).cloned().collect();
        let uids = taken.into_iter().filter_map(|id| {
            self.lacking.remove(&id);
            let uid = self.devices.get(&id)?.known.uid.clone();
            Some((id, uid))
        });
        uids.collect()
    }

    pub(super) fn still_lacks(&mut self, id: &DeviceId) {
        let has_node = self.devices.get(id).is_some_and(|entry| entry.node.is_some());
        if has_node && !self.statuses.contains(id) {
            self.lacking.insert(id.clone());
        }
    }

    fn present(&mut self, watch: Watch, object: Object) -> Vec<DeviceChange> {
        let id = id_of(&object);
        match watch {
            Watch::Models => self.model_present(id, object),
            Watch::Devices => self.device_present(&id, object),
            Watch::Statuses => {
                self.lacking.remove(&id);
                self.statuses.insert(id);
                Vec::new()
            }
        }
    }

    fn absent(&mut self, watch: Watch, id: &DeviceId, object: Object) -> Vec<DeviceChange> {
        match watch {
            Watch::Models => self.model_absent(id, object),
            Watch::Devices => self.device_absent(id, object),
            Watch::Statuses => {
                self.statuses.remove(id);
                self.still_lacks(id);
                Vec::new()
            }
        }
    }

    /// After a list: what was known and is not in it is gone.
    fn sweep(&mut self, watch: Watch) -> Vec<DeviceChange> {
        let Some(listed) = self.listing.remove(&watch) else {
            return Vec::new();
        };
        let was_ready = self.is_ready();
        self.listed.insert(watch);
        let gone: Vec<(DeviceId, Uid)> = match watch {
            Watch::Models => unlisted(self.models.iter().map(|(id, entry)| (id, entry.object.uid())), &listed),
            Watch::Devices => unlisted(
                self.devices.iter().map(|(id, entry)| (id, entry.known.uid.clone())),
                &listed,
            ),
            Watch::Statuses => unlisted(self.statuses.iter().map(|id| (id, "".into())), &listed),
        };
        let mut changes: Vec<DeviceChange> = gone
            .into_iter()
            .flat_map(|(id, uid)| {
                let shell = shell(&path_of(&id, watch.kind()), &uid);
                self.absent(watch, &id, shell)
            })
            .collect();
        if !was_ready && self.is_ready() {
            changes.push(DeviceChange::Ready);
        }
        changes
    }

    fn device_present(&mut self, id: &DeviceId, object: Object) -> Vec<DeviceChange> {
        let facts = DeviceFacts::of(&object).unwrap_or_else(|error| {
            warn!(device = %id, error = %common::chain(&error), "device cannot be read, it goes to no node");
            DeviceFacts::default()
        });
        let entry = DeviceEntry::new(&object, facts);
        let mut changes = Vec::new();
        let mut old = self.devices.get(id);
        if old.is_some_and(|old| old.known.uid != entry.known.uid) {
            // Another object with this name: the deletion of the earlier one was missed, and is made up for here.
            changes = self.device_absent(id, object.clone());
            old = None;
        }
        let old = match old {
            // A list that was asked for later may have overtaken the watch.
            Some(old) if old.known.version >= entry.known.version => return changes,
            Some(old) if old.print == entry.print => {
                let told = old.known.told;
                let mut entry = entry;
                entry.known.told = told;
                self.devices.insert(id.clone(), entry);
                return changes;
            }
            old => old.cloned(),
        };
        let (node, model) = (entry.node.clone(), entry.model_id(id));
        self.devices.insert(id.clone(), entry);
        if let Some(old) = &old
            && let Some(old_node) = &old.node
            && node.as_ref() != Some(old_node)
        {
            let unneeded = self.leave(id, old_node, old.model_id(id));
            changes.push(DeviceChange::Removed {
                node: old_node.clone(),
                // The device as it is now, not as the old node knew it: its protocol tells which mapper has to forget it.
                device: object.clone(),
                model: unneeded,
            });
        }
        let Some(node) = node else { return changes };
        match old.filter(|old| old.node.as_ref() == Some(&node)) {
            None => {
                let needed = self.enter(id, &node, model);
                self.still_lacks(id);
                changes.push(DeviceChange::Added {
                    node,
                    device: object,
                    model: needed,
                });
            }
            Some(old) if old.model_id(id) == model => {
                changes.push(DeviceChange::Updated {
                    node,
                    device: object,
                    model: None,
                });
            }
            Some(old) => {
                let needed = self.enter(id, &node, model);
                let unneeded = self.release(old.model_id(id), &node);
                changes.push(DeviceChange::Updated {
                    node: node.clone(),
                    device: object,
                    model: needed,
                });
                changes.extend(unneeded.map(|model| DeviceChange::Model {
                    nodes: vec![node],
                    operation: Operation::Delete,
                    model,
                }));
            }
        }
        changes
    }

    fn device_absent(&mut self, id: &DeviceId, object: Object) -> Vec<DeviceChange> {
        let Some(entry) = self.devices.remove(id) else {
            return Vec::new();
        };
        self.lacking.remove(id);
        let Some(node) = &entry.node else { return Vec::new() };
        let model = self.leave(id, node, entry.model_id(id));
        let device = if object.uid() == entry.known.uid {
            object
        } else {
            shell(&path_of(id, Kind::Device), &entry.known.uid)
        };
        vec![DeviceChange::Removed {
            node: node.clone(),
            device,
            model,
        }]
    }

    fn model_present(&mut self, id: DeviceId, object: Object) -> Vec<DeviceChange> {
        let print = fingerprint(&object, true);
        let operation = match self.models.get(&id) {
            Some(old) if old.object.uid() != object.uid() => Operation::Insert,
            Some(old) if old.object.version() >= object.version() => return Vec::new(),
            Some(old) if old.print == print => {
                self.models.insert(id, ModelEntry { object, print });
                return Vec::new();
            }
            Some(_) => Operation::Update,
            None => Operation::Insert,
        };
        let nodes = self.nodes_with(&id);
        self.models.insert(
            id,
            ModelEntry {
                object: object.clone(),
                print,
            },
        );
        told(nodes, operation, object)
    }

    fn model_absent(&mut self, id: &DeviceId, object: Object) -> Vec<DeviceChange> {
        if self.models.remove(id).is_none() {
            return Vec::new();
        }
        told(self.nodes_with(id), Operation::Delete, object)
    }

    fn nodes_with(&self, model: &DeviceId) -> Vec<NodeName> {
        self.users
            .get(model)
            .into_iter()
            .flatten()
            .map(|(node, _)| node.clone())
            .collect()
    }

    /// A Device is on a node now. Returns its model if the node did not need it so far.
    fn enter(&mut self, id: &DeviceId, node: &NodeName, model: Option<DeviceId>) -> Option<Object> {
        self.nodes.entry(node.clone()).or_default().insert(id.clone());
        let model = model?;
        let count = self
            .users
            .entry(model.clone())
            .or_default()
            .entry(node.clone())
            .or_default();
        *count += 1;
        let is_first = *count == 1;
        self.models
            .get(&model)
            .filter(|_| is_first)
            .map(|entry| entry.object.clone())
    }

    /// A Device is on a node no more. Returns its model if the node needs it no more.
    fn leave(&mut self, id: &DeviceId, node: &NodeName, model: Option<DeviceId>) -> Option<Object> {
        if let Some(devices) = self.nodes.get_mut(node) {
            devices.remove(id);
            if devices.is_empty() {
                self.nodes.remove(node);
            }
        }
        self.release(model, node)
    }

    fn release(&mut self, model: Option<DeviceId>, node: &NodeName) -> Option<Object> {
        let model = model?;
        let nodes = self.users.get_mut(&model)?;
        let count = nodes.get_mut(node)?;
        *count = count.saturating_sub(1);
        if *count > 0 {
            return None;
        }
        nodes.remove(node);
        if nodes.is_empty() {
            self.users.remove(&model);
        }
        self.models.get(&model).map(|entry| entry.object.clone())
    }
}

impl Watch {
    const fn kind(self) -> Kind {
        match self {
            Self::Models => Kind::DeviceModel,
            Self::Devices | Self::Statuses => Kind::Device,
        }
    }
}

fn told(nodes: Vec<NodeName>, operation: Operation, model: Object) -> Vec<DeviceChange> {
    if nodes.is_empty() {
        return Vec::new();
    }
    vec![DeviceChange::Model {
        nodes,
        operation,
        model,
    }]
}

pub(super) fn id_of(object: &Object) -> DeviceId {
    let namespace = object.meta().namespace.as_deref().unwrap_or_default();
    DeviceId::new(Namespace::new(namespace), object.name())
}

fn id_at(path: &ObjectPath) -> Option<DeviceId> {
    Some(DeviceId::new(path.namespace.clone(), path.name.clone()?))
}

fn path_of(id: &DeviceId, kind: Kind) -> ObjectPath {
    ObjectPath::new(id.namespace.clone(), kind, id.name.clone())
}

fn unlisted<'a>(known: impl Iterator<Item = (&'a DeviceId, Uid)>, listed: &HashSet<DeviceId>) -> Vec<(DeviceId, Uid)> {
    known
        .filter(|(id, _)| !listed.contains(id))
        .map(|(id, uid)| (id.clone(), uid))
        .collect()
}
