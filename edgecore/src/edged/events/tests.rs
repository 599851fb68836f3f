use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::correlator::Correlator;
use super::*;
use crate::edged::testing::FakeApi;
use crate::uplink::Link;

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

#[tokio::test(start_paused = true)]
async fn events_wait_for_a_link_and_are_sent_again_after_it_was_lost() {
    let api = Arc::new(FakeApi::new());
    api.set_link(Link::Down);
    let tasks = Tasks::new();
    let events = Events::start(api.clone(), &"edge-1".into(), &tasks);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "web", "uid": "u1", "resourceVersion": "5"},
    }))
    .expect("a pod");
    let settle = || tokio::time::sleep(Duration::from_millis(10));
    events.container(
        &pod,
        (ContainerKind::Main, "main"),
        Severity::Normal,
        "Started",
        "Started container main",
    );
    settle().await;
    assert_eq!(api.events(), Vec::<Value>::new());
    api.set_link(Link::Up(1));
    settle().await;
    let sent = api.events();
    let [event] = sent.as_slice() else { panic!("{sent:?}") };
    assert_eq!(event["involvedObject"]["fieldPath"], "spec.containers{main}");
    assert_eq!(
        (&event["reason"], &event["type"], &event["count"]),
        (&json!("Started"), &json!("Normal"), &json!(1))
    );
    assert_eq!(event["source"], json!({"component": "kubelet", "host": "edge-1"}));
    api.set_link(Link::Up(2));
    settle().await;
    let sent = api.events();
    assert_eq!((sent.len(), &sent[0]), (2, &sent[1]), "nobody said that it had arrived");
    tokio::time::sleep(Duration::from_secs(60)).await;
    api.set_link(Link::Up(3));
    settle().await;
    assert_eq!(api.events().len(), 2, "it arrived long ago");
}

#[tokio::test(start_paused = true)]
async fn offline_the_newest_are_kept() {
    let api = Arc::new(FakeApi::new());
    api.set_link(Link::Down);
    let tasks = Tasks::new();
    let events = Events::start(api.clone(), &"edge-1".into(), &tasks);
    for number in 0..WAITING + 50 {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": format!("p{number}")}})).expect("a pod");
        events.pod(&pod, Severity::Normal, "Killing", "x".repeat(5000));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    api.set_link(Link::Up(1));
    tokio::time::sleep(Duration::from_millis(10)).await;
    let sent = api.events();
    assert_eq!(sent.len(), WAITING);
    assert_eq!(sent[0]["involvedObject"]["name"], "p50");
    assert_eq!(sent[0]["message"].as_str().map(str::len), Some(MESSAGE));
}
