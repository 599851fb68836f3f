//! The port: HTTPS, POST of JSON. Nobody is asked who they are: the answer depends on the question alone, and costs what it is long.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use common::Tasks;
use http::header::CONTENT_TYPE;
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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
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
    /// Questions that are worked on: a large list takes a few times its size.
    places: Arc<Semaphore>,
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
            places: Arc::new(Semaphore::new(AT_A_TIME)),
            reviews: Family::default(),
        };
        registry.sub_registry_with_prefix("cloudcore_webhook").register(
            "reviews",
            "Questions of the API server about devices, by whether they were answered or made no sense",
            answers.reviews.clone(),
        );
        let convert = post(conversion).layer(DefaultBodyLimit::max(MAX_CONVERSION));
        let admit = post(admission).layer(DefaultBodyLimit::max(MAX_ADMISSION));
        let router = Router::new()
            .route(CONVERT, convert)
            .route(DEVICES, admit.clone())
            .route(MODELS, admit)
            .route("/healthz", get(|| async { "ok" }))
            .with_state(answers);
        Self { tls, router, tasks }
    }

    pub(super) async fn accept(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        while let Ok(place) = places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let served = serve(self.tls.clone(), self.router.clone(), stream, place);
                    self.tasks.spawn("webhook connection", served);
                }
                Err(error) => {
                    // Out of file descriptors, as a rule: a pause lets some of them come free.
                    warn!(%error, "cannot accept connections of the API server");
                    sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

/// One connection, with as many questions as come in time. It ends between two of them.
async fn serve(tls: TlsAcceptor, router: Router, stream: TcpStream, place: OwnedSemaphorePermit) {
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
    drop(place);
}

async fn conversion(State(answers): State<Answers>, headers: HeaderMap, body: Bytes) -> Response {
    answers.answer("conversion", convert, &headers, body).await
}

async fn admission(State(answers): State<Answers>, headers: HeaderMap, body: Bytes) -> Response {
    answers.answer("admission", admit, &headers, body).await
}

impl Answers {
    async fn answer(
        &self,
        review: &'static str,
        reader: fn(&[u8]) -> Result<Vec<u8>, BadReview>,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Response {
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !content_type.is_some_and(|kind| kind.starts_with(JSON)) {
            return (StatusCode::UNSUPPORTED_MEDIA_TYPE, "application/json is read here").into_response();
        }
        let Ok(_place) = self.places.acquire().await else {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        };
        // A list of many devices takes longer than a worker may be kept.
        let answer = tokio::task::spawn_blocking(move || reader(&body)).await;
        let (outcome, response) = match answer {
            Ok(Ok(answer)) => ("answered", ([(CONTENT_TYPE, JSON)], answer).into_response()),
            Ok(Err(error)) => {
                debug!(error = common::chain(&error), review, "a review that cannot be read");
                (
                    "unreadable",
                    (StatusCode::BAD_REQUEST, common::chain(&error)).into_response(),
                )
            }
            Err(_) => ("failed", StatusCode::INTERNAL_SERVER_ERROR.into_response()),
        };
        self.reviews.get_or_create(&Review { review, outcome }).inc();
        response
    }
}

const JSON: &str = "application/json";
/// Connections at once; API servers keep theirs.
const CONNECTIONS: usize = 64;
/// Questions at once.
const AT_A_TIME: usize = 4;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may wait for its next question, or take for the last one.
const IDLE: Duration = Duration::from_secs(60);
const LIFETIME: Duration = Duration::from_secs(600);
