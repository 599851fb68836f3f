//! Durations in Go's notation.

use std::fmt;
use std::time::Duration;

/// A signed duration in nanoseconds, read and printed in Go's notation (`2m0s`, `100ms`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(i64);

impl GoDuration {
    /// From nanoseconds.
    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// From whole seconds.
    #[must_use]
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(NANOS))
    }

    /// Nanoseconds, negative ones too.
    #[must_use]
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// As a standard duration; a negative one counts as zero.
    #[must_use]
    pub fn to_std(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }

    /// Reads Go's notation: `[-+]` and numbers with the units ns, us, µs, ms, s, m, h.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, mut rest) = match text.chars().next()? {
            '-' => (true, text.get(1..)?),
            '+' => (false, text.get(1..)?),
            _ => (false, text),
        };
        if rest == "0" {
            return Some(Self(0));
        }
        if rest.is_empty() {
            return None;
        }
        let mut total: i128 = 0;
        while !rest.is_empty() {
            let number_end = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(rest.len());
            let (number, tail) = rest.split_at(number_end);
            let unit_end = tail
                .find(|c: char| c.is_ascii_digit() || c == '.')
                .unwrap_or(tail.len());
            let (unit, next) = tail.split_at(unit_end);
            total = total.checked_add(part(number, scale(unit)?)?)?;
            rest = next;
        }
        let total = if negative { -total } else { total };
        i64::try_from(total).ok().map(Self)
    }
}

impl From<Duration> for GoDuration {
    fn from(value: Duration) -> Self {
        Self(i64::try_from(value.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let nanos = self.0.unsigned_abs();
        let below_second = [(1_000_000, "ms"), (1_000, "µs"), (1, "ns")];
        if nanos < SECOND {
            let (unit, name) = below_second
                .into_iter()
                .find(|(unit, _)| nanos >= *unit)
                .unwrap_or((1, "ns"));
            return write!(f, "{}{name}", decimal(nanos, unit));
        }
        let (minutes, within) = (nanos / (60 * SECOND), nanos % (60 * SECOND));
        let seconds = decimal(within, SECOND);
        match (minutes / 60, minutes % 60) {
            (0, 0) => write!(f, "{seconds}s"),
            (0, minutes) => write!(f, "{minutes}m{seconds}s"),
            (hours, minutes) => write!(f, "{hours}h{minutes}m{seconds}s"),
        }
    }
}

fn scale(unit: &str) -> Option<i128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// `number` times `scale`; digits below a nanosecond are cut off, as in Go.
fn part(number: &str, scale: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(scale)?;
    let mut place = scale;
    for digit in fraction.chars() {
        place /= 10;
        total += i128::from(digit.to_digit(10)?) * place;
    }
    Some(total)
}

fn decimal(value: u64, unit: u64) -> String {
    let (whole, rest) = (value / unit, value % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    let fraction = format!("{rest:0width$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

const NANOS: i64 = 1_000_000_000;
const SECOND: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_notation_both_ways() {
        for text in [
            "0s",
            "10s",
            "2m0s",
            "4h0m0s",
            "100ms",
            "1.5s",
            "1h0m0.25s",
            "-3s",
            "15µs",
            "7ns",
        ] {
            assert_eq!(GoDuration::parse(text).map(|d| d.to_string()).as_deref(), Some(text));
        }
        assert_eq!(
            GoDuration::parse("1h30m").map(GoDuration::as_nanos),
            Some(5_400_000_000_000)
        );
        assert_eq!(GoDuration::parse("0"), Some(GoDuration(0)));
        for text in ["", "-", "10", "s", "1d", "1.2.3s", ".s", "9223372036854775808s"] {
            assert_eq!(GoDuration::parse(text), None, "{text}");
        }
    }
}
