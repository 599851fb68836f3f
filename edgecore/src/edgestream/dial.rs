//! Reaching the cloud's tunnel server: TCP, TLS, the upgrade (spec 04 §2, §8).

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use common::tls::client::{ClientTlsError, cloud_config_any_name, without_time};
use proto::Features;
use proto::tunnel::upgrade::{Answer, MAX_HEAD, Refused, Upgrade};
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Settings;
use crate::edgehub::Usable;

/// A cloud that can be reached answers sooner; one that cannot is dialled anew rather than waited for.
const CONNECT: Duration = Duration::from_secs(5);

/// Why there is no tunnel.
#[derive(Debug, Error)]
pub(super) enum DialError {
    #[error("modules.edgeStream.server {0:?} is not of the form host:port")]
    Address(String),
    #[error(
        "cannot reach cloudcore's tunnel at {0} (modules.edgeStream.server; modules.cloudStream.enable in cloudcore.yaml)"
    )]
    Unreachable(String, #[source] io::Error),
    #[error("cloudcore's tunnel at {0} cannot be reached")]
    Timeout(String),
    #[error("no TLS connection to cloudcore's tunnel at {0}")]
    Tls(String, #[source] io::Error),
    #[error("cloudcore at {0} refuses this node's tunnel")]
    Refused(String, #[source] Refused),
    #[error(transparent)]
    Config(#[from] ClientTlsError),
}

/// A tunnel about to begin.
pub(super) struct Connection {
    pub(super) io: TlsStream<TcpStream>,
    /// What both sides have.
    pub(super) features: Features,
    /// Read behind the cloud's answer.
    pub(super) early: Vec<u8>,
    /// The cloud's certificate names somebody else.
    pub(super) name_mismatch: bool,
}

pub(super) async fn dial(settings: &Settings, address: IpAddr, identity: Usable) -> Result<Connection, DialError> {
    let server = settings.server.clone();
    let wrong = || DialError::Address(server.clone());
    let late = |_| DialError::Timeout(server.clone());
    let (host, port) = server.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.trim_matches(['[', ']']);
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| wrong())?;
    let (config, mismatch) = cloud_config_any_name(&identity.roots, Some(identity.identity))?;

    let limit = CONNECT.min(settings.handshake_timeout);
    let stream = timeout(limit, TcpStream::connect((host, port))).await.map_err(late)?;
    let stream = stream.map_err(|error| DialError::Unreachable(server.clone(), error))?;
    common::tunnel::tune(&stream);
    let upgrade = Upgrade {
        node: settings.node.to_string(),
        internal_ip: Some(address.to_string()),
        features: Features::TUNNEL,
    };
    let shake = async {
        let failed = |error| DialError::Tls(server.clone(), without_time(error));
        let connector = TlsConnector::from(Arc::new(config));
        let mut io = connector.connect(name, stream).await.map_err(failed)?;
        let key = uuid::Uuid::new_v4().into_bytes();
        // With TLS 1.3 a refused client certificate shows at the first read.
        io.write_all(upgrade.request(&server, key).as_bytes())
            .await
            .map_err(failed)?;
        io.flush().await.map_err(failed)?;
        let mut read = Vec::new();
        let answer = loop {
            if let Some(answer) =
                Answer::read(&read, key, upgrade.features).map_err(|error| DialError::Refused(server.clone(), error))?
            {
                break answer;
            }
            if io.read_buf(&mut read).await.map_err(failed)? == 0 || read.len() > MAX_HEAD {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
        };
        let early = read.split_off(answer.length);
        Ok((io, answer.features, early))
    };
    let (io, features, early) = timeout(settings.handshake_timeout, shake).await.map_err(late)??;
    Ok(Connection {
        io,
        features,
        early,
        name_mismatch: mismatch.is_set(),
    })
}
