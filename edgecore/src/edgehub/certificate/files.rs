//! The three files of the node's identity: read, judged, and replaced as a pair.

use std::io;
use std::path::PathBuf;

use common::fs::{PUBLIC, SECRET, write_atomic};
use common::tls::client::{self, ClientTlsError, Identity};
use jiff::Timestamp;
use proto::NodeName;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The name in the certificates of edges up to v1.15: the same for all (spec 01 §5.2).
pub(super) const LEGACY: &str = "kubeedge.io";

/// Where the files are.
#[derive(Clone, Debug)]
pub struct Paths {
    /// `tlsCaFile`.
    pub ca: PathBuf,
    /// `tlsCertFile`.
    pub certificate: PathBuf,
    /// `tlsPrivateKeyFile`.
    pub key: PathBuf,
}

/// Why there is no identity to use.
#[derive(Debug, Error)]
pub(crate) enum Unusable {
    /// One of the files is not there yet.
    #[error("no certificate yet ({0} is missing)")]
    Missing(String),
    /// One cannot be read.
    #[error("the certificate cannot be used")]
    Unreadable(#[source] ClientTlsError),
    /// It is no certificate.
    #[error("{0} is no certificate")]
    NotX509(String),
    /// It is another node's.
    #[error("the certificate belongs to {found}, this node is {node}")]
    Foreign {
        /// The name in the certificate.
        found: String,
        /// This node.
        node: NodeName,
    },
    /// Certificate and key are of different pairs.
    #[error("the certificate and its key do not belong together")]
    Unpaired,
    /// Its time is over.
    #[error("the certificate expired at {0}")]
    Expired(Timestamp),
}

/// The dates of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::edgehub) struct Validity {
    pub(in crate::edgehub) from: Timestamp,
    pub(in crate::edgehub) until: Timestamp,
}

/// An identity that may be presented.
#[derive(Debug)]
pub(crate) struct Usable {
    pub(crate) identity: Identity,
    pub(crate) roots: Vec<CertificateDer<'static>>,
    pub(in crate::edgehub) validity: Validity,
    /// Whether it is one that names no node.
    pub(in crate::edgehub) is_legacy: bool,
}

/// A new key with the request for its certificate.
pub(super) struct Application {
    key_pem: String,
    /// The request, DER.
    pub(super) request: Vec<u8>,
}

impl Paths {
    /// Reads and judges the files. A pair whose replacing was interrupted is put in place first.
    pub(crate) fn load(&self, node: &NodeName) -> Result<Usable, Unusable> {
        self.finish_replacing().map_err(|source| {
            Unusable::Unreadable(ClientTlsError::File {
                path: self.staging().display().to_string(),
                source,
            })
        })?;
        for path in [&self.ca, &self.certificate, &self.key] {
            if !path.exists() {
                return Err(Unusable::Missing(path.display().to_string()));
            }
        }
        let roots = client::certificates(&self.ca).map_err(Unusable::Unreadable)?;
        let chain = client::certificates(&self.certificate).map_err(Unusable::Unreadable)?;
        let key = client::private_key(&self.key).map_err(Unusable::Unreadable)?;
        let not_x509 = || Unusable::NotX509(self.certificate.display().to_string());
        let leaf = chain.first().ok_or_else(not_x509)?;
        let (found, validity) = read_leaf(leaf).ok_or_else(not_x509)?;
        let is_legacy = found == LEGACY;
        if !is_legacy && found != format!("system:node:{node}") {
            return Err(Unusable::Foreign {
                found,
                node: node.clone(),
            });
        }
        let identity = Identity { chain, key };
        let fits = client::cloud_config(
            &roots,
            Some(Identity {
                chain: identity.chain.clone(),
                key: identity.key.clone_key(),
            }),
        );
        match fits {
            Ok(_) => Ok(Usable {
                identity,
                roots,
                validity,
                is_legacy,
            }),
            Err(ClientTlsError::Identity(_)) => Err(Unusable::Unpaired),
            Err(other) => Err(Unusable::Unreadable(other)),
        }
    }

    /// Stores the CA.
    pub(super) fn write_ca(&self, der: &[u8]) -> io::Result<()> {
        write_atomic(&self.ca, pem("CERTIFICATE", der).as_bytes(), PUBLIC)
    }

    /// Stores a certificate with its key. Both go to one file first: whatever instruction the power fails at, the next start
    /// finds a pair that belongs together.
    pub(super) fn write_pair(&self, application: &Application, certificate: &[u8]) -> io::Result<()> {
        let staged = format!("{}{}", application.key_pem, pem("CERTIFICATE", certificate));
        write_atomic(&self.staging(), staged.as_bytes(), SECRET)?;
        self.finish_replacing()
    }

    fn finish_replacing(&self) -> io::Result<()> {
        let staging = self.staging();
        let staged = match std::fs::read_to_string(&staging) {
            Ok(staged) => staged,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if let Some(at) = staged.find("-----BEGIN CERTIFICATE-----")
            && let Some((key, certificate)) = staged.split_at_checked(at)
        {
            write_atomic(&self.key, key.as_bytes(), SECRET)?;
            write_atomic(&self.certificate, certificate.as_bytes(), PUBLIC)?;
        }
        match std::fs::remove_file(&staging) {
            // Another reader of the staged pair was faster. It wrote the same pair.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn staging(&self) -> PathBuf {
        let mut name = self.key.as_os_str().to_owned();
        name.push(".next");
        name.into()
    }
}

impl Application {
    /// A new P-256 key and a request in this node's name (spec 01 §7.3).
    pub(super) fn new(node: &NodeName) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params
            .distinguished_name
            .push(DnType::CommonName, format!("system:node:{node}"));
        let request = params.serialize_request(&key)?.der().to_vec();
        let key_pem = sec1(&key).map_or_else(|| key.serialize_pem(), |der| pem("EC PRIVATE KEY", &der));
        Ok(Self { key_pem, request })
    }
}

/// Whether bytes are a certificate.
pub(super) fn is_certificate(der: &[u8]) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(rest, _)| rest.is_empty())
}

fn read_leaf(der: &CertificateDer<'_>) -> Option<(String, Validity)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let name = certificate
        .subject()
        .iter_common_name()
        .next()?
        .as_str()
        .ok()?
        .to_owned();
    let validity = certificate.validity();
    let from = Timestamp::from_second(validity.not_before.timestamp()).ok()?;
    let until = Timestamp::from_second(validity.not_after.timestamp()).ok()?;
    Some((name, Validity { from, until }))
}

/// The key as Go edges write and read it: SEC1 with the curve's name, made of PKCS#8's parts.
fn sec1(key: &KeyPair) -> Option<Vec<u8>> {
    const BEFORE_PRIVATE: [u8; 5] = [0x02, 0x01, 0x01, 0x04, 0x20];
    const CURVE: [u8; 12] = [0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    let pkcs8 = key.serialize_der();
    let at = pkcs8
        .windows(BEFORE_PRIVATE.len())
        .position(|window| window == BEFORE_PRIVATE)?;
    let private = pkcs8.get(at + BEFORE_PRIVATE.len()..at + BEFORE_PRIVATE.len() + 32)?;
    let public = key.public_key_raw();
    if public.len() != 65 {
        return None;
    }
    let mut der = vec![0x30, 0x77];
    der.extend(BEFORE_PRIVATE);
    der.extend(private);
    der.extend(CURVE);
    der.extend([0xa1, 0x44, 0x03, 0x42, 0x00]);
    der.extend(public);
    Some(der)
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateSigningRequestParams, IsCa, Issuer};

    use std::path::Path;

    use super::*;

    fn ca() -> (Vec<u8>, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let der = params.self_signed(&key).expect("ca").der().to_vec();
        (der, Issuer::new(params, key))
    }

    fn sign(issuer: &Issuer<'static, KeyPair>, application: &Application) -> Vec<u8> {
        let request = CertificateSigningRequestParams::from_der(&application.request.clone().into()).expect("request");
        request.signed_by(issuer).expect("certificate").der().to_vec()
    }

    fn paths(folder: &Path) -> Paths {
        Paths {
            ca: folder.join("ca/rootCA.crt"),
            certificate: folder.join("certs/server.crt"),
            key: folder.join("certs/server.key"),
        }
    }

    #[test]
    fn a_pair_is_stored_read_and_bound_to_the_node() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("folder");
        let paths = paths(folder.path());
        let node = NodeName::new("edge-1");
        assert!(matches!(paths.load(&node), Err(Unusable::Missing(_))));
        let (ca, issuer) = ca();
        let application = Application::new(&node).expect("application");
        paths.write_ca(&ca).expect("ca");
        paths
            .write_pair(&application, &sign(&issuer, &application))
            .expect("pair");
        let usable = paths.load(&node).expect("usable");
        assert!(usable.validity.until > usable.validity.from);
        assert!(matches!(
            paths.load(&NodeName::new("edge-2")),
            Err(Unusable::Foreign { .. })
        ));
        let key = std::fs::read_to_string(&paths.key).expect("key");
        assert!(
            key.starts_with("-----BEGIN EC PRIVATE KEY-----"),
            "{}",
            key.lines().next().unwrap_or_default()
        );
        let mode = std::fs::metadata(&paths.key).expect("key").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_interrupted_replacement_is_finished_and_a_mixed_pair_found_out() {
        let folder = tempfile::tempdir().expect("folder");
        let paths = paths(folder.path());
        let node = NodeName::new("edge-1");
        let (ca, issuer) = ca();
        paths.write_ca(&ca).expect("ca");
        let old = Application::new(&node).expect("application");
        paths.write_pair(&old, &sign(&issuer, &old)).expect("pair");
        let new = Application::new(&node).expect("application");
        let certificate = sign(&issuer, &new);
        // The power fails after the key, before the certificate.
        std::fs::write(&paths.key, &new.key_pem).expect("key");
        assert!(matches!(paths.load(&node), Err(Unusable::Unpaired)));
        let staged = format!("{}{}", new.key_pem, pem("CERTIFICATE", &certificate));
        std::fs::write(paths.staging(), staged).expect("staging");
        paths.load(&node).expect("usable");
        assert_eq!(
            client::certificates(&paths.certificate)
                .expect("certificate")
                .first()
                .expect("one")
                .as_ref(),
            certificate
        );
        assert!(!paths.staging().exists());
    }
}
