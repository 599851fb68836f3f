//! The certificate authority of the edges, and what it signs (spec 01 §7.2, §7.4).

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::request::{CertificateRequest, ExtendedKeyUsages};

/// Name of the CA and of the server certificates.
const KUBEEDGE: &str = "KubeEdge";

/// The serial number of every KubeEdge CA.
const CA_SERIAL: u64 = 1024;

/// How long CA and server certificates last: 100 years of 364 days, as KubeEdge counts.
const LIFETIME: Duration = Duration::from_secs(100 * 364 * 86_400);

/// Clocks of boards lag: an edge's certificate begins so long ago.
const BACKDATED: Duration = Duration::from_secs(300);

/// The CA with its key.
pub struct Authority {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, both DER; the key is SEC1.
pub struct Issued {
    /// The certificate.
    pub certificate: Vec<u8>,
    /// The key.
    pub key: Vec<u8>,
}

/// What a server certificate is good for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServerNames {
    /// Host names.
    pub dns: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
}

/// Why the authority cannot be used.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// The key's bytes are none of SEC1, PKCS #8 and PKCS #1.
    #[error("the CA key is not a SEC1, PKCS #8 or PKCS #1 key (DER)")]
    Key,
    /// The certificate cannot be read, or something cannot be signed.
    #[error("the CA certificate or a certificate of it cannot be made")]
    Certificate(#[source] rcgen::Error),
    /// The certificate is of another key.
    #[error("the CA certificate and the CA key do not belong together")]
    Mismatch,
    /// A name in the server certificate is not ASCII.
    #[error("{0} cannot stand in a certificate")]
    Name(String),
}

impl Authority {
    /// A new CA. `now` is Unix time.
    pub fn generate(now: Duration) -> Result<Self, AuthorityError> {
        let pair = KeyPair::generate().map_err(AuthorityError::Certificate)?;
        let key = ec_private_key(&pair).ok_or(AuthorityError::Key)?;
        let mut params = parameters(named(None, KUBEEDGE), now, now + LIFETIME, CA_SERIAL);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.self_signed(&pair).map_err(AuthorityError::Certificate)?;
        Self::new(certificate.der().clone(), key)
    }

    /// The CA of a certificate and its key as they are stored (DER). The key's very bytes sign tokens.
    pub fn new(certificate: CertificateDer<'static>, key: Vec<u8>) -> Result<Self, AuthorityError> {
        let private = PrivateKeyDer::try_from(key.as_slice()).map_err(|_| AuthorityError::Key)?;
        let pair = KeyPair::try_from(&private).map_err(|_| AuthorityError::Key)?;
        let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(&certificate)
            .map_err(|_| AuthorityError::Certificate(rcgen::Error::CouldNotParseCertificate))?;
        if parsed.public_key().subject_public_key.data.as_ref() != pair.public_key_raw() {
            return Err(AuthorityError::Mismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, pair).map_err(AuthorityError::Certificate)?;
        Ok(Self {
            certificate,
            key,
            issuer,
        })
    }

    /// The CA's certificate.
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The key's bytes as stored.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// A certificate for an edge, from `now` (Unix time) for `lifetime`. Names of hosts get in with server authentication only.
    pub fn issue_edge(
        &self,
        request: &CertificateRequest,
        usages: ExtendedKeyUsages,
        now: Duration,
        lifetime: Duration,
    ) -> Result<Vec<u8>, AuthorityError> {
        let name = named(Some(&request.name.organization), &request.name.common_name);
        let mut params = parameters(name, now.saturating_sub(BACKDATED), now + lifetime, random_serial());
        params.use_authority_key_identifier_extension = true;
        if usages.server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            params.subject_alt_names = request
                .subject_alt_names
                .iter()
                .filter(|name| is_host(name))
                .cloned()
                .collect();
        }
        if usages.client {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        Ok(self.sign(&params, &request.public_key)?.der().to_vec())
    }

    /// A server certificate with a key of its own, as long as KubeEdge's. Empty names are left out.
    pub fn issue_server(&self, names: &ServerNames, now: Duration) -> Result<Issued, AuthorityError> {
        self.issue_server_for(names, now, LIFETIME)
    }

    /// The same for `lifetime` from `now` (Unix time) on.
    pub fn issue_server_for(
        &self,
        names: &ServerNames,
        now: Duration,
        lifetime: Duration,
    ) -> Result<Issued, AuthorityError> {
        let mut params = issued_parameters(KUBEEDGE, ExtendedKeyUsagePurpose::ServerAuth, now, lifetime);
        params.subject_alt_names = names.subject_alt_names()?;
        self.issue(&params)
    }

    /// A certificate of a client that is no edge, with a key of its own, as long as KubeEdge's server certificates: an API server
    /// reads it once, at its start. Organization `KubeEdge`.
    pub fn issue_client(&self, common_name: &str, now: Duration) -> Result<Issued, AuthorityError> {
        self.issue(&issued_parameters(
            common_name,
            ExtendedKeyUsagePurpose::ClientAuth,
            now,
            LIFETIME,
        ))
    }

    /// Whether the certificate (DER) was signed by this authority.
    pub fn signed(&self, certificate: &[u8]) -> bool {
        let parse = x509_parser::certificate::X509Certificate::from_der;
        match (parse(certificate), parse(&self.certificate)) {
            (Ok((_, certificate)), Ok((_, ca))) => certificate.verify_signature(Some(ca.public_key())).is_ok(),
            _ => false,
        }
    }

    fn issue(&self, params: &CertificateParams) -> Result<Issued, AuthorityError> {
        let pair = KeyPair::generate().map_err(AuthorityError::Certificate)?;
        Ok(Issued {
            certificate: self.sign(params, &pair)?.der().to_vec(),
            key: ec_private_key(&pair).ok_or(AuthorityError::Key)?,
        })
    }

    fn sign(&self, params: &CertificateParams, key: &impl PublicKeyData) -> Result<Certificate, AuthorityError> {
        params.signed_by(key, &self.issuer).map_err(AuthorityError::Certificate)
    }
}

/// Only the name is shown: the key is a secret.
impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("certificate authority")
    }
}

impl ServerNames {
    /// What a certificate (DER) is good for; `None` when it cannot be read. The empty name that Go puts in is left out.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(der).ok()?;
        let mut names = Self::default();
        for name in certificate
            .subject_alternative_name()
            .ok()
            .flatten()
            .iter()
            .flat_map(|san| &san.value.general_names)
        {
            match name {
                GeneralName::DNSName(name) if !name.is_empty() => names.dns.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                    names
                        .addresses
                        .extend(v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok());
                }
                _ => {}
            }
        }
        Some(names)
    }

    /// As a certificate lists them. Empty names are left out.
    pub(super) fn subject_alt_names(&self) -> Result<Vec<SanType>, AuthorityError> {
        let named = self.dns.iter().filter(|name| !name.is_empty()).map(|name| {
            let text = name.as_str().try_into();
            text.map(SanType::DnsName)
                .map_err(|_| AuthorityError::Name(name.clone()))
        });
        let addresses = self.addresses.iter().map(|address| Ok(SanType::IpAddress(*address)));
        named.chain(addresses).collect()
    }

    /// Whether all names of `others` are among these.
    pub fn contain(&self, others: &Self) -> bool {
        others.dns.iter().all(|name| name.is_empty() || self.dns.contains(name))
            && others.addresses.iter().all(|address| self.addresses.contains(address))
    }

    /// These and those.
    #[must_use]
    pub fn union(mut self, others: &Self) -> Self {
        for name in &others.dns {
            if !name.is_empty() && !self.dns.contains(name) {
                self.dns.push(name.clone());
            }
        }
        for address in &others.addresses {
            if !self.addresses.contains(address) {
                self.addresses.push(*address);
            }
        }
        self
    }
}

/// When an edge's certificate (DER) was issued, as Unix time; `None` when it cannot be read. Go's cloudcore does not date back: its
/// certificates seem some minutes younger than they are.
pub fn issued_at(certificate: &[u8]) -> Option<Duration> {
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate).ok()?;
    let from = u64::try_from(parsed.validity().not_before.timestamp()).ok()?;
    Some(Duration::from_secs(from) + BACKDATED)
}

/// The P-256 key of a pair as SEC1 `ECPrivateKey` with its curve named, the one form that Go since v1.18 reads.
/// `None` when the pair is of another kind.
pub fn ec_private_key(pair: &KeyPair) -> Option<Vec<u8>> {
    /// INTEGER 1, then OCTET STRING of 32 bytes: the beginning of an ECPrivateKey's content in PKCS #8.
    const START: [u8; 5] = [0x02, 0x01, 0x01, 0x04, 0x20];
    /// [0] { OBJECT IDENTIFIER prime256v1 }, [1] { BIT STRING of 66 bytes, no bits unused }.
    const CURVE: [u8; 12] = [0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    const PUBLIC: [u8; 5] = [0xa1, 0x44, 0x03, 0x42, 0x00];
    if !pair.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256) {
        return None;
    }
    let pkcs8 = pair.serialized_der();
    let at = pkcs8.windows(START.len()).position(|window| window == START)? + START.len();
    let scalar = pkcs8.get(at..at + 32)?;
    let public = pair.public_key_raw();
    let content = [&START[..], scalar, &CURVE, &PUBLIC, public].concat();
    let length = u8::try_from(content.len()).ok().filter(|length| *length < 0x80)?;
    Some([&[0x30, length], content.as_slice()].concat())
}

fn issued_parameters(
    common_name: &str,
    usage: ExtendedKeyUsagePurpose,
    now: Duration,
    lifetime: Duration,
) -> CertificateParams {
    let name = named(Some(KUBEEDGE), common_name);
    let mut params = parameters(name, now.saturating_sub(BACKDATED), now + lifetime, random_serial());
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages.push(usage);
    params
}

pub(super) fn named(organization: Option<&str>, common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn parameters(name: DistinguishedName, from: Duration, until: Duration, serial: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    // The clock may be anywhere: years that a certificate cannot hold are cut off.
    let whole = |time: Duration| Duration::from_secs(time.as_secs().min(LAST_SECOND));
    params.not_before = date_time_ymd(1970, 1, 1) + whole(from);
    params.not_after = date_time_ymd(1970, 1, 1) + whole(until);
    params.serial_number = Some(SerialNumber::from(serial));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params
}

/// 31 December 9999, the last day that a certificate can name.
const LAST_SECOND: u64 = 253_402_214_400;

fn random_serial() -> u64 {
    let (high, _) = uuid::Uuid::new_v4().as_u64_pair();
    // Version and variant bits of a UUID are fixed: fewer random bits, still 58 of them; positive and never 0.
    (high >> 1).max(1)
}

fn is_host(name: &SanType) -> bool {
    match name {
        SanType::DnsName(name) => !name.as_str().is_empty(),
        SanType::IpAddress(_) => true,
        _ => false,
    }
}
