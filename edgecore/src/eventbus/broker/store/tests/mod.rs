//! A real file, what is read back from it, and what a broker makes of that after `kill -9`: it begins from a copy of the files as they are
//! while the one before still has them open.

mod files;

use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use bytes::Bytes;
use proto::mqtt::{Connect, ConnectCode, Packet};
use tempfile::TempDir;

use super::super::core::{ConnectionId, Core, Limits, Output, StoredSession};
use super::*;

const FILE: &str = "mqtt.db";
/// No text.
const BINARY: &[u8] = b"\0\xff{\n";

/// A broker without sockets. Everything it does is committed before its packets are looked at, as the driver does with promises.
struct Broker {
    folder: TempDir,
    owner: Owner,
    core: Core,
    connections: u64,
}

impl Broker {
    fn start(limits: Limits) -> Self {
        Self::on(tempfile::tempdir().expect("a folder"), limits)
    }

    fn on(folder: TempDir, limits: Limits) -> Self {
        let mut owner = Owner::new(folder.path().join(FILE));
        let core = Core::new(limits, owner.load(), Instant::now());
        let mut broker = Self {
            folder,
            owner,
            core,
            connections: 0,
        };
        broker.commit();
        broker
    }

    /// What the next one finds.
    fn killed(self, limits: Limits) -> Self {
        let next = tempfile::tempdir().expect("a folder");
        for suffix in ["", "-wal"] {
            let name = format!("{FILE}{suffix}");
            std::fs::copy(self.folder.path().join(&name), next.path().join(&name)).expect("a copy");
        }
        drop(self);
        Self::on(next, limits)
    }

    fn commit(&mut self) -> Vec<Output> {
        let outputs: Vec<_> = self.core.outputs().collect();
        let ops = outputs.iter().filter_map(|output| match output {
            Output::Store(op) => Some(op.clone()),
            _ => None,
        });
        let batch = Batch {
            ops: ops.collect(),
            whole: false,
        };
        self.owner.write(&batch).expect("a commit");
        outputs
    }

    /// Connects with a session that stays; gives what the client is sent after CONNACK.
    fn connect(&mut self, name: &str) -> (ConnectionId, Vec<Packet>) {
        self.connections += 1;
        let id = ConnectionId(self.connections);
        let connect = Connect {
            old: false,
            client: name.into(),
            clean: false,
            keep_alive: 0,
            will: None,
            user: None,
            password: None,
        };
        self.core.connect(Instant::now(), id, connect);
        let mut packets = sent(&self.commit(), id);
        let first = packets.remove(0);
        assert!(
            matches!(
                first,
                Packet::ConnAck {
                    code: ConnectCode::Accepted,
                    ..
                }
            ),
            "{first:?}"
        );
        (id, packets)
    }

    fn packet(&mut self, id: ConnectionId, packet: Packet) -> Vec<Output> {
        self.core.packet(Instant::now(), id, packet);
        self.commit()
    }

    fn subscribe(&mut self, id: ConnectionId, filter: &str) -> Vec<Packet> {
        let filters = vec![(filter.into(), Qos::ExactlyOnce)];
        sent(
            &self.packet(
                id,
                Packet::Subscribe {
                    id: packet_id(9),
                    filters,
                },
            ),
            id,
        )
    }

    fn publish(&mut self, id: ConnectionId, publish: Publish) -> Vec<Output> {
        self.packet(id, Packet::Publish(publish))
    }

    /// As another process reads it.
    fn file(&self) -> Stored {
        Owner::new(self.folder.path().join(FILE)).load()
    }
}

fn packet_id(number: u16) -> PacketId {
    PacketId::new(number).expect("not 0")
}

fn message(topic: &str, payload: &'static [u8], qos: Qos, id: Option<u16>) -> Publish {
    Publish {
        topic: topic.into(),
        payload: Bytes::from_static(payload),
        qos,
        retain: false,
        dup: false,
        id: id.map(packet_id),
    }
}

fn retained(topic: &str, payload: &'static [u8], qos: Qos) -> Publish {
    Publish {
        retain: true,
        ..message(topic, payload, qos, None)
    }
}

fn stored(number: i64, released: bool, publish: Publish) -> StoredMessage {
    StoredMessage {
        number,
        publish,
        released,
    }
}

/// Packets to a client.
fn sent(outputs: &[Output], id: ConnectionId) -> Vec<Packet> {
    let packets = outputs.iter().filter_map(|output| match output {
        Output::Send { to, packet, .. } if *to == id => Some(packet.clone()),
        _ => None,
    });
    packets.collect()
}

/// The messages among packets.
fn messages(packets: &[Packet]) -> Vec<Publish> {
    let messages = packets.iter().filter_map(|packet| match packet {
        Packet::Publish(publish) => Some(publish.clone()),
        _ => None,
    });
    messages.collect()
}

fn payloads(packets: &[Packet]) -> Vec<Bytes> {
    messages(packets).into_iter().map(|publish| publish.payload).collect()
}

fn accepted(outputs: &[Output]) -> usize {
    let is_accepted = |output: &&Output| matches!(output, Output::Accepted(_));
    outputs.iter().filter(is_accepted).count()
}

fn write(owner: &mut Owner, ops: Vec<Op>) {
    owner.write(&Batch { ops, whole: false }).expect("a commit");
}

#[test]
fn sessions_are_read_back_as_they_were_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(FILE);
    let mut owner = Owner::new(path.clone());
    assert_eq!(owner.load(), Stored::default());
    assert!(!path.exists(), "nothing to keep makes no file");
    let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
    let session = |client: &Arc<str>, user: Option<&str>| Op::Session {
        client: client.clone(),
        user: user.map(Arc::from),
    };
    let queued = |client: &Arc<str>, number, qos| {
        Op::Queued(client.clone(), stored(number, false, message("x/1", BINARY, qos, None)))
    };
    let ops = vec![
        session(&a, None),
        session(&b, None),
        session(&a, Some("u")),
        Op::Subscribed(a.clone(), "x/#".into(), Qos::AtMostOnce),
        Op::Subscribed(a.clone(), "x/#".into(), Qos::ExactlyOnce),
        Op::Subscribed(a.clone(), "y".into(), Qos::AtLeastOnce),
        Op::Unsubscribed(a.clone(), "y".into()),
        Op::Subscribed(b.clone(), "#".into(), Qos::AtLeastOnce),
        queued(&a, 1, Qos::AtLeastOnce),
        queued(&a, 2, Qos::ExactlyOnce),
        Op::Sent(2, packet_id(65_535)),
        queued(&b, 3, Qos::AtLeastOnce),
        queued(&a, 4, Qos::ExactlyOnce),
        Op::Sent(4, packet_id(8)),
        Op::Released(4),
        queued(&a, 5, Qos::AtLeastOnce),
        Op::Done(5),
        Op::Received(a.clone(), packet_id(7)),
        Op::Received(a.clone(), packet_id(6)),
        Op::Forgotten(a.clone(), packet_id(7)),
        Op::Received(b.clone(), packet_id(7)),
    ];
    write(&mut owner, ops);
    let of_a = StoredSession {
        user: Some("u".into()),
        subscriptions: vec![("x/#".into(), Qos::ExactlyOnce)],
        messages: vec![
            stored(1, false, message("x/1", BINARY, Qos::AtLeastOnce, None)),
            stored(2, false, message("x/1", BINARY, Qos::ExactlyOnce, Some(65_535))),
            stored(4, true, message("x/1", b"", Qos::ExactlyOnce, Some(8))),
        ],
        received: vec![packet_id(6)],
    };
    let of_b = StoredSession {
        user: None,
        subscriptions: vec![("#".into(), Qos::AtLeastOnce)],
        messages: vec![stored(3, false, message("x/1", BINARY, Qos::AtLeastOnce, None))],
        received: vec![packet_id(7)],
    };
    let mut expected = Stored::default();
    expected.sessions.insert(a, of_a);
    expected.sessions.insert(b.clone(), of_b);
    assert_eq!(Owner::new(path.clone()).load(), expected);
    for suffix in ["", "-wal"] {
        let file = std::fs::metadata(folder.path().join(format!("{FILE}{suffix}"))).expect("a file");
        assert_eq!(file.permissions().mode() & 0o777, 0o600, "mqtt.db{suffix}");
    }

    write(&mut owner, vec![Op::Gone(b.clone()), session(&b, Some("v"))]);
    drop(owner);
    let new = StoredSession {
        user: Some("v".into()),
        ..StoredSession::default()
    };
    expected.sessions.insert(b, new);
    assert_eq!(Owner::new(path).load(), expected, "nothing of the old session is left");
}

#[test]
fn retained_messages_are_set_replaced_and_cleared() {
    let mut broker = Broker::start(Limits::default());
    let (writer, _) = broker.connect("w");
    for (topic, payload) in [("a", &b"1"[..]), ("b", BINARY), ("a", b"2"), ("c", b"3"), ("c", b"")] {
        let publish = retained(topic, payload, Qos::AtLeastOnce);
        broker.publish(
            writer,
            Publish {
                id: Some(packet_id(1)),
                ..publish
            },
        );
    }
    let kept = [
        retained("a", b"2", Qos::AtLeastOnce),
        retained("b", BINARY, Qos::AtLeastOnce),
    ];
    assert_eq!(broker.file().retained, kept);
    let mut broker = broker.killed(Limits::default());
    let (reader, _) = broker.connect("r");
    let got = broker.subscribe(reader, "#");
    assert_eq!(payloads(&got), [Bytes::from_static(b"2"), Bytes::from_static(BINARY)]);
    assert!(messages(&got).iter().all(|publish| publish.retain));
}

#[test]
fn qos_1_goes_again_until_it_is_acknowledged() {
    let mut broker = Broker::start(Limits::default());
    let (reader, _) = broker.connect("r");
    broker.subscribe(reader, "t");
    let (writer, _) = broker.connect("w");
    let mut ids = Vec::new();
    for payload in [&b"1"[..], b"2", b"3"] {
        let outputs = broker.publish(writer, message("t", payload, Qos::AtLeastOnce, Some(1)));
        ids.extend(
            messages(&sent(&outputs, reader))
                .into_iter()
                .filter_map(|publish| publish.id),
        );
    }
    broker.packet(reader, Packet::PubAck(ids[1]));
    let mut broker = broker.killed(Limits::default());
    let (reader, again) = broker.connect("r");
    assert_eq!(payloads(&again), ["1", "3"]);
    for publish in messages(&again) {
        broker.packet(reader, Packet::PubAck(publish.id.expect("an id")));
    }
    let mut broker = broker.killed(Limits::default());
    assert_eq!(broker.connect("r").1, []);
    assert_eq!(broker.core.counters().queued, 0);
}

#[test]
fn qos_2_to_a_client_goes_on_where_it_was() {
    let mut broker = Broker::start(Limits::default());
    let (reader, _) = broker.connect("r");
    broker.subscribe(reader, "t");
    let (writer, _) = broker.connect("w");
    let mut ids = Vec::new();
    for payload in [&b"sent"[..], b"received", b"done"] {
        let outputs = broker.publish(writer, message("t", payload, Qos::ExactlyOnce, Some(1)));
        broker.packet(writer, Packet::PubRel(packet_id(1)));
        ids.extend(
            messages(&sent(&outputs, reader))
                .into_iter()
                .filter_map(|publish| publish.id),
        );
    }
    for id in &ids[1..] {
        let outputs = broker.packet(reader, Packet::PubRec(*id));
        assert_eq!(sent(&outputs, reader), [Packet::PubRel(*id)]);
    }
    broker.packet(reader, Packet::PubComp(ids[2]));
    let mut broker = broker.killed(Limits::default());
    let held = &broker.file().sessions["r"].messages;
    assert_eq!(
        (held.len(), held[1].publish.payload.len()),
        (2, 0),
        "what has arrived is kept by its id alone"
    );

    // Killed again before the client answers: both go again as they were.
    for _ in 0..2 {
        let (_, again) = broker.connect("r");
        let first = Publish {
            dup: true,
            ..message("t", b"sent", Qos::ExactlyOnce, Some(ids[0].get()))
        };
        assert_eq!(again, [Packet::Publish(first), Packet::PubRel(ids[1])]);
        broker = broker.killed(Limits::default());
    }
    let (reader, _) = broker.connect("r");
    let (writer, _) = broker.connect("w");
    let outputs = broker.publish(writer, message("t", b"new", Qos::ExactlyOnce, Some(2)));
    let new = messages(&sent(&outputs, reader)).remove(0).id.expect("an id");
    assert!(!ids[..2].contains(&new), "its id is that of a message under way");
    broker.packet(reader, Packet::PubRec(ids[0]));
    for id in &ids[..2] {
        broker.packet(reader, Packet::PubComp(*id));
    }
    let mut broker = broker.killed(Limits::default());
    assert_eq!(payloads(&broker.connect("r").1), ["new"]);
}

#[test]
fn qos_2_from_a_client_is_taken_once() {
    let mut broker = Broker::start(Limits::default());
    let (reader, _) = broker.connect("r");
    broker.subscribe(reader, "t");
    broker.packet(reader, Packet::Disconnect);
    let (writer, _) = broker.connect("w");
    let first = message("t", b"1", Qos::ExactlyOnce, Some(7));
    assert_eq!(accepted(&broker.publish(writer, first.clone())), 1);
    // PUBREC was lost with the broker.
    let mut broker = broker.killed(Limits::default());
    let (writer, _) = broker.connect("w");
    let again = broker.publish(writer, Publish { dup: true, ..first });
    assert_eq!(
        (accepted(&again), sent(&again, writer)),
        (0, vec![Packet::PubRec(packet_id(7))])
    );
    // So was PUBCOMP.
    broker.packet(writer, Packet::PubRel(packet_id(7)));
    let mut broker = broker.killed(Limits::default());
    let (writer, _) = broker.connect("w");
    let outputs = broker.packet(writer, Packet::PubRel(packet_id(7)));
    assert_eq!(sent(&outputs, writer), [Packet::PubComp(packet_id(7))]);
    // The id is free for another message.
    assert_eq!(
        accepted(&broker.publish(writer, message("t", b"2", Qos::ExactlyOnce, Some(7)))),
        1
    );
    assert_eq!(payloads(&broker.connect("r").1), ["1", "2"]);
}

#[test]
fn a_session_that_was_given_up_does_not_come_back() {
    let mut broker = Broker::start(Limits::default());
    let (reader, _) = broker.connect("r");
    broker.subscribe(reader, "t");
    let clean = Connect {
        old: false,
        client: "r".into(),
        clean: true,
        keep_alive: 0,
        will: None,
        user: None,
        password: None,
    };
    broker.core.connect(Instant::now(), ConnectionId(9), clean);
    let outputs = broker.commit();
    let urgent = |output: &Output| matches!(output, Output::Store(op) if op.is_urgent());
    assert!(
        outputs.iter().any(urgent),
        "it would wait for other changes, and a crash: {outputs:?}"
    );
    assert_eq!(broker.killed(Limits::default()).core.present().sessions, 0);
}

#[test]
fn the_oldest_over_the_bound_goes_and_is_counted() {
    let limits = |queue| Limits {
        queue,
        ..Limits::default()
    };
    let mut broker = Broker::start(limits(3));
    let (reader, _) = broker.connect("r");
    broker.subscribe(reader, "t");
    broker.packet(reader, Packet::Disconnect);
    let (writer, _) = broker.connect("w");
    for payload in [&b"1"[..], b"2", b"3", b"4", b"5"] {
        broker.publish(writer, message("t", payload, Qos::AtLeastOnce, Some(1)));
    }
    assert_eq!(broker.core.counters().dropped_queue, 2);
    let held = |broker: &Broker| -> Vec<Bytes> {
        let messages = &broker.file().sessions["r"].messages;
        messages.iter().map(|message| message.publish.payload.clone()).collect()
    };
    assert_eq!(held(&broker), ["3", "4", "5"]);
    // A bound that was made smaller meanwhile.
    let mut broker = broker.killed(limits(1));
    assert_eq!(
        (broker.core.counters().dropped_queue, broker.core.counters().queued),
        (2, 1)
    );
    assert_eq!(held(&broker), ["5"]);
    assert_eq!(payloads(&broker.connect("r").1), ["5"]);
}

#[test]
fn retained_messages_over_the_bound_are_not_kept_and_counted() {
    let limits = |retained, store_bytes| Limits {
        retained,
        store_bytes,
        ..Limits::default()
    };
    let mut broker = Broker::start(limits(2, 20));
    let (writer, _) = broker.connect("w");
    let keep = |broker: &mut Broker, topic: &str, payload| {
        broker.publish(writer, retained(topic, payload, Qos::AtMostOnce));
    };
    let topics = |broker: &Broker| -> Vec<String> {
        let retained = broker.file().retained;
        retained.iter().map(|publish| publish.topic.to_string()).collect()
    };
    for topic in ["a", "b", "c"] {
        keep(&mut broker, topic, b"x");
    }
    assert_eq!(
        (topics(&broker), broker.core.counters().dropped_retained),
        (vec!["a".into(), "b".into()], 1)
    );
    // No room for the new one: the old one is not the last message of its topic any more.
    keep(&mut broker, "a", b"longer than there is room for");
    assert_eq!(
        (topics(&broker), broker.core.counters().dropped_retained),
        (vec!["b".into()], 2)
    );
    keep(&mut broker, "a", b"y");

    let mut broker = broker.killed(limits(1, 20));
    assert_eq!(
        (topics(&broker), broker.core.counters().dropped_retained),
        (vec!["a".into()], 1)
    );
    let broker = broker.killed(limits(2, 20));
    assert_eq!(broker.core.present().retained, 1, "it came back with the room for it");
}

#[test]
fn subscriptions_over_the_bound_of_all_are_refused_and_not_read_back() {
    let limits = |subscription_bytes| Limits {
        subscription_bytes,
        ..Limits::default()
    };
    let mut broker = Broker::start(limits(300));
    let (first, _) = broker.connect("1");
    let (second, _) = broker.connect("2");
    broker.subscribe(first, "a");
    broker.subscribe(first, "b");
    // Of whichever client.
    let granted = |packets: &[Packet]| matches!(packets, [Packet::SubAck { granted, .. }] if granted[0].is_some());
    assert!(!granted(&broker.subscribe(second, "c")));
    assert!(granted(&broker.subscribe(first, "a")), "it is there already");
    let filters = |broker: &Broker| -> usize {
        let sessions = broker.file().sessions;
        sessions.values().map(|session| session.subscriptions.len()).sum()
    };
    assert_eq!(filters(&broker), 2);
    let broker = broker.killed(limits(1));
    assert_eq!((filters(&broker), broker.core.present().subscriptions), (1, 1));
}
