//! DeviceModel: a type with its own fields in v1alpha2, a word and texts in v1beta1.

use serde_json::{Number, Value};

use super::notes::Object;
use super::{copy, list, object, text};

/// The member of `type` in v1alpha2, the word in v1beta1, whether it has limits and a unit.
const TYPES: [(&str, &str, Limits); 6] = [
    ("int", "INT", Limits::Integers),
    ("string", "STRING", Limits::None),
    ("double", "DOUBLE", Limits::Numbers),
    ("float", "FLOAT", Limits::Numbers),
    ("boolean", "BOOLEAN", Limits::None),
    ("bytes", "BYTES", Limits::None),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Limits {
    None,
    Integers,
    Numbers,
}

/// v1alpha2 to v1beta1. Default values have no place there.
pub(super) fn upgrade(from: &Object) -> Object {
    convert(from, upgrade_property)
}

/// v1beta1 to v1alpha2. Visitors, the type STREAM and limits that are no numbers have no place there.
pub(super) fn downgrade(from: &Object) -> Object {
    convert(from, downgrade_property)
}

fn convert(from: &Object, property: fn(&Object) -> Object) -> Object {
    let mut to = Object::new();
    if let Some(from) = object(from, "spec") {
        let mut spec = Object::new();
        copy(from, "protocol", &mut spec, "protocol");
        if let Some(properties) = list(from, "properties") {
            let convert = |item: &Value| item.as_object().map(property).unwrap_or_default();
            let properties: Vec<Value> = properties.iter().map(|item| convert(item).into()).collect();
            spec.insert("properties".to_owned(), properties.into());
        }
        to.insert("spec".to_owned(), spec.into());
    }
    to
}

fn upgrade_property(from: &Object) -> Object {
    let mut to = Object::new();
    copy(from, "name", &mut to, "name");
    copy(from, "description", &mut to, "description");
    let types = object(from, "type");
    let found = types.and_then(|types| {
        let found =
            |(member, word, limits): &(&str, &'static str, Limits)| Some((object(types, member)?, *word, *limits));
        TYPES.iter().find_map(found)
    });
    let Some((fields, word, limits)) = found else { return to };
    to.insert("type".to_owned(), word.into());
    copy(fields, "accessMode", &mut to, "accessMode");
    if limits != Limits::None {
        for name in LIMITS {
            if let Some(Value::Number(number)) = fields.get(name) {
                to.insert(name.to_owned(), number.to_string().into());
            }
        }
        copy(fields, "unit", &mut to, "unit");
    }
    to
}

fn downgrade_property(from: &Object) -> Object {
    let mut to = Object::new();
    copy(from, "name", &mut to, "name");
    copy(from, "description", &mut to, "description");
    let found = text(from, "type").and_then(|word| TYPES.iter().find(|(_, known, _)| *known == word));
    let Some((member, _, limits)) = found else { return to };
    let mut fields = Object::new();
    copy(from, "accessMode", &mut fields, "accessMode");
    if *limits != Limits::None {
        for name in LIMITS {
            if let Some(number) = text(from, name).and_then(|text| limits.number(text)) {
                fields.insert(name.to_owned(), number.into());
            }
        }
        copy(from, "unit", &mut fields, "unit");
    }
    to.insert(
        "type".to_owned(),
        Object::from_iter([((*member).to_owned(), fields.into())]).into(),
    );
    to
}

impl Limits {
    /// What v1alpha2's schema takes.
    fn number(self, text: &str) -> Option<Number> {
        let number: Number = text.parse().ok()?;
        (self == Self::Numbers || number.is_i64()).then_some(number)
    }
}

const LIMITS: [&str; 2] = ["minimum", "maximum"];
