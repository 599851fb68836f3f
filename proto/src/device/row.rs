//! The texts in columns of `device_twin` and `device_attr`, as Go writes them (spec 03 §3.2).

use serde::{Deserialize, Serialize};

use super::twin::TwinVersion;

/// `metadata`: what a type is not a part of. There is nothing else.
pub const ROW_METADATA: &str = "{}";

/// `expected_meta`, `actual_meta`: the time of a value.
#[derive(Serialize, Deserialize)]
struct ValueMeta {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timestamp: Option<i64>,
}

/// The time in `expected_meta` or `actual_meta`; `None` when there is none or it cannot be read.
pub fn timestamp_of_row(text: &str) -> Option<i64> {
    serde_json::from_str::<ValueMeta>(text).ok()?.timestamp
}

/// `expected_meta` or `actual_meta` of a value.
pub fn timestamp_to_row(timestamp: Option<i64>) -> String {
    serde_json::to_string(&ValueMeta { timestamp }).unwrap_or_default()
}

impl TwinVersion {
    /// Reads `expected_version` or `actual_version`.
    pub fn of_row(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// `expected_version` or `actual_version`.
    pub fn to_row(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_go() {
        assert_eq!(timestamp_to_row(Some(1767323045000)), r#"{"timestamp":1767323045000}"#);
        assert_eq!(timestamp_of_row(r#"{"timestamp":1767323045000}"#), Some(1767323045000));
        let version = TwinVersion { cloud: 0, edge: 3 };
        assert_eq!(version.to_row(), r#"{"cloud":0,"edge":3}"#);
        assert_eq!(TwinVersion::of_row(r#"{"cloud":0,"edge":3}"#), Some(version));
    }

    #[test]
    fn damaged_texts_are_nothing() {
        for text in ["", "null", "{", r#"{"timestamp":"x"}"#] {
            assert_eq!(timestamp_of_row(text), None, "{text}");
        }
        assert_eq!(TwinVersion::of_row(""), None);
        assert_eq!(TwinVersion::of_row("null"), None);
    }
}
