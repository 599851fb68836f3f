//! The cache of records. Pure.

use std::collections::{HashMap, HashSet};

use proto::{Namespace, NodeName, Object, ObjectName, Uid};
use serde::Deserialize;

use crate::cloudhub::ObjectRef;
use crate::kubernetes::Seen;

/// What one ObjectSync says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// `spec.objectAPIVersion`.
    pub api_version: Box<str>,
    /// `spec.objectKind`: the kind, or the plural in lower case from v1.8.
    pub kind: Box<str>,
    /// Of the object and of its ObjectSync; the cluster scope for a ClusterObjectSync.
    pub namespace: Namespace,
    /// `spec.objectName`.
    pub name: ObjectName,
    /// `status.objectResourceVersion`; empty counts as `"0"`.
    pub version: Box<str>,
}

impl Record {
    /// The version as a number; 0 for a delivery that only began, and for what is no number.
    pub fn number(&self) -> u64 {
        self.version.parse().unwrap_or_default()
    }
}

#[derive(Default)]
pub(super) struct Index {
    records: HashMap<NodeName, HashMap<Uid, Record>>,
    /// What the running lists held so far: namespaced, cluster.
    listing: [Option<HashSet<(NodeName, Uid)>>; 2],
    synced: [bool; 2],
}

impl Index {
    pub(super) fn apply(&mut self, namespaced: bool, seen: Seen) {
        let scope = usize::from(!namespaced);
        match seen {
            Seen::Listing => self.listing[scope] = Some(HashSet::new()),
            Seen::Listed(object) => {
                if let Some(key) = key_of(&object)
                    && let Some(listed) = &mut self.listing[scope]
                {
                    listed.insert(key);
                }
                self.put(&object);
            }
            Seen::Synced => {
                self.synced[scope] = true;
                self.sweep(namespaced);
            }
            Seen::Added(object) | Seen::Modified(object) => self.put(&object),
            Seen::Deleted(object) => {
                if let Some((node, uid)) = key_of(&object) {
                    self.remove(&node, &uid);
                }
            }
        }
    }

    pub(super) const fn is_synced(&self) -> bool {
        self.synced[0] && self.synced[1]
    }

    pub(super) fn version(&self, node: &NodeName, uid: &Uid) -> Option<String> {
        self.records
            .get(node)?
            .get(uid)
            .map(|record| record.version.to_string())
    }

    pub(super) fn of(&self, node: &NodeName) -> Vec<(Uid, Record)> {
        let records = self.records.get(node).into_iter().flatten();
        records.map(|(uid, record)| (uid.clone(), record.clone())).collect()
    }

    pub(super) fn nodes(&self) -> Vec<NodeName> {
        self.records.keys().cloned().collect()
    }

    /// Returns whether there was no record.
    pub(super) fn begin(&mut self, node: &NodeName, object: &ObjectRef) -> bool {
        let records = self.records.entry(node.clone()).or_default();
        if records.contains_key(&object.uid) {
            return false;
        }
        records.insert(object.uid.clone(), record(object, "0"));
        true
    }

    /// Returns whether this is news.
    pub(super) fn acked(&mut self, node: &NodeName, object: &ObjectRef, version: &str) -> bool {
        let new = record(object, version);
        match self.records.entry(node.clone()).or_default().entry(object.uid.clone()) {
            std::collections::hash_map::Entry::Occupied(mut old) => {
                if *old.get().version == *version || old.get().number() > new.number() {
                    return false;
                }
                old.get_mut().version = new.version;
                true
            }
            std::collections::hash_map::Entry::Vacant(free) => {
                // Without a kind nobody could reconcile the record.
                if object.kind.is_empty() {
                    return false;
                }
                free.insert(new);
                true
            }
        }
    }

    pub(super) fn remove(&mut self, node: &NodeName, uid: &Uid) -> Option<Record> {
        let records = self.records.get_mut(node)?;
        let record = records.remove(uid);
        if records.is_empty() {
            self.records.remove(node);
        }
        record
    }

    /// An own write may be ahead of the watch: versions only grow.
    fn put(&mut self, object: &Object) {
        let (Some((node, uid)), Ok(view)) = (key_of(object), object.view::<View>()) else {
            return;
        };
        let new = Record {
            api_version: view.spec.object_api_version.into(),
            kind: view.spec.object_kind.into(),
            namespace: object.namespace(),
            name: view.spec.object_name.into(),
            version: view.status.object_resource_version.into(),
        };
        let records = self.records.entry(node).or_default();
        match records.get(&uid) {
            Some(old) if old.number() > new.number() => {}
            _ => {
                records.insert(uid, new);
            }
        }
    }

    fn sweep(&mut self, namespaced: bool) {
        let Some(listed) = self.listing[usize::from(!namespaced)].take() else {
            return;
        };
        for (node, records) in &mut self.records {
            records.retain(|uid, record| {
                record.namespace.is_cluster() == namespaced || listed.contains(&(node.clone(), uid.clone()))
            });
        }
        self.records.retain(|_, records| !records.is_empty());
    }
}

fn record(object: &ObjectRef, version: &str) -> Record {
    Record {
        api_version: object.api_version.clone(),
        kind: object.kind.clone(),
        namespace: object.namespace.clone(),
        name: object.name.clone(),
        version: version.into(),
    }
}

fn key_of(object: &Object) -> Option<(NodeName, Uid)> {
    let (node, uid) = object.meta().name.rsplit_once('.')?;
    Some((node.into(), uid.into()))
}

#[derive(Deserialize)]
struct View {
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Spec {
    #[serde(rename = "objectAPIVersion")]
    object_api_version: String,
    #[serde(rename = "objectKind")]
    object_kind: String,
    #[serde(rename = "objectName")]
    object_name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    #[serde(rename = "objectResourceVersion")]
    object_resource_version: String,
}
