//! Devices: starts what serves them, bottom-up: DeviceTwin, then the ways to it.

use axum::Router;
use common::Tasks;
use config::EdgeCore;
use prometheus_client::registry::Registry;
use tracing::{info, warn};

use crate::devicetwin::DeviceTwin;
use crate::history::History;
use crate::metamanager::MetaManager;
use crate::settings;
use crate::uplink::Uplink;

/// What others need of them.
pub struct Devices {
    /// Absent where the module is turned off.
    pub twin: Option<DeviceTwin>,
    /// Absent unless it is turned on.
    pub history: Option<History>,
}

impl Devices {
    /// Starts the modules that the file turns on.
    pub async fn start(
        config: &EdgeCore,
        meta: &MetaManager,
        uplink: &Uplink,
        registry: &mut Registry,
        tasks: &Tasks,
    ) -> Self {
        if !config.modules.device_twin.enable {
            return Self {
                twin: None,
                history: None,
            };
        }
        let settings = settings::devicetwin(config);
        let (twin, mut publications) = DeviceTwin::start(settings, meta.clone(), uplink.clone(), registry, tasks).await;
        info!("Module twin registered successfully");
        let history = history(config, &twin, registry, tasks);
        // Until there is an EventBus nobody reads them.
        tasks.spawn(
            "publications",
            async move { while publications.recv().await.is_some() {} },
        );
        Self {
            twin: Some(twin),
            history,
        }
    }

    /// Their paths, for the local server.
    pub fn router(&self) -> Router {
        self.history.as_ref().map_or_else(Router::new, History::router)
    }
}

/// Nothing else depends on it.
fn history(config: &EdgeCore, twin: &DeviceTwin, registry: &mut Registry, tasks: &Tasks) -> Option<History> {
    let started = History::start(settings::history(config)?, twin.values(), registry, tasks);
    started
        .inspect_err(|error| warn!(%error, "the history's thread cannot be started: no values are kept"))
        .ok()
}
