//! Who signs: CloudHub's CA, at once, or somebody who has to be asked.

use std::sync::Arc;
use std::time::Duration;

use common::tls::server::certified_key;
use futures::future::BoxFuture;
use proto::join::{AuthorityError, Issued, ServerNames, Validity};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivateSec1KeyDer};
use thiserror::Error;

use super::csr::CsrError;
use crate::cloudhub::Identity;

/// How long certificates of CloudHub's CA last, and are asked for elsewhere; another is made at two thirds.
pub(super) const LIFETIME: Duration = Duration::from_secs(90 * 86_400);

/// A certificate as handshakes need it.
#[derive(Clone)]
pub(super) struct Signed {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) validity: Validity,
}

/// Why nobody signed.
#[derive(Debug, Error)]
pub(super) enum SignError {
    /// The request or the certificate cannot be made.
    #[error("the certificate cannot be made")]
    Authority(#[from] AuthorityError),
    /// The certificate is not fit for TLS.
    #[error("the certificate cannot be used")]
    Unusable(#[source] rustls::Error),
    /// What was signed is no certificate with dates.
    #[error("what the signer gave cannot be read")]
    Unreadable,
    /// Kubernetes' signer.
    #[error("the signer kubernetes.io/kubelet-serving gave no certificate")]
    Request(#[from] CsrError),
}

impl Signed {
    /// A chain, the leaf first, with its key (SEC1).
    pub(super) fn new(chain: Vec<CertificateDer<'static>>, key: Vec<u8>) -> Result<Self, SignError> {
        let validity = chain.first().and_then(|leaf| Validity::of_certificate(leaf));
        let key = PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(key));
        Ok(Self {
            validity: validity.ok_or(SignError::Unreadable)?,
            key: certified_key(chain, &key).map_err(SignError::Unusable)?,
        })
    }
}

/// Whoever signs.
pub(super) trait Signer: Send + Sync {
    /// For logs.
    fn name(&self) -> &'static str;

    /// How long more changes are waited for before the next request.
    fn settle(&self) -> Duration;

    /// A certificate for these names; `now` is Unix time.
    fn sign<'a>(&'a self, names: &'a ServerNames, now: Duration) -> BoxFuture<'a, Result<Signed, SignError>>;
}

/// CloudHub's CA.
pub(super) struct HubAuthority(pub(super) Identity);

impl HubAuthority {
    pub(super) fn issue(&self, names: &ServerNames, now: Duration) -> Result<Signed, SignError> {
        let Issued { certificate, key } = self.0.authority().issue_server_for(names, now, LIFETIME)?;
        Signed::new(vec![certificate.into()], key)
    }
}

impl Signer for HubAuthority {
    fn name(&self) -> &'static str {
        "CloudHub's CA"
    }

    fn settle(&self) -> Duration {
        Duration::from_millis(200)
    }

    fn sign<'a>(&'a self, names: &'a ServerNames, now: Duration) -> BoxFuture<'a, Result<Signed, SignError>> {
        Box::pin(async move { self.issue(names, now) })
    }
}
