//! What a comparison leads to. Pure.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use proto::inventory::is_of_devices;
use proto::{Kind, ObjectPath, Operation, Uid};
use tokio::time::Instant;

use crate::informers::Known;
use crate::objectsync::Record;

/// What was sent and is not acknowledged yet: the hub repeats it by itself for a while.
pub(super) type Sent = HashMap<Uid, (u64, Instant)>;

#[derive(Default, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) send: Vec<(ObjectPath, Operation)>,
    pub(super) delete: Vec<(ObjectPath, Uid)>,
    /// Records of which the edge is told nothing.
    pub(super) forget: Vec<Uid>,
    /// Records of objects that only the API server knows.
    pub(super) unknown: Vec<(Uid, Record)>,
}

pub(super) fn plan(
    wanted: &[(ObjectPath, Known)],
    records: &[(Uid, Record)],
    known: impl Fn(&ObjectPath) -> Option<Known>,
    waits: impl Fn(&ObjectPath) -> bool,
    has_devices: bool,
    sent: &mut Sent,
    now: Instant,
) -> Plan {
    let mut plan = Plan::default();
    sent.retain(|_, (_, at)| now.duration_since(*at) < REPEAT);
    let mut news = |uid: &Uid, version: u64| match sent.get(uid) {
        Some((before, _)) if *before >= version => false,
        _ => sent
            .insert(uid.clone(), (version, now))
            .is_none_or(|(before, _)| before < version),
    };
    let by_uid: HashMap<&Uid, &Record> = records.iter().map(|(uid, record)| (uid, record)).collect();
    let mut wanted_uids = HashSet::new();
    for (path, object) in wanted {
        wanted_uids.insert(&object.uid);
        let operation = match by_uid.get(&object.uid) {
            Some(record) if record.number() >= object.told => continue,
            Some(_) => Operation::Update,
            None if path.kind == Kind::Pod || is_of_devices(&path.kind) => Operation::Insert,
            None if path.kind == Kind::Node => Operation::Update,
            // The edge asks for what its Pods name.
            None => continue,
        };
        if !waits(path) && news(&object.uid, object.told) {
            plan.send.push((path.clone(), operation));
        }
    }
    for (uid, record) in records
        .iter()
        .filter(|(uid, record)| !wanted_uids.contains(uid) && !record.kind.is_empty())
    {
        let path = path_of(record);
        if is_of_devices(&path.kind) && !has_devices {
            // Absent knowledge removes nothing.
            continue;
        }
        if !is_followed(&path.kind) {
            plan.unknown.push((uid.clone(), record.clone()));
            continue;
        }
        // Being known does not count for Devices and DeviceModels: they may be there for another node only.
        let known = known(&path).filter(|object| object.uid == *uid && !is_of_devices(&path.kind));
        match known {
            // Not among the wanted objects, but it exists: the edge asked for it although no Pod names it.
            Some(object) if object.told > record.number() => {
                if news(uid, object.told) {
                    plan.send.push((path, Operation::Update));
                }
            }
            Some(_) => {}
            // No deletion is sent for a Node: a Go edge deletes by name, so it would lose the Node that was made anew, too, and it does not
            // start without one.
            None if path.kind == Kind::Node => plan.forget.push(uid.clone()),
            None => {
                if news(uid, u64::MAX) {
                    plan.delete.push((path, uid.clone()));
                }
            }
        }
    }
    plan
}

/// Where the object of a record travels: the type segment is the kind in lower case. v1.8 stored the plural.
pub(super) fn path_of(record: &Record) -> ObjectPath {
    let lower = record.kind.to_lowercase();
    let is_plural = record.kind.starts_with(|first: char| first.is_lowercase());
    let kind = match lower.strip_suffix('s') {
        Some(singular) if is_plural => singular,
        _ => &lower,
    };
    ObjectPath::new(record.namespace.clone(), Kind::from(kind), record.name.clone())
}

const fn is_followed(kind: &Kind) -> bool {
    matches!(kind, Kind::Pod | Kind::ConfigMap | Kind::Secret | Kind::Node) || is_of_devices(kind)
}

/// The hub sends five times within 25 s; after this the same version is handed to it again.
const REPEAT: Duration = Duration::from_secs(60);
