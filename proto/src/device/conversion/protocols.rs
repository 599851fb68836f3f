//! Protocols and visitors: one of several members in v1alpha2, a name and free data in v1beta1.

use serde_json::Value;

use super::notes::Object;
use super::{copy, object, text};

/// What v1alpha2 knows of protocols, or of visitors.
pub(super) struct Dialect {
    /// The members of which one is there, with the fields that each may have.
    known: &'static [(&'static str, &'static [Field])],
    /// What stands beside it, whatever the protocol is. In v1beta1 it is a member of the free data.
    beside: (&'static str, Shape),
}

type Field = (&'static str, Shape);

/// What v1alpha2's schema allows.
enum Shape {
    Text,
    Word(&'static [&'static str]),
    Integer,
    Choice(&'static [i64]),
    Number,
    Flag,
    Texts,
    Free,
    Object(&'static [Field]),
    List(&'static Self),
}

impl Dialect {
    /// v1alpha2 to v1beta1. The first known member counts.
    pub(super) fn upgrade(&self, from: &Object) -> Object {
        let known = self
            .known
            .iter()
            .find_map(|(name, _)| Some((*name, object(from, name)?)));
        let (name, mut data) = match (known, object(from, CUSTOMIZED)) {
            (Some((name, data)), _) => (Some(name), Some(data.clone())),
            (None, Some(customized)) => (
                text(customized, "protocolName"),
                object(customized, "configData").cloned(),
            ),
            (None, None) => (None, None),
        };
        if let Some(beside) = object(from, self.beside.0) {
            let data = data.get_or_insert_default();
            if !data.contains_key(self.beside.0) {
                data.insert(self.beside.0.to_owned(), beside.clone().into());
            }
        }
        let mut to = Object::new();
        if let Some(name) = name {
            to.insert("protocolName".to_owned(), name.into());
        }
        if let Some(data) = data {
            to.insert("configData".to_owned(), data.into());
        }
        to
    }

    /// v1beta1 to v1alpha2. A known protocol whose data v1alpha2's schema would refuse is shown as a customized one.
    pub(super) fn downgrade(&self, from: &Object) -> Object {
        let name = text(from, "protocolName");
        let mut data = object(from, "configData").cloned();
        let (member, shape) = &self.beside;
        let beside = data.as_mut().and_then(|data| {
            let fits = data
                .get(*member)
                .is_some_and(|value| value.is_object() && shape.fits(value));
            fits.then(|| data.remove(*member)).flatten()
        });
        if beside.is_some() {
            data = data.filter(|data| !data.is_empty());
        }
        let mut to = Object::new();
        let known = self.known.iter().find(|(known, _)| name == Some(known));
        match (known, &data) {
            (Some((known, fields)), _) if data.iter().all(|data| fit(data, fields)) => {
                to.insert((*known).to_owned(), data.unwrap_or_default().into());
            }
            _ if name.is_some() || data.is_some() => {
                let mut customized = Object::new();
                copy(from, "protocolName", &mut customized, "protocolName");
                if let Some(data) = data {
                    customized.insert("configData".to_owned(), data.into());
                }
                to.insert(CUSTOMIZED.to_owned(), customized.into());
            }
            _ => {}
        }
        if let Some(beside) = beside {
            to.insert((*member).to_owned(), beside);
        }
        to
    }
}

impl Shape {
    fn fits(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Free, _) | (Self::Text, Value::String(_)) | (Self::Flag, Value::Bool(_)) => true,
            (Self::Number, Value::Number(_)) => true,
            (Self::Word(words), Value::String(word)) => words.contains(&word.as_str()),
            (Self::Integer, Value::Number(number)) => number.is_i64(),
            (Self::Choice(choice), Value::Number(number)) => number.as_i64().is_some_and(|one| choice.contains(&one)),
            (Self::Texts, Value::Object(members)) => members.values().all(Value::is_string),
            (Self::Object(fields), Value::Object(members)) => fit(members, fields),
            (Self::List(shape), Value::Array(items)) => items.iter().all(|item| shape.fits(item)),
            _ => false,
        }
    }
}

fn fit(members: &Object, fields: &[Field]) -> bool {
    members.iter().all(|(name, value)| {
        let field = fields.iter().find(|(field, _)| field == name);
        field.is_some_and(|(_, shape)| shape.fits(value))
    })
}

/// `spec.protocol`.
pub(super) const PROTOCOL: Dialect = Dialect {
    known: &[
        (
            "opcua",
            &[
                ("url", Shape::Text),
                ("userName", Shape::Text),
                ("password", Shape::Text),
                ("securityPolicy", Shape::Text),
                ("securityMode", Shape::Text),
                ("certificate", Shape::Text),
                ("privateKey", Shape::Text),
                ("timeout", Shape::Integer),
            ],
        ),
        ("modbus", &[("slaveID", Shape::Integer)]),
        ("bluetooth", &[("macAddress", Shape::Text)]),
    ],
    beside: ("common", Shape::Object(COMMON)),
};

/// `spec.propertyVisitors[]`.
pub(super) const VISITOR: Dialect = Dialect {
    known: &[
        ("opcua", &[("nodeID", Shape::Text), ("browseName", Shape::Text)]),
        (
            "modbus",
            &[
                ("register", Shape::Word(REGISTERS)),
                ("offset", Shape::Integer),
                ("limit", Shape::Integer),
                ("scale", Shape::Number),
                ("isSwap", Shape::Flag),
                ("isRegisterSwap", Shape::Flag),
            ],
        ),
        (
            "bluetooth",
            &[
                ("characteristicUUID", Shape::Text),
                ("dataWrite", Shape::Texts),
                ("dataConverter", Shape::Object(CONVERTER)),
            ],
        ),
    ],
    beside: ("customizedValues", Shape::Free),
};

const CUSTOMIZED: &str = "customizedProtocol";

const COMMON: &[Field] = &[
    ("com", Shape::Object(SERIAL)),
    ("tcp", Shape::Object(&[("ip", Shape::Text), ("port", Shape::Integer)])),
    ("commType", Shape::Text),
    ("reconnTimeout", Shape::Integer),
    ("reconnRetryTimes", Shape::Integer),
    ("collectTimeout", Shape::Integer),
    ("collectRetryTimes", Shape::Integer),
    ("collectType", Shape::Word(&["sync", "async"])),
    ("customizedValues", Shape::Free),
];

const SERIAL: &[Field] = &[
    ("serialPort", Shape::Text),
    ("baudRate", Shape::Choice(BAUD_RATES)),
    ("dataBits", Shape::Choice(&[8, 7, 6, 5])),
    ("parity", Shape::Word(&["none", "even", "odd"])),
    ("stopBits", Shape::Choice(&[1, 2])),
];

const BAUD_RATES: &[i64] = &[
    115_200, 57_600, 38_400, 19_200, 9_600, 4_800, 2_400, 1_800, 1_200, 600, 300, 200, 150, 134, 110, 75, 50,
];

const REGISTERS: &[&str] = &[
    "CoilRegister",
    "DiscreteInputRegister",
    "InputRegister",
    "HoldingRegister",
];

const CONVERTER: &[Field] = &[
    ("startIndex", Shape::Integer),
    ("endIndex", Shape::Integer),
    ("shiftLeft", Shape::Integer),
    ("shiftRight", Shape::Integer),
    (
        "orderOfOperations",
        Shape::List(&Shape::Object(&[
            ("operationType", Shape::Text),
            ("operationValue", Shape::Number),
        ])),
    ),
];
