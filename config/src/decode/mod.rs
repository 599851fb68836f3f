//! Decoding a tree over a default object, and printing the object again.
//!
//! Owns: the merge rules of the Go decoder ([`Value`]), the table form of a section ([`section!`]), the place where problems
//! and warnings are collected ([`Reader`]). Must not: know a particular key or stop at the first problem.
//! Source: spec 06 §1.1.

mod duration;
mod reader;
mod value;

pub use duration::GoDuration;
pub use value::Secret;

pub(crate) use reader::{Lines, Reader};
pub(crate) use value::Value;

/// Declares one section of a configuration: for each key its YAML name, how it is printed, field, type and default.
///
/// `always` prints the key in any case, `omit` leaves it out when it is zero, as Go's `omitempty`, but only where an absent key
/// means zero: Go loses a `false` that stands against a default of true. `hidden` leaves it out while it has its default (keys
/// that only we have). After the type's name: `null keeps` for sections that are plain values in Go,
/// where an explicit null changes nothing; other sections refuse null.
macro_rules! section {
    ($(#[$about:meta])* $vis:vis struct $name:ident $(null $keeps:ident)? {
        $( $(#[$doc:meta])* $key:literal $how:ident $field:ident : $ty:ty = $default:expr ; )*
    }) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq)]
        $vis struct $name {
            $( $(#[$doc])* pub $field: $ty, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }

        impl $crate::decode::Value for $name {
            fn merge(&mut self, node: &$crate::yaml::Node, reader: &mut $crate::decode::Reader) {
                const KEYS: &[&str] = &[$($key),*];
                #[allow(unused_mut, unused_assignments)]
                let mut null_keeps = false;
                $( null_keeps = stringify!($keeps) == "keeps"; )?
                reader.section(node, KEYS, null_keeps, |key, value, reader| match key {
                    $( $key => $crate::decode::Value::merge(&mut self.$field, value, reader), )*
                    _ => {}
                });
            }

            fn tree(&self) -> $crate::yaml::Tree {
                let mut map = std::collections::BTreeMap::new();
                $( $crate::decode::section!(@print $how, map, $key, self.$field, $ty, $default); )*
                $crate::yaml::Tree::Map(map)
            }
        }
    };
    (@print always, $map:ident, $key:literal, $value:expr, $ty:ty, $default:expr) => {
        $map.insert($key.to_owned(), $crate::decode::Value::tree(&$value));
    };
    (@print omit, $map:ident, $key:literal, $value:expr, $ty:ty, $default:expr) => {
        let default: $ty = $default;
        if !($crate::decode::Value::is_zero(&$value) && $crate::decode::Value::is_zero(&default)) {
            $map.insert($key.to_owned(), $crate::decode::Value::tree(&$value));
        }
    };
    (@print hidden, $map:ident, $key:literal, $value:expr, $ty:ty, $default:expr) => {
        let default: $ty = $default;
        if $value != default {
            $map.insert($key.to_owned(), $crate::decode::Value::tree(&$value));
        }
    };
}
pub(crate) use section;
