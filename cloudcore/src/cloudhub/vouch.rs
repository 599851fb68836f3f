//! Whether a client certificate is a node's: the one rule for all ports that edges come to.

use proto::NodeName;
use proto::join::{CertificateName, PeerName, issued_at};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use tracing::warn;

use super::CloudHub;

/// A certificate that does not let in this node. The text is for whoever shows it.
#[derive(Debug, Error)]
pub enum NotVouched {
    /// It is another's.
    #[error("the client certificate is not that of node {0}")]
    Other(NodeName),
    /// It is trusted no more.
    #[error("the certificate of node {0} is revoked (ConfigMap kubeedge/revokednodes)")]
    Revoked(NodeName),
}

/// Whether it is by the name that edges up to v1.15 share.
pub(super) fn is_legacy(
    node: &NodeName,
    name: Option<&CertificateName>,
    legacy_certificates: bool,
) -> Result<bool, NotVouched> {
    match name.and_then(CertificateName::peer) {
        Some(PeerName::Node(name)) if name == *node => Ok(false),
        Some(PeerName::Legacy) if legacy_certificates => {
            warn!(%node, "the edge's certificate names no node, as before v1.16: it is taken at its word; \
                modules.cloudHub.legacyCertificates: false ends that");
            Ok(true)
        }
        _ => Err(NotVouched::Other(node.clone())),
    }
}

impl CloudHub {
    /// Whether a certificate (of our CA, which TLS has verified) lets in the node.
    ///
    /// # Errors
    /// Why it does not.
    pub fn vouch(&self, node: &NodeName, certificate: Option<&CertificateDer<'_>>) -> Result<(), NotVouched> {
        let name = certificate.and_then(|certificate| CertificateName::of_certificate(certificate));
        is_legacy(node, name.as_ref(), self.shared.settings.legacy_certificates)?;
        self.trusts(node, certificate)
    }

    /// Whether a certificate that was vouched for is still trusted.
    ///
    /// # Errors
    /// Why it is not.
    pub fn trusts(&self, node: &NodeName, certificate: Option<&CertificateDer<'_>>) -> Result<(), NotVouched> {
        let issued = certificate.and_then(|certificate| issued_at(certificate));
        if self.shared.revoked.read().refuses(node, issued) {
            return Err(NotVouched::Revoked(node.clone()));
        }
        Ok(())
    }
}
