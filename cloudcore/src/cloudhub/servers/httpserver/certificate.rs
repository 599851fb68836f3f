//! Who gets a certificate, and which (spec 01 §7.2).

use std::error::Error as _;

use http::HeaderValue;
use proto::NodeName;
use proto::join::{
    BadRequest, CertificateName, CertificateRequest, ExtendedKeyUsages, PeerName, issued_at, verify_jwt,
};
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, Error as TlsError};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::cloudhub::identity::{Identity, unix_now};
use crate::cloudhub::{Revoked, Shared};

/// Not let in; the text is the answer.
#[derive(Debug)]
pub(super) struct Denied(pub(super) String);

/// By what a node asks for a certificate. A client certificate that is shown decides alone.
pub(super) struct Proof<'a> {
    pub(super) shown: Option<&'a CertificateDer<'static>>,
    pub(super) authorization: Option<&'a HeaderValue>,
}

impl Proof<'_> {
    pub(super) fn check(
        &self,
        identity: &Identity,
        verifier: &dyn ClientCertVerifier,
        node: &NodeName,
        legacy_certificates: bool,
    ) -> Result<(), Denied> {
        match self.shown {
            Some(shown) => verify(shown, verifier, node, legacy_certificates),
            None => self.check_token(identity),
        }
    }

    /// Whether it is for this node alone.
    fn is_of_node(&self) -> bool {
        matches!(self.shown.and_then(peer), Some(PeerName::Node(_)))
    }

    pub(super) fn is_revoked(&self, revoked: &Revoked, node: &NodeName) -> bool {
        match self.shown {
            Some(shown) => revoked.refuses(node, issued_at(shown)),
            None => revoked.refuses_token(node),
        }
    }

    /// Two words, of which the first may be any (Go does not look at it).
    fn check_token(&self, identity: &Identity) -> Result<(), Denied> {
        let denied = |reason: &str| Denied(format!("token validation failure, {reason}"));
        let header = self
            .authorization
            .map(|value| value.to_str().unwrap_or_default())
            .unwrap_or_default();
        if header.is_empty() {
            return Err(denied("token is empty"));
        }
        let mut words = header.split(' ');
        let (Some(_), Some(jwt), None) = (words.next(), words.next(), words.next()) else {
            return Err(denied("token cannot be split"));
        };
        verify_jwt(jwt, identity.authority().key(), unix_now().as_secs())
            .map_err(|error| denied(&format!("err: {error}")))
    }
}

/// Whether the certificate is the node's: of our CA, valid now, for client authentication, in the node's name or in the one that
/// edges up to v1.15 share while that is accepted.
pub(super) fn verify(
    shown: &CertificateDer<'static>,
    verifier: &dyn ClientCertVerifier,
    node: &NodeName,
    legacy_certificates: bool,
) -> Result<(), Denied> {
    let denied = |reason: &str| {
        Denied(format!(
            "failed to verify the certificate for edgenode: {node}, err: {reason}"
        ))
    };
    if let Err(error) = verifier.verify_client_cert(shown, &[], UnixTime::now()) {
        return Err(denied(&format!(
            "failed to verify edge certificate: {}",
            reason(&error)
        )));
    }
    match peer(shown) {
        Some(PeerName::Node(name)) if name == *node => Ok(()),
        Some(PeerName::Legacy) if legacy_certificates => Ok(()),
        Some(PeerName::Legacy) => Err(denied("certificates without a node's name are not accepted any more")),
        _ => Err(denied("request node name is not match with the certificate")),
    }
}

fn peer(shown: &CertificateDer<'static>) -> Option<PeerName> {
    CertificateName::of_certificate(shown).and_then(|name| name.peer())
}

/// Go's words where operators may search for them.
fn reason(error: &TlsError) -> String {
    let TlsError::InvalidCertificate(certificate) = error else {
        return error.to_string();
    };
    match certificate {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            format!("x509: certificate has expired or is not yet valid: {certificate}")
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "x509: certificate signed by unknown authority".into()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "x509: certificate specifies an incompatible key usage".into()
        }
        other => other.to_string(),
    }
}

/// Signs the request; the error is the answer's text. Nobody gets more than was proven: who is a node gets no certificate that is
/// taken for any node, and none may serve under a name of the cloud.
pub(super) fn issue(
    shared: &Shared,
    node: &NodeName,
    proof: &Proof<'_>,
    usages: Option<&HeaderValue>,
    request: &[u8],
) -> Result<Vec<u8>, String> {
    let mut usages = match usages.map(HeaderValue::to_str) {
        None => ExtendedKeyUsages::DEFAULT,
        Some(Ok(header)) => ExtendedKeyUsages::parse(header).map_err(|error| linked(&error))?,
        Some(Err(error)) => return Err(format!("unmarshal http header ExtKeyUsages fail, err: {error}")),
    };
    let mut request = CertificateRequest::check(request, node)
        .map_err(|error| format!("fail to signCerts, err: {}", linked(&error)))?;
    if request.name().peer() == Some(PeerName::Legacy) {
        if proof.is_of_node() {
            return Err(format!(
                "fail to signCerts, err: the certificate of node {node} is renewed in its own name only"
            ));
        }
        if !shared.settings.legacy_certificates {
            return Err("fail to signCerts, err: certificates without a node's name are not given any more".into());
        }
        usages = ExtendedKeyUsages::DEFAULT;
    }
    request.keep_own_names(node, &shared.identity.names_of_the_cloud());
    let authority = shared.identity.authority();
    authority
        .issue_edge(&request, usages, unix_now(), shared.settings.edge_certificate)
        .map_err(|error| format!("fail to signCerts, err: {}", common::chain(&error)))
}

/// The error and its cause, joined as Go joins them.
fn linked(error: &BadRequest) -> String {
    error.source().map_or_else(
        || error.to_string(),
        |cause| format!("{error}, err: {}", common::chain(cause)),
    )
}
