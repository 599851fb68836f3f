//! The port: HTTPS, POST of JSON. Nobody is asked who they are: the answer depends on the question alone. What questions cost is their
//! length, so that is what is rationed: they are read when there is room for as much as they say they are.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use common::Tasks;
use common::places::{Place, Places};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use proto::reviews::{BadReview, MAX_ADMISSION, MAX_CONVERSION, admit, convert};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

/// The path for ConversionReviews.
pub(super) const CONVERT: &str = "/convert";
/// The path for AdmissionReviews of devices, as in Go's webhook.
pub(super) const DEVICES: &str = "/devices";
/// The same of their models.
pub(super) const MODELS: &str = "/devicemodels";

/// The listener's own part.
pub(super) struct Server {
    tls: TlsAcceptor,
    router: Router,
    tasks: Tasks,
}

#[derive(Clone)]
struct Answers {
    /// KiB of questions that are read or worked on. An answer takes as much again.
    room: Arc<Semaphore>,
    reviews: Family<Review, Counter>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Review {
    review: &'static str,
    outcome: &'static str,
}

impl Server {
    pub(super) fn new(tls: TlsAcceptor, registry: &mut Registry, tasks: Tasks) -> Self {
        let answers = Answers {
            room: Arc::new(Semaphore::new(MAX_CONVERSION / KIB)),
            reviews: Family::default(),
        };
        registry.sub_registry_with_prefix("cloudcore_webhook").register(
            "reviews",
            "Questions of the API server about devices, by whether they were answered or made no sense",
            answers.reviews.clone(),
        );
        let router = Router::new()
            .route(CONVERT, post(conversion))
            .route(DEVICES, post(admission))
            .route(MODELS, post(admission))
            .route("/healthz", get(|| async { "ok" }))
            .with_state(answers);
        Self { tls, router, tasks }
    }

    pub(super) async fn accept(self, listener: TcpListener) {
        let mut places = Places::new("questions about devices", CONNECTIONS);
        loop {
            match places.next(|_| listener.accept()).await {
                Ok((stream, _, place)) => {
                    let place = Arc::new(place);
                    let router = self.router.clone().layer(Extension(place.clone()));
                    let tls = self.tls.clone();
                    self.tasks.spawn("webhook connection", async move {
                        // `None`: the connection had to make room for another one. It ends without an answer.
                        let _ = place.hold(serve(tls, router, stream)).await;
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept connections of the API server");
                    common::listen::pause().await;
                }
            }
        }
    }
}

/// One connection, with as many questions as come in time. It ends between two of them.
async fn serve(tls: TlsAcceptor, router: Router, stream: TcpStream) {
    let tls = match timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            return debug!(%error, "TLS handshake of an API server failed: does the CRD's caBundle hold our CA?");
        }
        Err(_) => return debug!("TLS handshake of an API server took too long"),
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(tls), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Ok(ended),
        () = sleep(LIFETIME) => {
            connection.as_mut().graceful_shutdown();
            timeout(IDLE, connection).await
        }
    };
    if let Ok(Err(error)) = ended {
        debug!(error = common::chain(&error), "connection of an API server failed");
    }
}

async fn conversion(State(answers): State<Answers>, request: Request) -> Response {
    answers.answer("conversion", convert, MAX_CONVERSION, request).await
}

async fn admission(State(answers): State<Answers>, request: Request) -> Response {
    answers.answer("admission", admit, MAX_ADMISSION, request).await
}

impl Answers {
    async fn answer(
        &self,
        review: &'static str,
        reader: fn(&[u8]) -> Result<Vec<u8>, BadReview>,
        limit: usize,
        request: Request,
    ) -> Response {
        let place = request.extensions().get::<Arc<Place>>().cloned();
        let (outcome, response) = match self.read(limit, request).await {
            Err(refusal) => ("refused", refusal.into_response()),
            Ok((body, _room)) => {
                // The question is read: until it is answered this connection is not closed to make room for another one.
                if let Some(place) = &place {
                    place.keep();
                }
                // Converting a long list takes longer than a worker thread of the runtime may be blocked.
                match tokio::task::spawn_blocking(move || reader(&body)).await {
                    Ok(Ok(answer)) => ("answered", ([(CONTENT_TYPE, JSON)], answer).into_response()),
                    Ok(Err(error)) => {
                        let error = common::chain(&error);
                        debug!(error, review, "a review that cannot be read");
                        ("unreadable", (StatusCode::BAD_REQUEST, error).into_response())
                    }
                    Err(_) => ("failed", StatusCode::INTERNAL_SERVER_ERROR.into_response()),
                }
            }
        };
        if let Some(place) = place {
            place.release();
        }
        self.reviews.get_or_create(&Review { review, outcome }).inc();
        response
    }

    /// The body, and the room that it takes.
    async fn read(&self, limit: usize, request: Request) -> Result<(Bytes, SemaphorePermit<'_>), Refusal> {
        let length = announced(request.headers(), limit)?;
        let needed = u32::try_from(length / KIB + 1).unwrap_or(u32::MAX);
        let needed = needed.min(u32::try_from(MAX_CONVERSION / KIB).unwrap_or(u32::MAX));
        let late = (StatusCode::SERVICE_UNAVAILABLE, "too many other questions");
        let room = timeout(ROOM, self.room.acquire_many(needed)).await;
        let room = room.map_err(|_| late)?.map_err(|_| late)?;
        let body = timeout(BODY, axum::body::to_bytes(request.into_body(), length)).await;
        let body = body.map_err(|_| (StatusCode::REQUEST_TIMEOUT, "too slow"))?;
        let body = body.map_err(|_| (StatusCode::BAD_REQUEST, "another length than was said"))?;
        Ok((body, room))
    }
}

type Refusal = (StatusCode, &'static str);

/// How long the question is.
fn announced(headers: &HeaderMap, limit: usize) -> Result<usize, Refusal> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if !header(CONTENT_TYPE).is_some_and(|kind| kind.starts_with(JSON)) {
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "application/json is read here"));
    }
    let length = header(CONTENT_LENGTH).and_then(|length| length.parse().ok());
    match length {
        None => Err((StatusCode::LENGTH_REQUIRED, "how long?")),
        Some(length) if length > limit => Err((StatusCode::PAYLOAD_TOO_LARGE, "too long")),
        Some(length) => Ok(length),
    }
}

const JSON: &str = "application/json";
/// Connections at once; API servers keep theirs.
pub(super) const CONNECTIONS: usize = 64;
const KIB: usize = 1024;
/// How long a question waits for others; the API server waits half a minute in all.
const ROOM: Duration = Duration::from_secs(10);
/// How long a question may take to come, so that none keeps the room for itself.
const BODY: Duration = Duration::from_secs(10);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may wait for its next question, or take for the last one.
const IDLE: Duration = Duration::from_secs(60);
const LIFETIME: Duration = Duration::from_secs(600);
