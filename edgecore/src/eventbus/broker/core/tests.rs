use bytes::Bytes;
use proto::mqtt::{ConnectCode, PacketId, Qos, Will};

use super::*;

/// A broker, its time, and what it did.
struct Bench {
    core: Core,
    now: Instant,
    connections: u64,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        let now = Instant::now();
        Self {
            core: Core::new(limits, Stored::default(), now),
            now,
            connections: 0,
        }
    }

    /// Connects and gives the connection, with what followed.
    fn connect(&mut self, change: impl FnOnce(&mut Connect)) -> (ConnectionId, Vec<Output>) {
        let mut connect = Connect {
            old: false,
            client: "c".into(),
            clean: true,
            keep_alive: 0,
            will: None,
            user: None,
            password: None,
        };
        change(&mut connect);
        self.connections += 1;
        let id = ConnectionId(self.connections);
        self.core.connect(self.now, id, connect);
        (id, self.outputs())
    }

    /// A client of this name; `+` before it keeps its session.
    fn client(&mut self, name: &str) -> ConnectionId {
        let (id, outputs) = self.connect(|connect| {
            connect.clean = !name.starts_with('+');
            connect.client = name.trim_start_matches('+').into();
        });
        assert!(
            outputs.iter().any(|output| matches!(
                output,
                Output::Send {
                    packet: Packet::ConnAck {
                        code: ConnectCode::Accepted,
                        ..
                    },
                    ..
                }
            )),
            "{outputs:?}"
        );
        id
    }

    fn packet(&mut self, id: ConnectionId, packet: Packet) -> Vec<Output> {
        self.core.packet(self.now, id, packet);
        self.outputs()
    }

    fn subscribe(&mut self, id: ConnectionId, filter: &str, qos: Qos) -> Vec<Output> {
        let filters = vec![(filter.into(), qos)];
        self.packet(id, Packet::Subscribe { id: number(9), filters })
    }

    fn publish(&mut self, id: ConnectionId, topic: &str, payload: &'static str, qos: Qos) -> Vec<Output> {
        self.packet(id, Packet::Publish(message(topic, payload, qos)))
    }

    fn outputs(&mut self) -> Vec<Output> {
        self.core.outputs().collect()
    }
}

fn number(number: u16) -> PacketId {
    PacketId::new(number).expect("not 0")
}

fn message(topic: &str, payload: &'static str, qos: Qos) -> Publish {
    Publish {
        topic: topic.into(),
        payload: payload.into(),
        qos,
        retain: false,
        dup: false,
        id: (qos != Qos::AtMostOnce).then(|| number(7)),
    }
}

/// Packets to a client.
fn to(outputs: &[Output], id: ConnectionId) -> Vec<Packet> {
    let packets = outputs.iter().filter_map(|output| match output {
        Output::Send { to, packet, .. } if *to == id => Some(packet.clone()),
        _ => None,
    });
    packets.collect()
}

/// Topics, payloads and QoS of messages to a client.
fn messages(outputs: &[Output], id: ConnectionId) -> Vec<(String, Bytes, u8, bool)> {
    let messages = to(outputs, id).into_iter().filter_map(|packet| match packet {
        Packet::Publish(publish) => Some((
            publish.topic.to_string(),
            publish.payload,
            publish.qos.number(),
            publish.retain,
        )),
        _ => None,
    });
    messages.collect()
}

fn closed(outputs: &[Output], id: ConnectionId) -> Option<CloseReason> {
    outputs.iter().find_map(|output| match output {
        Output::Close { connection, reason } if *connection == id => Some(*reason),
        _ => None,
    })
}

fn stores(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Store(_)))
}

#[test]
fn the_lesser_qos_counts_and_overlapping_filters_give_one_message() {
    let mut bench = Bench::new(Limits::default());
    let (reader, writer) = (bench.client("r"), bench.client("w"));
    bench.subscribe(reader, "a/+", Qos::AtMostOnce);
    bench.subscribe(reader, "a/#", Qos::AtLeastOnce);
    for (sent, arrives) in [(Qos::AtMostOnce, 0), (Qos::AtLeastOnce, 1), (Qos::ExactlyOnce, 1)] {
        let outputs = bench.publish(writer, "a/b", "x", sent);
        assert_eq!(
            messages(&outputs, reader),
            [("a/b".to_owned(), Bytes::from("x"), arrives, false)]
        );
        // Both have clean sessions: nothing is written.
        assert!(!stores(&outputs));
    }
    assert!(messages(&bench.publish(writer, "b", "x", Qos::AtLeastOnce), reader).is_empty());
}

#[test]
fn qos_2_is_accepted_once_and_always_answered() {
    let mut bench = Bench::new(Limits::default());
    let writer = bench.client("w");
    let accepted = |outputs: &[Output]| {
        outputs
            .iter()
            .filter(|output| matches!(output, Output::Accepted(_)))
            .count()
    };
    let first = bench.publish(writer, "a", "x", Qos::ExactlyOnce);
    assert_eq!(
        (accepted(&first), to(&first, writer)),
        (1, vec![Packet::PubRec(number(7))])
    );
    let again = bench.publish(writer, "a", "x", Qos::ExactlyOnce);
    assert_eq!(
        (accepted(&again), to(&again, writer)),
        (0, vec![Packet::PubRec(number(7))])
    );
    let done = bench.packet(writer, Packet::PubRel(number(7)));
    assert_eq!(to(&done, writer), [Packet::PubComp(number(7))]);
    assert_eq!(accepted(&bench.publish(writer, "a", "y", Qos::ExactlyOnce)), 1);
}

#[test]
fn the_process_gets_nothing_of_its_own() {
    let mut bench = Bench::new(Limits::default());
    let reader = bench.client("r");
    bench.subscribe(reader, "$hw/events/node/+/#", Qos::AtLeastOnce);
    bench
        .core
        .publish(message("$hw/events/node/n/x", "1", Qos::AtLeastOnce));
    let outputs = bench.outputs();
    assert_eq!(messages(&outputs, reader).len(), 1);
    assert!(!outputs.iter().any(|output| matches!(output, Output::Accepted(_))));
}

#[test]
fn retained_messages() {
    let mut bench = Bench::new(Limits::default());
    let writer = bench.client("w");
    let retain = |topic: &str, payload, qos| {
        let mut publish = message(topic, payload, qos);
        publish.retain = true;
        Packet::Publish(publish)
    };
    bench.packet(writer, retain("a/1", "one", Qos::AtLeastOnce));
    bench.packet(writer, retain("a/2", "two", Qos::AtMostOnce));
    bench.packet(writer, retain("$x/3", "three", Qos::AtMostOnce));
    let same = bench.packet(writer, retain("a/1", "one", Qos::AtLeastOnce));
    assert!(!stores(&same), "the same again costs no write");
    let reader = bench.client("r");
    let outputs = bench.subscribe(reader, "#", Qos::ExactlyOnce);
    let got = messages(&outputs, reader);
    assert_eq!(
        got,
        [
            ("a/1".to_owned(), Bytes::from("one"), 1, true),
            ("a/2".to_owned(), Bytes::from("two"), 0, true)
        ]
    );
    // To who is there already it comes as a message like any other.
    let outputs = bench.packet(writer, retain("a/1", "new", Qos::AtMostOnce));
    assert_eq!(
        messages(&outputs, reader),
        [("a/1".to_owned(), Bytes::from("new"), 0, false)]
    );
    bench.packet(writer, retain("a/1", "", Qos::AtMostOnce));
    let outputs = bench.subscribe(reader, "a/1", Qos::AtMostOnce);
    assert!(messages(&outputs, reader).is_empty());
}

#[test]
fn a_will_is_published_unless_the_client_says_goodbye() {
    let mut bench = Bench::new(Limits::default());
    let reader = bench.client("r");
    bench.subscribe(reader, "w", Qos::AtLeastOnce);
    let will = |connect: &mut Connect| {
        connect.keep_alive = 10;
        connect.will = Some(Will {
            topic: "w".into(),
            payload: "gone".into(),
            qos: Qos::AtLeastOnce,
            retain: false,
        });
    };
    let (id, _) = bench.connect(will);
    let goodbye = bench.packet(id, Packet::Disconnect);
    assert_eq!(
        (closed(&goodbye, id), messages(&goodbye, reader).len()),
        (Some(CloseReason::Goodbye), 0)
    );

    let (id, _) = bench.connect(will);
    bench.core.lost(bench.now, id);
    let outputs = bench.outputs();
    assert_eq!(messages(&outputs, reader).len(), 1);

    // One and a half of what it promised.
    let (id, _) = bench.connect(will);
    bench.now += Duration::from_secs(14);
    bench.core.tick(bench.now);
    assert_eq!(closed(&bench.outputs(), id), None);
    bench.now += Duration::from_secs(1);
    bench.core.tick(bench.now);
    let outputs = bench.outputs();
    assert_eq!(
        (closed(&outputs, id), messages(&outputs, reader).len()),
        (Some(CloseReason::Silent), 1)
    );

    let (id, _) = bench.connect(will);
    let (_, outputs) = bench.connect(|_| {});
    assert_eq!(
        (closed(&outputs, id), messages(&outputs, reader).len()),
        (Some(CloseReason::TakenOver), 1)
    );
}

#[test]
fn a_session_waits_for_its_client() {
    let mut bench = Bench::new(Limits::default());
    let (reader, writer) = (bench.client("+r"), bench.client("w"));
    bench.subscribe(reader, "a", Qos::ExactlyOnce);
    // Sent, not answered.
    let outputs = bench.publish(writer, "a", "1", Qos::ExactlyOnce);
    let Ok([Packet::Publish(first)]) = <[Packet; 1]>::try_from(to(&outputs, reader)) else {
        panic!("{outputs:?}")
    };
    bench.core.lost(bench.now, reader);
    bench.publish(writer, "a", "2", Qos::AtLeastOnce);
    bench.publish(writer, "a", "never", Qos::AtMostOnce);
    let (reader, outputs) = bench.connect(|connect| {
        connect.client = "r".into();
        connect.clean = false;
    });
    let packets = to(&outputs, reader);
    let again = Publish { dup: true, ..first };
    assert!(matches!(
        packets[0],
        Packet::ConnAck {
            session_present: true,
            ..
        }
    ));
    assert_eq!(packets[1], Packet::Publish(again.clone()));
    assert!(matches!(&packets[2], Packet::Publish(publish) if publish.payload == "2" && !publish.dup));
    // Half way through QoS 2.
    let id = again.id.expect("an id");
    bench.packet(reader, Packet::PubRec(id));
    bench.core.lost(bench.now, reader);
    let (reader, outputs) = bench.connect(|connect| {
        connect.client = "r".into();
        connect.clean = false;
    });
    assert_eq!(to(&outputs, reader)[1], Packet::PubRel(id));
    // A clean one forgets it.
    let (_, outputs) = bench.connect(|connect| connect.client = "r".into());
    assert!(outputs.contains(&Output::Store(Op::Gone("r".into()))), "{outputs:?}");
    assert_eq!(bench.core.counters().queued, 0);
}

#[test]
fn the_oldest_goes_when_too_many_wait() {
    let limits = Limits {
        queue: 2,
        inflight: 1,
        ..Limits::default()
    };
    let mut bench = Bench::new(limits);
    let (reader, writer) = (bench.client("+r"), bench.client("w"));
    bench.subscribe(reader, "a", Qos::AtLeastOnce);
    for payload in ["1", "2", "3", "4"] {
        bench.publish(writer, "a", payload, Qos::AtLeastOnce);
    }
    // The first is on its way and stays; of the others the newest two.
    let mut got = Vec::new();
    for _ in 0..3 {
        let outputs = bench.packet(
            reader,
            Packet::PubAck(number(1 + u16::try_from(got.len()).expect("few"))),
        );
        got.extend(messages(&outputs, reader).into_iter().map(|(_, payload, ..)| payload));
    }
    assert_eq!(got, ["3", "4"]);
    assert_eq!(bench.core.counters().dropped_queue, 1);
}

#[test]
fn who_is_let_in() {
    let limits = Limits {
        sessions: 1,
        client_bytes: 8,
        ..Limits::default()
    };
    let mut bench = Bench::new(limits);
    let code = |outputs: &[Output]| {
        outputs.iter().find_map(|output| match output {
            Output::Send {
                packet: Packet::ConnAck { code, .. },
                ..
            } => Some(*code),
            _ => None,
        })
    };
    let (_, outputs) = bench.connect(|connect| connect.client = "123456789".into());
    assert_eq!(code(&outputs), Some(ConnectCode::BadClient));
    let (_, outputs) = bench.connect(|connect| {
        connect.client = "".into();
        connect.clean = false;
    });
    assert_eq!(code(&outputs), Some(ConnectCode::BadClient));
    let (_, outputs) = bench.connect(|connect| connect.client = "".into());
    assert_eq!(code(&outputs), Some(ConnectCode::Accepted));

    let (first, _) = bench.connect(|connect| {
        connect.clean = false;
        connect.user = Some("u".into());
    });
    let (_, outputs) = bench.connect(|connect| connect.user = Some("v".into()));
    assert_eq!(
        code(&outputs),
        Some(ConnectCode::NotAuthorized),
        "the name is another user's"
    );
    let other = |connect: &mut Connect| {
        connect.client = "other".into();
        connect.clean = false;
    };
    let (_, outputs) = bench.connect(other);
    assert_eq!(code(&outputs), Some(ConnectCode::Unavailable));
    let (_, outputs) = bench.connect(|connect| connect.client = "other".into());
    assert_eq!(
        code(&outputs),
        Some(ConnectCode::Accepted),
        "a clean session is not kept"
    );
    let (_, outputs) = bench.connect(other);
    assert_eq!(
        code(&outputs),
        Some(ConnectCode::Unavailable),
        "nor turned into one that is"
    );
    bench.core.lost(bench.now, first);
    let (_, outputs) = bench.connect(other);
    assert_eq!(code(&outputs), Some(ConnectCode::Accepted), "who was away makes room");
}

#[test]
fn limits_of_topics_and_subscriptions() {
    let limits = Limits {
        topic_levels: 3,
        subscriptions: 1,
        ..Limits::default()
    };
    let mut bench = Bench::new(limits);
    let client = bench.client("c");
    let granted = |outputs: &[Output]| {
        outputs.iter().find_map(|output| match output {
            Output::Send {
                packet: Packet::SubAck { granted, .. },
                ..
            } => Some(granted.clone()),
            _ => None,
        })
    };
    assert_eq!(
        granted(&bench.subscribe(client, "a/b/c/d", Qos::AtMostOnce)),
        Some(vec![None])
    );
    assert_eq!(
        granted(&bench.subscribe(client, "a", Qos::AtMostOnce)),
        Some(vec![Some(Qos::AtMostOnce)])
    );
    assert_eq!(
        granted(&bench.subscribe(client, "b", Qos::AtMostOnce)),
        Some(vec![None])
    );
    let outputs = bench.publish(client, "a/b/c/d", "x", Qos::AtMostOnce);
    assert_eq!(closed(&outputs, client), Some(CloseReason::Topic));
}

#[test]
fn one_subscribe_does_not_multiply_what_is_retained() {
    let limits = Limits {
        subscriptions: 4,
        retained: 3,
        ..Limits::default()
    };
    let mut bench = Bench::new(limits);
    let client = bench.client("c");
    for topic in ["a/1", "a/2"] {
        let kept = message(topic, "kept", Qos::AtLeastOnce);
        bench.packet(client, Packet::Publish(Publish { retain: true, ..kept }));
    }
    let mut subscribe = |filters: &[(&str, Qos)]| {
        let filters = filters.iter().map(|(filter, qos)| ((*filter).into(), *qos)).collect();
        bench.packet(client, Packet::Subscribe { id: number(9), filters })
    };
    let outputs = subscribe(&[
        ("a/#", Qos::AtLeastOnce),
        ("a/#", Qos::AtMostOnce),
        ("a/#", Qos::AtMostOnce),
    ]);
    let (first, other) = (Some(Qos::AtLeastOnce), Some(Qos::AtMostOnce));
    let ack = |granted| Packet::SubAck { id: number(9), granted };
    assert!(to(&outputs, client).contains(&ack(vec![first, other, other])));
    let got = messages(&outputs, client);
    assert_eq!(got.len(), 2, "each once: {got:?}");
    assert!(got.iter().all(|(_, _, qos, _)| *qos == 0), "the last QoS: {got:?}");
    // Not more than could be retained.
    let outputs = subscribe(&[("a/#", Qos::AtMostOnce), ("a/+", Qos::AtMostOnce)]);
    assert_eq!(messages(&outputs, client).len(), 3);
    let outputs = subscribe(&[("a", Qos::AtMostOnce), ("b", Qos::AtMostOnce), ("c", Qos::AtMostOnce)]);
    assert!(
        to(&outputs, client).contains(&ack(vec![other, other, None])),
        "the limit of a client"
    );
    let outputs = subscribe(&[("a", Qos::AtMostOnce); 1001]);
    assert_eq!(closed(&outputs, client), Some(CloseReason::Filters));
}

#[test]
fn counters_for_who_asks() {
    let mut bench = Bench::new(Limits::default());
    let client = bench.client("c");
    let outputs = bench.subscribe(client, "$SYS/broker/clients/+", Qos::AtMostOnce);
    let got = messages(&outputs, client);
    assert!(
        got.contains(&("$SYS/broker/clients/connected".to_owned(), Bytes::from("1"), 0, true)),
        "{got:?}"
    );
    let outputs = bench.publish(client, "$SYS/broker/clients/connected", "99", Qos::AtLeastOnce);
    assert_eq!(
        to(&outputs, client),
        [Packet::PubAck(number(7))],
        "answered, and sent to nobody"
    );
    bench.now += SYS_INTERVAL;
    bench.core.tick(bench.now);
    assert_eq!(messages(&bench.outputs(), client).len(), 4);
}

#[test]
fn counters_have_the_values_of_what_happened() {
    let limits = Limits {
        queue: 2,
        ..Limits::default()
    };
    let mut bench = Bench::new(limits);
    let away = bench.client("+away");
    bench.subscribe(away, "a", Qos::AtLeastOnce);
    bench.core.lost(bench.now, away);
    let (reader, writer) = (bench.client("r"), bench.client("w"));
    bench.subscribe(reader, "b", Qos::AtMostOnce);
    // Two wait for who is away, the third is too many.
    for payload in ["one", "two", "three"] {
        bench.publish(writer, "a", payload, Qos::AtLeastOnce);
    }
    bench.publish(writer, "b", "x", Qos::AtMostOnce);
    bench.publish(writer, "$SYS/x", "denied", Qos::AtMostOnce);
    let retain = true;
    let kept = message("c", "kept", Qos::AtMostOnce);
    bench.packet(writer, Packet::Publish(Publish { retain, ..kept }));
    let counters = bench.core.counters();
    (counters.bytes_received, counters.bytes_sent, counters.dropped_slow) = (500, 300, 4);

    let asks = bench.client("asks");
    let outputs = bench.subscribe(asks, "$SYS/broker/#", Qos::AtMostOnce);
    let first = messages(&outputs, asks);
    for (name, value) in [
        ("publish/messages/received", "6"),
        ("publish/messages/sent", "1"),
        ("publish/messages/dropped", "6"),
        ("bytes/received", "500"),
        ("bytes/sent", "300"),
        ("retained messages/count", "1"),
        ("store/messages/count", "2"),
        ("store/messages/bytes", "8"),
        ("subscriptions/count", "3"),
        ("clients/connected", "3"),
        ("clients/disconnected", "1"),
        ("clients/maximum", "3"),
    ] {
        let message = (format!("$SYS/broker/{name}"), Bytes::from(value), 0, true);
        assert!(first.contains(&message), "{message:?} is not in {first:?}");
    }
    // The first round was sent, too.
    bench.now += SYS_INTERVAL;
    bench.core.tick(bench.now);
    let next = messages(&bench.outputs(), asks);
    let sent = (
        "$SYS/broker/publish/messages/sent".to_owned(),
        Bytes::from((1 + first.len()).to_string()),
        0,
        false,
    );
    assert!(next.contains(&sent), "{sent:?} is not in {next:?}");
}
