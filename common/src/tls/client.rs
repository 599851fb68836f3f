//! Client configurations: the server verified against one CA and by its name, or, for fetching that CA, not at all.
//!
//! No ALPN is offered: Go servers take `h2` when it is, and then refuse the upgrade (spec 01 §3.1).

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::{CertificateError, ClientConfig, Error as TlsError, RootCertStore};
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

use super::anybody::Anybody;
use super::cloud::Cloud;
pub use super::cloud::NameMismatch;
use super::server::provider;

/// Why no client configuration could be made.
#[derive(Debug, Error)]
pub enum ClientTlsError {
    /// The CA certificate cannot be used as a root.
    #[error("the CA certificate cannot be a trust anchor")]
    Root(#[source] TlsError),
    /// The verifier of server certificates cannot be built.
    #[error("cannot verify server certificates by this CA")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    /// Certificate and key do not fit.
    #[error("the client certificate and its key cannot be used together")]
    Identity(#[source] TlsError),
    /// The provider has none of the protocol versions.
    #[error("no TLS version in common with the provider")]
    Versions(#[source] TlsError),
    /// A file cannot be read as PEM.
    #[error("cannot read {path}")]
    File {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A client certificate with its key.
#[derive(Debug)]
pub struct Identity {
    /// The leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

/// The certificates of a PEM file.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientTlsError> {
    let failed = |source| ClientTlsError::File {
        path: path.display().to_string(),
        source,
    };
    let text = std::fs::read(path).map_err(failed)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(failed(io::Error::new(
            io::ErrorKind::InvalidData,
            "no certificate in it",
        ))),
        Err(error) => Err(failed(io::Error::new(io::ErrorKind::InvalidData, error.to_string()))),
    }
}

/// The private key of a PEM file: SEC1, PKCS#8 or PKCS#1, whichever of them its label says. Blocks before it, such as the curve's
/// parameters or the certificate, are passed over.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, ClientTlsError> {
    let failed = |source| ClientTlsError::File {
        path: path.display().to_string(),
        source,
    };
    let text = std::fs::read(path).map_err(failed)?;
    let is_key = |kind: &SectionKind| {
        matches!(
            kind,
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey
        )
    };
    let mut blocks = <(SectionKind, Vec<u8>)>::pem_slice_iter(&text).flatten();
    let wrong = |text: &'static str| failed(io::Error::new(io::ErrorKind::InvalidData, text));
    let (_, der) = blocks
        .find(|(kind, _)| is_key(kind))
        .ok_or_else(|| wrong("no private key in it"))?;
    PrivateKeyDer::try_from(der).map_err(wrong)
}

/// A configuration that trusts these CAs, checks dates and the server's name, and presents `identity` if there is one.
pub fn client_config(
    roots: &[CertificateDer<'static>],
    identity: Option<Identity>,
) -> Result<ClientConfig, ClientTlsError> {
    build(verifier(roots)?, identity)
}

/// The same for a cloudcore: with an edge's certificate nobody is one, although their CA is one and the same.
pub fn cloud_config(
    roots: &[CertificateDer<'static>],
    identity: Option<Identity>,
) -> Result<ClientConfig, ClientTlsError> {
    let verifier = Cloud {
        inner: verifier(roots)?,
        any_name: None,
    };
    build(Arc::new(verifier), identity)
}

/// The same without the cloudcore's name. Whether that was right can be asked for after the handshake.
pub fn cloud_config_any_name(
    roots: &[CertificateDer<'static>],
    identity: Option<Identity>,
) -> Result<(ClientConfig, NameMismatch), ClientTlsError> {
    let mismatch = NameMismatch::default();
    let verifier = Cloud {
        inner: verifier(roots)?,
        any_name: Some(mismatch.clone()),
    };
    Ok((build(Arc::new(verifier), identity)?, mismatch))
}

/// Why a handshake failed, without the present time, which rustls tells of a certificate of the past or the future: with a wrong
/// clock, each attempt would look like another cause.
#[must_use]
pub fn without_time(error: io::Error) -> io::Error {
    let wrong = match error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) {
        Some(TlsError::InvalidCertificate(CertificateError::ExpiredContext { .. })) => CertificateError::Expired,
        Some(TlsError::InvalidCertificate(CertificateError::NotValidYetContext { .. })) => {
            CertificateError::NotValidYet
        }
        _ => return error,
    };
    io::Error::new(error.kind(), TlsError::InvalidCertificate(wrong))
}

fn verifier(roots: &[CertificateDer<'static>]) -> Result<Arc<WebPkiServerVerifier>, ClientTlsError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(ClientTlsError::Root)?;
    }
    WebPkiServerVerifier::builder_with_provider(store.into(), provider())
        .build()
        .map_err(ClientTlsError::Verifier)
}

/// A configuration that believes every server: for fetching a CA whose hash is known, and for probes, which ask only whether
/// somebody is there.
pub fn unverified_config() -> Result<ClientConfig, ClientTlsError> {
    build(Arc::new(Anybody::new(provider())), None)
}

fn build(verifier: Arc<dyn ServerCertVerifier>, identity: Option<Identity>) -> Result<ClientConfig, ClientTlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(ClientTlsError::Versions)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => builder
            .with_client_auth_cert(identity.chain, identity.key)
            .map_err(ClientTlsError::Identity)?,
        None => builder.with_no_client_auth(),
    };
    // One connection for days: a resumption would never be used, its cache would.
    config.resumption = Resumption::disabled();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

    use rustls_pki_types::{ServerName, UnixTime};

    use super::*;

    #[test]
    fn a_key_is_what_its_bytes_say_not_its_label() -> Result<(), Box<dyn std::error::Error>> {
        let pkcs8 = KeyPair::generate()?.serialize_pem();
        let folder = std::env::temp_dir().join(format!("common-key-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder)?;
        let path = folder.join("server.key");
        for label in ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"] {
            let mislabelled = pkcs8.replace("PRIVATE KEY", label);
            std::fs::write(
                &path,
                format!("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n{mislabelled}"),
            )?;
            assert!(matches!(private_key(&path)?, PrivateKeyDer::Pkcs8(_)), "{label}");
        }
        std::fs::write(&path, "nothing")?;
        assert!(private_key(&path).is_err());
        std::fs::remove_dir_all(folder)?;
        Ok(())
    }

    #[test]
    fn a_wrong_clock_is_told_in_the_same_words_at_all_times() {
        let at = |seconds| {
            let moment = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            let wrong = CertificateError::NotValidYetContext {
                time: moment(seconds),
                not_before: moment(1_000_000),
            };
            without_time(io::Error::other(TlsError::InvalidCertificate(wrong)))
        };
        assert_eq!(at(1).to_string(), at(2).to_string());
        let inner = at(1);
        let inner = inner.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
        assert!(matches!(
            inner,
            Some(TlsError::InvalidCertificate(CertificateError::NotValidYet))
        ));
        let other = without_time(io::Error::other("other"));
        assert_eq!(other.to_string(), "other");
    }

    /// What Go writes when `dnsNames` is its default `[""]`: an empty dNSName before the address.
    #[test]
    fn an_empty_dns_name_beside_the_right_address_is_tolerated() -> Result<(), Box<dyn std::error::Error>> {
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&ca_key)?;
        let issuer = Issuer::new(ca, ca_key);

        let key = KeyPair::generate()?;
        let mut server = CertificateParams::new(Vec::new())?;
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        // SEQUENCE { [2] "", [7] 127.0.0.1 }
        let names = vec![0x30, 0x08, 0x82, 0x00, 0x87, 0x04, 127, 0, 0, 1];
        server
            .custom_extensions
            .push(CustomExtension::from_oid_content(&[2, 5, 29, 17], names));
        let certificate = server.signed_by(&key, &issuer)?;

        let mut store = RootCertStore::empty();
        store.add(ca_certificate.der().clone())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(store.into(), provider()).build()?;
        let verify = |name: &str| {
            let name = ServerName::try_from(name.to_owned()).expect("a name");
            verifier.verify_server_cert(certificate.der(), &[], &name, &[], UnixTime::now())
        };
        assert!(verify("127.0.0.1").is_ok(), "{:?}", verify("127.0.0.1"));
        assert!(verify("127.0.0.2").is_err());
        assert!(verify("cloud.example").is_err());
        assert!(
            client_config(&[ca_certificate.der().clone()], None)?
                .alpn_protocols
                .is_empty()
        );
        Ok(())
    }
}
