//! One client's connection: bytes to packets and back. Ends with the client, with the broker's word, or with the process.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use proto::mqtt::{BadPacket, Connect, ConnectCode, Packet, decode};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{debug, info};

use super::core::ConnectionId;
use super::credentials::Users;
use super::link::{Credit, Link};
use super::metrics::Metrics;
use super::outbox::Outbox;

/// What a stranger may send before its CONNECT is understood: the longest one but for huge wills.
const FIRST_PACKET: usize = 128 * 1024;
/// How long the last packets of a connection may take.
const FLUSH: Duration = Duration::from_secs(5);
/// The least room to read into. An idle client has no more.
const READ: usize = 1024;
/// A longer buffer is given back when it is empty.
const KEEP: usize = 64 * 1024;

/// What connections tell the broker's task.
#[derive(Debug)]
pub(super) enum Input {
    /// A client that may come in.
    Connect(ConnectionId, Connect, Arc<Outbox>),
    /// A packet, with room for its message on the way to the process if the process wants it.
    Packet(ConnectionId, Packet, Credit),
    /// It is gone.
    Lost(ConnectionId),
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) link: Arc<Link>,
    pub(super) users: Users,
    pub(super) packet_limit: usize,
    pub(super) connect_deadline: Duration,
    pub(super) metrics: Metrics,
}

/// Why a connection ended.
#[derive(Debug, Error)]
pub(super) enum End {
    #[error("no CONNECT within the deadline")]
    NoConnect,
    #[error("its first packet is not CONNECT")]
    NotConnect,
    #[error("user name or password is wrong")]
    Credentials,
    #[error(transparent)]
    Packet(#[from] BadPacket),
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    #[error("it went without DISCONNECT")]
    Closed,
    #[error("the broker ended it")]
    ByBroker,
}

/// Serves a client until its end. `name` is what its certificate says, which is then who it is.
pub(super) async fn serve<S>(stream: S, id: ConnectionId, peer: SocketAddr, name: Option<Arc<str>>, shared: &Shared)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = Reader {
        stream: reader,
        buffer: BytesMut::new(),
        metrics: &shared.metrics,
    };
    let first = timeout(shared.connect_deadline, reader.first(shared)).await;
    let mut connect = match first.unwrap_or(Err(End::NoConnect)) {
        Ok(connect) => connect,
        Err(end) => {
            turn_away(&mut writer, &end).await;
            shared.metrics.refused.inc();
            info!(%peer, reason = %common::chain(&end), "an MQTT client was turned away");
            return;
        }
    };
    connect.user = match name {
        Some(name) => Some(name),
        // Without configured users nobody checks the name, so it must not count as one.
        None if shared.users.is_empty() => None,
        None => connect.user,
    };
    let outbox = Arc::new(Outbox::default());
    debug!(%peer, client = %connect.client, user = ?connect.user, "MQTT client connected");
    let client = connect.client.clone();
    let input = Input::Connect(id, connect, outbox.clone());
    if shared.inputs.send(input).await.is_err() {
        return;
    }
    let end = {
        let mut run = pin!(reader.run(id, &outbox, shared));
        tokio::select! {
            end = &mut run => end,
            end = write(&mut writer, &outbox, &shared.metrics) => match end {
                // It has left with something unread. What it said before, DISCONNECT too, is there still.
                End::Io(_) => {
                    let rest = async {
                        tokio::select! {
                            end = run => end,
                            () = discard(&outbox) => End::ByBroker,
                        }
                    };
                    timeout(FLUSH, rest).await.unwrap_or(end)
                }
                end => end,
            },
        }
    };
    // What was queued before the end still leaves: a refusal, the answer to a last message.
    if outbox.is_closing() {
        let _ = timeout(FLUSH, write(&mut writer, &outbox, &shared.metrics)).await;
    }
    let _ = timeout(FLUSH, writer.shutdown()).await;
    match &end {
        End::ByBroker | End::Closed | End::Io(_) => debug!(%peer, %client, reason = %end, "MQTT client gone"),
        end => {
            shared.metrics.refused.inc();
            info!(%peer, %client, reason = %common::chain(end), "an MQTT client's connection was ended");
        }
    }
    let _ = shared.inputs.send(Input::Lost(id)).await;
}

async fn turn_away(writer: &mut (impl AsyncWrite + Unpin), end: &End) {
    let code = match end {
        End::Credentials => ConnectCode::BadCredentials,
        End::Packet(BadPacket::Protocol { .. }) => ConnectCode::BadProtocol,
        _ => return,
    };
    let mut bytes = BytesMut::new();
    let refusal = Packet::ConnAck {
        session_present: false,
        code,
    };
    refusal.encode(&mut bytes);
    let send = async {
        writer.write_all(&bytes).await?;
        writer.shutdown().await
    };
    let _ = timeout(FLUSH, send).await;
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), outbox: &Outbox, metrics: &Metrics) -> End {
    let mut bytes = BytesMut::new();
    while outbox.fill(&mut bytes).await {
        if let Err(error) = writer.write_all(&bytes).await {
            return End::Io(error);
        }
        if let Err(error) = writer.flush().await {
            return End::Io(error);
        }
        metrics
            .bytes_sent
            .inc_by(u64::try_from(bytes.len()).unwrap_or_default());
        if bytes.capacity() > KEEP {
            bytes = BytesMut::new();
        } else {
            bytes.clear();
        }
    }
    End::ByBroker
}

/// Takes what nobody reads, until the broker ends the connection.
async fn discard(outbox: &Outbox) {
    let mut bytes = BytesMut::new();
    while outbox.fill(&mut bytes).await {
        bytes.clear();
    }
}

struct Reader<'a, R> {
    stream: R,
    buffer: BytesMut,
    metrics: &'a Metrics,
}

impl<R: AsyncRead + Unpin> Reader<'_, R> {
    async fn first(&mut self, shared: &Shared) -> Result<Connect, End> {
        match self.next(shared.packet_limit.min(FIRST_PACKET)).await? {
            Packet::Connect(connect) if shared.users.admit(&connect) => Ok(connect),
            Packet::Connect(_) => Err(End::Credentials),
            _ => Err(End::NotConnect),
        }
    }

    async fn run(&mut self, id: ConnectionId, outbox: &Outbox, shared: &Shared) -> End {
        loop {
            outbox.room().await;
            if outbox.is_closing() {
                return End::ByBroker;
            }
            let packet = match self.next(shared.packet_limit).await {
                Ok(packet) => packet,
                Err(end) => return end,
            };
            let credit = match &packet {
                Packet::Publish(publish) if shared.link.wants(&publish.topic) => shared.link.credit(publish).await,
                _ => Credit::default(),
            };
            let goodbye = packet == Packet::Disconnect;
            if shared.inputs.send(Input::Packet(id, packet, credit)).await.is_err() {
                return End::ByBroker;
            }
            if goodbye {
                // Nothing may follow; the broker closes when it has understood.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn next(&mut self, limit: usize) -> Result<Packet, End> {
        loop {
            if let Some(packet) = decode(&mut self.buffer, limit)? {
                return Ok(packet);
            }
            if self.buffer.is_empty() && self.buffer.capacity() > KEEP {
                self.buffer = BytesMut::new();
            }
            self.buffer.reserve(READ);
            let count = self.stream.read_buf(&mut self.buffer).await?;
            if count == 0 {
                return Err(End::Closed);
            }
            self.metrics
                .bytes_received
                .inc_by(u64::try_from(count).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    /// It has not read everything, so writing to it fails. What it said last is there still.
    #[tokio::test(start_paused = true)]
    async fn what_a_client_said_before_it_left_is_heard() {
        let (inputs, mut taken) = mpsc::channel(8);
        let (link, _received) = Link::new(Metrics::default());
        let shared = Shared {
            inputs,
            link,
            users: Users::default(),
            packet_limit: 1024,
            connect_deadline: FLUSH,
            metrics: Metrics::default(),
        };
        let (mut client, from_client) = duplex(1024);
        let (to_client, gone) = duplex(1024);
        drop(gone);
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let script = async {
            let connect = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a";
            client.write_all(connect).await.expect("sent");
            let Some(Input::Connect(_, _, outbox)) = taken.recv().await else {
                panic!("no CONNECT")
            };
            outbox.push(Packet::PingResp);
            tokio::time::sleep(Duration::from_secs(1)).await;
            client.write_all(b"\x30\x04\x00\x01ax\xe0\x00").await.expect("sent");
            let next = taken.recv().await;
            assert!(
                matches!(next, Some(Input::Packet(_, Packet::Publish(_), _))),
                "{next:?}"
            );
            let next = taken.recv().await;
            assert!(
                matches!(next, Some(Input::Packet(_, Packet::Disconnect, _))),
                "{next:?}"
            );
            outbox.close();
            let next = taken.recv().await;
            assert!(matches!(next, Some(Input::Lost(_))), "{next:?}");
        };
        let stream = tokio::io::join(from_client, to_client);
        tokio::join!(script, serve(stream, ConnectionId(1), peer, None, &shared));
    }
}
