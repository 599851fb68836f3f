//! Where a chunked answer stands.

/// Follows the bytes of an answer.
#[derive(Debug)]
pub(super) enum Chunks {
    /// Before the empty line.
    Head(Vec<u8>),
    /// Between two chunks, or in the head of one.
    Size { digits: u32, size: u64, extension: bool },
    /// In the bytes of a chunk, and the line end after them.
    Bytes(u64),
    /// Not chunked, or over.
    Other,
}

impl Chunks {
    /// Nothing has come yet.
    pub(super) const fn new() -> Self {
        Self::Head(Vec::new())
    }

    /// Looks at what goes by.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match self {
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
                    let chunked = is_chunked(head.get(..end).unwrap_or_default());
                    *self = if chunked { BETWEEN } else { Self::Other };
                    bytes.get(end - before..).unwrap_or_default()
                }
                Self::Size {
                    digits,
                    size,
                    extension,
                } => {
                    let Some((&byte, rest)) = bytes.split_first() else {
                        return;
                    };
                    match (byte, char::from(byte).to_digit(16)) {
                        (b'\n', _) if *digits > 0 && *size > 0 => *self = Self::Bytes(*size + LINE_END),
                        (b'\n', _) => *self = Self::Other,
                        (_, Some(digit)) if !*extension && *digits < MAX_DIGITS => {
                            *size = *size * 16 + u64::from(digit);
                            *digits += 1;
                        }
                        (_, Some(_)) if !*extension => *self = Self::Other,
                        _ => *extension = true,
                    }
                    rest
                }
                Self::Bytes(left) => {
                    let taken = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                    *left -= taken as u64;
                    if *left == 0 {
                        *self = BETWEEN;
                    }
                    bytes.get(taken..).unwrap_or_default()
                }
                Self::Other => return,
            };
        }
    }

    /// A chunk with this text, where one can stand now.
    pub(super) fn last_line(&self, text: &str) -> Option<String> {
        matches!(
            self,
            Self::Size {
                digits: 0,
                extension: false,
                ..
            }
        )
        .then(|| format!("{:x}\r\n{text}\r\n", text.len()))
    }
}

fn is_chunked(head: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    answer.parse(head).is_ok()
        && answer.headers.iter().any(|header| {
            header.name.eq_ignore_ascii_case("transfer-encoding") && header.value.eq_ignore_ascii_case(b"chunked")
        })
}

const BETWEEN: Chunks = Chunks::Size {
    digits: 0,
    size: 0,
    extension: false,
};
const END: &[u8] = b"\r\n\r\n";
const LINE_END: u64 = 2;
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
/// More than a log can have.
const MAX_DIGITS: u32 = 15;

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA;x=1\r\n0123456789\r\n";

    #[test]
    fn a_line_can_stand_between_chunks_only() {
        let head = ANSWER.find("5\r\nhello").expect("the first chunk");
        let first = head + "5\r\nhello\r\n".len();
        for cut in 0..=ANSWER.len() {
            for portion in [1, 7, ANSWER.len()] {
                let mut chunks = Chunks::new();
                for portion in ANSWER.as_bytes()[..cut].chunks(portion) {
                    chunks.follow(portion);
                }
                let expected = [head, first, ANSWER.len()]
                    .contains(&cut)
                    .then(|| "4\r\nend\n\r\n".to_owned());
                assert_eq!(chunks.last_line("end\n"), expected, "{cut}");
            }
        }
    }

    #[test]
    fn none_in_what_is_over_or_not_chunked() {
        for answer in [
            &format!("{ANSWER}0\r\n\r\n"),
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
        ] {
            let mut chunks = Chunks::new();
            chunks.follow(answer.as_bytes());
            assert_eq!(chunks.last_line("end\n"), None, "{answer}");
        }
    }
}
