//! What the other version has more, as notes beside what this version has (see [`super`]).
//!
//! A note says of one place what a plain conversion gives there (`was`) and what really stands there (`is`). It holds as long as the
//! plain conversion still gives that: who changes the field to which it belongs makes it void. Nothing here knows devices but for the
//! names of the lists whose items have names.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A JSON object.
pub(super) type Object = Map<String, Value>;

/// All notes on an object, as a tree along its members; an item of a named list is a member under its name.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Notes {
    change: Option<Change>,
    /// The names of a list in their order.
    order: Option<Vec<String>>,
    below: BTreeMap<String, Self>,
}

/// Absent is something else than null.
#[derive(Clone, PartialEq, Debug)]
struct Change {
    was: Option<Value>,
    is: Option<Value>,
}

/// A note in the text.
#[derive(Serialize, Deserialize)]
struct Line {
    at: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    was: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    is: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    order: Option<Vec<String>>,
}

fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

impl Notes {
    /// What makes `is` of `was`: `between(a, b)` applied to `a` gives `b`, whatever they are.
    pub(super) fn between(was: &Object, is: &Object) -> Self {
        let mut notes = Self::default();
        notes.compare_members(was, is, &mut Vec::new());
        notes
    }

    /// Applies the notes that still hold.
    pub(super) fn apply(&self, to: &mut Object) {
        self.apply_members(to, &mut Vec::new());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.change.is_none() && self.order.is_none() && self.below.is_empty()
    }

    /// As JSON, for an annotation.
    pub(super) fn to_value(&self) -> Value {
        let mut lines = Vec::new();
        self.collect(&mut Vec::new(), &mut lines);
        serde_json::to_value(lines).unwrap_or_default()
    }

    /// From JSON; none of what this release cannot read.
    pub(super) fn from_value(value: Value) -> Self {
        let lines: Vec<Line> = serde_json::from_value(value).unwrap_or_default();
        let mut notes = Self::default();
        for line in lines {
            let mut place = &mut notes;
            if line.at.is_empty() || line.at.len() > DEEPEST {
                continue;
            }
            for name in line.at {
                place = place.below.entry(name).or_default();
            }
            if line.was != line.is {
                place.change = Some(Change {
                    was: line.was,
                    is: line.is,
                });
            }
            place.order = line.order.or_else(|| place.order.take());
        }
        notes
    }

    fn collect(&self, at: &mut Vec<String>, lines: &mut Vec<Line>) {
        if self.change.is_some() || self.order.is_some() {
            let (was, is) = match &self.change {
                Some(Change { was, is }) => (was.clone(), is.clone()),
                None => (None, None),
            };
            let order = self.order.clone();
            let at = at.clone();
            lines.push(Line { at, was, is, order });
        }
        for (name, notes) in &self.below {
            at.push(name.clone());
            notes.collect(at, lines);
            at.pop();
        }
    }

    fn note(&mut self, name: &str, notes: Self) {
        if !notes.is_empty() {
            self.below.insert(name.to_owned(), notes);
        }
    }

    fn compare_members<'a>(&mut self, was: &'a Object, is: &'a Object, at: &mut Vec<&'a str>) {
        let gone = was.keys().filter(|name| !is.contains_key(*name));
        for name in is.keys().chain(gone) {
            at.push(name);
            self.note(name, Self::of(was.get(name), is.get(name), at));
            at.pop();
        }
    }

    fn of<'a>(was: Option<&'a Value>, is: Option<&'a Value>, at: &mut Vec<&'a str>) -> Self {
        let mut notes = Self::default();
        if was == is {
            return notes;
        }
        match (was, is) {
            (Some(Value::Object(was)), Some(Value::Object(is))) => notes.compare_members(was, is, at),
            (Some(Value::Array(was)), Some(Value::Array(is))) if let Some(key) = names_of(at) => {
                match (named(was, key), named(is, key)) {
                    (Some(was), Some(is)) => notes.compare_lists(&was, &is, at),
                    _ => notes.change = Some(Change::of(Some(&was.clone().into()), Some(&is.clone().into()))),
                }
            }
            _ => notes.change = Some(Change::of(was, is)),
        }
        notes
    }

    fn compare_lists<'a>(&mut self, was: &Named<'a>, is: &Named<'a>, at: &mut Vec<&'a str>) {
        let gone = was.names.iter().filter(|name| !is.items.contains_key(*name));
        for name in is.names.iter().chain(gone) {
            at.push(name);
            self.note(
                name,
                Self::of(was.items.get(name).copied(), is.items.get(name).copied(), at),
            );
            at.pop();
        }
        let mut added: Vec<&str> = is
            .names
            .iter()
            .copied()
            .filter(|name| !was.items.contains_key(name))
            .collect();
        added.sort_unstable();
        let kept = was.names.iter().copied().filter(|name| is.items.contains_key(name));
        if !kept.chain(added).eq(is.names.iter().copied()) {
            self.order = Some(is.names.iter().map(|name| (*name).to_owned()).collect());
        }
    }

    fn apply_members<'a>(&'a self, to: &mut Object, at: &mut Vec<&'a str>) {
        for (name, notes) in &self.below {
            if let Some(change) = &notes.change
                && to.get(name) == change.was.as_ref()
            {
                match &change.is {
                    Some(is) => to.insert(name.clone(), is.clone()),
                    None => to.remove(name),
                };
                continue;
            }
            at.push(name);
            match to.get_mut(name) {
                Some(Value::Object(members)) => notes.apply_members(members, at),
                Some(Value::Array(items)) => notes.apply_list(items, at),
                _ => {}
            }
            at.pop();
        }
    }

    fn apply_list<'a>(&'a self, items: &mut Vec<Value>, at: &mut Vec<&'a str>) {
        let Some(key) = names_of(at) else { return };
        let Some(places) = named(items, key).map(|named| named.places()) else {
            return;
        };
        let mut gone = HashSet::new();
        for (name, notes) in &self.below {
            let place = places.get(name).copied();
            let item = place.and_then(|place| items.get_mut(place));
            match (item, &notes.change) {
                (
                    None,
                    Some(Change {
                        was: None,
                        is: Some(is),
                    }),
                ) => items.push(is.clone()),
                (Some(item), Some(Change { was: Some(was), is })) if item == was => match is {
                    Some(is) => *item = is.clone(),
                    None => gone.extend(place),
                },
                (Some(Value::Object(members)), _) => {
                    at.push(name);
                    notes.apply_members(members, at);
                    at.pop();
                }
                _ => {}
            }
        }
        let mut place = 0;
        items.retain(|_| {
            place += 1;
            !gone.contains(&(place - 1))
        });
        if let Some(order) = &self.order {
            let rank: HashMap<&str, usize> = order.iter().map(String::as_str).zip(0..).collect();
            items.sort_by_key(|item| {
                let name = item.get(key).and_then(Value::as_str).unwrap_or_default();
                rank.get(name).copied().unwrap_or(usize::MAX)
            });
        }
    }
}

impl Change {
    fn of(was: Option<&Value>, is: Option<&Value>) -> Self {
        Self {
            was: was.cloned(),
            is: is.cloned(),
        }
    }
}

/// A list whose items are objects with names of their own.
struct Named<'a> {
    names: Vec<&'a str>,
    items: HashMap<&'a str, &'a Value>,
}

impl Named<'_> {
    fn places(&self) -> HashMap<String, usize> {
        self.names.iter().map(|name| (*name).to_owned()).zip(0..).collect()
    }
}

fn named<'a>(items: &'a [Value], key: &str) -> Option<Named<'a>> {
    let name = |item: &'a Value| item.as_object()?.get(key)?.as_str();
    let names: Vec<&str> = items.iter().map(name).collect::<Option<_>>()?;
    let items: HashMap<&str, &Value> = names.iter().copied().zip(items).collect();
    (items.len() == names.len()).then_some(Named { names, items })
}

/// The member that names the items of the list at this place; `None` for lists that are one value.
fn names_of(at: &[&str]) -> Option<&'static str> {
    match at {
        ["spec", "properties"] => Some("name"),
        ["spec", "propertyVisitors"] | ["status", "twins"] => Some("propertyName"),
        _ => None,
    }
}

/// No JSON that the API server takes is deeper; a deeper place is none.
const DEEPEST: usize = 128;
