//! The local HTTP server on `address:readOnlyPort`: health, the pods that are to run, metrics.
//!
//! Owns the listener. Reads the set of pods and the counters. Must not change anything. A port that is taken is said once and tried
//! again: pods do not depend on it. Paths as a kubelet's (spec 05 §5.7); others add theirs by a router.

mod state;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use common::Tasks;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::edged::Edged;
use crate::metamanager::MetaManager;

/// Pause before another try for a port that is taken.
const RETRY: Duration = Duration::from_secs(5);

/// The paths of this server; `edged` is absent where it is turned off, `more` are the paths of other modules.
pub fn router(meta: MetaManager, edged: Option<Edged>, registry: Registry, more: Router) -> Router {
    state::router(meta, edged, Arc::new(registry)).merge(more)
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
        match TcpListener::bind(address).await {
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
