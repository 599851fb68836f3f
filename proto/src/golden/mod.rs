//! Captured traffic of the Go peers as test data, and the comparer that holds our answers against it.
//!
//! Owns nothing and is compiled for tests only (feature `golden`, a dev-dependency of the cores). What may differ from the capture is
//! in `golden/differences.md`, line by line with the section of the specification that allows it. Each line belongs to one replay,
//! which fails when the line is not needed; a line that does not fit the grammar there makes every replay fail.

mod differences;
mod join;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

pub use self::differences::{Difference, Differences, Replay};
pub use self::join::{Body, JoinExchange, join, join_answer};

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
    /// A close frame; of its payload the code is kept.
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
    /// The code of a close frame.
    pub code: Option<u16>,
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

/// A connection of an edge: how it begins, and how it is closed.
#[derive(Clone, Debug)]
pub struct Upgrade {
    connection: u32,
    /// The note that stands before it; empty where none does.
    pub note: String,
    /// The head of the request, raw.
    pub request: String,
    /// The answer, raw.
    pub answer: String,
    /// The close frames, by who sent them.
    pub closes: Vec<(Direction, Option<u16>)>,
}

#[derive(Deserialize)]
struct Line {
    t: f64,
    note: Option<String>,
    connection: Option<u32>,
    direction: Option<Direction>,
    frame: Option<FrameKind>,
    text: Option<String>,
    base64: Option<String>,
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
            Self::Hub => include_str!("../../golden/hub.jsonl"),
            Self::HubSim => include_str!("../../golden/hub-sim.jsonl"),
            Self::HubAck => include_str!("../../golden/hub-ack.jsonl"),
            Self::HubDevice => include_str!("../../golden/hub-device.jsonl"),
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
                    code: line.base64.and_then(|payload| close_code(&payload)),
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

    /// Each connection, in the order of their upgrades.
    pub fn upgrades(self) -> Vec<Upgrade> {
        let mut upgrades: Vec<Upgrade> = Vec::new();
        for entry in self.entries() {
            let Entry::Frame(frame) = entry else { continue };
            let of_this = upgrades
                .iter_mut()
                .find(|upgrade| upgrade.connection == frame.connection);
            match (frame.kind, of_this) {
                (FrameKind::Http, None) => upgrades.push(Upgrade {
                    connection: frame.connection,
                    note: frame.note,
                    request: frame.text,
                    answer: String::new(),
                    closes: Vec::new(),
                }),
                (FrameKind::Http | FrameKind::HttpBody, Some(upgrade)) => upgrade.answer += &frame.text,
                (FrameKind::Close, Some(upgrade)) => upgrade.closes.push((frame.direction, frame.code)),
                _ => {}
            }
        }
        upgrades
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
    /// The question as a message with an id of its own, so that one peer can be asked the same twice, and the captured answer to
    /// that one.
    ///
    /// # Panics
    /// When it is no message.
    pub fn again(&self) -> (Message, Value) {
        let mut message = Message::decode(self.request.to_string().as_bytes()).expect("an answered question decodes");
        message.id = MsgId::random();
        let mut answer = self.answer.clone();
        answer["header"]["parent_msg_id"] = message.id.as_str().into();
        (message, answer)
    }
}

/// The code that a close frame begins with, if it has any.
fn close_code(payload: &str) -> Option<u16> {
    let payload = STANDARD.decode(payload).expect("base64");
    payload.first_chunk().copied().map(u16::from_be_bytes)
}

/// The ObjectSync lists of `objectsync.yaml` as (moment, YAML).
pub fn object_syncs() -> Vec<(String, String)> {
    include_str!("../../golden/objectsync.yaml")
        .split("\n---\n")
        .filter_map(|part| {
            let (comment, yaml) = part.trim_start().split_once('\n')?;
            Some((comment.strip_prefix("# ")?.to_owned(), yaml.to_owned()))
        })
        .collect()
}
