//! The comparer of the golden tests finds what differs and nothing else.

use proto::golden::{Capture, Differences, join, object_syncs};
use serde_json::{Value, json};

const NONE: &str = "| capture | operation | resource | field | reason |\n|---|---|---|---|---|\n";

fn answer(content: Value) -> Value {
    json!({"header": {"msg_id": "a", "timestamp": 1}, "route": {"operation": "response", "resource": "ns/pod/x"}, "content": content})
}

fn fields(rules: &Differences, golden: Value, ours: Value) -> Vec<String> {
    let found = rules.compare(Capture::HubSim, &answer(golden), &answer(ours));
    found.into_iter().map(|difference| difference.field).collect()
}

#[test]
fn the_committed_list_is_well_formed_and_short() {
    assert!((1..=30).contains(&Differences::committed().len()));
}

#[test]
fn the_other_files_are_readable() {
    let exchanges: usize = Capture::ALL.iter().map(|capture| capture.exchanges().len()).sum();
    assert!(exchanges > 100, "{exchanges} exchanges");
    assert_eq!(join().len(), 42);
    assert_eq!(object_syncs().len(), 8);
}

#[test]
fn a_capture_equals_itself() {
    let rules = Differences::parse(NONE).expect("an empty table is fine");
    assert!(rules.is_empty());
    for exchange in Capture::ALL.iter().flat_map(|capture| capture.exchanges()) {
        assert_eq!(rules.compare(Capture::Hub, &exchange.answer, &exchange.answer), []);
    }
}

#[test]
fn values_lengths_and_presence_are_compared() {
    let rules = Differences::parse(NONE).expect("an empty table is fine");
    assert_eq!(
        fields(
            &rules,
            json!({"a": 1, "b": [1, 2]}),
            json!({"a": 2, "b": [1], "c": null})
        ),
        ["content.a", "content.b.1", "content.c"]
    );
    assert_eq!(fields(&rules, json!({"uid": "x"}), json!({"uid": "y"})), [""; 0]);
    assert_eq!(fields(&rules, json!({"uid": "x"}), json!({"uid": 1})), ["content.uid"]);
    assert_eq!(fields(&rules, json!({"uid": "x"}), json!({})), ["content.uid"]);
    assert_eq!(
        fields(&rules, json!("{\"a\":1,\"b\":2}"), json!("{\"b\":2,\"a\":1}")),
        [""; 0]
    );
    assert_eq!(fields(&rules, json!("{\"a\":1}"), json!("{\"a\":2}")), ["content.a"]);
    assert_eq!(fields(&rules, json!("text"), json!("other")), ["content"]);
}

#[test]
fn a_rule_allows_its_field_only() {
    let text = format!("{NONE}| `hub-sim` | `response` | `*/pod/*` | `content.a.** if content.b` | why (01 §1) |\n");
    let rules = Differences::parse(&text).expect("it is a table");
    assert_eq!(
        fields(&rules, json!({"a": {"x": 1}, "b": 1}), json!({"a": {"x": 2}, "b": 2})),
        ["content.b"]
    );
    assert_eq!(
        fields(
            &rules,
            json!({"a": {"x": 1}, "b": null}),
            json!({"a": {"x": 2}, "b": null})
        ),
        ["content.a.x"]
    );
    let (golden, ours) = (answer(json!({"a": 1, "b": 1})), answer(json!({"a": 2, "b": 1})));
    assert_eq!(rules.compare(Capture::Hub, &golden, &ours).len(), 1, "another capture");
    assert!(Differences::parse(&format!("{NONE}| a | b | c | d | no section |\n")).is_err());
    assert!(Differences::parse(&format!("{NONE}| a | b | c | d §1 |\n")).is_err());
}
