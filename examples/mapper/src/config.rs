//! `configData` of protocols and visitors: keys with values of a few kinds.

use std::collections::BTreeMap;

use prost_types::Any;
use proto::dmi::pb;
use thiserror::Error;

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text.
    Text(String),
    /// Yes or no.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// Any number.
    Float(f64),
}

/// The keys of one `configData`. Their case does not matter, as with mappers in Go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config(BTreeMap<String, Value>);

/// What a device's configuration says that cannot be.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadConfig {
    /// A key is needed.
    #[error("{0} is missing in configData")]
    Missing(&'static str),
    /// A value cannot be used.
    #[error("{key} in configData must be {wanted}")]
    Wrong {
        /// Its key.
        key: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
}

impl Config {
    /// As edgecore tells it; values of kinds that DMI does not have are left out.
    pub(crate) fn of(data: Option<&pb::CustomizedValue>) -> Self {
        let entries = data.into_iter().flat_map(|data| &data.data);
        Self(
            entries
                .filter_map(|(key, any)| Some((key.to_lowercase(), Value::of(any)?)))
                .collect(),
        )
    }

    /// A value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(&key.to_lowercase())
    }

    /// A text; a number is one too.
    pub fn text(&self, key: &'static str) -> Result<Option<String>, BadConfig> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text.clone())),
            Some(Value::Integer(number)) => Ok(Some(number.to_string())),
            Some(Value::Float(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(BadConfig::Wrong { key, wanted: "a text" }),
        }
    }

    /// A whole number in the range of its type; people write them as texts too.
    pub fn integer<T: TryFrom<i64>>(&self, key: &'static str, default: T) -> Result<T, BadConfig> {
        let number = match self.get(key) {
            None => return Ok(default),
            Some(Value::Integer(number)) => Some(*number),
            // Go's edgecore sends every number so; a whole one is written without a point.
            Some(Value::Float(number)) => number.to_string().parse().ok(),
            Some(Value::Text(text)) => text.trim().parse().ok(),
            Some(Value::Boolean(_)) => None,
        };
        number
            .and_then(|number| T::try_from(number).ok())
            .ok_or(BadConfig::Wrong {
                key,
                wanted: "a whole number in its range",
            })
    }

    /// A number.
    pub fn float(&self, key: &'static str, default: f64) -> Result<f64, BadConfig> {
        let number = match self.get(key) {
            None => return Ok(default),
            Some(Value::Float(number)) => Some(*number),
            Some(Value::Integer(number)) => number.to_string().parse().ok(),
            Some(Value::Text(text)) => text.trim().parse().ok(),
            Some(Value::Boolean(_)) => None,
        };
        number
            .filter(|number: &f64| number.is_finite())
            .ok_or(BadConfig::Wrong {
                key,
                wanted: "a number",
            })
    }

    /// Yes or no; absent is no.
    pub fn boolean(&self, key: &'static str) -> Result<bool, BadConfig> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Boolean(value)) => Ok(*value),
            Some(Value::Text(text)) if text == "true" || text == "false" => Ok(text == "true"),
            Some(_) => Err(BadConfig::Wrong {
                key,
                wanted: "true or false",
            }),
        }
    }
}

impl<const N: usize> From<[(&str, Value); N]> for Config {
    fn from(entries: [(&str, Value); N]) -> Self {
        Self(entries.map(|(key, value)| (key.to_lowercase(), value)).into())
    }
}

impl Value {
    fn of(any: &Any) -> Option<Self> {
        let text = || any.to_msg().ok().map(Self::Text);
        let boolean = || any.to_msg().ok().map(Self::Boolean);
        let integer = || any.to_msg().ok().map(Self::Integer);
        let short = || any.to_msg::<i32>().ok().map(|number| Self::Integer(number.into()));
        // By its text: 0.1 is to stay 0.1.
        let single = || any.to_msg::<f32>().ok()?.to_string().parse().ok().map(Self::Float);
        let double = || any.to_msg().ok().map(Self::Float);
        text()
            .or_else(boolean)
            .or_else(integer)
            .or_else(short)
            .or_else(single)
            .or_else(double)
    }
}
