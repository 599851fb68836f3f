//! The captured HTTPS port: requests as they were sent, answers by what they say.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;

/// One exchange on the HTTPS port.
#[derive(Clone, Debug, Deserialize)]
pub struct JoinExchange {
    /// What is tried.
    pub step: String,
    /// Whose certificate was presented.
    pub client_certificate: Option<String>,
    /// Head of the request, raw.
    pub request: String,
    /// Its body.
    pub request_body: Option<Body>,
    /// Head of the answer, raw.
    pub response: String,
    /// Its body.
    pub response_body: Option<Body>,
}

/// A body in `join.jsonl`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Body {
    /// As it is.
    Text(String),
    /// Binary.
    Base64(String),
    /// Not kept; what it was.
    Note(String),
}

/// Every exchange of `join.jsonl`.
///
/// # Panics
/// When the file does not follow its README.
pub fn join() -> Vec<JoinExchange> {
    include_str!("../../golden/join.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of join.jsonl follows its README"))
        .collect()
}

impl JoinExchange {
    /// The method of the request.
    pub fn method(&self) -> &str {
        self.request.split(' ').next().unwrap_or_default()
    }

    /// The request again, with tokens of the CA whose key this is; the good ones are good for an hour from `now` (Unix seconds).
    pub fn request_again(&self, key: &[u8], now: u64) -> Vec<u8> {
        let good = json!({"exp": now + 3600});
        let tokens = [
            ("redacted", jwt("HS256", &good, key)),
            ("expired", jwt("HS256", &json!({"exp": now - 3600}), key)),
            ("foreign", jwt("HS256", &good, b"another key")),
            ("algnone", jwt("none", &good, key)),
            ("hs384", jwt("HS384", &good, key)),
            ("noexp", jwt("HS256", &json!({}), key)),
        ];
        let head = tokens.iter().fold(self.request.clone(), |head, (name, token)| {
            head.replace(&format!("{name}.jwt.token"), token)
        });
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok());
        let body = self.request_body.as_ref().map(Body::bytes).unwrap_or_default();
        let end = head.len() + body.len().max(length.unwrap_or_default());
        let mut request = [head.into_bytes(), body].concat();
        // What was too large to be kept was `x`es.
        request.resize(end, b'x');
        request
    }

    /// The captured answer, as [`join_answer`] has it.
    pub fn answer(&self) -> Value {
        let body = self.response_body.as_ref().map(Body::bytes).unwrap_or_default();
        join_answer(&[self.response.as_bytes(), &body].concat())
    }
}

impl Body {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Base64(text) => STANDARD.decode(text).expect("base64"),
            Self::Note(_) => Vec::new(),
        }
    }
}

/// What an answer says: `status`, its headers but date and length, and `body`: a certificate by its fields, or a text by its links:
/// what follows `: ` is under `cause`, what follows `, err: ` under `err`.
///
/// # Panics
/// When it is no answer.
pub fn join_answer(answer: &[u8]) -> Value {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let (head, body) = answer.split_at(end.expect("an answer with a head"));
    let mut lines = std::str::from_utf8(head).expect("a head is text").lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let headers = lines.filter_map(|line| line.split_once(": "));
    let mut headers: Map<String, Value> = headers
        .map(|(name, value)| (name.to_ascii_lowercase(), value.into()))
        .collect();
    headers.remove("date");
    headers.remove("content-length");
    let body = &body[4..];
    let body = match std::str::from_utf8(body) {
        Ok(text) => links(text),
        Err(_) => certificate(body),
    };
    json!({"status": status, "header": headers, "body": body})
}

fn links(text: &str) -> Value {
    let separators = [(", err: ", "err"), (": ", "cause")];
    let found = separators
        .iter()
        .filter_map(|(by, key)| Some((text.find(by)?, by.len(), *key)));
    match found.min() {
        None => json!({ "text": text }),
        Some((at, length, key)) => json!({"text": &text[..at], key: links(&text[at + length..])}),
    }
}

/// The fields of a certificate. Of times only how long it lasts, of a random serial number and of hashes of keys that they are there.
fn certificate(der: &[u8]) -> Value {
    let (_, certificate) = X509Certificate::from_der(der).expect("what is no text is a certificate");
    let validity = certificate.validity();
    let serial = certificate.serial.to_string();
    let extensions: Map<String, Value> = certificate
        .extensions()
        .iter()
        .map(|extension| {
            let value = match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(_) | ParsedExtension::AuthorityKeyIdentifier(_) => Value::Null,
                ParsedExtension::SubjectAlternativeName(names) => {
                    let mut names: Vec<String> = names.general_names.iter().map(ToString::to_string).collect();
                    names.sort();
                    json!(names)
                }
                _ => STANDARD.encode(extension.value).into(),
            };
            let said = json!({"critical": extension.critical, "value": value});
            (extension.oid.to_id_string(), said)
        })
        .collect();
    json!({
        "version": certificate.version().0,
        "serial": if certificate.is_ca() { serial } else { "random".into() },
        "signature": certificate.signature_algorithm.algorithm.to_id_string(),
        "issuer": certificate.issuer().to_string(),
        "subject": certificate.subject().to_string(),
        "lasts": validity.not_after.timestamp() - validity.not_before.timestamp(),
        "key": STANDARD.encode(certificate.public_key().raw),
        "extensions": extensions,
    })
}

/// A JSON Web Token; one of a method without a key is not signed.
fn jwt(method: &str, claims: &Value, key: &[u8]) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{method}","typ":"JWT"}}"#));
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = method.parse::<Algorithm>().map(|algorithm| {
        crypto::sign(signed.as_bytes(), &EncodingKey::from_secret(key), algorithm).expect("an HMAC of any key")
    });
    format!("{signed}.{}", signature.unwrap_or_default())
}
