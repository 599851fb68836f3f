//! Reaching the cloud: TCP, TLS, the upgrade (spec 01 §3).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use common::tls::client::{ClientTlsError, client_config};
use futures::stream::{FuturesUnordered, StreamExt as _};
use proto::MAX_MESSAGE;
use proto::features::{FEATURES_HEADER, Features};
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::certificate::{Usable, tls_hint};

/// While nobody answers, another attempt starts beside those that wait: the kernel would repeat its own ever more rarely, and a link
/// that is back would stay unused.
const BESIDE: Duration = Duration::from_secs(1);
/// Attempts that wait at the same time.
const MAX_BESIDE: usize = 8;
/// What the WebSocket reads ahead: the default of 128 KiB would be most of the memory of an idle edge.
const READ_BUFFER: usize = 1024;

/// An open connection.
pub(super) type Socket = WebSocketStream<Counted<TlsStream<TcpStream>>>;

/// Whom to dial, and as whom.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// `websocket.server`.
    pub(super) server: String,
    /// `projectID`.
    pub(super) project: String,
    /// This node.
    pub(super) node: proto::NodeName,
    /// `websocket.handshakeTimeout`.
    pub(super) timeout: Duration,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub(super) enum DialError {
    /// `websocket.server` is no address.
    #[error("modules.edgeHub.websocket.server {0:?} is not of the form host:port")]
    Address(String),
    /// Nobody there.
    #[error("cannot reach cloudcore at {0}")]
    Unreachable(String, #[source] io::Error),
    /// Nobody there in time.
    #[error("cloudcore at {0} cannot be reached")]
    Timeout(String),
    /// TLS failed.
    #[error("no TLS connection to cloudcore at {address}{hint}")]
    Tls {
        /// Whom.
        address: String,
        /// What to look at.
        hint: &'static str,
        /// What TLS says.
        #[source]
        source: io::Error,
    },
    /// The upgrade was refused.
    #[error("cloudcore at {address} refuses this node: {status} {text}")]
    Refused {
        /// Whom.
        address: String,
        /// The HTTP status.
        status: u16,
        /// Its words.
        text: String,
    },
    /// Anything else about WebSocket.
    #[error("no WebSocket connection to cloudcore at {0}")]
    WebSocket(String, #[source] Box<WsError>),
    /// No TLS configuration.
    #[error(transparent)]
    Config(#[from] ClientTlsError),
}

impl DialError {
    /// Whether the cloud did not even hear of the attempt: such may be repeated without a pause.
    pub(super) const fn is_silent(&self) -> bool {
        matches!(self, Self::Timeout(_))
    }
}

/// Dials. Returns the connection, what both sides can, and a counter of what was read.
pub(super) async fn dial(target: &Target, usable: Usable) -> Result<(Socket, Features, Arc<AtomicU64>), DialError> {
    let address = target.server.as_str();
    let wrong = || DialError::Address(target.server.clone());
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.trim_matches(['[', ']']);
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| wrong())?;
    let config = client_config(&usable.roots, Some(usable.identity))?;
    let late = |_| DialError::Timeout(address.to_owned());

    let stream = tokio::time::timeout(target.timeout, tcp(host, port))
        .await
        .map_err(late)?;
    let stream = stream.map_err(|error| DialError::Unreachable(address.to_owned(), error))?;
    // Acknowledgements are small and the cloud waits for them.
    let _ = stream.set_nodelay(true);
    tokio::time::timeout(target.timeout, upgrade(target, config, name, stream))
        .await
        .map_err(late)?
}

async fn upgrade(
    target: &Target,
    config: rustls::ClientConfig,
    name: ServerName<'static>,
    stream: TcpStream,
) -> Result<(Socket, Features, Arc<AtomicU64>), DialError> {
    let address = &target.server;
    let tls = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|source| DialError::Tls {
            address: address.clone(),
            hint: tls_hint(&source),
            source,
        })?;
    let read = Arc::new(AtomicU64::new(0));
    let counted = Counted {
        stream: tls,
        read: read.clone(),
    };
    let failed = |error: WsError| match error {
        WsError::Http(response) => DialError::Refused {
            address: address.clone(),
            status: response.status().as_u16(),
            text: response.body().as_deref().map(words).unwrap_or_default(),
        },
        // With TLS 1.3 a refused client certificate shows at the first read.
        WsError::Io(source) => DialError::Tls {
            address: address.clone(),
            hint: tls_hint(&source),
            source,
        },
        other => DialError::WebSocket(address.clone(), Box::new(other)),
    };
    let url = format!("wss://{address}/{}/{}/events", target.project, target.node);
    let mut request = url.into_client_request().map_err(failed)?;
    let headers = [
        ("Node_id", target.node.to_string()),
        ("Project_id", target.project.clone()),
        ("ConnectionUse", "msg".to_owned()),
        (FEATURES_HEADER, Features::OURS.to_string()),
    ];
    for (header, value) in headers {
        let header = http::HeaderName::from_bytes(header.as_bytes());
        if let (Ok(header), Ok(value)) = (header, http::HeaderValue::from_str(&value)) {
            request.headers_mut().insert(header, value);
        }
    }
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let (socket, response) = tokio_tungstenite::client_async_with_config(request, counted, Some(config))
        .await
        .map_err(failed)?;
    let theirs = response
        .headers()
        .get(FEATURES_HEADER)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    Ok((socket, Features::OURS.common(Features::parse(theirs)), read))
}

/// Connects; while nobody answers, more attempts start. A refusal ends it, silence and missing routes do not.
async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut attempts = FuturesUnordered::new();
    attempts.push(TcpStream::connect((host, port)));
    let mut next = tokio::time::interval_at(tokio::time::Instant::now() + BESIDE, BESIDE);
    loop {
        tokio::select! {
            Some(outcome) = attempts.next() => match outcome {
                Ok(stream) => return Ok(stream),
                Err(error) if matches!(
                    error.kind(),
                    io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable | io::ErrorKind::TimedOut
                ) => {}
                Err(error) => return Err(error),
            },
            _ = next.tick() => {
                if attempts.len() < MAX_BESIDE {
                    attempts.push(TcpStream::connect((host, port)));
                }
            }
        }
    }
}

fn words(body: &[u8]) -> String {
    String::from_utf8_lossy(body)
        .chars()
        .take(200)
        .filter(|c| !c.is_control())
        .collect()
}

/// A stream that counts what is read from it: a large message that comes slowly is a sign of life too.
#[derive(Debug)]
pub(super) struct Counted<S> {
    stream: S,
    read: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        let count = buffer.filled().len().saturating_sub(before);
        if count > 0 {
            self.read
                .fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
