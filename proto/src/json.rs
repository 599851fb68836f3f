//! JSON that others wrote: read into values of any kind, or looked through for keys that readers do not agree on.
//!
//! `serde_json` keeps some keys for itself: where its `Value` meets one, it reads on in the text that stands there as if that were the value,
//! with a new limit of depth. What such a text holds is a text to all other programs, and texts inside of texts would fill the
//! stack. Here such a key is an error, at any depth.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeOwned, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Error;

/// What the keys begin with that `serde_json` keeps for itself.
pub const RESERVED: &str = "$serde_json::private::";
/// What such a key holds however it is written, but for escapes.
const LITERAL: &str = "serde_json::private";
/// How an escape of a letter or a sign begins.
const ESCAPE: &str = "\\u00";

/// Reads a value out of text that others wrote.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    check(text)?;
    serde_json::from_str(text)
}

/// The same of bytes.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => from_str(text),
        // It fails on bytes that are not UTF-8, and its error says where they are.
        Err(_) => serde_json::from_slice(bytes),
    }
}

/// Whether an object at any depth of the JSON names a key twice, or one of the reserved. What is checked in such a text would not be
/// what is done elsewhere: of two values under one key our readers take the last, the API server's join some. JSON that is too deep
/// to be looked through is, or that has a number out of range; text that is no JSON is not.
pub fn is_ambiguous(text: &str) -> bool {
    match serde_json::from_str::<Plain<true>>(text) {
        Ok(_) => false,
        Err(error) => error.is_data() || serde_json::from_str::<IgnoredAny>(text).is_ok(),
    }
}

fn check(text: &str) -> Result<(), Error> {
    if !text.contains(LITERAL) && !text.contains(ESCAPE) {
        return Ok(());
    }
    // An error counts as a reserved key: text that this check cannot read may hide one, as readers skip unknown values without any limit.
    serde_json::from_str::<Plain<false>>(text).map(drop)
}

/// Any JSON without reserved keys; each key `ONCE` in its object.
struct Plain<const ONCE: bool>;

impl<'de, const ONCE: bool> Deserialize<'de> for Plain<ONCE> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de, const ONCE: bool> Visitor<'de> for Plain<ONCE> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if key.starts_with(RESERVED) {
                return Err(A::Error::custom("a key that readers keep for themselves"));
            }
            if ONCE && !keys.insert(key) {
                return Err(A::Error::custom("a key stands twice"));
            }
            let Self = map.next_value()?;
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<Self>()?.is_some() {}
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

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Lists in texts in lists, so that each text begins a new count of depth.
    fn nested(texts: usize) -> String {
        let (open, close) = ("[".repeat(100), "]".repeat(100));
        (0..texts).fold("1".to_owned(), |inner, _| {
            let text = inner.replace('\\', "\\u005c").replace('"', "\\u0022");
            format!(r#"{open}{{"$serde_json::private::RawValue":"{text}"}}{close}"#)
        })
    }

    #[test]
    fn reserved_keys_are_refused_at_any_depth_and_in_any_spelling() {
        for text in [
            r#"{"$serde_json::private::RawValue":"1"}"#,
            r#"{"a":[{"$serde_json::private::Number":"1"}]}"#,
            r#"{"\u0024serde_json::private::RawValue":"1"}"#,
            r#"{"$serde\u005fjson::private::RawValue":"1"}"#,
            &nested(1),
            &nested(200),
        ] {
            let error = from_str::<Value>(text).expect_err("refused");
            assert!(error.to_string().contains("keep for themselves"), "{error}");
            assert!(from_slice::<Value>(text.as_bytes()).is_err());
        }
    }

    /// A reader passes over what it does not know, however deep or large it is.
    #[test]
    fn what_cannot_be_looked_through_hides_nothing() {
        #[derive(Debug, Deserialize)]
        struct View {
            #[serde(rename = "v")]
            _value: Option<Value>,
        }
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for before in ["1e999", r#""\ud800""#, &deep] {
            let text = format!(r#"{{"x":{before},"v":{{"$serde_json::private::RawValue":"1"}}}}"#);
            assert!(from_str::<View>(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn all_else_is_read_as_it_is() {
        for text in [
            r#"{"a":"$serde_json::private::RawValue","b":[null,true,-1,1.5,18446744073709551615,"\u0022"]}"#,
            r#"{"serde_json::private":{}}"#,
            "\"\\u0024\"",
            "[]",
        ] {
            let plain: Value = serde_json::from_str(text).expect("JSON");
            assert_eq!(from_str::<Value>(text).expect("read"), plain, "{text}");
            assert_eq!(from_slice::<Value>(text.as_bytes()).expect("read"), plain, "{text}");
        }
        for text in ["", "{", "\u{1}", "{\"\\u0024", "[1e999]", "\"\\ud800\""] {
            assert!(from_str::<Value>(text).is_err(), "{text}");
        }
        assert!(from_slice::<Value>(b"\"\xff\"").is_err());
    }

    #[test]
    fn ambiguous_keys_are_found_at_any_depth() {
        for (json, ambiguous) in [
            (
                r#"{"a":1,"b":{"a":-1},"c":[{"a":1.5},{"a":null}],"d":"a","e":true}"#,
                false,
            ),
            (r#"{"a":1,"a":1}"#, true),
            (r#"{"b":[{"c":{"a":1,"d":[],"a":{}}}]}"#, true),
            (r#"{"a":1,"\u0061":1}"#, true),
            (r#"[{"a":1,"a":1}]"#, true),
            (r#"{"a":{"$serde_json::private::RawValue":"{}"}}"#, true),
            (r#"[{"\u0024serde_json::private::RawValue":"{}"}]"#, true),
            (r#"{"$patch":"$serde_json::private::RawValue"}"#, false),
            (r#"{"a":1e999,"b":1,"b":2}"#, true),
            (&format!("{}{}", "[".repeat(200), "]".repeat(200)), true),
            ("null", false),
            ("a uid", false),
            ("", false),
        ] {
            assert_eq!(is_ambiguous(json), ambiguous, "{json}");
        }
    }
}
