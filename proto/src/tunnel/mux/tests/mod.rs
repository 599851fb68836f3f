//! The streams of a tunnel, with virtual time.

mod flow;
mod keepalive;
mod roles;
mod simulator;

use std::time::Instant;

use super::{Key, Mux, MuxSettings, Read};
use crate::tunnel::{Connect, ConnectKind, Decoder, Encoder, Kind, Message, Part, Role};

pub(super) fn connect(id: u64) -> Connect {
    Connect {
        id,
        kind: ConnectKind::Exec,
        method: "POST".to_owned(),
        target: format!("/exec/default/web-{id}/nginx?command=ls"),
        headers: Vec::new(),
    }
}

/// Everything that there is to read now.
pub(super) fn read_all(mux: &mut Mux, key: Key) -> Vec<u8> {
    let mut all = Vec::new();
    while let Read::Bytes(bytes) = mux.read(key) {
        let count = bytes.len();
        all.extend_from_slice(bytes);
        mux.consume(key, count);
    }
    all
}

/// What came out of a tunnel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Seen {
    Data(u64, Vec<u8>),
    Connect(u64),
    Remove(u64),
    Credit(u64),
    CloseConnect(String),
    Ping,
    Pong(Vec<u8>),
    Close(u16, String),
}

/// A tunnel and whoever is at its other end, who says what it likes.
pub(super) struct Bench {
    pub(super) mux: Mux,
    pub(super) now: Instant,
    decoder: Decoder,
    encoder: Encoder,
}

impl Bench {
    pub(super) fn new(role: Role, credits: bool) -> Self {
        let other = if role == Role::Cloud { Role::Edge } else { Role::Cloud };
        let now = Instant::now();
        Self {
            mux: Mux::new(&MuxSettings { role, credits, seed: 1 }, now),
            now,
            decoder: Decoder::new(other, credits),
            // It may say anything.
            encoder: Encoder::new(other, true, 2),
        }
    }

    pub(super) fn say(&mut self, id: u64, kind: Kind, payload: &[u8]) {
        let mut out = Vec::new();
        self.encoder.message(&mut out, id, kind, payload);
        self.mux.receive(self.now, &mut out);
    }

    pub(super) fn control(&mut self, write: impl FnOnce(&mut crate::tunnel::websocket::Encoder, &mut Vec<u8>)) {
        let mut out = Vec::new();
        write(self.encoder.control(), &mut out);
        self.mux.receive(self.now, &mut out);
    }

    /// A stream that the cloud at the other end opens.
    pub(super) fn accept(&mut self, id: u64) -> Key {
        self.say(id, Kind::ExecConnect, &connect(id).encode());
        let (key, read) = self.mux.accept().expect("accepted");
        assert_eq!(read, connect(id));
        key
    }

    /// Bytes for the socket, as messages; data of one stream that follows itself is joined.
    pub(super) fn sent(&mut self) -> Vec<Seen> {
        let mut out = Vec::new();
        while self.mux.has_output() {
            self.mux.transmit(&mut out, usize::MAX);
        }
        let mut input = out.as_mut_slice();
        let mut seen = Vec::new();
        while let Some(part) = self.decoder.next(&mut input).expect("our own frames") {
            let part = match part {
                Part::Data { id, bytes } => {
                    if let Some(Seen::Data(last, all)) = seen.last_mut()
                        && *last == id
                    {
                        all.extend_from_slice(bytes);
                        continue;
                    }
                    Seen::Data(id, bytes.to_vec())
                }
                Part::Message(Message { id, kind, payload }) => match kind {
                    Kind::RemoveConnect => Seen::Remove(id),
                    Kind::Credit => Seen::Credit(id),
                    Kind::CloseConnect => Seen::CloseConnect(String::from_utf8(payload).expect("our own words")),
                    _ => Seen::Connect(id),
                },
                Part::Ping(_) => Seen::Ping,
                Part::Pong(payload) => Seen::Pong(payload),
                Part::Close { code, reason } => Seen::Close(code.expect("ours has one"), reason),
                Part::Unknown { number, .. } => panic!("type {number} was sent without negotiation"),
            };
            seen.push(part);
        }
        seen
    }
}
