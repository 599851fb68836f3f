//! MQTT: any bytes are packets or an error, whatever their portions; any packets leave the broker's state in order.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use proto::mqtt::{Connect, Packet, PacketId, Publish, Qos, decode};

use super::state::{ConnectionId, Core, Limits, Output, Stored};

const LIMIT: usize = 4096;

/// The first byte chooses: bytes for the decoder in portions, or operations for the broker. What clients send there is real packets, so
/// that the fuzzer needs not find their form first.
pub fn packets(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    if choice & 1 == 0 {
        bytes(usize::from(choice >> 1) + 1, data);
    } else {
        operations(data);
    }
}

fn bytes(portion: usize, data: &[u8]) {
    let read = |portion: usize| {
        let (mut input, mut seen) = (BytesMut::new(), Vec::new());
        for piece in data.chunks(portion) {
            input.extend_from_slice(piece);
            loop {
                match decode(&mut input, LIMIT) {
                    Ok(Some(packet)) => seen.push(packet),
                    Ok(None) => break,
                    Err(error) => return (seen, Some(error)),
                }
            }
            assert!(input.len() <= LIMIT.saturating_add(portion));
        }
        (seen, None)
    };
    let (seen, error) = read(portion);
    let whole = read(usize::MAX);
    assert_eq!(seen, whole.0);
    assert_eq!(error.is_some(), whole.1.is_some());
    // What was read is written and read again.
    let mut again = BytesMut::new();
    seen.iter().for_each(|packet| packet.encode(&mut again));
    for packet in seen {
        assert_eq!(decode(&mut again, 2 * LIMIT), Ok(Some(packet)));
    }
    // And fed to a broker, by a client that has named itself.
    let mut broker = Broker::new();
    broker.connect(0, 2);
    let mut input = BytesMut::from(data);
    while let Ok(Some(packet)) = decode(&mut input, LIMIT) {
        broker.packet(0, packet);
    }
    broker.end();
}

/// Three clients that do anything, two bytes an operation.
fn operations(data: &[u8]) {
    let mut broker = Broker::new();
    for pair in data.chunks_exact(2) {
        let (operation, argument) = (pair[0], pair[1]);
        let client = usize::from(operation >> 4) % CLIENTS;
        let id = PacketId::new(u16::from(argument % 8) + 1).expect("not 0");
        let qos = Qos::from_number(argument % 3).expect("0 to 2");
        let topic = TOPICS[usize::from(argument) % TOPICS.len()];
        let packet = match operation & 15 {
            0 => {
                broker.connect(client, argument);
                continue;
            }
            1 => {
                broker.lost(client);
                continue;
            }
            2 => {
                broker.pass(argument);
                continue;
            }
            3 => {
                broker.restart();
                continue;
            }
            4 => Packet::Subscribe {
                id,
                filters: vec![(FILTERS[usize::from(argument) % FILTERS.len()].into(), qos)],
            },
            5 => Packet::Unsubscribe {
                id,
                filters: vec![FILTERS[usize::from(argument) % FILTERS.len()].into()],
            },
            6 => Packet::PubAck(id),
            7 => Packet::PubRec(id),
            8 => Packet::PubRel(id),
            9 => Packet::PubComp(id),
            10 => Packet::Disconnect,
            11 => Packet::PingReq,
            _ => Packet::Publish(Publish {
                topic: topic.into(),
                payload: vec![argument; usize::from(argument % 16) * 8].into(),
                qos,
                retain: argument & 64 != 0,
                dup: argument & 128 != 0 && qos != Qos::AtMostOnce,
                id: (qos != Qos::AtMostOnce).then_some(id),
            }),
        };
        broker.packet(client, packet);
    }
    broker.end();
}

const CLIENTS: usize = 3;
const TOPICS: [&str; 7] = ["a", "a/b", "a/b/c", "/", "$hw/x", "$SYS/x", "a/b/c/d/e"];
const FILTERS: [&str; 8] = ["#", "a", "a/#", "+/b", "$hw/#", "$SYS/#", "+", "a/b/c/d/e"];

struct Broker {
    core: Core,
    now: Instant,
    connections: [Option<ConnectionId>; CLIENTS],
    next: u64,
}

impl Broker {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            core: Core::new(limits(), Stored::default(), now),
            now,
            connections: [None; CLIENTS],
            next: 1,
        }
    }

    fn connect(&mut self, client: usize, argument: u8) {
        let id = ConnectionId(self.next);
        self.next += 1;
        self.lost(client);
        self.connections[client] = Some(id);
        let connect = Connect {
            old: argument & 1 != 0,
            client: ["x", "y", ""][usize::from(argument >> 2) % 3].into(),
            clean: argument & 2 != 0,
            keep_alive: u16::from(argument >> 4),
            will: (argument & 8 != 0).then(|| proto::mqtt::Will {
                topic: "a".into(),
                payload: "will".into(),
                qos: Qos::AtLeastOnce,
                retain: argument & 16 != 0,
            }),
            user: None,
            password: None,
        };
        self.core.connect(self.now, id, connect);
        self.check();
    }

    fn packet(&mut self, client: usize, packet: Packet) {
        if let Some(id) = self.connections[client] {
            self.core.packet(self.now, id, packet);
            self.check();
        }
    }

    fn lost(&mut self, client: usize) {
        if let Some(id) = self.connections[client].take() {
            self.core.lost(self.now, id);
            self.check();
        }
    }

    fn pass(&mut self, seconds: u8) {
        self.now += Duration::from_secs(seconds.into());
        assert!(self.core.tick(self.now) > self.now);
        self.check();
    }

    /// From what would be in the database.
    fn restart(&mut self) {
        self.connections = [None; CLIENTS];
        self.core = Core::new(limits(), Stored::default(), self.now);
    }

    /// Packets go only to who is connected, and the limits hold.
    fn check(&mut self) {
        let outputs: Vec<_> = self.core.outputs().collect();
        for output in outputs {
            match output {
                Output::Close { connection, .. } => {
                    for there in &mut self.connections {
                        there.take_if(|id| *id == connection);
                    }
                }
                Output::Send { to, packet, .. } => {
                    let refused = matches!(packet, Packet::ConnAck { .. });
                    assert!(refused || self.connections.contains(&Some(to)), "{packet:?}");
                    if let Packet::Publish(publish) = packet {
                        assert_eq!(publish.id.is_some(), publish.qos != Qos::AtMostOnce);
                    }
                }
                _ => {}
            }
        }
        let present = self.core.present();
        assert!(present.connected <= CLIENTS && present.sessions <= CLIENTS + limits().sessions);
        assert!(
            self.core.counters().queued <= present.sessions * (limits().queue + limits().inflight + limits().retained)
        );
    }

    fn end(&mut self) {
        (0..CLIENTS).for_each(|client| self.lost(client));
        self.core.snapshot();
    }
}

fn limits() -> Limits {
    Limits {
        inflight: 3,
        queue: 5,
        sessions: 2,
        retained: 4,
        topic_levels: 4,
        subscriptions: 4,
        ..Limits::default()
    }
}
