//! Server configurations: the client certificate required and verified (10000, 10004), or requested only (10002).

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, Error as TlsError, InconsistentKeys, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

use super::anybody::Anybody;

/// Why no server configuration could be made.
#[derive(Debug, Error)]
pub enum ServerTlsError {
    /// The CA certificate cannot be used as a root.
    #[error("the CA certificate cannot be a trust anchor")]
    Root(#[source] TlsError),
    /// The verifier of client certificates cannot be built.
    #[error("cannot verify client certificates by this CA")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    /// The provider has none of the protocol versions.
    #[error("no TLS version in common with the provider")]
    Versions(#[source] TlsError),
}

/// Whose client certificates are taken.
#[derive(Clone, Debug)]
pub enum ClientCertificates {
    /// None is asked for.
    None,
    /// One that this verifier accepts is required; anything else fails the handshake.
    Required(Arc<dyn ClientCertVerifier>),
    /// Asked for; possession of its key is proven, all else is left to the handler, so that an expired one gets an answer in words.
    Requested,
}

/// The process's cryptography: the library's, with what is quickest on this machine first. A server takes the client's order.
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    let aes = has_aes();
    provider.cipher_suites.sort_by_key(|suite| rank(suite.suite(), aes));
    Arc::new(provider)
}

/// As Go's peers have it: AES-128 before AES-256, whose SHA-384 is a tenth of what a handshake costs; ChaCha20 before both where the
/// processor has no instructions for AES, as in older ARM boards.
fn rank(suite: CipherSuite, aes: bool) -> u8 {
    match suite.as_str().unwrap_or_default() {
        name if name.contains("CHACHA20") => u8::from(aes) * 2,
        name if name.contains("AES_128") => u8::from(!aes),
        _ => 1 + u8::from(!aes),
    }
}

#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const fn has_aes() -> bool {
    false
}

/// Verifies client certificates against one CA: chain, dates, extended key usage clientAuth.
pub fn client_verifier(ca: CertificateDer<'static>) -> Result<Arc<dyn ClientCertVerifier>, ServerTlsError> {
    client_verifier_of(&[ca])
}

/// The same with several CAs, any of which will do; at least one is needed.
pub fn client_verifier_of(cas: &[CertificateDer<'static>]) -> Result<Arc<dyn ClientCertVerifier>, ServerTlsError> {
    let mut roots = RootCertStore::empty();
    for ca in cas {
        roots.add(ca.clone()).map_err(ServerTlsError::Root)?;
    }
    WebPkiClientVerifier::builder_with_provider(roots.into(), provider())
        .build()
        .map_err(ServerTlsError::Verifier)
}

/// A server configuration. `certificates` is asked at each handshake, so that a new certificate needs no restart.
///
/// No session is remembered and no ticket given: Go edges never resume, and both would cost memory or time per edge.
pub fn server_config(
    certificates: Arc<dyn ResolvesServerCert>,
    clients: ClientCertificates,
) -> Result<ServerConfig, ServerTlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(ServerTlsError::Versions)?;
    let builder = match clients {
        ClientCertificates::None => builder.with_no_client_auth(),
        ClientCertificates::Required(verifier) => builder.with_client_cert_verifier(verifier),
        ClientCertificates::Requested => builder.with_client_cert_verifier(Arc::new(Anybody::new(provider()))),
    };
    let mut config = builder.with_cert_resolver(certificates);
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// A certificate chain, the leaf first, and its key, as a resolver gives them; an error when they do not belong together.
pub fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'_>,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let certified = CertifiedKey::new(chain, any_supported_type(key)?);
    match certified.keys_match() {
        // `Unknown`: a key of this kind cannot tell its public half, so there is nothing to compare.
        Ok(()) | Err(TlsError::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(Arc::new(certified)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cipher_is_chosen_by_what_the_processor_has() {
        let order = |aes| {
            let mut suites = [
                CipherSuite::TLS13_AES_256_GCM_SHA384,
                CipherSuite::TLS13_AES_128_GCM_SHA256,
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
            ];
            suites.sort_by_key(|suite| rank(*suite, aes));
            suites.map(|suite| suite.as_str().expect("a name").split('_').nth(1).expect("a cipher"))
        };
        assert_eq!(order(true), ["AES", "AES", "CHACHA20"]);
        assert_eq!(order(false), ["CHACHA20", "AES", "AES"]);
        assert_eq!(rank(CipherSuite::TLS13_AES_128_GCM_SHA256, true), 0);
        assert_eq!(provider().cipher_suites.len(), aws_lc_rs::ALL_CIPHER_SUITES.len());
    }
}
