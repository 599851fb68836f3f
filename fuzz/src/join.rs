//! Readers of what a machine sends that nobody knows yet: tokens, requests, certificates.

use proto::join::{CertificateName, CertificateRequest, ExtendedKeyUsages, ServerNames, Token, verify_jwt};

/// A token, and what stands after `Bearer`.
pub fn join_token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    assert!(verify_jwt(text, KEY, 0).is_err() || text.contains('.'));
    let Ok(token) = Token::parse(text) else { return };
    let _ = (
        token.expires(),
        token.names_ca(data),
        verify_jwt(token.jwt(), KEY, 0),
        format!("{token:?}"),
    );
}

/// A node's name, a line end, a certificate request; the name is also tried as the header of usages.
pub fn join_request(data: &[u8]) {
    let (head, request) = match data.iter().position(|byte| *byte == b'\n') {
        Some(at) => data.split_at(at),
        None => (data, &[][..]),
    };
    let head = String::from_utf8_lossy(head);
    let _ = ExtendedKeyUsages::parse(&head);
    let _ = CertificateRequest::check(request.get(1..).unwrap_or_default(), &head.as_ref().into());
}

/// A certificate.
pub fn join_certificate(data: &[u8]) {
    if let Some(name) = CertificateName::of_certificate(data) {
        let _ = name.peer();
    }
    if let Some(names) = ServerNames::of_certificate(data) {
        assert!(names.contain(&names));
    }
}

const KEY: &[u8] = b"key";
