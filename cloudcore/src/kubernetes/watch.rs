//! List and watch, for ever.

use std::time::Duration;

use bytes::BytesMut;
use http::Method;
use http_body_util::BodyExt;
use proto::watching::WatchLine;
use proto::{Namespace, Object};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::api::{JSON, Kube, request, unreachable};
use super::error::ApiError;
use super::resource::Resource;
use common::{Backoff, chain};

/// What a watch tells, in order. A list comes first, and again whenever the watch lost its place.
#[derive(Clone, Debug)]
pub enum Seen {
    /// A list begins: what is not in it no longer exists.
    Listing,
    /// In the list.
    Listed(Object),
    /// The list is complete.
    Synced,
    /// New since then.
    Added(Object),
    /// Changed since then.
    Modified(Object),
    /// Deleted, or out of the selection.
    Deleted(Object),
}

/// Which objects.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection {
    /// The only namespace; empty for all.
    pub namespace: &'static str,
    /// A label selector, already encoded for a URL; empty for all.
    pub labels: &'static str,
    /// A field selector, likewise.
    pub fields: &'static str,
}

/// How much of each object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail {
    /// All of it.
    Whole,
    /// `metadata` only: bodies of Secrets and large ConfigMaps never come.
    Metadata,
}

/// Follows a resource until the receiver is gone. A resource that is not there (yet), or that may not be listed, is asked for again
/// every half minute, with one warning.
pub async fn follow(kube: Kube, resource: Resource, selection: Selection, detail: Detail, out: mpsc::Sender<Seen>) {
    let mut watch = Watch {
        kube,
        resource,
        selection,
        detail,
        out,
        version: String::new(),
        warned: false,
    };
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    loop {
        let started = Instant::now();
        match watch.round().await {
            // A server that ends each watch at once is asked less and less often.
            Ok(()) if started.elapsed() < SHORT => tokio::time::sleep(backoff.next_delay()).await,
            Ok(()) => backoff.reset(),
            Err(End::Closed) => return,
            Err(End::Failed(error)) => {
                if started.elapsed() > STEADY {
                    backoff.reset();
                }
                let delay = watch.complain(&error, &mut backoff);
                tokio::time::sleep(delay).await;
            }
        }
    }
}

struct Watch {
    kube: Kube,
    resource: Resource,
    selection: Selection,
    detail: Detail,
    out: mpsc::Sender<Seen>,
    /// Where the watch goes on; empty before a list.
    version: String,
    warned: bool,
}

enum End {
    /// Nobody listens.
    Closed,
    Failed(ApiError),
}

impl From<ApiError> for End {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

impl Watch {
    /// A list if needed, then one watch request until its end.
    async fn round(&mut self) -> Result<(), End> {
        if self.version.is_empty() {
            self.list().await?;
        }
        self.watch().await
    }

    /// The selection as a further part of a query.
    fn selected(&self) -> String {
        let Selection { labels, fields, .. } = self.selection;
        [("labelSelector", labels), ("fieldSelector", fields)]
            .into_iter()
            .filter(|(_, selector)| !selector.is_empty())
            .map(|(key, selector)| format!("&{key}={selector}"))
            .collect()
    }

    fn namespace(&self) -> Option<Namespace> {
        let name = self.selection.namespace;
        (!name.is_empty()).then(|| name.into())
    }

    async fn list(&mut self) -> Result<(), End> {
        let mut next = String::new();
        let mut first = true;
        loop {
            let mut query = format!("limit={PAGE}{}", self.selected());
            if !next.is_empty() {
                query = format!("{query}&continue={}", encoded(&next));
            }
            let namespace = self.namespace();
            let page = self
                .kube
                .list(&self.resource, namespace.as_ref(), &query, self.accept(true))
                .await?;
            if first {
                self.send(Seen::Listing).await?;
                first = false;
            }
            for object in page.items {
                let object = self.typed(object);
                self.send(Seen::Listed(object)).await?;
            }
            next = page.next;
            if next.is_empty() {
                self.version = page.version;
                break;
            }
        }
        if self.warned {
            info!(resource = %self.resource.plural, "watched now");
            self.warned = false;
        }
        self.send(Seen::Synced).await
    }

    async fn watch(&mut self) -> Result<(), End> {
        let path = self.resource.path(self.namespace().as_ref(), "", "")?;
        let seconds = WATCH_SECONDS + common::backoff::random_unit() * WATCH_SECONDS;
        let path = format!(
            "{path}?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds:.0}&resourceVersion={}{}",
            self.version,
            self.selected()
        );
        let mut request = request(&Method::GET, &path, self.accept(false), None, Vec::new())?;
        request.headers_mut().insert(
            http::header::ACCEPT_ENCODING,
            http::HeaderValue::from_static("identity"),
        );
        let limit = Duration::from_secs_f64(seconds) + SLACK;
        let deadline = Instant::now() + limit;
        let late = |_| ApiError::Late {
            verb: "GET",
            path: path.clone(),
            limit,
        };
        let response = tokio::time::timeout_at(deadline, self.kube.respond("GET", &path, request))
            .await
            .map_err(late)?;
        let mut body = match response {
            Ok(response) => response.into_body(),
            Err(error) => {
                if error.status().is_some_and(|status| status.code == 410) {
                    self.version.clear();
                    return Ok(());
                }
                return Err(error.into());
            }
        };
        let mut buffer = BytesMut::new();
        while let Some(frame) = tokio::time::timeout_at(deadline, body.frame()).await.map_err(late)? {
            let frame = frame.map_err(|error| unreachable("GET", &path, error))?;
            let Ok(data) = frame.into_data() else { continue };
            let scanned = buffer.len();
            buffer.extend_from_slice(&data);
            self.lines(&mut buffer, scanned, &path).await?;
            if self.version.is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes the whole lines out of the buffer; its first `scanned` bytes are known to hold no line end.
    async fn lines(&mut self, buffer: &mut BytesMut, mut scanned: usize, path: &str) -> Result<(), End> {
        while let Some(end) = buffer.iter().skip(scanned).position(|byte| *byte == b'\n') {
            let line = buffer.split_to(scanned + end + 1);
            scanned = 0;
            let parsed = WatchLine::parse(&line).map_err(|source| ApiError::Malformed {
                path: path.to_owned(),
                source,
            })?;
            let seen = match parsed {
                Some(WatchLine::Added(object)) => Seen::Added(self.typed(object)),
                Some(WatchLine::Modified(object)) => Seen::Modified(self.typed(object)),
                Some(WatchLine::Deleted(object)) => Seen::Deleted(self.typed(object)),
                Some(WatchLine::Bookmark(version)) => {
                    self.version = version;
                    continue;
                }
                Some(WatchLine::Error(status)) => {
                    debug!(resource = %self.resource.plural, code = status.code, "watch lost its place, lists again");
                    self.version.clear();
                    return Ok(());
                }
                None => continue,
            };
            if let Seen::Added(object) | Seen::Modified(object) | Seen::Deleted(object) = &seen {
                self.version.clone_from(&object.meta().resource_version);
            }
            self.send(seen).await?;
        }
        // A burst of large objects must not keep its buffer for the life of the watch.
        if buffer.is_empty() {
            *buffer = BytesMut::new();
        }
        Ok(())
    }

    /// Items of lists carry no type, and partial ones the type of the metadata API.
    fn typed(&self, object: Object) -> Object {
        match self.detail {
            Detail::Whole => object.with_type(&self.resource.api_version(), &self.resource.kind),
            Detail::Metadata => object,
        }
    }

    async fn send(&self, seen: Seen) -> Result<(), End> {
        self.out.send(seen).await.map_err(|_| End::Closed)
    }

    const fn accept(&self, list: bool) -> &'static str {
        match (self.detail, list) {
            (Detail::Whole, _) => JSON,
            (Detail::Metadata, true) => "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            (Detail::Metadata, false) => "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        }
    }

    /// Says once what is wrong, and how long to wait.
    fn complain(&mut self, error: &ApiError, backoff: &mut Backoff) -> Duration {
        let resource = &self.resource.plural;
        let first = !std::mem::replace(&mut self.warned, true);
        let code = error.status().map_or(0, |status| status.code);
        match code {
            404 if first => warn!(
                %resource, group = %self.resource.group,
                "the API server does not know this resource: install its CustomResourceDefinition (config/crds); retried every 30 s"
            ),
            401 | 403 if first => warn!(
                %resource, group = %self.resource.group, error = %chain(error),
                "cloudcore may not list this resource: grant list and watch to its account; retried every 30 s"
            ),
            404 | 401 | 403 => {}
            _ if first => warn!(%resource, error = %chain(error), "watch failed, it is tried again"),
            _ => debug!(%resource, error = %chain(error), "watch failed again"),
        }
        if matches!(code, 401 | 403 | 404) {
            ABSENT
        } else {
            backoff.next_delay()
        }
    }
}

/// Percent-encodes what a query may not hold.
pub(super) fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// Objects a page: a page of Pods with managedFields is about 2 MB.
const PAGE: u32 = 200;
/// A watch lasts between this and its double, in seconds, so that watches do not end together.
const WATCH_SECONDS: f64 = 240.0;
/// What the server may take longer to end a watch before the connection counts as dead.
const SLACK: Duration = Duration::from_secs(30);
/// A watch that ends sooner did not work.
const SHORT: Duration = Duration::from_secs(1);
/// A watch that lasted so long was no failure to start.
const STEADY: Duration = Duration::from_secs(60);
/// The pause when the resource does not exist or is forbidden.
const ABSENT: Duration = Duration::from_secs(30);
