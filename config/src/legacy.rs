//! Moving a key of an older release to where it is today.

use crate::decode::Reader;
use crate::yaml::{Kind, Node};

/// What becomes of an old key.
pub(crate) enum Rule {
    /// It means nothing any more.
    Drop,
    /// It has another name in the same section; mappings are merged into what is there.
    Beside(&'static str),
    /// It has moved into a section below, under a name and in a form; no form: the old value was empty.
    Into(&'static str, &'static str, fn(Node) -> Option<Node>),
}

/// Applies `rule` to `key` of `section`, which stands at `parents`. What today's key says wins over the old one.
pub(crate) fn rename(section: &mut Node, parents: &[&str], key: &str, rule: &Rule, reader: &mut Reader) {
    let Some(entry) = section.take(key) else { return };
    let old_path = format!("{}.{key}", parents.join("."));
    let (target, new_path, value) = match rule {
        Rule::Drop => {
            reader.warn_at(
                entry.line,
                &old_path,
                "key of an older release without effect today, dropped".to_owned(),
            );
            return;
        }
        Rule::Beside(new) => (Some(section), format!("{}.{new}", parents.join(".")), Some(entry.value)),
        Rule::Into(below, new, form) => {
            let new_path = format!("{}.{below}.{new}", parents.join("."));
            (section.section_mut(below, entry.line), new_path, form(entry.value))
        }
    };
    let name = new_path.rsplit('.').next().unwrap_or_default().to_owned();
    let reason = match (target, value) {
        (Some(target), Some(value)) => put(target, &name, entry.line, value, &new_path),
        (_, None) => "key of an older release, empty, dropped".to_owned(),
        (None, _) => format!("key of an older release, dropped: {new_path} cannot take it"),
    };
    reader.warn_at(entry.line, &old_path, reason);
}

/// The words for a key that was taken over.
pub(crate) fn moved_note(new_path: &str) -> String {
    format!("key of an older release, taken as {new_path}")
}

fn put(target: &mut Node, name: &str, line: usize, value: Node, new_path: &str) -> String {
    let Some(there) = target.get_mut(name) else {
        target.insert(name, line, value);
        return moved_note(new_path);
    };
    match (&mut there.kind, value.kind) {
        (Kind::Map(into), Kind::Map(from)) => {
            for entry in from {
                if !into.iter().any(|e| e.key == entry.key) {
                    into.push(entry);
                }
            }
            moved_note(new_path)
        }
        (Kind::Null, kind) => {
            there.kind = kind;
            moved_note(new_path)
        }
        (Kind::Str(text), kind) if text.is_empty() => {
            there.kind = kind;
            moved_note(new_path)
        }
        _ => format!("key of an older release, ignored: {new_path} is set as well"),
    }
}
