//! Opening the socket: TCP, and TLS on it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use common::tls::client::{ClientTlsError, Identity, certificates, client_config, private_key, unverified_config};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tracing::warn;

use super::TlsFiles;
use super::server::Server;

/// How long the broker may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection of either kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// Knows how to reach the broker.
pub(super) struct Dialler {
    server: Server,
    tls: Option<TlsFiles>,
}

impl Dialler {
    pub(super) fn new(server: Server, tls: Option<TlsFiles>) -> Self {
        if server.tls && tls.is_none() {
            warn!(
                host = server.host,
                "the MQTT broker is not verified: TLS without modules.eventBus.eventBusTLS trusts any server, as in the Go edge"
            );
        }
        Self { server, tls }
    }

    /// Connects. Files are read each time: a renewed certificate needs no restart.
    pub(super) async fn dial(&self) -> io::Result<Box<dyn Stream>> {
        tokio::time::timeout(TIMEOUT, self.connect()).await.unwrap_or_else(|_| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer in {TIMEOUT:?}"),
            ))
        })
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let Server { host, port, tls } = &self.server;
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        stream.set_nodelay(true)?;
        if !tls {
            return Ok(Box::new(stream));
        }
        let config = self.config().map_err(|error| io::Error::other(common::chain(&error)))?;
        let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        Ok(Box::new(stream))
    }

    fn config(&self) -> Result<ClientConfig, ClientTlsError> {
        let Some(files) = &self.tls else {
            return unverified_config();
        };
        let identity = Identity {
            chain: certificates(&files.certificate)?,
            key: private_key(&files.key)?,
        };
        client_config(&certificates(&files.ca)?, Some(identity))
    }
}
