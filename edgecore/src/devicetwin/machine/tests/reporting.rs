//! What the cloud is told, and when (spec 03 §3.6, "Must work" 22).

use serde_json::{Value, json};

use super::*;

fn set(edge: &mut Edge, device: &str, value: i64) {
    edge.mqtt(
        &format!("$hw/events/device/{device}/twin/update"),
        &format!(r#"{{"twin":{{"temp":{{"actual":{{"value":"{value}"}}}}}}}}"#),
    );
}

fn values(sent: &[(u64, Message)]) -> Vec<Value> {
    sent.iter()
        .map(|(_, message)| content(message)["twin"]["temp"]["actual"]["value"].clone())
        .collect()
}

#[test]
fn a_quiet_device_is_told_of_at_once_and_a_busy_one_by_its_newest_value() {
    let mut edge = Edge::with_t1();
    edge.connect();
    set(&mut edge, "default/t1", 0);
    let sent = edge.sent();
    assert_eq!(values(&sent), ["0"]);
    for value in 1..=50 {
        set(&mut edge, "default/t1", value);
    }
    assert_eq!(edge.coalesced, 49);
    // One message at a time, and ten a second.
    edge.wait(Duration::from_secs(1));
    assert!(edge.sent().is_empty());
    edge.answer(sent[0].0, Outcome::Confirmed);
    let sent = edge.sent();
    assert_eq!(values(&sent), ["50"]);
    edge.answer(sent[0].0, Outcome::Confirmed);
    set(&mut edge, "default/t1", 51);
    assert!(edge.sent().is_empty());
    assert_eq!(
        edge.machine.deadline(edge.now.instant),
        Some(edge.now.instant + Duration::from_millis(100))
    );
    edge.wait(Duration::from_millis(100));
    assert_eq!(values(&edge.sent()), ["51"]);
}

#[test]
fn a_go_cloud_is_told_of_the_first_value_of_a_property_twice() {
    let mut edge = Edge::with_t1();
    edge.connect();
    for (value, times) in [(1, 2), (2, 1)] {
        set(&mut edge, "default/t1", value);
        for _ in 0..times {
            let sent = edge.sent();
            assert_eq!(values(&sent), [value.to_string()]);
            edge.answer(sent[0].0, Outcome::ConfirmedByGo);
            edge.wait(Duration::from_secs(1));
        }
        assert!(edge.sent().is_empty());
    }
}

#[test]
fn all_devices_together_keep_the_rate_and_leave_room_for_others() {
    let mut edge = Edge::new();
    edge.checks = false;
    edge.connect();
    for n in 0..500 {
        edge.stored(&format!("default/d{n}"));
        set(&mut edge, &format!("default/d{n}"), n);
    }
    // Without answers: no more than the window.
    let first = edge.sent();
    assert_eq!(first.len(), super::reports::WINDOW);
    for (id, _) in first {
        edge.answer(id, Outcome::Confirmed);
    }
    let (mut total, begin) = (super::reports::WINDOW, edge.now.instant);
    while total < 500 {
        for (id, _) in edge.sent() {
            edge.answer(id, Outcome::Confirmed);
            total += 1;
        }
        let Some(deadline) = edge.machine.reports.deadline(edge.now.instant).filter(|_| total < 500) else {
            break;
        };
        let step = deadline.saturating_duration_since(edge.now.instant);
        edge.wait(step.max(Duration::from_millis(1)));
    }
    let seconds = (edge.now.instant - begin).as_secs_f64();
    // The bucket holds a second's worth.
    assert!((3.9..4.2).contains(&seconds), "{seconds}");
}

#[test]
fn what_is_not_answered_is_told_again_later_and_later_with_the_newest_value() {
    let mut edge = Edge::with_t1();
    edge.connect();
    set(&mut edge, "default/t1", 0);
    let (mut value, mut sends) = (0, Vec::new());
    for _ in 0..3600 {
        for (id, message) in edge.sent() {
            assert_eq!(values(&[(id, message)]), [value.to_string().as_str()]);
            edge.answer(id, Outcome::Unanswered);
            sends.push(edge.now.instant);
        }
        value += 1;
        set(&mut edge, "default/t1", value);
        edge.wait(Duration::from_secs(1));
    }
    // 10, 20, 40, 80, 160, 300 s and so on, each with up to a fifth more.
    assert!((12..=18).contains(&sends.len()), "{}", sends.len());
    // A new connection is a new chance.
    edge.machine.link(false, edge.now.instant);
    edge.connect();
    assert_eq!(edge.sent().len(), 1);
}

#[test]
fn a_cloud_that_was_away_gets_everything_once_it_confirms_anything() {
    let mut edge = Edge::with_t1();
    edge.stored("default/t2");
    edge.connect();
    set(&mut edge, "default/t1", 1);
    for _ in 0..6 {
        for (id, _) in edge.sent() {
            edge.wait(Duration::from_secs(15));
            edge.answer(id, Outcome::Unanswered);
        }
        let deadline = edge.machine.reports.deadline(edge.now.instant).expect("again");
        edge.wait(deadline - edge.now.instant);
    }
    let (id, _) = edge.sent().remove(0);
    edge.wait(Duration::from_secs(15));
    edge.answer(id, Outcome::Unanswered);
    set(&mut edge, "default/t2", 2);
    let (id, _) = edge.sent().remove(0);
    edge.wait(Duration::from_millis(10));
    edge.answer(id, Outcome::Confirmed);
    assert_eq!(values(&edge.sent()), ["1"]);
}

#[test]
fn unknown_devices_of_a_go_cloud_do_not_hold_up_the_others() {
    let mut edge = Edge::new();
    edge.connect();
    for n in 0..40 {
        edge.stored(&format!("default/a{n:02}"));
        set(&mut edge, &format!("default/a{n:02}"), n);
    }
    edge.stored("default/z");
    set(&mut edge, "default/z", 777);
    assert!(!values(&edge.sent()).contains(&json!("777")));
    edge.wait(Duration::from_secs(2));
    assert!(values(&edge.sent()).contains(&json!("777")));
}

#[test]
fn offline_nothing_is_kept_but_the_newest_and_it_survives_a_restart() {
    let mut edge = Edge::with_t1();
    for value in 0..600 {
        set(&mut edge, "default/t1", value);
        edge.mqtt(&format!("{T1}/state/update"), r#"{"state":"ok"}"#);
        edge.wait(Duration::from_secs(1));
    }
    edge.restart();
    edge.connect();
    let (id, message) = edge.sent().remove(0);
    assert_eq!(content(&message)["device"]["state"], "ok");
    edge.answer(id, Outcome::Confirmed);
    edge.wait(Duration::from_millis(100));
    let sent = edge.sent();
    assert_eq!(values(&sent), ["599"]);
    // The link breaks before the answer: told again, and again after a restart.
    edge.machine.link(false, edge.now.instant);
    edge.answer(sent[0].0, Outcome::Unsent);
    assert!(edge.sent().is_empty());
    edge.restart();
    edge.connect();
    let sent = edge.sent();
    assert!(
        sent.iter()
            .any(|(_, message)| message.route.to_string().ends_with("state/update"))
    );
    edge.answer(sent[0].0, Outcome::Confirmed);
    edge.wait(Duration::from_secs(1));
    assert_eq!(values(&edge.sent()), ["599"]);
}

#[test]
fn marks_cost_nothing_while_a_value_changes_and_go_when_it_rests() {
    let mut edge = Edge::with_t1();
    edge.connect();
    let marks = |edge: &Edge| -> i64 {
        let count = edge
            .disk
            .query_row("SELECT count(*) FROM device_unconfirmed", [], |row| row.get(0));
        count.expect("count")
    };
    for value in 0..200 {
        let input = Input::Report {
            device: DeviceId::new("default", "t1"),
            twins: TwinMap::from([(
                "temp".to_owned(),
                Some(proto::device::Twin {
                    actual: Some(proto::device::TwinValue {
                        value: Some(value.to_string()),
                        timestamp: None,
                    }),
                    ..proto::device::Twin::default()
                }),
            )]),
        };
        edge.machine.take(input, edge.now);
        let rows = edge.machine.rows(edge.now.instant);
        assert_eq!(rows.len(), if value == 0 { 2 } else { 1 }, "{rows:?}");
        rows::apply(&edge.disk, &rows).expect("written");
        edge.machine.commit(edge.now.instant);
        for (id, _) in edge.sent() {
            edge.answer(id, Outcome::Confirmed);
        }
        edge.wait(Duration::from_secs(1));
    }
    assert_eq!(marks(&edge), 1);
    edge.wait(super::reports::REST);
    edge.feed(Vec::new());
    assert_eq!(marks(&edge), 0);
    assert!(
        edge.machine
            .deadline(edge.now.instant)
            .is_none_or(|deadline| deadline <= edge.now.instant)
    );
    edge.restart();
    edge.connect();
    assert!(edge.sent().is_empty());
}

#[test]
fn a_removed_device_is_told_of_no_more() {
    let mut edge = Edge::with_t1();
    set(&mut edge, "default/t1", 1);
    edge.feed(vec![Input::Gone(DeviceId::new("default", "t1"))]);
    edge.connect();
    assert!(edge.sent().is_empty());
    edge.restart();
    edge.connect();
    assert!(edge.sent().is_empty());
    // Removed with its message on the way.
    edge.stored("default/t1");
    set(&mut edge, "default/t1", 2);
    let sent = edge.sent();
    edge.feed(vec![Input::Gone(DeviceId::new("default", "t1"))]);
    edge.answer(sent[0].0, Outcome::Unanswered);
    edge.wait(Duration::from_secs(600));
    assert!(edge.sent().is_empty());
    assert!(edge.machine.reports.is_quiet());
}

#[test]
fn a_deletion_is_told_with_its_versions() {
    let mut edge = Edge::with_t1();
    edge.connect();
    edge.update(r#"{"temp":{"actual":{"value":"21"},"metadata":{"type":"int"}}}"#);
    edge.update(r#"{"temp":null}"#);
    let (_, message) = edge.sent().remove(0);
    assert_eq!(
        content(&message)["twin"],
        json!({"temp": {"actual": {}, "optional": true, "metadata": {"type": "deleted"},
            "expected_version": {"cloud": 0, "edge": 0}, "actual_version": {"cloud": 0, "edge": 2}}})
    );
}

#[test]
fn a_large_device_is_told_in_parts() {
    let mut edge = Edge::with_t1();
    edge.connect();
    let value = "v".repeat(10_000);
    for n in 0..60 {
        edge.update(&format!(r#"{{"p{n:02}":{{"actual":{{"value":"{value}"}}}}}}"#));
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let (id, message) = edge.sent().remove(0);
        assert!(message.content.get().len() < 300 * 1024);
        let twins = content(&message)["twin"].as_object().expect("twins").clone();
        seen.extend(twins.keys().cloned());
        edge.answer(id, Outcome::Confirmed);
        edge.wait(Duration::from_secs(1));
    }
    assert_eq!(seen.len(), 60);
    assert!(edge.sent().is_empty());
}
