//! Twins as the cloud has them (spec 03 §3.3 "sync", "Must work" 20).

use serde_json::{Value, json};

use super::*;

fn expect(edge: &mut Edge, value: &str, cloud: i64, edge_version: i64) -> Vec<(String, Value)> {
    let twin = json!({"event_id": "c", "twin": {"temp": {
        "expected": {"value": value, "metadata": {"timestamp": 1}}, "optional": false, "metadata": {"type": "int"},
        "expected_version": {"cloud": cloud, "edge": edge_version},
    }}});
    edge.cloud("device/default/t1/twin/cloud_updated", &twin.to_string())
}

#[test]
fn a_newer_version_is_taken_and_not_echoed() {
    let mut edge = Edge::with_t1();
    edge.connect();
    let told = expect(&mut edge, "30", 5, 0);
    assert_eq!(topics(&told), ["/twin/update/document", "/twin/update/delta"]);
    assert_eq!(told[1].1["delta"], json!({"temp": "30"}));
    assert!(edge.sent().is_empty());
    let told = expect(&mut edge, "31", 6, 0);
    assert_eq!(told[0].1["twin"]["temp"]["last"]["expected"]["value"], "30");
    assert!(edge.sent().is_empty());
}

#[test]
fn an_older_version_is_refused_with_what_is_here() {
    let mut edge = Edge::with_t1();
    edge.connect();
    expect(&mut edge, "30", 5, 0);
    edge.update(r#"{"temp":{"expected":{"value":"33"}}}"#);
    let (id, message) = edge.sent().remove(0);
    assert_eq!(
        content(&message)["twin"]["temp"]["expected_version"],
        json!({"cloud": 5, "edge": 1})
    );
    edge.answer(id, Outcome::Confirmed);
    edge.wait(Duration::from_secs(1));
    for (cloud, own) in [(6, 0), (4, 1)] {
        let told = expect(&mut edge, "40", cloud, own);
        assert_eq!(topics(&told), ["/twin/update/delta"]);
        let (id, message) = edge.sent().remove(0);
        let twin = &content(&message)["twin"]["temp"];
        assert_eq!(
            (&twin["expected"]["value"], &twin["expected_version"]),
            (&json!("33"), &json!({"cloud": 5, "edge": 1}))
        );
        edge.answer(id, Outcome::Confirmed);
        edge.wait(Duration::from_secs(1));
    }
    assert_eq!(edge.twins()["temp"]["expected"]["value"], "33");
}

#[test]
fn entries_that_say_too_little_are_ignored() {
    let mut edge = Edge::with_t1();
    edge.connect();
    edge.update(r#"{"temp":{"actual":{"value":"21"},"metadata":{"type":"int"}}}"#);
    let (id, _) = edge.sent().remove(0);
    edge.answer(id, Outcome::Confirmed);
    let before = edge.twins();
    for twin in [
        json!({"temp": {"expected": {"value": "1"}}}),
        json!({"temp": null, "other": null}),
        json!({"temp": {"actual": {}, "metadata": {"type": "int"}}}),
        json!({"temp": {"actual": {"value": "x"}, "metadata": {"type": "int"}}}),
        json!({"new": {"expected": {"value": "1"}, "metadata": {"type": "int"}}}),
        json!({"new": {"metadata": {"type": "deleted"}}}),
        json!({"a b": {"metadata": {"type": "int"}}}),
    ] {
        let told = edge.cloud(
            "device/default/t1/twin/cloud_updated",
            &json!({"twin": twin}).to_string(),
        );
        assert!(told.is_empty(), "{twin}: {told:?}");
    }
    assert_eq!(edge.twins(), before);
}

#[test]
fn a_deletion_of_the_cloud_needs_no_version() {
    let mut edge = Edge::with_t1();
    expect(&mut edge, "30", 5, 0);
    let deleted = json!({"twin": {"temp": {"metadata": {"type": "deleted"}}}}).to_string();
    let told = edge.cloud("device/default/t1/twin/cloud_updated", &deleted);
    assert_eq!(topics(&told), ["/twin/update/document"]);
    assert_eq!(told[0].1["twin"]["temp"]["current"], Value::Null);
    assert_eq!(edge.twins(), json!({}));
    assert!(edge.cloud("device/default/t1/twin/cloud_updated", &deleted).is_empty());
    // Its versions are kept: what is older does not come back.
    expect(&mut edge, "29", 4, 0);
    assert_eq!(edge.twins(), json!({}));
}

#[test]
fn twins_come_with_a_new_device() {
    let mut edge = Edge::new();
    let added = json!({"added_devices": [{"id": "default/t1", "name": "t1", "twin": {"temp": {
        "expected": {"value": "30"}, "metadata": {"type": "int"}, "expected_version": {"cloud": 9, "edge": 0},
    }}}]});
    let told = edge.cloud("membership", &added.to_string());
    let names = topics(&told);
    assert_eq!(names[..2], ["/twin/update/document", "/twin/update/delta"]);
    let twin = &told[2].1["added_devices"][0]["twin"]["temp"];
    assert_eq!(
        (&twin["expected"]["value"], twin.get("expected_version")),
        (&json!("30"), None)
    );
}
