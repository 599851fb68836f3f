//! Reports and rows.

use std::collections::BTreeMap;

use proto::device::DeviceId;
use proto::dmi::{Digest, pb};
use rusqlite::Connection;

use super::super::knowledge::{Note, Thing};
use super::super::{limits, reports, rows};

fn property(value: &str, kind: &str) -> pb::TwinProperty {
    let metadata = [("type", kind), ("timestamp", "1")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    pb::TwinProperty {
        value: value.into(),
        metadata: metadata.into(),
    }
}

fn reported(name: &str, reported: Option<pb::TwinProperty>, desired: Option<pb::TwinProperty>) -> pb::DeviceStatus {
    pb::DeviceStatus {
        twins: vec![pb::Twin {
            property_name: name.into(),
            observed_desired: desired,
            reported,
        }],
        ..Default::default()
    }
}

#[test]
fn a_report_is_one_write_of_the_halves_that_are_there() {
    let twins = reports::twins(Some(reported("t", Some(property("21", "INT")), None))).expect("twins");
    let twin = twins["t"].clone().expect("a twin");
    assert_eq!(twin.actual.and_then(|actual| actual.value).as_deref(), Some("21"));
    assert_eq!((twin.expected, twin.kind.as_deref()), (None, Some("int")));
    let twins = reports::twins(Some(reported("t", None, Some(property("5", ""))))).expect("twins");
    let twin = twins["t"].clone().expect("a twin");
    assert_eq!((twin.actual, twin.kind), (None, None));
    assert!(twin.expected.is_some());
    let unseen = reported("t", Some(property("21", "int")), Some(property("", "")));
    let twins = reports::twins(Some(unseen)).expect("twins");
    assert_eq!(twins["t"].clone().expect("a twin").expected, None);
}

/// Go takes every report as text; a type that would make DeviceTwin refuse it is not passed on.
#[test]
fn the_type_is_passed_on_where_the_value_is_of_it() {
    for (value, kind, expected) in [
        ("1.5", "int", None),
        ("1.5", "double", Some("double")),
        ("True", "boolean", None),
        ("x", "stream", None),
        ("x", "", None),
        ("hello world {\"a\":1} ü", "string", Some("string")),
    ] {
        let twins = reports::twins(Some(reported("t", Some(property(value, kind)), None))).expect("twins");
        assert_eq!(
            twins["t"].clone().and_then(|twin| twin.kind).as_deref(),
            expected,
            "{value} {kind}"
        );
    }
}

#[test]
fn a_report_of_nothing_is_refused() {
    for nothing in [None, Some(pb::DeviceStatus::default()), Some(reported("", None, None))] {
        let error = reports::twins(nothing).expect_err("refused");
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
    }
}

fn database() -> Connection {
    let connection = Connection::open_in_memory().expect("a database");
    let schema = "CREATE TABLE meta (key text, type text, value text, PRIMARY KEY (key))";
    connection.execute(schema, []).expect("a table");
    connection
}

fn mapper(name: &str) -> pb::MapperInfo {
    pb::MapperInfo {
        name: name.into(),
        version: "v1".into(),
        api_version: "v1.0.0".into(),
        protocol: "modbus".into(),
        address: b"/etc/m.sock".to_vec(),
        state: "ok".into(),
    }
}

/// The row of spec 03 §3.2, which a Go edgecore reads too.
#[test]
fn a_mapper_is_stored_as_go_does() {
    let connection = database();
    let stored = rows::Stored {
        info: mapper("m"),
        told: BTreeMap::new(),
    };
    rows::store(&connection, &stored).expect("stored");
    let row: (String, String, String) = connection
        .query_row("SELECT key, type, value FROM meta", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .expect("a row");
    assert_eq!(row.0, "node/nodeID/namespace/devicemapper/m");
    assert_eq!(row.1, "devicemapper");
    assert_eq!(
        row.2,
        r#"{"name":"m","version":"v1","api_version":"v1.0.0","protocol":"modbus","address":"L2V0Yy9tLnNvY2s=","state":"ok"}"#
    );
    assert_eq!(rows::load(&connection).expect("loads"), [stored]);
}

#[test]
fn what_a_mapper_was_told_is_kept_until_it_registers_again() {
    let connection = database();
    let digest = Digest::parse("00000000000000ff").expect("a digest");
    let things = [
        Thing::Model(DeviceId::new("default", "m")),
        Thing::Device(DeviceId::new("default", "d")),
    ];
    let mut stored = rows::Stored {
        info: mapper("a"),
        told: things.iter().map(|thing| (thing.clone(), digest)).collect(),
    };
    rows::store(&connection, &stored).expect("stored");
    let other = rows::Stored {
        info: pb::MapperInfo {
            protocol: "opcua".into(),
            ..mapper("a%")
        },
        told: BTreeMap::new(),
    };
    rows::store(&connection, &other).expect("stored");
    let note = Note {
        thing: things[1].clone(),
        digest: None,
    };
    rows::remember(&connection, "a", &[note]).expect("noted");
    stored.told.remove(&things[1]);
    assert_eq!(rows::load(&connection).expect("loads"), [stored.clone(), other.clone()]);
    // The one that registers last is the last.
    stored.told.clear();
    rows::store(&connection, &stored).expect("stored");
    assert_eq!(rows::load(&connection).expect("loads"), [other, stored]);
}

fn is_taken(change: impl FnOnce(&mut pb::MapperInfo)) -> bool {
    let mut info = mapper("m");
    change(&mut info);
    limits::check(&info).is_ok()
}

#[test]
fn a_mapper_says_little_of_itself() {
    assert_eq!(limits::check(&mapper(&"x".repeat(253))), Ok(()));
    let (name, text) = ("x".repeat(254), "x".repeat(1025));
    assert!(!is_taken(|info| info.name.clone_from(&name)));
    assert!(!is_taken(|info| info.protocol.clone_from(&name)));
    assert!(!is_taken(|info| info.version.clone_from(&text)));
    assert!(!is_taken(|info| info.api_version.clone_from(&text)));
    assert!(!is_taken(|info| info.state.clone_from(&text)));
}

#[test]
fn the_newest_of_too_many_mappers_are_loaded() {
    let connection = database();
    let stored = |name: &str, protocol: &str| rows::Stored {
        info: pb::MapperInfo {
            protocol: protocol.into(),
            ..mapper(name)
        },
        told: BTreeMap::new(),
    };
    for number in 0..limits::MAPPERS + 2 {
        let number = number.to_string();
        rows::store(&connection, &stored(&number, &number)).expect("stored");
    }
    rows::store(&connection, &stored("long", &"x".repeat(254))).expect("stored");
    rows::store(&connection, &stored("new", "7")).expect("stored");
    let names = || {
        let loaded = rows::load(&connection).expect("loads");
        loaded.into_iter().map(|mapper| mapper.info.name).collect::<Vec<_>>()
    };
    let loaded = names();
    assert_eq!(loaded.len(), limits::MAPPERS);
    assert_eq!(loaded.last().map(String::as_str), Some("new"));
    assert!(
        loaded.iter().all(|name| !["0", "7", "long"].contains(&name.as_str())),
        "{loaded:?}"
    );
    rows::forget(&connection, "new").expect("forgotten");
    assert!(!names().contains(&"new".to_owned()));
}

#[test]
fn rows_that_cannot_be_read_are_left_out() {
    let connection = database();
    for (key, value) in [("1", "no json"), ("2", r#"{"name":"m","address":"%"}"#), ("3", "[]")] {
        connection
            .execute("INSERT INTO meta VALUES (?1, 'devicemapper', ?2)", [key, value])
            .expect("a row");
    }
    assert_eq!(rows::load(&connection).expect("loads"), []);
}
