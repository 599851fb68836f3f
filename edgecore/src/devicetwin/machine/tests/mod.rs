//! The machine with a database in memory: whatever a test does, memory equals the disk after each batch.

mod cloud;
mod golden;
mod local;
mod membership;
mod model;
mod reporting;

use std::time::Duration;

use proto::device::DeviceId;
use proto::{Content, Group, Message, Operation, Route, Source};
use rusqlite::Connection;
use serde_json::Value;
use tokio::time::Instant;

use super::super::rows;
use super::*;

const SCHEMA: &str = include_str!("../../../../golden/edgecore-schema.sql");
const T1: &str = "$hw/events/device/default/t1";
const START: i64 = 1_767_323_045_000;

struct Edge {
    machine: Machine,
    disk: Connection,
    now: Now,
    /// Nothing can be written.
    broken: bool,
    /// Whether memory is held against the disk after each batch: slow with much of it.
    checks: bool,
    news: Vec<News>,
    coalesced: u64,
}

impl Edge {
    fn new() -> Self {
        let disk = Connection::open_in_memory().expect("memory");
        for statement in SCHEMA.lines().filter(|line| !line.contains("sqlite_sequence(")) {
            disk.execute_batch(statement).expect("schema");
        }
        Self::on(disk)
    }

    /// With device default/t1.
    fn with_t1() -> Self {
        let mut edge = Self::new();
        edge.stored("default/t1");
        edge
    }

    fn on(disk: Connection) -> Self {
        let start = Instant::now();
        let now = Now {
            instant: start,
            millis: START,
        };
        let mut machine = machine(start);
        machine.load(rows::load(&disk).expect("rows"), start);
        Self {
            machine,
            disk,
            now,
            broken: false,
            checks: true,
            news: Vec::new(),
            coalesced: 0,
        }
    }

    /// The process ends and starts again; the link is down.
    fn restart(&mut self) {
        self.machine = machine(self.now.instant);
        self.machine
            .load(rows::load(&self.disk).expect("rows"), self.now.instant);
    }

    fn wait(&mut self, time: Duration) {
        self.now.instant += time;
        self.now.millis += i64::try_from(time.as_millis()).expect("short");
    }

    fn feed(&mut self, inputs: Vec<Input>) -> Vec<Publication> {
        for input in inputs {
            self.machine.take(input, self.now);
        }
        let rows = self.machine.rows(self.now.instant);
        let effects = if self.broken && !rows.is_empty() {
            self.machine.abort("database or disk is full", self.now)
        } else {
            rows::apply(&self.disk, &rows).expect("rows are written");
            self.machine.commit(self.now.instant)
        };
        self.news.extend(effects.news);
        self.coalesced += effects.coalesced;
        if self.checks {
            self.check();
        }
        effects.publications
    }

    /// Memory equals the disk, but for the empty versions that a deletion gives the side that never had a value.
    fn check(&self) {
        let loaded = rows::load(&self.disk).expect("rows");
        assert_eq!(loaded.devices, self.machine.devices);
        let memory: usize = self.machine.devices.values().map(Device::size).sum();
        assert_eq!(memory, self.machine.memory);
    }

    fn mqtt(&mut self, topic: &str, payload: &str) -> Vec<(String, Value)> {
        let input = Input::Mqtt {
            topic: topic.to_owned(),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
        };
        told(self.feed(vec![input]))
    }

    fn update(&mut self, twins: &str) -> Vec<(String, Value)> {
        self.mqtt(
            &format!("{T1}/twin/update"),
            &format!(r#"{{"event_id":"e1","timestamp":1,"twin":{twins}}}"#),
        )
    }

    fn twins(&mut self) -> Value {
        let answers = self.mqtt(&format!("{T1}/twin/get"), r#"{"event_id":"g"}"#);
        answers[0].1["twin"].clone()
    }

    /// An object is stored, of which nobody knows the uid.
    fn stored(&mut self, id: &str) -> Vec<(String, Value)> {
        told(self.feed(vec![Input::Stored(known(id, ""))]))
    }

    fn cloud(&mut self, resource: &str, content: &str) -> Vec<(String, Value)> {
        let content = Content::from_json_text(content.to_owned()).expect("JSON");
        let message = Message::new(
            Source::DeviceController,
            Group::Twin,
            Operation::Update,
            Route::parse(&Group::Twin, resource),
            content,
        );
        told(self.feed(vec![Input::Cloud(message)]))
    }

    /// What is sent now, without the question for the membership.
    fn sent(&mut self) -> Vec<(u64, Message)> {
        let all = std::iter::from_fn(|| self.machine.outgoing(self.now));
        let mut reports = Vec::new();
        for (id, message) in all {
            if id != super::membership::QUESTION {
                reports.push((id, message));
            }
        }
        reports
    }

    fn connect(&mut self) {
        self.machine.link(true, self.now.instant);
    }

    fn answer(&mut self, id: u64, outcome: Outcome) {
        self.machine.answered(id, outcome, self.now.instant);
    }
}

fn known(id: &str, uid: &str) -> Known {
    Known {
        id: DeviceId::parse(id).expect("id"),
        uid: uid.to_owned(),
        description: String::new(),
    }
}

fn machine(now: Instant) -> Machine {
    Machine::new("edge-go".into(), Rates { device: 10, all: 100 }, now)
}

fn told(publications: Vec<Publication>) -> Vec<(String, Value)> {
    publications
        .into_iter()
        .map(|publication| {
            let payload = serde_json::from_slice(&publication.payload).expect("JSON");
            (publication.topic, payload)
        })
        .collect()
}

fn content(message: &Message) -> Value {
    serde_json::from_str(&message.content.document()).expect("JSON")
}

/// Topics without what they have in common.
fn topics(told: &[(String, Value)]) -> Vec<&str> {
    told.iter()
        .map(|(topic, _)| topic.strip_prefix(T1).unwrap_or(topic))
        .collect()
}
