//! A device as it is stored, and the forms in which it is told.

use std::collections::BTreeMap;

use common::order;
use proto::device::{Attribute, DeviceId, Member, Twin, TwinMap, TwinValue, TwinVersion};

/// The type of a twin that was deleted: its versions stay, so that what is older does not come back.
pub(in crate::devicetwin) const DELETED: &str = "deleted";
/// What a property costs beside its texts, about.
const OVERHEAD: usize = 200;

/// One device.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::devicetwin) struct Device {
    /// Of its object; empty while it is not known.
    pub(in crate::devicetwin) uid: String,
    pub(in crate::devicetwin) name: String,
    pub(in crate::devicetwin) description: String,
    pub(in crate::devicetwin) state: String,
    /// RFC 3339; empty while it is not there.
    pub(in crate::devicetwin) last_online: String,
    pub(in crate::devicetwin) attributes: BTreeMap<String, Attribute>,
    pub(in crate::devicetwin) twins: BTreeMap<String, Property>,
}

/// One property.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::devicetwin) struct Property {
    /// `device_twin.id`.
    pub(in crate::devicetwin) row: i64,
    pub(in crate::devicetwin) expected: Half,
    pub(in crate::devicetwin) actual: Half,
    /// Whether it may be deleted.
    pub(in crate::devicetwin) optional: bool,
    /// The type of its values.
    pub(in crate::devicetwin) kind: String,
}

/// The expected or the actual side of a property.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::devicetwin) struct Half {
    pub(in crate::devicetwin) value: Option<String>,
    /// Unix time in milliseconds.
    pub(in crate::devicetwin) timestamp: Option<i64>,
    pub(in crate::devicetwin) version: Option<TwinVersion>,
}

/// Which sides of a property; neither still means the rest of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::devicetwin) struct Sides {
    pub(in crate::devicetwin) expected: bool,
    pub(in crate::devicetwin) actual: bool,
}

impl Sides {
    pub(in crate::devicetwin) const BOTH: Self = Self {
        expected: true,
        actual: true,
    };

    /// These and those.
    pub(in crate::devicetwin) const fn and(self, other: Self) -> Self {
        Self {
            expected: self.expected || other.expected,
            actual: self.actual || other.actual,
        }
    }
}

impl Half {
    fn told(&self) -> Option<TwinValue> {
        self.value.as_ref().map(|value| TwinValue {
            value: Some(value.clone()),
            timestamp: self.timestamp,
        })
    }

    /// With an empty value for one that was deleted.
    fn told_deleted(&self) -> Option<TwinValue> {
        self.version.map(|_| TwinValue::default())
    }

    fn size(&self) -> usize {
        self.value.as_ref().map_or(0, String::len)
    }
}

impl Property {
    /// Whether only its versions are left.
    pub(in crate::devicetwin) fn is_deleted(&self) -> bool {
        self.kind == DELETED
    }

    /// What clients of the broker see: no versions.
    pub(in crate::devicetwin) fn told(&self) -> Twin {
        self.changed(Sides::BOTH)
    }

    /// The same, only the sides that changed.
    pub(in crate::devicetwin) fn changed(&self, sides: Sides) -> Twin {
        Twin {
            expected: self.expected.told().filter(|_| sides.expected),
            actual: self.actual.told().filter(|_| sides.actual),
            optional: Some(self.optional),
            kind: Some(self.kind.clone()),
            ..Twin::default()
        }
    }

    /// What the cloud is told.
    pub(in crate::devicetwin) fn reported(&self, sides: Sides) -> Twin {
        if self.is_deleted() {
            return Twin {
                expected: self.expected.told_deleted(),
                actual: self.actual.told_deleted(),
                expected_version: Some(self.expected.version.unwrap_or_default()),
                actual_version: Some(self.actual.version.unwrap_or_default()),
                ..self.changed(Sides::default())
            };
        }
        let twin = self.changed(sides);
        // A side that was deleted before the cloud brought the twin back is told as empty.
        let expected = twin
            .expected
            .or_else(|| self.expected.told_deleted().filter(|_| sides.expected));
        let actual = twin
            .actual
            .or_else(|| self.actual.told_deleted().filter(|_| sides.actual));
        Twin {
            expected_version: self.expected.version.filter(|_| expected.is_some()),
            actual_version: self.actual.version.filter(|_| actual.is_some()),
            expected,
            actual,
            ..twin
        }
    }

    pub(in crate::devicetwin) fn size(&self) -> usize {
        OVERHEAD + self.expected.size() + self.actual.size()
    }
}

impl Device {
    /// A device that has just come.
    pub(super) fn of(member: &Member) -> Self {
        Self {
            name: member.name.clone(),
            description: member.description.clone(),
            state: member.state.clone(),
            ..Self::default()
        }
    }

    /// The answer to `membership/get`: no twins.
    pub(super) fn member(&self, id: &DeviceId) -> Member {
        let attributes = self.attributes.iter();
        let attributes = attributes.map(|(name, attribute)| (name.clone(), Some(attribute.clone())));
        Member {
            id: id.to_string(),
            name: self.name.clone(),
            description: self.description.clone(),
            state: self.state.clone(),
            last_online: self.last_online.clone(),
            attributes: order::map(attributes),
            twin: None,
        }
    }

    /// The twins that are there, without versions.
    pub(super) fn told(&self) -> TwinMap {
        let live = self.twins.iter().filter(|(_, property)| !property.is_deleted());
        order::map(live.map(|(name, property)| (name.clone(), Some(property.told()))))
    }

    /// What is wanted, and which of it is not so; `None` while all is as it should be.
    pub(super) fn delta(&self) -> Option<(TwinMap, BTreeMap<String, String>)> {
        let (mut twin, mut delta) = (TwinMap::new(), BTreeMap::new());
        for (name, property) in &self.twins {
            let Some(expected) = property.expected.value.as_ref().filter(|value| !value.is_empty()) else {
                continue;
            };
            if property.is_deleted() {
                continue;
            }
            if property.actual.value.as_ref() != Some(expected) {
                delta.insert(name.clone(), expected.clone());
            }
            twin.insert(name.clone(), Some(property.told()));
        }
        (!delta.is_empty()).then_some((twin, delta))
    }

    /// What its own row holds.
    pub(super) fn without_parts(&self) -> Self {
        Self {
            uid: self.uid.clone(),
            name: self.name.clone(),
            description: self.description.clone(),
            state: self.state.clone(),
            last_online: self.last_online.clone(),
            ..Self::default()
        }
    }

    /// About how much memory it takes.
    pub(super) fn size(&self) -> usize {
        let twins = self.twins.iter().map(|(name, property)| name.len() + property.size());
        OVERHEAD + twins.sum::<usize>()
    }
}
