//! Serving certificates: what Kubernetes' signer `kubernetes.io/kubelet-serving` is asked for, and how long certificates last.

use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use x509_parser::prelude::FromDer as _;

use super::authority::{AuthorityError, ServerNames, ec_private_key, named};
use super::name::CertificateName;
use crate::ids::NodeName;

/// A request for a serving certificate, with the key that it is for.
pub struct ServingRequest {
    /// The request, PEM, as `spec.request` of a CertificateSigningRequest holds it.
    pub pem: String,
    /// The key (P-256), SEC1 DER.
    pub key: Vec<u8>,
}

impl ServingRequest {
    /// A request with a new key. The signer demands the subject of a node, and at least one name.
    pub fn new(node: &NodeName, names: &ServerNames) -> Result<Self, AuthorityError> {
        let pair = KeyPair::generate().map_err(AuthorityError::Certificate)?;
        let subject = CertificateName::of_node(node);
        let mut params = CertificateParams::default();
        params.distinguished_name = named(Some(&subject.organization), &subject.common_name);
        params.subject_alt_names = names.subject_alt_names()?;
        let request = params.serialize_request(&pair).map_err(AuthorityError::Certificate)?;
        Ok(Self {
            pem: request.pem().map_err(AuthorityError::Certificate)?,
            key: ec_private_key(&pair).ok_or(AuthorityError::Key)?,
        })
    }
}

/// From when to when a certificate is good, as Unix time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity {
    /// The first second.
    pub from: Duration,
    /// The last second.
    pub until: Duration,
}

impl Validity {
    /// Of a certificate (DER); `None` when it cannot be read.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(der).ok()?;
        let time = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).ok().map(Duration::from_secs);
        Some(Self {
            from: time(parsed.validity().not_before)?,
            until: time(parsed.validity().not_after)?,
        })
    }

    /// Whether `now` is in it.
    pub fn holds(&self, now: Duration) -> bool {
        self.from <= now && now <= self.until
    }

    /// When another certificate is due: two thirds of the way.
    pub fn renewal(&self) -> Duration {
        self.from + self.until.saturating_sub(self.from) * 2 / 3
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;
    use crate::join::Authority;

    #[test]
    fn a_request_has_the_subject_that_the_signer_demands() {
        let names = ServerNames {
            dns: vec!["edge-1".to_owned(), String::new()],
            addresses: vec!["192.0.2.1".parse().expect("an address")],
        };
        let request = ServingRequest::new(&NodeName::from("cloudcore-stream"), &names).expect("a request");
        let encoded = base64::engine::general_purpose::STANDARD.encode(&request.pem);
        let name = CertificateName::of_encoded_request(&encoded).expect("readable");
        assert_eq!(name.common_name, "system:node:cloudcore-stream");
        assert_eq!(name.organization, "system:nodes");
    }

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_and_clients_have_no_server_names() {
        let now = Duration::from_secs(1_795_000_000);
        let authority = Authority::generate(now).expect("a CA");
        let names = ServerNames {
            dns: vec!["edge-1".to_owned()],
            addresses: Vec::new(),
        };
        let days = |count: u32| Duration::from_secs(86_400) * count;
        let issued = authority.issue_server_for(&names, now, days(90)).expect("issued");
        let validity = Validity::of_certificate(&issued.certificate).expect("readable");
        assert!(validity.holds(now) && validity.holds(now + days(90)) && !validity.holds(now + days(91)));
        assert!(validity.renewal() > now + days(59) && validity.renewal() < now + days(61));
        assert_eq!(ServerNames::of_certificate(&issued.certificate), Some(names));
        let client = authority.issue_client("some-client", now).expect("issued");
        let name = CertificateName::of_certificate(&client.certificate).expect("readable");
        assert_eq!((name.common_name.as_str(), name.peer()), ("some-client", None));
        assert_eq!(Validity::of_certificate(b"x"), None);
    }
}
