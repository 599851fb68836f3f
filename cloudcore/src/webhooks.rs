//! The webhook, put together from the configuration.

use anyhow::Context as _;
use cloudcore::addresses::Addresses;
use cloudcore::cloudhub::{self, Identity};
use cloudcore::kubernetes::Kube;
use cloudcore::webhook::{self, Settings};
use common::Tasks;
use config::CloudCore;
use prometheus_client::registry::Registry;
use proto::join::ServerNames;
use tokio::sync::watch;
use tracing::info;

/// Starts it, if the configuration says so.
pub(crate) fn start(
    config: &CloudCore,
    advertised: watch::Receiver<Addresses>,
    identity: &Identity,
    kube: &Kube,
    registry: &mut Registry,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let section = &config.modules.webhook;
    if !section.enable {
        return Ok(());
    }
    let hub = &config.modules.cloud_hub;
    let access = &config.kube_api_config;
    let in_cluster = access.kube_config.is_empty() && access.master.is_empty();
    let names = cloudhub::Settings::try_from(hub).context("modules.cloudHub cannot be used")?;
    let parts = webhook::Parts {
        settings: Settings::new(section, in_cluster),
        advertised,
        identity: identity.clone(),
        names: ServerNames {
            dns: names.dns_names,
            addresses: names.advertise_addresses,
        },
        kube: kube.clone(),
    };
    webhook::start(parts, registry, tasks).context("the webhook does not start")?;
    info!("Module webhook registered successfully");
    Ok(())
}
