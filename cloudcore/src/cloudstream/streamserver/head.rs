//! The head of a request, and how it goes on to the kubelet.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::refusal::Refusal;
use crate::cloudstream::looks::Looks;

/// A head is not read any further (spec 04 §7.4).
const MAX_HEAD: usize = 64 * 1024;
/// What a server like this gets at most: an API server's proxy adds a handful.
const MAX_HEADERS: usize = 128;
/// Between cloudcores: the node that a request is for.
pub(in crate::cloudstream) const NODE_HEADER: &str = "X-KubeEdge-Node";
/// Between cloudcores: the address of the one that passed the request on. It is not passed on again.
pub(in crate::cloudstream) const FORWARDED_BY: &str = "X-KubeEdge-Forwarded-By";
/// How long TLS and the head may take.
pub(super) const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// A request up to its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cloudstream) struct Head {
    /// `GET`, `POST`, …
    pub(in crate::cloudstream) method: String,
    /// Path and query, as sent.
    pub(in crate::cloudstream) target: String,
    /// In order; names may repeat.
    pub(in crate::cloudstream) headers: Vec<(String, String)>,
}

impl Head {
    /// Reads a head. What came after it is the second value: Go discards that, here it goes on to the kubelet.
    ///
    /// # Errors
    /// `None` when the client left without a word.
    pub(in crate::cloudstream) async fn read(
        io: &mut (impl AsyncRead + Unpin),
    ) -> Result<(Self, Vec<u8>), Option<Refusal>> {
        let mut bytes = Vec::with_capacity(4 * 1024);
        let mut looks = Looks::until(MAX_HEAD);
        loop {
            if looks.are_due(&bytes)
                && let Some((head, length)) = Self::parse(&bytes).map_err(Some)?
            {
                return Ok((head, bytes.split_off(length)));
            }
            if io.read_buf(&mut bytes).await.map_err(|_| None)? == 0 {
                // The connection ended within the head. If the part that came is wrong already, the caller is told so.
                Self::parse(&bytes).map_err(Some)?;
                return Err(None);
            }
        }
    }

    /// The head at the beginning of `bytes` with its length; `None` while it is incomplete.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Refusal> {
        let bad = |text: String| Refusal::new(StatusCode::BAD_REQUEST, text);
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut head = httparse::Request::new(&mut headers);
        let length = match head.parse(bytes) {
            Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
            Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
            Ok(_) => {
                let text = format!("the head of the request is longer than {MAX_HEAD} bytes");
                return Err(Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, text));
            }
            Err(error) => return Err(bad(format!("this is no HTTP/1.1 request: {error}"))),
        };
        let target = head.path.unwrap_or_default();
        if !target.starts_with('/') {
            return Err(bad("the target of the request must be a path".into()));
        }
        let mut kept = Vec::with_capacity(head.headers.len());
        for header in head.headers.iter() {
            let value = std::str::from_utf8(header.value);
            let value = value.map_err(|_| bad(format!("the header {} is not text", header.name)))?;
            kept.push((header.name.to_owned(), value.to_owned()));
        }
        let head = Self {
            method: head.method.unwrap_or_default().to_owned(),
            target: target.to_owned(),
            headers: kept,
        };
        Ok(Some((head, length)))
    }

    /// The path, still encoded.
    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The query, still encoded.
    pub(super) fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// The first value of a header.
    pub(in crate::cloudstream) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self
            .headers
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.trim())
    }

    /// The bearer token: of its header or, as browsers have no other way, of a WebSocket's sub-protocol.
    pub(super) fn bearer(&self) -> Option<Cow<'_, str>> {
        let pair = self.header("authorization").and_then(|value| value.split_once(' '));
        let pair = pair.filter(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty());
        match pair {
            Some((_, token)) => Some(token.trim().into()),
            None => self.bearer_of_protocol().map(Cow::Owned),
        }
    }

    /// As API servers read it: one sub-protocol is a token, and another one is there for the answer to name.
    fn bearer_of_protocol(&self) -> Option<String> {
        let upgrade = self.header("upgrade").unwrap_or_default();
        if !self.is_upgrade() || !upgrade.eq_ignore_ascii_case("websocket") {
            return None;
        }
        let lists = self
            .headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(SUB_PROTOCOLS));
        let (tokens, others): (Vec<&str>, Vec<&str>) = lists
            .flat_map(|(_, list)| sub_protocols(list))
            .partition(|protocol| protocol.starts_with(TOKEN_PROTOCOL));
        let [token] = tokens.as_slice() else { return None };
        if others.is_empty() {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix(TOKEN_PROTOCOL)?).ok()?;
        String::from_utf8(bytes).ok()
    }

    /// Whether the connection is to become another protocol's.
    pub(super) fn is_upgrade(&self) -> bool {
        let lists = self
            .headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("connection"));
        lists
            .flat_map(|(_, value)| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case("upgrade"))
    }

    /// The headers for the kubelet: no credentials, which are the cluster's and not the edge's business, and one request to a
    /// connection, so that its end is the end of the answer (spec 04 §4, §6).
    pub(in crate::cloudstream) fn forwarded_headers(&self) -> Vec<(String, String)> {
        let is = |name: &str, list: &[&str]| list.iter().any(|known| name.eq_ignore_ascii_case(known));
        let upgrade = self.is_upgrade();
        let mut kept: Vec<(String, String)> = self
            .headers
            .iter()
            .filter(|(name, _)| {
                let credential = is(name, CREDENTIALS) || name.get(..6).is_some_and(|start| is(start, &["proxy-"]));
                !credential && (upgrade || !is(name, HOP_BY_HOP)) && !is(name, OURS)
            })
            .filter_map(|(name, value)| {
                let value = if is(name, &[SUB_PROTOCOLS]) {
                    without_token(value)?
                } else {
                    value.clone()
                };
                Some((name.clone(), value))
            })
            .collect();
        if !upgrade {
            kept.push(("Connection".into(), "close".into()));
        }
        kept
    }
}

/// The sub-protocols of a list.
fn sub_protocols(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|protocol| !protocol.is_empty())
}

/// A list of sub-protocols but for tokens; `None` when nothing else was in it.
fn without_token(list: &str) -> Option<String> {
    let is_token = |protocol: &str| protocol.starts_with(TOKEN_PROTOCOL);
    if !sub_protocols(list).any(is_token) {
        return Some(list.to_owned());
    }
    let others: Vec<&str> = sub_protocols(list).filter(|protocol| !is_token(protocol)).collect();
    (!others.is_empty()).then(|| others.join(", "))
}

const SUB_PROTOCOLS: &str = "sec-websocket-protocol";
/// A sub-protocol with a token in it begins so (k8s.io/apiserver, pkg/authentication/request/websocket).
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";
const CREDENTIALS: &[&str] = &[
    "authorization",
    "cookie",
    "impersonate-user",
    "impersonate-group",
    "impersonate-uid",
];
const HOP_BY_HOP: &[&str] = &["connection", "keep-alive", "te", "upgrade"];
/// What cloudcores say to each other.
const OURS: &[&str] = &[NODE_HEADER, FORWARDED_BY];

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use tokio::io::ReadBuf;

    use super::*;

    /// Gives one byte at a time, at once.
    struct Trickle<'a>(&'a [u8]);

    impl AsyncRead for Trickle<'_> {
        fn poll_read(
            self: Pin<&mut Self>,
            _context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let rest = &mut self.get_mut().0;
            if let Some((first, others)) = rest.split_first() {
                buffer.put_slice(&[*first]);
                *rest = others;
            }
            Poll::Ready(Ok(()))
        }
    }

    /// What is read of it in such portions.
    fn trickled(bytes: &[u8]) -> Result<(Head, Vec<u8>), Option<Refusal>> {
        let mut io = Trickle(bytes);
        let read = pin!(Head::read(&mut io));
        match read.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(read) => read,
            Poll::Pending => panic!("there was always something to read"),
        }
    }

    fn parsed(text: &str) -> Head {
        Head::parse(text.as_bytes()).expect("good").expect("complete").0
    }

    #[test]
    fn credentials_and_hops_stay_behind() {
        let head = parsed(
            "GET /metrics?x=1 HTTP/1.1\r\nHost: 10.0.0.1:10351\r\nAuthorization: Bearer abc \r\nCookie: a\r\n\
             Proxy-Authorization: b\r\nKeep-Alive: 5\r\nConnection: keep-alive\r\nAccept: */*\r\n\r\n",
        );
        assert_eq!(
            (head.path(), head.query(), head.bearer().as_deref()),
            ("/metrics", "x=1", Some("abc"))
        );
        let names: Vec<String> = head
            .forwarded_headers()
            .into_iter()
            .map(|(name, value)| name + "=" + &value)
            .collect();
        assert_eq!(names, ["Host=10.0.0.1:10351", "Accept=*/*", "Connection=close"]);
    }

    #[test]
    fn an_upgrade_keeps_its_headers() {
        let head = parsed("POST /exec/a/b/c HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n");
        assert!(head.is_upgrade());
        assert_eq!(head.forwarded_headers().len(), 2);
    }

    #[test]
    fn a_head_that_trickles_in_is_the_same_head() {
        for text in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\n\n",
            "GET / HTTP/1.1\r\nA: b\n\r\n",
            "GET / HTTP/1.1\nA: b\r\nB:\r\nC: \r\n\n",
            "\r\n\n\r\n\r\n\nGET /a?b HTTP/1.0\r\nA: b\r\n\r\n",
        ] {
            let (head, length) = Head::parse(text.as_bytes()).expect("good").expect("complete");
            assert_eq!(length, text.len());
            assert_eq!(trickled(text.as_bytes()), Ok((head, Vec::new())), "{text:?}");
            let broken_off = text.get(..length - 1).unwrap_or_default();
            assert_eq!(trickled(broken_off.as_bytes()), Err(None), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_head_is_refused_before_its_end() {
        let status = |bytes: &[u8]| {
            let refusal = trickled(bytes).expect_err("no head").expect("an answer");
            refusal.status.as_u16()
        };
        let tls = [b"\x16\x03\x01".as_slice(), &[b'a'; 7]].concat();
        assert_eq!(status(&tls), 400);
        let many = "GET / HTTP/1.1\r\n".to_owned() + &"A: b\r\n".repeat(2 * MAX_HEADERS);
        assert_eq!(status(many.as_bytes()), 400);
        let long = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(MAX_HEAD));
        assert_eq!(status(long.as_bytes()), 431);
        assert_eq!(status(&[b'\n'; MAX_HEAD]), 431);
        assert_eq!(status(b"GET / HTTP/2"), 400, "the client says no more");
    }

    #[test]
    fn a_long_head_that_trickles_in_is_the_same_head() {
        let value = "x".repeat(6 * 1024);
        let headers: String = (0..10).map(|number| format!("A{number}: {value}\r\n")).collect();
        let text = format!("GET / HTTP/1.1\r\n{headers}\r\n");
        let (head, length) = Head::parse(text.as_bytes()).expect("good").expect("complete");
        assert!(length > 60 * 1024 && length == text.len());
        assert_eq!(trickled(text.as_bytes()), Ok((head, Vec::new())));
    }

    #[test]
    fn a_token_among_the_sub_protocols_is_read_and_stays_behind() {
        const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: WebSocket\r\n";
        const SPDY: &str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";
        // `T:` stands for what a token begins with. "YWJj" is "abc", "eHl6" is "xyz", "_w" is no text.
        for (way, lists, bearer, kept) in [
            (WEBSOCKET, &["v5.a, T:YWJj,v4.a"][..], Some("abc"), &["v5.a, v4.a"][..]),
            (WEBSOCKET, &["T:YWJj", "v4.a"], Some("abc"), &["v4.a"]),
            (WEBSOCKET, &["v5.a,v4.a"], None, &["v5.a,v4.a"]),
            // Refused, and no part of it goes on all the same.
            (WEBSOCKET, &["T:YWJj"], None, &[]),
            (WEBSOCKET, &["T:YWJj,"], None, &[]),
            (WEBSOCKET, &["T:YWJj, v4.a, T:eHl6"], None, &["v4.a"]),
            (WEBSOCKET, &["T:YWJj", "T:eHl6, v4.a"], None, &["v4.a"]),
            (WEBSOCKET, &["v4.a, T:YQ=="], None, &["v4.a"]),
            (WEBSOCKET, &["v4.a, T:Y!Jj"], None, &["v4.a"]),
            (WEBSOCKET, &["v4.a, T:_w"], None, &["v4.a"]),
            (SPDY, &["v4.a, T:YWJj"], None, &["v4.a"]),
            ("", &["v4.a, T:YWJj"], None, &["v4.a"]),
        ] {
            let mut text = format!("GET /exec/a/b/c HTTP/1.1\r\n{way}");
            for list in lists {
                text += &format!("Sec-WebSocket-Protocol: {}\r\n", list.replace("T:", TOKEN_PROTOCOL));
            }
            let head = parsed(&(text + "\r\n"));
            assert_eq!(head.bearer().as_deref(), bearer, "{way:?} {lists:?}");
            let headers = head.forwarded_headers();
            let left = headers
                .iter()
                .filter(|(name, _)| name.eq_ignore_ascii_case(SUB_PROTOCOLS));
            let left: Vec<&str> = left.map(|(_, list)| list.as_str()).collect();
            assert_eq!(left, kept, "{way:?} {lists:?}");
        }
        let both = format!(
            "GET / HTTP/1.1\r\n{WEBSOCKET}Authorization: Bearer xyz\r\nSec-WebSocket-Protocol: a,{TOKEN_PROTOCOL}YWJj\r\n\r\n"
        );
        assert_eq!(parsed(&both).bearer().as_deref(), Some("xyz"), "the header is first");
    }

    #[test]
    fn incomplete_overlong_and_wrong_heads() {
        assert_eq!(Head::parse(b"GET / HTT"), Ok(None));
        let long = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(MAX_HEAD));
        assert_eq!(Head::parse(long.as_bytes()).expect_err("too long").status, 431);
        for wrong in [
            "\x16\x03\x01\x02",
            "GET http://x/ HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nA: \u{fffd}\r\n bad\r\n\r\n",
        ] {
            assert!(!matches!(Head::parse(wrong.as_bytes()), Ok(Some(_))), "{wrong:?}");
        }
    }
}
