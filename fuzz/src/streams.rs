//! HTTP/2 of gRPC clients on a Unix socket: any bytes pass, whatever their portions, and only an authority that is none changes.

use bytes::BytesMut;

use super::authority::{Filter, MAX_BLOCK};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Of a frame.
const HEAD: usize = 9;

/// The first byte says in which portions the rest comes, and whether a client's preface comes before it.
pub fn authority(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let stream = if choice & 1 == 0 {
        [PREFACE, data].concat()
    } else {
        data.to_vec()
    };
    let whole = filtered(&stream, usize::MAX);
    assert_eq!(filtered(&stream, usize::from(choice >> 1) + 1), whole);
    assert_eq!(filtered(&whole, usize::MAX), whole, "what is acceptable stays as it is");
    if !stream.starts_with(PREFACE) {
        assert_eq!(whole, stream);
    }
}

fn filtered(stream: &[u8], portion: usize) -> Vec<u8> {
    let (mut filter, mut out) = (Filter::default(), BytesMut::new());
    for piece in stream.chunks(portion) {
        filter.push(piece, &mut out);
    }
    let given = out.len();
    filter.finish(&mut out);
    assert!(out.len() - given <= MAX_BLOCK + HEAD, "what is held is bounded");
    out.to_vec()
}
