//! The server certificate as TLS asks for it, exchangeable while serving.

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::files::Pair;

pub(super) struct Certificate {
    present: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    pub(super) fn new(pair: &Pair) -> Result<Self, rustls::Error> {
        Ok(Self {
            present: RwLock::new(Arc::new(certified(pair)?)),
        })
    }

    /// Takes another certificate; says whether it was another.
    pub(super) fn replace(&self, pair: &Pair) -> Result<bool, rustls::Error> {
        if self
            .present
            .read()
            .cert
            .first()
            .is_some_and(|present| present.as_ref() == pair.certificate)
        {
            return Ok(false);
        }
        *self.present.write() = Arc::new(certified(pair)?);
        Ok(true)
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.present.read().clone())
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("server certificate")
    }
}

fn certified(pair: &Pair) -> Result<CertifiedKey, rustls::Error> {
    let key = PrivateKeyDer::try_from(pair.key.clone());
    let key = key.map_err(|error| rustls::Error::General(error.to_owned()))?;
    let certificate = CertificateDer::from(pair.certificate.clone());
    let certified = CertifiedKey::new(vec![certificate], any_supported_type(&key)?);
    match certified.keys_match() {
        // Unknown: the key's kind cannot say its public half.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
        Err(error) => Err(error),
    }
}
