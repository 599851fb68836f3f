//! The HTTP request of probes and hooks: small, without proof of the server's identity, within the pod's host for redirects.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use common::tls::client::unverified_config;
use http::header::{ACCEPT, CONNECTION, HOST, HeaderName, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum HttpError {
    /// The request cannot even be written.
    #[error("{0}")]
    Request(String),
    /// No connection.
    #[error("cannot connect to {0}")]
    Connect(String, #[source] std::io::Error),
    /// The server answers in plain text where TLS was expected.
    #[error("server gave HTTP response to HTTPS client")]
    Plain,
    /// The exchange broke off.
    #[error("no HTTP answer")]
    Exchange(#[source] hyper::Error),
    /// The server sends from page to page.
    #[error("stopped after {MAX_REDIRECTS} redirects")]
    Redirects,
}

/// Sends the request and follows redirects that stay on the host. Returns the last status.
pub(super) async fn http_get(
    action: &HTTPGetAction,
    container: &Container,
    pod_ip: Option<IpAddr>,
    purpose: &str,
    tls: bool,
) -> Result<http::StatusCode, HttpError> {
    let mut target = Target::new(action, container, pod_ip, tls)?;
    let headers = headers(action, purpose)?;
    for _ in 0..MAX_REDIRECTS {
        let (status, location) = once(&target, &headers).await?;
        let followed = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
        match location
            .filter(|_| followed)
            .and_then(|location| target.redirected(&location))
        {
            Some(next) => target = next,
            None => return Ok(status),
        }
    }
    Err(HttpError::Redirects)
}

/// Whether the action asks for TLS.
pub(super) fn wants_tls(action: &HTTPGetAction) -> bool {
    action
        .scheme
        .as_deref()
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
}

/// A port by number or by the name that the container gives it.
pub(super) fn resolve_port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => name.parse().ok().or_else(|| {
            let named = container
                .ports
                .iter()
                .flatten()
                .find(|port| port.name.as_deref() == Some(name));
            named.map(|port| port.container_port)
        }),
    };
    let number = number.ok_or_else(|| format!("container {} has no port {port:?}", container.name))?;
    u16::try_from(number)
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("invalid port number: {number}"))
}

#[derive(Clone)]
struct Target {
    tls: bool,
    host: String,
    port: u16,
    path: String,
}

impl Target {
    fn new(
        action: &HTTPGetAction,
        container: &Container,
        pod_ip: Option<IpAddr>,
        tls: bool,
    ) -> Result<Self, HttpError> {
        let host = match action.host.as_deref().filter(|host| !host.is_empty()) {
            Some(host) => host.to_owned(),
            None => pod_ip
                .ok_or_else(|| HttpError::Request("the pod has no address".into()))?
                .to_string(),
        };
        let port = resolve_port(&action.port, container).map_err(HttpError::Request)?;
        let path = action.path.as_deref().unwrap_or_default();
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        Ok(Self { tls, host, port, path })
    }

    /// Where a redirect leads, if to the same host.
    fn redirected(&self, location: &str) -> Option<Self> {
        if let Some(path) = location.strip_prefix('/').filter(|rest| !rest.starts_with('/')) {
            return Some(Self {
                path: format!("/{path}"),
                ..self.clone()
            });
        }
        let absolute = match location.strip_prefix("//") {
            Some(rest) => format!("{}://{rest}", self.scheme()),
            None => location.to_owned(),
        };
        if !absolute.contains("://") {
            // Relative to the folder of the page.
            let folder = self
                .path
                .split('?')
                .next()
                .and_then(|path| path.rsplit_once('/'))
                .map_or("", |(dir, _)| dir);
            return Some(Self {
                path: format!("{folder}/{location}"),
                ..self.clone()
            });
        }
        let uri = absolute.parse::<Uri>().ok()?;
        let host = uri.host()?;
        let tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let path = uri
            .path_and_query()
            .map_or("/", http::uri::PathAndQuery::as_str)
            .to_owned();
        (host.trim_matches(['[', ']']) == self.host).then(|| Self {
            tls,
            host: self.host.clone(),
            port,
            path,
        })
    }

    const fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

async fn once(target: &Target, headers: &HeaderMap) -> Result<(http::StatusCode, Option<String>), HttpError> {
    let authority = target.authority();
    let stream = TcpStream::connect((target.host.as_str(), target.port));
    let stream = stream
        .await
        .map_err(|error| HttpError::Connect(authority.clone(), error))?;
    if !target.tls {
        return exchange(stream, target, headers).await;
    }
    let name = ServerName::try_from(target.host.clone()).map_err(|error| HttpError::Request(error.to_string()))?;
    let stream = TlsConnector::from(ANY_SERVER.clone())
        .connect(name, stream)
        .await
        .map_err(|error| {
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
            match cause {
                Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => HttpError::Plain,
                _ => HttpError::Connect(authority, error),
            }
        })?;
    exchange(stream, target, headers).await
}

async fn exchange<S>(
    stream: S,
    target: &Target,
    headers: &HeaderMap,
) -> Result<(http::StatusCode, Option<String>), HttpError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let mut request = Request::builder().uri(&target.path).body(Empty::<Bytes>::new());
    let request_ref = request
        .as_mut()
        .map_err(|error| HttpError::Request(error.to_string()))?;
    request_ref.headers_mut().clone_from(headers);
    if !headers.contains_key(HOST) {
        let host = HeaderValue::try_from(target.authority()).map_err(|error| HttpError::Request(error.to_string()))?;
        request_ref.headers_mut().insert(HOST, host);
    }
    let request = request.map_err(|error| HttpError::Request(error.to_string()))?;
    let handshake = http1::Builder::new()
        .max_buf_size(BUFFER)
        .handshake(TokioIo::new(stream))
        .await;
    let (mut sender, connection) = handshake.map_err(HttpError::Exchange)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(HttpError::Exchange)?;
        let location = response
            .headers()
            .get(LOCATION)
            .and_then(|value| value.to_str().ok())
            .map(ToOwned::to_owned);
        let status = response.status();
        // Some servers write an error into their log when nobody reads their answer.
        let _ = Limited::new(response.into_body(), MAX_BODY).collect().await;
        Ok((status, location))
    };
    tokio::pin!(connection);
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection ends when the answer is complete, and the answer is ready then.
        _ = &mut connection => answer.await,
    }
}

fn headers(action: &HTTPGetAction, purpose: &str) -> Result<HeaderMap, HttpError> {
    let mut headers = HeaderMap::new();
    for header in action.http_headers.iter().flatten() {
        let bad = || HttpError::Request(format!("header {:?} cannot be sent", header.name));
        let name = HeaderName::try_from(&header.name).map_err(|_| bad())?;
        headers.append(name, HeaderValue::try_from(&header.value).map_err(|_| bad())?);
    }
    if !headers.contains_key(USER_AGENT) {
        let agent = HeaderValue::try_from(format!("kube-{purpose}/{KUBERNETES}"));
        headers.insert(
            USER_AGENT,
            agent.map_err(|error| HttpError::Request(error.to_string()))?,
        );
    }
    match headers.get(ACCEPT) {
        None => {
            headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        }
        Some(empty) if empty.is_empty() => {
            headers.remove(ACCEPT);
        }
        Some(_) => {}
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(headers)
}

/// Probes ask whether a server lives, not who it is: certificates of pods are signed by nobody that we know.
static ANY_SERVER: LazyLock<Arc<ClientConfig>> =
    LazyLock::new(|| Arc::new(unverified_config().expect("the provider knows the default versions")));

/// The Kubernetes release that we behave like; servers know probes by it.
pub(super) const KUBERNETES: &str = "1.32";
const MAX_REDIRECTS: usize = 10;
/// Bytes of an answer that are read.
const MAX_BODY: usize = 10 * 1024;
/// Bytes of headers; the least that hyper takes.
const BUFFER: usize = 8192;

#[cfg(test)]
mod tests {
    use common::Tasks;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn redirects_stay_on_the_host() {
        let target = Target {
            tls: false,
            host: "10.0.0.1".into(),
            port: 80,
            path: "/a/b?c".into(),
        };
        let next = |location: &str| target.redirected(location).map(|t| (t.tls, t.port, t.path));
        assert_eq!(next("/x"), Some((false, 80, "/x".into())));
        assert_eq!(next("x"), Some((false, 80, "/a/x".into())));
        assert_eq!(next("https://10.0.0.1:8443/x?y"), Some((true, 8443, "/x?y".into())));
        assert_eq!(next("//10.0.0.1/x"), Some((false, 80, "/x".into())));
        assert_eq!(next("http://example.org/x"), None);
        assert_eq!(next("//example.org/x"), None);
    }

    const UNKNOWN: &str = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";

    /// Answers every request with the text that belongs to its path, and remembers the requests.
    async fn server(
        answers: &'static [(&'static str, &'static str)],
    ) -> (u16, Arc<parking_lot::Mutex<Vec<String>>>, Tasks) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        let seen = Arc::<parking_lot::Mutex<Vec<String>>>::default();
        let (tasks, requests) = (Tasks::new(), seen.clone());
        tasks.spawn("server", async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = vec![0; 4096];
                let read = stream.read(&mut bytes).await.unwrap_or_default();
                let request = String::from_utf8_lossy(bytes.get(..read).unwrap_or_default()).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default();
                let answer = answers
                    .iter()
                    .find(|(known, _)| *known == path)
                    .map_or(UNKNOWN, |(_, answer)| answer);
                let _ = stream.write_all(answer.as_bytes()).await;
                requests.lock().push(request);
            }
        });
        (port, seen, tasks)
    }

    async fn get(port: u16, path: &str, headers: serde_json::Value, tls: bool) -> Result<u16, HttpError> {
        let action = serde_json::from_value(serde_json::json!({"path": path, "port": "web", "httpHeaders": headers}));
        let ports = serde_json::json!({"name": "app", "ports": [{"name": "web", "containerPort": port}]});
        let container = serde_json::from_value(ports).expect("container");
        let ip = Some(std::net::Ipv4Addr::LOCALHOST.into());
        http_get(&action.expect("action"), &container, ip, "probe", tls)
            .await
            .map(|status| status.as_u16())
    }

    #[tokio::test]
    async fn answers_of_a_server() {
        let (port, seen, _tasks) = server(&[
            ("/ok", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            ("/close", "HTTP/1.0 204 No Content\r\n\r\n"),
            ("/bad", "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"),
            (
                "/here",
                "HTTP/1.1 302 Found\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n",
            ),
            (
                "/there",
                "HTTP/1.1 302 Found\r\nLocation: http://example.org/\r\nContent-Length: 0\r\n\r\n",
            ),
            (
                "/loop",
                "HTTP/1.1 301 Moved\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n",
            ),
            ("/cut", "HTTP/1.1 200 OK\r\nContent-Le"),
        ])
        .await;
        let none = || serde_json::json!([]);
        for (path, expected) in [
            ("/ok", 200),
            ("ok", 200),
            ("/close", 204),
            ("/bad", 503),
            ("/here", 200),
            ("/there", 302),
        ] {
            assert_eq!(get(port, path, none(), false).await.expect(path), expected, "{path}");
        }
        assert!(matches!(
            get(port, "/loop", none(), false).await,
            Err(HttpError::Redirects)
        ));
        assert!(matches!(
            get(port, "/cut", none(), false).await,
            Err(HttpError::Exchange(_))
        ));
        assert!(matches!(get(port, "/ok", none(), true).await, Err(HttpError::Plain)));
        assert!(matches!(
            get(1, "/ok", none(), false).await,
            Err(HttpError::Connect(..))
        ));
        let request = seen.lock().first().cloned().expect("request").to_lowercase();
        assert!(request.starts_with("get /ok http/1.1\r\n"), "{request}");
        for line in [
            "user-agent: kube-probe/1.32",
            "accept: */*",
            "connection: close",
            "host: 127.0.0.1:",
        ] {
            assert!(request.contains(line), "{line} in {request}");
        }
        seen.lock().clear();
        let own = serde_json::json!([{"name": "Host", "value": "shop.example"}, {"name": "User-Agent", "value": "me"},
                                     {"name": "Accept", "value": ""}]);
        get(port, "/ok", own, false).await.expect("answer");
        let request = seen.lock().first().cloned().expect("request").to_lowercase();
        assert!(
            request.contains("host: shop.example\r\n") && request.contains("user-agent: me\r\n"),
            "{request}"
        );
        assert!(!request.contains("accept"), "{request}");
    }
}
