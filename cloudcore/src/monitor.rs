//! The monitor server: `/metrics`, `/healthz`, `/readyz` over plain HTTP (`commonConfig.monitorServer`).
//!
//! Owns its socket. Reads the registry and one readiness flag. It tells nothing secret and takes no orders; an address that cannot
//! be had is an error in the log and no more: edges do not suffer from it. Spec 06 §5.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use common::Tasks;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tracing::{error, info, warn};

/// What the server shows.
pub struct Monitor {
    /// The metrics.
    pub registry: Registry,
    /// Whether the modules can do their work now.
    pub ready: Box<dyn Fn() -> bool + Send + Sync>,
}

/// Starts the server; returns its address if it has one.
pub async fn start(address: &str, monitor: Monitor, tasks: &Tasks) -> Option<SocketAddr> {
    let listener = match open(address).await {
        Ok(listener) => listener,
        Err(error) => {
            error!(address, %error, "no metrics and health checks: choose a free commonConfig.monitorServer.bindAddress");
            return None;
        }
    };
    let bound = listener.local_addr().ok();
    info!(address, "metrics and health checks are served");
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .with_state(Arc::new(monitor));
    tasks.spawn("monitor server", async move {
        if let Err(error) = axum::serve(listener, router).await {
            warn!(%error, "monitor server ended");
        }
    });
    bound
}

/// `address` may be one of a host's name.
async fn open(address: &str) -> io::Result<TcpListener> {
    match address.parse() {
        Ok(address) => common::listen::tcp(address),
        Err(_) => TcpListener::bind(address).await,
    }
}

async fn metrics(State(monitor): State<Arc<Monitor>>) -> impl IntoResponse {
    let mut text = String::new();
    match encode(&mut text, &monitor.registry) {
        Ok(()) => Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text)),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

async fn ready(State(monitor): State<Arc<Monitor>>) -> (StatusCode, &'static str) {
    if (monitor.ready)() {
        (StatusCode::OK, "ok")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the first lists of the API are not complete",
        )
    }
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("connected");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer
    }

    #[tokio::test]
    async fn serves_health_readiness_and_metrics() {
        let tasks = Tasks::new();
        let is_ready = Arc::new(AtomicBool::new(false));
        let ready = {
            let is_ready = is_ready.clone();
            Box::new(move || is_ready.load(Ordering::Relaxed))
        };
        let monitor = Monitor {
            registry: Registry::default(),
            ready,
        };
        let address = start("127.0.0.1:0", monitor, &tasks).await.expect("bound");
        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        is_ready.store(true, Ordering::Relaxed);
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/metrics").await.ends_with("# EOF\n"));
        let taken = Monitor {
            registry: Registry::default(),
            ready: Box::new(|| true),
        };
        assert_eq!(start(&address.to_string(), taken, &tasks).await, None);
        tasks.stop(Duration::from_secs(1)).await;
    }
}
