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
    let known = |id: &str| known(id, "");
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

/// Stores the object of t1 with a uid; the ids that are told as removed and as added, each in the order of publication.
fn with_uid(edge: &mut Edge, uid: &str) -> Vec<(&'static str, Value)> {
    let told = told(edge.feed(vec![Input::Stored(known("default/t1", uid))]));
    let mut all = Vec::new();
    for (topic, payload) in told {
        assert_eq!(topic, UPDATED);
        for key in ["removed_devices", "added_devices"] {
            if !payload[key].is_null() {
                all.push((key, payload[key][0]["id"].clone()));
            }
        }
    }
    all
}

#[test]
fn a_device_that_was_made_again_unseen_begins_anew() {
    let (id, temp) = (json!("default/t1"), r#"{"temp":{"actual":{"value":"21"}}}"#);
    let again = [("removed_devices", id.clone()), ("added_devices", id.clone())];
    let mut edge = Edge::new();
    assert_eq!(with_uid(&mut edge, "u1"), [("added_devices", id)]);
    edge.connect();
    edge.update(temp);
    for (report, _) in edge.sent() {
        edge.answer(report, Outcome::Confirmed);
    }
    edge.mqtt(&format!("{T1}/state/update"), r#"{"state":"online"}"#);
    // The uid is known after a restart.
    edge.restart();
    assert!(with_uid(&mut edge, "u1").is_empty());
    // Nothing is done as long as it cannot be stored.
    edge.broken = true;
    assert!(with_uid(&mut edge, "u2").is_empty());
    edge.broken = false;
    assert_eq!(edge.twins()["temp"]["actual"]["value"], "21");
    assert_eq!(with_uid(&mut edge, "u2"), again);
    assert_eq!(edge.twins(), json!({}));
    let t1 = DeviceId::new("default", "t1");
    assert!(matches!(&*edge.news, [News::Value(_), News::Removed(removed)] if *removed == t1));
    // What was to be told of the former one is not, and the same value is news again.
    edge.connect();
    assert!(edge.sent().is_empty());
    edge.update(temp);
    assert_eq!(edge.sent().len(), 1);
    // The same where all objects are looked at, also after a restart.
    edge.restart();
    let told = told(edge.feed(vec![Input::Objects(vec![known("default/t1", "u3")], Vec::new())]));
    assert_eq!(told.len(), again.len());
    assert_eq!(edge.twins(), json!({}));
}

#[test]
fn a_device_whose_uid_nobody_knew_is_taken_over() {
    let mut edge = Edge::with_t1();
    edge.update(r#"{"temp":{"actual":{"value":"21"}}}"#);
    // As a Go edgecore, or an older one of ours, leaves it.
    edge.disk.execute_batch("DROP TABLE device_uid").expect("dropped");
    edge.restart();
    assert!(with_uid(&mut edge, "u1").is_empty());
    edge.restart();
    // An object that does not tell says nothing.
    assert!(with_uid(&mut edge, "").is_empty());
    assert_eq!(edge.twins()["temp"]["actual"]["value"], "21");
    assert_eq!(with_uid(&mut edge, "u2").len(), 2);
    assert_eq!(edge.twins(), json!({}));
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
