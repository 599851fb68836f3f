//! Which names and values a twin takes (spec 03 §3.1).

use thiserror::Error;

/// The type of a property of which nobody said it.
pub(super) const DEFAULT_KIND: &str = "string";
/// Bytes of a name.
const MAX_NAME: usize = 128;
/// Bytes of a value. Go takes 512 of a small set of letters; the cloud checks nothing.
pub(super) const MAX_VALUE: usize = 16 * 1024;

/// Why a name or a value is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum BadValue {
    #[error(
        "The key of twin must only include upper or lowercase letters, number, english, and special letter - _ . , : / @ # \
         and the length of key should be less than {MAX_NAME} bytes"
    )]
    Name,
    #[error("The value of twin must only include UTF-8 and the length of value should be less than {MAX_VALUE} bytes")]
    Size,
    #[error("the value is not int or integer")]
    Int,
    #[error("the value is not float")]
    Float,
    #[error("the bool value must be true or false")]
    Boolean,
    #[error("the value type is not allowed")]
    Kind,
}

/// A name of a property.
pub(super) fn check_name(name: &str) -> Result<(), BadValue> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.,:/@#".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_allowed) {
        return Err(BadValue::Name);
    }
    Ok(())
}

/// The size of a value.
pub(super) const fn check_size(value: &str) -> Result<(), BadValue> {
    if value.len() > MAX_VALUE {
        return Err(BadValue::Size);
    }
    Ok(())
}

/// A value of a type.
pub(super) fn check(kind: &str, value: &str) -> Result<(), BadValue> {
    check_size(value)?;
    match kind {
        "" | "string" | "bytes" | super::device::DELETED => Ok(()),
        "int" | "integer" => value.parse::<i64>().map(drop).map_err(|_| BadValue::Int),
        "float" | "double" => value.parse::<f64>().map(drop).map_err(|_| BadValue::Float),
        "boolean" if matches!(value, "true" | "false") => Ok(()),
        "boolean" => Err(BadValue::Boolean),
        _ => Err(BadValue::Kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked() {
        for (kind, value) in [
            ("", "x"),
            ("string", "hello world {\"a\":1} ü"),
            ("int", "-5"),
            ("integer", "9223372036854775807"),
            ("float", "1e3"),
            ("double", "0.1"),
            ("boolean", "false"),
            ("bytes", "AA=="),
            ("deleted", "x"),
        ] {
            assert_eq!(check(kind, value), Ok(()), "{kind} {value}");
        }
        for (kind, value, error) in [
            ("int", "abc", BadValue::Int),
            ("int", "", BadValue::Int),
            ("integer", "9223372036854775808", BadValue::Int),
            ("float", "1,5", BadValue::Float),
            ("boolean", "True", BadValue::Boolean),
            ("INT", "1", BadValue::Kind),
            ("stream", "", BadValue::Kind),
        ] {
            assert_eq!(check(kind, value), Err(error), "{kind} {value}");
        }
        assert_eq!(check("string", &"x".repeat(MAX_VALUE + 1)), Err(BadValue::Size));
    }

    #[test]
    fn names_are_those_that_go_takes() {
        assert_eq!(check_name("aZ09-_.,:/@#"), Ok(()));
        for name in ["", "a b", "ü", "a+b", &"x".repeat(129)] {
            assert_eq!(check_name(name), Err(BadValue::Name), "{name}");
        }
    }
}
