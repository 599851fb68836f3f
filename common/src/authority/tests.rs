use bytes::BytesMut;
use loona_hpack::Decoder;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::authority;

#[path = "../../../fuzz/src/replay.rs"]
mod replay;
#[allow(unreachable_pub)]
#[path = "../../../fuzz/src/streams.rs"]
mod streams;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `%2Fetc%2Fkubeedge%2Fdmi.sock` and `/etc/kubeedge/dmi.sock` as grpc-go 1.67 and 1.56 send them.
const ENCODED: &[u8] = b"%2Fetc%2Fkubeedge%2Fdmi.sock";
const BARE: &[u8] = b"/etc/kubeedge/dmi.sock";
/// `/etc/kubeedge/dmi.sock`, Huffman-coded as Go does.
const BARE_CODED: &[u8] = &[
    0x60, 0xa9, 0x23, 0x1d, 0x6d, 0x8c, 0xa5, 0x92, 0x62, 0xb1, 0x25, 0x26, 0x5d, 0x07, 0x27, 0x5f,
];

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let [.., a, b, c] = payload.len().to_be_bytes();
    [&[a, b, c, kind, flags, 0, 0, 0, 1], payload].concat()
}

fn literal(first: &[u8], text: &[u8]) -> Vec<u8> {
    let length = u8::try_from(text.len()).expect("short");
    [first, &[length], text].concat()
}

fn filtered(bytes: &[u8]) -> Vec<u8> {
    let (mut filter, mut out) = (Filter::default(), BytesMut::new());
    filter.push(bytes, &mut out);
    filter.finish(&mut out);
    out.to_vec()
}

/// The headers of each block, by a decoder that keeps its table from block to block.
fn blocks(mut stream: &[u8]) -> Vec<Vec<(Vec<u8>, Vec<u8>)>> {
    stream = stream.strip_prefix(PREFACE).expect("the preface");
    let (mut decoder, mut block, mut all) = (Decoder::new(), Vec::new(), Vec::new());
    while let [a, b, c, kind, flags, _, _, _, _, rest @ ..] = stream {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        let (payload, later) = rest.split_at(length);
        stream = later;
        if *kind == 1 || *kind == 9 {
            let padding = if flags & 8 != 0 && *kind == 1 {
                payload[0] + 1
            } else {
                0
            };
            let start = usize::from(padding > 0) + if flags & 0x20 != 0 && *kind == 1 { 5 } else { 0 };
            block.extend_from_slice(&payload[start..payload.len() - usize::from(padding.saturating_sub(1))]);
            if flags & 4 != 0 {
                all.push(decoder.decode(&std::mem::take(&mut block)).expect("a block"));
            }
        }
    }
    all
}

#[test]
fn the_authorities_of_both_ages_become_acceptable() {
    for (authority, expected) in [
        (literal(&[0x41], ENCODED), &b"-2Fetc-2Fkubeedge-2Fdmi.sock"[..]),
        (literal(&[0x01], BARE), b"-etc-kubeedge-dmi.sock"),
        (
            literal(&literal(&[0x40], b":authority"), BARE),
            b"-etc-kubeedge-dmi.sock",
        ),
        (
            [
                &[0x41, 0x80 | u8::try_from(BARE_CODED.len()).expect("short")],
                BARE_CODED,
            ]
            .concat(),
            b"-etc-kubeedge-dmi.sock",
        ),
    ] {
        let block = [&[0x83, 0x86], &authority[..]].concat();
        let out = filtered(&[PREFACE, &frame(1, 4, &block)].concat());
        let headers = blocks(&out).remove(0);
        assert_eq!(headers[2], (b":authority".to_vec(), expected.to_vec()));
        assert_eq!(headers[0].0, b":method");
    }
}

#[test]
fn the_seeds_of_the_fuzz_target_pass() {
    replay::replay("authority", streams::authority);
}

#[test]
fn the_coded_name_is_the_name() {
    let coded = [0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
    let name = loona_hpack::huffman::HuffmanDecoder::new().decode(&coded);
    assert_eq!(name.expect("decodes"), b":authority");
}

#[test]
fn what_is_acceptable_or_unreadable_passes_as_it_is() {
    let good = frame(1, 4, &literal(&[0x41], b"localhost:80"));
    let broken = frame(1, 4, &[0x41, 0x7f]);
    let padded_too_far = frame(1, 4 | 8, &[200, 0x82]);
    let interrupted = [frame(1, 0, &literal(&[0x41], BARE)), frame(0, 0, b"data")].concat();
    for frames in [good, broken, padded_too_far, interrupted, b"short".to_vec()] {
        let stream = [PREFACE, &frames].concat();
        assert_eq!(filtered(&stream), stream);
    }
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/1.0", b"", b"P"] {
        assert_eq!(filtered(garbage), garbage);
    }
}

/// Nothing is held beyond the bound, whatever a client sends.
#[test]
fn an_endless_block_is_not_held() {
    let (mut filter, mut out) = (Filter::default(), BytesMut::new());
    let mut sent = 0;
    for piece in [PREFACE, &frame(1, 0, &literal(&[0x41], BARE))] {
        filter.push(piece, &mut out);
        sent += piece.len();
    }
    for _ in 0..10_000 {
        let more = frame(9, 0, &[]);
        filter.push(&more, &mut out);
        sent += more.len();
        assert!(sent - out.len() <= MAX_BLOCK);
    }
    assert_eq!(out.len(), sent);
}

#[test]
fn a_block_of_many_frames_with_padding_and_priority_stays_one() {
    let long = vec![b'x'; 100];
    let mut block = literal(&[0x41], BARE);
    (0..300).for_each(|_| block.extend(literal(&literal(&[0x40], b"x-long"), &long)));
    let (head, tail) = block.split_at(20);
    let first = [&[3, 0, 0, 0, 0, 9][..], head, &[0, 0, 0]].concat();
    let (middle, tail) = tail.split_at(tail.len() / 2);
    let stream = [
        PREFACE,
        &frame(1, 8 | 0x20 | 1, &first),
        &frame(9, 0, middle),
        &frame(9, 4, tail),
    ]
    .concat();
    let out = filtered(&stream);
    let (before, after) = (blocks(&stream), blocks(&out));
    assert_eq!(before[0][1..], after[0][1..]);
    assert_eq!(after[0][0].1, b"-etc-kubeedge-dmi.sock");
    assert_eq!(
        out[PREFACE.len() + 4] & 0x21,
        0x21,
        "the end of the stream and the priority are still told"
    );
}

#[tokio::test]
async fn a_reader_gets_all_of_it_in_small_pieces() {
    let stream = [
        PREFACE,
        &frame(1, 4, &literal(&[0x41], ENCODED)),
        &frame(0, 1, &[7; 10_000]),
    ]
    .concat();
    let (mut client, server) = tokio::io::duplex(100);
    let sent = stream.clone();
    let write = async move {
        client.write_all(&sent).await.expect("writes");
    };
    let read = async move {
        let (mut server, mut all, mut piece) = (Tolerant::new(server), Vec::new(), [0; 7]);
        loop {
            match server.read(&mut piece).await.expect("reads") {
                0 => return all,
                length => all.extend_from_slice(&piece[..length]),
            }
        }
    };
    let ((), all) = tokio::join!(write, read);
    assert_eq!(all, filtered(&stream));
    assert_eq!(blocks(&all)[0][0].1, b"-2Fetc-2Fkubeedge-2Fdmi.sock");
}

/// A header as some client may write it: indexed where the table has it, with and without a place in the table.
#[derive(Clone, Debug)]
enum Field {
    Authority(u8, Vec<u8>),
    Plain(u8, Vec<u8>),
    Indexed(u8),
    Newest,
}

fn fields() -> impl Strategy<Value = Vec<Field>> {
    let authority = prop_oneof![
        Just(ENCODED.to_vec()),
        Just(BARE.to_vec()),
        Just(b"localhost".to_vec()),
        "[ -~]{1,40}".prop_map(String::into_bytes)
    ];
    let how = prop_oneof![Just(0x40_u8), Just(0x00), Just(0x10)];
    let field = prop_oneof![
        (how.clone(), authority).prop_map(|(how, text)| Field::Authority(how, text)),
        (how, "[a-z]{0,20}").prop_map(|(how, text)| Field::Plain(how, text.into_bytes())),
        (2_u8..62).prop_map(Field::Indexed),
        Just(Field::Newest),
    ];
    proptest::collection::vec(field, 0..8)
}

fn encode(fields: &[Field], entries: &mut usize) -> Vec<u8> {
    let mut block = Vec::new();
    for field in fields {
        match field {
            Field::Authority(how, text) => {
                block.extend(literal(&[how | 1], text));
                *entries += usize::from(*how == 0x40);
            }
            Field::Plain(how, text) => {
                block.extend(literal(&literal(&[*how], b"x-plain"), text));
                *entries += usize::from(*how == 0x40);
            }
            Field::Indexed(index) => block.push(0x80 | index),
            Field::Newest if *entries > 0 => block.push(0x80 | 62),
            Field::Newest => {}
        }
    }
    block
}

proptest! {
    /// However the bytes are cut: the same comes out, and over many requests of a connection every header but a bad authority is
    /// what the client meant, those in its table too.
    #[test]
    fn only_bad_authorities_change(requests in proptest::collection::vec((fields(), 0_usize..40), 1..12), cut in 1_usize..50) {
        let (mut stream, mut entries) = (PREFACE.to_vec(), 0);
        stream.extend(frame(4, 0, &[]));
        for (fields, at) in &requests {
            let block = encode(fields, &mut entries);
            if *at < block.len() {
                stream.extend(frame(1, 0, &block[..*at]));
                stream.extend(frame(9, 4, &block[*at..]));
            } else {
                stream.extend(frame(1, 4, &block));
            }
            stream.extend(frame(0, 1, b"\0\0\0\0\0"));
        }
        let whole = filtered(&stream);
        let (mut filter, mut out) = (Filter::default(), BytesMut::new());
        stream.chunks(cut).for_each(|piece| filter.push(piece, &mut out));
        filter.finish(&mut out);
        prop_assert_eq!(&out[..], &whole[..]);
        let (before, after) = (blocks(&stream), blocks(&whole));
        prop_assert_eq!(before.len(), after.len());
        for ((name, value), (name_after, value_after)) in before.iter().flatten().zip(after.iter().flatten()) {
            prop_assert_eq!(name, name_after);
            prop_assert_eq!(value.len(), value_after.len());
            if name == b":authority" && !value.is_empty() {
                prop_assert!(http::uri::Authority::try_from(&value_after[..]).is_ok());
            } else {
                prop_assert_eq!(value, value_after);
            }
        }
    }

    /// Any bytes: no panic, nothing lost of what is not looked at.
    #[test]
    fn any_bytes_pass(bytes in proptest::collection::vec(any::<u8>(), 0..200), with_preface in any::<bool>(), cut in 1_usize..20) {
        let stream = if with_preface { [PREFACE, &bytes].concat() } else { bytes };
        let (mut filter, mut out) = (Filter::default(), BytesMut::new());
        stream.chunks(cut).for_each(|piece| filter.push(piece, &mut out));
        filter.finish(&mut out);
        prop_assert_eq!(&out[..], &filtered(&stream)[..]);
        if !with_preface && !stream.starts_with(PREFACE) {
            prop_assert_eq!(&out[..], &stream[..]);
        }
    }
}
