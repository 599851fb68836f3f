//! Devices: starts what serves them, bottom-up: DeviceTwin, then the ways to it.

use common::Tasks;
use config::EdgeCore;
use prometheus_client::registry::Registry;
use tracing::info;

use crate::devicetwin::DeviceTwin;
use crate::metamanager::MetaManager;
use crate::settings;
use crate::uplink::Uplink;

/// What others need of them.
pub struct Devices {
    /// Absent where the module is turned off.
    pub twin: Option<DeviceTwin>,
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
            return Self { twin: None };
        }
        let settings = settings::devicetwin(config);
        let (twin, mut publications) = DeviceTwin::start(settings, meta.clone(), uplink.clone(), registry, tasks).await;
        info!("Module twin registered successfully");
        // Until there is an EventBus nobody reads them.
        tasks.spawn(
            "publications",
            async move { while publications.recv().await.is_some() {} },
        );
        Self { twin: Some(twin) }
    }
}
