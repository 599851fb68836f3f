//! When a head that comes in portions is worth parsing.

/// At its end, and before that each time there is twice as much of it, so that what is none is refused soon. Parsing it anew with each
/// portion would be work of the square of its length.
pub(super) struct Looks {
    /// So much is parsed, with an end or without: a head is not read any further.
    longest: usize,
    /// Bytes in which there is no end.
    seen: usize,
    /// Empty lines may precede a head.
    begun: bool,
    /// Nothing is on the present line so far.
    empty: bool,
    /// From how many bytes on it is parsed, with an end or without.
    due: usize,
}

impl Looks {
    pub(super) const fn until(longest: usize) -> Self {
        Self {
            longest,
            seen: 0,
            begun: false,
            empty: false,
            due: 0,
        }
    }

    /// Whether to parse what has come so far.
    pub(super) fn are_due(&mut self, bytes: &[u8]) -> bool {
        let mut ended = false;
        for byte in bytes.get(self.seen..).unwrap_or_default() {
            match byte {
                b'\n' => {
                    ended |= self.begun && self.empty;
                    self.empty = true;
                }
                b'\r' => {}
                _ => {
                    self.begun = true;
                    self.empty = false;
                }
            }
        }
        self.seen = bytes.len();
        let due = ended || (bytes.len() >= self.due && !bytes.is_empty());
        if due {
            self.due = (2 * bytes.len()).min(self.longest);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_trickles_in_is_parsed_a_few_times() {
        const LONGEST: usize = 64 * 1024;
        let value = "x".repeat(6 * 1024);
        let headers: String = (0..10).map(|number| format!("A{number}: {value}\r\n")).collect();
        let text = format!("GET / HTTP/1.1\r\n{headers}\r\n");
        for bytes in [text.as_bytes(), &[b'\n'; LONGEST], &[b'\r'; LONGEST]] {
            let mut looks = Looks::until(LONGEST);
            let ends = (0..=bytes.len()).filter(|end| looks.are_due(bytes.get(..*end).unwrap_or_default()));
            let parsed: Vec<usize> = ends.collect();
            assert_eq!(parsed.last(), Some(&bytes.len()), "at the end, and at the limit");
            assert!(parsed.len() <= 18, "{parsed:?}");
            assert!(parsed.iter().sum::<usize>() < 3 * bytes.len(), "{parsed:?}");
        }
    }
}
