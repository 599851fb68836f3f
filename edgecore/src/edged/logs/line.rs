//! One line of a log file: CRI's form, or docker's JSON.
//!
//! ```text
//! 2016-10-06T00:17:09.669794202Z stdout P log content 1
//! 2016-10-06T00:17:09.669794203Z stderr F log content 2
//! {"log":"content 1\n","stream":"stdout","time":"2016-10-20T18:39:20.57606443Z"}
//! ```

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;

use super::Stream;

/// The form of a file, told by its first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Cri,
    Docker,
}

/// A line taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// As written, of the shape of RFC 3339.
    time: Cow<'a, str>,
    pub(super) stream: Stream,
    /// With its end of line, unless the runtime cut it there.
    pub(super) content: Cow<'a, [u8]>,
}

impl Form {
    /// The form that this line has, if any.
    pub(super) fn of(line: &[u8]) -> Option<Self> {
        [Self::Cri, Self::Docker]
            .into_iter()
            .find(|form| form.parse(line).is_some())
    }

    pub(super) fn parse(self, line: &[u8]) -> Option<Line<'_>> {
        match self {
            Self::Cri => cri(line),
            Self::Docker => docker(line),
        }
    }
}

impl Line<'_> {
    pub(super) fn time(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }

    /// The time with nine digits of a second, in the zone it was written in.
    pub(super) fn write_time(&self, out: &mut Vec<u8>) {
        let (seconds, rest) = self.time.split_at_checked(SECONDS).unwrap_or((&self.time, ""));
        let digits = rest.strip_prefix(['.', ',']).unwrap_or_default();
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let (digits, zone) = match digits.split_at_checked(end) {
            Some((digits, zone)) if !digits.is_empty() => (digits, zone),
            _ => ("", rest),
        };
        let zone = if matches!(zone, "+00:00" | "-00:00") { "Z" } else { zone };
        out.extend_from_slice(seconds.as_bytes());
        out.push(b'.');
        out.extend(digits.bytes().chain(std::iter::repeat(b'0')).take(9));
        out.extend_from_slice(zone.as_bytes());
    }
}

/// Length of a time up to its seconds.
const SECONDS: usize = "2006-01-02T15:04:05".len();

fn cri(line: &[u8]) -> Option<Line<'_>> {
    let (time, rest) = word(line)?;
    let time = std::str::from_utf8(time).ok().filter(|time| has_shape_of_time(time))?;
    let (stream, rest) = word(rest)?;
    let (tags, content) = word(rest)?;
    let is_partial = tags.split(|byte| *byte == b':').next() == Some(b"P".as_slice());
    let content = match content {
        [cut @ .., b'\n'] if is_partial => cut,
        whole => whole,
    };
    Some(Line {
        time: Cow::Borrowed(time),
        stream: stream_of(stream)?,
        content: Cow::Borrowed(content),
    })
}

/// What json-file of docker writes.
#[derive(Deserialize)]
struct Docker {
    #[serde(default)]
    log: String,
    #[serde(default)]
    stream: String,
    time: String,
}

fn docker(line: &[u8]) -> Option<Line<'_>> {
    let entry: Docker = serde_json::from_slice(line).ok()?;
    if !has_shape_of_time(&entry.time) {
        return None;
    }
    Some(Line {
        stream: stream_of(entry.stream.as_bytes())?,
        time: Cow::Owned(entry.time),
        content: Cow::Owned(entry.log.into_bytes()),
    })
}

fn stream_of(name: &[u8]) -> Option<Stream> {
    match name {
        b"stdout" => Some(Stream::Stdout),
        b"stderr" => Some(Stream::Stderr),
        _ => None,
    }
}

/// Up to the next space, and what follows it.
fn word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = memchr::memchr(b' ', line)?;
    let (word, rest) = line.split_at_checked(space)?;
    Some((word, rest.get(1..)?))
}

/// Cheaper than reading it: most readers do not want the time.
fn has_shape_of_time(text: &str) -> bool {
    let pattern = b"dddd-dd-ddTdd:dd:dd";
    let fits = |(byte, pattern): (u8, &u8)| match pattern {
        b'd' => byte.is_ascii_digit(),
        other => byte == *other,
    };
    text.len() > SECONDS && text.bytes().zip(pattern).all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time_of(line: &[u8]) -> String {
        let mut out = Vec::new();
        Form::Cri.parse(line).expect("a line").write_time(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn lines_of_both_forms_are_read() {
        let line = cri(b"2016-10-06T00:17:09.669794202Z stdout P log content 1\n").expect("a line");
        assert_eq!(
            (line.stream, &*line.content),
            (Stream::Stdout, b"log content 1".as_slice())
        );
        let line = cri(b"2016-10-06T00:17:09.669794203Z stderr F:odd  two  spaces \xff\n").expect("a line");
        assert_eq!(
            (line.stream, &*line.content),
            (Stream::Stderr, b" two  spaces \xff\n".as_slice())
        );
        let json = br#"{"log":"content 1\n","stream":"stdout","time":"2016-10-20T18:39:20.57606443Z"}"#;
        assert_eq!(Form::of(json), Some(Form::Docker));
        assert_eq!(&*docker(json).expect("a line").content, b"content 1\n");
    }

    #[test]
    fn what_is_no_line_is_told() {
        let lines: [&[u8]; 6] = [
            b"",
            b"\n",
            b"2016-10-06T00:17:09.6Z stdout\n",
            b"2016-10-06T00:17:09.6Z stdin F x\n",
            b"2016-10-06 stdout F x\n",
            b"yesterday at noon in the garden stdout F x\n",
        ];
        for line in lines {
            assert_eq!(Form::of(line), None, "{line:?}");
        }
    }

    #[test]
    fn times_are_written_in_one_width() {
        assert_eq!(
            time_of(b"2016-10-06T00:17:09.6697942Z stdout F x\n"),
            "2016-10-06T00:17:09.669794200Z"
        );
        assert_eq!(
            time_of(b"2016-10-06T00:17:09Z stdout F x\n"),
            "2016-10-06T00:17:09.000000000Z"
        );
        assert_eq!(
            time_of(b"2016-10-06T02:17:09.5+02:00 stdout F x\n"),
            "2016-10-06T02:17:09.500000000+02:00"
        );
        assert_eq!(
            time_of(b"2016-10-06T02:17:09.5+00:00 stdout F x\n"),
            "2016-10-06T02:17:09.500000000Z"
        );
    }
}
