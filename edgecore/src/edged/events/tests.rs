use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use proto::Object;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::correlator::Correlator;
use super::waiting::{Action, DOUBTFUL, Outcome, PATIENCE, Said, WAITING, Waiting};
use super::*;
use crate::edged::testing::FakeApi;
use crate::metamanager::{MetaManager, Settings};
use crate::uplink::{Link, Uplink};

fn note(pod: &str, message: &str) -> Note {
    Note {
        subject: Subject {
            namespace: "default".into(),
            pod: pod.into(),
            uid: format!("uid-{pod}"),
            version: "7".into(),
            field: String::new(),
        },
        severity: Severity::Warning,
        reason: "BackOff".into(),
        message: message.into(),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).expect("a time")
}

#[tokio::test(start_paused = true)]
async fn what_repeats_is_counted_under_its_name() {
    let mut correlator = Correlator::default();
    let first = correlator.observe(note("a", "again"), at(0)).expect("the first one");
    let mut second = note("a", "again");
    second.subject.version = "8".into();
    let second = correlator.observe(second, at(5)).expect("the second one");
    assert_eq!((&second.name, second.count), (&first.name, 2));
    assert_eq!((second.first, second.last), (at(0), at(5)));
    let other = correlator.observe(note("a", "another"), at(6)).expect("another");
    assert_eq!(other.count, 1);
    assert_ne!(other.name, first.name);
    // The API has forgotten it: it begins anew.
    tokio::time::advance(Duration::from_secs(3600)).await;
    let later = correlator.observe(note("a", "again"), at(3605)).expect("later");
    assert_eq!(later.count, 1);
    assert_ne!(later.name, first.name);
}

#[tokio::test(start_paused = true)]
async fn similar_ones_become_one() {
    let mut correlator = Correlator::default();
    for number in 0..9 {
        let event = correlator
            .observe(note("a", &format!("failed at {number}")), at(number))
            .expect("few");
        assert_eq!(event.message, format!("failed at {number}"));
    }
    let names: Vec<_> = (9..12)
        .map(|number| {
            correlator
                .observe(note("a", &format!("failed at {number}")), at(number))
                .expect("combined")
        })
        .collect();
    assert_eq!(names[2].message, "(combined from similar events): failed at 11");
    assert_eq!((&names[2].name, names[2].count), (&names[0].name, 3));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_says_too_much_is_not_heard() {
    let mut correlator = Correlator::default();
    let heard = (0..40).filter(|number| correlator.observe(note("a", "again"), at(*number)).is_some());
    assert_eq!(heard.count(), 25);
    assert!(
        correlator.observe(note("b", "again"), at(41)).is_some(),
        "another pod is heard"
    );
    tokio::time::advance(Duration::from_secs(300)).await;
    let event = correlator
        .observe(note("a", "again"), at(341))
        .expect("one more after a while");
    assert_eq!(event.count, 41, "what was not heard was counted");
    assert!(correlator.observe(note("a", "again"), at(342)).is_none());
}

fn said(name: &str, count: u32) -> Said {
    let event = json!({"metadata": {"name": name, "namespace": "default"}, "count": count});
    Said {
        name: name.to_owned(),
        object: Object::from_value(&event).expect("an object"),
    }
}

/// Rows by name, and what the machine does with them until it waits.
#[derive(Default)]
struct Rows {
    rows: BTreeMap<String, String>,
    writes: usize,
    fails: bool,
}

impl Rows {
    /// Returns what it sends and when it wants to be asked again.
    fn drive(&mut self, waiting: &mut Waiting, now: Instant) -> (Vec<String>, Option<Instant>) {
        let mut sent = Vec::new();
        for _ in 0..10_000 {
            match waiting.next(now) {
                Action::Wait(until) => return (sent, until),
                Action::Send(said) => sent.push(said.name),
                Action::Store { .. } if self.fails => waiting.store_failed(now),
                Action::Store { forget, write } => {
                    assert!(!write.is_empty() || !forget.is_empty());
                    self.writes += 1;
                    for name in forget {
                        self.rows.remove(&name);
                    }
                    for said in write {
                        self.rows.insert(said.name, said.object.json().to_owned());
                    }
                    waiting.stored();
                }
            }
        }
        panic!("it never waits");
    }

    fn names(&self) -> Vec<&str> {
        self.rows.keys().map(String::as_str).collect()
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn what_the_cloud_answers_at_once_is_never_written() {
    let (start, mut rows) = (Instant::now(), Rows::default());
    let mut waiting = Waiting::new(start, Vec::new());
    waiting.link(start, true);
    waiting.put(start, said("a", 1));
    assert_eq!(
        rows.drive(&mut waiting, start),
        (vec!["a".to_owned()], Some(start + PATIENCE))
    );
    waiting.sent(start, "a", Outcome::Written);
    assert_eq!(rows.drive(&mut waiting, start + 100 * SECOND), (vec![], None));
    waiting.link(start + 101 * SECOND, true);
    assert_eq!(rows.drive(&mut waiting, start + 102 * SECOND), (vec![], None));
    assert_eq!(rows.writes, 0);
}

#[test]
fn what_has_not_arrived_is_written_together_and_removed_together() {
    let (start, mut rows) = (Instant::now(), Rows::default());
    let mut waiting = Waiting::new(start, Vec::new());
    for name in ["a", "b", "c"] {
        waiting.put(start, said(name, 1));
    }
    let (sent, until) = rows.drive(&mut waiting, start);
    assert_eq!((sent, until), (vec![], Some(start + PATIENCE)));
    rows.fails = true;
    let until = rows.drive(&mut waiting, start + SECOND).1.expect("again");
    rows.fails = false;
    assert_eq!(rows.drive(&mut waiting, until), (vec![], None));
    assert_eq!((rows.names(), rows.writes), (vec!["a", "b", "c"], 1));
    // One that repeats is written again a minute later.
    waiting.put(until, said("b", 2));
    let (_, again) = rows.drive(&mut waiting, until);
    assert_eq!(again, Some(until + 60 * SECOND));
    rows.drive(&mut waiting, until + 60 * SECOND);
    assert!(rows.rows["b"].contains("2"), "{:?}", rows.rows);

    let now = until + 100 * SECOND;
    waiting.link(now, true);
    assert_eq!(rows.drive(&mut waiting, now).0, ["a", "b", "c"]);
    for name in ["a", "b", "c"] {
        waiting.sent(now, name, Outcome::Written);
    }
    let (_, until) = rows.drive(&mut waiting, now);
    rows.drive(&mut waiting, until.expect("rows to remove"));
    assert_eq!((rows.names(), rows.writes), (vec![], 3));
}

#[test]
fn a_link_that_is_lost_and_a_cloud_that_cannot_write_mean_once_more() {
    let (start, mut rows) = (Instant::now(), Rows::default());
    let mut waiting = Waiting::new(start, vec![said("old", 1)]);
    waiting.put(start, said("new", 1));
    waiting.link(start, true);
    assert_eq!(rows.drive(&mut waiting, start).0, ["old", "new"]);
    waiting.link(start, false);
    waiting.sent(start, "old", Outcome::Written);
    waiting.link(start, true);
    assert_eq!(
        rows.drive(&mut waiting, start).0,
        ["old", "new"],
        "the answer was to the last link's"
    );
    // It repeats while it is under way: the answer is to the first count.
    waiting.put(start, said("new", 2));
    waiting.sent(start, "new", Outcome::Written);
    assert_eq!(rows.drive(&mut waiting, start).0, ["new"]);
    waiting.sent(start, "new", Outcome::Written);
    waiting.sent(start, "old", Outcome::Later);
    assert_eq!(rows.drive(&mut waiting, start).0, Vec::<String>::new());
    let (_, until) = rows.drive(&mut waiting, start + SECOND / 2);
    assert_eq!(rows.drive(&mut waiting, until.expect("a pause")).0, ["old"]);
    waiting.sent(start, "old", Outcome::Refused);
    assert_eq!(rows.drive(&mut waiting, start).0, Vec::<String>::new());
}

#[test]
fn what_repeats_before_its_row_was_removed_is_written_again() {
    let (start, mut rows) = (Instant::now(), Rows::default());
    let mut waiting = Waiting::new(start, vec![said("a", 1)]);
    rows.rows.insert("a".to_owned(), String::new());
    waiting.link(start, true);
    rows.drive(&mut waiting, start);
    waiting.sent(start, "a", Outcome::Written);
    waiting.link(start, false);
    waiting.put(start, said("a", 2));
    rows.drive(&mut waiting, start + 100 * SECOND);
    assert!(rows.rows["a"].contains('2'), "{:?}", rows.rows);
}

#[test]
fn many_that_fail_together_are_one_failure() {
    let (start, mut rows) = (Instant::now(), Rows::default());
    let names: Vec<String> = (0..16).map(|number| number.to_string()).collect();
    let mut waiting = Waiting::new(start, names.iter().map(|name| said(name, 1)).collect());
    waiting.link(start, true);
    rows.drive(&mut waiting, start);
    for name in &names {
        waiting.sent(start, name, Outcome::Later);
    }
    let until = rows.drive(&mut waiting, start).1.expect("a pause");
    assert!(until <= start + 2 * SECOND, "{:?}", until - start);
    assert_eq!(rows.drive(&mut waiting, until).0, names);
}

#[test]
fn a_cloud_that_does_not_answer_gets_the_last_half_minute_twice() {
    let (start, mut rows) = (Instant::now(), Rows::default());
    let mut waiting = Waiting::new(start, Vec::new());
    waiting.link(start, true);
    waiting.put(start, said("a", 1));
    rows.drive(&mut waiting, start);
    waiting.sent(start, "a", Outcome::Told);
    let later = start + 20 * SECOND;
    waiting.put(later, said("b", 1));
    rows.drive(&mut waiting, later);
    waiting.sent(later, "b", Outcome::Told);
    waiting.link(later, true);
    assert_eq!(rows.drive(&mut waiting, later).0, ["a", "b"]);
    waiting.sent(later, "a", Outcome::Told);
    waiting.sent(later, "b", Outcome::Told);
    let later = later + DOUBTFUL;
    waiting.link(later, true);
    assert_eq!(rows.drive(&mut waiting, later).0, Vec::<String>::new());
}

#[test]
fn the_oldest_gives_way() {
    let (start, mut rows) = (Instant::now(), Rows::default());
    let mut waiting = Waiting::new(
        start,
        (0..WAITING).map(|number| said(&format!("{number:04}"), 1)).collect(),
    );
    rows.rows = (0..WAITING)
        .map(|number| (format!("{number:04}"), String::new()))
        .collect();
    for number in WAITING..WAITING + 50 {
        waiting.put(start, said(&format!("{number:04}"), 1));
    }
    assert_eq!((waiting.dropped(), waiting.dropped()), (50, 0));
    rows.drive(&mut waiting, start + 10 * SECOND);
    assert_eq!((rows.names().len(), rows.names()[0]), (WAITING, "0050"));
    // A new database has none of them.
    rows.rows.clear();
    waiting.rows_lost(start);
    rows.drive(&mut waiting, start + 10 * SECOND);
    assert_eq!(rows.names().len(), WAITING);
}

/// An edge with a database.
struct World {
    api: Arc<FakeApi>,
    events: Events,
    meta: MetaManager,
    tasks: Tasks,
}

impl World {
    async fn start(database: &Path, link: Link) -> Self {
        let (tasks, (uplink, _cloud)) = (Tasks::new(), Uplink::channel());
        let settings = Settings {
            node: "edge-1".into(),
            database: database.to_owned(),
            remote_timeout: Duration::from_secs(60),
        };
        let meta = MetaManager::start(settings, uplink, &tasks).await.expect("started");
        let api = Arc::new(FakeApi::new());
        api.set_link(link);
        let events = Events::start(api.clone(), meta.tables(), &"edge-1".into(), &tasks);
        Self {
            api,
            events,
            meta,
            tasks,
        }
    }

    fn say(&self, message: &str) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "web", "uid": "u1", "resourceVersion": "5"},
        }))
        .expect("a pod");
        let main = (ContainerKind::Main, "main");
        self.events.container(&pod, main, Severity::Normal, "Started", message);
    }

    async fn until_sent(&self, count: usize) -> Vec<Value> {
        while self.api.events().len() < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.api.events()
    }

    async fn until_rows(&self, count: usize) {
        while super::store::load(&self.meta.tables()).await.expect("rows").len() != count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

#[tokio::test]
async fn events_wait_for_a_link_through_a_stop_and_a_crash() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = folder.path().join("edgecore.db");
    let first = World::start(&database, Link::Down).await;
    first.say("Started container main");
    first.until_rows(1).await;
    first.say(&"x".repeat(5000));
    // A stop writes what waits.
    assert!(first.tasks.stop(Duration::from_secs(10)).await);
    assert_eq!(first.api.events(), Vec::<Value>::new());

    let second = World::start(&database, Link::Down).await;
    second.until_rows(2).await;
    second.say("Started once more");
    second.api.set_link(Link::Up(1));
    let sent = second.until_sent(3).await;
    let [event, long, last] = sent.as_slice() else {
        panic!("{sent:?}")
    };
    assert_eq!(event["involvedObject"]["fieldPath"], "spec.containers{main}");
    assert_eq!(
        (&event["reason"], &event["type"], &event["count"]),
        (&json!("Started"), &json!("Normal"), &json!(1))
    );
    assert_eq!(event["source"], json!({"component": "kubelet", "host": "edge-1"}));
    assert_eq!(long["message"].as_str().map(str::len), Some(MESSAGE));
    assert_eq!(last["message"], "Started once more");
    second.until_rows(0).await;
    second.tasks.stop(Duration::from_secs(10)).await;
}
