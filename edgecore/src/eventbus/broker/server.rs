//! The listeners. An address that is taken, or a certificate that is not there yet, is told once and tried again.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use common::Tasks;
use common::tls::client::{ClientTlsError, certificates, private_key};
use common::tls::server::{ClientCertificates, certified_key, client_verifier_of, server_config};
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use super::connection::{self, Shared};
use super::core::ConnectionId;
use super::{StartError, TlsSettings};

/// Between two tries to listen.
const RETRY: Duration = Duration::from_secs(5);
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Where to listen and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) tls: bool,
    /// Host and port as written.
    pub(super) authority: String,
}

impl Address {
    /// Of a URL.
    pub(super) fn parse(url: &str) -> Result<Self, StartError> {
        let bad = || StartError::Address(url.to_owned());
        let (scheme, rest) = url.split_once("://").ok_or_else(bad)?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "tcp" | "mqtt" => false,
            "tls" | "mqtts" | "ssl" => true,
            _ => return Err(bad()),
        };
        let authority = rest.trim_end_matches('/');
        let (host, port) = authority.rsplit_once(':').ok_or_else(bad)?;
        if port.parse::<u16>().is_err() || host.contains('/') {
            return Err(bad());
        }
        let authority = if host.is_empty() {
            format!("[::]:{port}")
        } else {
            authority.to_owned()
        };
        Ok(Self { tls, authority })
    }

    /// Whether only this machine can come. A name other than localhost can lead anywhere.
    pub(super) fn is_loopback(&self) -> bool {
        let host = self.authority.rsplit_once(':').map_or("", |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// Listens until the process stops.
pub(super) async fn listen(
    address: Address,
    tls: TlsSettings,
    most: usize,
    shared: Arc<Shared>,
    bound: tokio::sync::watch::Sender<Vec<SocketAddr>>,
    tasks: Tasks,
) {
    let mut said = String::new();
    let (listeners, acceptor) = loop {
        match open(&address, &tls).await {
            Ok(opened) => break opened,
            Err(error) => {
                if error != said {
                    warn!(address = %address.authority, %error, "the MQTT broker cannot listen yet; tried again every 5 s");
                    said = error;
                }
            }
        }
        sleep(RETRY).await;
    };
    let places = listeners
        .iter()
        .filter_map(|listener| listener.local_addr().ok())
        .collect();
    info!(address = %address.authority, tls = address.tls, "the MQTT broker listens");
    bound.send_replace(places);
    let room = Arc::new(Semaphore::new(most));
    let next = Arc::new(AtomicU64::new(1));
    for listener in listeners {
        let door = Door {
            acceptor: acceptor.clone(),
            room: room.clone(),
            next: next.clone(),
            shared: shared.clone(),
            tasks: tasks.clone(),
        };
        tasks.spawn("mqtt-listener", async move { door.accept(listener).await });
    }
}

async fn open(address: &Address, tls: &TlsSettings) -> Result<(Vec<TcpListener>, Option<TlsAcceptor>), String> {
    let acceptor = if address.tls {
        let config = tls_config(tls).map_err(|error| common::chain(&error))?;
        Some(TlsAcceptor::from(Arc::new(config)))
    } else {
        None
    };
    let found = tokio::net::lookup_host(&address.authority)
        .await
        .map_err(|error| error.to_string())?;
    let mut listeners = Vec::new();
    let mut failure = None;
    for place in found {
        match common::listen::tcp(place) {
            Ok(listener) => listeners.push(listener),
            // A host without IPv6 has a localhost of it in /etc/hosts all the same.
            Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => failure = Some(error.to_string()),
            Err(error) => return Err(error.to_string()),
        }
    }
    if listeners.is_empty() {
        return Err(failure.unwrap_or_else(|| "the host has no address".to_owned()));
    }
    Ok((listeners, acceptor))
}

struct Door {
    acceptor: Option<TlsAcceptor>,
    room: Arc<Semaphore>,
    next: Arc<AtomicU64>,
    shared: Arc<Shared>,
    tasks: Tasks,
}

impl Door {
    async fn accept(self, listener: TcpListener) {
        let mut full = false;
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "the MQTT broker cannot accept a connection");
                    sleep(Duration::from_millis(200)).await;
                    continue;
                }
            };
            let Ok(place) = self.room.clone().try_acquire_owned() else {
                self.shared.metrics.refused.inc();
                if !std::mem::replace(&mut full, true) {
                    warn!(%peer, "an MQTT client was turned away: modules.eventBus.broker.limits.connections are there");
                }
                continue;
            };
            full = false;
            let id = ConnectionId(self.next.fetch_add(1, Ordering::Relaxed));
            let (acceptor, shared) = (self.acceptor.clone(), self.shared.clone());
            self.tasks.spawn("mqtt-client", async move {
                let _place = place;
                let _ = stream.set_nodelay(true);
                match acceptor {
                    None => connection::serve(stream, id, peer, None, &shared).await,
                    Some(acceptor) => secured(&acceptor, stream, id, peer, &shared).await,
                }
            });
        }
    }
}

async fn secured(acceptor: &TlsAcceptor, stream: TcpStream, id: ConnectionId, peer: SocketAddr, shared: &Shared) {
    let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            shared.metrics.refused.inc();
            info!(%peer, %error, "an MQTT client's TLS handshake failed");
            return;
        }
        Err(_) => {
            debug!(%peer, "an MQTT client's TLS handshake took too long");
            return;
        }
    };
    let (_, session) = stream.get_ref();
    let name = session.peer_certificates().and_then(<[_]>::first).and_then(common_name);
    connection::serve(stream, id, peer, name, shared).await;
}

fn common_name(certificate: &CertificateDer<'_>) -> Option<Arc<str>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?;
    name.as_str().ok().map(Arc::from)
}

#[derive(Debug, thiserror::Error)]
enum TlsError {
    #[error(transparent)]
    File(#[from] ClientTlsError),
    #[error("certificate and key do not belong together")]
    Key(#[source] rustls::Error),
    #[error("no TLS with these files")]
    Config(#[from] common::tls::server::ServerTlsError),
}

fn tls_config(settings: &TlsSettings) -> Result<ServerConfig, TlsError> {
    let clients = match &settings.client_ca {
        None => ClientCertificates::None,
        Some(ca) => ClientCertificates::Required(client_verifier_of(&certificates(ca)?)?),
    };
    let files = Files {
        certificate: settings.certificate.clone(),
        key: settings.key.clone(),
        current: Mutex::new((None, read(&settings.certificate, &settings.key)?)),
    };
    Ok(server_config(Arc::new(files), clients)?)
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, TlsError> {
    certified_key(certificates(certificate)?, &private_key(key)?).map_err(TlsError::Key)
}

/// The certificate of the files, read again when they have changed: a renewed one needs no restart.
#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    current: Mutex<(Option<SystemTime>, Arc<CertifiedKey>)>,
}

impl ResolvesServerCert for Files {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let changed = std::fs::metadata(&self.certificate)
            .and_then(|data| data.modified())
            .ok();
        let mut current = self.current.lock();
        if current.0 != changed {
            match read(&self.certificate, &self.key) {
                Ok(key) => *current = (changed, key),
                // Half of a renewal: the key follows.
                Err(error) => debug!(error = %common::chain(&error), "the MQTT broker keeps its certificate"),
            }
        }
        Some(current.1.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (url, tls, authority, loopback) in [
            ("tcp://127.0.0.1:1883", false, "127.0.0.1:1883", true),
            ("mqtt://localhost:1883/", false, "localhost:1883", true),
            ("MQTTS://[::1]:8883", true, "[::1]:8883", true),
            ("tls://0.0.0.0:8883", true, "0.0.0.0:8883", false),
            ("tcp://:1883", false, "[::]:1883", false),
            ("tcp://board:1883", false, "board:1883", false),
        ] {
            let address = Address::parse(url).expect(url);
            assert_eq!((address.tls, address.authority.as_str()), (tls, authority));
            assert_eq!(address.is_loopback(), loopback, "{url}");
        }
        for bad in [
            "127.0.0.1:1883",
            "ws://127.0.0.1:1883",
            "tcp://127.0.0.1",
            "tcp://a:b",
            "tcp://a/b:1",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
