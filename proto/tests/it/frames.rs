//! Every captured frame decodes, and what is encoded again is what was captured.

use proptest::prelude::*;
use proto::golden::{Capture, Frame, FrameKind};
use proto::{DecodeError, MAX_MESSAGE, Message};
use serde_json::{Value, json};

/// The notes that announce a frame on which a Go peer ends the connection.
const MALFORMED: [&str; 4] = [
    "malformed JSON now",
    "timestamp as text",
    "timestamp with a fraction",
    "empty text frame",
];

fn is_malformed(frame: &Frame) -> bool {
    frame.connection < 5 && MALFORMED.iter().any(|note| frame.note.ends_with(note))
}

fn all() -> impl Iterator<Item = (Capture, Frame)> {
    Capture::ALL
        .into_iter()
        .flat_map(|capture| capture.frames().map(move |frame| (capture, frame)))
}

/// What a Go peer reads of a frame: keys of another name are ignored, `null` parts are empty ones.
fn normal(value: &Value) -> Value {
    let part = |name: &str, keys: &[&str]| {
        let fields = keys
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), value.get(name)?.get(key)?.clone())));
        Value::Object(fields.collect())
    };
    let mut header = part("header", &["msg_id", "parent_msg_id", "timestamp", "resourceversion"]);
    if header.as_object().is_some_and(serde_json::Map::is_empty) {
        header = json!({"msg_id": "", "timestamp": 0});
    }
    json!({
        "header": header,
        "route": part("route", &["source", "group", "operation", "resource"]),
        "content": value.get("content").cloned().unwrap_or_default(),
    })
}

#[test]
fn every_frame_decodes_or_is_malformed_on_purpose() {
    let (mut good, mut bad) = (0, 0);
    for (capture, frame) in all() {
        let malformed =
            capture == Capture::HubSim && frame.direction == proto::golden::Direction::Up && is_malformed(&frame);
        assert_eq!(
            frame.message().is_err(),
            malformed,
            "{capture:?} {}: {}",
            frame.t,
            frame.text
        );
        if malformed { bad += 1 } else { good += 1 }
    }
    assert_eq!((good, bad), (712, 4));
}

#[test]
fn a_decoded_frame_is_encoded_as_it_was() {
    for (capture, frame) in all() {
        let Ok(message) = frame.message() else { continue };
        let ours: Value = serde_json::from_str(&message.encode()).expect("what we encode is JSON");
        let golden = frame.value().expect("a frame that decodes is JSON");
        assert_eq!(ours, normal(&golden), "{capture:?} {}", frame.t);
        if frame.kind == FrameKind::Text && frame.text != "{}" {
            assert_eq!(ours, golden, "no key appears or goes: {capture:?} {}", frame.t);
        }
    }
}

#[test]
fn decoding_what_we_encode_changes_nothing() {
    for (_, frame) in all() {
        let Ok(message) = frame.message() else { continue };
        let text = message.encode();
        let again = Message::decode(text.as_bytes()).expect("our own frame decodes");
        assert_eq!(again.encode(), text);
        assert_eq!(again.route, message.route);
        assert_eq!(again.parent, message.parent);
        assert_eq!(again.content.get(), message.content.get());
    }
}

#[test]
fn what_go_tolerates_is_tolerated() {
    for text in [
        "{}",
        "null",
        " {} ",
        r#"{"header":null,"route":null,"content":null}"#,
        r#"{"header":{"msg_id":null,"timestamp":null},"route":{"resource":null}}"#,
        r#"{"header":{"sync":true,"type":"channel"},"route":{"destination":"x"},"extra":[1]}"#,
        r#"{} trailing"#,
        r#"{}{"header":1}"#,
    ] {
        let message = Message::decode(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(message.id.is_empty() && message.parent.is_none() && message.content.is_null());
        assert_eq!(message.route.render(), "");
    }
    let message = Message::decode(br#"{"header":{"parent_msg_id":""}}"#).expect("an empty parent is none");
    assert!(!message.is_answer());
}

#[test]
fn what_go_refuses_is_refused() {
    for text in [
        "",
        " ",
        "[]",
        "1",
        "\"x\"",
        "{",
        r#"{"header":[]}"#,
        r#"{"header":["id"]}"#,
        r#"{"route":["websocket"]}"#,
        r#"{"header":{"msg_id":1}}"#,
        r#"{"header":{"timestamp":"1"}}"#,
        r#"{"header":{"timestamp":1.5}}"#,
        r#"{"header":{"timestamp":1.7e12}}"#,
        r#"{"header":{"timestamp":99999999999999999999}}"#,
        r#"{"content":tru}"#,
    ] {
        assert!(
            matches!(Message::decode(text.as_bytes()), Err(DecodeError::Json(_))),
            "{text}"
        );
    }
    assert!(matches!(
        Message::decode(b"{\"header\":{\"msg_id\":\"\xff\"}}"),
        Err(DecodeError::Utf8(_))
    ));
}

#[test]
fn the_limit_holds_before_anything_is_read() {
    let mut frame = vec![b' '; MAX_MESSAGE];
    frame[MAX_MESSAGE - 2..].copy_from_slice(b"{}");
    assert!(Message::decode(&frame).is_ok());
    frame.push(b' ');
    assert!(matches!(Message::decode(&frame), Err(DecodeError::TooLarge(size)) if size == MAX_MESSAGE + 1));
}

#[test]
fn depth_does_not_end_the_stack() {
    let deep = format!(r#"{{"content":{}1{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
    if let Ok(message) = Message::decode(deep.as_bytes()) {
        let _ = (
            message.content.answer(),
            message.content.object().is_err(),
            message.encode(),
        );
    }
}

#[test]
fn large_numbers_pass_unrounded() {
    let text = r#"{"header":{"msg_id":"a","timestamp":1},"route":{},"content":{"b":9007199254740993,"a":1.10,"x":18446744073709551617}}"#;
    let message = Message::decode(text.as_bytes()).expect("it is a message");
    assert_eq!(message.encode(), text);
}

/// A frame with some bytes replaced, cut out or doubled.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let frames: Vec<Vec<u8>> = all()
        .map(|(_, frame)| frame.text.into_bytes())
        .filter(|text| !text.is_empty() && text.len() < 8192)
        .collect();
    (
        prop::sample::select(frames),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..3), 1..8),
    )
        .prop_map(|(mut frame, changes)| {
            for (index, byte, what) in changes {
                if frame.is_empty() {
                    break;
                }
                let at = index.index(frame.len());
                match what {
                    0 => frame[at] = byte,
                    1 => drop(frame.drain(at..(at + usize::from(byte)).min(frame.len()))),
                    _ => frame.insert(at, byte),
                }
            }
            frame
        })
}

proptest! {
    #[test]
    fn random_bytes_never_panic(frame in prop::collection::vec(any::<u8>(), 0..256)) {
        crate::wire::message_decode(&frame);
    }

    #[test]
    fn mutated_frames_never_panic(frame in mutated()) {
        crate::wire::message_decode(&frame);
    }

    #[test]
    fn any_text_survives(id in ".*", parent in ".+", version in ".*", source in ".*", operation in ".*", resource in ".*", text in ".*", timestamp: i64) {
        let mut message = Message::new(
            source.as_str().into(),
            "resource".into(),
            operation.as_str().into(),
            proto::Route::parse(&"resource".into(), &resource),
            proto::Content::text(&text),
        ).answering(&parent.into());
        message.id = id.into();
        message.version = version;
        message.timestamp = timestamp;
        let again = Message::decode(message.encode().as_bytes()).expect("our own frame decodes");
        prop_assert_eq!(again.encode(), message.encode());
        prop_assert!(again.content.as_text().is_some_and(|read| read == text));
        prop_assert_eq!(again.source.as_str(), source);
        prop_assert_eq!(again.operation.as_str(), operation);
        prop_assert_eq!(again.route.render(), resource);
        prop_assert_eq!(again.id, message.id);
        prop_assert_eq!(again.timestamp, timestamp);
    }
}
