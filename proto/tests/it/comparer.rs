//! The comparer of the golden tests finds what differs and nothing else.

use proto::golden::{Capture, Differences, Direction, join, join_answer, object_syncs};
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
    assert!((1..=30).contains(&Differences::all().len()));
}

#[test]
fn the_other_files_are_readable() {
    let exchanges: usize = Capture::ALL.iter().map(|capture| capture.exchanges().len()).sum();
    assert!(exchanges > 100, "{exchanges} exchanges");
    let upgrades: Vec<_> = Capture::ALL.iter().flat_map(|capture| capture.upgrades()).collect();
    let closes: Vec<_> = upgrades.iter().flat_map(|upgrade| &upgrade.closes).collect();
    assert_eq!(upgrades.len(), 15);
    assert_eq!(closes, [&(Direction::Up, Some(1000)), &(Direction::Down, Some(1000))]);
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
    assert_eq!(
        fields(&rules, json!({"uid": "x"}), json!({"uid": "y"})),
        ["content.uid"]
    );
    let headers =
        |golden: Value, ours: Value| rules.compare(Capture::Hub, &json!({"header": golden}), &json!({"header": ours}));
    assert_eq!(headers(json!({"msg_id": "x"}), json!({"msg_id": "y"})), []);
    assert_eq!(
        headers(json!({"msg_id": "x"}), json!({"msg_id": 1})).len(),
        1,
        "another type"
    );
    assert_eq!(headers(json!({"msg_id": "x"}), json!({})).len(), 1, "absent");
    assert_eq!(
        headers(json!({"parent_msg_id": "x"}), json!({"parent_msg_id": "y"})).len(),
        1
    );
    assert_eq!(
        fields(&rules, json!("{\"a\":1,\"b\":2}"), json!("{\"b\":2,\"a\":1}")),
        [""; 0]
    );
    assert_eq!(fields(&rules, json!("{\"a\":1}"), json!("{\"a\":2}")), ["content.a"]);
    assert_eq!(fields(&rules, json!("text"), json!("other")), ["content"]);
}

#[test]
fn each_rule_tells_whether_it_was_needed() {
    let row = |operation: &str, field: &str| {
        format!("| `hub-device` | `{operation}` | `*/pod or node/*` | `{field}` | why (01 §1) |\n")
    };
    let text = format!(
        "{NONE}{}{}",
        row("update", "content.a or b"),
        row("delete", "message if route.source=x")
    );
    let rules = Differences::parse(&text).expect("it is a table");
    assert_eq!(rules.unused().len(), 2);
    let message = |operation: &str, content: Value| json!({"route": {"operation": operation, "resource": "ns/pod/p", "source": "x"}, "content": content});
    let (golden, ours) = (message("update", json!({"b": 1})), message("update", json!({"b": 2})));
    assert_eq!(rules.compare(Capture::HubDevice, &golden, &ours), []);
    assert_eq!(rules.unused().len(), 1);
    assert!(!rules.unsent(Capture::HubDevice, &golden));
    assert!(rules.unsent(Capture::HubDevice, &message("delete", Value::Null)));
    assert_eq!(rules.unused(), [""; 0]);
    let nowhere = "| `hub` | `insert` | `*` | `content` | nobody plays it (01 §1) |\n";
    assert!(Differences::parse(&format!("{NONE}{nowhere}")).is_err());
}

#[test]
fn what_an_answer_of_the_join_says_is_told_link_by_link() {
    let said = |text: &str| {
        join_answer(format!("HTTP/1.1 401 Unauthorized\r\nDate: x\r\nAllow: GET\r\n\r\n{text}").as_bytes())
    };
    let whole = said("not signed, err: no: bad");
    let body = json!({"text": "not signed", "err": {"text": "no", "cause": {"text": "bad"}}});
    assert_eq!(
        whole,
        json!({"status": "401", "header": {"allow": "GET"}, "body": body})
    );
    let row = "| `join` | `GET` | `a step` | `body.err.cause.**` | why (01 §1) |\n";
    let rules = Differences::parse(&format!("{NONE}{row}")).expect("it is a table");
    let differ = |step: &str, text: &str| rules.compare_join("GET", step, &whole, &said(text)).len();
    assert_eq!(differ("a step", "not signed, err: no"), 0);
    assert_eq!(differ("a step", "not signed, err: no: worse"), 0);
    assert_eq!(differ("a step", "not signed: no"), 2);
    assert_eq!(differ("another step", "not signed, err: no: worse"), 1);
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
