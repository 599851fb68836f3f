//! Edged and what tells of it, put together from the configuration.

use std::sync::Arc;

use axum::Router;
use common::Tasks;
use config::{EdgeCore, HostFacts};
use edgecore::edged::Edged;
use edgecore::edged::node::{self, SystemFacts};
use edgecore::metamanager::MetaManager;
use edgecore::settings;
use edgecore::stats::Stats;
use tracing::info;

/// Starts it, if the configuration says so; the second value serves what its pods use.
pub(crate) fn start(
    config: &EdgeCore,
    host: &HostFacts,
    meta: &MetaManager,
    tasks: &Tasks,
) -> anyhow::Result<(Option<Edged>, Router)> {
    if !config.modules.edged.enable {
        return Ok((None, Router::new()));
    }
    let node = settings::node(config, host)?;
    let facts = Arc::new(SystemFacts {
        root: config.modules.edged.root_directory.clone().into(),
    });
    let pods = Edged::start(
        settings::edged(config)?,
        settings::node_facts(&node, &*facts),
        meta.clone(),
        tasks,
    );
    node::start(node, meta.clone(), pods.runtime_state(), facts, tasks);
    let stats = Stats::new(
        pods.runtime().clone(),
        pods.probe_metrics().clone(),
        settings::stats(config)?,
    );
    info!("Module edged registered successfully");
    Ok((Some(pods), stats.router()))
}
