//! Who may use the endpoint: the holder of a certificate of one CA with one of a few names. Edges have certificates of CloudHub's CA
//! too, therefore the name counts as much as the CA.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use common::tls::client::{ClientTlsError, certificates};
use common::tls::server::{ClientCertificates, ServerTlsError, client_verifier_of, server_config};
use parking_lot::Mutex;
use proto::join::CertificateName;
use rustls::ServerConfig;
use rustls::server::ResolvesServerCert;
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{info, warn};

use super::Settings;
use crate::cloudhub::Identity;

/// Why client certificates cannot be checked.
#[derive(Debug, Error)]
pub enum AccessError {
    /// The CA file.
    #[error("modules.cloudStream.egress.clientCAFile cannot be used")]
    File(#[from] ClientTlsError),
    /// TLS does not take it.
    #[error(transparent)]
    Tls(#[from] ServerTlsError),
}

/// What a connection may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// It may ask.
    Allowed,
    /// Its certificate is good, but is somebody else's: its name.
    Stranger(String),
}

pub(super) struct Access {
    names: Vec<String>,
    server: Arc<dyn ResolvesServerCert>,
    hub_ca: CertificateDer<'static>,
    file: Option<PathBuf>,
    present: Mutex<Present>,
}

struct Present {
    changed: Option<SystemTime>,
    config: Arc<ServerConfig>,
}

impl Access {
    pub(super) fn new(settings: &Settings, identity: &Identity) -> Result<Self, AccessError> {
        let hub_ca = identity.ca().clone();
        let server = identity.server_certificate();
        let file = settings.client_ca_file.clone();
        let changed = changed(file.as_ref());
        let config = configured(file.as_ref(), &hub_ca, server.clone())?;
        Ok(Self {
            names: settings.client_names.clone(),
            server,
            hub_ca,
            file,
            present: Mutex::new(Present { changed, config }),
        })
    }

    /// The handshake, by the CA that is in the file now.
    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<(TlsStream<TcpStream>, Caller)> {
        let tls = TlsAcceptor::from(self.config()).accept(stream).await?;
        let chain = tls.get_ref().1.peer_certificates();
        let name = chain
            .and_then(|chain| CertificateName::of_certificate(chain.first()?))
            .unwrap_or_default()
            .common_name;
        let caller = if self.names.contains(&name) {
            Caller::Allowed
        } else {
            Caller::Stranger(name)
        };
        Ok((tls, caller))
    }

    fn config(&self) -> Arc<ServerConfig> {
        let mut present = self.present.lock();
        let changed = changed(self.file.as_ref());
        if changed != present.changed {
            present.changed = changed;
            match configured(self.file.as_ref(), &self.hub_ca, self.server.clone()) {
                Ok(config) => {
                    info!("the CA of API servers' certificates was read again");
                    present.config = config;
                }
                Err(error) => {
                    warn!(error = %common::chain(&error), "the CA of API servers' certificates cannot be read, the one before it holds");
                }
            }
        }
        present.config.clone()
    }
}

fn changed(file: Option<&PathBuf>) -> Option<SystemTime> {
    std::fs::metadata(file?).and_then(|file| file.modified()).ok()
}

fn configured(
    file: Option<&PathBuf>,
    hub_ca: &CertificateDer<'static>,
    server: Arc<dyn ResolvesServerCert>,
) -> Result<Arc<ServerConfig>, AccessError> {
    let roots = match file {
        Some(file) => certificates(file)?,
        None => vec![hub_ca.clone()],
    };
    let clients = ClientCertificates::Required(client_verifier_of(&roots)?);
    let mut config = server_config(server, clients)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
