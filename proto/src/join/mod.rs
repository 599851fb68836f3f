//! How a node joins: tokens, certificate requests, certificates (spec 01 §7).

mod authority;
mod name;
mod request;
mod serving;
#[cfg(test)]
mod tests;
mod token;

pub use authority::{Authority, AuthorityError, Issued, ServerNames, ec_private_key, issued_at};
pub use name::{CertificateName, PeerName, subject_of};
pub use request::{BadRequest, CertificateRequest, ExtendedKeyUsages, MAX_REQUEST};
pub use serving::{ServingRequest, Validity};
pub use token::{BadToken, Token, sign_token, verify_jwt};

/// What keadm of v1.12 to v1.15 reports to `/nodeupgrade`; other keys are passed on with the body.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct UpgradeReport {
    /// The task.
    #[serde(rename = "UpgradeID", default)]
    pub upgrade_id: String,
    /// The node.
    #[serde(rename = "NodeName")]
    pub node_name: String,
}
