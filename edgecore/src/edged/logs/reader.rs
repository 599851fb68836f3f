//! A log file, read in pieces on a thread that may wait for the disk.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::printer::Printer;
use super::{LogError, LogOptions};

/// Bytes taken from the file at once.
const PIECE: usize = 128 * 1024;
/// Bytes looked at at once for the start of the last lines.
const BLOCK: usize = 64 * 1024;
/// A line that is longer is passed on in parts. Runtimes cut at 16 KiB; docker's files and odd settings do not.
const MAX_LINE: usize = 1024 * 1024;

/// Where reading stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// There may be more in the file.
    More,
    /// The end of the file.
    End,
    /// All that was asked for was printed.
    Done,
}

/// What one step brought.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) text: Vec<u8>,
    pub(super) state: State,
}

/// One request's way through a log.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    file: File,
    /// What was read and not printed: the beginning of a line.
    pending: Vec<u8>,
    /// Whether `pending` goes on with a line whose beginning was printed.
    in_line: bool,
    printer: Printer,
}

impl Reader {
    /// Opens the file and goes to where printing begins.
    pub(super) fn open(path: &Path, options: &LogOptions, now: Timestamp) -> Result<Self, LogError> {
        let failed = |source| LogError::Open {
            path: path.to_owned(),
            source,
        };
        // Docker's log paths are links. The file behind the link is the one that is rotated, so that is followed.
        let path = path.canonicalize().map_err(failed)?;
        let mut file = File::open(&path).map_err(failed)?;
        if let Some(lines) = options.tail_lines {
            let start = tail(&mut file, lines).map_err(failed)?;
            file.seek(SeekFrom::Start(start)).map_err(failed)?;
        }
        Ok(Self {
            path,
            file,
            pending: Vec::new(),
            in_line: false,
            printer: Printer::new(options, now),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) const fn file(&self) -> &File {
        &self.file
    }

    /// Goes on with the file that came after this one; returns what was left of an incomplete line.
    pub(super) fn switch(&mut self, file: File) -> Result<Vec<u8>, LogError> {
        let mut text = Vec::new();
        self.finish(&mut text)?;
        self.file = file;
        Ok(text)
    }

    /// Whether the file was cut to less than what was read of it; if so, reading begins at its start again.
    pub(super) fn rewind_if_cut(&mut self) -> io::Result<bool> {
        let is_cut = self.file.metadata()?.len() < self.file.stream_position()?;
        if is_cut {
            self.file.rewind()?;
            self.pending.clear();
            self.in_line = false;
        }
        Ok(is_cut)
    }

    /// Reads one piece. `is_last` says that what lacks an end of line at the end of the file will not get one.
    pub(super) async fn step(mut self, is_last: bool) -> Result<(Self, Step), LogError> {
        let path = self.path.clone();
        let work = move || self.step_blocking(is_last).map(|step| (self, step));
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
            Err(LogError::Read {
                path,
                source: io::Error::other(error),
            })
        })
    }

    fn step_blocking(&mut self, is_last: bool) -> Result<Step, LogError> {
        let mut text = Vec::new();
        if self.printer.is_done() {
            return Ok(Step {
                text,
                state: State::Done,
            });
        }
        let start = self.pending.len();
        self.pending.resize(start + PIECE, 0);
        let read = self.file.read(self.pending.get_mut(start..).unwrap_or_default());
        let count = read.as_ref().copied().unwrap_or(0);
        self.pending.truncate(start + count);
        if let Err(source) = read {
            if source.kind() == io::ErrorKind::Interrupted {
                return Ok(Step {
                    text,
                    state: State::More,
                });
            }
            return Err(LogError::Read {
                path: self.path.clone(),
                source,
            });
        }
        if count == 0 && is_last {
            self.finish(&mut text)?;
        } else if count > 0 {
            text.reserve(count);
            self.lines(&mut text)?;
        }
        let state = match count {
            _ if self.printer.is_done() => State::Done,
            0 => State::End,
            _ => State::More,
        };
        Ok(Step { text, state })
    }

    /// Prints all whole lines that were read.
    fn lines(&mut self, text: &mut Vec<u8>) -> Result<(), LogError> {
        let pending = std::mem::take(&mut self.pending);
        let mut rest = pending.as_slice();
        while let Some(at) = memchr::memchr(b'\n', rest) {
            let (line, after) = rest.split_at_checked(at + 1).unwrap_or((rest, &[]));
            self.print(line, text)?;
            self.in_line = false;
            rest = after;
            if self.printer.is_done() {
                return Ok(());
            }
        }
        if rest.len() > MAX_LINE {
            self.print(rest, text)?;
            self.in_line = true;
            rest = &[];
        }
        self.pending = rest.to_vec();
        Ok(())
    }

    fn finish(&mut self, text: &mut Vec<u8>) -> Result<(), LogError> {
        let rest = std::mem::take(&mut self.pending);
        if !rest.is_empty() {
            self.print(&rest, text)?;
        }
        self.in_line = false;
        Ok(())
    }

    fn print(&mut self, piece: &[u8], text: &mut Vec<u8>) -> Result<(), LogError> {
        if self.in_line {
            self.printer.rest(piece, text);
            return Ok(());
        }
        self.printer.line(piece, text)
    }
}

/// Where the last `lines` lines begin; an incomplete line at the end is none. Only the end of the file is read.
fn tail(file: &mut File, lines: u64) -> io::Result<u64> {
    let mut right = file.seek(SeekFrom::End(0))?;
    let mut seen = 0;
    let mut block = vec![0; BLOCK];
    while right > 0 {
        let left = right.saturating_sub(BLOCK as u64);
        let size = usize::try_from(right - left).unwrap_or(BLOCK);
        let part = block.get_mut(..size).unwrap_or_default();
        file.seek(SeekFrom::Start(left))?;
        file.read_exact(part)?;
        for at in memchr::memrchr_iter(b'\n', part) {
            if seen == lines {
                return Ok(left + at as u64 + 1);
            }
            seen += 1;
        }
        right = left;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_start_of_the_last_lines_is_found_from_the_end() {
        let mut file = tempfile::tempfile().expect("a file");
        let line = format!("{}\n", "x".repeat(999));
        for _ in 0..300 {
            file.write_all(line.as_bytes()).expect("written");
        }
        file.write_all(b"incomplete").expect("written");
        for lines in [0, 1, 2, 65, 66, 150, 299, 300] {
            assert_eq!(tail(&mut file, lines).expect("read"), (300 - lines) * 1000, "{lines}");
        }
        assert_eq!(tail(&mut file, 5000).expect("read"), 0);
        assert_eq!(tail(&mut tempfile::tempfile().expect("a file"), 3).expect("read"), 0);
    }
}
