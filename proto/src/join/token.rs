//! The join token: `hex(sha256(CA certificate)).header.claims.signature` (spec 01 §7.5).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// The header that Go writes, with its order of keys.
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

/// A token is 170 bytes; far more is no token.
const MAX_TOKEN: usize = 4096;

/// A token in its two halves.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    ca_hash: String,
    jwt: String,
}

/// Why a token is not accepted. The texts are those that operators find in Go's logs.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadToken {
    /// The token has not four parts, or no hash.
    #[error("token is malformed: want <sha256 of the CA>.<header>.<claims>.<signature>")]
    Parts,
    /// The JWT has not three parts.
    #[error("token is malformed: token contains an invalid number of segments")]
    Segments,
    /// A part is not base64url or not the JSON that it should be.
    #[error("token is malformed: could not decode {0}")]
    Encoding(&'static str),
    /// Not one of the HMAC methods.
    #[error("token is unverifiable: invalid token method type, want HMAC, got {0}")]
    Method(String),
    /// The signature is not of this CA's key.
    #[error("token signature is invalid: signature is invalid")]
    Signature,
    /// Its time is over.
    #[error("token has invalid claims: token is expired")]
    Expired,
    /// It would never expire.
    #[error("token has invalid claims: token has no exp claim")]
    NoExpiry,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    exp: Option<u64>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
}

impl Token {
    /// Takes a token apart.
    pub fn parse(text: &str) -> Result<Self, BadToken> {
        let text = text.trim();
        if text.len() > MAX_TOKEN {
            return Err(BadToken::Parts);
        }
        let (ca_hash, jwt) = text.split_once('.').ok_or(BadToken::Parts)?;
        let is_hash = ca_hash.len() == 64 && ca_hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hash || jwt.split('.').count() != 3 {
            return Err(BadToken::Parts);
        }
        Ok(Self {
            ca_hash: ca_hash.to_ascii_lowercase(),
            jwt: jwt.to_owned(),
        })
    }

    /// What goes into `Authorization: Bearer`.
    pub fn jwt(&self) -> &str {
        &self.jwt
    }

    /// When it expires (Unix seconds), unchecked: only the cloud can tell whether that was altered.
    pub fn expires(&self) -> Option<u64> {
        decode::<Claims>(self.jwt.split('.').nth(1)?, "claims").ok()?.exp
    }

    /// Whether this is the CA that the token names.
    pub fn names_ca(&self, ca_der: &[u8]) -> bool {
        self.ca_hash == hex(&Sha256::digest(ca_der))
    }
}

/// A token is a secret.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "token for the CA {}", self.ca_hash)
    }
}

/// A token that lives until `expires` (Unix seconds). `key` are the CA key's bytes exactly as they are stored.
pub fn sign_token(ca_der: &[u8], key: &[u8], expires: u64) -> Result<String, BadToken> {
    let header = URL_SAFE_NO_PAD.encode(HEADER);
    let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{expires}}}"#));
    let signed = format!("{header}.{claims}");
    let signature = crypto::sign(signed.as_bytes(), &EncodingKey::from_secret(key), Algorithm::HS256)
        .map_err(|_| BadToken::Signature)?;
    Ok(format!("{}.{signed}.{signature}", hex(&Sha256::digest(ca_der))))
}

/// Checks the JWT half of a token at the time `now` (Unix seconds).
pub fn verify_jwt(jwt: &str, key: &[u8], now: u64) -> Result<(), BadToken> {
    if jwt.len() > MAX_TOKEN {
        return Err(BadToken::Segments);
    }
    let mut parts = jwt.split('.');
    let (Some(header), Some(claims), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(BadToken::Segments);
    };
    let algorithm = match decode::<Header>(header, "header")?.alg.as_str() {
        "HS256" => Algorithm::HS256,
        "HS384" => Algorithm::HS384,
        "HS512" => Algorithm::HS512,
        other => return Err(BadToken::Method(other.chars().take(16).collect())),
    };
    let signed = format!("{header}.{claims}");
    let valid = crypto::verify(signature, signed.as_bytes(), &DecodingKey::from_secret(key), algorithm);
    if !valid.unwrap_or(false) {
        return Err(BadToken::Signature);
    }
    match decode::<Claims>(claims, "claims")?.exp {
        None => Err(BadToken::NoExpiry),
        Some(expires) if expires <= now => Err(BadToken::Expired),
        Some(_) => Ok(()),
    }
}

fn decode<T: for<'de> Deserialize<'de>>(part: &str, what: &'static str) -> Result<T, BadToken> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| BadToken::Encoding(what))?;
    serde_json::from_slice(&json).map_err(|_| BadToken::Encoding(what))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed from the formula with CA bytes `ca`, key bytes `key`.
    const VECTOR: &str = "6959097001d10501ac7d54c0bdb8db61420f658f2922cc26e46d536119a31126.eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjE3MDAwODY0MDB9.QAdtcQINq_cUhYp6-yk96q3aeSDOu6vdaVjW1YkgsWA";

    #[test]
    fn the_vector_bit_for_bit() {
        assert_eq!(sign_token(b"ca", b"key", 1_700_086_400).as_deref(), Ok(VECTOR));
        let token = Token::parse(VECTOR).unwrap();
        assert!(token.names_ca(b"ca") && !token.names_ca(b"other"));
        assert_eq!(verify_jwt(token.jwt(), b"key", 1_700_086_399), Ok(()));
        assert_eq!(verify_jwt(token.jwt(), b"key", 1_700_086_400), Err(BadToken::Expired));
        assert_eq!(verify_jwt(token.jwt(), b"other", 0), Err(BadToken::Signature));
        assert_eq!(verify_jwt(VECTOR, b"key", 0), Err(BadToken::Segments));
    }

    #[test]
    fn other_methods_and_tokens_without_an_end_are_refused() {
        let with = |header: &str, claims: &str| {
            format!("{}.{}.", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
        };
        let none = with(r#"{"alg":"none"}"#, r#"{"exp":9999999999}"#);
        assert_eq!(verify_jwt(&none, b"key", 0), Err(BadToken::Method("none".into())));
        let unsigned = with(r#"{"alg":"HS256"}"#, r#"{"exp":9999999999}"#);
        assert_eq!(verify_jwt(&unsigned, b"key", 0), Err(BadToken::Signature));
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode("{}"));
        let signature = crypto::sign(signed.as_bytes(), &EncodingKey::from_secret(b"key"), Algorithm::HS256).unwrap();
        assert_eq!(
            verify_jwt(&format!("{signed}.{signature}"), b"key", 0),
            Err(BadToken::NoExpiry)
        );
        assert_eq!(verify_jwt("a.b.c", b"key", 0), Err(BadToken::Encoding("header")));
        assert_eq!(verify_jwt("garbage", b"key", 0), Err(BadToken::Segments));
    }

    #[test]
    fn broken_tokens_are_told_from_good_ones() {
        for text in ["", "a.b.c.d", &VECTOR[..100], &VECTOR[1..], &format!("{VECTOR}.x")] {
            assert_eq!(Token::parse(text), Err(BadToken::Parts), "{text}");
        }
        assert!(Token::parse(&format!(" {VECTOR}\n")).is_ok());
    }
}
