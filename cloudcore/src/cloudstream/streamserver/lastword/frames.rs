//! Where the answer to an `exec` or `attach` stands: in or between frames of SPDY/3.1 or WebSocket.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Follows the bytes of an answer.
#[derive(Debug)]
pub(super) enum Frames {
    /// Before the empty line.
    Head(Vec<u8>),
    /// After it.
    Body(Body),
    /// No upgrade, or over.
    Other,
}

/// After the upgrade.
#[derive(Debug)]
pub(super) struct Body {
    framing: Framing,
    /// Of the frame that has begun, as far as it is there.
    header: Vec<u8>,
    /// Bytes of this frame that are there, the header included.
    begun: usize,
    /// Bytes of it that are to come, once its header is there.
    left: u64,
    /// The complete frames so far are part of a WebSocket message that goes on.
    fragment: bool,
    /// SPDY's GOAWAY was among the frames.
    goodbye: bool,
    /// So was one of SPDY's error stream.
    told: bool,
}

#[derive(Clone, Copy, Debug)]
enum Framing {
    Spdy,
    /// Frames of one channel each (`channel.k8s.io`): bytes, or Base64 text.
    WebSocket {
        base64: bool,
    },
}

impl Frames {
    /// Nothing has come yet.
    pub(super) const fn new() -> Self {
        Self::Head(Vec::new())
    }

    /// Looks at what goes by.
    pub(super) fn follow(&mut self, bytes: &[u8]) {
        match self {
            Self::Head(head) => {
                let before = head.len();
                head.extend_from_slice(bytes);
                let Some(end) = head.windows(END.len()).position(|part| part == END) else {
                    if head.len() > MAX_HEAD {
                        *self = Self::Other;
                    }
                    return;
                };
                let end = end + END.len();
                let rest = bytes.get(end.saturating_sub(before)..).unwrap_or_default();
                match framing(head.get(..end).unwrap_or_default()) {
                    None => *self = Self::Other,
                    Some(framing) => {
                        let mut body = Body::new(framing);
                        *self = if body.follow(rest) {
                            Self::Body(body)
                        } else {
                            Self::Other
                        };
                    }
                }
            }
            Self::Body(body) => {
                if !body.follow(bytes) {
                    *self = Self::Other;
                }
            }
            Self::Other => {}
        }
    }

    /// Whether a peer of SPDY has said that it goes.
    pub(super) const fn said_goodbye(&self) -> bool {
        matches!(self, Self::Body(Body { goodbye: true, .. }))
    }

    /// Whether a peer of SPDY has not told how the command ends, nor that it goes: all that is served by the library of the kubelet and
    /// the runtimes ends with that.
    pub(super) const fn is_open(&self) -> bool {
        matches!(
            self,
            Self::Body(Body {
                framing: Framing::Spdy,
                goodbye: false,
                told: false,
                ..
            })
        )
    }

    /// Bytes of a frame that is not complete; 0 between frames.
    pub(super) const fn begun(&self) -> usize {
        match self {
            Self::Body(body) => body.begun,
            Self::Head(_) | Self::Other => 0,
        }
    }

    /// A frame with this status on the error stream, if no frame has been passed on in part.
    pub(super) fn last_status(&self, status: &[u8]) -> Option<Vec<u8>> {
        let Self::Body(body) = self else { return None };
        match body.framing {
            Framing::Spdy => {
                let length = u32::try_from(status.len()).ok().filter(|length| *length < 1 << 24)?;
                let mut frame = Vec::with_capacity(SPDY_HEADER + status.len());
                frame.extend_from_slice(&ERROR_STREAM.to_be_bytes());
                frame.extend_from_slice(&(FINISH | length).to_be_bytes());
                frame.extend_from_slice(status);
                Some(frame)
            }
            Framing::WebSocket { .. } if body.fragment => None,
            Framing::WebSocket { base64 } => {
                let mut message = Vec::new();
                let opcode = if base64 {
                    message.push(b'0' + ERROR_CHANNEL);
                    message.extend_from_slice(STANDARD.encode(status).as_bytes());
                    TEXT
                } else {
                    message.push(ERROR_CHANNEL);
                    message.extend_from_slice(status);
                    BINARY
                };
                let mut frame = vec![FIN | opcode];
                match u16::try_from(message.len()).ok()? {
                    length @ 0..=125 => frame.push(u8::try_from(length).ok()?),
                    length => {
                        frame.push(126);
                        frame.extend_from_slice(&length.to_be_bytes());
                    }
                }
                frame.extend_from_slice(&message);
                Some(frame)
            }
        }
    }
}

impl Body {
    const fn new(framing: Framing) -> Self {
        Self {
            framing,
            header: Vec::new(),
            begun: 0,
            left: 0,
            fragment: false,
            goodbye: false,
            told: false,
        }
    }

    /// Whether there can be more.
    fn follow(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.left == 0 {
                let Some((&byte, rest)) = bytes.split_first() else {
                    break;
                };
                bytes = rest;
                self.begun += 1;
                self.header.push(byte);
                match self.framing.length(&self.header) {
                    None => {}
                    Some(_) if self.is_close() => return false,
                    Some(length) => {
                        self.left = length;
                        self.end_of_frame();
                    }
                }
            } else {
                let taken = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.left -= taken as u64;
                self.begun = self.begun.saturating_add(taken);
                bytes = bytes.get(taken..).unwrap_or_default();
                self.end_of_frame();
            }
        }
        true
    }

    fn end_of_frame(&mut self) {
        if self.left == 0 {
            self.note_fragment();
            if matches!(self.framing, Framing::Spdy) {
                self.goodbye |= self.header.starts_with(GOAWAY);
                self.told |= self.header.starts_with(&ERROR_STREAM.to_be_bytes());
            }
            self.begun = 0;
            self.header.clear();
        }
    }

    fn is_close(&self) -> bool {
        let opcode = self.header.first().map(|first| first & 0x0f);
        matches!(self.framing, Framing::WebSocket { .. }) && opcode == Some(CLOSE)
    }

    /// Control frames may stand within a message.
    fn note_fragment(&mut self) {
        if let (Framing::WebSocket { .. }, Some(&first)) = (self.framing, self.header.first())
            && first & 0x08 == 0
        {
            self.fragment = first & FIN == 0;
        }
    }
}

impl Framing {
    /// What follows this header, once it is complete.
    fn length(self, header: &[u8]) -> Option<u64> {
        match self {
            Self::Spdy => match *header {
                [_, _, _, _, _, high, middle, low] => Some(u64::from(u32::from_be_bytes([0, high, middle, low]))),
                _ => None,
            },
            Self::WebSocket { .. } => {
                let second = *header.get(1)?;
                let mask = if second & 0x80 == 0 { 0 } else { MASK };
                let extended = header.get(2..).unwrap_or_default();
                match (second & 0x7f, extended) {
                    (126, &[a, b]) => Some(u64::from(u16::from_be_bytes([a, b])) + mask),
                    (127, &[a, b, c, d, e, f, g, h]) => {
                        Some(u64::from_be_bytes([a, b, c, d, e, f, g, h]).saturating_add(mask))
                    }
                    (126 | 127, _) => None,
                    (length, _) => Some(u64::from(length) + mask),
                }
            }
        }
    }
}

/// What the answer to the request for an upgrade says.
fn framing(head: &[u8]) -> Option<Framing> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    answer.parse(head).ok()?;
    if answer.code != Some(101) {
        return None;
    }
    let value = |name: &str| {
        let found = answer
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name));
        found
            .and_then(|header| std::str::from_utf8(header.value).ok())
            .unwrap_or_default()
    };
    let upgrade = value("upgrade");
    if upgrade.eq_ignore_ascii_case("spdy/3.1") {
        return Some(Framing::Spdy);
    }
    let protocol = value("sec-websocket-protocol");
    (upgrade.eq_ignore_ascii_case("websocket") && protocol.ends_with("channel.k8s.io")).then(|| Framing::WebSocket {
        base64: protocol.contains("base64"),
    })
}

/// Control bit and version or stream, then flags and length.
const SPDY_HEADER: usize = 8;
/// How the frame begins with which servers of SPDY/3.1 end a connection.
const GOAWAY: &[u8] = &[0x80, 3, 0, 7];
/// The client opens the streams, and in every version of client-go the error stream first.
const ERROR_STREAM: u32 = 1;
/// The flag of a stream's last frame, above the length.
const FINISH: u32 = 0x0100_0000;
/// The channel of errors in all versions of the WebSocket protocol.
const ERROR_CHANNEL: u8 = 3;
const FIN: u8 = 0x80;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
/// Bytes of a WebSocket frame's mask.
const MASK: u64 = 4;
const END: &[u8] = b"\r\n\r\n";
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const SPDY: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";

    fn websocket(protocol: &str) -> Vec<u8> {
        format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n")
            .into_bytes()
    }

    /// After each cut of head and frames, however they come in pieces, the bytes that have begun are those since the last end of a frame.
    fn between(head: &[u8], frames: &[&[u8]]) {
        let all = [head, &frames.concat()].concat();
        let mut ends = vec![head.len()];
        for frame in frames {
            ends.push(ends.last().expect("one") + frame.len());
        }
        for cut in 0..=all.len() {
            for portion in [1, 7, all.len()] {
                let mut follower = Frames::new();
                for portion in all[..cut].chunks(portion) {
                    follower.follow(portion);
                }
                let since = ends.iter().rev().find(|end| **end <= cut).map_or(0, |end| cut - end);
                assert_eq!(follower.begun(), since, "{cut} by {portion}");
                assert_eq!(
                    follower.last_status(b"x").is_some(),
                    cut >= head.len(),
                    "{cut} by {portion}"
                );
            }
        }
    }

    #[test]
    fn spdy_frames_are_told_apart() {
        let reply = [&[0x80, 3, 0, 2, 0, 0, 0, 4][..], b"\0\0\0\x01"].concat();
        let data = [&[0, 0, 0, 5, 0, 0, 1, 44][..], &[7; 300]].concat();
        let empty = [0, 0, 0, 5, 1, 0, 0, 0];
        between(SPDY, &[&reply, &data, &empty, &reply]);
    }

    #[test]
    fn websocket_frames_are_told_apart() {
        let short = b"\x82\x03\x01hi";
        let longer = [&[0x82, 126, 1, 44][..], &[7; 300]].concat();
        let longest = [&[0x82, 127, 0, 0, 0, 0, 0, 0, 1, 44][..], &[7; 300]].concat();
        let masked = b"\x82\x81mask\x01";
        let nothing = b"\x89\x00";
        between(
            &websocket("v4.channel.k8s.io"),
            &[short, &longer, &longest, masked, nothing],
        );
    }

    #[test]
    fn the_status_is_a_frame_of_the_error_stream() {
        let after = |head: &[u8], more: &[u8]| {
            let mut follower = Frames::new();
            follower.follow(head);
            follower.follow(more);
            follower.last_status(b"gone")
        };
        assert_eq!(after(SPDY, b"").as_deref(), Some(&b"\0\0\0\x01\x01\0\0\x04gone"[..]));
        assert_eq!(
            after(&websocket("v4.channel.k8s.io"), b"").as_deref(),
            Some(&b"\x82\x05\x03gone"[..])
        );
        assert_eq!(
            after(&websocket("base64.channel.k8s.io"), b"").as_deref(),
            Some(&b"\x81\x093Z29uZQ=="[..])
        );
        // A message that is in pieces, and a connection that was closed.
        assert_eq!(after(&websocket("v4.channel.k8s.io"), b"\x02\x01\x01"), None);
        // Its last piece has begun and is held back, or its first.
        assert_eq!(after(&websocket("v4.channel.k8s.io"), b"\x02\x01\x01\x80\x05a"), None);
        assert!(after(&websocket("v4.channel.k8s.io"), b"\x02\x05\x01").is_some());
        assert_eq!(after(&websocket("v4.channel.k8s.io"), b"\x88\x02\x03\xe8"), None);
        assert_eq!(after(&websocket("chat"), b""), None);
        assert_eq!(after(b"HTTP/1.1 404 Not Found\r\nUpgrade: SPDY/3.1\r\n\r\n", b""), None);
        assert_eq!(after(b"HTTP/1.1 200 OK\r\n\r\n", b"hello"), None);
    }

    #[test]
    fn a_long_status_has_its_length_in_two_bytes() {
        let mut follower = Frames::new();
        follower.follow(&websocket("channel.k8s.io"));
        let frame = follower.last_status(&[b'x'; 300]).expect("a frame");
        assert_eq!(frame.get(..5), Some(&[0x82, 126, 1, 45, 3][..]));
        assert_eq!(frame.len(), 4 + 301);
    }
}
