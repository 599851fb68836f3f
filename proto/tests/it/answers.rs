//! What the captured answers say.

use std::collections::BTreeMap;

use proto::golden::{Capture, Direction};
use proto::{Answer, Content, Operation, Status};

#[test]
fn every_captured_answer_is_told_apart() {
    let mut kinds: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for capture in Capture::ALL {
        for (frame, message) in capture.messages(Direction::Down) {
            if !message.is_answer() || message.operation != Operation::Response {
                continue;
            }
            let golden = frame.value().expect("an answer is JSON")["content"].clone();
            let kind = match message.content.answer() {
                Answer::Ok => {
                    assert_eq!(golden, "OK");
                    "ok"
                }
                Answer::Failed(status) => {
                    let captured = golden.get("ErrStatus").unwrap_or_else(|| &golden["Err"]["ErrStatus"]);
                    assert_eq!(&serde_json::to_value(&status).expect("a status is JSON"), captured);
                    assert!(status.code >= 400 && !status.reason.is_empty(), "{status}");
                    "failed"
                }
                Answer::Envelope(object) => {
                    assert!(golden["Err"].is_null());
                    let object = object
                        .expect("no captured success is without an object")
                        .object()
                        .expect("it is an object");
                    assert_eq!(object.meta().name, golden["Object"]["metadata"]["name"]);
                    "envelope"
                }
                Answer::Plain(content) => {
                    assert_eq!(content.get(), message.content.get());
                    assert!(golden.get("ErrStatus").is_none() && golden.get("Err").is_none());
                    "plain"
                }
            };
            *kinds.entry((capture.name(), kind)).or_default() += 1;
        }
    }
    let expected = [
        (("hub", "envelope"), 53),
        (("hub", "failed"), 3),
        (("hub", "ok"), 9),
        (("hub", "plain"), 7),
        (("hub-ack", "failed"), 5),
        (("hub-ack", "ok"), 1),
        (("hub-device", "ok"), 4),
        (("hub-sim", "envelope"), 9),
        (("hub-sim", "failed"), 19),
        (("hub-sim", "ok"), 12),
        (("hub-sim", "plain"), 11),
    ];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn errors_that_look_like_success_are_found() {
    let answer = |text: &str| Content::from_json_text(text.to_owned()).expect("it is JSON").answer();
    for text in [
        "{}",
        "{ }",
        r#"{"ErrStatus":{"code":404}}"#,
        r#"{"ErrStatus":null}"#,
        r#"{"Object":null,"Err":{}}"#,
        r#"{"Object":{},"Err":{"ErrStatus":{"reason":"NotFound"}}}"#,
        r#"{"Object":{},"Err":"text"}"#,
        r#""{\"ErrStatus\":{\"code\":404}}""#,
    ] {
        assert!(matches!(answer(text), Answer::Failed(_)), "{text}");
    }
    assert!(matches!(
        answer(r#"{"Object":null,"Err":null}"#),
        Answer::Envelope(None)
    ));
    assert!(matches!(
        answer(r#"{"Object":{"a":1},"Err":null}"#),
        Answer::Envelope(Some(_))
    ));
    for text in [
        "null",
        "1",
        r#""text""#,
        r#"{"kind":"Pod"}"#,
        "[]",
        "[1]",
        "[{},{}]",
        r#"[null,null,{"code":1}]"#,
    ] {
        assert!(matches!(answer(text), Answer::Plain(_)), "{text}");
    }
}

#[test]
fn what_we_build_is_read_back() {
    let status = Status::not_found("coordination.k8s.io", "lease", "edge-1");
    for content in [Content::error(&status), Content::envelope(None, Some(&status))] {
        assert!(matches!(content.answer(), Answer::Failed(read) if read == status));
    }
    assert!(matches!(Content::ok().answer(), Answer::Ok));
    let object = Content::from_json_text(r#"{"metadata":{"name":"x"}}"#.into()).expect("it is JSON");
    let Answer::Envelope(Some(read)) = Content::envelope(Some(&object), None).answer() else {
        panic!("an envelope is an envelope");
    };
    assert_eq!(read.get(), object.get());
}

#[test]
fn our_miss_is_the_captured_miss() {
    let missed = Capture::HubSim
        .exchanges()
        .into_iter()
        .find(|exchange| exchange.note == "lease that does not exist")
        .expect("the capture asks for a lease that does not exist");
    let ours = Content::envelope(None, Some(&Status::not_found("coordination.k8s.io", "lease", "sim-1")));
    let ours: serde_json::Value = ours.parse().expect("it is JSON");
    assert_eq!(ours, missed.answer["content"]);
}
