//! One block of headers, walked by its lengths: only names and the text of an authority are looked at (RFC 7541).

use std::ops::Range;

use http::uri::Authority;
use loona_hpack::huffman::HuffmanDecoder;

/// The index of `:authority` in the static table.
const AUTHORITY_INDEX: usize = 1;
const AUTHORITY_NAME: &[u8] = b":authority";
/// The same, Huffman-coded.
const AUTHORITY_CODED: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];

/// The block with an acceptable authority; `None` where there is nothing to change, or nothing that can be read.
pub(super) fn acceptable(block: &[u8]) -> Option<Vec<u8>> {
    let mut changed = Vec::new();
    let mut copied = 0;
    let mut reader = Reader { block, at: 0 };
    while let Some(&first) = block.get(reader.at) {
        // An indexed field, or a new size of the table.
        if first & 0x80 != 0 {
            reader.integer(7)?;
            continue;
        }
        if first & 0xe0 == 0x20 {
            reader.integer(5)?;
            continue;
        }
        let index = reader.integer(if first & 0x40 != 0 { 6 } else { 4 })?;
        let is_authority = if index == 0 {
            let name = reader.text()?;
            name.bytes == if name.coded { AUTHORITY_CODED } else { AUTHORITY_NAME }
        } else {
            index == AUTHORITY_INDEX
        };
        let value = reader.text()?;
        if is_authority && let Some(text) = replacement(&value) {
            changed.extend_from_slice(block.get(copied..value.place.start)?);
            write_text(&text, &mut changed);
            copied = value.place.end;
        }
    }
    if copied == 0 {
        return None;
    }
    changed.extend_from_slice(block.get(copied..)?);
    Some(changed)
}

/// What stands in for an authority that is none, of the same length.
fn replacement(value: &Text<'_>) -> Option<Vec<u8>> {
    let mut text = if value.coded {
        HuffmanDecoder::new().decode(value.bytes).ok()?
    } else {
        value.bytes.to_vec()
    };
    if text.is_empty() || Authority::try_from(text.as_slice()).is_ok() {
        return None;
    }
    for byte in &mut text {
        if !byte.is_ascii_alphanumeric() && *byte != b'.' {
            *byte = b'-';
        }
    }
    Some(text)
}

/// A string as it stands in a block.
struct Text<'a> {
    bytes: &'a [u8],
    coded: bool,
    /// With its length.
    place: Range<usize>,
}

struct Reader<'a> {
    block: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// An integer whose first `bits` bits share a byte.
    fn integer(&mut self, bits: u32) -> Option<usize> {
        let mask = (1_usize << bits) - 1;
        let mut value = usize::from(*self.block.get(self.at)?) & mask;
        self.at += 1;
        if value < mask {
            return Some(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = usize::from(*self.block.get(self.at)?);
            self.at += 1;
            value = value.checked_add((byte & 0x7f) << shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn text(&mut self) -> Option<Text<'a>> {
        let start = self.at;
        let coded = self.block.get(start)? & 0x80 != 0;
        let length = self.integer(7)?;
        let end = self.at.checked_add(length)?;
        let bytes = self.block.get(self.at..end)?;
        self.at = end;
        Some(Text {
            bytes,
            coded,
            place: start..end,
        })
    }
}

/// Writes a string without a code.
fn write_text(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text.len();
    if let Ok(short @ 0..=0x7e) = u8::try_from(rest) {
        out.push(short);
    } else {
        out.push(0x7f);
        rest -= 0x7f;
        while rest >= 0x80 {
            out.push(low_bits(rest) | 0x80);
            rest >>= 7;
        }
        out.push(low_bits(rest));
    }
    out.extend_from_slice(text);
}

fn low_bits(value: usize) -> u8 {
    u8::try_from(value & 0x7f).unwrap_or_default()
}
