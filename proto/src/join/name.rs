//! Whose certificate it is, by its subject (spec 01 §5.2, §7.2).

use base64::Engine as _;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

use crate::ids::NodeName;

/// Before the node's name in the common name of its certificate.
const NODE_PREFIX: &str = "system:node:";

/// The organization of nodes' certificates since v1.16.
const NODES: &str = "system:nodes";

/// The common name that all edges up to v1.15 share.
const LEGACY_NAME: &str = "kubeedge.io";

/// Organization and common name of a certificate or a request.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CertificateName {
    /// The first `O`.
    pub organization: String,
    /// The last `CN`, which is the one that Go takes.
    pub common_name: String,
}

/// What a name stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerName {
    /// One node.
    Node(NodeName),
    /// Any edge up to v1.15.
    Legacy,
}

impl CertificateName {
    /// The name that the certificate of a node has.
    pub fn of_node(node: &NodeName) -> Self {
        Self {
            organization: NODES.into(),
            common_name: format!("{NODE_PREFIX}{node}"),
        }
    }

    /// The subject of a certificate (DER); `None` when it cannot be read.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(der).ok()?;
        Some(Self::of(certificate.subject()))
    }

    /// The subject of a certificate request as Kubernetes' CertificateSigningRequest holds it: base64 of PEM. `None` when it cannot be
    /// read.
    pub fn of_encoded_request(text: &str) -> Option<Self> {
        let pem = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
        let der = CertificateSigningRequestDer::from_pem_slice(&pem).ok()?;
        let (_, request) = X509CertificationRequest::from_der(&der).ok()?;
        Some(Self::of(&request.certification_request_info.subject))
    }

    pub(super) fn of(name: &X509Name<'_>) -> Self {
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute.as_str().unwrap_or_default().to_owned()
        };
        Self {
            organization: name.iter_organization().next().map(text).unwrap_or_default(),
            common_name: name.iter_common_name().last().map(text).unwrap_or_default(),
        }
    }

    /// Whose name this is; `None` for a name that no edge has. Edges up to v1.15 write `kubeEdge`, Go's cloudcore knows `KubeEdge`:
    /// both are taken.
    pub fn peer(&self) -> Option<PeerName> {
        if self.organization == NODES {
            let node = self.common_name.strip_prefix(NODE_PREFIX)?;
            return (!node.is_empty()).then(|| PeerName::Node(node.into()));
        }
        let is_legacy = self.common_name == LEGACY_NAME && self.organization.eq_ignore_ascii_case("kubeedge");
        is_legacy.then_some(PeerName::Legacy)
    }
}

/// A certificate (DER) as Kubernetes reads it: the last common name is the user, each organization a group. `None` when it cannot be
/// read.
pub fn subject_of(der: &[u8]) -> Option<(String, Vec<String>)> {
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let text =
        |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().unwrap_or_default().to_owned();
    let user = subject.iter_common_name().last().map(text).unwrap_or_default();
    Some((user, subject.iter_organization().map(text).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_edges_of_all_ages() {
        let name = |organization: &str, common_name: &str| {
            CertificateName {
                organization: organization.into(),
                common_name: common_name.into(),
            }
            .peer()
        };
        assert_eq!(
            name("system:nodes", "system:node:edge-1"),
            Some(PeerName::Node("edge-1".into()))
        );
        assert_eq!(name("kubeEdge", "kubeedge.io"), Some(PeerName::Legacy));
        assert_eq!(name("KubeEdge", "kubeedge.io"), Some(PeerName::Legacy));
        for (organization, common_name) in [
            ("system:nodes", "edge-1"),
            ("system:nodes", "system:node:"),
            ("kubeEdge", "system:node:x"),
            ("", ""),
        ] {
            assert_eq!(name(organization, common_name), None, "{organization} {common_name}");
        }
        let node = NodeName::from("edge-1");
        assert_eq!(CertificateName::of_node(&node).peer(), Some(PeerName::Node(node)));
    }
}
