//! The block writer: keys sorted, two spaces, `- ` in the column of the parent key, as the Go peers print.

use std::collections::BTreeMap;

use super::scalar;

/// A value to be printed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tree {
    /// A null list.
    Null,
    /// A number, boolean or any text that is printed as it is.
    Bare(String),
    /// A string, quoted where it would otherwise be read as something else.
    Str(String),
    List(Vec<Self>),
    Map(BTreeMap<String, Self>),
}

impl Tree {
    pub(crate) fn at(&self, path: &[&str]) -> Option<&Self> {
        match (self, path) {
            (_, []) => Some(self),
            (Self::Map(map), [first, rest @ ..]) => map.get(*first)?.at(rest),
            _ => None,
        }
    }

    /// Only what stands at one of `paths`.
    pub(crate) fn only(&self, paths: &[&[&str]]) -> Self {
        let mut kept = Self::Map(BTreeMap::new());
        for path in paths {
            if let Some(value) = self.at(path) {
                kept.graft(path, value.clone());
            }
        }
        kept
    }

    /// Takes away what stands at `path`.
    pub(crate) fn cut(&mut self, path: &[&str]) {
        let Self::Map(map) = self else { return };
        match path {
            [] => {}
            [last] => {
                map.remove(*last);
            }
            [first, rest @ ..] => {
                if let Some(inner) = map.get_mut(*first) {
                    inner.cut(rest);
                }
            }
        }
    }

    fn graft(&mut self, path: &[&str], value: Self) {
        let Self::Map(map) = self else { return };
        match path {
            [] => {}
            [last] => {
                map.insert((*last).to_owned(), value);
            }
            [first, rest @ ..] => {
                map.entry((*first).to_owned())
                    .or_insert_with(|| Self::Map(BTreeMap::new()))
                    .graft(rest, value);
            }
        }
    }
}

/// Prints `tree` as one document.
pub(crate) fn write(tree: &Tree) -> String {
    let mut out = String::new();
    block(tree, 0, &mut out);
    out
}

fn block(tree: &Tree, indent: usize, out: &mut String) {
    match tree {
        Tree::Map(map) => {
            for (at, (key, value)) in map.iter().enumerate() {
                // The first line of a mapping in a list stands behind the dash.
                if at > 0 || !out.ends_with("- ") {
                    pad(indent, out);
                }
                out.push_str(&quoted_if_needed(key));
                out.push(':');
                match value {
                    Tree::Map(inner) if !inner.is_empty() => {
                        out.push('\n');
                        block(value, indent + 2, out);
                    }
                    Tree::List(items) if !items.is_empty() => {
                        out.push('\n');
                        block(value, indent, out);
                    }
                    _ => {
                        out.push(' ');
                        block(value, indent, out);
                    }
                }
            }
            if map.is_empty() {
                out.push_str("{}\n");
            }
        }
        Tree::List(items) => {
            for item in items {
                if !out.ends_with("- ") {
                    pad(indent, out);
                }
                out.push_str("- ");
                block(item, indent + 2, out);
            }
            if items.is_empty() {
                out.push_str("[]\n");
            }
        }
        Tree::Null => out.push_str("null\n"),
        Tree::Bare(text) => {
            out.push_str(text);
            out.push('\n');
        }
        Tree::Str(text) => {
            out.push_str(&quoted_if_needed(text));
            out.push('\n');
        }
    }
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

/// Plain where that reads back as the same string; double quotes where plain means another type or the text has control
/// characters; single quotes where only the punctuation is in the way.
pub(crate) fn quoted_if_needed(text: &str) -> String {
    if text
        .chars()
        .any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{85}'))
    {
        return double_quoted(text);
    }
    if !scalar::reads_back_as_string(text) {
        return double_quoted(text);
    }
    if plain_allowed(text) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

fn plain_allowed(text: &str) -> bool {
    let Some(first) = text.chars().next() else { return false };
    let second_blank = text.chars().nth(1).is_none_or(char::is_whitespace);
    if "#,[]{}&*!|>'\"%@`".contains(first) || ("-?:".contains(first) && second_blank) {
        return false;
    }
    if text.starts_with("---") || text.starts_with("...") || text == "<<" || text == "=" {
        return false;
    }
    let edge_blank = text.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace);
    !edge_blank && !text.contains(": ") && !text.ends_with(':') && !text.contains(" #")
}

fn double_quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{85}') => {
                out.push_str(&format!("\\u{:04X}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
