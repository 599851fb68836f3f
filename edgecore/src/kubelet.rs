//! Edged and what tells of it, put together from the configuration.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use common::Tasks;
use config::EdgeCore;
use edgecore::edged::Edged;
use edgecore::edged::node::{self, SystemFacts};
use edgecore::metamanager::MetaManager;
use edgecore::settings;
use edgecore::stats::Stats;
use tokio::sync::watch;
use tracing::info;

/// Starts it, if the configuration says so; the second value serves what its pods use.
pub(crate) fn start(
    config: &EdgeCore,
    address: &watch::Receiver<IpAddr>,
    meta: &MetaManager,
    tasks: &Tasks,
) -> anyhow::Result<(Option<Edged>, Router)> {
    if !config.modules.edged.enable {
        return Ok((None, Router::new()));
    }
    let node = settings::node(config);
    let facts = Arc::new(SystemFacts {
        root: config.modules.edged.root_directory.clone().into(),
    });
    let first = *address.borrow();
    let pods = Edged::start(
        settings::edged(config)?,
        settings::node_facts(&node, first, &*facts),
        address.clone(),
        meta.clone(),
        tasks,
    );
    let parts = node::Parts {
        meta: meta.clone(),
        runtime: pods.runtime_state(),
        address: address.clone(),
        facts,
    };
    node::start(node, parts, tasks);
    let stats = Stats::new(
        pods.runtime().clone(),
        pods.probe_metrics().clone(),
        settings::stats(config)?,
    );
    info!("Module edged registered successfully");
    Ok((Some(pods), stats.router()))
}
