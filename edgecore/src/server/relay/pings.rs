//! Pings of SPDY/3.1 that wait until the runtime has nothing more to say.
//!
//! A runtime that has said everything closes its connection, and its kernel sends what the reader has not taken yet. What reaches the
//! closed connection then ends it with a reset, and the rest is gone: a slow `kubectl cp` would lose its end, and exit with 0, because
//! client-go pings every 5 s (`spdy.newConnection`). A ping that waits costs nothing: its answer would come behind the same bytes.

/// Takes the pings out of what a caller sends.
#[derive(Debug, Default)]
pub(super) struct Pings {
    /// Of a frame's header, or of a ping, what is there so far.
    begun: Vec<u8>,
    /// Bytes of a frame that are to come.
    left: u32,
    held: Vec<u8>,
}

impl Pings {
    /// Appends to `out` what goes on at once. At most the header of a frame is kept back besides pings.
    pub(super) fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let count = bytes.len().min(self.left.try_into().unwrap_or(usize::MAX));
                let (these, rest) = bytes.split_at(count);
                out.extend_from_slice(these);
                self.left -= u32::try_from(count).unwrap_or(self.left);
                bytes = rest;
                continue;
            }
            let wanted = if self.begun.len() < HEADER { HEADER } else { PING };
            let (these, rest) = bytes.split_at(bytes.len().min(wanted - self.begun.len()));
            self.begun.extend_from_slice(these);
            bytes = rest;
            self.end_of_part(out);
        }
    }

    fn end_of_part(&mut self, out: &mut Vec<u8>) {
        match *self.begun.as_slice() {
            // Version 3 with the control bit, the type, no flags, the length of a number.
            [0x80, 3, 0, 6, _, 0, 0, 4] => {}
            [_, _, _, _, _, high, middle, low] => {
                self.left = u32::from_be_bytes([0, high, middle, low]);
                out.append(&mut self.begun);
            }
            _ if self.begun.len() < PING => {}
            // Nobody has that many pings under way: what comes beyond is passed on at once.
            _ if self.held.len() >= MOST * PING => out.append(&mut self.begun),
            _ => self.held.append(&mut self.begun),
        }
    }

    /// Whether there are any that can go, between frames.
    pub(super) const fn wait(&self) -> bool {
        !self.held.is_empty() && self.left == 0
    }

    /// Those that waited.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

/// Of every frame: control bit and version or stream, then flags and length.
const HEADER: usize = 8;
/// A whole one.
const PING: usize = HEADER + 4;
/// client-go has one on its way.
const MOST: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &[u8] = &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
    const OTHER: &[u8] = &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 3];
    /// A stream's last frame: what is in it looks like a ping.
    const DATA: &[u8] = &[0, 0, 0, 5, 1, 0, 0, 12, 0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
    const RESET: &[u8] = &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 5];

    #[test]
    fn pings_wait_however_they_are_cut_and_all_else_goes_on() {
        let whole = [DATA, ONE, RESET, OTHER, DATA].concat();
        for size in 1..=whole.len() {
            let (mut pings, mut out) = (Pings::default(), Vec::new());
            for piece in whole.chunks(size) {
                pings.pass(piece, &mut out);
            }
            assert_eq!(out, [DATA, RESET, DATA].concat(), "pieces of {size}");
            assert!(pings.wait());
            assert_eq!(pings.take(), [ONE, OTHER].concat());
            assert!(!pings.wait());
        }
    }

    #[test]
    fn none_goes_within_a_frame() {
        let (mut pings, mut out) = (Pings::default(), Vec::new());
        pings.pass(ONE, &mut out);
        for (piece, between) in [(&DATA[..5], true), (&DATA[5..9], false), (&DATA[9..], true)] {
            pings.pass(piece, &mut out);
            assert_eq!(pings.wait(), between);
        }
        assert_eq!(out, DATA);
    }

    #[test]
    fn a_flood_of_pings_is_not_kept() {
        let (mut pings, mut out) = (Pings::default(), Vec::new());
        pings.pass(&ONE.repeat(100), &mut out);
        assert_eq!(out.len() + pings.take().len(), 100 * PING);
        assert_eq!(out.len(), 84 * PING);
    }
}
