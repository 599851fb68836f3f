use prometheus_client::registry::Registry;
use proto::{Content, Group, Kind, ObjectPath, Operation, Route, Source, Status};

use super::*;

fn outbox() -> Outbox {
    Outbox::new(Arc::new(Metrics::default()))
}

fn object(kind: &str, name: &str, version: &str, extra: &str) -> Content {
    let json = format!(
        r#"{{"kind":"{kind}","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"default","uid":"u-{name}","resourceVersion":"{version}"{extra}}}}}"#
    );
    Content::from_json_text(json).unwrap()
}

pub(super) fn message(operation: Operation, name: &str, version: &str) -> Message {
    let route = ObjectPath::new("default", Kind::ConfigMap, name);
    let content = object("ConfigMap", name, version, "");
    let mut message = Message::new(Source::EdgeController, Group::Resource, operation, route, content);
    message.version = version.into();
    message
}

fn deleting(name: &str, version: &str) -> Message {
    let mut message = message(Operation::Update, name, version);
    message.content = object(
        "ConfigMap",
        name,
        version,
        r#","deletionTimestamp":"2026-11-20T00:00:00Z""#,
    );
    message
}

fn offer(outbox: &mut Outbox, now: Instant, message: Message) {
    let lane = lane(&message);
    outbox.offer(now, message, lane, Some("0"));
}

pub(super) fn drain(outbox: &mut Outbox, now: Instant) -> Vec<Message> {
    std::iter::from_fn(|| outbox.poll_send(now))
        .map(|text| Message::decode(text.as_bytes()).unwrap())
        .collect()
}

fn versions(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| message.version.as_str()).collect()
}

#[test]
fn needs_an_acknowledgement_or_not() {
    let make = |source: Source, group: Group, operation: Operation, resource: &str, content: Content| {
        let route = Route::parse(&group, resource);
        let message = Message::new(source, group, operation, route, content);
        match lane(&message) {
            Lane::Notice => "notice",
            Lane::Answer(_) => "answer",
            Lane::State(..) => "state",
        }
    };
    let pod = || object("Pod", "p", "7", "");
    let edge = || Source::EdgeController;
    let resource = || Group::Resource;
    let failed = || Content::error(&Status::not_found("", "configmap", "x"));
    for (expected, actual) in [
        (
            "state",
            make(edge(), resource(), Operation::Insert, "default/pod/p", pod()),
        ),
        (
            "state",
            make(
                edge(),
                resource(),
                Operation::Insert,
                "default/pod/membership-podlist-0",
                pod(),
            ),
        ),
        (
            "notice",
            make(
                edge(),
                resource(),
                Operation::Response,
                "inventory/sync",
                Content::json(&serde_json::json!({"equal": true})),
            ),
        ),
        (
            "state",
            make(
                edge(),
                resource(),
                Operation::Update,
                "null/node/n",
                object("Node", "n", "7", ""),
            ),
        ),
        (
            "notice",
            make(
                edge(),
                resource(),
                Operation::Insert,
                "null/node/n",
                object("Node", "n", "7", ""),
            ),
        ),
        (
            "state",
            make(
                Source::DeviceController,
                resource(),
                Operation::Insert,
                "default/device/d",
                pod(),
            ),
        ),
        (
            "state",
            make(
                Source::PolicyController,
                resource(),
                Operation::Update,
                "d/serviceaccountaccess/s",
                pod(),
            ),
        ),
        (
            "answer",
            make(edge(), resource(), Operation::Response, "default/configmap/c", pod()),
        ),
        (
            "notice",
            make(edge(), resource(), Operation::Response, "default/configmap/c", failed()),
        ),
        (
            "notice",
            make(edge(), resource(), Operation::Response, "default/pod/p", Content::ok()),
        ),
        (
            "notice",
            make(edge(), resource(), Operation::Response, "default/pod/p", pod()),
        ),
        (
            "notice",
            make(
                edge(),
                resource(),
                Operation::Response,
                "n/lease/l",
                Content::envelope(None, None),
            ),
        ),
        (
            "notice",
            make(
                edge(),
                resource(),
                Operation::Response,
                "n/serviceaccounttoken/t",
                pod(),
            ),
        ),
        (
            "notice",
            make(
                Source::DeviceController,
                Group::Twin,
                Operation::Update,
                "membership",
                pod(),
            ),
        ),
        (
            "notice",
            make(
                Source::DeviceController,
                Group::Twin,
                Operation::Update,
                "d/device/x/twin/cloud_updated",
                pod(),
            ),
        ),
        (
            "notice",
            make(
                Source::DynamicController,
                resource(),
                Operation::ApplicationResponse,
                "null",
                pod(),
            ),
        ),
        (
            "notice",
            make(
                Source::RouterEventBus,
                Group::User,
                Operation::from("publish"),
                "topic",
                pod(),
            ),
        ),
        (
            "notice",
            make(
                Source::TaskManager,
                Group::TaskManager,
                Operation::from("Upgrade"),
                "a/b/c",
                pod(),
            ),
        ),
        (
            "notice",
            make(
                Source::CloudHub,
                resource(),
                Operation::CreateVolume,
                "default/volume/v",
                pod(),
            ),
        ),
        (
            "notice",
            make(
                Source::CloudHub,
                resource(),
                Operation::Response,
                "k8s/ca.crt",
                Content::text("PEM"),
            ),
        ),
    ] {
        assert_eq!(expected, actual);
    }
}

#[test]
fn newer_replaces_what_was_not_sent_and_waits_for_what_was() {
    let now = Instant::now();
    let mut outbox = outbox();
    for version in ["3", "5", "4"] {
        offer(&mut outbox, now, message(Operation::Update, "a", version));
    }
    let sent = drain(&mut outbox, now);
    assert_eq!(versions(&sent), ["5"]);
    offer(&mut outbox, now, message(Operation::Update, "a", "6"));
    offer(&mut outbox, now, message(Operation::Update, "a", "7"));
    assert!(drain(&mut outbox, now).is_empty(), "two in flight for one object");
    let delivered = outbox.on_ack(now, &sent[0].id).unwrap();
    assert_eq!((delivered.version.as_str(), delivered.deleted), ("5", false));
    assert_eq!(versions(&drain(&mut outbox, now)), ["7"]);
}

#[test]
fn a_deletion_stays_and_what_the_node_has_is_not_sent() {
    let now = Instant::now();
    let mut outbox = outbox();
    offer(&mut outbox, now, message(Operation::Delete, "a", "5"));
    offer(&mut outbox, now, message(Operation::Update, "a", "9"));
    offer(&mut outbox, now, deleting("a", "9"));
    let sent = drain(&mut outbox, now);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].operation, Operation::Delete);
    assert!(outbox.on_ack(now, &sent[0].id).unwrap().deleted);

    for (recorded, expected) in [
        (Some("5"), 0),
        (Some("4"), 1),
        (Some(""), 1),
        (Some("abc"), 1),
        (None, 1),
    ] {
        let mut outbox = self::outbox();
        let message = message(Operation::Update, "a", "5");
        let lane = lane(&message);
        outbox.offer(now, message, lane, recorded);
        assert_eq!(drain(&mut outbox, now).len(), expected, "{recorded:?}");
    }
    let mut outbox = self::outbox();
    for version in ["", "abc"] {
        offer(&mut outbox, now, message(Operation::Update, "odd", version));
    }
    assert_eq!(versions(&drain(&mut outbox, now)), ["abc"]);
}

#[test]
fn sent_again_at_5_10_15_20_then_rests_while_others_pass() {
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let mut outbox = outbox();
    offer(&mut outbox, start, message(Operation::Insert, "deaf", "1"));
    let id = drain(&mut outbox, start)[0].id.clone();
    let mut times = Vec::new();
    for second in 1..=80 {
        outbox.on_time(at(second));
        for message in drain(&mut outbox, at(second)) {
            assert_eq!(message.id, id);
            times.push(second);
        }
    }
    assert_eq!(times, [5, 10, 15, 20, 30, 35, 40, 45, 50, 65, 70, 75, 80]);
    offer(&mut outbox, at(81), message(Operation::Insert, "other", "2"));
    assert_eq!(drain(&mut outbox, at(81)).len(), 1);
    assert!(outbox.on_ack(at(81), &id).is_some(), "late, and yet it counts");
    assert!(outbox.on_ack(at(82), &id).is_none());
}

#[test]
fn a_newer_version_does_not_wait_for_an_older_one_to_be_given_up() {
    let start = Instant::now();
    let later = start + RESEND;
    let mut outbox = outbox();
    offer(&mut outbox, start, message(Operation::Insert, "a", "1"));
    let old = drain(&mut outbox, start)[0].id.clone();
    offer(&mut outbox, start, message(Operation::Update, "a", "2"));
    outbox.on_time(later);
    let sent = drain(&mut outbox, later);
    assert_eq!(versions(&sent), ["2"]);
    assert_eq!(
        outbox.on_ack(later, &old).map(|delivered| delivered.version),
        Some("1".into())
    );
    assert_eq!(
        outbox.on_ack(later, &sent[0].id).map(|delivered| delivered.version),
        Some("2".into())
    );
    assert!(outbox.next_due().is_none() && outbox.slots.is_empty() && outbox.sent.is_empty());
}

#[test]
fn at_most_a_window_is_unacknowledged() {
    let now = Instant::now();
    let mut outbox = outbox();
    for number in 0..100 {
        offer(&mut outbox, now, message(Operation::Insert, &format!("c{number}"), "1"));
    }
    let mut sent = drain(&mut outbox, now);
    assert_eq!(sent.len(), WINDOW);
    let mut total = sent.len();
    while let Some(message) = sent.pop() {
        outbox.on_ack(now, &message.id);
        let more = drain(&mut outbox, now);
        total += more.len();
        sent.extend(more);
    }
    assert_eq!(total, 100);
}

#[test]
fn answers_pass_a_full_window_and_are_given_up_after_one_cycle() {
    let start = Instant::now();
    let mut outbox = outbox();
    for number in 0..WINDOW {
        offer(
            &mut outbox,
            start,
            message(Operation::Insert, &format!("c{number}"), "1"),
        );
    }
    drain(&mut outbox, start);
    let answer = |name: &str| {
        let request = message(Operation::Query, name, "");
        let content = object("ConfigMap", name, "1", "");
        Message::answer_to(&request, Source::EdgeController, content)
    };
    offer(&mut outbox, start, answer("one"));
    offer(&mut outbox, start, answer("two"));
    let sent = drain(&mut outbox, start);
    assert_eq!(sent.len(), 2);
    let delivered = outbox
        .on_ack(start, &sent[0].id)
        .expect("an answered object is recorded");
    assert_eq!(delivered.object.uid, Uid::from("u-one"));
    let mut again = 0;
    for second in 1..=60 {
        let now = start + Duration::from_secs(second);
        outbox.on_time(now);
        again += drain(&mut outbox, now)
            .iter()
            .filter(|message| message.id == sent[1].id)
            .count();
    }
    assert_eq!(again, 4);
    assert!(outbox.on_ack(start, &sent[1].id).is_none());
    for number in 0..=ANSWERS {
        offer(
            &mut outbox,
            start + Duration::from_millis(number as u64),
            answer(&number.to_string()),
        );
    }
    assert_eq!(outbox.answers.len(), ANSWERS);
    assert!(outbox.answers.values().all(|answer| answer.since > start));
}

#[test]
fn notices_are_bounded_and_the_oldest_goes() {
    let now = Instant::now();
    let mut outbox = outbox();
    for number in 0..NOTICES + 5 {
        let mut message = message(Operation::Insert, "m", "");
        message.route = Route::Membership;
        message.timestamp = i64::try_from(number).unwrap();
        offer(&mut outbox, now, message);
    }
    let sent = drain(&mut outbox, now);
    assert_eq!(sent.len(), NOTICES);
    assert_eq!(sent[0].timestamp, 5);
}

#[test]
fn each_class_is_counted_and_its_oldest_known() {
    let metrics = Arc::new(Metrics::default());
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let mut outbox = Outbox::new(metrics);
    let oldest = |outbox: &Outbox| Class::ALL.map(|class| outbox.oldest(class));
    let answer = |name: &str| {
        let request = message(Operation::Query, name, "");
        Message::answer_to(&request, Source::EdgeController, object("ConfigMap", name, "1", ""))
    };
    let notice = || {
        let mut notice = message(Operation::Insert, "m", "");
        notice.route = Route::Membership;
        notice
    };
    let start = Instant::now();
    let later = start + Duration::from_secs(1);
    assert_eq!(oldest(&outbox), [None; 3]);
    for message in [message(Operation::Insert, "a", "1"), answer("b"), notice()] {
        offer(&mut outbox, start, message);
    }
    offer(&mut outbox, later, message(Operation::Insert, "c", "1"));
    assert_eq!(oldest(&outbox), [Some(start); 3]);
    let sent = drain(&mut outbox, later);
    assert_eq!(sent.len(), 4);
    assert_eq!(
        oldest(&outbox),
        [Some(start), Some(start), None],
        "a notice waits for nobody"
    );

    outbox.on_time(later + RESEND);
    assert_eq!(drain(&mut outbox, later + RESEND).len(), 3);
    for message in sent.iter().filter(|message| !message.content.get().contains("u-c")) {
        outbox.on_ack(later + RESEND, &message.id);
    }
    assert_eq!(oldest(&outbox), [Some(later), None, None]);

    offer(&mut outbox, later, message(Operation::Insert, "c", "1"));
    for number in 0..=ANSWERS {
        offer(&mut outbox, later, answer(&number.to_string()));
    }
    for _ in 0..=NOTICES {
        offer(&mut outbox, later, notice());
    }
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for (what, expected) in [
        ("sent", [Some(2), Some(1), Some(1)]),
        ("acked", [Some(1), Some(1), None]),
        ("retried", [Some(2), Some(1), None]),
        ("dropped", [Some(1), Some(1), Some(1)]),
    ] {
        let counts = Class::ALL.map(|class| {
            let start = format!("cloudcore_hub_messages_{what}_total{{class=\"{}\"}} ", class.name());
            let count = text.lines().find_map(|line| line.strip_prefix(&start))?;
            count.parse::<u32>().ok()
        });
        assert_eq!(counts, expected, "{what}: {text}");
    }
}

#[test]
fn a_repeated_message_settles_before_what_is_newer() {
    let start = Instant::now();
    let mut outbox = outbox();
    offer(&mut outbox, start, message(Operation::Insert, "a", "1"));
    let id = drain(&mut outbox, start)[0].id.clone();
    let again = start + RESEND;
    outbox.on_time(again);
    assert_eq!(drain(&mut outbox, again).len(), 1);
    assert!(outbox.on_ack(again, &id).is_some());
    offer(&mut outbox, again, message(Operation::Update, "a", "2"));
    assert!(
        drain(&mut outbox, again).is_empty(),
        "the other copy may still be on its way"
    );
    assert!(outbox.on_ack(again, &id).is_none());
    let sent = drain(&mut outbox, again);
    assert_eq!(versions(&sent), ["2"]);

    outbox.on_time(again + RESEND);
    drain(&mut outbox, again + RESEND);
    assert!(outbox.on_ack(again + RESEND, &sent[0].id).is_some());
    offer(&mut outbox, again + RESEND, message(Operation::Update, "a", "3"));
    outbox.on_time(again + RESEND * 2);
    assert_eq!(
        versions(&drain(&mut outbox, again + RESEND * 2)),
        ["3"],
        "the other copy was lost"
    );
}
