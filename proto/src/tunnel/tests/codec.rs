//! Frames and the messages in them.

use crate::tunnel::message::{Decoder, Encoder, Kind, Part};
use crate::tunnel::websocket::{self, Piece};
use crate::tunnel::{FrameError, MAX_PAYLOAD, Role};

/// What arrives, with the bytes given in portions.
fn decode(role: Role, credits: bool, bytes: &[u8], portion: usize) -> Result<Vec<String>, FrameError> {
    let mut decoder = Decoder::new(role, credits);
    let (mut seen, mut data): (Vec<String>, Option<(u64, Vec<u8>)>) = (Vec::new(), None);
    for portion in bytes.to_vec().chunks_mut(portion) {
        let mut input = portion;
        while let Some(part) = decoder.next(&mut input)? {
            if let Part::Data { id, bytes } = &part {
                match &mut data {
                    Some((same, all)) if same == id => all.extend_from_slice(bytes),
                    _ => seen.extend(data.replace((*id, bytes.to_vec())).map(show)),
                }
                continue;
            }
            seen.extend(data.take().map(show));
            seen.push(match part {
                Part::Message(message) => {
                    format!("{:?} {} {}", message.kind, message.id, message.payload.escape_ascii())
                }
                Part::Ping(payload) => format!("ping {}", payload.escape_ascii()),
                part => format!("{part:?}"),
            });
        }
    }
    seen.extend(data.take().map(show));
    Ok(seen)
}

fn show((id, bytes): (u64, Vec<u8>)) -> String {
    format!("data {id} {}", bytes.escape_ascii())
}

fn server(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![opcode, u8::try_from(payload.len()).expect("a short frame")];
    frame.extend_from_slice(payload);
    frame
}

#[test]
fn the_examples_of_the_specification() {
    let client = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x36, 0xf9, 0x49, 0x54, 0x3d];
    for portion in 1..client.len() {
        assert_eq!(decode(Role::Cloud, false, &client, portion).unwrap(), [r"data 1 hi\n"]);
    }
    let cases: [(&[u8], &str); 4] = [
        (&[0x01, 0x03, 0x68, 0x69, 0x0a], r"data 1 hi\n"),
        (&[0xac, 0x02, 0x04], "RemoveConnect 300 "),
        (b"\x00\x05failed", "CloseConnect 0 failed"),
        (b"\xac\x02\x00{}", "LogsConnect 300 {}"),
    ];
    for (message, seen) in cases {
        assert_eq!(decode(Role::Edge, false, &server(0x81, message), 2).unwrap(), [seen]);
    }
}

#[test]
fn what_one_side_writes_the_other_reads() {
    let every: Vec<u8> = (0..=255).collect();
    for (from, to) in [(Role::Cloud, Role::Edge), (Role::Edge, Role::Cloud)] {
        let mut encoder = Encoder::new(from, true, 7);
        let (mut out, mut expected) = (Vec::new(), Vec::new());
        for id in [0, 127, 128, 300, 1 << 32, 1 << 63, u64::MAX] {
            encoder.message(&mut out, id, Kind::Data, &every);
            encoder.message(&mut out, id, Kind::RemoveConnect, &[]);
            expected.extend([show((id, every.clone())), format!("RemoveConnect {id} ")]);
        }
        let large = vec![b'x'; MAX_PAYLOAD];
        encoder.message(&mut out, 1, Kind::Data, &large);
        expected.push(show((1, large)));
        encoder.control().ping(&mut out, b"ping you");
        expected.push("ping ping you".to_owned());
        encoder.control().close(&mut out, 1002, "why");
        expected.push(r#"Close { code: Some(1002), reason: "why" }"#.to_owned());
        for portion in [1, 3, 4096, out.len()] {
            assert_eq!(decode(to, true, &out, portion).unwrap(), expected);
        }
    }
}

#[test]
fn every_byte_in_fragments_with_a_ping_between() {
    let every: Vec<u8> = (0..=255).collect();
    let message = [&[5, 3][..], &every].concat();
    let [first, second, third] = [&message[..1], &message[1..100], &message[100..200]];
    let mut frames = [server(0x01, first), server(0x00, second)].concat();
    frames.extend(server(0x89, b"are you there"));
    frames.extend(server(0x00, third));
    frames.extend(server(0x80, &message[200..]));
    for portion in [1, 7, frames.len()] {
        let seen = decode(Role::Edge, false, &frames, portion).unwrap();
        assert_eq!(seen.len(), 3);
        assert_eq!(seen[1], "ping are you there");
        assert_eq!(
            format!("{}{}", seen[0], seen[2].strip_prefix("data 5 ").unwrap()),
            show((5, every.clone()))
        );
    }
}

#[test]
fn what_is_not_a_message_is_an_error() {
    let cases: [(Vec<u8>, FrameError); 12] = [
        (server(0x81, &[]), FrameError::Truncated),
        (server(0x81, &[0x80]), FrameError::Truncated),
        (server(0x81, &[0x01]), FrameError::Truncated),
        (server(0x81, &[0x80; 11]), FrameError::Varint),
        (
            server(0x81, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]),
            FrameError::Varint,
        ),
        (vec![0xc1, 0x02, 1, 3], FrameError::Reserved),
        (vec![0x83, 0x00], FrameError::Opcode(3)),
        (vec![0x81, 0x80, 0, 0, 0, 0], FrameError::Mask),
        (vec![0x80, 0x02, 1, 3], FrameError::Fragments),
        (
            [server(0x01, &[1, 3]), server(0x81, &[1, 3])].concat(),
            FrameError::Fragments,
        ),
        (vec![0x09, 0x00], FrameError::Control),
        (
            [&[0x81, 127][..], &u64::MAX.to_be_bytes()].concat(),
            FrameError::TooLarge(u64::MAX),
        ),
    ];
    for (bytes, error) in cases {
        for portion in [1, bytes.len()] {
            assert_eq!(
                decode(Role::Edge, false, &bytes, portion),
                Err(error),
                "{}",
                bytes.escape_ascii()
            );
        }
    }
    assert_eq!(
        decode(Role::Cloud, false, &[0x81, 0x02, 1, 3], 9),
        Err(FrameError::Mask)
    );
    assert_eq!(
        decode(Role::Edge, false, &[0x89, 126, 0, 126], 9),
        Err(FrameError::Control)
    );
}

#[test]
fn fragments_together_may_not_be_over_the_limit() {
    let mut decoder = websocket::Decoder::new(Role::Edge, 300);
    let mut frames = [
        server(0x01, &[0; 100]),
        server(0x00, &[0; 100]),
        server(0x00, &[0; 101]),
    ]
    .concat();
    let mut input = frames.as_mut_slice();
    let mut pieces = 0;
    let error = loop {
        match decoder.next(&mut input) {
            Ok(Some(Piece::Data { .. })) => pieces += 1,
            Ok(_) => panic!("the third is too much"),
            Err(error) => break error,
        }
    };
    assert_eq!((pieces, error), (2, FrameError::TooLarge(301)));
}

#[test]
fn unknown_types_are_skipped_whatever_they_carry() {
    let frames = [
        server(0x81, b"\x05\x07abc"),
        server(0x81, b"\x05\x40\x0a"),
        server(0x82, b"\x05\x03x"),
    ]
    .concat();
    assert_eq!(
        decode(Role::Edge, false, &frames, 1).unwrap(),
        [
            "Unknown { id: 5, number: 7 }",
            "Unknown { id: 5, number: 64 }",
            "data 5 x"
        ]
    );
    assert_eq!(decode(Role::Edge, true, &frames, 99).unwrap()[1], r"Credit 5 \n");
}

#[test]
#[should_panic(expected = "was not negotiated")]
fn a_type_that_kills_go_edges_is_not_written() {
    Encoder::new(Role::Cloud, false, 0).credit(&mut Vec::new(), 1, 1);
}

#[test]
fn no_control_frame_is_over_its_limit() {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(Role::Cloud, false, 0);
    encoder.control().close(&mut out, 1011, &"€".repeat(100));
    encoder.control().pong(&mut out, &[b'x'; 300]);
    let seen = decode(Role::Edge, false, &out, 5).unwrap();
    assert_eq!(
        seen[0],
        format!("Close {{ code: Some(1011), reason: {:?} }}", "€".repeat(41))
    );
}
