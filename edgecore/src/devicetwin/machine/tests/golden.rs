//! Captured traffic of a Go edge, replayed.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;

const MQTT: &str = include_str!("../../../../golden/mqtt.txt");
const HUB: &str = include_str!("../../../../../proto/golden/hub-device.jsonl");
const DEVICE: &str = "$hw/events/device/default/thermo-1";

/// Where ours answers something else, by the payload of the request.
fn differences() -> BTreeMap<&'static str, (String, Value)> {
    let result = format!("{DEVICE}/twin/update/result");
    BTreeMap::from([
        // Go answers on the topic of no device, `$hw/events/device//twin/update/result`.
        (
            "not json",
            (
                result.clone(),
                json!({"event_id": "", "timestamp": 0, "code": 400,
                    "reason": "Unmarshal update request body failed, please check the request"}),
            ),
        ),
        // Go takes a client for the cloud, and answers, on the topic of no device, only because there is no twin in it.
        (
            "{}",
            (
                result,
                json!({"event_id": "", "timestamp": 0, "code": 400,
                    "reason": "twin/cloud_updated is for the cloud, please publish on twin/update"}),
            ),
        ),
    ])
}

/// Without times and generated ids.
fn plain(mut payload: Value) -> Value {
    fn walk(value: &mut Value) {
        match value {
            Value::Object(map) => {
                if map.contains_key("timestamp") {
                    map.insert("timestamp".into(), json!(0));
                }
                if map
                    .get("event_id")
                    .and_then(Value::as_str)
                    .is_some_and(|id| id.len() == 36)
                {
                    map.insert("event_id".into(), json!("generated"));
                }
                map.values_mut().for_each(walk);
            }
            Value::Array(list) => list.iter_mut().for_each(walk),
            _ => {}
        }
    }
    walk(&mut payload);
    payload
}

#[test]
fn mqtt_is_answered_as_captured_but_for_the_listed_lines() {
    let mut edge = Edge::new();
    edge.stored("default/thermo-1");
    edge.mqtt(
        &format!("{DEVICE}/twin/update"),
        r#"{"twin":{"temperature":{"actual":{"value":"27"},"metadata":{"type":"int"}}}}"#,
    );
    // The first lines lost their beginning in the capture: `$hw/events` was a variable of a shell.
    let lines = MQTT.lines().map(|line| {
        let line = line
            .split_once(' ')
            .map_or(line, |(time, rest)| match time.parse::<f64>() {
                Ok(_) => rest,
                Err(_) => line,
            });
        let line = match line.strip_prefix("/device") {
            Some(rest) => format!("$hw/events/device{rest}"),
            None => line.to_owned(),
        };
        let (topic, payload) = line.split_once(' ').expect("topic and payload");
        (topic.to_owned(), payload.to_owned())
    });
    let (differences, mut used) = (differences(), 0);
    let mut answers: Vec<(String, Value)> = Vec::new();
    for (topic, payload) in lines {
        if topic.starts_with("SYS/") {
            continue;
        }
        let is_request = DeviceRequest::parse(&topic).is_some();
        if is_request {
            assert!(answers.is_empty(), "ours says more: {answers:?}");
            answers = edge.mqtt(&topic, &payload);
            if let Some(other) = differences.get(payload.as_str()) {
                used += 1;
                let (topic, answer) = answers.remove(0);
                assert_eq!((topic, plain(answer)), other.clone());
            }
        } else if topic.contains("device//") {
            // One of the listed lines.
        } else {
            assert!(!answers.is_empty(), "ours says less: {topic} {payload}");
            let (own_topic, own) = answers.remove(0);
            let captured = serde_json::from_str(&payload).expect("JSON");
            assert_eq!((own_topic, plain(own)), (topic, plain(captured)));
        }
    }
    assert!(answers.is_empty());
    assert_eq!(used, differences.len());
}

/// `(from the cloud, message)`; only what is about twins.
fn hub() -> impl Iterator<Item = (bool, Message)> {
    HUB.lines().filter_map(|line| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let message = Message::decode(line["text"].as_str()?.as_bytes()).ok()?;
        let is_down = line["direction"] == "cloud->edge";
        (message.group == Group::Twin || message.source == Source::Twin).then_some((is_down, message))
    })
}

#[test]
fn the_hub_is_told_what_a_go_edge_tells() {
    let mut edge = Edge::new();
    edge.connect();
    let (mut added, mut removed, mut told_cloud) = (0, 0, 0);
    for (is_down, message) in hub() {
        if is_down && message.parent.is_none() {
            let told = told(edge.feed(vec![Input::Cloud(message)]));
            added += told.iter().filter(|(_, told)| !told["added_devices"].is_null()).count();
            removed += told
                .iter()
                .filter(|(_, told)| !told["removed_devices"].is_null())
                .count();
        } else if !is_down && DeviceTopic::of(&message.route).is_some() {
            edge.wait(Duration::from_secs(1));
            told_cloud += usize::from(replay(&mut edge, &message));
        }
    }
    // d1 to d4 came and went; the properties that were reported by hand without versions are not a Go edge's.
    assert_eq!((added, removed, told_cloud), (4, 4, 3));
}

/// A mapper gives the values that the message tells of; ours tells the cloud the same.
fn replay(edge: &mut Edge, captured: &Message) -> bool {
    let DeviceTopic { device, part } = DeviceTopic::of(&captured.route).expect("topic");
    if edge.machine.device(&device).is_none() {
        return false;
    }
    let mut wanted = content(captured);
    match part {
        DevicePart::Twin => {
            let update = TwinUpdate::parse(captured.content.document().as_bytes()).expect("update");
            let twins = update.twin.expect("twins");
            if twins.values().flatten().any(|twin| twin.actual_version.is_none()) {
                return false;
            }
            edge.feed(vec![Input::Report { device, twins }]);
        }
        DevicePart::State => {
            let state = wanted["device"]["state"].as_str().expect("state").to_owned();
            edge.feed(vec![Input::State { device, state }]);
            wanted["device"]["lastOnlineTime"] = "2026-01-02T03:04:09Z".into();
        }
    }
    let mut sent = edge.sent();
    let (id, message) = sent.remove(0);
    assert!(sent.is_empty());
    edge.answer(id, Outcome::Confirmed);
    let mut own = content(&message);
    if part == DevicePart::State {
        own["device"]["lastOnlineTime"] = wanted["device"]["lastOnlineTime"].clone();
        // The hand that wrote the capture put spaces into the text.
        assert!(message.content.as_text().is_some() && captured.content.as_text().is_some());
    }
    assert_eq!(plain(own), plain(wanted));
    assert_eq!(
        (&message.source, &message.group, &message.operation, &message.route),
        (&captured.source, &captured.group, &captured.operation, &captured.route)
    );
    true
}

/// Rows as Go edges of v1.8 (beego) to v1.23 leave them: NULLs, empty texts, words for numbers, a property twice, twins of no device.
const GO_ROWS: &str = r#"
INSERT INTO device VALUES ('default/t1','t1','a thermometer','online','2026-01-02T03:04:05Z');
INSERT INTO device VALUES ('old',NULL,NULL,NULL,NULL);
INSERT INTO device VALUES ('a/b/c','odd','','','');
INSERT INTO device_twin VALUES (3,'default/t1','temp','','30','20','{"timestamp":1767323045000}','{"timestamp":1767323045000}','{"cloud":2,"edge":1}','{"cloud":0,"edge":2}',1,'int','{}');
INSERT INTO device_twin VALUES (4,'default/t1','temp','','30','21','{"timestamp":1767323045000}','{"timestamp":1767323046000}','{"cloud":2,"edge":1}','{"cloud":0,"edge":3}',1,'int','{}');
INSERT INTO device_twin VALUES (5,'default/t1','gone',NULL,NULL,NULL,NULL,NULL,NULL,'{"cloud":0,"edge":2}','true','deleted',NULL);
INSERT INTO device_twin VALUES (6,'old','x','','','1','','','','broken','0','','');
INSERT INTO device_twin VALUES (9,'nobody','x','','','1','','','','',1,'','');
INSERT INTO device_attr VALUES (1,'default/t1','serial','','42',1,'string','{}');
UPDATE sqlite_sequence SET seq=20 WHERE name='device_twin';
"#;

#[test]
fn a_database_of_a_go_edge_is_taken_over_and_told_to_the_cloud_once() {
    let fresh = Edge::new();
    fresh
        .disk
        .execute_batch("DROP TABLE device_unconfirmed")
        .expect("as Go has it");
    fresh.disk.execute_batch(GO_ROWS).expect("rows");
    let mut edge = Edge::on(fresh.disk);
    assert_eq!(edge.machine.devices.len(), 2);
    let temp = edge.twins()["temp"].clone();
    assert_eq!(
        (&temp["actual"]["value"], &temp["expected"]["value"]),
        (&json!("21"), &json!("30"))
    );
    let told = edge.mqtt("$hw/events/node/n/membership/get", "{}");
    let t1 = json!({"id": "default/t1", "name": "t1", "description": "a thermometer", "state": "online",
        "last_online": "2026-01-02T03:04:05Z",
        "attributes": {"serial": {"value": "42", "optional": true, "metadata": {"type": "string"}}}});
    assert_eq!(
        told[0].1["devices"],
        json!([t1, {"id": "old"}])
            .as_array()
            .map(|list| json!([list[1], list[0]]))
            .expect("two")
    );
    edge.connect();
    let sent: Vec<(u64, Message)> = edge.sent();
    let routes: Vec<String> = sent.iter().map(|(_, message)| message.route.to_string()).collect();
    assert_eq!(
        routes,
        ["device/old/twin/edge_updated", "device/default/t1/twin/edge_updated"]
    );
    assert_eq!(
        content(&sent[1].1)["twin"]["temp"]["actual_version"],
        json!({"cloud": 0, "edge": 3})
    );
    for (id, _) in sent {
        edge.answer(id, Outcome::Confirmed);
    }
    edge.wait(super::reports::REST);
    edge.feed(Vec::new());
    edge.restart();
    edge.connect();
    assert!(edge.sent().is_empty());
    // Ids go on where Go left off.
    edge.update(r#"{"new":{"actual":{"value":"1"}}}"#);
    let id: i64 = edge
        .disk
        .query_row("SELECT id FROM device_twin WHERE name='new'", [], |row| row.get(0))
        .expect("row");
    assert_eq!(id, 21);
}
