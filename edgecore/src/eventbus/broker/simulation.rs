//! Core and writer under a seeded world: clients that publish and subscribe at every QoS, connections that break with all that is on them,
//! and power cuts that lose what was not committed. At the end QoS 1 has arrived at least once, QoS 2 once, each topic in order.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::mqtt::{Connect, Packet, PacketId, Publish, Qos};

use super::core::{ConnectionId, Core, Limits, Op, Output, Stored, StoredMessage};
use super::store::Batch;
use super::writer::Writer;

const SEEDS: u64 = 300;
const STEPS: usize = 600;
const TOPICS: u64 = 3;
const PUBLISHERS: u64 = 2;
const SUBSCRIBERS: usize = 2;

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What the file would hold.
#[derive(Default)]
struct Disk(Stored);

impl Disk {
    fn apply(&mut self, batch: Batch) {
        if batch.whole {
            self.0 = Stored::default();
        }
        batch.ops.into_iter().for_each(|op| self.change(op));
    }

    fn change(&mut self, op: Op) {
        match op {
            Op::Session { client, user } => self.0.sessions.entry(client).or_default().user = user,
            Op::Gone(client) => drop(self.0.sessions.remove(&client)),
            Op::Subscribed(client, filter, qos) => self.session(&client).subscriptions.push((filter, qos)),
            Op::Unsubscribed(client, filter) => self
                .session(&client)
                .subscriptions
                .retain(|(there, _)| *there != filter),
            Op::Queued(client, message) => self.session(&client).messages.push(message),
            Op::Sent(number, id) => self.message(number, |message| message.publish.id = Some(id)),
            Op::Released(number) => self.message(number, |message| {
                message.released = true;
                message.publish.payload = Bytes::new();
            }),
            Op::Done(number) => {
                for session in self.0.sessions.values_mut() {
                    session.messages.retain(|message| message.number != number);
                }
            }
            Op::Received(client, id) => self.session(&client).received.push(id),
            Op::Forgotten(client, id) => self.session(&client).received.retain(|there| *there != id),
            Op::Retained(publish) => {
                self.0.retained.retain(|there| there.topic != publish.topic);
                self.0.retained.push(publish);
            }
            Op::Cleared(topic, _) => self.0.retained.retain(|there| there.topic != topic),
        }
    }

    fn session(&mut self, client: &Arc<str>) -> &mut super::core::StoredSession {
        self.0.sessions.entry(client.clone()).or_default()
    }

    fn message(&mut self, number: i64, change: impl FnOnce(&mut StoredMessage)) {
        let mut all = self.0.sessions.values_mut().flat_map(|session| &mut session.messages);
        if let Some(message) = all.find(|message| message.number == number) {
            change(message);
        }
    }
}

/// A client as the standard wants it.
struct Client {
    name: Arc<str>,
    connection: Option<ConnectionId>,
    answered: bool,
    to_broker: VecDeque<Packet>,
    from_broker: VecDeque<Packet>,
    /// Not acknowledged, in order; `true` once PUBREC came.
    unanswered: Vec<(PacketId, Publish, bool)>,
    last_id: u16,
    /// QoS 2 ids that the broker has not released.
    incoming: BTreeSet<PacketId>,
    got: Vec<(String, String)>,
}

impl Client {
    fn new(name: String) -> Self {
        Self {
            name: name.into(),
            connection: None,
            answered: false,
            to_broker: VecDeque::new(),
            from_broker: VecDeque::new(),
            unanswered: Vec::new(),
            last_id: 0,
            incoming: BTreeSet::new(),
            got: Vec::new(),
        }
    }

    fn publish(&mut self, topic: &str, payload: String, qos: Qos) {
        let id = loop {
            self.last_id = self.last_id.wrapping_add(1);
            let id = PacketId::new(self.last_id);
            if let Some(id) = id.filter(|id| !self.unanswered.iter().any(|(there, ..)| there == id)) {
                break id;
            }
        };
        let publish = Publish {
            topic: topic.into(),
            payload: payload.into(),
            qos,
            retain: false,
            dup: false,
            id: (qos != Qos::AtMostOnce).then_some(id),
        };
        if qos != Qos::AtMostOnce {
            self.unanswered.push((id, publish.clone(), false));
        }
        if self.answered {
            self.to_broker.push_back(Packet::Publish(publish));
        }
    }

    fn receive(&mut self, packet: Packet) {
        match packet {
            Packet::ConnAck { .. } => {
                self.answered = true;
                for (id, publish, released) in &self.unanswered {
                    self.to_broker.push_back(if *released {
                        Packet::PubRel(*id)
                    } else {
                        Packet::Publish(Publish {
                            dup: true,
                            ..publish.clone()
                        })
                    });
                }
            }
            Packet::PubAck(id) => self.unanswered.retain(|(there, ..)| *there != id),
            Packet::PubRec(id) => {
                for (there, _, released) in &mut self.unanswered {
                    *released |= *there == id;
                }
                self.to_broker.push_back(Packet::PubRel(id));
            }
            Packet::PubComp(id) => self.unanswered.retain(|(there, ..)| *there != id),
            Packet::Publish(publish) => {
                let new = match (publish.qos, publish.id) {
                    (Qos::AtLeastOnce, Some(id)) => {
                        self.to_broker.push_back(Packet::PubAck(id));
                        true
                    }
                    (Qos::ExactlyOnce, Some(id)) => {
                        self.to_broker.push_back(Packet::PubRec(id));
                        self.incoming.insert(id)
                    }
                    _ => true,
                };
                if new {
                    let payload = String::from_utf8_lossy(&publish.payload).into_owned();
                    self.got.push((publish.topic.to_string(), payload));
                }
            }
            Packet::PubRel(id) => {
                self.incoming.remove(&id);
                self.to_broker.push_back(Packet::PubComp(id));
            }
            _ => {}
        }
    }

    fn cut(&mut self) -> Option<ConnectionId> {
        self.answered = false;
        self.to_broker.clear();
        self.from_broker.clear();
        self.connection.take()
    }
}

struct World {
    core: Core,
    writer: Writer,
    writing: Option<Batch>,
    disk: Disk,
    now: Instant,
    clients: Vec<Client>,
    next_connection: u64,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let names = (0..PUBLISHERS).map(|index| format!("publisher-{index}"));
        let names = names.chain((0..SUBSCRIBERS).map(|index| format!("subscriber-{index}")));
        Self {
            core: Core::new(limits(), Stored::default(), now),
            writer: Writer::default(),
            writing: None,
            disk: Disk::default(),
            now,
            clients: names.map(Client::new).collect(),
            next_connection: 1,
        }
    }

    fn connect(&mut self, index: usize) {
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        let client = &mut self.clients[index];
        client.cut();
        client.connection = Some(id);
        let connect = Connect {
            old: false,
            client: client.name.clone(),
            clean: false,
            keep_alive: 60,
            will: None,
            user: None,
            password: None,
        };
        self.core.connect(self.now, id, connect);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        let outputs: Vec<_> = self.core.outputs().collect();
        let urgent = outputs
            .iter()
            .any(|output| matches!(output, Output::Store(op) if op.is_urgent()));
        for output in outputs {
            match output {
                Output::Store(op) => self.writer.add(op, self.now),
                Output::Send { to, packet, promise } => {
                    if let Some(packet) = self.writer.pass(to, packet, promise && urgent) {
                        self.send(to, packet);
                    }
                }
                Output::Close { connection, .. } => {
                    if let Some(client) = self
                        .clients
                        .iter_mut()
                        .find(|client| client.connection == Some(connection))
                    {
                        client.cut();
                    }
                }
                Output::Accepted(_) => {}
            }
        }
    }

    fn send(&mut self, to: ConnectionId, packet: Packet) {
        if let Some(client) = self.clients.iter_mut().find(|client| client.connection == Some(to)) {
            client.from_broker.push_back(packet);
        }
    }

    /// One packet in one direction; says whether there was one.
    fn deliver(&mut self, index: usize, to_broker: bool) -> bool {
        let client = &mut self.clients[index];
        if to_broker {
            let (Some(id), Some(packet)) = (client.connection, client.to_broker.pop_front()) else {
                return false;
            };
            self.core.packet(self.now, id, packet);
            self.carry_out();
        } else {
            let Some(packet) = client.from_broker.pop_front() else {
                return false;
            };
            client.receive(packet);
        }
        true
    }

    /// The disk begins a batch, or ends it.
    fn disk(&mut self) -> bool {
        if let Some(batch) = self.writing.take() {
            self.disk.apply(batch);
            for (to, packet) in self.writer.done(true, self.now) {
                self.send(to, packet);
            }
            return true;
        }
        self.writing = self.writer.next(self.now, || self.core.snapshot());
        self.writing.is_some()
    }

    fn power_cut(&mut self) {
        for client in &mut self.clients {
            client.cut();
        }
        self.writer = Writer::default();
        self.writing = None;
        self.core = Core::new(limits(), self.disk.0.clone(), self.now);
    }

    fn settle(&mut self) {
        for index in 0..self.clients.len() {
            if self.clients[index].connection.is_none() {
                self.connect(index);
            }
        }
        loop {
            let mut moved = self.disk();
            for index in 0..self.clients.len() {
                moved |= self.deliver(index, true) | self.deliver(index, false);
            }
            if !moved {
                return;
            }
        }
    }

    fn step(&mut self, random: &mut Random, published: &mut BTreeMap<(u64, u64, u8), u64>) {
        let index = usize::try_from(random.below(PUBLISHERS + SUBSCRIBERS as u64)).unwrap_or_default();
        match random.below(100) {
            0..25 => {
                let (who, topic) = (random.below(PUBLISHERS), random.below(TOPICS));
                let qos =
                    Qos::from_number(u8::try_from(random.below(3)).unwrap_or_default()).unwrap_or(Qos::AtMostOnce);
                let number = published.entry((who, topic, qos.number())).or_default();
                let payload = format!("{who} {} {number}", qos.number());
                *number += 1;
                let who = usize::try_from(who).unwrap_or_default();
                self.clients[who].publish(&format!("t/{topic}"), payload, qos);
            }
            25..55 => drop(self.deliver(index, true)),
            55..85 => drop(self.deliver(index, false)),
            85..93 => drop(self.disk()),
            93..95 => {
                if let Some(id) = self.clients[index].cut() {
                    self.core.lost(self.now, id);
                    self.carry_out();
                }
            }
            95..98 if self.clients[index].connection.is_none() => self.connect(index),
            98 if random.below(4) == 0 => self.power_cut(),
            // The old connection is taken over.
            99 if random.below(4) == 0 => self.connect(index),
            _ => {
                self.now += Duration::from_millis(random.below(500));
                self.core.tick(self.now);
                self.carry_out();
            }
        }
    }
}

fn limits() -> Limits {
    Limits {
        inflight: 4,
        queue: 100_000,
        ..Limits::default()
    }
}

#[test]
fn nothing_is_lost_and_qos_2_arrives_once() {
    for seed in 1..=SEEDS {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut world = World::new();
        world.settle();
        for (index, client) in world.clients.iter_mut().enumerate().skip(2) {
            let qos = Qos::ExactlyOnce;
            let filter = if index % 2 == 0 { "t/+" } else { "#" };
            let subscribe = Packet::Subscribe {
                id: PacketId::MIN,
                filters: vec![(filter.into(), qos)],
            };
            client.to_broker.push_back(subscribe);
        }
        world.settle();
        let mut published = BTreeMap::new();
        for _ in 0..STEPS {
            world.step(&mut random, &mut published);
        }
        world.settle();
        for client in &world.clients[2..] {
            check(seed, client, &published);
        }
        for client in &world.clients[..2] {
            assert!(client.unanswered.is_empty(), "seed {seed}: {} waits", client.name);
        }
        let (queued, bytes) = (world.core.counters().queued, world.core.counters().queued_bytes);
        assert_eq!((queued, bytes), (0, 0), "seed {seed}");
    }
}

fn check(seed: u64, client: &Client, published: &BTreeMap<(u64, u64, u8), u64>) {
    let mut first: HashMap<(u64, u64, u8), Vec<u64>> = HashMap::new();
    for (topic, payload) in &client.got {
        let topic = topic.trim_start_matches("t/").parse().expect("a number");
        let mut words = payload.split(' ').map(|word| word.parse::<u64>().expect("a number"));
        let (Some(who), Some(qos), Some(number)) = (words.next(), words.next(), words.next()) else {
            panic!("{payload}")
        };
        let qos = u8::try_from(qos).expect("a QoS");
        let seen = first.entry((who, topic, qos)).or_default();
        if seen.contains(&number) {
            assert_eq!(qos, 1, "seed {seed}: {payload} came twice to {}", client.name);
        } else {
            seen.push(number);
        }
    }
    for ((who, topic, qos), count) in published {
        let seen = first.remove(&(*who, *topic, *qos)).unwrap_or_default();
        assert!(seen.is_sorted(), "seed {seed}: out of order {seen:?}");
        if *qos > 0 {
            let expected: Vec<_> = (0..*count).collect();
            assert_eq!(
                seen, expected,
                "seed {seed}: QoS {qos} from {who} on {topic} at {}",
                client.name
            );
        }
    }
}
