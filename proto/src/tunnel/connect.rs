//! The message that opens a stream: an HTTP request as Go's JSON of `url.URL` and `http.Header` (spec 04 §4).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use http::{HeaderName, HeaderValue, Method};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

use super::message::Kind;
use super::url;

/// The type of the message, which a Go edge serves differently; ours takes 0 and 2 for "send the body only".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectKind {
    /// The body of a GET: container logs.
    Logs,
    /// The whole HTTP exchange, any request.
    Exec,
    /// The body of a GET: metrics. A Go edge adds to it and cuts long lines.
    Metrics,
    /// The whole HTTP exchange; only edges from v1.14 know it.
    Attach,
}

impl ConnectKind {
    /// The type of the message.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Logs => Kind::LogsConnect,
            Self::Exec => Kind::ExecConnect,
            Self::Metrics => Kind::MetricConnect,
            Self::Attach => Kind::AttachConnect,
        }
    }

    /// From the type of a message, if that opens a stream.
    pub const fn from_kind(kind: Kind) -> Option<Self> {
        match kind {
            Kind::LogsConnect => Some(Self::Logs),
            Kind::ExecConnect => Some(Self::Exec),
            Kind::MetricConnect => Some(Self::Metrics),
            Kind::AttachConnect => Some(Self::Attach),
            Kind::Data | Kind::RemoveConnect | Kind::CloseConnect | Kind::Credit => None,
        }
    }

    /// Whether the stream carries the body of the answer only, without status and headers.
    pub const fn is_body_only(self) -> bool {
        matches!(self, Self::Logs | Self::Metrics)
    }
}

/// A request for the kubelet of the edge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connect {
    /// The stream: from one counter per cloudcore, never used twice.
    pub id: u64,
    /// The type of the message.
    pub kind: ConnectKind,
    /// `GET`, `POST`; body-only kinds do not carry it and mean `GET`.
    pub method: String,
    /// Path and query as they stand in the request line.
    pub target: String,
    /// In order; names may repeat. Credentials must have been taken out.
    pub headers: Vec<(String, String)>,
}

/// Why a connect message opens nothing. The tunnel lives on.
#[derive(Debug, Error)]
pub enum BadConnect {
    /// Not the JSON that is expected.
    #[error("the connect message is not as expected")]
    Json(#[source] serde_json::Error),
    /// The id in the JSON is not the one in the frame.
    #[error("the connect message names stream {json} in the frame of stream {frame}")]
    Id {
        /// In the frame.
        frame: u64,
        /// In the JSON.
        json: u64,
    },
    /// What cannot stand in the head of a request.
    #[error("the {part} of the request cannot be sent: {value:?}")]
    Request {
        /// `method`, `target`, `header`.
        part: &'static str,
        /// Its value.
        value: String,
    },
}

impl Connect {
    /// The payload of the message.
    pub fn encode(&self) -> Vec<u8> {
        let (path, query) = self.target.split_once('?').unwrap_or((&self.target, ""));
        let (path, raw_path) = url::split_path(path);
        let wire = Encoded {
            id: self.id,
            url: EncodedUrl {
                scheme: "http",
                opaque: "",
                user: (),
                host: KUBELET,
                path: &path,
                fragment: "",
                raw_query: query,
                raw_path: &raw_path,
                raw_fragment: "",
                force_query: query.is_empty() && self.target.ends_with('?'),
                omit_host: false,
            },
            header: Headers(&self.headers),
            method: (!self.kind.is_body_only()).then_some(&self.method),
        };
        serde_json::to_vec(&wire).unwrap_or_default()
    }

    /// Reads the payload of a message. Scheme and host in it are of no interest (spec 04 §4).
    ///
    /// # Errors
    /// What is no request that could be made.
    pub fn decode(id: u64, kind: ConnectKind, payload: &[u8]) -> Result<Self, BadConnect> {
        let wire: Decoded = serde_json::from_slice(payload).map_err(BadConnect::Json)?;
        if let Some(json) = wire.id.filter(|json| *json != id) {
            return Err(BadConnect::Id { frame: id, json });
        }
        let mut target = url::join_path(&wire.url.path, &wire.url.raw_path);
        if wire.url.force_query || !wire.url.raw_query.is_empty() {
            target.push('?');
            target.push_str(&wire.url.raw_query);
        }
        let headers = wire.header.unwrap_or_default().into_iter();
        let connect = Self {
            id,
            kind,
            method: wire
                .method
                .filter(|method| !method.is_empty() && !kind.is_body_only())
                .unwrap_or_else(|| "GET".to_owned()),
            target,
            headers: headers
                .flat_map(|(name, values)| {
                    let values = values.unwrap_or_default().into_iter();
                    values.map(move |value| (name.clone(), value))
                })
                .collect(),
        };
        connect.check()?;
        Ok(connect)
    }

    /// The head of the request for a server of HTTP/1.1, up to and with the empty line. What the cloud sends on the stream follows it.
    pub fn head(&self) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {KUBELET}\r\n", self.method, self.target);
        let dropped: &[&str] = if self.kind.is_body_only() {
            head.push_str("Connection: close\r\n");
            &["host", "connection", "upgrade", "content-length", "transfer-encoding"]
        } else {
            &["host"]
        };
        for (name, value) in &self.headers {
            if !dropped.iter().any(|dropped| name.eq_ignore_ascii_case(dropped)) {
                let _ = write!(head, "{name}: {value}\r\n");
            }
        }
        head.push_str("\r\n");
        head
    }

    /// Whether it can stand in the head of a request.
    fn check(&self) -> Result<(), BadConnect> {
        let bad = |part, value: &str| BadConnect::Request {
            part,
            value: value.chars().take(MAX_QUOTED).collect(),
        };
        if Method::from_bytes(self.method.as_bytes()).is_err() {
            return Err(bad("method", &self.method));
        }
        if !self.target.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad("target", &self.target));
        }
        for (name, value) in &self.headers {
            if HeaderName::from_bytes(name.as_bytes()).is_err() || HeaderValue::from_str(value).is_err() {
                return Err(bad("header", name));
            }
        }
        Ok(())
    }
}

/// An answer of the kubelet made up by the tunnel, as it goes over a stream of the given kind.
pub fn refusal(kind: ConnectKind, status: http::StatusCode, text: &str) -> Vec<u8> {
    if kind.is_body_only() {
        return text.as_bytes().to_vec();
    }
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )
    .into_bytes()
}

#[derive(Serialize)]
struct Encoded<'a> {
    #[serde(rename = "MessID")]
    id: u64,
    url: EncodedUrl<'a>,
    header: Headers<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct EncodedUrl<'a> {
    scheme: &'a str,
    opaque: &'a str,
    user: (),
    host: &'a str,
    path: &'a str,
    fragment: &'a str,
    raw_query: &'a str,
    raw_path: &'a str,
    raw_fragment: &'a str,
    force_query: bool,
    omit_host: bool,
}

/// Go's `http.Header`: names in canonical form, because an edge looks them up so, each with all its values. Never null (spec 04 §4).
struct Headers<'a>(&'a [(String, String)]);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut grouped: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for (name, value) in self.0 {
            grouped.entry(canonical(name)).or_default().push(value);
        }
        let mut map = serializer.serialize_map(Some(grouped.len()))?;
        for (name, values) in &grouped {
            map.serialize_entry(name, values)?;
        }
        map.end()
    }
}

#[derive(Deserialize)]
struct Decoded {
    #[serde(rename = "MessID")]
    id: Option<u64>,
    url: DecodedUrl,
    header: Option<BTreeMap<String, Option<Vec<String>>>>,
    method: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct DecodedUrl {
    path: String,
    raw_path: String,
    raw_query: String,
    force_query: bool,
}

/// `x-stream-protocol-version` becomes `X-Stream-Protocol-Version`.
fn canonical(name: &str) -> String {
    let mut start = true;
    name.chars()
        .map(|char| {
            let upper = std::mem::replace(&mut start, char == '-');
            if upper {
                char.to_ascii_uppercase()
            } else {
                char.to_ascii_lowercase()
            }
        })
        .collect()
}

/// What every cloud writes whatever the edge is configured for, and every kubelet is content with.
const KUBELET: &str = "127.0.0.1:10350";
/// Characters of a bad value in an error.
const MAX_QUOTED: usize = 100;
