//! The verifier for cloudcores. Their CA signs the certificates of edges too, some of which may serve: with one of those nobody is a
//! cloudcore, whatever names it holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proto::NodeName;
use proto::join::{CertificateName, PeerName};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, Error as TlsError, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use thiserror::Error;

/// Tells whether the server's certificate, good otherwise, was not for the name or address that was dialled.
#[derive(Clone, Debug, Default)]
pub struct NameMismatch(Arc<AtomicBool>);

impl NameMismatch {
    /// Known after the handshake.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Somebody uses a node's certificate to be taken for the cloud.
#[derive(Debug, Error)]
#[error("the certificate is that of the edge node {0}, which is no cloudcore")]
struct OfNode(NodeName);

/// The name that edges up to v1.15 share is let pass: it is also that of servers whose certificates KubeEdge's certgen.sh made.
fn refuse_nodes(end_entity: &CertificateDer<'_>) -> Result<(), TlsError> {
    let name = CertificateName::of_certificate(end_entity)
        .ok_or(TlsError::InvalidCertificate(CertificateError::BadEncoding))?;
    match name.peer() {
        Some(PeerName::Node(node)) => Err(CertificateError::Other(OtherError(Arc::new(OfNode(node)))).into()),
        _ => Ok(()),
    }
}

/// Checks whose certificate it is, chain, dates and usage, the name last.
#[derive(Debug)]
pub(super) struct Cloud {
    pub(super) inner: Arc<WebPkiServerVerifier>,
    /// Whatever address it is dialled at: a wrong name is told here.
    pub(super) any_name: Option<NameMismatch>,
}

impl ServerCertVerifier for Cloud {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let verified = self
            .inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        // The verifier looks at the name last: an error about the name means that all else is right.
        if matches!(
            verified,
            Ok(_)
                | Err(TlsError::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
                ))
        ) {
            refuse_nodes(end_entity)?;
        }
        match verified {
            Err(
                error @ TlsError::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                ),
            ) => match &self.any_name {
                Some(mismatch) => {
                    mismatch.0.store(true, Ordering::Relaxed);
                    Ok(ServerCertVerified::assertion())
                }
                None => Err(error),
            },
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
    use rustls::RootCertStore;

    use super::*;

    /// Whether a server is believed with a certificate of this organization and common name, for 192.0.2.1, when dialled by name
    /// and when its name does not matter, at another address.
    fn believed(organization: &str, common_name: &str) -> Result<(bool, bool), Box<dyn std::error::Error>> {
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = ca.self_signed(&ca_key)?.der().clone();
        let key = KeyPair::generate()?;
        let mut server = CertificateParams::new(Vec::new())?;
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server.subject_alt_names = vec![SanType::IpAddress([192, 0, 2, 1].into())];
        server.distinguished_name.push(DnType::OrganizationName, organization);
        server.distinguished_name.push(DnType::CommonName, common_name);
        let certificate = server.signed_by(&key, &Issuer::new(ca, ca_key))?;

        let mut store = RootCertStore::empty();
        store.add(root)?;
        let provider = crate::tls::server::provider();
        let inner = WebPkiServerVerifier::builder_with_provider(store.into(), provider).build()?;
        let verify = |any_name, address: &str| {
            let cloud = Cloud {
                inner: inner.clone(),
                any_name,
            };
            let name = ServerName::try_from(address.to_owned()).expect("a name");
            cloud.verify_server_cert(certificate.der(), &[], &name, &[], UnixTime::now())
        };
        assert!(verify(None, "192.0.2.2").is_err(), "by a wrong name");
        let mismatch = NameMismatch::default();
        let any_name = verify(Some(mismatch.clone()), "192.0.2.2").is_ok();
        assert_eq!(mismatch.is_set(), any_name);
        Ok((verify(None, "192.0.2.1").is_ok(), any_name))
    }

    #[test]
    fn a_node_is_no_cloudcore_whatever_its_certificate_names() -> Result<(), Box<dyn std::error::Error>> {
        assert_eq!(believed("KubeEdge", "KubeEdge")?, (true, true));
        assert_eq!(
            believed("KubeEdge", "kubeedge.io")?,
            (true, true),
            "as certgen.sh makes them"
        );
        assert_eq!(believed("Example", "an operator's own")?, (true, true));
        assert_eq!(believed("system:nodes", "system:node:edge-1")?, (false, false));
        Ok(())
    }
}
