//! Kubernetes quantities (`100m`, `1.5Gi`, `1e3`) as exact numbers.
//!
//! A quantity is a whole number of billionths, as in Kubernetes, where anything finer is rounded up. Every value that the API server
//! accepts (at most 2^63 - 1) fits with room for sums.

use std::cmp::Ordering;
use std::fmt;
use std::iter::Sum;
use std::ops::Add;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use thiserror::Error;

/// An amount of a resource. Amounts are compared by what they are, not by how they are written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// How an amount is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Format {
    /// `m`, `k`, `M`.
    #[default]
    Decimal,
    /// `Ki`, `Mi`.
    Binary,
    /// `e3`.
    Exponent,
}

/// Text that is not a quantity.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{text:?} is not a quantity such as 500m, 2 or 64Mi")]
pub struct BadQuantity {
    text: String,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self {
        nanos: 0,
        format: Format::Decimal,
    };

    /// So many units.
    pub fn units(units: i64) -> Self {
        Self {
            nanos: i128::from(units) * NANOS,
            format: Format::Decimal,
        }
    }

    /// So many thousandths.
    pub fn millis(millis: i64) -> Self {
        Self {
            nanos: i128::from(millis) * (NANOS / 1000),
            format: Format::Decimal,
        }
    }

    /// So many bytes, written with binary suffixes.
    pub fn bytes(bytes: i64) -> Self {
        Self {
            format: Format::Binary,
            ..Self::units(bytes)
        }
    }

    /// Reads the text of an object.
    pub fn parse(text: &str) -> Result<Self, BadQuantity> {
        parse(text).ok_or_else(|| BadQuantity { text: text.to_owned() })
    }

    /// Whole units, rounded up.
    pub fn value(self) -> i64 {
        saturate(ceil_div(self.nanos, NANOS))
    }

    /// Thousandths, rounded up.
    pub fn milli_value(self) -> i64 {
        saturate(ceil_div(self.nanos, NANOS / 1000))
    }

    /// Whether this is nothing.
    pub const fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether this is more than nothing.
    pub const fn is_positive(self) -> bool {
        self.nanos > 0
    }

    /// What remains after taking `other` away, never less than nothing.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self {
            nanos: self.nanos.saturating_sub(other.nanos).max(0),
            format: self.format,
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl TryFrom<&Text> for Quantity {
    type Error = BadQuantity;

    fn try_from(text: &Text) -> Result<Self, BadQuantity> {
        Self::parse(&text.0)
    }
}

impl From<Quantity> for Text {
    fn from(quantity: Quantity) -> Self {
        Self(quantity.to_string())
    }
}

impl Add for Quantity {
    type Output = Self;

    /// The first summand that is not zero gives the form, as in Kubernetes.
    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self {
            nanos: self.nanos.saturating_add(other.nanos),
            format,
        }
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: the largest suffix that leaves a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.nanos;
        if nanos == 0 {
            return f.write_str("0");
        }
        // Below 1024 a binary amount is written in decimal form, as is one with a fraction.
        if self.format == Format::Binary && nanos % NANOS == 0 && (nanos / NANOS).abs() >= 1024 {
            let mut amount = nanos / NANOS;
            let mut suffix = "";
            for (next, _) in BINARY {
                if amount % 1024 != 0 {
                    break;
                }
                amount /= 1024;
                suffix = next;
            }
            return write!(f, "{amount}{suffix}");
        }
        let mut amount = nanos;
        let mut exponent = -9;
        while amount % 1000 == 0 && exponent < 18 {
            amount /= 1000;
            exponent += 3;
        }
        if self.format == Format::Exponent {
            return if exponent == 0 {
                write!(f, "{amount}")
            } else {
                write!(f, "{amount}e{exponent}")
            };
        }
        let suffix = DECIMAL
            .iter()
            .find(|(_, e)| *e == exponent)
            .map_or("", |(suffix, _)| suffix);
        write!(f, "{amount}{suffix}")
    }
}

/// Billionths in a unit.
const NANOS: i128 = 1_000_000_000;

const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];

const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

/// Digits of the mantissa that are looked at: more would not fit, and no API server lets them through.
const MAX_DIGITS: usize = 28;

fn parse(text: &str) -> Option<Quantity> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let end = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let digits: String = [whole, fraction].concat();
    let digits = digits.trim_start_matches('0');
    if digits.len() > MAX_DIGITS {
        return None;
    }
    let mantissa: i128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    let scale = i32::try_from(fraction.len()).ok()?;

    let (nanos, format) = if let Some((_, bits)) = BINARY.iter().find(|(s, _)| *s == suffix) {
        let scaled = mantissa.checked_mul(1_i128 << bits)?;
        (shift(scaled, 9 - scale)?, Format::Binary)
    } else if let Some((_, exponent)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        (shift(mantissa, 9 - scale + exponent)?, Format::Decimal)
    } else {
        let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
        (
            shift(mantissa, 9_i32.checked_sub(scale)?.checked_add(exponent)?)?,
            Format::Exponent,
        )
    };
    // Larger amounts are capped, as in Kubernetes.
    let nanos = nanos.min(i128::from(i64::MAX) * NANOS);
    Some(Quantity {
        nanos: if negative { -nanos } else { nanos },
        format,
    })
}

/// `amount` times ten to the power of `exponent`, rounded up.
fn shift(amount: i128, exponent: i32) -> Option<i128> {
    if amount == 0 {
        return Some(0);
    }
    let Some(power) = 10_i128.checked_pow(exponent.unsigned_abs()) else {
        return if exponent < 0 { Some(1) } else { None };
    };
    if exponent >= 0 {
        amount.checked_mul(power)
    } else {
        Some(ceil_div(amount, power))
    }
}

/// Away from zero for positive numbers, towards it for negative ones, as a ceiling is.
const fn ceil_div(amount: i128, by: i128) -> i128 {
    let quotient = amount / by;
    if amount % by > 0 { quotient + 1 } else { quotient }
}

fn saturate(amount: i128) -> i64 {
    i64::try_from(amount).unwrap_or(if amount < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn q(text: &str) -> Quantity {
        Quantity::parse(text).expect(text)
    }

    #[test]
    fn values_are_those_of_kubernetes() {
        for (text, value, milli, canonical) in [
            ("0", 0, 0, "0"),
            ("100m", 1, 100, "100m"),
            ("1500m", 2, 1500, "1500m"),
            ("0.5", 1, 500, "500m"),
            ("2", 2, 2000, "2"),
            ("1k", 1000, 1_000_000, "1k"),
            ("1000", 1000, 1_000_000, "1k"),
            ("64Mi", 67_108_864, 67_108_864_000, "64Mi"),
            ("1.5Gi", 1_610_612_736, 1_610_612_736_000, "1536Mi"),
            ("100Ki", 102_400, 102_400_000, "100Ki"),
            ("512Ki", 524_288, 524_288_000, "512Ki"),
            ("1e3", 1000, 1_000_000, "1e3"),
            ("1E", 1_000_000_000_000_000_000, i64::MAX, "1E"),
            ("1n", 1, 1, "1n"),
            ("0.1n", 1, 1, "1n"),
            ("-1", -1, -1000, "-1"),
            (".5", 1, 500, "500m"),
            ("12.", 12, 12_000, "12"),
        ] {
            let quantity = q(text);
            assert_eq!(quantity.value(), value, "{text}");
            assert_eq!(quantity.milli_value(), milli, "{text}");
            assert_eq!(quantity.to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "m",
            "1.2.3",
            "1x",
            "--1",
            "1 Gi",
            "Gi",
            "1e",
            "999999999999999999999999999999999999999",
        ] {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sums_keep_the_form_of_the_first() {
        assert_eq!((q("64Mi") + q("64Mi")).to_string(), "128Mi");
        assert_eq!((q("250m") + q("1")).to_string(), "1250m");
        assert_eq!(["1Gi", "512Mi"].map(q).into_iter().sum::<Quantity>(), q("1536Mi"));
        assert_eq!(q("1Gi").saturating_sub(q("2Gi")), Quantity::ZERO);
    }
}
