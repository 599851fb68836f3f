//! EventBus and the rules of the cloud: what was read of any message is written and read again the same.

use proto::Message;
use proto::bus::{BusRequest, Upload};

/// A message of a peer; or, where it is none, a topic in the first line and its payload.
pub fn bus(data: &[u8]) {
    if let Ok(message) = Message::decode(data) {
        if let Some(upload) = Upload::of(&message) {
            uploaded(&upload);
        }
        if let Ok(request) = BusRequest::of(&message) {
            requested(&request);
        }
        return;
    }
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (topic, payload) = data.split_at(end);
    let Ok(topic) = std::str::from_utf8(topic) else { return };
    let payload = payload.get(1..).unwrap_or_default().to_vec();
    uploaded(&Upload {
        topic: topic.to_owned(),
        payload: payload.clone().into(),
    });
    for request in [
        BusRequest::Subscribe(topic.to_owned()),
        BusRequest::Unsubscribe(topic.to_owned()),
        BusRequest::Publish {
            topic: topic.to_owned(),
            payload: payload.into(),
        },
    ] {
        requested(&request);
    }
}

fn uploaded(upload: &Upload) {
    let Some(read) = sent(&upload.message(true)) else {
        return;
    };
    assert_eq!(Upload::of(&read).as_ref(), Some(upload));
    // A Go cloud gets text, and the same text where the payload is one.
    let to_go = sent(&upload.message(false)).expect("as the other form");
    let text = Upload::of(&to_go).expect("an upload").payload;
    assert!(std::str::from_utf8(&text).is_ok());
    assert!(text == upload.payload || std::str::from_utf8(&upload.payload).is_err());
}

fn requested(request: &BusRequest) {
    let Some(read) = sent(&request.message(true)) else {
        return;
    };
    assert_eq!(BusRequest::of(&read).as_ref(), Ok(request));
}

/// As the other side gets it; none where the topic is none that a message can have.
fn sent(message: &Message) -> Option<Message> {
    Message::decode(message.encode().as_bytes()).ok()
}
