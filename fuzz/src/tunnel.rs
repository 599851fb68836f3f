//! The tunnel: whatever a peer sends and in whatever portions, it is read the same or refused, and the rules of its streams hold.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use proto::tunnel::message::{Decoder, Encoder, Kind, Part};
use proto::tunnel::upgrade::{Answer, Request};
use proto::tunnel::websocket::{self, Piece};
use proto::tunnel::{Connect, ConnectKind, Key, Mux, MuxSettings, Read, Role};

/// Frames. The first byte chooses the side and the portions.
pub fn websocket(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let read = |portion: usize| {
        let mut decoder = websocket::Decoder::new(role(choice), 70_000);
        let mut seen = vec![Vec::new()];
        for portion in data.to_vec().chunks_mut(portion) {
            let mut input = portion;
            loop {
                match decoder.next(&mut input) {
                    Ok(None) => break,
                    Ok(Some(Piece::Data { bytes, last })) => {
                        seen.last_mut().expect("never empty").extend_from_slice(bytes);
                        if last {
                            seen.push(Vec::new());
                        }
                    }
                    Ok(Some(Piece::Ping(payload) | Piece::Pong(payload))) => assert!(payload.len() <= 125),
                    Ok(Some(Piece::Close { reason, .. })) => assert!(reason.len() <= 3 * 123),
                    Err(error) => return (seen, Some(error)),
                }
            }
        }
        (seen, None)
    };
    assert_eq!(read(usize::from(choice >> 1) + 1), read(usize::MAX));
    let _ = (
        Request::read(data),
        Answer::read(data, [0; 16], proto::Features::TUNNEL),
    );
}

/// Messages in frames. What is a message is written back the same.
pub fn message(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let credits = choice & 2 != 0;
    let mut decoder = Decoder::new(role(choice), credits);
    let mut encoder = Encoder::new(other(role(choice)), credits, 9);
    let mut again = Vec::new();
    for portion in data.to_vec().chunks_mut(usize::from(choice >> 2) + 1) {
        let mut input = portion;
        while let Ok(Some(part)) = decoder.next(&mut input) {
            match part {
                Part::Data { id, bytes } => encoder.message(&mut again, id, Kind::Data, bytes),
                Part::Message(message) => encoder.message(&mut again, message.id, message.kind, &message.payload),
                _ => {}
            }
        }
    }
    let mut decoder = Decoder::new(role(choice), credits);
    let mut input = again.as_mut_slice();
    while let Some(part) = decoder.next(&mut input).expect("our own frames are read") {
        assert!(matches!(part, Part::Data { .. } | Part::Message(_)));
    }
}

/// The JSON that opens a stream.
pub fn connect(data: &[u8]) {
    let Some((&choice, payload)) = data.split_first() else {
        return;
    };
    let kind = [
        ConnectKind::Logs,
        ConnectKind::Exec,
        ConnectKind::Metrics,
        ConnectKind::Attach,
    ][usize::from(choice % 4)];
    let Ok(connect) = Connect::decode(1, kind, payload) else {
        return;
    };
    let head = connect.head();
    assert!(
        head.ends_with("\r\n\r\n") && head.matches("\r\n\r\n").count() == 1,
        "{head:?}"
    );
    let again = Connect::decode(1, kind, &connect.encode()).expect("our own JSON is read");
    assert_eq!((&again.target, &again.method), (&connect.target, &connect.method));
    let third = Connect::decode(1, kind, &again.encode()).expect("our own JSON is read");
    assert_eq!(third, again);
}

/// A peer that does anything, and holders that do anything, one byte an operation.
pub fn operations(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let (role, credits) = (role(choice), choice & 2 != 0);
    let mut now = Instant::now();
    let mut mux = Mux::new(&MuxSettings { role, credits, seed: 1 }, now);
    let mut peer = Encoder::new(other(role), true, 2);
    let mut watch = Watch::new(other(role), credits);
    let mut keys: Vec<Key> = Vec::new();
    let mut wire = Vec::new();
    let mut operations = data.iter().copied();
    while let Some(operation) = operations.next() {
        let argument = operations.next().unwrap_or_default();
        let (id, size) = (
            u64::from(argument % 8),
            usize::from(argument) * if argument < 240 { 8 } else { 700 },
        );
        let key = keys.get(usize::from(argument) % keys.len().max(1)).copied();
        let connect = Connect {
            id,
            kind: ConnectKind::Exec,
            method: "POST".to_owned(),
            target: "/exec/a/b/c".to_owned(),
            headers: Vec::new(),
        };
        wire.clear();
        match (operation % 16, key) {
            (0, _) => peer.message(&mut wire, id, Kind::ExecConnect, &connect.encode()),
            (1, _) => peer.message(&mut wire, id, Kind::Data, &vec![argument; size]),
            (2, _) => peer.message(&mut wire, id, Kind::RemoveConnect, &[]),
            (3, _) => peer.message(&mut wire, id, Kind::Credit, &[argument | 0x80, argument & 0x7f]),
            (4, _) => peer.message(&mut wire, id, Kind::LogsConnect, &[argument]),
            (5, _) => peer.control().ping(&mut wire, &[argument; 4]),
            (6, _) => wire.extend([operation, argument]),
            (7, _) if role == Role::Cloud => keys.extend(mux.open(now, &connect).ok()),
            (8, Some(key)) => {
                if let Some(count) = mux.write(key, &vec![argument; size]) {
                    assert!(count <= size);
                }
            }
            (9, Some(key)) => {
                if let Read::Bytes(bytes) = mux.read(key) {
                    let count = bytes.len().min(size + 1);
                    mux.consume(key, count);
                }
            }
            (10, Some(key)) => mux.finish(key),
            (11, Some(key)) => {
                keys.retain(|held| *held != key);
                mux.release(key);
            }
            (12, _) => watch.see(&mut mux, size + 1),
            (13, _) => {
                now += Duration::from_millis(u64::from(argument) * 20);
                mux.expire(now);
            }
            (14, _) if argument > 250 => mux.close("the end"),
            (15, _) if argument > 250 => mux.refuse_all(),
            _ => {}
        }
        if role == Role::Edge && matches!(operation % 16, 0 | 4) {
            watch.connected(id);
        }
        mux.receive(now, &mut wire);
        keys.extend(std::iter::from_fn(|| mux.accept()).map(|(key, _)| key));
        while mux.event().is_some() {}
        assert!(mux.waiting_bytes() <= 64 << 20);
    }
    for key in keys {
        mux.release(key);
    }
    watch.see(&mut mux, usize::MAX);
    mux.lost("the end");
    assert!(mux.is_empty() && mux.waiting_bytes() == 0 && mux.open_streams() == 0);
    let counts = mux.take_counts();
    assert_eq!(counts.opened, counts.ended);
}

/// Holds what is sent against the rules: at most one RemoveConnect for a connect message, and nothing of that stream afterwards.
struct Watch {
    decoder: Decoder,
    /// By id, because a peer may use one again: connect messages and RemoveConnects.
    streams: HashMap<u64, (u32, u32)>,
}

impl Watch {
    fn new(reader: Role, credits: bool) -> Self {
        Self {
            decoder: Decoder::new(reader, credits),
            streams: HashMap::new(),
        }
    }

    fn connected(&mut self, id: u64) {
        self.streams.entry(id).or_default().0 += 1;
    }

    fn see(&mut self, mux: &mut Mux, limit: usize) {
        let mut out = Vec::new();
        mux.transmit(&mut out, limit);
        let mut input = out.as_mut_slice();
        while let Some(part) = self.decoder.next(&mut input).expect("our own frames are read") {
            let (id, kind) = match part {
                Part::Data { id, .. } => (id, Kind::Data),
                Part::Message(message) => (message.id, message.kind),
                Part::Unknown { number, .. } => panic!("type {number} was not negotiated"),
                _ => continue,
            };
            if ConnectKind::from_kind(kind).is_some() {
                self.connected(id);
                continue;
            }
            if kind == Kind::CloseConnect {
                continue;
            }
            let (connects, removals) = self.streams.entry(id).or_default();
            assert!(*removals < *connects, "{kind:?} of stream {id} after its end");
            *removals += u32::from(kind == Kind::RemoveConnect);
        }
    }
}

fn role(choice: u8) -> Role {
    if choice & 1 == 0 { Role::Cloud } else { Role::Edge }
}

const fn other(role: Role) -> Role {
    match role {
        Role::Cloud => Role::Edge,
        Role::Edge => Role::Cloud,
    }
}
