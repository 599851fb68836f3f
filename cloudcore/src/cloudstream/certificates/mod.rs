//! The certificates that the stream server shows to API servers, and the tunnel server to edges.
//!
//! Owns what is shown: the operator's files while they are good; else certificates for this cloudcore and for every edge, since an
//! API server dials the edge. They are signed by CloudHub's CA, or by Kubernetes' signer of kubelets. They name 500 edges each: the
//! right one is chosen by the destination that a client wanted, as far as that is known. All of it is exchanged while serving. Reads
//! the edges' names and addresses from the informers. Must not: end the process for want of a certificate; then there is a warning
//! and CloudHub's CA signs. Spec 04 §13.

mod chosen;
mod csr;
mod destination;
mod files;
mod groups;
mod own;
mod signer;
mod task;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use common::Tasks;
use config::cloudcore::StreamCertSigner;
use proto::join::ServerNames;
use rustls::ServerConfig;
use rustls::server::ResolvesServerCert;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tracing::info;

use crate::addresses::Addresses;
use crate::cloudhub::{Identity, unix_now};
use crate::informers::{Host, Informers};
use crate::kubernetes::Kube;
use chosen::{Chosen, Shown};
use csr::KubeletServing;
use files::Files;
use signer::{HubAuthority, Signer};
use task::{Edges, Keeper};

pub use destination::original_destination;

/// A certificate and its key, PEM; the key SEC1, PKCS #8 or PKCS #1 whatever its label says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, then those between it and the CA.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// What the stream server's certificates are made from.
pub struct CertificateParts {
    /// The operator's files (`tlsStreamCertFile`, `tlsStreamPrivateKeyFile`).
    pub files: CertificateFiles,
    /// `advertiseAddress` and `dnsNames` of CloudHub; addresses of this host and names of the service are added.
    pub names: ServerNames,
    /// The first one is named as it changes.
    pub advertised: watch::Receiver<Addresses>,
    /// Who signs where there are no files.
    pub signer: StreamCertSigner,
    /// CloudHub's CA.
    pub identity: Identity,
    /// The edges.
    pub informers: Informers,
    /// For requests to Kubernetes' signer.
    pub kube: Kube,
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct StreamCertificates {
    shown: Arc<Shown>,
}

impl StreamCertificates {
    /// There is a certificate when this returns; the edges' names follow.
    pub fn start(parts: CertificateParts, tasks: &Tasks) -> Self {
        let CertificateParts {
            files,
            names,
            advertised,
            signer,
            identity,
            informers,
            kube,
        } = parts;
        let shown = Arc::new(Shown::default());
        files::keep(Files::new("stream", files), shown.clone(), unix_now, tasks);
        let hub = HubAuthority(identity);
        let first = own::with_own(&names);
        match hub.issue(&first, unix_now()) {
            Ok(signed) => shown.put(0, signed.key),
            Err(error) => tracing::warn!(
                error = %common::chain(&error),
                "CloudHub's CA does not sign a certificate for the stream server: it has none for now"
            ),
        }
        let signer: Arc<dyn Signer> = match signer {
            StreamCertSigner::CloudHub => Arc::new(hub),
            StreamCertSigner::KubeletServing => Arc::new(KubeletServing::new(kube.client().clone())),
        };
        info!(signer = signer.name(), "the stream server's certificates are kept");
        let keeper = Keeper::new(signer, names, advertised, shown.clone(), unix_now);
        tasks.spawn("stream certificates", async move {
            keeper.run(Edges::of(informers).await).await;
        });
        Self { shown }
    }

    /// Chooses by the name that the client gives (SNI).
    pub fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        self.resolver_for(None)
    }

    /// Chooses by the destination that the client wanted, where it is known otherwise: clients name no addresses.
    pub fn resolver_for(&self, destination: Option<Host>) -> Arc<dyn ResolvesServerCert> {
        Arc::new(Chosen::new(self.shown.clone(), destination))
    }

    /// An acceptor for one connection, which differs from `base` in the certificate only.
    pub fn acceptor(&self, base: &ServerConfig, destination: Option<Host>) -> TlsAcceptor {
        let mut config = base.clone();
        config.cert_resolver = self.resolver_for(destination);
        TlsAcceptor::from(Arc::new(config))
    }

    /// Whether this is a name or an address of an edge.
    pub fn is_edge(&self, host: &Host) -> bool {
        self.shown.place(host).is_some()
    }
}

impl fmt::Debug for StreamCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stream certificates")
    }
}

/// The certificate of the tunnel server: the operator's files (`tlsTunnelCertFile`, `tlsTunnelPrivateKeyFile`) while they are good,
/// else CloudHub's, which is issued again when advertised addresses change. Cheap to clone.
#[derive(Clone)]
pub struct TunnelCertificate {
    shown: Arc<Shown>,
    identity: Identity,
}

impl TunnelCertificate {
    /// Looks at the files from now on.
    pub fn start(files: CertificateFiles, identity: &Identity, tasks: &Tasks) -> Self {
        let shown = Arc::new(Shown::with_fallback(identity.server_certificate()));
        files::keep(Files::new("tunnel", files), shown.clone(), unix_now, tasks);
        Self {
            shown,
            identity: identity.clone(),
        }
    }

    /// For TLS, always the present one.
    pub fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::new(Chosen::new(self.shown.clone(), None))
    }

    /// The one that is shown now.
    pub fn present(&self) -> Option<CertificateDer<'static>> {
        match self.shown.get(None) {
            Some(files) => files.cert.first().cloned(),
            None => self.identity.present_server(),
        }
    }
}

/// A certificate of CloudHub's CA for this cloudcore alone, renewed in time and when this host has or advertises other addresses.
pub fn own_certificate(
    names: ServerNames,
    advertised: watch::Receiver<Addresses>,
    identity: &Identity,
    tasks: &Tasks,
) -> Arc<dyn ResolvesServerCert> {
    let shown = Arc::new(Shown::default());
    let signer = Arc::new(HubAuthority(identity.clone()));
    let keeper = Keeper::new(signer, names, advertised, shown.clone(), unix_now);
    tasks.spawn("own certificate", keeper.run(Edges::none()));
    Arc::new(Chosen::new(shown, None))
}
