//! The server certificate as TLS asks for it, exchangeable while serving.

use std::fmt;
use std::sync::Arc;

use common::tls::server::certified_key;
use parking_lot::RwLock;
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
            present: RwLock::new(certified(pair)?),
        })
    }

    pub(super) fn present(&self) -> Option<CertificateDer<'static>> {
        self.present.read().cert.first().cloned()
    }

    /// Takes another certificate; says whether it was another.
    pub(super) fn replace(&self, pair: &Pair) -> Result<bool, rustls::Error> {
        if self
            .present()
            .is_some_and(|present| present.as_ref() == pair.certificate)
        {
            return Ok(false);
        }
        *self.present.write() = certified(pair)?;
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

fn certified(pair: &Pair) -> Result<Arc<CertifiedKey>, rustls::Error> {
    let key = PrivateKeyDer::try_from(pair.key.as_slice());
    let key = key.map_err(|error| rustls::Error::General(error.to_owned()))?;
    certified_key(vec![pair.certificate.clone().into()], &key)
}
