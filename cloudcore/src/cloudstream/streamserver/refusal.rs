//! Errors as the stream server answers them: plain text, since the API server shows the body to the user (spec 04 §7.4).

use http::StatusCode;

/// An answer that is not the kubelet's.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cloudstream) struct Refusal {
    pub(in crate::cloudstream) status: StatusCode,
    pub(in crate::cloudstream) text: String,
}

impl Refusal {
    pub(in crate::cloudstream) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
        }
    }

    /// The whole response.
    pub(in crate::cloudstream) fn response(&self) -> String {
        let Self { status, text } = self;
        let challenge = if *status == StatusCode::UNAUTHORIZED {
            "WWW-Authenticate: Bearer\r\n"
        } else {
            ""
        };
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n{challenge}Content-Length: {}\r\n\
             Connection: close\r\n\r\n{text}",
            text.len()
        )
    }
}
