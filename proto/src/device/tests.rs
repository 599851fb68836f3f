//! The examples of spec 03 and the captured payloads, word for word.

use super::*;

#[test]
fn captured_twin_messages_are_written_as_they_were_read() {
    for text in [
        r#"{"event_id":"u1","timestamp":7,"twin":{"temp":{"actual":{"value":"21","metadata":{"timestamp":7}},"optional":true,"metadata":{"type":"int"},"actual_version":{"cloud":0,"edge":1}}}}"#,
        r#"{"event_id":"u1","timestamp":7,"twin":{"temp":{"actual":{},"optional":true,"metadata":{"type":"deleted"},"expected_version":{"cloud":0,"edge":0},"actual_version":{"cloud":0,"edge":2}}}}"#,
        r#"{"event_id":"e","timestamp":7,"twin":{"temp":null}}"#,
    ] {
        let update = TwinUpdate::parse(text.as_bytes()).expect("a twin update");
        assert_eq!(update.to_json(), text);
    }
}

#[test]
fn the_case_of_keys_does_not_matter_but_that_of_names_does() {
    let update =
        TwinUpdate::parse(br#"{"EVENT_ID":"e","Twin":{"Temp":{"Actual":{"Value":"5"},"Metadata":{"Type":"int"}}}}"#);
    let update = update.expect("a twin update");
    let twin = update.twin.expect("twins").remove("Temp").flatten().expect("Temp");
    assert_eq!((update.event_id.as_str(), twin.kind.as_deref()), ("e", Some("int")));
    assert_eq!(twin.actual.and_then(|actual| actual.value).as_deref(), Some("5"));
}

#[test]
fn what_is_no_object_or_has_wrong_types_is_refused() {
    for text in [
        "",
        "not json",
        "[]",
        "null",
        r#"{"twin":[]}"#,
        r#"{"twin":{"a":5}}"#,
        r#"{"twin":{"a":{"actual":{"value":1}}}}"#,
    ] {
        assert!(TwinUpdate::parse(text.as_bytes()).is_err(), "{text}");
    }
    assert!(TwinUpdate::parse(br#"{"twin":null}"#).expect("no twins").twin.is_none());
    assert!(matches!(
        TwinUpdate::parse(&vec![b' '; MAX_PAYLOAD + 1]),
        Err(BadPayload::TooLarge(_))
    ));
}

#[test]
fn membership_has_the_forms_of_go() {
    let text = r#"{"event_id":"6f0c","timestamp":1767323045000,"added_devices":[{"id":"default/t1","name":"t1","description":"d"}],"removed_devices":null}"#;
    assert_eq!(
        MembershipUpdate::parse(text.as_bytes()).expect("membership").to_json(),
        text
    );
    let text = r#"{"event_id":"e4","timestamp":1,"devices":[{"id":"default/thermo-1","name":"thermo-1","state":"offline","twin":{}}]}"#;
    assert_eq!(
        MembershipDetail::parse(text.as_bytes()).expect("detail").to_json(),
        text
    );
}

#[test]
fn states_are_read_in_both_forms() {
    let text = r#"{"event_id":"e","timestamp":1,"device":{"name":"t1","state":"online","lastOnlineTime":"2026-01-02T03:04:05Z"}}"#;
    let state = StateUpdate::parse(text.as_bytes()).expect("state");
    assert_eq!(state.to_json(), text);
    assert_eq!(
        StateUpdate::parse(
            text.replace("lastOnlineTime", "last_online")
                .replace("device", "Device")
                .as_bytes()
        )
        .expect("old"),
        state
    );
    assert_eq!(
        StateUpdate::parse_request(br#"{"event_id":"e3","state":"offline"}"#)
            .expect("request")
            .state,
        "offline"
    );
}

#[test]
fn ids_have_one_or_two_parts() {
    assert_eq!(DeviceId::parse("a/b").map(|id| id.to_string()).as_deref(), Some("a/b"));
    assert_eq!(DeviceId::parse("b").map(|id| id.to_string()).as_deref(), Some("b"));
    for text in ["", "/", "a/", "/b", "a/b/c"] {
        assert_eq!(DeviceId::parse(text), None, "{text}");
    }
}

#[test]
fn questions_of_the_history_are_read_and_answers_written() {
    let asked = br#"{"event_id":"e","property":"temp","from":1,"limit":2,"after":"5.1","Newest":true}"#;
    let request = HistoryRequest::parse(asked).expect("a question");
    assert_eq!((request.from, request.to, request.limit), (Some(1), None, Some(2)));
    assert!(request.newest && request.after.as_deref() == Some("5.1"));
    assert!(HistoryRequest::parse(br#"{"limit":"2"}"#).is_err());
    let values = Remembered::Values {
        property: "temp".to_owned(),
        kind: "int".to_owned(),
        values: vec![HistoryValue {
            time: 5,
            value: "21".to_owned(),
        }],
        next: None,
    };
    let answer = HistoryAnswer {
        event_id: Some("e".to_owned()),
        timestamp: Some(7),
        device: Some("default/t1".to_owned()),
        found: Found::Remembered(values),
    };
    let text = r#"{"event_id":"e","timestamp":7,"device":"default/t1","property":"temp","type":"int","values":[{"time":5,"value":"21"}]}"#;
    assert_eq!(answer.to_json(), text);
    let refused = Found::Refused {
        code: 404,
        reason: "no".to_owned(),
    };
    let answer = HistoryAnswer {
        event_id: None,
        timestamp: None,
        device: None,
        found: refused,
    };
    assert_eq!(answer.to_json(), r#"{"code":404,"reason":"no"}"#);
}

#[test]
fn topics_of_edges_are_read_and_written() {
    use crate::{Group, Route};
    for (text, part) in [
        ("device/ns/d1/twin/edge_updated", DevicePart::Twin),
        ("device/ns/d1/state/update", DevicePart::State),
        ("device/d1/twin/edge_updated", DevicePart::Twin),
    ] {
        let topic = DeviceTopic::of(&Route::parse(&Group::Resource, text)).expect("a topic");
        assert_eq!((topic.part, topic.route().render().as_str()), (part, text));
    }
    for text in [
        "device/ns/d1/twin/cloud_updated",
        "device//twin/edge_updated",
        "device/a/b/c/state/update",
        "membership/detail",
    ] {
        assert!(
            DeviceTopic::of(&Route::parse(&Group::Resource, text)).is_none(),
            "{text}"
        );
    }
}

#[test]
fn a_status_keeps_what_it_does_not_know_and_leaves_out_what_is_empty() {
    let object = r#"{"metadata":{"name":"d","resourceVersion":"7"},"status":{"extensions":{"a":1},"twins":[{"propertyName":"t","more":1,
        "reported":{"value":"21","metadata":{"timestamp":"5","type":"int"}}},5]}}"#;
    let mut status = DeviceStatus::of(&crate::Object::parse(object).expect("object")).expect("status");
    assert_eq!(status.twins[0].reported.timestamp(), Some(5));
    status.state = "online".into();
    let patch: serde_json::Value = serde_json::from_str(&status.patch()).expect("JSON");
    let twins = serde_json::json!([{"propertyName": "t", "more": 1, "observedDesired": {"value": ""},
        "reported": {"value": "21", "metadata": {"timestamp": "5", "type": "int"}}}]);
    assert_eq!(
        patch,
        serde_json::json!({"metadata": {"resourceVersion": "7"}, "status": {"state": "online", "twins": twins}})
    );
}

#[test]
fn a_status_is_of_the_device_that_owns_it_or_of_any_when_it_names_none() {
    let status = |owners: &str| {
        let object = format!(r#"{{"metadata":{{"name":"d","resourceVersion":"7","ownerReferences":{owners}}}}}"#);
        DeviceStatus::of(&crate::Object::parse(&object).expect("object")).expect("status")
    };
    let owner = |kind: &str, uid: &str| {
        format!(r#"{{"apiVersion":"devices.kubeedge.io/v1beta1","kind":"{kind}","uid":"{uid}"}}"#)
    };
    let owned = status(&format!("[{},{}]", owner("Other", "o"), owner("Device", "u")));
    assert!(owned.is_of(&"u".into()));
    assert!(!owned.is_of(&"o".into()));
    for none in ["null", "[]", format!("[{}]", owner("Other", "o")).as_str()] {
        assert!(status(none).is_of(&"u".into()), "{none}");
    }
}

#[test]
fn facts_of_devices_take_null_and_empty_for_absent() {
    let facts = |text: &str| DeviceFacts::of(&crate::Object::parse(text).expect("object")).expect("facts");
    let text = r#"{"metadata":{"labels":{"description":"d"}},"spec":{"nodeName":"n","deviceModelRef":{"name":"m"},"properties":[{"name":"a"},{}]}}"#;
    assert_eq!(
        facts(text),
        DeviceFacts {
            node: Some("n".into()),
            model: Some("m".into()),
            properties: vec!["a".into()],
            description: "d".into(),
            has_old_clients: false,
        }
    );
    for text in [
        r#"{"metadata":null,"spec":{"nodeName":"","deviceModelRef":null,"properties":null}}"#,
        "{}",
    ] {
        assert_eq!(facts(text), DeviceFacts::default());
    }
}

#[test]
fn old_clients_are_seen_by_their_writes_and_by_values_in_the_status() {
    let seen = |text: &str| {
        let object = crate::Object::parse(text).expect("object");
        DeviceFacts::of(&object).expect("facts").has_old_clients
    };
    for text in [
        r#"{"metadata":{"managedFields":[{"apiVersion":"devices.kubeedge.io/v1beta1"},{"apiVersion":"devices.kubeedge.io/v1alpha2"}]}}"#,
        r#"{"status":{"twins":[{"propertyName":"a"},{"propertyName":"b","reported":{"value":"1"}}]}}"#,
    ] {
        assert!(seen(text), "{text}");
    }
    for text in [
        r#"{"metadata":{"managedFields":[{"manager":"x"},{"apiVersion":"devices.kubeedge.io/v1beta1"}]},"status":{}}"#,
        r#"{"metadata":{"managedFields":null},"status":{"twins":[{"propertyName":"a","reported":{"value":""}},7]}}"#,
        r#"{"status":{"twins":{}}}"#,
        r#"{"status":7}"#,
    ] {
        assert!(!seen(text), "{text}");
    }
}
