//! The kubelet's API: health, pods, metrics, logs, exec, attach and port-forward, as one router for every way in.
//!
//! Owns the listener on `address:readOnlyPort`; the tunnel serves the same router. Reads pods, their statuses, counters and the runtime.
//! Emits streams between a caller and the runtime, which end with either. Must not change anything itself. A port that is taken is said
//! once and tried again: pods do not depend on it. Paths, statuses and texts as a kubelet's (spec 04 §9, spec 05 §5.7); others add theirs
//! by a router.
//!
//! Whoever reaches the port may do all of this, as with a Go edge: it listens on 127.0.0.1, and `enableDebuggingHandlers: false` leaves
//! only what tells and runs nothing.

mod kubelet;
mod logs;
mod relay;
mod run;
mod state;
mod streams;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::{any, get, post};
use common::Tasks;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::edged::Edged;
use crate::metamanager::MetaManager;
use kubelet::Kubelet;

/// Pause before another try for a port that is taken.
const RETRY: Duration = Duration::from_secs(5);

/// What the paths tell of and work with.
#[derive(Debug)]
pub struct Parts {
    /// Pods that are to run, and the Node.
    pub meta: MetaManager,
    /// The runtime; absent where it is turned off.
    pub edged: Option<Edged>,
    /// What is counted.
    pub registry: Registry,
    /// `enableDebuggingHandlers`: whether logs, exec and the like are served.
    pub debugging: bool,
    /// The answer of `/configz`, JSON.
    pub configuration: String,
    /// Paths of other modules.
    pub more: Router,
}

/// All paths.
pub fn router(parts: Parts, tasks: &Tasks) -> Router {
    let Parts {
        meta,
        edged,
        registry,
        debugging,
        configuration,
        more,
    } = parts;
    let router = state::router(meta, edged.clone(), Arc::new(registry)).merge(more);
    let router = match edged {
        Some(edged) if debugging => {
            let tasks = tasks.clone();
            router.merge(debugging_paths(Kubelet { edged, tasks }, configuration))
        }
        _ => router.merge(without_debugging()),
    };
    router.fallback(|| async { (StatusCode::NOT_FOUND, "404: Page Not Found") })
}

/// What shows and does what is in containers.
fn debugging_paths(kubelet: Kubelet, configuration: String) -> Router {
    let streams = |path: &str| {
        let both = format!("/{path}/{{namespace}}/{{pod}}/{{container}}");
        let with_uid = format!("{both}/{{of_uid}}");
        [both, with_uid]
    };
    let mut router = Router::new()
        .route(
            "/containerLogs/{namespace}/{pod}/{container}",
            get(logs::container_logs),
        )
        .route("/runningpods", get(run::running_pods))
        .route("/runningpods/", get(run::running_pods));
    for path in streams("exec") {
        router = router.route(&path, get(streams::exec).post(streams::exec));
    }
    for path in streams("attach") {
        router = router.route(&path, get(streams::attach).post(streams::attach));
    }
    for path in streams("run") {
        router = router.route(&path, post(run::run));
    }
    for path in ["/portForward/{namespace}/{pod}", "/portForward/{namespace}/{pod}/{uid}"] {
        router = router.route(path, get(streams::port_forward).post(streams::port_forward));
    }
    let configz = move || async move { ([(header::CONTENT_TYPE, "application/json")], configuration) };
    router.route("/configz", get(configz)).with_state(kubelet)
}

/// As a kubelet tells that they are turned off.
fn without_debugging() -> Router {
    let off = || async { (StatusCode::METHOD_NOT_ALLOWED, "Debug endpoints are disabled.\n") };
    let mut router = Router::new().route("/runningpods/", any(off));
    for path in ["run", "exec", "attach", "portForward", "containerLogs", "logs"] {
        router = router.route(&format!("/{path}/{{*rest}}"), any(off));
    }
    router
}

/// Listens, until the process stops.
pub fn start(address: SocketAddr, router: Router, tasks: &Tasks) {
    let stop = tasks.token().clone();
    tasks.spawn("server", async move {
        let listener = bind(address).await;
        info!(%address, "local server listens");
        let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = served.await {
            warn!(%address, %error, "local server ended");
        }
    });
}

async fn bind(address: SocketAddr) -> TcpListener {
    let mut said = false;
    loop {
        match common::listen::tcp(address) {
            Ok(listener) => return listener,
            Err(error) if !said => {
                said = true;
                warn!(%address, %error, "the local server cannot listen (tailoredKubeletConfig.readOnlyPort); tried again every 5s");
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    }
}
