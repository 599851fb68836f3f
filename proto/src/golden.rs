//! Captured traffic of the Go peers as test data, and the comparer that holds our answers against it.
//!
//! Owns nothing and is compiled for tests only (feature `golden`, a dev-dependency of the cores). What may differ from the capture is
//! in `golden/differences.md`, line by line with the section of the specification that allows it; a line that no longer fits
//! the grammar there makes every comparison fail.

use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::ids::MsgId;
use crate::message::{DecodeError, Message};

/// One of the captured hub sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Capture {
    /// A Go edge with a Go cloud.
    Hub,
    /// A hand-made edge that asks everything once.
    HubSim,
    /// Acknowledgements, deletion, several connections.
    HubAck,
    /// Devices.
    HubDevice,
}

/// Who sent a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub enum Direction {
    /// From the edge.
    #[serde(rename = "edge->cloud")]
    Up,
    /// From the cloud.
    #[serde(rename = "cloud->edge")]
    Down,
}

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrameKind {
    /// The upgrade, request or answer.
    Http,
    /// The body of a refused upgrade.
    HttpBody,
    /// A text frame.
    Text,
    /// A binary frame.
    Binary,
    /// A close frame; its payload is not kept.
    Close,
    /// The end of the stream.
    Eof,
}

/// One line of a capture.
#[derive(Clone, Debug)]
pub enum Entry {
    /// What the person at the edge did next.
    Note(String),
    /// A frame.
    Frame(Frame),
}

/// One frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Seconds since the capture began.
    pub t: f64,
    /// 1, 2, … within the capture.
    pub connection: u32,
    /// Who sent it.
    pub direction: Direction,
    /// What it is.
    pub kind: FrameKind,
    /// Its payload.
    pub text: String,
    /// The note that stands before it; empty where none does.
    pub note: String,
}

/// A question of the edge and the cloud's answer to it.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The note that announces it; empty where none does.
    pub note: String,
    /// What the edge asked, as sent.
    pub request: Value,
    /// What the cloud answered, as sent.
    pub answer: Value,
}

/// One exchange on the HTTPS port.
#[derive(Clone, Debug, Deserialize)]
pub struct JoinExchange {
    /// What is tried.
    pub step: String,
    /// Whose certificate was presented.
    pub client_certificate: Option<String>,
    /// Head of the request, raw.
    pub request: String,
    /// Its body.
    pub request_body: Option<Body>,
    /// Head of the answer, raw.
    pub response: String,
    /// Its body.
    pub response_body: Option<Body>,
}

/// A body in `join.jsonl`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Body {
    /// As it is.
    Text(String),
    /// Binary.
    Base64(String),
    /// Not kept; what it was.
    Note(String),
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
    capture: String,
    operation: String,
    resource: Vec<String>,
    field: Vec<String>,
    /// A field of the captured message without which the rule does not hold.
    condition: Option<String>,
}

#[derive(Deserialize)]
struct Line {
    t: f64,
    note: Option<String>,
    connection: Option<u32>,
    direction: Option<Direction>,
    frame: Option<FrameKind>,
    text: Option<String>,
}

impl Capture {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Hub, Self::HubSim, Self::HubAck, Self::HubDevice];

    /// The file's name without its ending, as `differences.md` writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::HubSim => "hub-sim",
            Self::HubAck => "hub-ack",
            Self::HubDevice => "hub-device",
        }
    }

    /// Every line, in the order of the wire.
    ///
    /// # Panics
    /// When the file does not follow its README.
    pub fn entries(self) -> Vec<Entry> {
        let text = match self {
            Self::Hub => include_str!("../golden/hub.jsonl"),
            Self::HubSim => include_str!("../golden/hub-sim.jsonl"),
            Self::HubAck => include_str!("../golden/hub-ack.jsonl"),
            Self::HubDevice => include_str!("../golden/hub-device.jsonl"),
        };
        let mut before = String::new();
        text.lines()
            .map(|line| {
                let line: Line = serde_json::from_str(line).expect("a line of a capture follows its README");
                if let Some(note) = line.note {
                    before.clone_from(&note);
                    return Entry::Note(note);
                }
                Entry::Frame(Frame {
                    t: line.t,
                    connection: line.connection.expect("a frame has a connection"),
                    direction: line.direction.expect("a frame has a direction"),
                    kind: line.frame.expect("a frame has a kind"),
                    text: line.text.unwrap_or_default(),
                    note: before.clone(),
                })
            })
            .collect()
    }

    /// Its frames that should be messages: text and binary ones.
    pub fn frames(self) -> impl Iterator<Item = Frame> {
        self.entries().into_iter().filter_map(|entry| match entry {
            Entry::Frame(frame) if matches!(frame.kind, FrameKind::Text | FrameKind::Binary) => Some(frame),
            _ => None,
        })
    }

    /// Its messages of one direction, with their frames; frames that are malformed on purpose are left out.
    pub fn messages(self, direction: Direction) -> impl Iterator<Item = (Frame, Message)> {
        self.frames()
            .filter(move |frame| frame.direction == direction)
            .filter_map(|frame| {
                let message = frame.message().ok()?;
                Some((frame, message))
            })
    }

    /// Each question of the edge that the cloud answered.
    pub fn exchanges(self) -> Vec<Exchange> {
        let frames: Vec<(Frame, Value)> = self
            .frames()
            .filter_map(|frame| frame.value().map(|value| (frame, value)))
            .collect();
        let id = |value: &Value, key: &str| {
            value
                .pointer(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        frames
            .iter()
            .filter(|(frame, _)| frame.direction == Direction::Down)
            .filter_map(|(_, answer)| {
                let parent = id(answer, "/header/parent_msg_id");
                let (frame, request) = frames
                    .iter()
                    .filter(|_| !parent.is_empty())
                    .find(|(frame, value)| frame.direction == Direction::Up && id(value, "/header/msg_id") == parent)?;
                Some(Exchange {
                    note: frame.note.clone(),
                    request: request.clone(),
                    answer: answer.clone(),
                })
            })
            .collect()
    }
}

impl Frame {
    /// The message in it.
    pub fn message(&self) -> Result<Message, DecodeError> {
        Message::decode(self.text.as_bytes())
    }

    /// Its first JSON value; `None` for frames that have none.
    pub fn value(&self) -> Option<Value> {
        serde_json::Deserializer::from_str(&self.text).into_iter().next()?.ok()
    }
}

impl Exchange {
    /// The question as a message with an id of its own, so that one peer can be asked the same twice.
    ///
    /// # Panics
    /// When it is no message.
    pub fn fresh_request(&self) -> Message {
        let mut message = Message::decode(self.request.to_string().as_bytes()).expect("an answered question decodes");
        message.id = MsgId::random();
        message
    }
}

/// Every exchange of `join.jsonl`.
///
/// # Panics
/// When the file does not follow its README.
pub fn join() -> Vec<JoinExchange> {
    include_str!("../golden/join.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of join.jsonl follows its README"))
        .collect()
}

/// The ObjectSync lists of `objectsync.yaml` as (moment, YAML).
pub fn object_syncs() -> Vec<(String, String)> {
    include_str!("../golden/objectsync.yaml")
        .split("\n---\n")
        .filter_map(|part| {
            let (comment, yaml) = part.trim_start().split_once('\n')?;
            Some((comment.strip_prefix("# ")?.to_owned(), yaml.to_owned()))
        })
        .collect()
}

impl Differences {
    /// The committed list.
    ///
    /// # Panics
    /// When a line does not have the five columns.
    pub fn committed() -> Self {
        Self::parse(include_str!("../golden/differences.md")).expect("golden/differences.md is well formed")
    }

    /// Reads the table rows of a Markdown text: capture, operation, resource, field, reason with a section sign.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rows = text.lines().filter(|line| line.starts_with("| ")).skip(1);
        rows.map(|row| {
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
            let (field, condition) = match field.split_once(" if ") {
                Some((field, condition)) => (field, Some(format!("/{}", condition.replace('.', "/")))),
                None => (field, None),
            };
            Ok(Rule {
                capture: capture.to_owned(),
                operation: operation.to_owned(),
                resource: resource.split('/').map(str::to_owned).collect(),
                field: field.split('.').map(str::to_owned).collect(),
                condition,
            })
        })
        .collect::<Result<_, _>>()
        .map(Self)
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where a message of ours is not what the capture has at that place, apart from what is allowed to differ.
    pub fn compare(&self, capture: Capture, golden: &Value, ours: &Value) -> Vec<Difference> {
        let word = |key: &str| golden.pointer(key).and_then(Value::as_str).unwrap_or_default();
        let (operation, resource) = (word("/route/operation"), word("/route/resource"));
        let resource: Vec<&str> = resource.split('/').collect();
        let mut found = Vec::new();
        differ(&mut Vec::new(), Some(golden), Some(ours), &mut found);
        found.retain(|difference| {
            let field: Vec<&str> = difference.field.split('.').collect();
            !self.0.iter().any(|rule| {
                (rule.capture == "*" || rule.capture == capture.name())
                    && (rule.operation == "*" || rule.operation == operation)
                    && fits(&rule.resource, &resource)
                    && fits(&rule.field, &field)
                    && rule
                        .condition
                        .as_deref()
                        .is_none_or(|at| golden.pointer(at).is_some_and(|value| !value.is_null()))
            })
        });
        found
    }
}

/// Whether a path fits a pattern: `*` is one segment, a final `**` is any number of them.
fn fits(pattern: &[String], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (Some((head, [])), _) if head == "**" => true,
        (Some((head, pattern)), Some((segment, path))) => (head == "*" || head == segment) && fits(pattern, path),
        (None, None) => true,
        _ => false,
    }
}

/// Values that differ in every run: only their presence and their JSON type are compared.
const MASKED: [&str; 18] = [
    "msg_id",
    "parent_msg_id",
    "timestamp",
    "resourceversion",
    "resourceVersion",
    "objectResourceVersion",
    "uid",
    "generation",
    "observedGeneration",
    "creationTimestamp",
    "deletionTimestamp",
    "expirationTimestamp",
    "lastTransitionTime",
    "lastHeartbeatTime",
    "startTime",
    "startedAt",
    "renewTime",
    "time",
];

fn differ(path: &mut Vec<String>, golden: Option<&Value>, ours: Option<&Value>, found: &mut Vec<Difference>) {
    let masked = path.last().is_some_and(|key| MASKED.contains(&key.as_str()));
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
