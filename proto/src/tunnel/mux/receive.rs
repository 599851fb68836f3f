//! What comes from the peer.

use std::time::Instant;

use http::StatusCode;

use super::stream::{Failure, State};
use super::{Event, Key, MAX_MISSED, MAX_REMOVALS, MAX_STREAMS, Mux, NORMAL, STREAM_CAP, TUNNEL_CAP};
use crate::tunnel::connect::{Connect, ConnectKind, refusal};
use crate::tunnel::message::{Kind, Message, Part, read_credit};
use crate::tunnel::{FrameError, Role};

impl Mux {
    /// Takes bytes of the socket, in whatever portions; they are unmasked in place.
    pub fn receive(&mut self, now: Instant, bytes: &mut [u8]) {
        self.keepalive.heard(now);
        let mut input = bytes;
        while self.over.is_none() {
            match self.decoder.next(&mut input) {
                Ok(None) => return,
                Ok(Some(part)) => {
                    self.counts.frames_in += 1;
                    self.part(part);
                }
                Err(error) => self.broken(error),
            }
        }
    }

    fn broken(&mut self, error: FrameError) {
        let text = error.to_string();
        self.end(
            format!("the peer broke the protocol: {text}"),
            Some((error.close_code(), &text)),
        );
    }

    fn part(&mut self, part: Part<'_>) {
        match part {
            Part::Data { id, bytes } => self.data(id, bytes),
            Part::Message(message) => self.message(message),
            Part::Unknown { .. } => self.counts.unknown += 1,
            // Of several, the last is answered (RFC 6455 §5.5.3).
            Part::Ping(payload) => self.pong = Some(payload),
            // A pong says only that the peer is alive, which was noted when it arrived.
            Part::Pong(_) => {}
            Part::Close { code, reason } => {
                let code = code.map_or_else(|| "without a code".to_owned(), |code| format!("with code {code}"));
                let space = if reason.is_empty() { "" } else { ": " };
                self.end(
                    format!("the peer closed the connection {code}{space}{reason}"),
                    Some((NORMAL, "")),
                );
            }
        }
    }

    fn data(&mut self, id: u64, bytes: &[u8]) {
        self.counts.bytes_in += bytes.len() as u64;
        let Some(&key) = self.ids.get(&id) else {
            self.counts.late += 1;
            self.miss(id);
            return;
        };
        self.unhold(key);
        let stream = &mut self.streams[key];
        if stream.finishing {
            self.counts.late += 1;
            return;
        }
        if self.credits {
            let Some(left) = stream.flow.granted.checked_sub(bytes.len() as u64) else {
                self.fail(key, Failure::Overrun);
                return;
            };
            stream.flow.granted = left;
        }
        if stream.incoming.len() + bytes.len() > STREAM_CAP {
            self.fail(key, Failure::Cap);
            return;
        }
        stream.incoming.push(bytes);
        self.waiting += bytes.len();
        if std::mem::take(&mut stream.waits_read) {
            self.events.push_back(Event::Readable(Key(key)));
        }
        if self.waiting > TUNNEL_CAP {
            // Of all streams, including those that the peer has removed and that are still being read, slowly.
            let largest = self.streams.iter().max_by_key(|(_, stream)| stream.incoming.len());
            let largest = largest.map_or(key, |(largest, _)| largest);
            self.fail(largest, Failure::Cap);
        }
    }

    fn message(&mut self, message: Message) {
        let Message { id, kind, payload } = message;
        if let Some(kind) = ConnectKind::from_kind(kind) {
            if self.role == Role::Cloud {
                self.counts.unknown += 1;
            } else {
                self.connect(id, kind, &payload);
            }
            return;
        }
        match kind {
            Kind::CloseConnect if self.role == Role::Edge => {
                let text = String::from_utf8_lossy(&payload[..payload.len().min(MAX_REASON)]);
                self.end(format!("the cloud closed the tunnel: {text}"), Some((NORMAL, "")));
            }
            Kind::RemoveConnect => match self.ids.get(&id) {
                Some(&key) => {
                    self.unlink(key, State::Removed);
                    if self.role == Role::Edge {
                        self.remove_later(id);
                    }
                }
                None => self.counts.late += 1,
            },
            Kind::Credit => match (read_credit(&payload), self.ids.get(&id)) {
                (Some(amount), Some(&key)) => {
                    let flow = &mut self.streams[key].flow;
                    flow.credit = flow.credit.saturating_add(amount);
                    self.schedule(key);
                }
                (Some(_), None) => self.counts.late += 1,
                (None, _) => self.counts.unknown += 1,
            },
            _ => self.counts.unknown += 1,
        }
    }

    fn connect(&mut self, id: u64, kind: ConnectKind, payload: &[u8]) {
        if let Some(&key) = self.ids.get(&id) {
            self.counts.refused += 1;
            self.fail(key, Failure::Duplicate);
            return;
        }
        if let Some(place) = self.missed.iter().position(|missed| *missed == id) {
            // The first bytes of this stream came before it was opened, and were dropped: it would be served with a hole at its start.
            self.missed.remove(place);
            self.counts.refused += 1;
            self.remove_later(id);
            return;
        }
        if !self.accepting || self.streams.len() >= MAX_STREAMS {
            self.counts.refused += 1;
            self.remove_later(id);
            return;
        }
        let connect = Connect::decode(id, kind, payload);
        let key = self.link(id);
        match connect {
            Ok(connect) => {
                if self.accepted.is_empty() {
                    self.events.push_back(Event::Incoming);
                }
                self.accepted.push_back((Key(key), connect));
            }
            Err(error) => {
                self.counts.refused += 1;
                let answer = refusal(kind, StatusCode::BAD_REQUEST, &error.to_string());
                self.streams[key].outgoing.push(&answer);
                self.release(Key(key));
            }
        }
    }

    /// Ends a stream alone, against the will of its holder.
    fn fail(&mut self, key: usize, failure: Failure) {
        if failure == Failure::Cap {
            self.counts.capped += 1;
        }
        let stream = &mut self.streams[key];
        self.waiting -= stream.incoming.len();
        stream.incoming.clear();
        if !stream.is_live() {
            // On the wire this stream has ended already.
            stream.state = State::Failed(failure);
            return;
        }
        let (id, known) = (stream.id, stream.connect.is_none());
        self.unlink(key, State::Failed(failure));
        // The peer spoke on a stream before it was opened: there is nothing to end.
        if known {
            self.remove_later(id);
        }
    }

    /// Remembers whose data was dropped: no cloud sends any before the stream is open, and none uses an id twice.
    fn miss(&mut self, id: u64) {
        if self.role == Role::Cloud || self.missed.contains(&id) {
            return;
        }
        if self.missed.len() >= MAX_MISSED {
            self.missed.pop_front();
        }
        self.missed.push_back(id);
    }

    fn remove_later(&mut self, id: u64) {
        self.removals.push_back(id);
        if self.removals.len() > MAX_REMOVALS {
            self.end("the peer sends and does not read".to_owned(), None);
        }
    }
}

/// Bytes of the cloud's last words that are kept.
const MAX_REASON: usize = 1024;
