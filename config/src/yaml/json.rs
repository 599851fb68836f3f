//! A tree as JSON.

use serde_json::{Map, Number, Value};

use super::{Kind, Node, parse};
use crate::Problem;

/// The first document of a YAML or JSON text as JSON, by the rules that Kubernetes reads its objects with (YAML 1.1 scalars, text keys,
/// of duplicate keys the last). An empty text is an empty object. The limits are those of a configuration file.
///
/// # Errors
/// What is wrong with the text, with its line.
pub fn json(text: &str) -> Result<Value, Problem> {
    parse(text).map(value)
}

fn value(node: Node) -> Value {
    match node.kind {
        Kind::Null => Value::Null,
        Kind::Bool(value) => Value::Bool(value),
        Kind::Int(value) => Number::from_i128(value).map_or(Value::Null, Value::Number),
        Kind::Float(value) => Number::from_f64(value).map_or(Value::Null, Value::Number),
        Kind::Str(value) => Value::String(value),
        Kind::List(items) => items.into_iter().map(value).collect(),
        Kind::Map(entries) => {
            let mut map = Map::new();
            for entry in entries {
                map.insert(entry.key, value(entry.value));
            }
            Value::Object(map)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn objects_are_read_as_kubernetes_reads_them() {
        let text = "a: yes\nc: 1.5\nd: [x, ~, \"2\"]\n1: {e: lines}\na: no\n";
        let read = super::json(text).expect("YAML");
        assert_eq!(read["a"], json!(false));
        assert_eq!(read["c"], json!(1.5));
        assert_eq!(read["d"], json!(["x", null, "2"]));
        assert_eq!(read["1"], json!({"e": "lines"}));
        assert!(super::json("a: [").is_err());
        assert_eq!(
            super::json("{\"a\": {\"b\": [1, -2]}}").expect("JSON"),
            json!({"a": {"b": [1, -2]}})
        );
    }
}
