//! TCP, TLS, the upgrade (spec 01 §3).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use common::line::websocket::{self, Counted, WebSocketLine};
use futures::stream::{FuturesUnordered, StreamExt as _};
use proto::features::{FEATURES_HEADER, Features};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::{Connection, DialError, Target, host_port, words};

/// While nobody answers, another attempt starts beside those that wait: the kernel would repeat its own ever more rarely, and a link
/// that is back would stay unused.
const BESIDE: Duration = Duration::from_secs(1);
/// How long an attempt waits. Then it makes room for a new one: there is one each second for as long as it takes.
const PATIENCE: Duration = Duration::from_secs(8);

pub(super) async fn dial(target: &Target, tls: ClientConfig) -> Result<Connection, DialError> {
    let address = target.websocket.as_deref().unwrap_or_default();
    let (host, port) = host_port("websocket.server", address)?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| DialError::Address {
        key: "websocket.server",
        value: address.to_owned(),
    })?;
    let late = |_| DialError::Timeout(address.to_owned());
    let stream = tokio::time::timeout(target.timeout, tcp(host, port))
        .await
        .map_err(late)?;
    let stream = stream.map_err(|error| DialError::Unreachable(address.to_owned(), error))?;
    websocket::tune(&stream);
    tokio::time::timeout(target.timeout, upgrade(target, address, tls, name, stream))
        .await
        .map_err(late)?
}

async fn upgrade(
    target: &Target,
    address: &str,
    config: ClientConfig,
    name: ServerName<'static>,
    stream: TcpStream,
) -> Result<Connection, DialError> {
    let tls = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|source| DialError::tls(address, source))?;
    let failed = |error: WsError| match error {
        WsError::Http(response) => DialError::Refused {
            address: address.to_owned(),
            status: response.status().as_u16(),
            text: response
                .body()
                .as_deref()
                .map(|body| words(&String::from_utf8_lossy(body)))
                .unwrap_or_default(),
        },
        // With TLS 1.3 a refused client certificate shows at the first read.
        WsError::Io(source) => DialError::tls(address, source),
        other => DialError::WebSocket(address.to_owned(), Box::new(other)),
    };
    let url = format!("wss://{address}/{}/{}/events", target.project, target.node);
    let mut request = url.into_client_request().map_err(failed)?;
    for (header, value) in target.headers() {
        let header = http::HeaderName::from_bytes(header.as_bytes());
        if let (Ok(header), Ok(value)) = (header, http::HeaderValue::from_str(&value)) {
            request.headers_mut().insert(header, value);
        }
    }
    let (socket, response) =
        tokio_tungstenite::client_async_with_config(request, Counted::new(tls), Some(websocket::config()))
            .await
            .map_err(failed)?;
    let theirs = response
        .headers()
        .get(FEATURES_HEADER)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let features = Features::OURS.common(Features::parse(theirs));
    Ok(Connection {
        line: Box::new(WebSocketLine::new(socket, features.has_lanes())),
        features,
        path: None,
        server: address.to_owned(),
    })
}

/// Connects; while nobody answers, more attempts start. A refusal ends it, silence and missing routes do not.
async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut attempts = FuturesUnordered::new();
    attempts.push(attempt(host, port));
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
            _ = next.tick() => attempts.push(attempt(host, port)),
        }
    }
}

async fn attempt(host: &str, port: u16) -> io::Result<TcpStream> {
    let late = |_| Err(io::ErrorKind::TimedOut.into());
    tokio::time::timeout(PATIENCE, TcpStream::connect((host, port)))
        .await
        .unwrap_or_else(late)
}
