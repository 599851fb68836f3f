//! Typed views of JSON objects, for reading only: see [`view!`](crate::view!).

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;

/// Declares what is read of objects: for each key its text, field and type; a field is as visible as its struct. Keys may be absent or
/// null, which is the type's default; other keys are skipped, and of a key that is there twice the last one counts, as Go reads.
///
/// Against serde's own derive: no list reads as an object, and it is half the code.
#[macro_export]
macro_rules! view {
    ($($(#[$about:meta])* $vis:vis struct $name:ident {
        $($(#[$doc:meta])* $key:literal $field:ident: $type:ty),* $(,)?
    })*) => {$(
        $(#[$about])*
        #[derive(Clone, Debug, Default)]
        $vis struct $name {
            $($(#[$doc])* $vis $field: $type,)*
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[allow(non_camel_case_types)]
                #[derive(Clone, Copy)]
                enum Key { $($field),* }

                struct Visitor;

                impl<'de> ::serde::de::Visitor<'de> for Visitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                        f.write_str(concat!("struct ", stringify!($name)))
                    }

                    fn visit_map<A: ::serde::de::MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                        const TEXTS: &[&str] = &[$($key),*];
                        const KEYS: &[Key] = &[$(Key::$field),*];
                        let mut view = $name::default();
                        while let Some(place) = map.next_key_seed($crate::view::Keys(TEXTS))? {
                            match KEYS.get(place) {
                                $(Some(Key::$field) => view.$field = $crate::view::Field::read(&mut map)?,)*
                                None => {
                                    map.next_value::<::serde::de::IgnoredAny>()?;
                                }
                            }
                        }
                        Ok(view)
                    }
                }

                deserializer.deserialize_map(Visitor)
            }
        }

        impl $crate::view::Field for $name {
            fn read<'de, A: ::serde::de::MapAccess<'de>>(map: &mut A) -> Result<Self, A::Error> {
                $crate::view::or_default(map)
            }
        }
    )*};
}

/// How the value of a key is read. `Option` is for fields where absence is not the same as the default.
pub trait Field: Sized {
    /// Reads it.
    fn read<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Self, A::Error>;
}

impl<T: DeserializeOwned> Field for Option<T> {
    fn read<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Self, A::Error> {
        map.next_value()
    }
}

impl<T: DeserializeOwned> Field for Vec<T> {
    fn read<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Self, A::Error> {
        or_default(map)
    }
}

macro_rules! fields {
    ($($type:ty),*) => {$(
        impl Field for $type {
            fn read<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Self, A::Error> {
                or_default(map)
            }
        }
    )*};
}

fields!(bool, i32, i64, String, BTreeMap<String, String>, ObjectMeta, serde_json::Map<String, Value>);

/// The value of a key; null is the default.
pub fn or_default<'de, A: MapAccess<'de>, T: DeserializeOwned + Default>(map: &mut A) -> Result<T, A::Error> {
    Ok(map.next_value::<Option<T>>()?.unwrap_or_default())
}

/// Finds a key among known ones: its place, or their number.
pub struct Keys(pub &'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Keys {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Keys {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<usize, E> {
        let place = self.0.iter().position(|key| *key == text);
        Ok(place.unwrap_or(self.0.len()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    view! {
        struct Outer {
            "inner" inner: Inner,
            "list" list: Vec<Inner>,
            "maybe" maybe: Option<Inner>,
        }
        struct Inner { "aB" text: String, "n" number: Option<i64> }
    }

    fn read(value: serde_json::Value) -> Result<Outer, serde_json::Error> {
        serde_json::from_str(&value.to_string())
    }

    #[test]
    fn what_is_absent_or_null_is_the_default() {
        for value in [
            json!({}),
            json!({"inner": null, "list": null, "maybe": null, "other": [{}]}),
        ] {
            let outer = read(value).expect("a view");
            assert!(outer.inner.text.is_empty() && outer.list.is_empty() && outer.maybe.is_none());
        }
    }

    #[test]
    fn keys_are_found_in_any_order_and_escaped() {
        let text = r#"{"x": {"aB": "no"}, "maybe": {}, "list": [{"n": 2, "\u0061B": "yes"}], "inner": {"aB": "1", "aB": "2"}}"#;
        let outer: Outer = serde_json::from_str(text).expect("a view");
        assert_eq!(outer.inner.text, "2", "the last one counts");
        assert_eq!((outer.list[0].text.as_str(), outer.list[0].number), ("yes", Some(2)));
        assert!(outer.maybe.is_some());
    }

    #[test]
    fn other_types_are_refused() {
        for value in [
            json!([]),
            json!("text"),
            json!({"inner": []}),
            json!({"inner": {"aB": 1}}),
            json!({"list": {}}),
        ] {
            assert!(read(value.clone()).is_err(), "{value}");
        }
    }
}
