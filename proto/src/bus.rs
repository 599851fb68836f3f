//! What EventBus and the cloud's rules say to each other: uploads of MQTT clients, and what the edge is to subscribe and publish
//! (spec 03 §4, spec 02 §6.2).
//!
//! A payload travels as a JSON string, as between Go peers, where bytes that are no UTF-8 are lost. Between our own programs, and only
//! there, such a payload is `{"base64":"…"}`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::content::Content;
use crate::message::Message;
use crate::route::Route;
use crate::words::{Group, Operation, Source};

/// A message of an MQTT client for the cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// The topic, as published.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
}

impl Upload {
    /// The message to the cloud; `exact` where the cloud reads both forms of a payload.
    pub fn message(&self, exact: bool) -> Message {
        Message::new(
            Source::Bus,
            Group::User,
            Operation::Upload,
            Route::Other(self.topic.as_str().into()),
            content(&self.payload, exact),
        )
    }

    /// The upload in a message, if it is one.
    pub fn of(message: &Message) -> Option<Self> {
        let is_upload = message.group == Group::User && message.operation == Operation::Upload;
        (is_upload && message.source == Source::Bus).then(|| Self {
            topic: message.route.render(),
            payload: payload(&message.content),
        })
    }
}

/// What a rule of the cloud asks of EventBus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusRequest {
    /// Send what is published on this topic to the cloud from now on.
    Subscribe(String),
    /// No longer.
    Unsubscribe(String),
    /// Publish.
    Publish {
        /// Where.
        topic: String,
        /// What.
        payload: Bytes,
    },
}

/// A message that asks nothing of EventBus.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("EventBus knows no operation {0:?}")]
pub struct NotForBus(String);

impl BusRequest {
    /// Reads a message of a rule.
    pub fn of(message: &Message) -> Result<Self, NotForBus> {
        let topic = message.route.render();
        match message.operation {
            Operation::Subscribe => Ok(Self::Subscribe(topic)),
            Operation::Unsubscribe => Ok(Self::Unsubscribe(topic)),
            Operation::Publish => Ok(Self::Publish {
                topic,
                payload: payload(&message.content),
            }),
            ref other => Err(NotForBus(other.as_str().chars().take(64).collect())),
        }
    }

    /// The message to the edge; `exact` where the edge reads both forms of a payload.
    pub fn message(&self, exact: bool) -> Message {
        let (operation, topic, content) = match self {
            Self::Subscribe(topic) => (Operation::Subscribe, topic, Content::null()),
            Self::Unsubscribe(topic) => (Operation::Unsubscribe, topic, Content::null()),
            Self::Publish { topic, payload } => (Operation::Publish, topic, content(payload, exact)),
        };
        let route = Route::Other(topic.as_str().into());
        Message::new(Source::RouterEventBus, Group::User, operation, route, content)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exact<T> {
    base64: T,
}

fn content(payload: &[u8], exact: bool) -> Content {
    match std::str::from_utf8(payload) {
        Ok(text) => Content::text(text),
        Err(_) if exact => Content::json(&Exact {
            base64: STANDARD.encode(payload),
        }),
        Err(_) => Content::text(&as_go_writes(payload)),
    }
}

/// Go puts U+FFFD in the place of each byte that is no UTF-8.
fn as_go_writes(payload: &[u8]) -> String {
    let mut text = String::with_capacity(payload.len());
    for chunk in payload.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text
}

fn payload(content: &Content) -> Bytes {
    let text = content.get();
    if text.starts_with('{')
        && let Ok(Exact { base64 }) = serde_json::from_str::<Exact<&str>>(text)
        && let Ok(bytes) = STANDARD.decode(base64)
    {
        return bytes.into();
    }
    if content.is_null() {
        return Bytes::new();
    }
    content.document().into_owned().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_payload_that_is_no_text_is_what_go_makes_of_it_or_exact() {
        let upload = Upload {
            topic: "default/user/x".to_owned(),
            payload: Bytes::from_static(b"a\xff\xfe\xe2\x82b"),
        };
        let to_go = upload.message(false);
        assert_eq!(
            to_go.content.as_text().as_deref(),
            Some("a\u{fffd}\u{fffd}\u{fffd}\u{fffd}b")
        );
        assert_eq!(Upload::of(&upload.message(true)), Some(upload));
    }

    #[test]
    fn requests_of_rules_are_read_and_others_are_told() {
        let frame = r#"{"header":{"msg_id":"m","timestamp":1},"route":{"source":"router_eventbus","group":"user","operation":"publish","resource":"topic-a/sub/x?q=1"},"content":"{\"m\":1}"}"#;
        let message = Message::decode(frame.as_bytes()).expect("a message");
        let publish = BusRequest::Publish {
            topic: "topic-a/sub/x?q=1".to_owned(),
            payload: Bytes::from_static(b"{\"m\":1}"),
        };
        assert_eq!(BusRequest::of(&message), Ok(publish));
        let other = frame.replace("\"publish\"", "\"get_result\"");
        let other = Message::decode(other.as_bytes()).expect("a message");
        assert_eq!(
            BusRequest::of(&other).map_err(|error| error.to_string()),
            Err("EventBus knows no operation \"get_result\"".to_owned())
        );
    }

    proptest! {
        #[test]
        fn messages_round_trip(topic in "[^\u{0}]{1,40}", payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let upload = Upload { topic: topic.clone(), payload: payload.clone().into() };
            let frame = upload.message(true).encode();
            let message = Message::decode(frame.as_bytes()).expect("a message");
            // The few words that are routes of their own are rendered as they came.
            prop_assert_eq!(Upload::of(&message), Some(upload));
            for request in [
                BusRequest::Subscribe(topic.clone()),
                BusRequest::Unsubscribe(topic.clone()),
                BusRequest::Publish { topic: topic.clone(), payload: payload.clone().into() },
            ] {
                let frame = request.message(true).encode();
                let message = Message::decode(frame.as_bytes()).expect("a message");
                prop_assert_eq!(BusRequest::of(&message), Ok(request));
            }
        }
    }
}
