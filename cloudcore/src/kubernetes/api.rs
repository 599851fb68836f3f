//! The requests.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::BodyExt;
use kube::client::Body;
use proto::watching::Page;
use proto::{Namespace, NodeName, Object, Status};

use super::error::ApiError;
use super::rate::Rate;
use super::resource::{NODES, Resource};

/// The API server. Cheap to clone.
#[derive(Clone)]
pub struct Kube {
    client: kube::Client,
    /// The same without repeating what was answered by 429, 503 or 504.
    once: kube::Client,
    rate: Option<Arc<Rate>>,
    authority: Arc<str>,
}

/// The kind of a patch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PatchKind {
    /// RFC 7386.
    Merge,
    /// Kubernetes' own, which merges lists by key.
    Strategic,
}

impl Kube {
    /// Around a client, with requests a second and in a burst where an operator set them.
    pub fn new(client: kube::Client, rate: Option<(u32, u32)>) -> Self {
        Self {
            once: client.clone(),
            client,
            rate: rate.map(|(qps, burst)| Arc::new(Rate::new(qps, burst))),
            authority: "".into(),
        }
    }

    /// The same with another client for requests that are not to be repeated.
    #[must_use]
    pub(super) fn with_once(self, once: kube::Client) -> Self {
        Self { once, ..self }
    }

    /// The same with the authority of the API server's certificate, as PEM.
    #[must_use]
    pub(super) fn with_authority(self, pem: String) -> Self {
        Self {
            authority: pem.into(),
            ..self
        }
    }

    /// The authority of the API server's certificate, as PEM; empty when the system's authorities are trusted.
    pub fn certificate_authority(&self) -> Arc<str> {
        self.authority.clone()
    }

    /// The client itself, for reviews that have typed requests.
    pub const fn client(&self) -> &kube::Client {
        &self.client
    }

    /// One object.
    pub async fn get(&self, resource: &Resource, ns: &Namespace, name: &str) -> Result<Object, ApiError> {
        let path = resource.object_path(ns, name, "")?;
        self.object(Method::GET, path, None, Vec::new()).await
    }

    /// What a node's kubelet answers to a GET, by way of the API server. `path` is without the first slash. Asked once: the client
    /// repeats other requests by itself after 503, which is an answer here.
    pub async fn node_proxy(&self, node: &NodeName, path: &str) -> Result<Bytes, ApiError> {
        let path = NODES.object_path(&Namespace::cluster(), node.as_str(), "proxy")? + "/" + path;
        let request = request(&Method::GET, &path, "*/*", None, Vec::new())?;
        let once = Self {
            client: self.once.clone(),
            ..self.clone()
        };
        once.send("GET", &path, request).await
    }

    /// One page of a list, all namespaces unless one is given; `query` is already encoded.
    pub async fn list(
        &self,
        resource: &Resource,
        namespace: Option<&Namespace>,
        query: &str,
        accept: &'static str,
    ) -> Result<Page, ApiError> {
        let path = resource.path(namespace, "", "")?;
        let path = if query.is_empty() {
            path
        } else {
            format!("{path}?{query}")
        };
        let request = request(&Method::GET, &path, accept, None, Vec::new())?;
        let body = self.send("GET", &path, request).await?;
        Page::parse(&body).map_err(|source| ApiError::Malformed { path, source })
    }

    /// Creates an object; `name` and `sub` are given for subresources only.
    pub async fn create(&self, resource: &Resource, ns: &Namespace, object: &Object) -> Result<Object, ApiError> {
        let path = resource.path(Some(ns), "", "")?;
        self.object(Method::POST, path, Some(JSON), object.json().into()).await
    }

    /// Creates a subresource, such as a token.
    pub async fn create_sub(
        &self,
        resource: &Resource,
        ns: &Namespace,
        name: &str,
        sub: &str,
        object: &Object,
    ) -> Result<Object, ApiError> {
        let path = resource.object_path(ns, name, sub)?;
        self.object(Method::POST, path, Some(JSON), object.json().into()).await
    }

    /// Replaces an object, or its `status` when `sub` says so.
    pub async fn update(
        &self,
        resource: &Resource,
        ns: &Namespace,
        name: &str,
        sub: &str,
        object: &Object,
    ) -> Result<Object, ApiError> {
        let path = resource.object_path(ns, name, sub)?;
        self.object(Method::PUT, path, Some(JSON), object.json().into()).await
    }

    /// Patches an object, or its `status` when `sub` says so.
    pub async fn patch(
        &self,
        resource: &Resource,
        ns: &Namespace,
        name: &str,
        sub: &str,
        kind: PatchKind,
        patch: &str,
    ) -> Result<Object, ApiError> {
        let path = resource.object_path(ns, name, sub)?;
        let content_type = match kind {
            PatchKind::Merge => "application/merge-patch+json",
            PatchKind::Strategic => "application/strategic-merge-patch+json",
        };
        self.object(Method::PATCH, path, Some(content_type), patch.into()).await
    }

    /// Deletes an object; `options` is a `DeleteOptions` or empty. The answer may be the object or a status: both are success.
    pub async fn delete(&self, resource: &Resource, ns: &Namespace, name: &str, options: &str) -> Result<(), ApiError> {
        let path = resource.object_path(ns, name, "")?;
        let content_type = (!options.is_empty()).then_some(JSON);
        let request = request(&Method::DELETE, &path, JSON, content_type, options.into())?;
        self.send("DELETE", &path, request).await.map(drop)
    }

    async fn object(
        &self,
        method: Method,
        path: String,
        content_type: Option<&'static str>,
        body: Vec<u8>,
    ) -> Result<Object, ApiError> {
        let request = request(&method, &path, JSON, content_type, body)?;
        let body = self.send(verb(&method), &path, request).await?;
        let malformed = |source| ApiError::Malformed {
            path: path.clone(),
            source,
        };
        let text = std::str::from_utf8(&body)
            .map_err(|_| malformed(proto::BadObject::NotAnObject("sequence of bytes that are not UTF-8")))?;
        Object::parse(text).map_err(malformed)
    }

    async fn send(&self, verb: &'static str, path: &str, request: Request<Body>) -> Result<Bytes, ApiError> {
        if let Some(rate) = &self.rate {
            rate.turn().await;
        }
        let answer = async {
            let response = self.respond(verb, path, request).await?;
            let body = response
                .into_body()
                .collect()
                .await
                .map_err(|error| unreachable(verb, path, error))?;
            Ok(body.to_bytes())
        };
        tokio::time::timeout(ANSWER_WITHIN, answer).await.unwrap_or_else(|_| {
            Err(ApiError::Late {
                verb,
                path: path.to_owned(),
                limit: ANSWER_WITHIN,
            })
        })
    }

    /// Sends without a limit of time; refusals are read whole.
    pub(super) async fn respond(
        &self,
        verb: &'static str,
        path: &str,
        request: Request<Body>,
    ) -> Result<http::Response<Body>, ApiError> {
        let response = self
            .client
            .send(request)
            .await
            .map_err(|error| unreachable(verb, path, error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| unreachable(verb, path, error))?
            .to_bytes();
        // `kind` and `apiVersion` are left out: edges know the Status as Go's cloudcore passes it on, and Go's clients strip both.
        let status = match proto::json::from_slice::<Status>(&body) {
            Ok(status) if status.code != 0 => Status {
                kind: None,
                api_version: None,
                ..status
            },
            _ => Status::failure(
                code.as_u16(),
                code.canonical_reason().unwrap_or("Unknown").replace(' ', ""),
                String::from_utf8_lossy(&body)
                    .trim()
                    .chars()
                    .take(LONGEST_TEXT)
                    .collect::<String>(),
            ),
        };
        Err(ApiError::Refused {
            verb,
            path: path.to_owned(),
            status: status.into(),
        })
    }
}

impl fmt::Debug for Kube {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kube").finish_non_exhaustive()
    }
}

pub(super) fn request(
    method: &Method,
    path: &str,
    accept: &'static str,
    content_type: Option<&'static str>,
    body: Vec<u8>,
) -> Result<Request<Body>, ApiError> {
    let mut builder = Request::builder()
        .method(method)
        .uri(path)
        .header(header::ACCEPT, accept);
    if let Some(content_type) = content_type {
        builder = builder.header(header::CONTENT_TYPE, content_type);
    }
    builder
        .body(Body::from(body))
        .map_err(|error| unreachable(verb(method), path, error))
}

pub(super) fn unreachable(
    verb: &'static str,
    path: &str,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ApiError {
    ApiError::Unreachable {
        verb,
        path: path.to_owned(),
        source: error.into(),
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "GET",
    }
}

pub(super) const JSON: &str = "application/json";
/// Half of the 60 s that an edge waits for its answer: it hears of the failure while it still listens.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Characters of an answer that is no status, such as a proxy's page.
const LONGEST_TEXT: usize = 1000;
