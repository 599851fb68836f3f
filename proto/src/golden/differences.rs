//! The comparer, and what may differ.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value};

use super::Capture;

/// A test that plays captures again. Each row is of one of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replay {
    /// The questions of edges and the cloud's answers.
    Answers,
    /// The upgrades, and how connections are closed.
    Upgrades,
    /// What the cloud sends by itself while this was captured.
    Session(Capture),
    /// The HTTPS port.
    Join,
}

/// One field that is not as it was captured.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Where: `content.Err.ErrStatus.code`.
    pub field: String,
    /// The captured value, `None` where the key is absent.
    pub golden: Option<Value>,
    /// Ours.
    pub ours: Option<Value>,
}

/// What may differ, read from `golden/differences.md`.
#[derive(Debug)]
pub struct Differences(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    /// The row as it is written.
    row: String,
    capture: String,
    operation: String,
    resource: Vec<String>,
    field: Vec<String>,
    condition: Option<Condition>,
    used: AtomicBool,
}

/// A field of the captured message without which the rule does not hold, and its value where one is named.
#[derive(Debug)]
struct Condition {
    pointer: String,
    value: Option<String>,
}

/// What is compared, as the rules name it.
#[derive(Clone, Copy)]
struct Subject<'a> {
    capture: &'a str,
    operation: &'a str,
    resource: &'a str,
    golden: &'a Value,
}

impl Replay {
    /// The replay that a row belongs to.
    fn of(capture: &str, operation: &str) -> Option<Self> {
        match (capture, operation) {
            ("join", _) => Some(Self::Join),
            (_, "response" | "applicationResponse") => Some(Self::Answers),
            (_, "upgrade") => Some(Self::Upgrades),
            ("hub-ack", _) => Some(Self::Session(Capture::HubAck)),
            ("hub-device", _) => Some(Self::Session(Capture::HubDevice)),
            _ => None,
        }
    }
}

impl Differences {
    /// The committed rows of a replay.
    ///
    /// # Panics
    /// When a row is not well formed.
    pub fn committed(replay: Replay) -> Self {
        let Self(mut rules) = Self::all();
        rules.retain(|rule| Replay::of(&rule.capture, &rule.operation) == Some(replay));
        Self(rules)
    }

    /// All committed rows.
    ///
    /// # Panics
    /// When one is not well formed.
    pub fn all() -> Self {
        Self::parse(include_str!("../../golden/differences.md")).expect("golden/differences.md is well formed")
    }

    /// Reads the table rows of a Markdown text: capture, operation, resource, field, reason with a section sign.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rows = text.lines().filter(|line| line.starts_with("| ")).skip(1);
        rows.map(Rule::parse).collect::<Result<_, _>>().map(Self)
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rows that nothing needed so far.
    pub fn unused(&self) -> Vec<&str> {
        let unused = self.0.iter().filter(|rule| !rule.used.load(Ordering::Relaxed));
        unused.map(|rule| rule.row.as_str()).collect()
    }

    /// Where a message of ours is not what the capture has at that place, apart from what is allowed to differ.
    pub fn compare(&self, capture: Capture, golden: &Value, ours: &Value) -> Vec<Difference> {
        self.differences(Subject::message(capture, golden), ours)
    }

    /// The same for an answer of the HTTPS port, as [`super::join_answer`] has it.
    pub fn compare_join(&self, method: &str, step: &str, golden: &Value, ours: &Value) -> Vec<Difference> {
        let subject = Subject {
            capture: "join",
            operation: method,
            resource: step,
            golden,
        };
        self.differences(subject, ours)
    }

    /// The same for the answer to an upgrade, which stands after this note.
    pub fn compare_upgrade(&self, capture: Capture, note: &str, golden: &Value, ours: &Value) -> Vec<Difference> {
        let subject = Subject {
            capture: capture.name(),
            operation: "upgrade",
            resource: note,
            golden,
        };
        self.differences(subject, ours)
    }

    /// Whether a captured message is one that ours does not send.
    pub fn unsent(&self, capture: Capture, golden: &Value) -> bool {
        self.allow(Subject::message(capture, golden), &["message"])
    }

    fn differences(&self, subject: Subject<'_>, ours: &Value) -> Vec<Difference> {
        let mut found = Vec::new();
        differ(&mut Vec::new(), Some(subject.golden), Some(ours), &mut found);
        found.retain(|difference| !self.allow(subject, &difference.field.split('.').collect::<Vec<_>>()));
        found
    }

    fn allow(&self, subject: Subject<'_>, field: &[&str]) -> bool {
        let rule = self.0.iter().find(|rule| rule.allows(subject, field));
        rule.inspect(|rule| rule.used.store(true, Ordering::Relaxed)).is_some()
    }
}

impl Rule {
    fn parse(row: &str) -> Result<Self, String> {
        let columns: Vec<&str> = row
            .trim_matches('|')
            .split('|')
            .map(|column| column.trim().trim_matches('`'))
            .collect();
        let [capture, operation, resource, field, reason] = columns[..] else {
            return Err(format!("not five columns: {row}"));
        };
        if !reason.contains('§') {
            return Err(format!("no section of the specification: {row}"));
        }
        if Replay::of(capture, operation).is_none() {
            return Err(format!("no test plays what this row is about: {row}"));
        }
        let (field, condition) = match field.split_once(" if ") {
            Some((field, condition)) => (field, Some(Condition::parse(condition))),
            None => (field, None),
        };
        Ok(Self {
            row: row.to_owned(),
            capture: capture.to_owned(),
            operation: operation.to_owned(),
            resource: resource.split('/').map(str::to_owned).collect(),
            field: field.split('.').map(str::to_owned).collect(),
            condition,
            used: AtomicBool::new(false),
        })
    }

    fn allows(&self, subject: Subject<'_>, field: &[&str]) -> bool {
        let resource: Vec<&str> = subject.resource.split('/').collect();
        is_one_of(&self.capture, subject.capture)
            && is_one_of(&self.operation, subject.operation)
            && fits(&self.resource, &resource)
            && fits(&self.field, field)
            && self.condition.as_ref().is_none_or(|one| one.holds(subject.golden))
    }
}

impl Condition {
    fn parse(text: &str) -> Self {
        let (field, value) = match text.split_once('=') {
            Some((field, value)) => (field, Some(value.to_owned())),
            None => (text, None),
        };
        Self {
            pointer: format!("/{}", field.replace('.', "/")),
            value,
        }
    }

    fn holds(&self, golden: &Value) -> bool {
        golden.pointer(&self.pointer).is_some_and(|found| match &self.value {
            Some(value) => found == value.as_str(),
            None => !found.is_null(),
        })
    }
}

impl<'a> Subject<'a> {
    fn message(capture: Capture, golden: &'a Value) -> Self {
        let word = |key: &str| golden.pointer(key).and_then(Value::as_str).unwrap_or_default();
        Self {
            capture: capture.name(),
            operation: word("/route/operation"),
            resource: word("/route/resource"),
            golden,
        }
    }
}

/// Whether a path fits a pattern, segment by segment; a final `**` is any number of them.
fn fits(pattern: &[String], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (Some((head, [])), _) if head == "**" => true,
        (Some((head, pattern)), Some((segment, path))) => is_one_of(head, segment) && fits(pattern, path),
        (None, None) => true,
        _ => false,
    }
}

/// Whether a word is what a pattern names: `*`, or words with ` or ` between them.
fn is_one_of(pattern: &str, word: &str) -> bool {
    pattern == "*" || pattern.split(" or ").any(|one| one == word)
}

/// What differs in every run: only its presence and its JSON type are compared.
const MASKED: [[&str; 2]; 2] = [["header", "msg_id"], ["header", "timestamp"]];

fn differ(path: &mut Vec<String>, golden: Option<&Value>, ours: Option<&Value>, found: &mut Vec<Difference>) {
    let masked = MASKED.iter().any(|masked| path.as_slice() == masked.as_slice());
    match (golden, ours) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => objects(path, a, b, found),
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            for index in 0..a.len().max(b.len()) {
                path.push(index.to_string());
                differ(path, a.get(index), b.get(index), found);
                path.pop();
            }
        }
        (Some(Value::String(a)), Some(Value::String(b))) if !masked && a != b => match (document(a), document(b)) {
            (Some(a), Some(b)) => objects(path, &a, &b, found),
            _ => push(path, golden, ours, found),
        },
        (Some(a), Some(b)) if masked && std::mem::discriminant(a) == std::mem::discriminant(b) => {}
        (a, b) if a == b => {}
        _ => push(path, golden, ours, found),
    }
}

fn objects(path: &mut Vec<String>, a: &Map<String, Value>, b: &Map<String, Value>, found: &mut Vec<Difference>) {
    let added = b.keys().filter(|key| !a.contains_key(*key));
    for key in a.keys().chain(added) {
        path.push(key.clone());
        differ(path, a.get(key), b.get(key), found);
        path.pop();
    }
}

fn push(path: &[String], golden: Option<&Value>, ours: Option<&Value>, found: &mut Vec<Difference>) {
    found.push(Difference {
        field: path.join("."),
        golden: golden.cloned(),
        ours: ours.cloned(),
    });
}

/// The JSON object that a string holds: patches travel that way, and their key order is free.
fn document(text: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(text).ok()
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |value: &Option<Value>| value.as_ref().map_or_else(|| "absent".to_owned(), Value::to_string);
        write!(
            f,
            "{}: captured {}, ours {}",
            self.field,
            show(&self.golden),
            show(&self.ours)
        )
    }
}
