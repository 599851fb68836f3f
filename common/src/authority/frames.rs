//! The frames of an HTTP/2 client, as bytes come in (RFC 9113 §3.4, §4.1, §6.2, §6.10). No I/O.

use bytes::BytesMut;

use super::{MAX_BLOCK, hpack};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// What any server takes in one frame.
const MAX_FRAME: usize = 16_384;
/// Bytes of the priority in a frame of headers.
const PRIORITY_LENGTH: usize = 5;

/// Takes what a client sends and gives what the server is to read.
#[derive(Debug, Default)]
pub struct Filter {
    state: State,
    /// A part of the preface, of a frame's head or of the frames of one block, not given on yet.
    held: Vec<u8>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the first frame.
    #[default]
    Preface,
    /// Before or in the head of a frame.
    Head,
    /// In a frame that is none of ours.
    Through(usize),
    /// In a block of headers: where its last frame begins in what is held, its head's length once it is known.
    Block { last: usize, length: Option<usize> },
    /// What comes is not looked at.
    Raw,
}

/// The head of a frame.
#[derive(Clone, Copy)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: [u8; 4],
}

impl Filter {
    /// Takes bytes; what may go on is added to `out`.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut BytesMut) {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Raw => {
                    out.extend_from_slice(bytes);
                    &[]
                }
                State::Through(left) => {
                    let (now, later) = bytes.split_at(left.min(bytes.len()));
                    out.extend_from_slice(now);
                    self.state = match left - now.len() {
                        0 => State::Head,
                        left => State::Through(left),
                    };
                    later
                }
                State::Preface => {
                    let later = self.hold(bytes, PREFACE.len());
                    if !PREFACE.starts_with(&self.held) {
                        self.give_up(out);
                    } else if self.held.len() == PREFACE.len() {
                        self.release(out);
                    }
                    later
                }
                State::Head => {
                    let later = self.hold(bytes, HEAD);
                    if let Some(head) = head_at(&self.held, 0) {
                        self.begin(head, out);
                    }
                    later
                }
                State::Block { last, length } => self.block(last, length, bytes, out),
            };
        }
    }

    /// The client sends nothing more.
    pub fn finish(&mut self, out: &mut BytesMut) {
        self.give_up(out);
    }

    /// Holds bytes until there are `wanted`.
    fn hold<'a>(&mut self, bytes: &'a [u8], wanted: usize) -> &'a [u8] {
        let missing = wanted.saturating_sub(self.held.len());
        let (now, later) = bytes.split_at(missing.min(bytes.len()));
        self.held.extend_from_slice(now);
        later
    }

    fn begin(&mut self, head: Head, out: &mut BytesMut) {
        if head.kind == HEADERS {
            self.state = State::Block {
                last: 0,
                length: Some(head.length),
            };
            self.block_grew(out);
            return;
        }
        self.release(out);
        if head.length > 0 {
            self.state = State::Through(head.length);
        }
    }

    fn block<'a>(&mut self, last: usize, length: Option<usize>, bytes: &'a [u8], out: &mut BytesMut) -> &'a [u8] {
        let later = self.hold(bytes, last + HEAD + length.unwrap_or_default());
        if length.is_none()
            && let Some(head) = head_at(&self.held, last)
        {
            if head.kind != CONTINUATION || head_at(&self.held, 0).is_none_or(|first| first.stream != head.stream) {
                self.give_up(out);
                return later;
            }
            self.state = State::Block {
                last,
                length: Some(head.length),
            };
        }
        self.block_grew(out);
        later
    }

    /// Sees whether a frame of the block, or the block, is complete.
    fn block_grew(&mut self, out: &mut BytesMut) {
        let State::Block {
            last,
            length: Some(length),
        } = self.state
        else {
            return;
        };
        let end = last + HEAD + length;
        if end > MAX_BLOCK {
            self.give_up(out);
        } else if self.held.len() == end {
            let ends = head_at(&self.held, last).is_some_and(|head| head.flags & END_HEADERS != 0);
            if !ends {
                self.state = State::Block {
                    last: end,
                    length: None,
                };
                return;
            }
            if let Some(changed) = rewrite(&self.held) {
                self.held = changed;
            }
            self.release(out);
        }
    }

    /// Gives what is held, and goes on with the next frame.
    fn release(&mut self, out: &mut BytesMut) {
        out.extend_from_slice(&std::mem::take(&mut self.held));
        self.state = State::Head;
    }

    /// Gives everything from here on as it comes.
    fn give_up(&mut self, out: &mut BytesMut) {
        self.release(out);
        self.state = State::Raw;
    }
}

fn head_at(bytes: &[u8], at: usize) -> Option<Head> {
    let &[a, b, c, kind, flags, s, t, u, v] = bytes.get(at..at.checked_add(HEAD)?)? else {
        return None;
    };
    Some(Head {
        length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
        kind,
        flags,
        stream: [s, t, u, v],
    })
}

/// The frames of one block, with an acceptable authority; `None` where they may stay as they are.
fn rewrite(frames: &[u8]) -> Option<Vec<u8>> {
    let first = head_at(frames, 0)?;
    let mut payload = frames.get(HEAD..HEAD + first.length)?;
    if first.flags & PADDED != 0 {
        let (&padding, rest) = payload.split_first()?;
        payload = rest.get(..rest.len().checked_sub(usize::from(padding))?)?;
    }
    let priority_length = if first.flags & PRIORITY != 0 {
        PRIORITY_LENGTH
    } else {
        0
    };
    let (priority, fragment) = payload.split_at_checked(priority_length)?;
    let mut block = fragment.to_vec();
    let mut at = HEAD + first.length;
    while at < frames.len() {
        let length = head_at(frames, at)?.length;
        block.extend_from_slice(frames.get(at + HEAD..at + HEAD + length)?);
        at += HEAD + length;
    }
    let block = hpack::acceptable(&block)?;

    let mut out = Vec::with_capacity(block.len() + 2 * HEAD);
    let (now, mut later) = block.split_at(block.len().min(MAX_FRAME - priority.len()));
    let flags = first.flags & !(PADDED | END_HEADERS);
    write_head(
        &mut out,
        priority.len() + now.len(),
        HEADERS,
        flags | ends(later),
        first.stream,
    );
    out.extend_from_slice(priority);
    out.extend_from_slice(now);
    while !later.is_empty() {
        let now;
        (now, later) = later.split_at(later.len().min(MAX_FRAME));
        write_head(&mut out, now.len(), CONTINUATION, ends(later), first.stream);
        out.extend_from_slice(now);
    }
    Some(out)
}

const fn ends(later: &[u8]) -> u8 {
    if later.is_empty() { END_HEADERS } else { 0 }
}

fn write_head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: [u8; 4]) {
    // At most `MAX_FRAME`.
    let [.., a, b, c] = length.to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags]);
    out.extend_from_slice(&stream);
}
