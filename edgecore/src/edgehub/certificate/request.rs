//! The two HTTPS requests of the join: the CA, and a certificate (spec 01 §7).

use std::time::Duration;

use bytes::Bytes;
use common::tls::client::{ClientTlsError, Identity, cloud_config, unverified_config, without_time};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, ServerName};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::files::is_certificate;

/// As in Go.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Certificates are about 1 KiB; errors are a line.
const MAX_BODY: usize = 64 * 1024;

/// Why no certificate came. Each is a cause of its own for whoever reads the log.
#[derive(Debug, Error)]
pub(in crate::edgehub) enum JoinError {
    /// `httpServer` is no https URL.
    #[error("modules.edgeHub.httpServer {0:?} is not of the form https://host:port")]
    Address(String),
    /// The token is not of four parts.
    #[error("the token is not of the form that `keadm gettoken` prints")]
    TokenForm,
    /// Nobody answers.
    #[error("cannot reach cloudcore at {0}")]
    Unreachable(String, #[source] std::io::Error),
    /// Nobody answers in time.
    #[error("cloudcore at {0} did not answer within 30s")]
    Timeout(String),
    /// The CA is not the one that the token names.
    #[error(
        "the token belongs to another cluster: the CA of cloudcore at {address} has the hash {found}, the token names {expected}"
    )]
    ForeignCa {
        /// Whom we asked.
        address: String,
        /// From the token.
        expected: String,
        /// What is served.
        found: String,
    },
    /// Somebody else's certificate, or a wrong clock.
    #[error("the certificate of cloudcore at {address} is not accepted{hint}")]
    Tls {
        /// Whom we asked.
        address: String,
        /// What to look at.
        hint: &'static str,
        /// What TLS says.
        #[source]
        source: std::io::Error,
    },
    /// 401 or 400 for the token.
    #[error("cloudcore refuses the token, which has expired: get a new one by `keadm gettoken` ({0})")]
    TokenExpired(String),
    /// 401 or 400 for the token.
    #[error("cloudcore refuses the token: get the right one by `keadm gettoken` ({0})")]
    TokenWrong(String),
    /// 401 for the certificate.
    #[error("cloudcore refuses this node's certificate ({0})")]
    CertificateRefused(String),
    /// Another error of the cloud.
    #[error("cloudcore answered {0}: {1}")]
    Refused(u16, String),
    /// 200, but no certificate.
    #[error("cloudcore's answer is no certificate ({0} bytes)")]
    NoCertificate(usize),
    /// The exchange broke off.
    #[error("the exchange with cloudcore at {0} broke off")]
    Http(String, #[source] hyper::Error),
    /// The request cannot be built.
    #[error("the request cannot be built")]
    Request(#[source] http::Error),
    /// No TLS configuration.
    #[error(transparent)]
    Config(#[from] ClientTlsError),
    /// The key or the request for a certificate cannot be made.
    #[error("a new key cannot be made")]
    Key(#[source] rcgen::Error),
    /// The files cannot be written.
    #[error("the certificate cannot be stored in {0}")]
    Store(String, #[source] std::io::Error),
}

/// A token: the hash of the CA, and what goes into the request.
#[derive(Clone, Copy)]
pub(super) struct Token<'a> {
    hash: &'a str,
    bearer: &'a str,
}

impl<'a> Token<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, JoinError> {
        let (hash, bearer) = text.trim().split_once('.').ok_or(JoinError::TokenForm)?;
        if hash.len() != 64 || bearer.split('.').count() != 3 {
            return Err(JoinError::TokenForm);
        }
        Ok(Self { hash, bearer })
    }
}

/// Whom to ask.
#[derive(Clone, Debug)]
pub(super) struct Server {
    host: String,
    port: u16,
}

impl Server {
    pub(super) fn parse(url: &str) -> Result<Self, JoinError> {
        let wrong = || JoinError::Address(url.to_owned());
        let uri: http::Uri = url.parse().map_err(|_| wrong())?;
        if uri.scheme_str() != Some("https") {
            return Err(wrong());
        }
        let host = uri.host().ok_or_else(wrong)?.trim_matches(['[', ']']).to_owned();
        Ok(Self {
            host,
            port: uri.port_u16().unwrap_or(443),
        })
    }

    fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The CA, believed only if it has the hash that the token names.
    pub(super) async fn fetch_ca(&self, token: Token<'_>) -> Result<Vec<u8>, JoinError> {
        let request = self
            .request("/ca.crt")
            .body(Full::default())
            .map_err(JoinError::Request)?;
        let (_, body) = self.exchange(unverified_config()?, request).await?;
        let found: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
        if !found.eq_ignore_ascii_case(token.hash) {
            return Err(JoinError::ForeignCa {
                address: self.address(),
                expected: token.hash.to_owned(),
                found,
            });
        }
        Ok(body.to_vec())
    }

    /// A certificate for the request, by token …
    pub(super) async fn apply_with_token(
        &self,
        ca: &[u8],
        token: Token<'_>,
        node: &str,
        csr: Vec<u8>,
    ) -> Result<Vec<u8>, JoinError> {
        let config = cloud_config(&[CertificateDer::from(ca.to_vec())], None)?;
        let request = self
            .request("/edge.crt")
            .header("NodeName", node)
            .header(http::header::AUTHORIZATION, format!("Bearer {}", token.bearer))
            .body(Full::from(csr))
            .map_err(JoinError::Request)?;
        match self.exchange(config, request).await? {
            (200, body) => certificate(&body),
            (400 | 401, body) => {
                let text = text(&body);
                Err(if text.contains("expired") {
                    JoinError::TokenExpired(text)
                } else {
                    JoinError::TokenWrong(text)
                })
            }
            (status, body) => Err(JoinError::Refused(status, text(&body))),
        }
    }

    /// … or by the certificate that it shall replace.
    pub(super) async fn apply_with_certificate(
        &self,
        roots: &[CertificateDer<'static>],
        identity: Identity,
        node: &str,
        csr: Vec<u8>,
    ) -> Result<Vec<u8>, JoinError> {
        let config = cloud_config(roots, Some(identity))?;
        let request = self
            .request("/edge.crt")
            .header("NodeName", node)
            .body(Full::from(csr))
            .map_err(JoinError::Request)?;
        match self.exchange(config, request).await? {
            (200, body) => certificate(&body),
            (401, body) => Err(JoinError::CertificateRefused(text(&body))),
            (status, body) => Err(JoinError::Refused(status, text(&body))),
        }
    }

    fn request(&self, path: &str) -> http::request::Builder {
        http::Request::get(path)
            .header(http::header::HOST, self.address())
            .header(http::header::CONNECTION, "close")
    }

    async fn exchange(
        &self,
        config: rustls::ClientConfig,
        request: http::Request<Full<Bytes>>,
    ) -> Result<(u16, Bytes), JoinError> {
        tokio::time::timeout(TIMEOUT, self.exchange_untimed(config, request))
            .await
            .unwrap_or_else(|_| Err(JoinError::Timeout(self.address())))
    }

    async fn exchange_untimed(
        &self,
        config: rustls::ClientConfig,
        request: http::Request<Full<Bytes>>,
    ) -> Result<(u16, Bytes), JoinError> {
        let address = self.address();
        let unreachable = |error| JoinError::Unreachable(address.clone(), error);
        let name = ServerName::try_from(self.host.clone()).map_err(|_| JoinError::Address(self.host.clone()))?;
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(unreachable)?;
        let stream = TlsConnector::from(std::sync::Arc::new(config))
            .connect(name, stream)
            .await
            .map_err(|source| tls_error(&address, source))?;
        let broken = |error| JoinError::Http(address.clone(), error);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), MAX_BODY)
                .collect()
                .await
                .map_err(|error| JoinError::Refused(status, error.to_string()))?
                .to_bytes();
            Ok((status, body))
        };
        tokio::pin!(answer);
        tokio::pin!(connection);
        // The connection is driven here: it ends with the answer, and no task outlives it.
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            driven = &mut connection => match driven {
                Ok(()) => answer.await,
                Err(error) => Err(broken(error)),
            },
        }
    }
}

/// What to look at when a server's certificate is refused.
pub(in crate::edgehub) fn tls_hint(error: &std::io::Error) -> &'static str {
    use rustls::{AlertDescription, CertificateError, Error};
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => ": is this machine's clock right?",
        Some(Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => ": add this address to cloudHub.advertiseAddress or dnsNames of cloudcore",
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            ": it was issued by another cluster's CA"
        }
        // A certificate that is not valid yet gets this alert as well.
        Some(Error::AlertReceived(AlertDescription::CertificateExpired)) => {
            ": this node's certificate is not valid now: set the clock right, or put a token of `keadm gettoken` into modules.edgeHub.token"
        }
        Some(Error::AlertReceived(_)) => ": cloudcore refuses this node's certificate",
        _ => "",
    }
}

fn tls_error(address: &str, source: std::io::Error) -> JoinError {
    if source.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
        JoinError::Tls {
            address: address.to_owned(),
            hint: tls_hint(&source),
            source: without_time(source),
        }
    } else {
        JoinError::Unreachable(address.to_owned(), source)
    }
}

fn certificate(body: &Bytes) -> Result<Vec<u8>, JoinError> {
    if is_certificate(body) {
        Ok(body.to_vec())
    } else {
        Err(JoinError::NoCertificate(body.len()))
    }
}

fn text(body: &Bytes) -> String {
    String::from_utf8_lossy(body)
        .chars()
        .take(200)
        .filter(|c| !c.is_control())
        .collect()
}
