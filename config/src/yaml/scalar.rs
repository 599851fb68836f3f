//! What a plain (unquoted) scalar means in YAML 1.1.

use super::Kind;

/// Resolves a plain scalar.
pub(super) fn resolve(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Kind::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Kind::Bool(false);
        }
        _ => {}
    }
    let starts = text.chars().next();
    if !starts.is_some_and(|c| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Kind::Str(text.to_owned());
    }
    let bare: String = text.chars().filter(|c| *c != '_').collect();
    integer(&bare)
        .map(Kind::Int)
        .or_else(|| float(&bare).map(Kind::Float))
        .unwrap_or_else(|| Kind::Str(text.to_owned()))
}

/// Whether a string, written plain, would be read back as the same string.
pub(super) fn reads_back_as_string(text: &str) -> bool {
    matches!(resolve(text), Kind::Str(_)) && !is_base60(text) && !is_timestamp_like(text)
}

/// Decimal, `0x`, `0b`, `0o` and, as YAML 1.1 has it, a leading zero for octal; 64 bits at most.
fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = if let Some(hex) = lower.strip_prefix("0x") {
        (16, hex)
    } else if let Some(bin) = lower.strip_prefix("0b") {
        (2, bin)
    } else if let Some(oct) = lower.strip_prefix("0o") {
        (8, oct)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, lower.get(1..)?)
    } else {
        (10, lower.as_str())
    };
    if body.is_empty() || !body.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let value = i128::from(u64::from_str_radix(body, radix).ok()?);
    let value = if negative { -value } else { value };
    (value >= i128::from(i64::MIN)).then_some(value)
}

fn float(text: &str) -> Option<f64> {
    match text {
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Some(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Some(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Some(f64::NAN),
        _ => {}
    }
    // Rust also reads "inf", "nan" and "1e": only digits, one point and an exponent are numbers in YAML.
    let mantissa = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digits_first = mantissa.starts_with(|c: char| c.is_ascii_digit());
    let point_then_digit = mantissa
        .strip_prefix('.')
        .is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()));
    if !(digits_first || point_then_digit) {
        return None;
    }
    text.parse().ok()
}

/// A float as Go's `%g` with the shortest digits prints it.
pub(super) fn float_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..21).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    format!("{value}")
}

/// `190:20:30` is a number for other YAML 1.1 readers, so writers quote it.
fn is_base60(text: &str) -> bool {
    let body = text.strip_prefix(['-', '+']).unwrap_or(text);
    let mut parts = body.split(':');
    let first = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    !rest.is_empty()
        && first.starts_with(|c: char| c.is_ascii_digit())
        && first.chars().all(|c| c.is_ascii_digit() || c == '_')
        && rest.iter().enumerate().all(|(i, part)| {
            let whole = if i + 1 == rest.len() {
                part.split('.').next().unwrap_or_default()
            } else {
                part
            };
            matches!(whole.len(), 1 | 2) && whole.chars().all(|c| c.is_ascii_digit()) && whole < "60"
        })
}

fn is_timestamp_like(text: &str) -> bool {
    let mut chars = text.chars();
    let year = chars.by_ref().take(4).filter(char::is_ascii_digit).count() == 4;
    year && chars.next() == Some('-') && text.chars().all(|c| c.is_ascii_digit() || "-:.TtZz+ ".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_follow_yaml_1_1() {
        for (text, kind) in [
            ("", Kind::Null),
            ("~", Kind::Null),
            ("yes", Kind::Bool(true)),
            ("Off", Kind::Bool(false)),
            ("10000", Kind::Int(10_000)),
            ("-1", Kind::Int(-1)),
            ("0x10", Kind::Int(16)),
            ("010", Kind::Int(8)),
            ("1_000", Kind::Int(1000)),
            ("0.9", Kind::Float(0.9)),
            ("1e3", Kind::Float(1000.0)),
            ("inf", Kind::Str("inf".into())),
            ("1.2.3.4", Kind::Str("1.2.3.4".into())),
            ("10s", Kind::Str("10s".into())),
            ("-", Kind::Str("-".into())),
            ("099", Kind::Float(99.0)),
            ("18446744073709551616", Kind::Float(18_446_744_073_709_551_616.0)),
        ] {
            assert_eq!(resolve(text), kind, "{text}");
        }
    }

    #[test]
    fn floats_print_as_go_prints_them() {
        assert_eq!(float_text(0.9), "0.9");
        assert_eq!(float_text(1e21), "1e+21");
        assert_eq!(float_text(0.00001), "1e-05");
        assert_eq!(float_text(1000.0), "1000");
    }
}
