//! The captured tunnel: every frame is read and written again the same, and each of our sides put in the place of Go's does as it did.

use std::collections::BTreeMap;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::tunnel::message::{Decoder, Encoder, Kind, Message, Part};
use proto::tunnel::upgrade::Request;
use proto::tunnel::{Connect, ConnectKind, Key, Mux, MuxSettings, Read, Role};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Line {
    direction: String,
    frame: String,
    #[serde(default)]
    text: String,
    #[serde(default)]
    base64: String,
}

struct Frame {
    /// Who sent it.
    from: Role,
    frame: String,
    text: String,
    bytes: Vec<u8>,
}

fn capture() -> Vec<Frame> {
    include_str!("../../golden/tunnel.jsonl")
        .lines()
        .map(|line| {
            let line: Line = serde_json::from_str(line).expect("a line follows the README");
            Frame {
                from: if line.direction == "edge->cloud" {
                    Role::Edge
                } else {
                    Role::Cloud
                },
                frame: line.frame,
                text: line.text,
                bytes: STANDARD.decode(line.base64).expect("base64"),
            }
        })
        .collect()
}

const fn other(role: Role) -> Role {
    match role {
        Role::Cloud => Role::Edge,
        Role::Edge => Role::Cloud,
    }
}

/// The messages in bytes of the wire; data of one stream that follows itself is joined.
fn read(sender: Role, mut wire: Vec<u8>) -> Vec<Message> {
    let mut decoder = Decoder::new(other(sender), false);
    let mut input = wire.as_mut_slice();
    let mut messages = Vec::new();
    while let Some(part) = decoder.next(&mut input).expect("it was on the wire") {
        match part {
            Part::Data { id, bytes } => messages.push(Message {
                id,
                kind: Kind::Data,
                payload: bytes.to_vec(),
            }),
            Part::Message(message) => messages.push(message),
            Part::Ping(_) | Part::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
    messages
}

/// A captured message, from the contents of its frame.
fn message(frame: &Frame) -> Message {
    let length = u8::try_from(frame.bytes.len());
    let head = match length {
        Ok(length @ ..126) => vec![0x81, length],
        _ => [
            &[0x81, 126][..],
            &u16::try_from(frame.bytes.len()).expect("a short frame").to_be_bytes(),
        ]
        .concat(),
    };
    let mut messages = read(Role::Cloud, [head, frame.bytes.clone()].concat());
    assert_eq!(messages.len(), 1);
    messages.remove(0)
}

/// The captured message as it comes from its sender.
fn wire(frame: &Frame) -> Vec<u8> {
    let mut encoder = Encoder::new(frame.from, false, 1);
    let mut wire = Vec::new();
    match frame.frame.as_str() {
        "text" => {
            let Message { id, kind, payload } = message(frame);
            encoder.message(&mut wire, id, kind, &payload);
        }
        "ping" => encoder.control().ping(&mut wire, &frame.bytes),
        "pong" => encoder.control().pong(&mut wire, &frame.bytes),
        _ => {}
    }
    wire
}

#[test]
fn every_captured_frame_is_written_again_the_same() {
    let mut kinds = BTreeMap::new();
    for frame in capture().iter().filter(|frame| frame.frame == "text") {
        let message = message(frame);
        *kinds.entry(message.kind.number()).or_insert(0) += 1;
        let mut again = Vec::new();
        Encoder::new(Role::Cloud, false, 0).message(&mut again, message.id, message.kind, &message.payload);
        assert!(again.ends_with(&frame.bytes), "{}", frame.bytes.escape_ascii());
        assert_eq!(read(frame.from, wire(frame)), [message]);
    }
    assert_eq!(kinds.keys().copied().collect::<Vec<u64>>(), [0, 1, 2, 3, 4]);
}

#[test]
fn captured_requests_are_written_again_as_the_same_json() {
    let mut seen = 0;
    for frame in capture().iter().filter(|frame| frame.frame == "text") {
        let Message { id, kind, payload } = message(frame);
        let Some(kind) = ConnectKind::from_kind(kind) else {
            continue;
        };
        let connect = Connect::decode(id, kind, &payload).expect("a request");
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("JSON");
        assert_eq!(json(&connect.encode()), json(&payload));
        seen += 1;
    }
    assert_eq!(seen, 8);
}

#[test]
fn the_captured_upgrade_is_answered_the_same() {
    let capture = capture();
    let request = Request::read(capture[0].text.as_bytes())
        .expect("an upgrade")
        .expect("complete");
    assert_eq!(request.upgrade.node, "edge-go");
    assert_eq!(request.upgrade.internal_ip.as_deref(), Some("10.250.0.2"));
    assert_eq!(request.accept(), capture[1].text);
}

/// By stream: the bytes and how many RemoveConnects.
type Sent = BTreeMap<u64, (Vec<u8>, u32)>;

fn add(sent: &mut Sent, messages: Vec<Message>) {
    for Message { id, kind, payload } in messages {
        let (bytes, removed) = sent.entry(id).or_default();
        match kind {
            Kind::Data => {
                assert_eq!(*removed, 0, "data of stream {id} after its end");
                bytes.extend(payload);
            }
            Kind::RemoveConnect => *removed += 1,
            _ => {}
        }
    }
}

/// Puts our side in the place of Go's: it hears what that heard, and its programs write and end what those wrote and ended.
fn replay(role: Role) -> (Mux, Sent, Sent) {
    let now = Instant::now();
    let settings = MuxSettings {
        role,
        credits: false,
        seed: 3,
    };
    let mut mux = Mux::new(&settings, now);
    let (mut keys, mut ours, mut theirs): (BTreeMap<u64, Key>, _, _) = (BTreeMap::new(), Sent::new(), Sent::new());
    for frame in capture() {
        if frame.frame == "http" {
            continue;
        }
        if frame.from != role {
            mux.receive(now, &mut wire(&frame));
            while let Some((key, connect)) = mux.accept() {
                keys.insert(connect.id, key);
            }
        } else if frame.frame == "text" {
            let Message { id, kind, payload } = message(&frame);
            if let Some(kind) = ConnectKind::from_kind(kind) {
                let connect = Connect::decode(id, kind, &payload).expect("a request");
                keys.insert(id, mux.open(now, &connect).expect("opened"));
            } else if kind == Kind::RemoveConnect {
                if let Some(key) = keys.remove(&id) {
                    while let Read::Bytes(bytes) = mux.read(key) {
                        let count = bytes.len();
                        mux.consume(key, count);
                    }
                    mux.release(key);
                }
            } else if let Some(key) = keys.get(&id) {
                assert_eq!(mux.write(*key, &payload), Some(payload.len()));
            }
            add(&mut theirs, read(role, wire(&frame)));
        }
        let mut out = Vec::new();
        mux.transmit(&mut out, usize::MAX);
        add(&mut ours, read(role, out));
    }
    for key in keys.into_values() {
        mux.release(key);
    }
    (mux, ours, theirs)
}

#[test]
fn our_edge_in_the_place_of_gos_sends_the_same_bytes_and_one_end() {
    let (mux, ours, theirs) = replay(Role::Edge);
    assert_eq!(ours, theirs);
    assert!(ours.values().all(|(_, removed)| *removed == 1));
    assert!(mux.is_empty() && mux.ended().is_none());
}

#[test]
fn our_cloud_in_the_place_of_gos_sends_the_same_bytes_and_no_flood() {
    let (mut mux, ours, theirs) = replay(Role::Cloud);
    for (id, (bytes, removed)) in &theirs {
        let (our_bytes, our_removed) = &ours[id];
        assert_eq!(our_bytes, bytes, "stream {id}");
        // 12 and 13 were ended by the edge; Go repeats itself then, ours has nothing to say. The client of 14 left.
        assert_eq!(
            (*removed, *our_removed),
            match id {
                12 | 13 => (3, 0),
                14 => (1, 1),
                _ => (0, 0),
            }
        );
    }
    // Nobody was there any more to hear of 8 to 11 and 15: their clients had got everything.
    mux.lost("the capture ends");
    assert!(mux.is_empty());
}
