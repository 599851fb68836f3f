//! Requests of MQTT clients and mappers (spec 03 "Must work" 14 to 21, 23).

use serde_json::{Value, json};

use super::*;

const INT_21: &str = r#"{"temp":{"actual":{"value":"21"},"metadata":{"type":"int"}}}"#;

#[test]
fn the_example_of_the_documentation_word_for_word() {
    let mut edge = Edge::with_t1();
    let input = Input::Mqtt {
        topic: format!("{T1}/twin/update"),
        payload: format!(r#"{{"event_id":"e1","timestamp":1,"twin":{INT_21}}}"#).into(),
    };
    let texts: Vec<(String, String)> = edge
        .feed(vec![input])
        .into_iter()
        .map(|told| (told.topic, String::from_utf8(told.payload.to_vec()).expect("text")))
        .collect();
    let value = format!(
        r#"{{"actual":{{"value":"21","metadata":{{"timestamp":{START}}}}},"optional":true,"metadata":{{"type":"int"}}}}"#
    );
    assert_eq!(
        texts,
        [
            (
                format!("{T1}/twin/update/result"),
                format!(r#"{{"event_id":"e1","timestamp":{START},"twin":{{"temp":{value}}}}}"#)
            ),
            (
                format!("{T1}/twin/update/document"),
                format!(
                    r#"{{"event_id":"e1","timestamp":{START},"twin":{{"temp":{{"last":null,"current":{value}}}}}}}"#
                )
            ),
        ]
    );
    assert_eq!(edge.news.len(), 1);
    edge.restart();
    assert_eq!(
        edge.twins()["temp"],
        serde_json::from_str::<Value>(&value).expect("JSON")
    );
}

#[test]
fn a_deletion_hides_the_twin_until_it_is_written_again() {
    let mut edge = Edge::with_t1();
    edge.update(INT_21);
    let told = edge.update(r#"{"temp":null}"#);
    assert_eq!(topics(&told), ["/twin/update/result", "/twin/update/document"]);
    assert_eq!(told[0].1["twin"], json!({"temp": null}));
    assert_eq!(told[1].1["twin"]["temp"]["current"], Value::Null);
    assert_eq!(edge.twins(), json!({}));
    // Again: nothing to delete.
    assert_eq!(edge.update(r#"{"temp":null,"other":null}"#)[0].1["twin"], json!({}));
    let told = edge.update(r#"{"temp":{"actual":{"value":"1.5"},"metadata":{"type":"float"}}}"#);
    assert_eq!(told[1].1["twin"]["temp"]["last"], Value::Null);
    assert_eq!(told[1].1["twin"]["temp"]["current"]["metadata"]["type"], "float");
}

#[test]
fn what_is_mandatory_cannot_be_deleted() {
    let mut edge = Edge::with_t1();
    edge.update(r#"{"temp":{"actual":{"value":"21"},"optional":false}}"#);
    let told = edge.update(r#"{"temp":null}"#);
    assert_eq!(topics(&told), ["/twin/update/result"]);
    assert_eq!(told[0].1["twin"], json!({}));
    assert_eq!(edge.twins()["temp"]["actual"]["value"], "21");
}

#[test]
fn a_delta_tells_what_is_not_as_it_should_be() {
    let mut edge = Edge::with_t1();
    let told = edge.update(r#"{"temp":{"expected":{"value":"30"},"actual":{"value":"21"}}}"#);
    assert_eq!(
        topics(&told),
        ["/twin/update/result", "/twin/update/document", "/twin/update/delta"]
    );
    assert_eq!(told[2].1["delta"], json!({"temp": "30"}));
    assert_eq!(told[2].1["twin"]["temp"]["actual"]["value"], "21");
    let told = edge.update(r#"{"temp":{"actual":{"value":"30"}}}"#);
    assert_eq!(topics(&told), ["/twin/update/result", "/twin/update/document"]);
    // Only what was given is in the result, all of it in the document.
    assert_eq!(told[0].1["twin"]["temp"].get("expected"), None);
    assert_eq!(told[1].1["twin"]["temp"]["current"]["expected"]["value"], "30");
}

#[test]
fn bad_requests_are_answered_and_change_nothing() {
    let mut edge = Edge::with_t1();
    edge.update(INT_21);
    let long = format!(r#"{{"twin":{{"{}":{{}}}}}}"#, "k".repeat(129));
    let large = format!(
        r#"{{"twin":{{"a":{{"actual":{{"value":"{}"}}}}}}}}"#,
        "v".repeat(1024 * 1024)
    );
    for (payload, event, reason) in [
        ("", "", "Unmarshal update request body failed"),
        ("not json", "", "Unmarshal update request body failed"),
        ("null", "", "Unmarshal update request body failed"),
        ("[]", "", "Unmarshal update request body failed"),
        (
            r#"{"event_id":"x","twin":[]}"#,
            "x",
            "Unmarshal update request body failed",
        ),
        (
            r#"{"event_id":"x","twin":null}"#,
            "x",
            "Update twin error, key:twin does not exist",
        ),
        (r#"{"event_id":"x"}"#, "x", "Update twin error, key:twin does not exist"),
        (
            r#"{"twin":{"temp":{"actual":{}}}}"#,
            "",
            "Update twin error, actual of temp has no value",
        ),
        (
            r#"{"twin":{"b":{"expected":{}}}}"#,
            "",
            "Update twin error, expected of b has no value",
        ),
        (
            r#"{"event_id":"x","twin":{"a":{"expected":{"value":1}}}}"#,
            "x",
            "Unmarshal",
        ),
        (r#"{"twin":{"a b":{}}}"#, "", "The key of twin must only include"),
        (&long, "", "The key of twin must only include"),
        (&large, "", "Unmarshal"),
        (
            r#"{"twin":{"temp":{"actual":{"value":"abc"}}}}"#,
            "",
            "the value is not int or integer",
        ),
        (
            r#"{"twin":{"x":{"actual":{"value":"1"},"metadata":{"type":"BYTE"}}}}"#,
            "",
            "the value type is not allowed",
        ),
        // All or nothing.
        (
            r#"{"twin":{"aa":{"actual":{"value":"1"}},"temp":{"actual":{"value":"x"}}}}"#,
            "",
            "the value is not int",
        ),
    ] {
        let told = edge.mqtt(&format!("{T1}/twin/update"), payload);
        assert_eq!(topics(&told), ["/twin/update/result"], "{payload:.80}");
        let answer = &told[0].1;
        assert_eq!(
            (&answer["code"], &answer["event_id"]),
            (&json!(400), &json!(event)),
            "{payload:.80}"
        );
        let text = answer["reason"].as_str().expect("reason");
        assert!(text.starts_with(reason), "{payload:.80}: {text}");
    }
    assert_eq!(edge.twins()["temp"]["actual"]["value"], "21");
    assert_eq!(edge.twins().as_object().map(serde_json::Map::len), Some(1));
    assert_eq!(topics(&edge.update(INT_21)).len(), 2);
}

#[test]
fn payloads_that_are_no_text_are_refused_too() {
    let mut edge = Edge::with_t1();
    let input = Input::Mqtt {
        topic: format!("{T1}/twin/update"),
        payload: Bytes::from_static(b"{\"twin\":{\"a\xff\":{}}}"),
    };
    assert_eq!(told(edge.feed(vec![input]))[0].1["code"], 400);
}

#[test]
fn unknown_devices_are_not_found() {
    let mut edge = Edge::new();
    let told = edge.update(INT_21);
    assert_eq!(
        (told[0].0.as_str(), &told[0].1["code"]),
        (&*format!("{T1}/twin/update/result"), &json!(404))
    );
    assert_eq!(told[0].1["reason"], "update rejected due to the device is not existed");
    let told = edge.mqtt(&format!("{T1}/twin/get"), r#"{"event_id":"g"}"#);
    assert_eq!(told[0].1["reason"], "Device default/t1 not found while getting twin");
    assert!(
        edge.mqtt(&format!("{T1}/state/update"), r#"{"state":"online"}"#)
            .is_empty()
    );
}

#[test]
fn keys_are_taken_in_any_case_and_values_in_any_script() {
    let mut edge = Edge::with_t1();
    let value = r#"hello world {"a":1} ü"#;
    let twins = json!({"text": {"Actual": {"Value": value}}}).to_string();
    edge.mqtt(&format!("{T1}/twin/update"), &format!(r#"{{"Twin":{twins}}}"#));
    assert_eq!(edge.twins()["text"]["actual"]["value"], value);
}

#[test]
fn a_client_is_not_the_cloud() {
    let mut edge = Edge::with_t1();
    let told = edge.mqtt(&format!("{T1}/twin/cloud_updated"), r#"{"event_id":"c","twin":{}}"#);
    assert_eq!(topics(&told), ["/twin/update/result"]);
    assert_eq!((&told[0].1["code"], &told[0].1["event_id"]), (&json!(400), &json!("c")));
}

#[test]
fn states_are_taken_in_any_case_and_bad_ones_met_by_silence() {
    let mut edge = Edge::with_t1();
    let told = edge.mqtt(&format!("{T1}/state/update"), r#"{"event_id":"s","state":"Online"}"#);
    assert_eq!(topics(&told), ["/state/update/result"]);
    assert_eq!(
        told[0].1["device"],
        json!({"name": "t1", "state": "Online", "lastOnlineTime": "2026-01-02T03:04:05Z"})
    );
    for state in ["offline", "disconnected", "unhealthy", "unknown"] {
        let told = edge.mqtt(&format!("{T1}/state/update"), &format!(r#"{{"state":"{state}"}}"#));
        assert_eq!(told[0].1["device"], json!({"name": "t1", "state": state}));
    }
    for payload in [r#"{"state":"bogus"}"#, "", "{}", "[]"] {
        assert!(edge.mqtt(&format!("{T1}/state/update"), payload).is_empty());
    }
}

#[test]
fn nothing_is_told_that_is_not_stored() {
    let mut edge = Edge::with_t1();
    edge.update(INT_21);
    edge.broken = true;
    let told = edge.update(r#"{"temp":{"actual":{"value":"22"}},"new":{"actual":{"value":"x"}}}"#);
    assert_eq!(topics(&told), ["/twin/update/result"]);
    assert_eq!(
        (&told[0].1["code"], &told[0].1["event_id"]),
        (&json!(500), &json!("e1"))
    );
    assert_eq!(told[0].1["reason"], "database or disk is full");
    assert_eq!(edge.news.len(), 1);
    edge.broken = false;
    assert_eq!(edge.twins()["temp"]["actual"]["value"], "21");
    let told = edge.update(r#"{"temp":{"actual":{"value":"23"}}}"#);
    assert_eq!(told[1].1["twin"]["temp"]["last"]["actual"]["value"], "21");
}

#[test]
fn requests_of_one_batch_see_each_other() {
    let mut edge = Edge::with_t1();
    let inputs = (0..100).map(|n| Input::Report {
        device: DeviceId::new("default", "t1"),
        twins: TwinUpdate::parse(format!(r#"{{"twin":{{"temp":{{"actual":{{"value":"{n}"}}}}}}}}"#).as_bytes())
            .expect("twins")
            .twin
            .expect("twins"),
    });
    let told = told(edge.feed(inputs.collect()));
    assert_eq!(told.len(), 200);
    assert_eq!(told[199].1["twin"]["temp"]["last"]["actual"]["value"], "98");
    assert_eq!(edge.news.len(), 100);
    let version: String = edge
        .disk
        .query_row("SELECT actual_version FROM device_twin", [], |row| row.get(0))
        .expect("one row");
    assert_eq!(version, r#"{"cloud":0,"edge":100}"#);
}

#[test]
fn a_device_takes_only_so_many_properties() {
    let mut edge = Edge::with_t1();
    let twins: Vec<String> = (0..twin::MAX_TWINS)
        .map(|n| format!(r#""p{n}":{{"actual":{{"value":"1"}}}}"#))
        .collect();
    assert_eq!(topics(&edge.update(&format!("{{{}}}", twins.join(",")))).len(), 2);
    let told = edge.update(r#"{"one-more":{"actual":{"value":"1"}}}"#);
    assert_eq!(told[0].1["code"], 400);
    assert_eq!(topics(&edge.update(r#"{"p7":{"actual":{"value":"2"}}}"#)).len(), 2);
    edge.checks = false;
    for n in 0..200 {
        let value = "v".repeat(value::MAX_VALUE);
        edge.update(&format!(r#"{{"p{n}":{{"actual":{{"value":"{value}"}}}}}}"#));
    }
    assert!(
        edge.machine.memory <= twin::MAX_DEVICE + 1000,
        "{}",
        edge.machine.memory
    );
}

#[test]
fn a_name_alone_stands_for_the_only_device_of_that_name() {
    let mut edge = Edge::with_t1();
    let old = "$hw/events/device/t1";
    let told = edge.mqtt(&format!("{old}/twin/update"), &format!(r#"{{"twin":{INT_21}}}"#));
    assert_eq!(told[0].0, format!("{old}/twin/update/result"));
    assert_eq!(edge.twins()["temp"]["actual"]["value"], "21");
    edge.stored("other/t1");
    let told = edge.mqtt(&format!("{old}/twin/update"), &format!(r#"{{"twin":{INT_21}}}"#));
    assert_eq!(told[0].1["code"], 404);
}

#[test]
fn names_that_look_like_parts_of_topics_are_answered() {
    for (namespace, name) in [
        ("e", "events"),
        ("device", "device"),
        ("events", "hw"),
        ("twin", "update"),
    ] {
        let mut edge = Edge::new();
        edge.stored(&format!("{namespace}/{name}"));
        let topic = format!("$hw/events/device/{namespace}/{name}");
        let told = edge.mqtt(&format!("{topic}/twin/update"), &format!(r#"{{"twin":{INT_21}}}"#));
        assert_eq!(told[0].0, format!("{topic}/twin/update/result"));
        assert_eq!(told[0].1.get("code"), None);
    }
}

#[test]
fn the_time_of_a_value_never_goes_back() {
    let mut edge = Edge::with_t1();
    edge.update(INT_21);
    edge.now.millis -= 3_600_000;
    edge.update(r#"{"temp":{"actual":{"value":"22"}}}"#);
    assert_eq!(
        edge.twins()["temp"]["actual"],
        json!({"value": "22", "metadata": {"timestamp": START}})
    );
}

#[test]
fn a_clock_that_ran_ahead_does_not_set_the_time_for_good() {
    let mut edge = Edge::with_t1();
    let time = |edge: &mut Edge, millis: i64| {
        edge.now.millis = millis;
        edge.update(r#"{"temp":{"actual":{"value":"22"}}}"#);
        edge.twins()["temp"]["actual"]["metadata"]["timestamp"].as_i64()
    };
    let in_2070 = 3_155_760_000_000;
    assert_eq!(time(&mut edge, in_2070), Some(in_2070));
    edge.restart();
    assert_eq!(time(&mut edge, START), Some(START));
    // Not set since the start.
    edge.restart();
    assert_eq!(time(&mut edge, 5_000), Some(START));
    assert_eq!(time(&mut edge, START + 1), Some(START + 1));
}
