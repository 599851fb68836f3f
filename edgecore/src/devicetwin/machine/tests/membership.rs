//! Which devices there are (spec 03 §3.4).

use serde_json::json;

use super::*;

const UPDATED: &str = "$hw/events/node/edge-go/membership/updated";

fn members(edge: &mut Edge) -> Vec<String> {
    let told = edge.mqtt("$hw/events/node/any/membership/get", r#"{"event_id":"m"}"#);
    assert_eq!(told[0].0, "$hw/events/node/edge-go/membership/get/result");
    let devices = told[0].1["devices"].as_array().expect("list").clone();
    devices
        .iter()
        .map(|device| device["id"].as_str().expect("id").to_owned())
        .collect()
}

#[test]
fn a_message_makes_devices_and_removes_them() {
    let mut edge = Edge::new();
    let added = r#"{"event_id":"6f0c","timestamp":1,"added_devices":[{"id":"default/t1","name":"t1","description":"d"}],"removed_devices":null}"#;
    let told = edge.cloud("membership", added);
    assert_eq!(told[0].0, UPDATED);
    assert_eq!(
        told[0].1["added_devices"],
        json!([{"id": "default/t1", "name": "t1", "description": "d"}])
    );
    assert_eq!(told[0].1["removed_devices"], json!(null));
    assert_ne!(told[0].1["event_id"], "6f0c");
    // Once more: no news.
    assert!(edge.cloud("membership", added).is_empty());
    assert_eq!(members(&mut edge), ["default/t1"]);
    edge.update(r#"{"temp":{"actual":{"value":"21"}}}"#);
    let removed = r#"{"event_id":"x","added_devices":null,"removed_devices":[{"id":"default/t1","name":"t1"},{"id":"default/t9"}]}"#;
    let told = edge.cloud("membership", removed);
    assert_eq!(told.len(), 1);
    assert_eq!(
        told[0].1["removed_devices"],
        json!([{"id": "default/t1", "name": "t1"}])
    );
    assert!(members(&mut edge).is_empty());
    // Whoever keeps values hears of it after the value.
    let t1 = DeviceId::new("default", "t1");
    assert!(matches!(&*edge.news, [News::Value(_), News::Removed(id)] if *id == t1));
    // What comes back under the name is another device.
    edge.cloud("membership", added);
    assert_eq!(edge.twins(), json!({}));
}

#[test]
fn an_object_makes_a_device_and_its_end_removes_it() {
    let mut edge = Edge::new();
    assert_eq!(edge.stored("default/t1")[0].0, UPDATED);
    assert!(edge.stored("default/t1").is_empty());
    let gone = Input::Gone(DeviceId::new("default", "t1"));
    assert_eq!(told(edge.feed(vec![gone]))[0].0, UPDATED);
    assert!(members(&mut edge).is_empty());
}

#[test]
fn devices_follow_the_objects_that_are_stored() {
    let mut edge = Edge::with_t1();
    edge.cloud("membership", r#"{"added_devices":[{"id":"default/old","name":"old"}]}"#);
    let known = |id: &str| Known {
        id: DeviceId::parse(id).expect("id"),
        description: String::new(),
    };
    let both = vec![known("default/t2"), known("default/t3")];
    edge.feed(vec![Input::Objects(both, Vec::new())]);
    // A device without an object is one of a cloud that sends none.
    assert_eq!(members(&mut edge), ["default/old", "default/t2", "default/t3"]);
    // A damaged object takes no device away, and makes none.
    let damaged = ["default/t3", "default/updated"].map(|id| known(id).id);
    for _ in 0..2 {
        edge.feed(vec![Input::Objects(vec![known("default/t2")], damaged.to_vec())]);
        assert_eq!(members(&mut edge), ["default/old", "default/t2", "default/t3"]);
    }
    edge.feed(vec![Input::Objects(vec![known("default/t2")], Vec::new())]);
    assert_eq!(members(&mut edge), ["default/old", "default/t2"]);
}

#[test]
fn a_list_adds_what_is_missing_and_removes_what_is_not_listed() {
    let mut edge = Edge::new();
    edge.cloud(
        "membership",
        r#"{"added_devices":[{"id":"default/a","name":"a"},{"id":"default/b","name":"b"}]}"#,
    );
    edge.stored("default/fresh");
    let detail = r#"{"event_id":"d","devices":[{"id":"default/b","name":"b","twin":{}},{"id":"default/c","name":"c","twin":{}}]}"#;
    let told = edge.cloud("membership/detail", detail);
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(members(&mut edge), ["default/b", "default/c", "default/fresh"]);
    let [News::Removed(_), News::Devices(devices)] = &*edge.news else {
        panic!("{:?}", edge.news);
    };
    let devices: Vec<String> = devices.iter().map(ToString::to_string).collect();
    assert_eq!(devices, ["default/b", "default/c", "default/fresh"]);
    // A text with JSON inside is the same.
    edge.cloud(
        "membership/detail",
        &serde_json::to_string(r#"{"devices":[]}"#).expect("text"),
    );
    assert_eq!(members(&mut edge), ["default/fresh"]);
}

#[test]
fn a_device_that_could_not_be_stored_is_not_there() {
    let mut edge = Edge::new();
    edge.broken = true;
    assert!(edge.stored("default/t1").is_empty());
    edge.broken = false;
    assert!(members(&mut edge).is_empty());
    assert_eq!(edge.stored("default/t1").len(), 1);
}

#[test]
fn attributes_are_those_that_the_cloud_lists() {
    let mut edge = Edge::new();
    let added = r#"{"added_devices":[{"id":"default/t1","name":"t1","attributes":{"a":{"value":"1"},"b":{"value":"2","metadata":{"type":"int"}}}}]}"#;
    let told = edge.cloud("membership", added);
    assert_eq!(told[0].0, format!("{T1}/updated"));
    edge.restart();
    let told = edge.mqtt("$hw/events/node/any/membership/get", "{}");
    let b = json!({"value": "2", "optional": true, "metadata": {"type": "int"}});
    assert_eq!(told[0].1["devices"][0]["attributes"]["b"], b);
    assert!(edge.cloud("membership", added).is_empty());
    let told = edge.cloud("membership", r#"{"added_devices":[{"id":"default/t1","name":"t1"}]}"#);
    assert_eq!(told[0].1["attributes"], json!({"a": null, "b": null}));
}

#[test]
fn the_cloud_is_asked_after_each_connect_and_not_for_ever() {
    let mut edge = Edge::new();
    let ask = |edge: &mut Edge| edge.machine.outgoing(edge.now);
    assert!(ask(&mut edge).is_none());
    edge.connect();
    let mut asked = 0;
    for _ in 0..100 {
        if let Some((id, message)) = ask(&mut edge) {
            assert_eq!(message.route, Route::MembershipDetail);
            assert_eq!(content(&message)["group_id"], "edge-go");
            edge.answer(id, Outcome::Unanswered);
            asked += 1;
        }
        edge.wait(Duration::from_secs(60));
    }
    assert_eq!(asked, 3);
    edge.machine.link(false, edge.now.instant);
    edge.connect();
    let (id, _) = ask(&mut edge).expect("asked");
    edge.answer(id, Outcome::Confirmed);
    edge.wait(Duration::from_secs(3600));
    assert!(ask(&mut edge).is_none());
}

#[test]
fn what_the_cloud_sends_and_nobody_understands_changes_nothing() {
    let mut edge = Edge::with_t1();
    for (resource, content) in [
        ("membership", "[]"),
        (
            "membership",
            r#"{"added_devices":[{"id":"a/b/c"},{"id":""}],"removed_devices":[{"id":"/"}]}"#,
        ),
        ("membership/detail", r#""not json""#),
        ("device/default/t1/twin/cloud_updated", r#"{"twin":5}"#),
        ("device/default/t9/twin/cloud_updated", r#"{"twin":{"a":null}}"#),
        ("device//twin/cloud_updated", "{}"),
        ("somewhere", "{}"),
    ] {
        assert!(edge.cloud(resource, content).is_empty(), "{resource} {content}");
    }
    assert_eq!(members(&mut edge), ["default/t1"]);
}
