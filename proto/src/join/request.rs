//! Certificate requests of edges, checked before anything is signed (spec 01 §7.2).

use rcgen::{CertificateSigningRequestParams, PublicKey, SanType};
use rustls_pki_types::CertificateSigningRequestDer;
use thiserror::Error;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::authority::ServerNames;
use super::name::{CertificateName, PeerName};
use crate::ids::NodeName;

/// The largest certificate request that is read.
pub const MAX_REQUEST: usize = 1024 * 1024;

/// What a certificate may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtendedKeyUsages {
    /// `clientAuth`: to connect to the cloud.
    pub client: bool,
    /// `serverAuth`: to serve with it.
    pub server: bool,
}

/// A request that was found good for the node that sent it.
#[derive(Debug)]
pub struct CertificateRequest {
    pub(super) name: CertificateName,
    pub(super) public_key: PublicKey,
    pub(super) subject_alt_names: Vec<SanType>,
}

/// Why a request is refused.
#[derive(Debug, Error)]
pub enum BadRequest {
    /// The request is over the limit.
    #[error("the certificate request is over {MAX_REQUEST} bytes")]
    TooLarge,
    /// It is no PKCS #10 request.
    #[error("failed to parse csr")]
    Malformed,
    /// Its signature is wrong, or it asks for extensions that nobody gets.
    #[error("failed to verify csr")]
    Unverified(#[source] rcgen::Error),
    /// It asks for another name than the node's.
    #[error(
        "csr is for CN={common_name} O={organization}, node {node} may have CN=system:node:{node} O=system:nodes only"
    )]
    Name {
        /// The CN asked for.
        common_name: String,
        /// The O asked for.
        organization: String,
        /// The node that asks.
        node: NodeName,
    },
    /// The header `ExtKeyUsages` is not a list of numbers.
    #[error("unmarshal http header ExtKeyUsages fail")]
    UsagesMalformed(#[source] serde_json::Error),
    /// The header asks for something else than client and server authentication.
    #[error("extended key usage {0} is not given to edges, only 1 (serverAuth) and 2 (clientAuth)")]
    Usage(i64),
}

impl ExtendedKeyUsages {
    /// Without the header.
    pub const DEFAULT: Self = Self {
        client: true,
        server: false,
    };

    /// Reads the header `ExtKeyUsages`: a JSON list of the numbers that Go gives to usages.
    pub fn parse(header: &str) -> Result<Self, BadRequest> {
        let numbers: Vec<i64> = serde_json::from_str(header).map_err(BadRequest::UsagesMalformed)?;
        let mut usages = Self {
            client: false,
            server: false,
        };
        for number in numbers {
            match number {
                1 => usages.server = true,
                2 => usages.client = true,
                other => return Err(BadRequest::Usage(other)),
            }
        }
        Ok(if usages.client || usages.server {
            usages
        } else {
            Self::DEFAULT
        })
    }
}

impl CertificateRequest {
    /// Checks a request (DER) of a node: its signature, and that it asks for this node's name, or for the name that edges up to
    /// v1.15 share.
    pub fn check(der: &[u8], node: &NodeName) -> Result<Self, BadRequest> {
        if der.len() > MAX_REQUEST {
            return Err(BadRequest::TooLarge);
        }
        let (_, parsed) = X509CertificationRequest::from_der(der).map_err(|_| BadRequest::Malformed)?;
        let subject = &parsed.certification_request_info.subject;
        // The certificate library panics on an empty set in a name.
        if subject.iter().any(|set| set.iter().next().is_none()) {
            return Err(BadRequest::Malformed);
        }
        let name = CertificateName::of(subject);
        let is_own = match name.peer() {
            Some(PeerName::Node(of)) => of == *node && !node.is_empty(),
            Some(PeerName::Legacy) => true,
            None => false,
        };
        if !is_own {
            let CertificateName {
                organization,
                common_name,
            } = name;
            return Err(BadRequest::Name {
                common_name,
                organization,
                node: node.clone(),
            });
        }
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
            .map_err(BadRequest::Unverified)?;
        Ok(Self {
            name,
            public_key: request.public_key,
            subject_alt_names: request.params.subject_alt_names,
        })
    }

    /// Drops what the certificate may not serve under: all but the node's name and addresses that are not among `of_others`, however
    /// they are written. At a loopback address everybody is only at home.
    pub fn keep_own_names(&mut self, node: &NodeName, of_others: &ServerNames) {
        self.subject_alt_names.retain(|name| match name {
            SanType::DnsName(name) => {
                let name = name.as_str();
                name == node.as_str() && is_plain(name) && !of_others.dns.iter().any(|of| of.eq_ignore_ascii_case(name))
            }
            SanType::IpAddress(address) => {
                // An IPv4 address written as IPv6 is the same to Go's clients.
                let address = address.to_canonical();
                address.is_loopback() || !of_others.addresses.iter().any(|of| of.to_canonical() == address)
            }
            _ => false,
        });
    }

    /// Whose certificate it will be.
    pub const fn name(&self) -> &CertificateName {
        &self.name
    }
}

/// Whether it is a name of one host: a wildcard stands for others' too.
fn is_plain(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}
