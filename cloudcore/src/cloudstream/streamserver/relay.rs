//! Bytes between a client and an edge: nothing is read but the first word of the answer (spec 04 §6).

use std::io;
use std::time::Duration;

use http::StatusCode;
use proto::NodeName;
use proto::tunnel::ConnectKind;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::time::timeout;
use tracing::debug;

use super::chunks::Chunks;
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
    /// It is a log: when it breaks, its last line says so.
    logs: bool,
}

impl Opening {
    pub(in crate::cloudstream) fn new(node: &NodeName, route: &Route, early: Vec<u8>) -> Self {
        Self {
            node: node.clone(),
            early,
            patience: route.patience,
            logs: route.go_kind == ConnectKind::Logs,
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

/// Passes bytes both ways until one side ends. Either end ends both: the client's at once, the edge's after its last byte. A stream that
/// breaks ends the client's connection without the end of TLS, so that a log that was cut does not look complete.
pub(in crate::cloudstream) async fn relay<C, E>(client: &mut C, edge: E, mut opening: Opening)
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
                copy(&mut client_read, &mut edge_write, None).await,
                Err(Broken::Writing(_))
            )
        {
            // The edge takes no more, but what it has said already goes out as long as the client stays.
            discard(&mut client_read).await;
        }
    };
    let mut chunks = opening.logs.then(Chunks::new);
    let down = async {
        if let Some(chunks) = &mut chunks {
            chunks.follow(&answer);
        }
        send(&mut client_write, answer).await.map_err(Broken::Writing)?;
        copy(&mut edge_read, &mut client_write, chunks.as_mut()).await
    };
    let ended = tokio::select! {
        // What the edge has sent goes out before the client's end is looked at.
        biased;
        ended = down => ended,
        () = up => return,
    };
    match ended {
        Ok(()) => {
            // The client may be gone already.
            let _ = client_write.shutdown().await;
        }
        Err(Broken::Reading(error)) => {
            debug!(node = %opening.node, %error, "a stream of an edge broke");
            let text = format!(
                "error: the log breaks off here: edge node {} lost its connection: {error}\n",
                opening.node
            );
            if let Some(line) = chunks.and_then(|chunks| chunks.last_line(&text)) {
                // The client may be gone already.
                let _ = send(&mut client_write, line.into_bytes()).await;
            }
        }
        Err(Broken::Writing(error)) => debug!(node = %opening.node, %error, "a client left"),
    }
}

/// Which side failed.
enum Broken {
    Reading(io::Error),
    Writing(io::Error),
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

/// Copies until the end, and has `chunks` look at what goes by; the buffer becomes large only where there is much to copy.
async fn copy<R, W>(from: &mut R, to: &mut W, mut chunks: Option<&mut Chunks>) -> Result<(), Broken>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; SMALL];
    loop {
        let length = from.read(&mut buffer).await.map_err(Broken::Reading)?;
        let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else {
            return Ok(());
        };
        if let Some(chunks) = &mut chunks {
            chunks.follow(bytes);
        }
        to.write_all(bytes).await.map_err(Broken::Writing)?;
        to.flush().await.map_err(Broken::Writing)?;
        if length == buffer.len() && length < LARGE {
            buffer = vec![0; LARGE];
        }
    }
}

/// How every answer of a kubelet begins.
const PROTOCOL: &[u8] = b"HTTP/1.";
/// Bytes of a client that are held back until the edge has answered.
const HELD: usize = 64 * 1024;
/// A buffer for keystrokes and lines, ...
const SMALL: usize = 4 * 1024;
/// ... and one for files.
const LARGE: usize = 128 * 1024;

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
