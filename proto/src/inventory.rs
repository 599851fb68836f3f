//! The inventory between our own edge and cloud: after a connect both compare what the edge holds with what the API has.
//!
//! Used where both announced the feature `inventory`; Go peers get ObjectSync instead (spec 02 §4). All messages have the route
//! `inventory/sync` and the group `resource`:
//!
//! 1. edge: `query`, source `metamanager`, content [`Digest`];
//! 2. cloud: `response`, content [`Verdict`]; when equal, that is all;
//! 3. edge: `update`, content [`Listing`];
//! 4. cloud: the missing, changed and vanished objects as `insert`, `update` and `delete` (whose content is `metadata` with the uid),
//!    then `response`, content [`Outcome`].
//!
//! Covered are Pods, ConfigMaps, Secrets, Devices, DeviceModels and the edge's own Node ([`covers`]): what the cloud pushes by itself.
//! A cloud that does not know the devices yet leaves those that an edge holds alone, and sends the difference once it knows them.

use std::collections::HashMap;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::ids::Uid;
use crate::object::Object;
use crate::route::{Kind, ObjectPath, Route};
use crate::words::Group;

/// One object that the edge holds, or is to hold. On the wire: `["default/pod/x","<uid>","<resourceVersion>"]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Item {
    /// Where it is; cluster-scoped objects have the namespace `null`.
    pub path: ObjectPath,
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.resourceVersion`.
    pub version: Box<str>,
}

/// The sum over all items of the first 128 bits of the SHA-256 of `path uid version\n`, and their number: independent of order, and
/// kept up to date item by item. On the wire: `{"hash":"<32 hex digits>","count":N}`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digest {
    hash: u128,
    count: u64,
}

/// The answer to a [`Digest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether the edge holds exactly what it is to hold.
    pub equal: bool,
}

/// All that the edge holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// In any order.
    pub items: Vec<Item>,
}

/// The answer to a [`Listing`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// How many objects were sent as new or changed.
    pub sent: u64,
    /// How many deletions were sent.
    pub deleted: u64,
    /// The Pods among what was sent. This answer may overtake them, and other messages come in between: an edge that lost its database
    /// knows by it which running pods are still to be named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<Uid>,
}

/// What has to be told to the edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The edge lacks the object, or holds one of the same name with another uid.
    Insert(Item),
    /// The edge holds another version of it.
    Update(Item),
    /// The object is gone, or is no longer meant for this edge; the uid is the one that the edge holds.
    Delete(Item),
}

/// Whether objects of this kind take part.
pub const fn covers(kind: &Kind) -> bool {
    matches!(kind, Kind::Pod | Kind::ConfigMap | Kind::Secret | Kind::Node) || is_of_devices(kind)
}

/// Whether objects of this kind are DeviceController's.
pub const fn is_of_devices(kind: &Kind) -> bool {
    matches!(kind, Kind::Device | Kind::DeviceModel)
}

/// What leads from `held` to `wanted`: deletions first, so that a name is free before its successor comes.
pub fn difference(wanted: &[Item], held: &[Item]) -> Vec<Change> {
    let held_by_path: HashMap<&ObjectPath, &Item> = held.iter().map(|item| (&item.path, item)).collect();
    let wanted_by_path: HashMap<&ObjectPath, &Item> = wanted.iter().map(|item| (&item.path, item)).collect();
    let mut changes: Vec<Change> = held_by_path
        .values()
        .filter(|item| {
            wanted_by_path
                .get(&item.path)
                .is_none_or(|wanted| wanted.uid != item.uid)
        })
        .map(|item| Change::Delete((*item).clone()))
        .collect();
    for item in wanted_by_path.values() {
        match held_by_path.get(&item.path) {
            Some(held) if held.uid == item.uid && held.version == item.version => {}
            Some(held) if held.uid == item.uid => changes.push(Change::Update((*item).clone())),
            _ => changes.push(Change::Insert((*item).clone())),
        }
    }
    changes
}

impl Item {
    /// The item of an object at the path it travels under.
    pub fn of(path: ObjectPath, object: &Object) -> Self {
        Self {
            path,
            uid: object.uid(),
            version: object.meta().resource_version.as_str().into(),
        }
    }

    fn hash(&self) -> u128 {
        let text = format!("{} {} {}\n", self.path, self.uid, self.version);
        let sum = Sha256::digest(text.as_bytes());
        sum.iter()
            .take(16)
            .fold(0, |hash, byte| (hash << 8) | u128::from(*byte))
    }
}

impl Digest {
    /// Adds an item.
    pub fn add(&mut self, item: &Item) {
        self.hash = self.hash.wrapping_add(item.hash());
        self.count = self.count.wrapping_add(1);
    }

    /// Takes an item away that was added before.
    pub fn remove(&mut self, item: &Item) {
        self.hash = self.hash.wrapping_sub(item.hash());
        self.count = self.count.wrapping_sub(1);
    }

    /// The number of items.
    pub const fn count(&self) -> u64 {
        self.count
    }
}

impl<'a> FromIterator<&'a Item> for Digest {
    fn from_iter<I: IntoIterator<Item = &'a Item>>(items: I) -> Self {
        let mut digest = Self::default();
        items.into_iter().for_each(|item| digest.add(item));
        digest
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x} of {} objects", self.hash, self.count)
    }
}

#[derive(Serialize, Deserialize)]
struct WireDigest {
    hash: String,
    count: u64,
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        WireDigest {
            hash: format!("{:032x}", self.hash),
            count: self.count,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = WireDigest::deserialize(deserializer)?;
        let hash = u128::from_str_radix(&wire.hash, 16).map_err(D::Error::custom)?;
        Ok(Self {
            hash,
            count: wire.count,
        })
    }
}

impl Serialize for Item {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.path.to_string(), &self.uid, &self.version).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (path, uid, version) = <(String, Uid, Box<str>)>::deserialize(deserializer)?;
        match Route::parse(&Group::Resource, &path) {
            Route::Object(path) if path.name.is_some() => Ok(Self { path, uid, version }),
            _ => Err(D::Error::custom(format!("{path:?} is no path of an object"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::content::Content;

    fn item(path: &str, uid: &str, version: &str) -> Item {
        let Route::Object(path) = Route::parse(&Group::Resource, path) else {
            panic!("{path}")
        };
        Item {
            path,
            uid: uid.into(),
            version: version.into(),
        }
    }

    /// What an edge holds after the changes.
    fn apply(held: &[Item], changes: &[Change]) -> Vec<Item> {
        let mut rows: HashMap<ObjectPath, Item> = held.iter().map(|item| (item.path.clone(), item.clone())).collect();
        for change in changes {
            match change {
                Change::Insert(item) | Change::Update(item) => {
                    rows.insert(item.path.clone(), item.clone());
                }
                Change::Delete(item) => {
                    assert_eq!(rows.remove(&item.path).map(|row| row.uid), Some(item.uid.clone()));
                }
            }
        }
        rows.into_values().collect()
    }

    #[test]
    fn wire_forms() {
        let listing = Listing {
            items: vec![item("default/pod/x", "u", "7")],
        };
        assert_eq!(
            Content::json(&listing).get(),
            r#"{"items":[["default/pod/x","u","7"]]}"#
        );
        assert_eq!(Content::json(&listing).parse::<Listing>().expect("listing"), listing);
        let digest: Digest = listing.items.iter().collect();
        let content = Content::json(&digest);
        assert_eq!(content.parse::<Digest>().expect("digest"), digest);
        assert_eq!(
            content.get(),
            r#"{"hash":"52905aa49fcb60651d58d88c6f59a723","count":1}"#
        );
        assert!(Content::text("x").parse::<Digest>().is_err());
        assert!(serde_json::from_str::<Item>(r#"["pod","u","7"]"#).is_err());
    }

    #[test]
    fn a_successor_of_the_same_name_comes_after_the_deletion() {
        let changes = difference(
            &[item("default/pod/x", "new", "9")],
            &[item("default/pod/x", "old", "7")],
        );
        assert_eq!(
            changes,
            [
                Change::Delete(item("default/pod/x", "old", "7")),
                Change::Insert(item("default/pod/x", "new", "9"))
            ]
        );
    }

    fn items() -> impl Strategy<Value = Vec<Item>> {
        let one = (0..12u8, 0..2u8, 0..3u8).prop_map(|(name, uid, version)| {
            item(
                &format!("default/pod/p{name}"),
                &format!("{name}-{uid}"),
                &version.to_string(),
            )
        });
        proptest::collection::vec(one, 0..16).prop_map(|items| {
            let by_path: HashMap<ObjectPath, Item> = items.into_iter().map(|item| (item.path.clone(), item)).collect();
            by_path.into_values().collect()
        })
    }

    proptest! {
        #[test]
        fn the_difference_leads_to_what_is_wanted(wanted in items(), held in items()) {
            let changes = difference(&wanted, &held);
            let after = apply(&held, &changes);
            prop_assert_eq!(after.iter().collect::<Digest>(), wanted.iter().collect::<Digest>());
            prop_assert!(difference(&wanted, &after).is_empty());
            prop_assert_eq!(changes.is_empty(), held.iter().collect::<Digest>() == wanted.iter().collect::<Digest>());
        }

        #[test]
        fn a_digest_forgets_what_is_taken_away(items in items(), extra in items()) {
            let mut digest: Digest = items.iter().collect();
            extra.iter().for_each(|item| digest.add(item));
            extra.iter().rev().for_each(|item| digest.remove(item));
            prop_assert_eq!(digest, items.iter().rev().collect::<Digest>());
        }
    }
}
