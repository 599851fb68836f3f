//! UDP, QUIC, the greeting (`proto::quic`).

use std::io;
use std::time::Duration;

use common::line::LineError;
use common::line::quic::{self, DialError as QuicDialError};
use proto::features::{FEATURES_HEADER, Features};
use proto::quic::Hello;
use rustls::ClientConfig;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Connection, DialError, Target, host_port, words};

/// How long one attempt may take. After that another one is likelier to get through: its packets are not spaced out yet.
pub(super) const ATTEMPT: Duration = Duration::from_secs(4);

/// Attempts until one succeeds, is refused, or the time is over.
pub(super) async fn insist(target: &Target, server: &str, tls: &ClientConfig) -> Result<Connection, DialError> {
    let until = Instant::now() + target.timeout;
    let insisting = async {
        loop {
            match dial(target, server, tls).await {
                Err(DialError::Timeout(_)) => {}
                outcome => return outcome,
            }
        }
    };
    timeout_at(until, insisting)
        .await
        .unwrap_or_else(|_| Err(DialError::Timeout(server.to_owned())))
}

pub(super) async fn dial(target: &Target, server: &str, tls: &ClientConfig) -> Result<Connection, DialError> {
    let (host, port) = host_port("quic.server", server)?;
    let hello = Hello {
        headers: target.headers().map(|(name, value)| (name.to_owned(), value)).into(),
    };
    let unreachable = |error| DialError::Unreachable(server.to_owned(), error);
    let attempt = async {
        let mut found = tokio::net::lookup_host((host, port)).await.map_err(unreachable)?;
        let nowhere = || unreachable(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        let remote = found.next().ok_or_else(nowhere)?;
        let dialled = quic::dial(remote, host, tls.clone(), &hello).await;
        dialled.map_err(|error| dial_error(server, error))
    };
    let (line, welcome, path) = timeout(ATTEMPT, attempt)
        .await
        .unwrap_or_else(|_| Err(DialError::Timeout(server.to_owned())))?;
    let theirs = welcome.headers.get(FEATURES_HEADER).map_or("", String::as_str);
    Ok(Connection {
        line: Box::new(line),
        features: Features::OURS.common(Features::parse(theirs)),
        path: Some(path),
        server: server.to_owned(),
    })
}

fn dial_error(server: &str, error: QuicDialError) -> DialError {
    match error {
        QuicDialError::Tls(source) => DialError::tls(server, io::Error::other(source)),
        QuicDialError::Refused(welcome) => DialError::Refused {
            address: server.to_owned(),
            status: welcome.status,
            text: words(&welcome.text),
        },
        QuicDialError::Line(LineError::Broken(_)) => DialError::Timeout(server.to_owned()),
        error => DialError::Quic(server.to_owned(), Box::new(error)),
    }
}
