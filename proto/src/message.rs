//! The message between the cores and its JSON (spec 01 §2).

use std::fmt;
use std::marker::PhantomData;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use crate::content::Content;
use crate::ids::MsgId;
use crate::object::Object;
use crate::route::Route;
use crate::words::{Group, Operation, Source};

/// The largest message that is read or written: 32 MiB, the limit of Go's QUIC frames (spec 01 §4.2).
pub const MAX_MESSAGE: usize = 32 * 1024 * 1024;

/// One message.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its own id.
    pub id: MsgId,
    /// The id of the message that this one answers.
    pub parent: Option<MsgId>,
    /// Unix time in milliseconds.
    pub timestamp: i64,
    /// `resourceVersion` of the object in the content; empty when there is none.
    pub version: String,
    /// The module that sent it.
    pub source: Source,
    /// The group of modules it is for.
    pub group: Group,
    /// The verb.
    pub operation: Operation,
    /// What it is about.
    pub route: Route,
    /// The payload.
    pub content: Content,
}

/// Why a frame is no message.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// The frame is larger than [`MAX_MESSAGE`].
    #[error("message of {0} bytes is over the limit of {MAX_MESSAGE}")]
    TooLarge(usize),
    /// The frame is not JSON, or a field has the wrong type.
    #[error("frame is not a message")]
    Json(#[source] serde_json::Error),
    /// A binary frame that is not UTF-8.
    #[error("frame is not UTF-8")]
    Utf8(#[source] std::str::Utf8Error),
}

impl Message {
    /// A new message with a random id and the present time.
    pub fn new(source: Source, group: Group, operation: Operation, route: impl Into<Route>, content: Content) -> Self {
        Self {
            id: MsgId::random(),
            parent: None,
            timestamp: now_millis(),
            version: String::new(),
            source,
            group,
            operation,
            route: route.into(),
            content,
        }
    }

    /// The same message with an object as content, and its version in the header.
    #[must_use]
    pub fn with_object(mut self, object: &Object) -> Self {
        self.version.clone_from(&object.meta().resource_version);
        self.content = object.into();
        self
    }

    /// The same message as the answer to another.
    #[must_use]
    pub fn answering(mut self, request: &MsgId) -> Self {
        self.parent = Some(request.clone());
        self
    }

    /// An answer: the route is echoed, the source is the one that answers, the group is `resource` (spec 02 §3.1).
    pub fn answer_to(request: &Self, source: Source, content: Content) -> Self {
        Self::new(
            source,
            Group::Resource,
            Operation::Response,
            request.route.clone(),
            content,
        )
        .answering(&request.id)
    }

    /// The acknowledgement: source, group and route as received, content `"OK"` (spec 05 §3.2).
    pub fn ack_of(received: &Self) -> Self {
        Self::new(
            received.source.clone(),
            received.group.clone(),
            Operation::Response,
            received.route.clone(),
            Content::ok(),
        )
        .answering(&received.id)
    }

    /// Keepalive of an edge (spec 01 §2.6).
    pub fn keepalive() -> Self {
        Self::new(
            Source::EdgeHub,
            Group::Resource,
            Operation::Keepalive,
            Route::Node,
            Content::text("ping"),
        )
    }

    /// Whether a waiting request gets this message.
    pub fn is_answer(&self) -> bool {
        self.parent.is_some()
    }

    /// One frame: the first JSON value of the text, what follows is ignored (spec 01 §3.2).
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        if frame.len() > MAX_MESSAGE {
            return Err(DecodeError::TooLarge(frame.len()));
        }
        let text = std::str::from_utf8(frame).map_err(DecodeError::Utf8)?;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let Strict::<Wire>(wire) = Strict::deserialize(&mut deserializer).map_err(DecodeError::Json)?;
        Ok(wire.into())
    }

    /// The frame's text.
    pub fn encode(&self) -> String {
        let route = self.route.render();
        let wire = WireOut {
            header: HeaderOut {
                msg_id: self.id.as_str(),
                parent_msg_id: self.parent.as_ref().map_or("", MsgId::as_str),
                timestamp: self.timestamp,
                resourceversion: &self.version,
            },
            route: RouteOut {
                source: self.source.as_str(),
                group: self.group.as_str(),
                operation: self.operation.as_str(),
                resource: &route,
            },
            content: &self.content,
        };
        // Only strings, an integer and raw JSON: nothing in it can fail to serialise.
        serde_json::to_string(&wire).unwrap_or_default()
    }
}

/// Unix time in milliseconds; 0 while the clock stands before 1970.
pub fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    header: Strict<HeaderIn>,
    #[serde(default)]
    route: Strict<RouteIn>,
    #[serde(default = "Content::null")]
    content: Content,
}

/// A JSON object or `null`: a derived reader would take an array for the fields in order, which Go refuses (spec 01 §2.2).
#[derive(Default)]
struct Strict<T>(T);

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Strict<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor(PhantomData)).map(Self)
    }
}

struct StrictVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for StrictVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or null")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }
}

impl Default for Wire {
    fn default() -> Self {
        Self {
            header: Strict::default(),
            route: Strict::default(),
            content: Content::null(),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct HeaderIn {
    msg_id: Option<String>,
    parent_msg_id: Option<String>,
    timestamp: Option<i64>,
    resourceversion: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RouteIn {
    source: Option<String>,
    group: Option<String>,
    operation: Option<String>,
    resource: Option<String>,
}

impl From<Wire> for Message {
    fn from(wire: Wire) -> Self {
        let Wire {
            header: Strict(header),
            route: Strict(route),
            content,
        } = wire;
        let group = Group::from(route.group.as_deref().unwrap_or_default());
        Self {
            id: header.msg_id.unwrap_or_default().into(),
            parent: header.parent_msg_id.filter(|id| !id.is_empty()).map(MsgId::from),
            timestamp: header.timestamp.unwrap_or_default(),
            version: header.resourceversion.unwrap_or_default(),
            source: Source::from(route.source.as_deref().unwrap_or_default()),
            operation: Operation::from(route.operation.as_deref().unwrap_or_default()),
            route: Route::parse(&group, route.resource.as_deref().unwrap_or_default()),
            group,
            content,
        }
    }
}

#[derive(Serialize)]
struct WireOut<'a> {
    header: HeaderOut<'a>,
    route: RouteOut<'a>,
    content: &'a Content,
}

#[derive(Serialize)]
struct HeaderOut<'a> {
    msg_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    parent_msg_id: &'a str,
    timestamp: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    resourceversion: &'a str,
}

#[derive(Serialize)]
struct RouteOut<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    source: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    group: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    operation: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    resource: &'a str,
}
