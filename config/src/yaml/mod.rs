//! YAML as the Go peers read and print it.
//!
//! Owns: the node tree with line numbers ([`Node`]), the YAML 1.1 meaning of plain scalars, and the block writer.
//! Reads: text. Emits: a tree, or one [`crate::Problem`] with its line. Must not: know any key of a configuration.
//! Source: spec 06 §1.1; observed with sigs.k8s.io/yaml, which reads YAML 1.1 into JSON.

mod json;
mod locate;
mod parse;
mod scalar;
mod write;

pub use json::json;
pub(crate) use locate::locate;
pub(crate) use parse::parse;
pub(crate) use write::{Tree, quoted_if_needed, write};

/// A value of the file with the line it starts on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) line: usize,
    pub(crate) kind: Kind,
}

/// What a value is, after the YAML 1.1 rules for plain scalars.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a mapping, in file order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) line: usize,
    pub(crate) value: Node,
}

impl Node {
    pub(crate) fn new(line: usize, kind: Kind) -> Self {
        Self { line, kind }
    }

    pub(crate) fn is_null(&self) -> bool {
        self.kind == Kind::Null
    }

    /// The child under `key`: the exact spelling first, then any letter case; of duplicates the last, as everywhere.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.position(key)
            .and_then(|(entries, at)| entries.get(at))
            .map(|e| &e.value)
    }

    fn position(&self, key: &str) -> Option<(&[Entry], usize)> {
        let Kind::Map(entries) = &self.kind else { return None };
        let at = entries
            .iter()
            .rposition(|e| e.key == key)
            .or_else(|| entries.iter().rposition(|e| e.key.eq_ignore_ascii_case(key)))?;
        Some((entries, at))
    }

    /// The child under `key`, to be changed.
    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        let at = self.position(key)?.1;
        match &mut self.kind {
            Kind::Map(entries) => entries.get_mut(at).map(|e| &mut e.value),
            _ => None,
        }
    }

    /// Removes and returns the entry under `key`.
    pub(crate) fn take(&mut self, key: &str) -> Option<Entry> {
        let at = self.position(key)?.1;
        match &mut self.kind {
            Kind::Map(entries) => Some(entries.remove(at)),
            _ => None,
        }
    }

    /// The mapping under `key`, made when absent.
    pub(crate) fn section_mut(&mut self, key: &str, line: usize) -> Option<&mut Self> {
        let Kind::Map(_) = self.kind else { return None };
        if self.position(key).is_none() {
            self.insert(key, line, Self::new(line, Kind::Map(Vec::new())));
        }
        let at = self.position(key)?.1;
        let Kind::Map(entries) = &mut self.kind else {
            return None;
        };
        entries.get_mut(at).map(|e| &mut e.value)
    }

    pub(crate) fn insert(&mut self, key: &str, line: usize, value: Self) {
        if let Kind::Map(entries) = &mut self.kind {
            entries.push(Entry {
                key: key.to_owned(),
                line,
                value,
            });
        }
    }

    /// Makes two trees comparable that were read from different texts.
    pub(crate) fn forget_lines(&mut self) {
        self.line = 0;
        match &mut self.kind {
            Kind::List(items) => items.iter_mut().for_each(Self::forget_lines),
            Kind::Map(entries) => entries.iter_mut().for_each(|entry| {
                entry.line = 0;
                entry.value.forget_lines();
            }),
            _ => {}
        }
    }

    /// What a message calls this value.
    pub(crate) fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Null => "null",
            Kind::Bool(_) => "a boolean",
            Kind::Int(_) | Kind::Float(_) => "a number",
            Kind::Str(_) => "a string",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }

    /// The value as a message shows it: strings quoted, lists and mappings only named.
    pub(crate) fn shown(&self) -> String {
        match &self.kind {
            Kind::Null => "null".to_owned(),
            Kind::Bool(b) => b.to_string(),
            Kind::Int(i) => i.to_string(),
            Kind::Float(f) => scalar::float_text(*f),
            Kind::Str(s) => crate::problem::quoted(s),
            Kind::List(_) => "[…]".to_owned(),
            Kind::Map(_) => "{…}".to_owned(),
        }
    }

    /// The scalar as a string field takes it: numbers and booleans are coerced, as the Go peers do.
    pub(crate) fn coerced(&self) -> Option<String> {
        match &self.kind {
            Kind::Str(s) => Some(s.clone()),
            Kind::Int(i) => Some(i.to_string()),
            Kind::Float(f) => Some(scalar::float_text(*f)),
            Kind::Bool(b) => Some(b.to_string()),
            Kind::Null | Kind::List(_) | Kind::Map(_) => None,
        }
    }
}
