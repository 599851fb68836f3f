//! Objects keep every byte but for the type that is put before them.

use proptest::prelude::*;
use proto::Object;
use proto::golden::{Capture, Direction};

fn object(text: &str) -> Object {
    Object::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn captured_objects_keep_their_text_and_get_their_type() {
    let mut seen = 0;
    for capture in Capture::ALL {
        for (_, message) in capture.messages(Direction::Down) {
            let Ok(object) = message.content.object() else { continue };
            let golden: serde_json::Value = serde_json::from_str(message.content.get()).expect("it is JSON");
            let typed = object.clone().with_type("example/v1", "Example");
            let mut expected = golden.clone();
            let fields = expected.as_object_mut().expect("it is an object");
            fields.entry("kind").or_insert_with(|| "Example".into());
            fields.entry("apiVersion").or_insert_with(|| "example/v1".into());
            assert_eq!(
                serde_json::from_str::<serde_json::Value>(typed.json()).expect("it is JSON"),
                expected
            );
            assert_eq!(object.json(), message.content.get());
            assert_eq!(
                object.meta().uid,
                golden["metadata"]["uid"].as_str().unwrap_or_default()
            );
            seen += 1;
        }
    }
    assert!(seen > 150, "{seen} objects");
}

#[test]
fn a_type_is_put_before_what_lacks_it() {
    for (text, expected) in [
        ("{}", r#"{"apiVersion":"v1","kind":"Pod"}"#),
        ("{ }", r#"{"apiVersion":"v1","kind":"Pod" }"#),
        (
            r#"{"a":9007199254740993}"#,
            r#"{"apiVersion":"v1","kind":"Pod","a":9007199254740993}"#,
        ),
        (r#"{"kind":"X"}"#, r#"{"apiVersion":"v1","kind":"X"}"#),
        (r#"{"kind":"","a":1}"#, r#"{"a":1,"apiVersion":"v1","kind":"Pod"}"#),
        (r#"{"kind" : null,"a":1}"#, r#"{"a":1,"apiVersion":"v1","kind":"Pod"}"#),
        (
            r#"{"a":1,"apiVersion":""}"#,
            r#"{"a":1,"apiVersion":"v1","kind":"Pod"}"#,
        ),
        (r#"{"kind":"X","apiVersion":"y"}"#, r#"{"kind":"X","apiVersion":"y"}"#),
        (
            r#"{"data":{"kind":null}}"#,
            r#"{"apiVersion":"v1","kind":"Pod","data":{"kind":null}}"#,
        ),
    ] {
        let typed = object(text).with_type("v1", "Pod");
        assert_eq!(typed.json(), expected);
        assert!(!typed.meta().kind.is_empty() && !typed.meta().api_version.is_empty());
    }
}

#[test]
fn what_is_no_object_is_refused() {
    for text in [
        "",
        "[]",
        "\"x\"",
        "1",
        "null",
        "{",
        "{} x",
        r#"{"metadata":1}"#,
        r#"{"metadata":{"name":1}}"#,
    ] {
        assert!(Object::parse(text).is_err(), "{text}");
    }
    assert_eq!(object(" {\"metadata\":null}\n").json(), "{\"metadata\":null}");
}

/// Keys and strings as they occur, none of them a type key.
fn fields() -> impl Strategy<Value = serde_json::Map<String, serde_json::Value>> {
    prop::collection::btree_map("[a-z]{1,3}", ".*", 0..5)
        .prop_map(|map| map.into_iter().map(|(key, text)| (key, text.into())).collect())
}

proptest! {
    #[test]
    fn a_type_changes_nothing_else(fields in fields(), kind in prop::option::of(".*"), version in prop::option::of(".*")) {
        let mut value = fields;
        if let Some(kind) = kind { value.insert("kind".into(), kind.into()); }
        if let Some(version) = version { value.insert("apiVersion".into(), version.into()); }
        let typed = Object::from_value(&value).expect("it is an object").with_type("v1", "Pod");
        let is_empty = |value: &serde_json::Value| value.as_str().is_none_or(str::is_empty);
        for (key, default) in [("kind", "Pod"), ("apiVersion", "v1")] {
            let entry = value.entry(key).or_insert_with(|| "".into());
            if is_empty(entry) { *entry = default.into(); }
        }
        let read: serde_json::Map<_, _> = typed.view().expect("it is JSON");
        prop_assert_eq!(read, value);
    }

    #[test]
    fn random_text_never_panics(text in ".*") {
        if let Ok(object) = Object::parse(&text) {
            let _ = object.with_type("v1", "Pod");
        }
    }
}
