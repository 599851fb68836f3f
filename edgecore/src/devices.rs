//! Devices: starts what serves them, bottom-up: DeviceTwin, then the ways to it.

use axum::Router;
use common::Tasks;
use config::EdgeCore;
use prometheus_client::registry::Registry;
use proto::Message;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::devicetwin::DeviceTwin;
use crate::dmi;
use crate::eventbus;
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
    /// Where messages of the cloud's rules for MQTT go; absent likewise.
    pub bus: Option<mpsc::Sender<Message>>,
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
        let mut twin = None;
        if config.modules.device_twin.enable {
            let settings = settings::devicetwin(config);
            twin = Some(DeviceTwin::start(settings, meta.clone(), uplink.clone(), registry, tasks).await);
            info!("Module twin registered successfully");
        }
        let handle = twin.as_ref().map(|(handle, _)| handle.clone());
        let history = handle.as_ref().and_then(|twin| history(config, twin, registry, tasks));
        if let Some(twin) = &handle {
            dmi::start(settings::dmi(config), meta.clone(), twin.clone(), tasks);
            info!("Module dmi registered successfully");
        }
        let mut bus = None;
        if let Some(settings) = settings::eventbus(config) {
            // Without EventBus nobody reads DeviceTwin's publications.
            let parts = eventbus::Parts {
                twin,
                history: history.clone(),
                meta: meta.clone(),
                uplink: uplink.clone(),
            };
            bus = Some(eventbus::start(&settings, parts, registry, tasks).await);
            info!("Module eventbus registered successfully");
        }
        Self {
            twin: handle,
            history,
            bus,
        }
    }

    /// Their paths, for the local server.
    pub fn router(&self) -> Router {
        self.history.as_ref().map_or_else(Router::new, History::router)
    }
}

/// Nothing else depends on it.
fn history(config: &EdgeCore, twin: &DeviceTwin, registry: &mut Registry, tasks: &Tasks) -> Option<History> {
    let started = History::start(settings::history(config)?, twin.news(), registry, tasks);
    started
        .inspect_err(|error| warn!(%error, "the history's thread cannot be started: no values are kept"))
        .ok()
}
