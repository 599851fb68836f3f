//! The merge rules by type of field.

use std::collections::BTreeMap;
use std::fmt;

use super::{GoDuration, Reader};
use crate::yaml::{Kind, Node, Tree};

/// A type that a key can have.
pub(crate) trait Value {
    /// Decodes `node` over the value that is there.
    fn merge(&mut self, node: &Node, reader: &mut Reader);
    /// The value as it is printed.
    fn tree(&self) -> Tree;
    /// Whether Go's `omitempty` leaves it out.
    fn is_zero(&self) -> bool {
        false
    }
}

/// A password or token: never in logs.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether none is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "(none)" } else { "(hidden)" })
    }
}

impl Value for Secret {
    fn merge(&mut self, node: &Node, reader: &mut Reader) {
        self.0.merge(node, reader);
    }
    fn tree(&self) -> Tree {
        self.0.tree()
    }
    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }
}

impl Value for String {
    fn merge(&mut self, node: &Node, reader: &mut Reader) {
        match node.coerced() {
            Some(text) => *self = text,
            None if node.is_null() => {}
            None => reader.problem(node, format!("must be a string, not {}", node.type_name())),
        }
    }
    fn tree(&self) -> Tree {
        Tree::Str(self.clone())
    }
    fn is_zero(&self) -> bool {
        self.is_empty()
    }
}

impl Value for bool {
    fn merge(&mut self, node: &Node, reader: &mut Reader) {
        match node.kind {
            Kind::Bool(value) => *self = value,
            Kind::Null => {}
            Kind::Str(_) => reader.problem(node, "must be true or false without quotes".to_owned()),
            _ => reader.problem(node, format!("must be true or false, not {}", node.type_name())),
        }
    }
    fn tree(&self) -> Tree {
        Tree::Bare(self.to_string())
    }
    fn is_zero(&self) -> bool {
        !*self
    }
}

macro_rules! integers {
    ($($ty:ty),*) => {$(
        impl Value for $ty {
            fn merge(&mut self, node: &Node, reader: &mut Reader) {
                let whole = match &node.kind {
                    Kind::Null => return,
                    Kind::Int(value) => Some(*value),
                    Kind::Float(value) => whole(*value),
                    Kind::Str(_) => {
                        return reader.problem(node, "must be a whole number without quotes or unit, not a string".to_owned());
                    }
                    _ => return reader.problem(node, format!("must be a whole number, not {}", node.type_name())),
                };
                match whole.map(<$ty>::try_from) {
                    Some(Ok(value)) => *self = value,
                    Some(Err(_)) => {
                        reader.problem(node, format!("must be between {} and {}", <$ty>::MIN, <$ty>::MAX));
                    }
                    None => reader.problem(node, "must be a whole number".to_owned()),
                }
            }
            fn tree(&self) -> Tree {
                Tree::Bare(self.to_string())
            }
            fn is_zero(&self) -> bool {
                *self == 0
            }
        }
    )*};
}
integers!(u8, i32, u32, i64);

/// `1e3` is a whole number too: Go reads it through JSON, where it is written 1000.
fn whole(value: f64) -> Option<i128> {
    let limit = 9_007_199_254_740_992.0; // 2^53, above which a float no longer names one integer
    if value.fract() != 0.0 || value.abs() > limit {
        return None;
    }
    format!("{value:.0}").parse().ok()
}

impl Value for f64 {
    fn merge(&mut self, node: &Node, reader: &mut Reader) {
        match &node.kind {
            Kind::Null => {}
            Kind::Float(value) if value.is_finite() => *self = *value,
            Kind::Int(value) => {
                if let Ok(value) = value.to_string().parse() {
                    *self = value;
                }
            }
            _ => reader.problem(node, "must be a number".to_owned()),
        }
    }
    fn tree(&self) -> Tree {
        Tree::Bare(self.to_string())
    }
    fn is_zero(&self) -> bool {
        *self == 0.0
    }
}

impl Value for GoDuration {
    fn merge(&mut self, node: &Node, reader: &mut Reader) {
        match &node.kind {
            Kind::Null => {}
            Kind::Str(text) => match Self::parse(text) {
                Some(value) => *self = value,
                None => reader.problem(node, "must be a duration such as 90s, 5m or 1h30m".to_owned()),
            },
            Kind::Int(_) | Kind::Float(_) => {
                reader.problem(
                    node,
                    "must be a duration with its unit, such as 90s, 5m or 1h30m".to_owned(),
                );
            }
            _ => reader.problem(
                node,
                format!("must be a duration such as 90s, not {}", node.type_name()),
            ),
        }
    }
    fn tree(&self) -> Tree {
        Tree::Str(self.to_string())
    }
}

/// A pointer in Go: absent until the file sets it.
impl<T: Value + Default> Value for Option<T> {
    fn merge(&mut self, node: &Node, reader: &mut Reader) {
        if !node.is_null() {
            self.get_or_insert_with(T::default).merge(node, reader);
        }
    }
    fn tree(&self) -> Tree {
        self.as_ref().map_or(Tree::Null, Value::tree)
    }
    fn is_zero(&self) -> bool {
        self.is_none()
    }
}

/// Decoded index-wise over the list that is there, then cut to the file's length; a null element keeps the one that is there.
impl<T: Value + Default> Value for Vec<T> {
    fn merge(&mut self, node: &Node, reader: &mut Reader) {
        match &node.kind {
            Kind::Null => self.clear(),
            Kind::List(items) => {
                self.truncate(items.len());
                self.resize_with(items.len(), T::default);
                for (at, (slot, item)) in self.iter_mut().zip(items).enumerate() {
                    if !item.is_null() {
                        reader.enter(&at.to_string());
                        slot.merge(item, reader);
                        reader.leave();
                    }
                }
            }
            _ => reader.problem(node, format!("must be a list, not {}", node.type_name())),
        }
    }
    fn tree(&self) -> Tree {
        if self.is_empty() {
            Tree::Null
        } else {
            Tree::List(self.iter().map(Value::tree).collect())
        }
    }
    fn is_zero(&self) -> bool {
        self.is_empty()
    }
}

/// Merged into the map that is there; only null for the whole map clears it.
impl<T: Value + Default> Value for BTreeMap<String, T> {
    fn merge(&mut self, node: &Node, reader: &mut Reader) {
        match &node.kind {
            Kind::Null => self.clear(),
            Kind::Map(entries) => {
                for entry in entries {
                    let mut value = T::default();
                    reader.enter(&entry.key);
                    value.merge(&entry.value, reader);
                    let path = reader.path();
                    reader.lines.insert(path, entry.line);
                    reader.leave();
                    self.insert(entry.key.clone(), value);
                }
            }
            _ => reader.problem(node, format!("must be a mapping, not {}", node.type_name())),
        }
    }
    fn tree(&self) -> Tree {
        if self.is_empty() {
            // Read over the defaults, an empty mapping would change nothing.
            return Tree::Null;
        }
        let mut map = BTreeMap::new();
        for (key, value) in self {
            map.insert(key.clone(), value.tree());
        }
        Tree::Map(map)
    }
    fn is_zero(&self) -> bool {
        self.is_empty()
    }
}
