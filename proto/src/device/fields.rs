//! Reading JSON objects as Go does: the case of keys does not matter, `null` is absent, unknown keys are ignored.

use serde_json::{Map, Value};

use super::{BadPayload, MAX_PAYLOAD};

/// The keys of one object.
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// Reads a payload.
    pub(super) fn parse(payload: &[u8]) -> Result<Self, BadPayload> {
        if payload.len() > MAX_PAYLOAD {
            return Err(BadPayload::TooLarge(payload.len()));
        }
        crate::json::from_slice(payload).map(Self).map_err(BadPayload::Json)
    }

    /// An object inside of another.
    pub(super) fn of(key: &'static str, value: Value) -> Result<Self, BadPayload> {
        match value {
            Value::Object(map) => Ok(Self(map)),
            _ => Err(wrong(key, "an object")),
        }
    }

    /// Takes the value of a key: in the documented case if that is there, else in any.
    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        let value = self.0.remove(key).or_else(|| {
            let other = self.0.keys().find(|known| known.eq_ignore_ascii_case(key))?.clone();
            self.0.remove(&other)
        });
        value.filter(|value| !value.is_null())
    }

    pub(super) fn text(&mut self, key: &'static str) -> Result<Option<String>, BadPayload> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(key, "a string")),
        }
    }

    pub(super) fn integer(&mut self, key: &'static str) -> Result<Option<i64>, BadPayload> {
        match self.take(key) {
            None => Ok(None),
            Some(value) => value.as_i64().map(Some).ok_or_else(|| wrong(key, "an integer")),
        }
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> Result<Option<bool>, BadPayload> {
        match self.take(key) {
            None => Ok(None),
            Some(value) => value.as_bool().map(Some).ok_or_else(|| wrong(key, "true or false")),
        }
    }

    pub(super) fn object(&mut self, key: &'static str) -> Result<Option<Self>, BadPayload> {
        self.take(key).map(|value| Self::of(key, value)).transpose()
    }

    pub(super) fn list(&mut self, key: &'static str) -> Result<Option<Vec<Value>>, BadPayload> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => Err(wrong(key, "a list")),
        }
    }

    /// The entries of a map whose keys are names.
    pub(super) fn entries(self) -> impl Iterator<Item = (String, Value)> {
        self.0.into_iter()
    }
}

const fn wrong(key: &'static str, wanted: &'static str) -> BadPayload {
    BadPayload::Type { key, wanted }
}
