//! What can be known of a token without its key.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// Why a token is of no use.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum BadToken {
    #[error("the token is not one of `keadm gettoken`: it has {0} parts, not 4; was a piece lost in copying?")]
    Parts(usize),
    #[error(
        "the token belongs to another cloudcore, or the address does: its certificate authority is not the token's"
    )]
    OtherCloud,
    #[error("the token is mistyped: its second half cannot be read")]
    Unreadable,
    #[error("the token expired {0}: get a new one with `keadm gettoken`")]
    Expired(String),
}

/// A token taken apart: the hash of the CA and the part that is sent.
#[derive(Debug)]
pub(super) struct Token<'a> {
    hash: &'a str,
    /// What goes into `Authorization`.
    pub(super) bearer: &'a str,
    expires: i64,
}

impl<'a> Token<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, BadToken> {
        let parts: Vec<&str> = text.split('.').collect();
        let [hash, _, claims, _] = parts[..] else {
            return Err(BadToken::Parts(parts.len()));
        };
        let bearer = text.get(hash.len() + 1..).ok_or(BadToken::Unreadable)?;
        let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| BadToken::Unreadable)?;
        let claims: serde_json::Value = serde_json::from_slice(&claims).map_err(|_| BadToken::Unreadable)?;
        let expires = claims
            .get("exp")
            .and_then(serde_json::Value::as_i64)
            .ok_or(BadToken::Unreadable)?;
        Ok(Self { hash, bearer, expires })
    }

    /// Whether it is for the cloud with this authority.
    pub(super) fn check_authority(&self, certificate: &[u8]) -> Result<(), BadToken> {
        let digest: String = Sha256::digest(certificate)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        if self.hash.eq_ignore_ascii_case(&digest) {
            Ok(())
        } else {
            Err(BadToken::OtherCloud)
        }
    }

    /// Whether it is still good at `now`, in Unix seconds of the cloud's clock.
    pub(super) fn check_time(&self, now: i64) -> Result<(), BadToken> {
        if now < self.expires {
            return Ok(());
        }
        let ago = match (now - self.expires) / 60 {
            minutes @ 0..120 => format!("{minutes} minutes ago"),
            minutes => format!("{} hours ago", minutes / 60),
        };
        Err(BadToken::Expired(ago))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made of the CA bytes `ca`, the key bytes `key` and the expiry 1700086400.
    const TOKEN: &str = "6959097001d10501ac7d54c0bdb8db61420f658f2922cc26e46d536119a31126.eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.\
                         eyJleHAiOjE3MDAwODY0MDB9.QAdtcQINq_cUhYp6-yk96q3aeSDOu6vdaVjW1YkgsWA";

    #[test]
    fn tells_what_is_wrong() {
        let token = Token::parse(TOKEN).expect("it is one");
        assert!(token.bearer.starts_with("eyJhbGci"));
        assert_eq!(token.check_authority(b"ca"), Ok(()));
        assert_eq!(token.check_authority(b"cb"), Err(BadToken::OtherCloud));
        assert_eq!(token.check_time(1_700_086_399), Ok(()));
        assert_eq!(
            token.check_time(1_700_086_460),
            Err(BadToken::Expired("1 minutes ago".into()))
        );
        assert_eq!(
            token.check_time(1_700_186_400),
            Err(BadToken::Expired("27 hours ago".into()))
        );
        assert!(matches!(Token::parse("a.b.c"), Err(BadToken::Parts(3))));
        assert!(matches!(Token::parse("a.b.c.d"), Err(BadToken::Unreadable)));
    }
}
