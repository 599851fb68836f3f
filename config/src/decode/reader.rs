//! The place that collects what a file sets, what it has wrong and what it has too much.

use std::collections::BTreeMap;

use crate::yaml::{Entry, Kind, Node};
use crate::{Problem, Warning};

/// Full path of each key that the file sets, with its line.
pub(crate) type Lines = BTreeMap<String, usize>;

/// State of one pass over a file.
#[derive(Default)]
pub(crate) struct Reader {
    path: Vec<String>,
    pub(crate) lines: Lines,
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Warning>,
}

impl Reader {
    /// Visits the known keys of a section; unknown and repeated ones become warnings.
    ///
    /// Go sorts the keys before it decodes, so of two spellings of one key the later in code point order wins, and of exact
    /// duplicates the last.
    pub(crate) fn section(
        &mut self,
        node: &Node,
        keys: &[&'static str],
        null_keeps: bool,
        mut visit: impl FnMut(&'static str, &Node, &mut Self),
    ) {
        let Kind::Map(entries) = &node.kind else {
            if !(node.is_null() && null_keeps) {
                let reason = if node.is_null() {
                    "the section is empty: remove the key or write its keys below it".to_owned()
                } else {
                    format!("must be a section with keys of its own, not {}", node.type_name())
                };
                self.problem(node, reason);
            }
            return;
        };
        let mut sorted: BTreeMap<&str, &Entry> = BTreeMap::new();
        for entry in entries {
            if sorted.insert(entry.key.as_str(), entry).is_some() {
                self.enter(&entry.key);
                self.warn(entry.line, "written twice; the last one counts".to_owned());
                self.leave();
            }
        }
        for (name, entry) in sorted {
            let known = keys
                .iter()
                .find(|k| **k == name)
                .or_else(|| keys.iter().find(|k| k.eq_ignore_ascii_case(name)))
                .copied();
            self.enter(known.unwrap_or(name));
            match known {
                Some(key) => {
                    let path = self.path();
                    self.lines.insert(path, entry.line);
                    visit(key, &entry.value, self);
                }
                None => self.warn(entry.line, "unknown key, ignored".to_owned()),
            }
            self.leave();
        }
    }

    pub(crate) fn enter(&mut self, part: &str) {
        self.path.push(part.to_owned());
    }

    pub(crate) fn leave(&mut self) {
        self.path.pop();
    }

    pub(crate) fn path(&self) -> String {
        self.path.join(".")
    }

    pub(crate) fn problem(&mut self, node: &Node, reason: String) {
        let path = self.path();
        let secret = path.ends_with("token") || path.ends_with("mqttPassword");
        self.problems.push(Problem {
            line: Some(node.line),
            field: path.clone(),
            path,
            value: if secret { "(hidden)".to_owned() } else { node.shown() },
            reason,
        });
    }

    pub(crate) fn warn(&mut self, line: usize, reason: String) {
        let path = self.path();
        self.warn_at(line, &path, reason);
    }

    pub(crate) fn warn_at(&mut self, line: usize, path: &str, reason: String) {
        self.warnings.push(Warning {
            line: Some(line),
            path: path.to_owned(),
            reason,
            has_no_effect: false,
        });
    }

    /// A key that is accepted and that nothing reads, with what else there is to say of it.
    pub(crate) fn warn_no_effect(&mut self, line: usize, path: &str, more: &str) {
        self.warnings.push(Warning {
            line: Some(line),
            path: path.to_owned(),
            reason: format!("accepted, but has no effect{more}"),
            has_no_effect: true,
        });
    }
}
