//! The task with a database and a channel in place of edgehub.

use std::path::Path;
use std::time::Duration;

use proto::device::{DeviceTopic, TwinUpdate};
use proto::{Content, Features, Group, Message, Object, ObjectPath, Operation, Source};
use serde_json::Value;

use super::*;
use crate::history::{self, History};
use crate::metamanager;
use crate::uplink::{Link, Outgoing, UplinkEnd};

const T1: &str = "$hw/events/device/default/t1";

struct Edge {
    twin: DeviceTwin,
    publications: Publications,
    meta: MetaManager,
    cloud: UplinkEnd,
    tasks: Tasks,
}

impl Edge {
    async fn start(database: &Path) -> Self {
        let (uplink, cloud) = Uplink::channel();
        cloud.features.send_replace(Features::OURS);
        let tasks = Tasks::new();
        let settings = metamanager::Settings {
            node: "edge-go".into(),
            database: database.to_owned(),
            remote_timeout: Duration::from_secs(60),
        };
        let meta = MetaManager::start(settings, uplink.clone(), &tasks)
            .await
            .expect("started");
        let settings = Settings {
            node: "edge-go".into(),
            reports_per_device: 10,
            reports_per_second: 100,
        };
        let mut registry = Registry::default();
        let (twin, publications) = DeviceTwin::start(settings, meta.clone(), uplink, &mut registry, &tasks).await;
        Self {
            twin,
            publications,
            meta,
            cloud,
            tasks,
        }
    }

    async fn next(&mut self) -> (String, Value) {
        let next = tokio::time::timeout(Duration::from_secs(30), self.publications.recv()).await;
        let publication = next.expect("in time").expect("runs");
        (
            publication.topic,
            serde_json::from_slice(&publication.payload).expect("JSON"),
        )
    }

    /// The next publication on a topic.
    async fn on(&mut self, topic: &str) -> Value {
        loop {
            let (on, payload) = self.next().await;
            if on == topic {
                return payload;
            }
        }
    }

    async fn device(&self, operation: Operation) {
        let text = r#"{"apiVersion":"devices.kubeedge.io/v1beta1","kind":"Device","metadata":{"name":"t1","namespace":"default","uid":"u","resourceVersion":"7","labels":{"description":"warm"}},"spec":{"nodeName":"edge-go"}}"#;
        let object = Object::parse(text).expect("object");
        let path = ObjectPath::new("default", proto::Kind::Device, "t1");
        let message = Message::new(
            Source::EdgeController,
            Group::Resource,
            operation,
            path,
            Content::null(),
        );
        self.meta.deliver(&mut Some(message.with_object(&object))).await;
    }

    async fn update(&self, value: usize) {
        let payload = format!(r#"{{"event_id":"{value}","twin":{{"temp":{{"actual":{{"value":"{value}"}}}}}}}}"#);
        self.twin.request(&format!("{T1}/twin/update"), payload.into()).await;
    }

    /// Confirms until the newest value was told.
    async fn cloud_until(&mut self, value: &str) -> usize {
        let mut reports = 0;
        loop {
            let outgoing = tokio::time::timeout(Duration::from_secs(30), self.cloud.recv()).await;
            let Outgoing::Ask { message, answer } = outgoing.expect("in time").expect("runs") else {
                continue;
            };
            let reply = Message::new(
                Source::DeviceController,
                Group::Twin,
                Operation::Response,
                message.route.clone(),
                Content::ok(),
            );
            answer.send(reply.answering(&message.id)).expect("asker waits");
            if DeviceTopic::of(&message.route).is_none() {
                continue;
            }
            reports += 1;
            let update = TwinUpdate::parse(message.content.document().as_bytes()).expect("twins");
            let twin = update
                .twin
                .and_then(|mut twins| twins.remove("temp").flatten())
                .expect("temp");
            if twin.actual.and_then(|actual| actual.value).as_deref() == Some(value) {
                return reports;
            }
        }
    }

    async fn stop(self) {
        self.tasks.stop(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn a_device_comes_with_its_object_is_written_reported_and_goes() {
    let folder = tempfile::tempdir().expect("folder");
    let database = folder.path().join("edgecore.db");
    let mut edge = Edge::start(&database).await;
    edge.cloud.link.send_replace(Link::Up(1));
    // Of whatever source: Go's SyncController sends devices in the name of edgecontroller.
    edge.device(Operation::Update).await;
    let told = edge.on("$hw/events/node/edge-go/membership/updated").await;
    assert_eq!(told["added_devices"][0]["description"], "warm");
    let mut news = edge.twin.news();
    edge.update(21).await;
    assert_eq!(edge.on(&format!("{T1}/twin/update/result")).await["event_id"], "21");
    let told = news.recv().await.expect("a value");
    let [News::Value(accepted)] = &*told else {
        panic!("{told:?}");
    };
    assert_eq!((accepted.property.as_str(), accepted.value.as_str()), ("temp", "21"));
    edge.cloud_until("21").await;
    edge.device(Operation::Delete).await;
    let told = edge.on("$hw/events/node/edge-go/membership/updated").await;
    assert_eq!(told["removed_devices"][0]["id"], "default/t1");
    edge.update(22).await;
    assert_eq!(edge.on(&format!("{T1}/twin/update/result")).await["code"], 404);
    edge.stop().await;
}

/// The properties that the history knows of t1, with the number of their values.
async fn remembered(history: &History) -> Vec<(String, u64)> {
    let answer = history.answer(&format!("{T1}/history/get"), b"{}").await;
    let answer: Value = serde_json::from_slice(&answer.expect("an answer").payload).expect("JSON");
    let properties = answer["properties"].as_array().cloned().unwrap_or_default();
    let number = |one: &Value| one["values"].as_u64().expect("a number");
    properties
        .iter()
        .map(|one| (one["property"].as_str().expect("a name").to_owned(), number(one)))
        .collect()
}

/// The history hears of everything a moment later.
async fn until_remembered(history: &History, what: &str, is_it: impl Fn(&[(String, u64)]) -> bool) {
    let wait = async {
        while !is_it(&remembered(history).await) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect(what);
}

#[tokio::test]
async fn two_thousand_properties_at_once_are_remembered_and_go_with_their_device() {
    let folder = tempfile::tempdir().expect("folder");
    let mut edge = Edge::start(&folder.path().join("edgecore.db")).await;
    let settings = history::Settings {
        database: folder.path().join("history.db"),
        bounds: history::Bounds {
            values: 100,
            bytes: 4 * 1024 * 1024,
            age: None,
        },
    };
    let mut registry = Registry::default();
    let history = History::start(settings, edge.twin.news(), &mut registry, &edge.tasks).expect("started");
    edge.device(Operation::Insert).await;
    edge.on("$hw/events/node/edge-go/membership/updated").await;
    let twins: Vec<String> = (0..2000)
        .map(|n| format!(r#""p{n}":{{"actual":{{"value":"{n}"}}}}"#))
        .collect();
    let payload = format!(r#"{{"event_id":"all","twin":{{{}}}}}"#, twins.join(","));
    edge.twin.request(&format!("{T1}/twin/update"), payload.into()).await;
    let told = edge.on(&format!("{T1}/twin/update/result")).await;
    assert!(told.get("code").is_none(), "{told}");
    until_remembered(&history, "all values", |known| {
        known.len() == 2000 && known.iter().all(|(_, values)| *values == 1)
    })
    .await;
    edge.device(Operation::Delete).await;
    edge.on("$hw/events/node/edge-go/membership/updated").await;
    until_remembered(&history, "nothing of a device that is gone", <[_]>::is_empty).await;
    edge.device(Operation::Insert).await;
    edge.on("$hw/events/node/edge-go/membership/updated").await;
    edge.update(22).await;
    let new = [("temp".to_owned(), 1)];
    until_remembered(&history, "the new device", |known| *known == new).await;
    edge.stop().await;
}

#[tokio::test]
async fn two_thousand_updates_are_all_answered_and_the_newest_survives() {
    let folder = tempfile::tempdir().expect("folder");
    let database = folder.path().join("edgecore.db");
    let mut edge = Edge::start(&database).await;
    edge.device(Operation::Insert).await;
    edge.on("$hw/events/node/edge-go/membership/updated").await;
    let twin = edge.twin.clone();
    for value in 0..2000 {
        let payload = format!(r#"{{"event_id":"{value}","twin":{{"temp":{{"actual":{{"value":"{value}"}}}}}}}}"#);
        twin.request(&format!("{T1}/twin/update"), payload.into()).await;
    }
    for value in 0..2000 {
        let told = edge.on(&format!("{T1}/twin/update/result")).await;
        assert_eq!(told["event_id"], value.to_string());
    }
    edge.stop().await;
    // Another process, and the link at last: the newest only.
    let mut edge = Edge::start(&database).await;
    edge.cloud.link.send_replace(Link::Up(1));
    assert_eq!(edge.cloud_until("1999").await, 1);
    edge.stop().await;
}

/// A mapper was told that they were taken.
#[tokio::test]
async fn a_stop_loses_no_update_that_waits() {
    let folder = tempfile::tempdir().expect("folder");
    let database = folder.path().join("edgecore.db");
    let mut edge = Edge::start(&database).await;
    edge.device(Operation::Insert).await;
    edge.on("$hw/events/node/edge-go/membership/updated").await;
    for value in 0..500 {
        edge.update(value).await;
    }
    edge.stop().await;
    let mut edge = Edge::start(&database).await;
    edge.cloud.link.send_replace(Link::Up(1));
    assert_eq!(edge.cloud_until("499").await, 1);
    edge.stop().await;
}

/// What the new database lacks is not gone: the devices are written to it, and a mapper notices nothing.
#[tokio::test]
async fn a_database_that_is_replaced_takes_no_device_away() {
    let folder = tempfile::tempdir().expect("folder");
    let database = folder.path().join("edgecore.db");
    let mut edge = Edge::start(&database).await;
    edge.cloud.link.send_replace(Link::Up(1));
    edge.device(Operation::Insert).await;
    edge.on("$hw/events/node/edge-go/membership/updated").await;
    edge.update(21).await;
    edge.on(&format!("{T1}/twin/update/result")).await;
    edge.cloud_until("21").await;
    let tables = edge.meta.tables();
    tables.pretend_damage().await;
    let count = |connection: &rusqlite::Connection| {
        connection.query_row("SELECT count(*) FROM device_twin", [], |row| row.get::<_, u32>(0))
    };
    let written = async {
        while !matches!(tables.read(count).await, Ok(1)) {
            tokio::task::yield_now().await;
        }
    };
    let written = tokio::time::timeout(Duration::from_secs(30), written).await;
    written.expect("the twin is in the new database");
    // After a connect the stored objects are looked at.
    edge.cloud.link.send_replace(Link::Up(2));
    edge.update(22).await;
    loop {
        let (topic, told) = edge.next().await;
        assert!(!topic.ends_with("membership/updated"), "{told}");
        if topic.ends_with("/twin/update/result") && told["event_id"] == "22" {
            assert!(told.get("code").is_none(), "{told}");
            break;
        }
    }
    edge.stop().await;
    let mut edge = Edge::start(&database).await;
    edge.cloud.link.send_replace(Link::Up(1));
    edge.cloud_until("22").await;
    edge.stop().await;
}

/// What cannot be read is not gone until the cloud says so.
#[tokio::test]
async fn an_object_that_is_damaged_takes_no_device_away() {
    let folder = tempfile::tempdir().expect("folder");
    let mut edge = Edge::start(&folder.path().join("edgecore.db")).await;
    edge.device(Operation::Insert).await;
    edge.on("$hw/events/node/edge-go/membership/updated").await;
    let spoil = |connection: &rusqlite::Connection| {
        let sql = "UPDATE meta SET value = 'x' || substr(value, 2) WHERE key = 'default/device/t1'";
        connection.execute(sql, [])
    };
    let changed = edge.meta.tables().transact(spoil).await;
    assert_eq!(changed.expect("spoiled"), 1);
    // After a connect the stored objects are looked at.
    edge.cloud.link.send_replace(Link::Up(1));
    edge.update(22).await;
    loop {
        let (topic, told) = edge.next().await;
        assert!(!topic.ends_with("membership/updated"), "{told}");
        if topic.ends_with("/twin/update/result") {
            assert!(told.get("code").is_none(), "{told}");
            break;
        }
    }
    edge.device(Operation::Delete).await;
    let told = edge.on("$hw/events/node/edge-go/membership/updated").await;
    assert_eq!(told["removed_devices"][0]["id"], "default/t1");
    edge.stop().await;
}

/// Until the tables can be read nothing is answered as if there were no devices, and nothing is written over them.
#[tokio::test]
async fn tables_that_cannot_be_read_at_the_start_are_read_later() {
    let folder = tempfile::tempdir().expect("folder");
    let database = folder.path().join("edgecore.db");
    let mut edge = Edge::start(&database).await;
    edge.device(Operation::Insert).await;
    edge.on("$hw/events/node/edge-go/membership/updated").await;
    edge.update(21).await;
    edge.on(&format!("{T1}/twin/update/result")).await;
    let hide = move |connection: &rusqlite::Connection| {
        connection.execute_batch("ALTER TABLE device_twin RENAME COLUMN actual TO hidden")
    };
    edge.meta.tables().transact(hide).await.expect("hidden");
    edge.stop().await;
    let mut edge = Edge::start(&database).await;
    edge.update(22).await;
    assert_eq!(edge.on(&format!("{T1}/twin/update/result")).await["code"], 500);
    let show = move |connection: &rusqlite::Connection| {
        connection.execute_batch("ALTER TABLE device_twin RENAME COLUMN hidden TO actual")
    };
    edge.meta.tables().transact(show).await.expect("shown");
    let read = async {
        loop {
            edge.twin
                .request(&format!("{T1}/twin/get"), r#"{"event_id":"g"}"#.into())
                .await;
            let told = edge.on(&format!("{T1}/twin/get/result")).await;
            if told.get("code").is_none() {
                return told;
            }
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(60), read).await.expect("read");
    assert_eq!(told["twin"]["temp"]["actual"]["value"], "21");
    edge.stop().await;
}

/// Rows that an operator or a fault spoiled: what can be read of them counts, and the others are as before.
#[tokio::test]
async fn spoiled_rows_harm_no_others() {
    let folder = tempfile::tempdir().expect("folder");
    let database = folder.path().join("edgecore.db");
    let mut edge = Edge::start(&database).await;
    edge.device(Operation::Insert).await;
    edge.on("$hw/events/node/edge-go/membership/updated").await;
    edge.update(21).await;
    edge.on(&format!("{T1}/twin/update/result")).await;
    let spoil = |connection: &rusqlite::Connection| {
        connection.execute_batch(
            "INSERT INTO device VALUES ('no namespace', NULL, NULL, NULL, NULL), ('default/t2', 7, x'ff', 1.5, NULL);
             INSERT INTO device_twin (deviceid, name, expected, actual, expected_meta, actual_meta, expected_version,
                actual_version, optional, attr_type, metadata) VALUES
                ('default/t2', 'a', x'ff', 5, '{', 'null', '[]', '{\"cloud\":\"x\"}', 'maybe', NULL, '{'),
                (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
             INSERT INTO device_attr (deviceid, name, value, optional, attr_type) VALUES ('default/t2', NULL, NULL, NULL, NULL);
             INSERT INTO device_unconfirmed VALUES ('default/gone', 'x'), ('', '');",
        )
    };
    edge.meta.tables().transact(spoil).await.expect("spoiled");
    edge.stop().await;
    let mut edge = Edge::start(&database).await;
    for (device, property, value) in [("t1", "temp", "21"), ("t2", "a", "5")] {
        let topic = format!("$hw/events/device/default/{device}/twin/get");
        edge.twin.request(&topic, r#"{"event_id":"g"}"#.into()).await;
        let told = edge.on(&format!("{topic}/result")).await;
        assert_eq!(told["twin"][property]["actual"]["value"], value, "{told}");
    }
    edge.cloud.link.send_replace(Link::Up(1));
    edge.update(22).await;
    edge.cloud_until("22").await;
    edge.stop().await;
}

#[tokio::test]
async fn a_payload_over_the_limit_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let mut edge = Edge::start(&folder.path().join("edgecore.db")).await;
    let payload = vec![b' '; MAX_PAYLOAD + 1];
    edge.twin.request(&format!("{T1}/twin/update"), payload.into()).await;
    assert_eq!(edge.on(&format!("{T1}/twin/update/result")).await["code"], 400);
    edge.stop().await;
}
