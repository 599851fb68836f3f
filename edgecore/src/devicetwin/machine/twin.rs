//! The rules of a twin update (spec 03 §3.3): pure, on one device.

use std::collections::BTreeMap;

use proto::device::{Twin, TwinChange, TwinMap, TwinValue, TwinVersion};
use thiserror::Error;

use super::device::{DELETED, Device, Half, Property, Sides};
use super::value::{self, BadValue};

/// Properties of one device, deleted ones included.
pub(super) const MAX_TWINS: usize = 2_000;
/// Names and values of one device together.
pub(super) const MAX_DEVICE: usize = 1024 * 1024;
/// How far the clock may go back, in milliseconds, without the time of a value going back: a board without a clock that runs on
/// starts with the time that it wrote down last, once an hour or more often.
const AHEAD: i64 = 3_600_000;
/// 2020-01-01 in milliseconds: no clock that was set is before it.
const SET: i64 = 1_577_836_800_000;

/// Why a local write is refused as a whole.
#[derive(Debug, Error)]
pub(super) enum BadUpdate {
    #[error(transparent)]
    Value(#[from] BadValue),
    #[error("Update twin error, {side} of {name} has no value")]
    NoValue { name: String, side: &'static str },
    #[error("Update twin error, a device has at most {MAX_TWINS} properties and {MAX_DEVICE} bytes of values")]
    TooMany,
}

/// What an update did.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Before and after, of each property whose row is to be written.
    pub(super) document: BTreeMap<String, TwinChange>,
    /// For the sender.
    pub(super) result: TwinMap,
    /// What the cloud is to be told.
    pub(super) report: BTreeMap<String, Sides>,
    /// Properties whose actual value was given.
    pub(super) measured: Vec<String>,
}

/// When, and where new rows go.
pub(super) struct Context<'a> {
    pub(super) millis: i64,
    pub(super) next_row: &'a mut i64,
}

/// A write of a client or a mapper: all of it or nothing.
pub(super) fn write(device: &mut Device, request: &TwinMap, context: &mut Context<'_>) -> Result<Changes, BadUpdate> {
    check(device, request)?;
    let mut changes = Changes::default();
    for (name, twin) in request {
        match twin {
            None => delete(device, name, &mut changes),
            Some(twin) => put(device, name, twin, context, &mut changes),
        }
    }
    Ok(changes)
}

fn check(device: &Device, request: &TwinMap) -> Result<(), BadUpdate> {
    let (mut count, mut size) = (device.twins.len(), device.size());
    for (name, twin) in request {
        let Some(twin) = twin else { continue };
        let stored = device.twins.get(name);
        let kind = kind_of(stored, twin);
        for (side, given) in [("expected", &twin.expected), ("actual", &twin.actual)] {
            let Some(given) = given else { continue };
            let given = given.value.as_deref().ok_or_else(|| BadUpdate::NoValue {
                name: name.clone(),
                side,
            })?;
            value::check(&kind, given)?;
            size += given.len();
        }
        if stored.is_none() {
            count += 1;
            size += name.len() + Property::default().size();
        } else {
            let replaced =
                |half: &Half, given: &Option<TwinValue>| given.as_ref().and(half.value.as_ref()).map_or(0, String::len);
            size -= stored.map_or(0, |stored| replaced(&stored.expected, &twin.expected));
            size -= stored.map_or(0, |stored| replaced(&stored.actual, &twin.actual));
        }
    }
    if count > MAX_TWINS || size > MAX_DEVICE {
        return Err(BadUpdate::TooMany);
    }
    Ok(())
}

/// The type that values are held against: a live twin keeps its own.
fn kind_of(stored: Option<&Property>, twin: &Twin) -> String {
    match stored {
        Some(stored) if !stored.is_deleted() => stored.kind.clone(),
        _ => twin.kind.clone().unwrap_or_else(|| value::DEFAULT_KIND.to_owned()),
    }
}

fn put(device: &mut Device, name: &str, twin: &Twin, context: &mut Context<'_>, changes: &mut Changes) {
    let last = device.twins.get(name);
    let was_live = last.is_some_and(|last| !last.is_deleted());
    let before = last.filter(|_| was_live).map(Property::told);
    let kind = kind_of(last, twin);
    let is_new = last.is_none();
    let property = device
        .twins
        .entry(name.to_owned())
        .or_insert_with(|| new_property(context));
    let sides = Sides {
        expected: set_local(&mut property.expected, twin.expected.as_ref(), context.millis),
        actual: set_local(&mut property.actual, twin.actual.as_ref(), context.millis),
    };
    let mandatory = property.optional && twin.optional == Some(false);
    property.optional &= !mandatory;
    property.kind = kind;
    if was_live && sides == Sides::default() && !mandatory {
        return;
    }
    let told = if is_new { Sides::BOTH } else { sides };
    changes.result.insert(name.to_owned(), Some(property.changed(told)));
    changes.report.insert(name.to_owned(), sides);
    changes.document.insert(
        name.to_owned(),
        TwinChange {
            last: before,
            current: (!property.is_deleted()).then(|| property.told()),
        },
    );
    if sides.actual {
        changes.measured.push(name.to_owned());
    }
}

fn new_property(context: &mut Context<'_>) -> Property {
    let row = *context.next_row;
    *context.next_row += 1;
    Property {
        row,
        optional: true,
        ..Property::default()
    }
}

/// The time of a value does not go back when the clock does: the cloud takes what is older for stale. Further than [`AHEAD`] it is the last
/// time that was wrong: a clock that ran ahead once must not set the time for good. One that is not set yet says nothing.
fn time_after(last: Option<i64>, now: i64) -> i64 {
    let counts = |last: &i64| now < SET || *last <= now.saturating_add(AHEAD);
    last.filter(counts).map_or(now, |last| last.max(now))
}

fn set_local(half: &mut Half, given: Option<&TwinValue>, now: i64) -> bool {
    let Some(value) = given.and_then(|given| given.value.clone()) else {
        return false;
    };
    let version = half.version.unwrap_or_default();
    *half = Half {
        value: Some(value),
        timestamp: Some(time_after(half.timestamp, now)),
        version: Some(TwinVersion {
            edge: version.edge.saturating_add(1),
            ..version
        }),
    };
    true
}

fn delete(device: &mut Device, name: &str, changes: &mut Changes) {
    let Some(property) = device.twins.get_mut(name) else {
        return;
    };
    if property.is_deleted() || !property.optional {
        return;
    }
    let next = |version: TwinVersion| TwinVersion {
        edge: version.edge.saturating_add(1),
        ..version
    };
    let (expected, actual) = (property.expected.version.map(next), property.actual.version.map(next));
    if !bury(property, expected, actual, name, changes) {
        return;
    }
    changes.result.insert(name.to_owned(), None);
    changes.report.insert(name.to_owned(), Sides::BOTH);
}

/// Leaves nothing but the versions. A twin that never had a value stays as it is.
fn bury(
    property: &mut Property,
    expected: Option<TwinVersion>,
    actual: Option<TwinVersion>,
    name: &str,
    changes: &mut Changes,
) -> bool {
    if expected.is_none() && actual.is_none() {
        return false;
    }
    let last = property.told();
    for (half, version) in [(&mut property.expected, expected), (&mut property.actual, actual)] {
        half.value = None;
        half.timestamp = None;
        half.version = version;
    }
    DELETED.clone_into(&mut property.kind);
    let change = TwinChange {
        last: Some(last),
        current: None,
    };
    changes.document.insert(name.to_owned(), change);
    true
}

/// What the cloud has: entry by entry, by their versions. What is refused is reported with what is here.
pub(super) fn sync(device: &mut Device, entries: &TwinMap, context: &mut Context<'_>) -> Changes {
    let mut changes = Changes::default();
    for (name, twin) in entries {
        // Without a type nothing says what the values mean.
        let Some((twin, kind)) = twin.as_ref().and_then(|twin| Some((twin, twin.kind.as_deref()?))) else {
            continue;
        };
        if value::check_name(name).is_err() {
            continue;
        }
        match device.twins.get_mut(name) {
            Some(property) if kind == DELETED => sync_delete(property, name, twin, &mut changes),
            Some(property) => sync_put(property, name, twin, context.millis, &mut changes),
            None if kind == DELETED => {}
            None => sync_add(device, name, twin, kind, context, &mut changes),
        }
    }
    changes
}

fn sync_add(
    device: &mut Device,
    name: &str,
    twin: &Twin,
    kind: &str,
    context: &mut Context<'_>,
    changes: &mut Changes,
) {
    if device.twins.len() >= MAX_TWINS || device.size() >= MAX_DEVICE {
        return;
    }
    let half = |given: &Option<TwinValue>, version: Option<TwinVersion>| match given {
        None => Some(Half::default()),
        Some(given) => {
            let value = given.value.clone().filter(|value| value::check(kind, value).is_ok())?;
            Some(Half {
                value: Some(value),
                timestamp: Some(context.millis),
                version: Some(version?),
            })
        }
    };
    let (Some(expected), Some(actual)) = (
        half(&twin.expected, twin.expected_version),
        half(&twin.actual, twin.actual_version),
    ) else {
        return;
    };
    let property = Property {
        expected,
        actual,
        optional: twin.optional.unwrap_or(true),
        kind: kind.to_owned(),
        ..new_property(context)
    };
    let change = TwinChange {
        last: None,
        current: Some(property.told()),
    };
    changes.document.insert(name.to_owned(), change);
    device.twins.insert(name.to_owned(), property);
}

fn sync_put(property: &mut Property, name: &str, twin: &Twin, now: i64, changes: &mut Changes) {
    let last = (!property.is_deleted()).then(|| property.told());
    let before = property.clone();
    let kind = kind_of(Some(property), twin);
    let mut refused = Sides::default();
    match sync_half(
        &mut property.expected,
        twin.expected.as_ref(),
        twin.expected_version,
        &kind,
        now,
    ) {
        Synced::Refused => refused.expected = true,
        Synced::Taken | Synced::Nothing => {
            let actual = sync_half(
                &mut property.actual,
                twin.actual.as_ref(),
                twin.actual_version,
                &kind,
                now,
            );
            refused.actual = matches!(actual, Synced::Refused);
        }
    }
    if refused == Sides::default() {
        property.optional &= twin.optional != Some(false);
        property.kind = kind;
    } else {
        changes.report.insert(name.to_owned(), refused);
    }
    if *property != before {
        let change = TwinChange {
            last,
            current: (!property.is_deleted()).then(|| property.told()),
        };
        changes.document.insert(name.to_owned(), change);
    }
}

enum Synced {
    Nothing,
    Taken,
    Refused,
}

fn sync_half(half: &mut Half, given: Option<&TwinValue>, version: Option<TwinVersion>, kind: &str, now: i64) -> Synced {
    let Some(value) = given.and_then(|given| given.value.as_ref()) else {
        return Synced::Nothing;
    };
    if value::check(kind, value).is_err() {
        return Synced::Nothing;
    }
    let Some(version) = version.filter(|version| is_newer(half.version, *version)) else {
        return Synced::Refused;
    };
    *half = Half {
        value: Some(value.clone()),
        timestamp: Some(time_after(half.timestamp, now)),
        version: Some(version),
    };
    Synced::Taken
}

/// Both sides count changes of their own: neither count may go back.
fn is_newer(stored: Option<TwinVersion>, given: TwinVersion) -> bool {
    stored.is_none_or(|stored| stored.cloud <= given.cloud && stored.edge <= given.edge)
}

fn sync_delete(property: &mut Property, name: &str, twin: &Twin, changes: &mut Changes) {
    if property.is_deleted() {
        return;
    }
    let next = |stored: Option<TwinVersion>, given: Option<TwinVersion>| match (stored, given) {
        (Some(stored), Some(given)) => is_newer(Some(stored), given).then_some(Some(given)),
        (stored, _) => Some(stored),
    };
    match (
        next(property.expected.version, twin.expected_version),
        next(property.actual.version, twin.actual_version),
    ) {
        (Some(expected), Some(actual)) => {
            bury(property, expected, actual, name, changes);
        }
        _ => {
            changes.report.insert(name.to_owned(), Sides::BOTH);
        }
    }
}
