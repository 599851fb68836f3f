//! Bytes between a client and an edge: nothing is read but the first word of the answer (spec 04 §6).

use std::io;
use std::time::Duration;

use http::StatusCode;
use proto::NodeName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::lastword::{Form, LastWord};
use super::refusal::Refusal;
use super::refuse;
use super::route::Route;

/// How an exchange begins.
pub(in crate::cloudstream) struct Opening {
    pub(super) node: NodeName,
    /// What the client sent after the head. It is held back until the edge has answered: a Go edge drops what overtakes the opening of
    /// its stream (spec 04 §5.2).
    pub(super) early: Vec<u8>,
    /// How long the first byte may take.
    pub(super) patience: Option<Duration>,
    /// How the client is told when the stream breaks.
    pub(super) last_word: Form,
}

impl Opening {
    pub(in crate::cloudstream) fn new(node: &NodeName, route: &Route, early: Vec<u8>) -> Self {
        Self {
            node: node.clone(),
            early,
            patience: route.patience,
            last_word: route.last_word,
        }
    }
}

/// The beginning of an answer, or why there is none.
pub(super) enum First {
    Bytes(Vec<u8>),
    /// The edge ended the stream without a byte.
    Nothing,
    ClientLeft,
    Refused(Refusal),
}

/// Passes bytes both ways until one side ends. Either end ends both: the client's at once, the edge's after its last byte, and the client
/// has time to take that. A stream that breaks, or that cloudcore's own end (`stop`) breaks, ends with a word about it; where none is
/// possible, without the end of TLS, so that what was cut does not look complete.
pub(in crate::cloudstream) async fn relay<C, E>(client: &mut C, edge: E, mut opening: Opening, stop: &CancellationToken)
where
    C: AsyncRead + AsyncWrite + Unpin + Send,
    E: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut edge_read, mut edge_write) = split(edge);
    let answer = match first(client, &mut edge_read, &mut opening, PROTOCOL.len()).await {
        First::Bytes(bytes) if bytes.starts_with(PROTOCOL) => bytes,
        First::Bytes(_) => return refuse(client, &opening.broken("answered something that is no HTTP/1.1")).await,
        First::Nothing => return refuse(client, &opening.broken("ended the request without an answer")).await,
        First::Refused(refusal) => return refuse(client, &refusal).await,
        First::ClientLeft => return,
    };
    let (mut client_read, mut client_write) = split(client);
    let early = std::mem::take(&mut opening.early);
    let up = async {
        let sent = send(&mut edge_write, early).await;
        if sent.is_err()
            || matches!(
                copy(&mut client_read, &mut edge_write, &mut LastWord::new(Form::None)).await,
                Err(Broken::Writing(_))
            )
        {
            // The edge takes no more, but what it has said already goes out as long as the client stays.
            discard(&mut client_read).await;
        }
    };
    let mut last_word = LastWord::new(opening.last_word);
    let down = async {
        last_word.follow(&answer);
        send(&mut client_write, answer).await.map_err(Broken::Writing)?;
        copy(&mut edge_read, &mut client_write, &mut last_word).await
    };
    let ended = tokio::select! {
        // In this order (`biased`): the stop first, as the tunnel ends with cloudcore; then what the edge has sent, before the client's end
        // is looked at.
        biased;
        () = stop.cancelled() => Err(Broken::Stopping),
        ended = down => ended,
        () = up => return,
    };
    drop((edge_read, edge_write));
    let why = match ended {
        // The runtime has stopped, or reset the connection over input that it did not take any more.
        Ok(()) if last_word.is_open() => Some(format!("the stream of edge node {} broke off", opening.node)),
        Ok(()) => None,
        Err(Broken::Writing(error)) => return debug!(node = %opening.node, %error, "a client left"),
        Err(Broken::Reading(error)) => {
            debug!(node = %opening.node, %error, "a stream of an edge broke");
            Some(format!("edge node {} lost its connection: {error}", opening.node))
        }
        Err(Broken::Stopping) => Some("this cloudcore stops".to_owned()),
    };
    if let Some(why) = why {
        let Some(bytes) = last_word.bytes(&why) else { return };
        if send(&mut client_write, bytes).await.is_err() {
            return;
        }
    }
    // What a client sends while it has not read everything, a ping as a rule, must not meet a closed socket: that would answer with a
    // reset, and the rest would be lost. A client of SPDY knows from the frames when it is done. Until it has gone it is told no end,
    // because an API server closes its own client's connection at once, in the same manner.
    if last_word.said_goodbye() {
        tokio::select! {
            left = timeout(LEAVE, discard(&mut client_read)) => if left.is_ok() {
                return;
            },
            () = stop.cancelled() => {}
        }
    }
    // The client may be gone already.
    if client_write.shutdown().await.is_ok() {
        let _ = timeout(LINGER, discard(&mut client_read)).await;
    }
}

/// Why no more is copied.
enum Broken {
    Reading(io::Error),
    Writing(io::Error),
    Stopping,
}

async fn send(to: &mut (impl AsyncWrite + Unpin), bytes: Vec<u8>) -> io::Result<()> {
    to.write_all(&bytes).await?;
    to.flush().await
}

/// Reads until the end.
pub(super) async fn discard(from: &mut (impl AsyncRead + Unpin)) {
    let mut nothing = [0; 512];
    while from.read(&mut nothing).await.is_ok_and(|length| length > 0) {}
}

/// Waits for the first bytes of the answer, at least so many, while the client is listened to.
pub(super) async fn first<C, R>(client: &mut C, edge: &mut R, opening: &mut Opening, least: usize) -> First
where
    C: AsyncRead + Unpin,
    R: AsyncRead + Unpin,
{
    let mut answer = Vec::with_capacity(SMALL);
    let patience = opening.patience;
    let waiting = async {
        while answer.len() < least {
            tokio::select! {
                read = edge.read_buf(&mut answer) => match read {
                    Ok(0) if answer.is_empty() => return First::Nothing,
                    Ok(0) => return First::Bytes(std::mem::take(&mut answer)),
                    Ok(_) => {}
                    Err(error) => {
                        let text = format!("lost its connection to this cloudcore: {error}");
                        return First::Refused(opening.broken(&text));
                    }
                },
                read = client.read_buf(&mut opening.early), if opening.early.len() < HELD => match read {
                    Ok(0) | Err(_) => return First::ClientLeft,
                    Ok(_) => {}
                },
            }
        }
        First::Bytes(std::mem::take(&mut answer))
    };
    let Some(limit) = patience else { return waiting.await };
    match timeout(limit, waiting).await {
        Ok(first) => first,
        Err(_) => {
            let text = format!("edge node {} did not answer within {limit:?}", opening.node);
            First::Refused(Refusal::new(StatusCode::GATEWAY_TIMEOUT, text))
        }
    }
}

impl Opening {
    pub(super) fn broken(&self, what: &str) -> Refusal {
        Refusal::new(StatusCode::BAD_GATEWAY, format!("edge node {} {what}", self.node))
    }
}

/// Copies until the end, and has `last_word` look at what goes by; the buffer becomes large only where there is much to copy. A frame that
/// is there in part waits for its rest, unless it is larger than the buffer.
async fn copy<R, W>(from: &mut R, to: &mut W, last_word: &mut LastWord) -> Result<(), Broken>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; SMALL];
    let mut held = 0;
    loop {
        let free = buffer.get_mut(held..).unwrap_or_default();
        let length = from.read(free).await.map_err(Broken::Reading)?;
        let (full, filled) = (length == free.len(), held + length);
        let begun = last_word.follow(free.get(..length).unwrap_or_default());
        let waits = length > 0 && begun <= filled && !(begun == filled && full && filled >= LARGE);
        held = if waits { begun } else { 0 };
        last_word.hold(held);
        let bytes = buffer.get(..filled - held).unwrap_or_default();
        if !bytes.is_empty() {
            to.write_all(bytes).await.map_err(Broken::Writing)?;
            to.flush().await.map_err(Broken::Writing)?;
        }
        if length == 0 {
            return Ok(());
        }
        buffer.copy_within(filled - held..filled, 0);
        if full && buffer.len() < LARGE {
            buffer.resize(LARGE, 0);
        }
    }
}

/// How every answer of a kubelet begins.
const PROTOCOL: &[u8] = b"HTTP/1.";
/// Bytes of a client that are held back until the edge has answered.
const HELD: usize = 64 * 1024;
/// For a client of SPDY to take what was sent to it. Whoever waits for the connection's end instead gets it then.
const LEAVE: Duration = Duration::from_secs(300);
/// For all others once they are told the end, as somebody who reads a log page by page.
const LINGER: Duration = Duration::from_secs(3600);
/// A buffer for keystrokes and lines, ...
const SMALL: usize = 4 * 1024;
/// ... and one for files.
const LARGE: usize = 128 * 1024;

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
