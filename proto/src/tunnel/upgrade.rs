//! The heads of HTTP that begin a tunnel: the edge's request and the cloud's answer (spec 04 §2).

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use sha1::{Digest as _, Sha1};
use thiserror::Error;

use crate::features::{FEATURES_HEADER, Features};

/// Where the tunnel is.
pub const PATH: &str = "/v1/kubeedge/connect";

/// A head is not read any further.
pub const MAX_HEAD: usize = 16 * 1024;

/// What an edge says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upgrade {
    /// The node's name; never empty.
    pub node: String,
    /// The InternalIP in its status. Go clouds look metrics up by it.
    pub internal_ip: Option<String>,
    /// What it offers.
    pub features: Features,
}

/// A request that was read.
#[derive(Clone, Debug)]
pub struct Request {
    /// What the edge says.
    pub upgrade: Upgrade,
    /// Its `Sec-WebSocket-Key`.
    key: String,
    /// Bytes of the head.
    pub length: usize,
}

/// Why there is no tunnel, as HTTP status and text.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{status}: {text}")]
pub struct Refused {
    /// The status of the answer.
    pub status: StatusCode,
    /// Its body.
    pub text: String,
}

/// The cloud's answer, read by the edge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// What both have.
    pub features: Features,
    /// Bytes of the head; frames may follow it.
    pub length: usize,
}

impl Upgrade {
    /// The edge's request. `host` is what it dialled, `key` is random.
    pub fn request(&self, host: &str, key: [u8; 16]) -> String {
        let mut head = format!(
            "GET {PATH} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {}\r\n\
             Sec-WebSocket-Version: 13\r\n{NODE_HEADER}: {}\r\n",
            STANDARD.encode(key),
            self.node
        );
        if let Some(ip) = &self.internal_ip {
            let _ = write!(head, "{IP_HEADER}: {ip}\r\n");
        }
        if !self.features.is_empty() {
            let _ = write!(head, "{FEATURES_HEADER}: {}\r\n", self.features);
        }
        head.push_str("\r\n");
        head
    }
}

impl Request {
    /// Reads the edge's request; `None` while the head is incomplete.
    ///
    /// # Errors
    /// What to answer instead.
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, Refused> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut head = httparse::Request::new(&mut headers);
        let length = match head.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
            Ok(httparse::Status::Partial) => {
                return Err(refused(
                    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                    "the head is too long",
                ));
            }
            Err(error) => return Err(refused(StatusCode::BAD_REQUEST, error)),
        };
        let path = head
            .path
            .and_then(|target| target.split('?').next())
            .unwrap_or_default();
        if path.trim_end_matches('/') != PATH {
            return Err(refused(StatusCode::NOT_FOUND, "404: Page Not Found"));
        }
        let value = |name| first(head.headers, name);
        let is = |name, wanted| {
            value(name)
                .split(',')
                .any(|part| part.trim().eq_ignore_ascii_case(wanted))
        };
        if head.method != Some("GET") || !is("Connection", "upgrade") || !is("Upgrade", "websocket") {
            return Err(refused(StatusCode::BAD_REQUEST, "not a WebSocket upgrade"));
        }
        if !is("Sec-WebSocket-Version", "13") {
            return Err(refused(
                StatusCode::UPGRADE_REQUIRED,
                "only version 13 of WebSocket is spoken",
            ));
        }
        let key = value("Sec-WebSocket-Key");
        if STANDARD.decode(key).map_or(0, |key| key.len()) != 16 {
            return Err(refused(
                StatusCode::BAD_REQUEST,
                "the Sec-WebSocket-Key is not 16 bytes in base64",
            ));
        }
        // The misspelt one is all that v1.6 sends, and v1.7 and v1.8 send both.
        let node = [NODE_HEADER, MISSPELT_NODE_HEADER]
            .map(value)
            .into_iter()
            .find(|node| !node.is_empty());
        let Some(node) = node else {
            return Err(refused(
                StatusCode::BAD_REQUEST,
                format!("the header {NODE_HEADER} is missing or empty"),
            ));
        };
        let ip = value(IP_HEADER);
        Ok(Some(Self {
            upgrade: Upgrade {
                node: node.to_owned(),
                internal_ip: (!ip.is_empty()).then(|| ip.to_owned()),
                features: Features::parse(value(FEATURES_HEADER)),
            },
            key: key.to_owned(),
            length,
        }))
    }

    /// What both have.
    pub fn common_features(&self) -> Features {
        self.upgrade.features.common(Features::TUNNEL)
    }

    /// The answer that begins the tunnel, with what both have.
    pub fn accept(&self) -> String {
        let features = self.common_features();
        let mut head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n",
            accept_key(&self.key)
        );
        if !features.is_empty() {
            let _ = write!(head, "{FEATURES_HEADER}: {features}\r\n");
        }
        head.push_str("\r\n");
        head
    }
}

impl Refused {
    /// The answer instead of the upgrade.
    pub fn response(&self) -> String {
        let Self { status, text } = self;
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
            text.len()
        )
    }
}

impl Answer {
    /// Reads the cloud's answer; `None` while the head is incomplete.
    ///
    /// # Errors
    /// When it is not the upgrade that `key` asked for: the status, and what is known of the reason.
    pub fn read(bytes: &[u8], key: [u8; 16], offered: Features) -> Result<Option<Self>, Refused> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut head = httparse::Response::new(&mut headers);
        let length = match head.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
            Ok(httparse::Status::Partial) => return Err(refused(StatusCode::BAD_GATEWAY, "the head is too long")),
            Err(error) => return Err(refused(StatusCode::BAD_GATEWAY, error)),
        };
        let status = head
            .code
            .and_then(|code| StatusCode::from_u16(code).ok())
            .unwrap_or_default();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let body = bytes.get(length..).unwrap_or_default();
            let body = String::from_utf8_lossy(&body[..body.len().min(MAX_QUOTED)]);
            return Err(refused(status, body.trim()));
        }
        if first(head.headers, "Sec-WebSocket-Accept") != accept_key(&STANDARD.encode(key)) {
            return Err(refused(
                StatusCode::BAD_GATEWAY,
                "the answer belongs to another request",
            ));
        }
        let theirs = Features::parse(first(head.headers, FEATURES_HEADER));
        Ok(Some(Self {
            features: theirs.common(offered),
            length,
        }))
    }
}

fn refused(status: StatusCode, text: impl ToString) -> Refused {
    Refused {
        status,
        text: text.to_string(),
    }
}

/// The first value of a header, empty where there is none or it is not text.
fn first<'a>(headers: &[httparse::Header<'a>], name: &str) -> &'a str {
    let header = headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    header
        .and_then(|header| std::str::from_utf8(header.value).ok())
        .unwrap_or_default()
        .trim()
}

fn accept_key(key: &str) -> String {
    STANDARD.encode(Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11")))
}

const NODE_HEADER: &str = "SessionHostNameOverride";
const MISSPELT_NODE_HEADER: &str = "SessionHostNameOveride";
const IP_HEADER: &str = "SessionInternalIP";
const MAX_HEADERS: usize = 64;
/// Bytes of a refusal's body in the error.
const MAX_QUOTED: usize = 300;
