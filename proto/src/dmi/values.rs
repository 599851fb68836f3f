//! Free JSON values as protobuf's wrapped ones (spec 03 §5.4).

use std::collections::BTreeMap;

use prost_types::Any;
use serde_json::{Map, Number, Value};

use super::Warning;

/// How whole numbers are wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    /// As `Int64Value`: exact.
    Int64,
    /// As `Int32Value`, or as a float out of its range: readers that go by protobuf's JSON would see a string for an `Int64Value`.
    Int32,
}

/// Wraps each value of a free object. `path` is where it stands, for warnings.
pub(super) fn wrap(
    object: &Map<String, Value>,
    whole: Whole,
    path: &str,
    warnings: &mut Vec<Warning>,
) -> BTreeMap<String, Any> {
    let mut wrapped = BTreeMap::new();
    for (key, value) in object {
        match any(value, whole) {
            Ok(any) => {
                wrapped.insert(key.clone(), any);
            }
            Err(what) => warnings.push(Warning::Skipped {
                path: format!("{path}.{key}"),
                what,
            }),
        }
    }
    wrapped
}

fn any(value: &Value, whole: Whole) -> Result<Any, &'static str> {
    match value {
        Value::String(text) => pack(text),
        Value::Bool(truth) => pack(truth),
        Value::Number(number) => wrap_number(number, whole),
        Value::Object(_) => Err("an object"),
        Value::Array(_) => Err("a list"),
        Value::Null => Err("null"),
    }
}

fn wrap_number(number: &Number, whole: Whole) -> Result<Any, &'static str> {
    if let Some(integer) = integer(number) {
        match (whole, i32::try_from(integer)) {
            (Whole::Int64, _) => return pack(&integer),
            (Whole::Int32, Ok(small)) => return pack(&small),
            (Whole::Int32, Err(_)) => {}
        }
    }
    let wide = number.as_f64().ok_or(OUT_OF_RANGE)?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "mappers know single precision only; what does not fit is refused below"
    )]
    let single = wide as f32;
    if single.is_finite() {
        pack(&single)
    } else {
        Err(OUT_OF_RANGE)
    }
}

/// The number if it is whole: `3`, and `3.0` and `3e0` as far as such a number is exact.
fn integer(number: &Number) -> Option<i64> {
    number.as_i64().or_else(|| {
        let wide = number.as_f64().filter(|_| number.is_f64())?;
        #[expect(clippy::cast_possible_truncation, reason = "whole and within the bound")]
        let whole = wide as i64;
        (wide.fract() == 0.0 && wide.abs() <= EXACT).then_some(whole)
    })
}

fn pack<T: prost::Name>(value: &T) -> Result<Any, &'static str> {
    // Encoding into a growing buffer cannot fail.
    Any::from_msg(value).map_err(|_| OUT_OF_RANGE)
}

const OUT_OF_RANGE: &str = "a number out of range";
/// Up to here every whole number is a double: 2^53.
const EXACT: f64 = 9_007_199_254_740_992.0;
