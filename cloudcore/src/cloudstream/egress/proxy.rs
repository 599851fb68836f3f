//! The proxy: one `CONNECT host:port` a connection.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use common::Tasks;
use common::places::Place;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::ext::ReasonPhrase;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::super::streamserver::LAST_WORDS;
use super::access::Caller;
use super::{Connection, Kubelets};
use crate::informers::Host;

pub(super) struct Proxy {
    kubelets: Arc<dyn Kubelets>,
    pass_through: bool,
    tasks: Tasks,
}

/// Why there is no connection. An API server shows the text to its user: it travels as the reason beside the status.
struct Refusal(StatusCode, String);

/// Where a connection leads.
enum Way {
    Edge(Host),
    Dialled(TcpStream),
}

impl Proxy {
    pub(super) fn new(kubelets: Arc<dyn Kubelets>, pass_through: bool, tasks: Tasks) -> Self {
        Self {
            kubelets,
            pass_through,
            tasks,
        }
    }

    /// Serves a connection until it ends, and what it becomes, which keeps its place.
    pub(super) async fn serve<C>(
        self: &Arc<Self>,
        connection: C,
        peer: SocketAddr,
        caller: Caller,
        place: Option<Place>,
    ) where
        C: Connection + 'static,
    {
        // Hyper may call the service again for a second request. The place belongs to the first one, so the second finds `None`.
        let place = Arc::new(Mutex::new(place));
        let service = service_fn(|request| {
            let (caller, place) = (caller.clone(), place.lock().take());
            async move { Ok::<_, Infallible>(self.answer(request, peer, &caller, place).await) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(BUFFER)
            .keep_alive(false)
            .serve_connection(TokioIo::new(connection), service)
            .with_upgrades();
        if let Err(error) = served.await {
            debug!(%peer, error = %common::chain(&error), "connection of an API server failed");
        }
    }

    async fn answer(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
        peer: SocketAddr,
        caller: &Caller,
        place: Option<Place>,
    ) -> Response<Full<Bytes>> {
        match self.way(&request, caller).await {
            Ok(way) => {
                let (proxy, upgraded) = (self.clone(), hyper::upgrade::on(&mut request));
                self.tasks.spawn_lingering("egress connection", LAST_WORDS, async move {
                    proxy.join(upgraded, way, peer).await;
                    drop(place);
                });
                Response::default()
            }
            Err(Refusal(status, text)) => {
                match caller {
                    Caller::Allowed => debug!(%peer, %status, text, "no connection for an API server"),
                    Caller::Stranger(_) => warn!(%peer, text, "connection through the egress endpoint refused"),
                }
                refused(status, text)
            }
        }
    }

    async fn way(&self, request: &Request<Incoming>, caller: &Caller) -> Result<Way, Refusal> {
        if let Caller::Stranger(name) = caller {
            let text = format!(
                "a certificate named {name:?} is not let in: see modules.cloudStream.egress.clientNames of cloudcore"
            );
            return Err(Refusal(StatusCode::FORBIDDEN, text));
        }
        if request.method() != Method::CONNECT {
            return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "only CONNECT".to_owned()));
        }
        let authority = request.uri().authority();
        let target = authority.and_then(|authority| Some((authority.host(), authority.port_u16()?)));
        let Some((host, port)) = target else {
            let text = "CONNECT wants host:port".to_owned();
            return Err(Refusal(StatusCode::BAD_REQUEST, text));
        };
        let destination = Host::parse(host);
        if is_kubelet(port) && self.kubelets.is_edge(&destination) {
            return Ok(Way::Edge(destination));
        }
        if !self.pass_through {
            let text = format!(
                "{host}:{port} is not the kubelet of an edge, and modules.cloudStream.egress.passThrough is false"
            );
            return Err(Refusal(StatusCode::FORBIDDEN, text));
        }
        dial(&destination, port).await.map(Way::Dialled)
    }

    async fn join(&self, upgraded: OnUpgrade, way: Way, peer: SocketAddr) {
        let upgraded = match upgraded.await {
            Ok(upgraded) => upgraded,
            Err(error) => {
                debug!(%peer, error = %common::chain(&error), "an API server left before its connection was there");
                return;
            }
        };
        let mut upgraded = TokioIo::new(upgraded);
        match way {
            Way::Edge(destination) => self.kubelets.serve(Box::new(upgraded), peer, destination).await,
            Way::Dialled(mut stream) => {
                // Either side may end it in whatever way: the other one is told the same by the end of its own half.
                let _ = copy_bidirectional(&mut upgraded, &mut stream).await;
            }
        }
    }
}

/// A kubelet's own port and the ports that stand for cloudcores in the status of nodes (spec 04 §12). What else listens on an edge is
/// no business of its kubelet.
fn is_kubelet(port: u16) -> bool {
    matches!(port, 10250 | 10350..=11350)
}

async fn dial(destination: &Host, port: u16) -> Result<TcpStream, Refusal> {
    let shown = match destination {
        Host::Name(name) => format!("{name}:{port}"),
        Host::Address(address) => SocketAddr::new(*address, port).to_string(),
    };
    let dialled = timeout(DIAL, async {
        let addresses: Vec<SocketAddr> = match destination {
            Host::Name(name) => lookup_host((&**name, port)).await?.collect(),
            Host::Address(address) => vec![SocketAddr::new(*address, port)],
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            if is_local(address.ip()) {
                last = io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "it would be cloudcore's own host, which an API server has no business with",
                );
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    });
    match dialled.await {
        Ok(Ok(stream)) => {
            // As for callers; a socket without the option works as well.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(error)) => {
            let status = if error.kind() == io::ErrorKind::PermissionDenied {
                StatusCode::FORBIDDEN
            } else {
                StatusCode::BAD_GATEWAY
            };
            Err(Refusal(status, format!("cloudcore cannot reach {shown}: {error}")))
        }
        Err(_) => {
            let text = format!("cloudcore cannot reach {shown}: no answer within {} s", DIAL.as_secs());
            Err(Refusal(StatusCode::GATEWAY_TIMEOUT, text))
        }
    }
}

/// Addresses that mean another host to the API server than to cloudcore: what listens there trusts its own host.
fn is_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_loopback() || address.is_unspecified() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unspecified() || address.is_unicast_link_local(),
    }
}

fn refused(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text.clone()));
    *response.status_mut() = status;
    // An error's text may hold what a reason cannot: then the status stands alone.
    if let Ok(reason) = ReasonPhrase::try_from(text.into_bytes()) {
        response.extensions_mut().insert(reason);
    }
    response
}

/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(10);
/// Of a head; the least that hyper takes.
const BUFFER: usize = 8192;
/// API servers wait for 30 s.
const DIAL: Duration = Duration::from_secs(20);
