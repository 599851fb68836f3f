//! What a broken stream can still say to its client.
//!
//! An API server ends its own answer as if all were well when a kubelet's breaks off: kubectl then exits with 0, from `logs` as from
//! `exec`. So a log ends with a line, and a command with a status on its error stream. Neither is possible in
//! the midst of a chunk or a frame, which is why the bytes are followed; what they carry is not looked at.

mod chunks;
mod frames;

use chunks::Chunks;
use frames::Frames;
use proto::Status;

/// How a client takes a last word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cloudstream) enum Form {
    /// As a line of the answer, where that is in chunks.
    Line,
    /// As a status on the error stream of `exec` and `attach`.
    Status,
    /// Not at all.
    None,
}

impl Form {
    /// The line, where it is one.
    pub(super) fn line(self, why: &str) -> Option<String> {
        (self == Self::Line).then(|| format!("error: the log breaks off here: {why}\n"))
    }
}

/// Follows an answer from its first byte.
#[derive(Debug)]
pub(super) struct LastWord {
    follows: Follows,
    /// The last bytes that were followed and that the client did not get.
    held: usize,
}

#[derive(Debug)]
enum Follows {
    Chunks(Chunks),
    Frames(Frames),
    Nothing,
}

impl LastWord {
    /// Nothing has come yet.
    pub(super) const fn new(form: Form) -> Self {
        let follows = match form {
            Form::Line => Follows::Chunks(Chunks::new()),
            Form::Status => Follows::Frames(Frames::new()),
            Form::None => Follows::Nothing,
        };
        Self { follows, held: 0 }
    }

    /// Looks at what comes by, and returns how many bytes at its end, this piece and those before it taken together, are the beginning of
    /// a frame that is not complete. The client should not get them before the rest is there: after half a frame nothing can be said.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> usize {
        match &mut self.follows {
            Follows::Chunks(chunks) => {
                chunks.follow(bytes);
                0
            }
            Follows::Frames(frames) => {
                frames.follow(bytes);
                frames.begun()
            }
            Follows::Nothing => 0,
        }
    }

    /// So many of the bytes that were followed are held back.
    pub(super) const fn hold(&mut self, held: usize) {
        self.held = held;
    }

    /// Whether the frames tell the client that all is said.
    pub(super) const fn said_goodbye(&self) -> bool {
        matches!(&self.follows, Follows::Frames(frames) if frames.said_goodbye())
    }

    /// Whether an end here would leave the client in the belief that its command went well.
    pub(super) const fn is_open(&self) -> bool {
        matches!(&self.follows, Follows::Frames(frames) if frames.is_open())
    }

    /// The last bytes for the client, where something can be said.
    pub(super) fn bytes(&self, why: &str) -> Option<Vec<u8>> {
        match &self.follows {
            Follows::Chunks(chunks) => {
                let line = Form::Line.line(why)?;
                chunks.last_line(&line).map(String::into_bytes)
            }
            Follows::Frames(frames) if frames.begun() == self.held => {
                let text = format!("{why}; how the command ends is not known");
                frames.last_status(&Status::internal(text).to_json())
            }
            Follows::Frames(_) | Follows::Nothing => None,
        }
    }
}
