//! Reaching the cloud, by whichever way is open.
//!
//! With `quic.enable: true` QUIC is tried first and WebSocket a little later beside it, so that a network that swallows UDP costs a
//! moment and no more.

mod quic;
mod websocket;

use std::io;
use std::time::Duration;

use common::line::quic::Path;
use common::line::{Line, quic as line_quic};
use common::tls::client::{ClientTlsError, without_time};
use proto::features::{FEATURES_HEADER, Features};
use rustls::ClientConfig;
use thiserror::Error;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Error as WsError;
use tracing::debug;

use super::certificate::tls_hint;

/// How long QUIC is tried alone.
pub(super) const HEAD_START: Duration = Duration::from_millis(1500);

/// An open connection.
pub(super) struct Connection {
    pub(super) line: Box<dyn Line>,
    /// What both sides can.
    pub(super) features: Features,
    /// Of a connection over QUIC.
    pub(super) path: Option<Path>,
    /// Whom it leads to.
    pub(super) server: String,
}

impl Connection {
    pub(super) const fn transport(&self) -> &'static str {
        if self.path.is_some() { "quic" } else { "websocket" }
    }
}

/// Whom to dial, and as whom.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// `websocket.server`, where that is enabled.
    pub(super) websocket: Option<String>,
    /// `quic.server`, where that is enabled.
    pub(super) quic: Option<String>,
    /// `projectID`.
    pub(super) project: String,
    /// This node.
    pub(super) node: proto::NodeName,
    /// `websocket.handshakeTimeout`.
    pub(super) timeout: Duration,
}

impl Target {
    /// The headers that tell the cloud who comes (spec 01 §3.1).
    fn headers(&self) -> [(&'static str, String); 4] {
        [
            ("Node_id", self.node.to_string()),
            ("Project_id", self.project.clone()),
            ("ConnectionUse", "msg".to_owned()),
            (FEATURES_HEADER, Features::OURS.to_string()),
        ]
    }
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub(super) enum DialError {
    /// `websocket.server` or `quic.server` is no address.
    #[error("modules.edgeHub.{key} {value:?} is not of the form host:port")]
    Address {
        /// Which.
        key: &'static str,
        /// What it is.
        value: String,
    },
    /// Nobody there.
    #[error("cannot reach cloudcore at {0}")]
    Unreachable(String, #[source] io::Error),
    /// No answer in time, or a QUIC connection that broke before there was one.
    #[error("cloudcore at {0} does not answer")]
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
    /// Anything else about QUIC.
    #[error("no QUIC connection to cloudcore at {0}")]
    Quic(String, #[source] Box<line_quic::DialError>),
    /// No TLS configuration.
    #[error(transparent)]
    Config(#[from] ClientTlsError),
}

impl DialError {
    /// Whether the cloud did not even hear of the attempt: such may be repeated without a pause.
    pub(super) const fn is_silent(&self) -> bool {
        matches!(self, Self::Timeout(_))
    }

    fn tls(address: &str, source: io::Error) -> Self {
        Self::Tls {
            address: address.to_owned(),
            hint: tls_hint(&source),
            source: without_time(source),
        }
    }
}

/// Dials by all ways that are enabled; the first that stands is taken. QUIC has a head start.
pub(super) async fn dial(target: &Target, tls: &ClientConfig, head_start: Duration) -> Result<Connection, DialError> {
    let Some(server) = &target.quic else {
        return websocket::dial(target, tls.clone()).await;
    };
    let quic = quic::insist(target, server, tls);
    if target.websocket.is_none() {
        return quic.await;
    }
    first(quic, websocket::dial(target, tls.clone()), head_start).await
}

/// The first of both that stands; WebSocket starts later, or as soon as QUIC failed. What is wrong with one need not be wrong with the
/// other.
async fn first<T>(
    quic: impl Future<Output = Result<T, DialError>>,
    websocket: impl Future<Output = Result<T, DialError>>,
    head_start: Duration,
) -> Result<T, DialError> {
    let failed = |error: &DialError| debug!(error = common::chain(error), "no QUIC");
    tokio::pin!(quic, websocket);
    match timeout(head_start, &mut quic).await {
        Ok(Ok(connection)) => return Ok(connection),
        Ok(Err(error)) => {
            failed(&error);
            return websocket.await;
        }
        Err(_) => {}
    }
    let refused = tokio::select! {
        outcome = &mut quic => match outcome {
            Ok(connection) => return Ok(connection),
            Err(error) => {
                failed(&error);
                return websocket.await;
            }
        },
        outcome = &mut websocket => match outcome {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        },
    };
    // A closed port answers at once. The attempt by QUIC that is under way still gets its time, and no more: WebSocket is tried again.
    match timeout(quic::ATTEMPT, quic).await {
        Ok(Ok(connection)) => return Ok(connection),
        Ok(Err(error)) => failed(&error),
        Err(_) => debug!("no QUIC in time"),
    }
    Err(refused)
}

/// Dials by QUIC, once.
pub(super) async fn dial_quic(target: &Target, server: &str, tls: &ClientConfig) -> Result<Connection, DialError> {
    quic::dial(target, server, tls).await
}

/// Host and port of a configured server.
fn host_port<'a>(key: &'static str, value: &'a str) -> Result<(&'a str, u16), DialError> {
    let wrong = || DialError::Address {
        key,
        value: value.to_owned(),
    };
    let (host, port) = value.rsplit_once(':').ok_or_else(wrong)?;
    Ok((host.trim_matches(['[', ']']), port.parse().map_err(|_| wrong())?))
}

/// Words of the cloud, as far as they can be shown.
fn words(text: &str) -> String {
    text.chars().take(200).filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    async fn after<T>(millis: u64, outcome: T) -> T {
        sleep(Duration::from_millis(millis)).await;
        outcome
    }

    fn refused() -> Result<&'static str, DialError> {
        let closed = io::ErrorKind::ConnectionRefused.into();
        Err(DialError::Unreachable("websocket".into(), closed))
    }

    fn silence() -> Result<&'static str, DialError> {
        Err(DialError::Timeout("quic".into()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_port_does_not_end_a_slow_attempt_by_quic() {
        for head_start in [HEAD_START, Duration::ZERO] {
            let connection = first(after(3000, Ok("quic")), after(5, refused()), head_start).await;
            assert_eq!(connection.ok(), Some("quic"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn when_both_fail_it_is_told_why_there_is_no_websocket() {
        let error = first(after(3000, silence()), after(5, refused()), HEAD_START).await;
        assert!(matches!(error, Err(DialError::Unreachable(..))), "{error:?}");
        // A network that swallows UDP does not keep WebSocket from being tried again for long.
        let began = Instant::now();
        let error = first(std::future::pending(), after(5, refused()), HEAD_START).await;
        assert!(matches!(error, Err(DialError::Unreachable(..))), "{error:?}");
        assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn websocket_comes_after_the_head_start_or_when_quic_failed() {
        for (failed_at, wanted) in [(100, 105), (60_000, 1505)] {
            let began = Instant::now();
            let connection = first(after(failed_at, silence()), after(5, Ok("websocket")), HEAD_START).await;
            assert_eq!(connection.ok(), Some("websocket"));
            let took = began.elapsed().as_millis();
            assert!(took.abs_diff(wanted) <= 10, "{took} ms");
        }
        let connection = first(after(2000, Ok("quic")), after(9000, refused()), HEAD_START).await;
        assert_eq!(connection.ok(), Some("quic"));
        // The other way round: what QUIC fails with does not end WebSocket.
        let connection = first(after(2000, silence()), after(9000, Ok("websocket")), HEAD_START).await;
        assert_eq!(connection.ok(), Some("websocket"));
    }
}
