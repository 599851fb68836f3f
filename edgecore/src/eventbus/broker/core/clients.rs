//! Clients come and go: sessions are made, taken over, left behind and forgotten; wills are published.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::mqtt::{Connect, ConnectCode, Packet, Publish, Will};

use super::session::Session;
use super::{CloseReason, Connected, ConnectionId, Core, Op, Output, SessionKey};

impl Core {
    pub(super) fn open(&mut self, now: Instant, id: ConnectionId, connect: Connect) {
        if let Err(code) = self.admit(now, &connect) {
            self.send(id, answer(code, false), false);
            self.close(id, CloseReason::Refused);
            return;
        }
        let client = if connect.client.is_empty() {
            // No client can choose such a name: strings have no U+0000 on the wire.
            format!("\0{}", id.0).into()
        } else {
            connect.client
        };
        let (key, present) = self.session_for(now, client, connect.user, connect.clean);
        self.connections.insert(
            id,
            Connected {
                session: key,
                keep_alive: (connect.keep_alive > 0)
                    .then(|| Duration::from_millis(u64::from(connect.keep_alive) * 1500)),
                heard: now,
                will: connect.will,
            },
        );
        self.counters.maximum = self.counters.maximum.max(self.connections.len());
        // 3.1 knows no such flag.
        self.send(id, answer(ConnectCode::Accepted, present && !connect.old), false);
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        session.connection = Some(id);
        session.away_since = None;
        let promise = !session.clean;
        for packet in session.again() {
            self.send(id, packet, promise);
        }
        self.pump(key);
    }

    fn admit(&mut self, now: Instant, connect: &Connect) -> Result<(), ConnectCode> {
        let client = &connect.client;
        if client.len() > self.limits.client_bytes || (client.is_empty() && !connect.clean) {
            return Err(ConnectCode::BadClient);
        }
        if let Some(will) = &connect.will
            && (!self.limits.takes(&will.topic) || Self::is_sys(&will.topic))
        {
            return Err(ConnectCode::NotAuthorized);
        }
        let there = self.names.get(client).and_then(|key| self.sessions.get(key));
        // A name that somebody else is connected with is theirs.
        if there.is_some_and(|session| session.connection.is_some() && session.user != connect.user) {
            return Err(ConnectCode::NotAuthorized);
        }
        let adds = !connect.clean && there.is_none_or(|session| session.clean);
        if adds && !self.make_room(now) {
            return Err(ConnectCode::Unavailable);
        }
        Ok(())
    }

    /// Room for one more session that outlives its connection: the client that was away for longest is forgotten.
    fn make_room(&mut self, now: Instant) -> bool {
        let kept = self.sessions.values().filter(|session| !session.clean).count();
        if kept < self.limits.sessions {
            return true;
        }
        let oldest = self
            .sessions
            .iter()
            .filter_map(|(key, session)| Some((session.away_since?, *key)))
            .min();
        let Some((_, key)) = oldest.filter(|(since, _)| *since <= now) else {
            return false;
        };
        self.remove_session(key);
        true
    }

    /// The session of a client that comes, and whether it was there before.
    fn session_for(
        &mut self,
        now: Instant,
        client: Arc<str>,
        user: Option<Arc<str>>,
        clean: bool,
    ) -> (SessionKey, bool) {
        if let Some(key) = self.names.get(&client).copied() {
            if let Some(old) = self.sessions.get(&key).and_then(|session| session.connection) {
                self.end(now, old, CloseReason::TakenOver);
            }
            // A clean session ended with its connection. A session of another user is not handed over, but removed.
            let same = self.sessions.get(&key).is_some_and(|session| session.user == user);
            if same && !clean {
                return (key, true);
            }
            self.remove_session(key);
        }
        if !clean {
            self.store(Op::Session {
                client: client.clone(),
                user: user.clone(),
            });
        }
        (self.new_session(client, user, clean), false)
    }

    pub(super) fn new_session(&mut self, client: Arc<str>, user: Option<Arc<str>>, clean: bool) -> SessionKey {
        let key = self.next_key;
        self.next_key += 1;
        self.names.insert(client.clone(), key);
        self.sessions.insert(key, Session::new(client, user, clean));
        key
    }

    fn remove_session(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.remove(&key) else {
            return;
        };
        self.names.remove(&session.client);
        for filter in session.subscriptions.keys() {
            self.subscriptions.remove(filter, &key);
        }
        let (count, bytes) = session.held();
        self.counters.queued -= count;
        self.counters.queued_bytes -= bytes;
        if !session.clean {
            self.store(Op::Gone(session.client));
        }
    }

    /// Ends a connection from this side.
    pub(super) fn end(&mut self, now: Instant, id: ConnectionId, reason: CloseReason) {
        self.close(id, reason);
        self.forget(now, id);
    }

    /// The connection is no more: its will is published, its session left alone or, a clean one, removed.
    pub(super) fn forget(&mut self, now: Instant, id: ConnectionId) {
        let Some(connected) = self.connections.remove(&id) else {
            return;
        };
        if let Some(session) = self.sessions.get_mut(&connected.session) {
            session.connection = None;
            session.away_since = Some(now);
            if session.clean {
                self.remove_session(connected.session);
            }
        }
        if let Some(will) = connected.will {
            let publish = last_message(will);
            self.out.push(Output::Accepted(publish.clone()));
            self.route(publish);
        }
    }

    fn close(&mut self, connection: ConnectionId, reason: CloseReason) {
        self.out.push(Output::Close { connection, reason });
    }
}

fn last_message(will: Will) -> Publish {
    Publish {
        topic: will.topic,
        payload: will.payload,
        qos: will.qos,
        retain: will.retain,
        dup: false,
        id: None,
    }
}

const fn answer(code: ConnectCode, session_present: bool) -> Packet {
    Packet::ConnAck { session_present, code }
}
