//! A caller and the runtime's streaming server, connected: the request goes on as it came, then bytes go both ways (spec 04 §9.1).
//!
//! What is spoken after the upgrade, SPDY or WebSocket, nobody here looks at, but for SPDY's pings, which wait while there is something to
//! read. Either side's end ends both: those protocols have a half-close of their own.

mod pings;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::pin;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use common::{Tasks, chain};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::debug;

use super::kubelet::plain;
use pings::Pings;

/// The runtime is on this machine.
const DIAL: Duration = Duration::from_secs(5);
/// Its answer to the request.
const ANSWER: Duration = Duration::from_secs(30);
/// For the last bytes to whoever still takes them.
const LAST_BYTES: Duration = Duration::from_secs(5);
/// A runtime that has not said anything for so long has nothing on its way.
const SILENCE: Duration = Duration::from_millis(100);
/// Bytes on their way, in each direction.
const BUFFER: usize = 64 * 1024;

/// Why the runtime's server was not reached.
#[derive(Debug, Error)]
enum RelayError {
    #[error("the container runtime streams at {0:?}, which is no address of this machine that can be dialled")]
    Address(String),
    #[error("error dialing backend: {0} cannot be reached")]
    Dial(String, #[source] io::Error),
    #[error("error dialing backend: {0} does not answer")]
    Late(String),
    #[error("the container runtime's streaming server at {0} breaks off")]
    Exchange(String, #[source] hyper::Error),
    #[error("the request cannot be passed on")]
    Request(#[source] axum::http::Error),
}

/// Passes the request on to what the runtime has opened for it, once: its address serves one caller, and only for a minute.
pub(super) async fn relay(url: &str, request: Request, tasks: &Tasks) -> Response {
    match pass_on(url, request, tasks).await {
        Ok(response) => response,
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, chain(&error)),
    }
}

async fn pass_on(url: &str, mut caller: Request, tasks: &Tasks) -> Result<Response, RelayError> {
    let place = Place::parse(url).ok_or_else(|| RelayError::Address(url.to_owned()))?;
    let at = || format!("{}:{}", place.address, place.port);
    let stream = match timeout(DIAL, TcpStream::connect((place.address, place.port))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(RelayError::Dial(at(), error)),
        Err(_) => return Err(RelayError::Late(at())),
    };
    // Keystrokes and echoes are small.
    let _ = stream.set_nodelay(true);
    let broken = |error| RelayError::Exchange(at(), error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tasks.spawn("stream-runtime", async move {
        if let Err(error) = connection.with_upgrades().await {
            debug!(
                error = chain(&error),
                "the connection to the runtime's streaming server"
            );
        }
    });

    let mut request = axum::http::Request::builder()
        .method(caller.method().clone())
        .uri(&place.target)
        .body(Empty::<Bytes>::new())
        .map_err(RelayError::Request)?;
    *request.headers_mut() = caller.headers().clone();
    let headers = request.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
    headers.insert(HOST, place.host);
    let answer = match timeout(ANSWER, sender.send_request(request)).await {
        Ok(answer) => answer.map_err(broken)?,
        Err(_) => return Err(RelayError::Late(at())),
    };
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let mut answer = answer.map(Body::new);
        answer
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
        return Ok(answer);
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    let spdy = answer
        .headers()
        .get(UPGRADE)
        .is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"SPDY/3.1"));
    let upgrades = (hyper::upgrade::on(&mut caller), hyper::upgrade::on(answer));
    tasks.spawn("stream", async move {
        // A caller that is gone before its upgrade has none.
        if let Ok((caller, runtime)) = futures::future::try_join(upgrades.0, upgrades.1).await {
            connect(TokioIo::new(caller), TokioIo::new(runtime), spdy).await;
        }
    });
    Ok(response)
}

/// Copies until the runtime has said everything, or the caller is gone: what the runtime has said by its end still reaches the caller,
/// also when it takes no more.
async fn connect<A, B>(mut caller: A, mut runtime: B, spdy: bool)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    {
        let (mut from_caller, mut to_caller) = tokio::io::split(&mut caller);
        let (mut from_runtime, mut to_runtime) = tokio::io::split(&mut runtime);
        let (silence, silent) = watch::channel(false);
        let up = async {
            if up(&mut from_caller, &mut to_runtime, silent, spdy).await.is_err() {
                // The caller's end is the end all the same.
                let _ = tokio::io::copy(&mut from_caller, &mut tokio::io::sink()).await;
            }
        };
        tokio::select! {
            // Whatever ends it, there is nothing more to pass on.
            _ended = down(&mut from_runtime, &mut to_caller, &silence) => {}
            () = up => {}
        }
    }
    let _ = timeout(LAST_BYTES, futures::future::join(caller.shutdown(), runtime.shutdown())).await;
}

/// To the runtime, until the caller's end. Fails when the runtime takes no more.
async fn up(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut silent: watch::Receiver<bool>,
    spdy: bool,
) -> io::Result<()> {
    let mut pings = Pings::default();
    let mut buffer = vec![0; BUFFER];
    let mut passed = Vec::new();
    loop {
        let bytes = tokio::select! {
            read = from.read(&mut buffer) => {
                let Ok(count @ 1..) = read else { return Ok(()) };
                let bytes = buffer.get(..count).unwrap_or_default();
                if spdy {
                    passed.clear();
                    pings.pass(bytes, &mut passed);
                    &passed
                } else {
                    bytes
                }
            }
            Ok(_) = silent.wait_for(|silent| *silent), if pings.wait() => {
                passed = pings.take();
                &passed
            }
        };
        to.write_all(bytes).await?;
        to.flush().await?;
    }
}

/// From the runtime, until its end, or until the caller takes no more. Tells when nothing has come for a while.
async fn down(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    silence: &watch::Sender<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = {
            let mut reading = pin!(from.read(&mut buffer));
            if let Ok(read) = timeout(SILENCE, &mut reading).await {
                read?
            } else {
                silence.send_replace(true);
                let read = reading.await;
                silence.send_replace(false);
                read?
            }
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(());
        }
        to.write_all(bytes).await?;
        to.flush().await?;
    }
}

/// Where the runtime streams.
#[derive(Debug)]
struct Place {
    address: IpAddr,
    port: u16,
    host: HeaderValue,
    target: String,
}

impl Place {
    /// Only plain HTTP on an address: that is what runtimes have unless somebody configures them otherwise.
    fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let host = uri.host()?.trim_matches(['[', ']']);
        let address = match host {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => host.parse().ok()?,
        };
        let address = match address {
            IpAddr::V4(any) if any.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(any) if any.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            address => address,
        };
        if uri.scheme_str() != Some("http") {
            return None;
        }
        Some(Self {
            address,
            port: uri.port_u16().unwrap_or(80),
            host: HeaderValue::from_str(uri.authority()?.as_str()).ok()?,
            target: uri.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    #[test]
    fn only_addresses_of_this_machine_by_plain_http_are_dialled() {
        let place = Place::parse("http://127.0.0.1:43211/exec/pXk2-d9Q").expect("a place");
        assert_eq!((place.address.to_string(), place.port), ("127.0.0.1".into(), 43211));
        assert_eq!(
            (place.target.as_str(), place.host.to_str().expect("text")),
            ("/exec/pXk2-d9Q", "127.0.0.1:43211")
        );
        let any = |url| Place::parse(url).map(|place| place.address.to_string());
        assert_eq!(any("http://0.0.0.0:1/x"), Some("127.0.0.1".into()));
        assert_eq!(any("http://[::]:1/x"), Some("::1".into()));
        for url in [
            "https://127.0.0.1:1/x",
            "unix:///run/x.sock",
            "127.0.0.1:1",
            "http://elsewhere/x",
            "",
        ] {
            assert!(Place::parse(url).is_none(), "{url}");
        }
    }
    const PING: &[u8] = &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
    const DATA: &[u8] = &[0, 0, 0, 5, 0, 0, 0, 1, b'x'];

    /// The caller's own end, the runtime's, and what connects them.
    fn ends(spdy: bool) -> (DuplexStream, DuplexStream, impl Future<Output = ()>) {
        let ((caller, near), (runtime, far)) = (duplex(16), duplex(64 * 1024));
        (caller, runtime, connect(near, far, spdy))
    }

    #[tokio::test(start_paused = true)]
    async fn a_ping_waits_while_there_is_something_to_read_and_all_else_does_not() {
        let (mut caller, mut runtime, connected) = ends(true);
        let script = async {
            let long = "x".repeat(10_000);
            runtime.write_all(long.as_bytes()).await.expect("sent");
            caller.write_all(PING).await.expect("sent");
            caller.write_all(DATA).await.expect("sent");
            let mut got = [0; DATA.len()];
            runtime.read_exact(&mut got).await.expect("data");
            assert_eq!(got, DATA);
            let mut got = [0; PING.len()];
            let nothing = timeout(Duration::from_secs(60), runtime.read(&mut got)).await;
            assert!(nothing.is_err(), "the ping came by {got:?}");
            let mut read = vec![0; long.len()];
            caller.read_exact(&mut read).await.expect("all of it");
            runtime.read_exact(&mut got).await.expect("the ping");
            assert_eq!(got, PING);
            drop(runtime);
            assert_eq!(caller.read(&mut got).await.expect("the end"), 0);
        };
        tokio::join!(script, connected);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_runtime_has_said_reaches_a_caller_that_still_speaks() {
        for spdy in [true, false] {
            let (mut caller, mut runtime, connected) = ends(spdy);
            let script = async {
                let long = "x".repeat(10_000);
                runtime.write_all(long.as_bytes()).await.expect("sent");
                drop(runtime);
                for _ in 0..3 {
                    caller.write_all(DATA).await.expect("it is read");
                    tokio::time::sleep(Duration::from_secs(5)).await;
                }
                let mut read = String::new();
                caller.read_to_string(&mut read).await.expect("all of it");
                assert_eq!(read, long, "spdy: {spdy}");
            };
            tokio::join!(script, connected);
        }
    }
}
