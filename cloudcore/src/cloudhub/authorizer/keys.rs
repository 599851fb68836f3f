//! Keys that stand twice in an object. Of two values our readers take the last; the API server's join some, so that what is
//! checked here would not be what is done there.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Whether an object at any depth of the JSON names a key twice. Text that is no JSON does not.
pub(super) fn has_twice(json: &str) -> bool {
    serde_json::from_str::<Once>(json).is_err_and(|error| error.is_data())
}

/// Any JSON in which no key stands twice.
struct Once;

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Once {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut keys = HashSet::new();
        while let Some((key, Self)) = map.next_entry::<String, Self>()? {
            if !keys.insert(key) {
                return Err(A::Error::custom("a key stands twice"));
            }
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        while let Some(Self) = list.next_element()? {}
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_stand_twice_are_found_at_any_depth() {
        for (json, twice) in [
            (
                r#"{"a":1,"b":{"a":-1},"c":[{"a":1.5},{"a":null}],"d":"a","e":true}"#,
                false,
            ),
            (r#"{"a":1,"a":1}"#, true),
            (r#"{"b":[{"c":{"a":1,"d":[],"a":{}}}]}"#, true),
            (r#"{"a":1,"\u0061":1}"#, true),
            (r#"[{"a":1,"a":1}]"#, true),
            ("null", false),
            ("a uid", false),
            ("", false),
        ] {
            assert_eq!(has_twice(json), twice, "{json}");
        }
    }
}
