//! What part of a log is asked for, from the query of a request.

use jiff::{SignedDuration, Timestamp};
use thiserror::Error;

/// One of the two outputs of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// `PodLogOptions` of the API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on until the container ends.
    pub follow: bool,
    /// The run before the last restart.
    pub previous: bool,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// Lines of the last so many seconds.
    pub since_seconds: Option<u64>,
    /// Lines from this time on.
    pub since_time: Option<Timestamp>,
    /// The last so many lines, as the runtime cut them.
    pub tail_lines: Option<u64>,
    /// No more than so many bytes of text.
    pub limit_bytes: Option<u64>,
    /// Only one output; both where absent.
    pub stream: Option<Stream>,
}

/// Why a query is refused, in the kubelet's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadOptions {
    /// A value is of another type.
    #[error(r#"{{"message": "Unable to decode query."}}"#)]
    Undecodable,
    /// A value, or two together, make no sense.
    #[error(r#"{{"message": "Invalid request."}}"#)]
    Invalid,
}

impl LogOptions {
    /// Reads a query; of a repeated name the first value counts, names that mean nothing here are skipped.
    pub fn parse(query: &str) -> Result<Self, BadOptions> {
        let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
        let first = |name: &str| {
            let pair = pairs.iter().find(|(key, _)| key == name);
            pair.map(|(_, value)| value.as_ref())
        };
        let flag = |name| first(name).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"));
        let number = |text: &str| text.parse::<i64>().map_err(|_| BadOptions::Undecodable);
        let tail = match first("tail").filter(|tail| !tail.is_empty()) {
            Some("all") => None,
            Some(tail) => Some(tail),
            None => first("tailLines"),
        };
        let tail = tail.map(number).transpose()?;
        let limit = first("limitBytes").map(number).transpose()?;
        let since_seconds = first("sinceSeconds").map(number).transpose()?;
        let since_time = first("sinceTime").map(time).transpose()?;
        let positive = |number: i64| u64::try_from(number).ok().filter(|number| *number > 0);
        if since_seconds.is_some() && since_time.is_some() {
            return Err(BadOptions::Invalid);
        }
        let stream = match first("stream") {
            None | Some("All") => None,
            Some("Stdout") => Some(Stream::Stdout),
            Some("Stderr") => Some(Stream::Stderr),
            Some(_) => return Err(BadOptions::Invalid),
        };
        if stream.is_some() && tail.is_some() {
            return Err(BadOptions::Invalid);
        }
        let or_invalid = |value: Option<u64>| value.ok_or(BadOptions::Invalid);
        Ok(Self {
            follow: flag("follow"),
            previous: flag("previous"),
            timestamps: flag("timestamps"),
            since_seconds: since_seconds.map(|n| or_invalid(positive(n))).transpose()?,
            since_time: since_time.flatten(),
            tail_lines: tail.map(|n| or_invalid(u64::try_from(n).ok())).transpose()?,
            limit_bytes: limit.map(|n| or_invalid(positive(n))).transpose()?,
            stream,
        })
    }

    /// The time of the first line that is wanted.
    pub(super) fn since(&self, now: Timestamp) -> Option<Timestamp> {
        let seconds = self.since_seconds.map(|seconds| {
            let seconds = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
            now.checked_sub(seconds).unwrap_or(Timestamp::MIN)
        });
        seconds.max(self.since_time)
    }
}

/// RFC 3339; nothing, and what old clients write for nothing, is no time.
fn time(text: &str) -> Result<Option<Timestamp>, BadOptions> {
    if text.is_empty() || text == "null" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| BadOptions::Undecodable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_as_a_kubelet_reads_them() {
        let parse = |query| LogOptions::parse(query);
        assert_eq!(parse(""), Ok(LogOptions::default()));
        let all = parse("follow=true&timestamps=1&previous=yes&tailLines=10&limitBytes=5&sinceSeconds=60&odd=x");
        let expected = LogOptions {
            follow: true,
            previous: true,
            timestamps: true,
            since_seconds: Some(60),
            tail_lines: Some(10),
            limit_bytes: Some(5),
            ..LogOptions::default()
        };
        assert_eq!(all, Ok(expected));
        assert!(!parse("follow=False").expect("a query").follow);
        assert!(!parse("follow=0").expect("a query").follow);
        assert!(parse("follow=").expect("a query").follow);
        assert_eq!(parse("tail=all&tailLines=3").expect("a query").tail_lines, None);
        assert_eq!(parse("tail=2&tailLines=3").expect("a query").tail_lines, Some(2));
        let since = parse("sinceTime=2024-05-06T07%3A08%3A09Z").expect("a query").since_time;
        assert_eq!(since, Some("2024-05-06T07:08:09Z".parse().expect("a time")));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for query in ["tailLines=x", "limitBytes=", "sinceSeconds=1.5", "sinceTime=yesterday"] {
            assert_eq!(LogOptions::parse(query), Err(BadOptions::Undecodable), "{query}");
        }
        let invalid = [
            "tailLines=-1",
            "limitBytes=0",
            "sinceSeconds=0",
            "sinceSeconds=5&sinceTime=2024-05-06T07:08:09Z",
            "stream=both",
            "stream=Stdout&tailLines=1",
        ];
        for query in invalid {
            assert_eq!(LogOptions::parse(query), Err(BadOptions::Invalid), "{query}");
        }
    }

    #[test]
    fn the_later_start_counts() {
        let now: Timestamp = "2024-01-01T00:01:00Z".parse().expect("a time");
        let options = LogOptions {
            since_seconds: Some(60),
            ..LogOptions::default()
        };
        assert_eq!(options.since(now), "2024-01-01T00:00:00Z".parse().ok());
        let options = LogOptions {
            since_seconds: Some(u64::MAX),
            ..LogOptions::default()
        };
        assert_eq!(options.since(now), Some(Timestamp::MIN));
    }
}
