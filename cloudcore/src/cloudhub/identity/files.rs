//! Certificates and keys that the operator put into files.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use rustls_pki_types::pem::{PemObject as _, SectionKind};

use super::IdentityError;

/// A certificate and its key, DER.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct Pair {
    pub(super) certificate: Vec<u8>,
    pub(super) key: Vec<u8>,
}

impl Pair {
    /// The pair in two PEM files, the first block of each; `None` when neither file is there.
    pub(super) fn read(certificate: &Path, key: &Path) -> Result<Option<Self>, IdentityError> {
        let half = |present: &Path, absent: &Path| IdentityError::Half {
            present: present.into(),
            absent: absent.into(),
        };
        match (block(certificate)?, block(key)?) {
            (Some(certificate), Some(key)) => Ok(Some(Self { certificate, key })),
            (Some(_), None) => Err(half(certificate, key)),
            (None, Some(_)) => Err(half(key, certificate)),
            (None, None) => Ok(None),
        }
    }
}

fn block(path: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(IdentityError::File {
                path: path.into(),
                source,
            });
        }
    };
    // openssl puts a block with the curve's parameters before an EC key: the first block that is meant counts.
    let first = <(SectionKind, Vec<u8>)>::pem_slice_iter(&bytes).next();
    match first {
        Some(Ok((_, der))) => Ok(Some(der)),
        _ => Err(IdentityError::NoPem(path.into())),
    }
}
