//! From lines of a file to the text that was asked for. No I/O.

use jiff::Timestamp;
use tracing::debug;

use super::line::Form;
use super::{LogError, LogOptions, Stream};

/// What has been printed, as far as it decides what follows.
#[derive(Debug)]
pub(super) struct Printer {
    form: Option<Form>,
    timestamps: bool,
    since: Option<Timestamp>,
    stream: Option<Stream>,
    /// Bytes that may still be printed.
    bytes: Option<u64>,
    /// Lines that may still be looked at.
    lines: Option<u64>,
    /// Whether the last line was whole: the time stands before whole lines only.
    is_new_line: bool,
    /// Whether the line whose rest may follow is printed.
    is_wanted: bool,
}

impl Printer {
    pub(super) fn new(options: &LogOptions, now: Timestamp) -> Self {
        Self {
            form: None,
            timestamps: options.timestamps,
            since: options.since(now),
            stream: options.stream,
            bytes: options.limit_bytes,
            // A follower begins so many lines before the end, and then goes on.
            lines: options.tail_lines.filter(|_| !options.follow),
            is_new_line: true,
            is_wanted: false,
        }
    }

    /// Whether nothing more will be printed.
    pub(super) fn is_done(&self) -> bool {
        self.lines == Some(0) || self.bytes == Some(0)
    }

    /// Prints one line, which ends with `\n` unless it is the last or longer than anybody wants to hold.
    pub(super) fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<(), LogError> {
        let Some(form) = self.form.or_else(|| Form::of(line)) else {
            let shown = line.get(..SHOWN).unwrap_or(line);
            return Err(LogError::Format(String::from_utf8_lossy(shown).into_owned()));
        };
        self.form = Some(form);
        self.is_wanted = false;
        let Some(line) = form.parse(line) else {
            debug!("a line of a container's log is left out: it has another form than the first");
            return Ok(());
        };
        if let Some(lines) = &mut self.lines {
            *lines = lines.saturating_sub(1);
        }
        let is_late = self
            .since
            .is_none_or(|since| line.time().is_some_and(|time| time >= since));
        self.is_wanted = is_late && self.stream.is_none_or(|stream| stream == line.stream);
        if self.is_wanted {
            let start = out.len();
            if self.timestamps && self.is_new_line {
                line.write_time(out);
                out.push(b' ');
            }
            out.extend_from_slice(&line.content);
            self.cut(start, out);
        }
        self.is_new_line = line.content.last().is_none_or(|byte| *byte == b'\n');
        Ok(())
    }

    /// Prints more of a line that was too long to come in one piece.
    pub(super) fn rest(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.is_wanted {
            let start = out.len();
            out.extend_from_slice(bytes);
            self.cut(start, out);
        }
        self.is_new_line = bytes.last().is_none_or(|byte| *byte == b'\n');
    }

    /// Takes back what is over the limit.
    fn cut(&mut self, start: usize, out: &mut Vec<u8>) {
        if let Some(bytes) = &mut self.bytes {
            let allowed = usize::try_from(*bytes).unwrap_or(usize::MAX);
            out.truncate(start.saturating_add(allowed));
            let printed = u64::try_from(out.len().saturating_sub(start)).unwrap_or(u64::MAX);
            *bytes = bytes.saturating_sub(printed);
        }
    }
}

/// Bytes of a line of unknown form that an error tells.
const SHOWN: usize = 256;
