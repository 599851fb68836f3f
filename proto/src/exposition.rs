//! The text that Prometheus and metrics-server read, version 0.0.4, with times of samples.
//!
//! The counters of the cores themselves go through a library; this is for what is read at the moment it is asked for, where the number
//! belongs to a time of its own and the set of labels changes with each pod.

use std::fmt::Write as _;

use jiff::Timestamp;

/// The value of `Content-Type`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, but for a restart.
    Counter,
    /// Any number.
    Gauge,
    /// Counts by upper bounds, a sum and a count; its samples are written with their suffixes.
    Histogram,
}

/// The text while it is written.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// Begins a metric. Nothing is written before its first sample. All samples of one metric must follow each other.
    pub const fn metric<'a>(&'a mut self, name: &'a str, kind: Kind, help: &'a str) -> Metric<'a> {
        Metric {
            text: &mut self.text,
            name,
            kind,
            help,
            begun: false,
        }
    }

    /// The text.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }
}

/// One metric.
#[derive(Debug)]
pub struct Metric<'a> {
    text: &'a mut String,
    name: &'a str,
    kind: Kind,
    help: &'a str,
    begun: bool,
}

impl Metric<'_> {
    /// A sample, now or as of a time. Not finite values are written as Prometheus names them.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: f64, at: Option<Timestamp>) {
        self.suffixed("", labels, value, at);
    }

    /// The same with `_bucket`, `_sum` or `_count` behind the name.
    pub fn suffixed(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64, at: Option<Timestamp>) {
        let Self { text, name, .. } = self;
        if !self.begun {
            self.begun = true;
            let kind = match self.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            // Writing to a string cannot fail.
            let _ = write!(text, "# HELP {name} {}\n# TYPE {name} {kind}\n", self.help);
        }
        text.push_str(name);
        text.push_str(suffix);
        for (index, (label, value)) in labels.iter().enumerate() {
            text.push(if index == 0 { '{' } else { ',' });
            text.push_str(label);
            text.push_str("=\"");
            escape(text, value);
            text.push('"');
        }
        if !labels.is_empty() {
            text.push('}');
        }
        text.push(' ');
        number(text, value);
        if let Some(at) = at {
            let _ = write!(text, " {}", at.as_millisecond());
        }
        text.push('\n');
    }
}

fn escape(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

fn number(text: &mut String, value: f64) {
    if value.is_nan() {
        text.push_str("NaN");
    } else if value.is_infinite() {
        text.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    } else {
        let _ = write!(text, "{value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_written_as_prometheus_reads_them() {
        let mut all = Exposition::default();
        let at = Timestamp::from_millisecond(1_795_233_586_665).expect("a time");
        let mut cpu = all.metric("cpu_seconds_total", Kind::Counter, "Seconds.");
        cpu.sample(&[("pod", "a"), ("path", "\"x\\\n")], 0.045_568_307, Some(at));
        cpu.sample(&[], 1e20, None);
        let _ = all.metric("nothing", Kind::Gauge, "Never seen.");
        let mut took = all.metric("took", Kind::Histogram, "Time.");
        took.suffixed("_bucket", &[("le", "+Inf")], 3.0, None);
        let expected = "# HELP cpu_seconds_total Seconds.\n# TYPE cpu_seconds_total counter\n\
            cpu_seconds_total{pod=\"a\",path=\"\\\"x\\\\\\n\"} 0.045568307 1795233586665\n\
            cpu_seconds_total 100000000000000000000\n\
            # HELP took Time.\n# TYPE took histogram\ntook_bucket{le=\"+Inf\"} 3\n";
        assert_eq!(all.finish(), expected);
    }
}
