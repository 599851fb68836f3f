//! What can be known of a token without its key, in words for the one who typed it.

use proto::join::Token;
use thiserror::Error;

/// Why a token is of no use.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum Useless {
    #[error("the token is not one of `keadm gettoken`: was a piece lost in copying?")]
    Mistyped,
    #[error(
        "the token belongs to another cloudcore, or the address does: its certificate authority is not the token's"
    )]
    OtherCloud,
    #[error("the token expired {0}: get a new one with `keadm gettoken`")]
    Expired(String),
}

/// Takes a token apart and holds it against the cloud's authority (DER) and clock (Unix seconds).
pub(super) fn check(text: &str, authority: &[u8], now: i64) -> Result<Token, Useless> {
    let token = Token::parse(text).map_err(|_| Useless::Mistyped)?;
    if !token.names_ca(authority) {
        return Err(Useless::OtherCloud);
    }
    let expires = token
        .expires()
        .and_then(|expires| i64::try_from(expires).ok())
        .ok_or(Useless::Mistyped)?;
    if now < expires {
        return Ok(token);
    }
    Err(Useless::Expired(match (now - expires) / 60 {
        minutes @ 0..120 => format!("{minutes} minutes ago"),
        minutes => format!("{} hours ago", minutes / 60),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made of the CA bytes `ca`, the key bytes `key` and the expiry 1700086400.
    const TOKEN: &str = "6959097001d10501ac7d54c0bdb8db61420f658f2922cc26e46d536119a31126.eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.\
                         eyJleHAiOjE3MDAwODY0MDB9.QAdtcQINq_cUhYp6-yk96q3aeSDOu6vdaVjW1YkgsWA";

    #[test]
    fn tells_what_is_wrong() {
        assert!(check(TOKEN, b"ca", 1_700_086_399).is_ok());
        assert_eq!(check(TOKEN, b"cb", 0), Err(Useless::OtherCloud));
        assert_eq!(
            check(TOKEN, b"ca", 1_700_086_460),
            Err(Useless::Expired("1 minutes ago".into()))
        );
        assert_eq!(
            check(TOKEN, b"ca", 1_700_186_400),
            Err(Useless::Expired("27 hours ago".into()))
        );
        assert_eq!(check("a.b.c", b"ca", 0), Err(Useless::Mistyped));
        assert_eq!(
            check(&TOKEN.replace("eyJleHAi", "eyJleHAx"), b"ca", 0),
            Err(Useless::Mistyped)
        );
    }
}
