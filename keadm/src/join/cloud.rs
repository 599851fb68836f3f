//! What cloudcore says before this machine joins: the same calls that edgecore will make, so that their faults are told here.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use common::tls::client::{cloud_config, unverified_config};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::preflight::CloudAddress;
use super::token;
use crate::steps::Steps;

/// Asks for the CA, the node's name and the token's worth. An error is one line that says what to do.
pub(super) async fn check(address: &CloudAddress, certport: u16, node: &str, token: &str) -> anyhow::Result<()> {
    let https = Https {
        address,
        port: certport,
        trust: None,
    };
    let authority = https.get("/ca.crt", |request| request).await?;
    let cloud_now = date(&authority);
    tell_skew(cloud_now);
    let certificate = authority.into_body();

    let answer = https.get(&format!("/node/{node}"), |request| request).await?;
    if answer.status() != StatusCode::NOT_FOUND {
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        bail!(
            "node already exists or internal error occurred, cannot register again: cloudcore says {} {:?} of node {node}; \
             `kubectl delete node {node}` if it is this machine's old one",
            answer.status().as_u16(),
            text.trim()
        );
    }
    if token.is_empty() {
        Steps::warn("no --token: edgecore can join only with certificates that are there already");
    } else {
        let now = cloud_now.unwrap_or_else(Timestamp::now).as_second();
        let token = token::check(token, &certificate, now)?;
        let trusted = Https {
            trust: Some(CertificateDer::from(certificate.to_vec())),
            ..https
        };
        // Without a request to sign, nothing is issued: only the verdict on the token is of interest.
        let answer = trusted
            .get("/edge.crt", |request| {
                request
                    .header("NodeName", node)
                    .header("Authorization", format!("Bearer {}", token.jwt()))
            })
            .await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            let text = String::from_utf8_lossy(answer.body()).into_owned();
            bail!(
                "cloudcore refuses the token ({}): get a new one with `keadm gettoken`",
                text.trim()
            );
        }
    }
    let hub = address.with(address.port);
    reach(&hub).await.with_context(|| {
        format!(
            "cloudcore's hub {hub} is unreachable, though {} answers: is the port open?",
            https.name()
        )
    })?;
    let tunnel = address.with(TUNNEL);
    if reach(&tunnel).await.is_err() {
        Steps::warn(&format!(
            "{tunnel} is unreachable: kubectl logs and exec will not work on this node until it is open"
        ));
    }
    Ok(())
}

struct Https<'a> {
    address: &'a CloudAddress,
    port: u16,
    /// The authority that the server's certificate must come from; `None` while it is not known.
    trust: Option<CertificateDer<'static>>,
}

impl Https<'_> {
    fn name(&self) -> String {
        self.address.with(self.port)
    }

    async fn get(
        &self,
        path: &str,
        with: impl FnOnce(http::request::Builder) -> http::request::Builder,
    ) -> anyhow::Result<Response<Bytes>> {
        let name = self.name();
        let request = with(Request::get(path).header("Host", &name)).body(Full::new(Bytes::new()))?;
        tokio::time::timeout(PATIENCE, self.exchange(request))
            .await
            .map_err(|_| anyhow!("no answer within {} s", PATIENCE.as_secs()))
            .and_then(|result| result)
            .with_context(|| format!("cloudcore's https://{name}{path}"))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Bytes>> {
        let stream = reach(&self.name())
            .await
            .context("unreachable: are address and port right, does cloudcore run, is the port open?")?;
        let server = ServerName::try_from(self.address.host.clone())?;
        let stream = TlsConnector::from(Arc::new(self.tls()?))
            .connect(server, stream)
            .await
            .map_err(|error| self.explain(error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let answer = async move {
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, LIMIT)
                .collect()
                .await
                .map_err(|error| anyhow!("{error}"))?
                .to_bytes();
            anyhow::Ok(Response::from_parts(head, body))
        };
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            // The connection's end may come before the answer's last byte was read.
            ended = connection => { ended?; answer.await }
        }
    }

    fn tls(&self) -> anyhow::Result<ClientConfig> {
        Ok(match &self.trust {
            Some(authority) => cloud_config(std::slice::from_ref(authority), None)?,
            // The CA is checked by the token's hash once it is here; nothing secret is sent before.
            None => unverified_config()?,
        })
    }

    fn explain(&self, error: std::io::Error) -> anyhow::Error {
        let reason = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let text = match reason {
            Some(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => {
                format!(
                    "cloudcore's certificate is not for {}: add it to modules.cloudHub.advertiseAddress (or dnsNames) of cloudcore",
                    self.address.host
                )
            }
            Some(rustls::Error::InvalidCertificate(
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
            )) => "cloudcore's certificate is not valid yet by this machine's clock: set the clock".to_owned(),
            Some(rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) => "cloudcore's certificate has expired by this machine's clock: is the clock right?".to_owned(),
            _ => "no TLS".to_owned(),
        };
        anyhow::Error::new(error).context(text)
    }
}

async fn reach(address: &str) -> anyhow::Result<TcpStream> {
    match tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await {
        Ok(stream) => Ok(stream?),
        Err(_) => bail!("no connection within {} s", PATIENCE.as_secs()),
    }
}

fn date(answer: &Response<Bytes>) -> Option<Timestamp> {
    let text = answer.headers().get(http::header::DATE)?.to_str().ok()?;
    Some(rfc2822::parse(text).ok()?.timestamp())
}

fn tell_skew(cloud: Option<Timestamp>) {
    let Some(cloud) = cloud else { return };
    let off = Timestamp::now().as_second() - cloud.as_second();
    if off.unsigned_abs() > SKEW {
        let word = if off < 0 { "behind" } else { "ahead of" };
        Steps::warn(&format!(
            "this machine's clock is {} s {word} cloudcore's: certificates and tokens may look invalid, set the clock",
            off.unsigned_abs()
        ));
    }
}

/// For one call; a cloud that hangs must not hang this.
const PATIENCE: Duration = Duration::from_secs(15);
/// Of an answer's body, in bytes: certificates and one line of text.
const LIMIT: usize = 64 * 1024;
/// Seconds that two clocks may differ; certificates are back-dated by as much.
const SKEW: u64 = 300;
const TUNNEL: u16 = 10004;
