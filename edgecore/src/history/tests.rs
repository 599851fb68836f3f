//! The history over real files in temporary folders; times are given, nothing waits for the clock.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use common::Tasks;
use http_body_util::BodyExt as _;
use prometheus_client::registry::Registry;
use proto::device::{DeviceId, Remembered};
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tower::ServiceExt as _;

use super::question::Question;
use super::store::{Outcome, Store};
use super::{Bounds, History, HistoryError, Settings, is_question};
use crate::devicetwin::{Accepted, News};

const BOUNDS: Bounds = Bounds {
    values: 10_000,
    bytes: 4 * 1024 * 1024,
    age: None,
};
/// Fewer bytes than 10,000 values take.
const SMALL: u64 = 256 * 1024;

fn value(property: &str, time: i64, value: &str) -> News {
    value_of("t1", property, time, value)
}

fn value_of(device: &str, property: &str, time: i64, value: &str) -> News {
    News::Value(Arc::new(Accepted {
        device: DeviceId::new("default", device),
        property: property.to_owned(),
        value: value.to_owned(),
        kind: "int".to_owned(),
        time,
    }))
}

fn many(count: i64) -> Vec<News> {
    (0..count).map(|n| value("temp", n * 1000, &n.to_string())).collect()
}

fn open(folder: &Path, bounds: Bounds) -> Store {
    Store::open(&folder.join("history.db"), bounds).expect("opened")
}

/// The values of `temp`, as text.
fn ask(store: &Store, query: &str) -> (Vec<String>, Option<String>) {
    let question = Question::of_query(&format!("property=temp&{query}")).expect("a question");
    match store.ask("default/t1".to_owned(), &question).expect("an answer") {
        Remembered::Values { values, next, .. } => (values.into_iter().map(|value| value.value).collect(), next),
        other => panic!("{other:?}"),
    }
}

#[test]
fn ten_thousand_values_are_kept_and_the_oldest_go_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = open(folder.path(), BOUNDS);
    let outcome = store.append(&many(10_500), 0).expect("stored");
    let wanted = Outcome {
        stored: 10_500,
        by_values: 500,
        ..Outcome::default()
    };
    assert_eq!(outcome, wanted);
    let usage = store.usage().expect("usage");
    assert_eq!(usage.values, 10_000);
    assert!(usage.bytes < 1024 * 1024, "{} bytes for 10,000 values", usage.bytes);
    assert_eq!(ask(&store, "limit=2").0, ["500", "501"]);
    assert_eq!(ask(&store, "limit=2&order=newest").0, ["10499", "10498"]);
}

#[test]
fn values_are_found_by_time_and_in_pages() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = open(folder.path(), BOUNDS);
    store.append(&many(10_000), 0).expect("stored");
    assert_eq!(
        ask(&store, "from=5000000&to=5003000"),
        (vec!["5000".to_owned(), "5001".to_owned(), "5002".to_owned()], None)
    );
    assert_eq!(ask(&store, "from=1970-01-01T02:46:39Z").0, ["9999"]);
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let (page, next) = ask(&store, &format!("limit=999{after}"));
        all.extend(page);
        match next {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(all, (0..10_000).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn the_file_stays_within_its_bytes_and_is_there_again_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let bounds = Bounds { bytes: SMALL, ..BOUNDS };
    let mut store = open(folder.path(), bounds);
    let mut removed = 0;
    for chunk in many(20_000).chunks(1000) {
        removed += store.append(chunk, 0).expect("stored").by_bytes;
    }
    let usage = store.usage().expect("usage");
    assert!(
        usage.bytes <= SMALL && usage.values + removed == 20_000 && usage.values > 1000,
        "{usage:?}"
    );
    let newest = ask(&store, "limit=1&order=newest");
    drop(store);
    let file = std::fs::metadata(folder.path().join("history.db"))
        .expect("a file")
        .len();
    // What one commit of 1,000 values adds before it makes room.
    assert!(file <= SMALL + 128 * 1024, "{file} bytes");
    let store = open(folder.path(), bounds);
    assert_eq!(store.usage().expect("usage"), usage);
    assert_eq!(ask(&store, "limit=1&order=newest"), newest);
    assert_eq!(newest.0, ["19999"]);
}

#[test]
fn old_values_go_and_with_the_last_one_the_property() {
    let folder = tempfile::tempdir().expect("a folder");
    let age = Some(Duration::from_secs(10));
    let mut store = open(folder.path(), Bounds { age, ..BOUNDS });
    store
        .append(&[value("temp", 0, "0"), value("other", 5_000, "1")], 5_000)
        .expect("stored");
    let outcome = store.append(&[], 12_000).expect("kept");
    assert_eq!((outcome.by_age, store.usage().expect("usage").values), (1, 1));
    let gone = store.ask(
        "default/t1".to_owned(),
        &Question::of_query("property=temp").expect("a question"),
    );
    assert!(matches!(gone, Err(HistoryError::Unknown(_))));
    store.append(&[value("temp", 12_000, "2")], 12_000).expect("stored");
    assert_eq!(ask(&store, "").0, ["2"]);
}

#[test]
fn what_a_clock_that_ran_ahead_left_does_not_outlive_what_is_newer() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = open(folder.path(), Bounds { values: 2, ..BOUNDS });
    let (now, in_2070) = (1_795_217_800_000, 3_155_760_000_000);
    for (time, text) in [(in_2070, "1"), (in_2070 + 1, "2"), (now, "3"), (now + 1, "4")] {
        store.append(&[value("temp", time, text)], now).expect("stored");
    }
    assert_eq!(ask(&store, "").0, ["3", "4"]);
}

#[test]
fn a_device_that_went_leaves_nothing_and_makes_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = open(folder.path(), BOUNDS);
    let news: Vec<News> = (0..10_000).map(|n| value(&n.to_string(), 0, "old")).collect();
    store.append(&news, 0).expect("stored");
    let other = value_of("t2", "temp", 0, "0");
    let refused = store.append(std::slice::from_ref(&other), 0).expect("stored").refused;
    assert_eq!(refused, 1);
    // Removed, made again and written to before anything of it was stored.
    let gone = News::Removed(DeviceId::new("default", "t1"));
    let outcome = store
        .append(&[value("7", 0, "old"), gone, value("temp", 1, "new"), other], 0)
        .expect("stored");
    assert_eq!((outcome.by_device, outcome.stored), (10_001, 3));
    assert_eq!(ask(&store, "").0, ["new"]);
    // The cloud's list, after a removal that was never heard of.
    drop(store);
    let mut store = open(folder.path(), BOUNDS);
    let listed = News::Devices([DeviceId::new("default", "t2")].into());
    assert_eq!(store.append(&[listed], 0).expect("stored").by_device, 1);
    let gone = store.ask("default/t1".to_owned(), &Question::Properties);
    assert!(matches!(gone, Err(HistoryError::Unknown(_))));
    assert_eq!(store.usage().expect("usage").values, 1);
}

#[test]
fn a_damaged_file_is_set_aside_and_a_new_one_begins() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("history.db"), vec![7; 8192]).expect("written");
    let mut store = open(folder.path(), BOUNDS);
    store.append(&many(3), 0).expect("stored");
    assert_eq!(ask(&store, "").0, ["0", "1", "2"]);
    let names = std::fs::read_dir(folder.path())
        .expect("a folder")
        .filter_map(Result::ok);
    let aside = names
        .filter(|entry| entry.file_name().to_string_lossy().contains("damaged"))
        .count();
    assert_eq!(aside, 1);
}

#[test]
fn questions_without_sense_are_refused() {
    for (query, reason) in [
        ("limit=0", "limit must be between 1 and 10000"),
        ("limit=x", "limit must be between 1 and 10000"),
        ("order=up", "order must be oldest or newest"),
        ("after=1", "after must be the next of an answer"),
        (
            "from=now",
            "from: \"now\" is neither a Unix time in milliseconds nor a time like 2026-01-02T03:04:05Z",
        ),
        (
            "prop=x",
            "unknown parameter \"prop\": property, from, to, limit, after and order are known",
        ),
    ] {
        assert_eq!(Question::of_query(query).expect_err(query).to_string(), reason);
    }
}

/// A history that is fed by the sender.
fn started(folder: &Path) -> (History, broadcast::Sender<Arc<[News]>>, Tasks) {
    let (news, feed) = broadcast::channel(64);
    let tasks = Tasks::new();
    let settings = Settings {
        database: folder.join("history.db"),
        bounds: BOUNDS,
    };
    let history = History::start(settings, feed, &mut Registry::default(), &tasks).expect("started");
    (history, news, tasks)
}

async fn get(history: &History, path: &str) -> (StatusCode, Value) {
    let request = Request::get(path).body(Body::empty()).expect("a request");
    let answer = history.router().oneshot(request).await.expect("an answer");
    let status = answer.status();
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    (status, serde_json::from_slice(&body).expect("JSON"))
}

#[tokio::test]
async fn values_are_told_over_http_and_mqtt_and_written_when_the_process_stops() {
    let folder = tempfile::tempdir().expect("a folder");
    let (history, news, tasks) = started(folder.path());
    news.send([value("temp", 5, "21")].into()).expect("fed");
    let path = "/devices/default/t1/history";
    // The feed is a task of its own: the value is there soon.
    let (mut status, mut answer) = get(&history, path).await;
    while status == StatusCode::NOT_FOUND {
        tokio::task::yield_now().await;
        (status, answer) = get(&history, path).await;
    }
    let property = json!({"property": "temp", "type": "int", "values": 1, "oldest": 5, "newest": 5});
    assert_eq!(answer, json!({"device": "default/t1", "properties": [property]}));
    let (status, answer) = get(&history, "/devices/default/t2/history").await;
    let refused = json!({"code": 404, "reason": "nothing is remembered of default/t2"});
    assert_eq!((status, answer), (StatusCode::NOT_FOUND, refused));

    let topic = "$hw/events/device/default/t1/history/get";
    assert!(is_question(topic) && !is_question("$hw/events/device/t1/history/get"));
    let asked = history
        .answer(topic, br#"{"event_id":"e","property":"temp"}"#)
        .await
        .expect("an answer");
    assert_eq!(asked.topic, format!("{topic}/result"));
    let mut answer: Value = serde_json::from_slice(&asked.payload).expect("JSON");
    assert!(
        answer
            .as_object_mut()
            .and_then(|answer| answer.remove("timestamp"))
            .is_some()
    );
    let found = json!({"event_id": "e", "device": "default/t1", "property": "temp", "type": "int", "values": [{"time": 5, "value": "21"}]});
    assert_eq!(answer, found);
    let refused = history.answer(topic, b"{").await.expect("an answer");
    assert!(String::from_utf8_lossy(&refused.payload).contains(r#""code":400"#));

    assert!(tasks.stop(Duration::from_secs(10)).await);
    assert_eq!(ask(&open(folder.path(), BOUNDS), "").0, ["21"]);
}

/// Far more values than are written together, in one message.
#[tokio::test]
async fn a_batch_is_never_too_large() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_history, news, tasks) = started(folder.path());
    let other = (0..10_000).map(|n| value("other", n, &n.to_string()));
    news.send(many(10_000).into_iter().chain(other).collect()).expect("fed");
    while !news.is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(tasks.stop(Duration::from_secs(60)).await);
    let store = open(folder.path(), BOUNDS);
    assert_eq!(store.usage().expect("usage").values, 20_000);
}
