//! What the node, its pods and their containers use: `/stats/summary`, `/metrics/resource`, `/metrics/cadvisor`, `/metrics/probes`.
//!
//! Owns the last looks at processor time. Reads cgroups of either version, `/proc`, the disk and the runtime's lists, only when somebody
//! asks: there is no task that looks all the time. Emits answers in the forms of a kubelet, which metrics-server (`kubectl top`) and
//! Prometheus read; never compressed. Must not change anything. Behaviour: spec 04 §9, spec 05 §5.7.

mod cadvisor;
mod cgroup;
mod collect;
mod machine;
mod rates;
mod resource;
mod summary;

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use common::chain;

use crate::edged::cgroups::CgroupNames;
use crate::edged::context::{self, CgroupDriver};
use crate::edged::probes::ProbeMetrics;
use crate::edged::runtime::{Runtime, RuntimeError};
use cgroup::Cgroups;
use collect::{Depth, Look};
use proto::exposition;
use rates::Rates;

/// What is to be known of the node.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name.
    pub node: String,
    /// Where pods, logs and cgroups are.
    pub edged: context::Settings,
}

/// Answers questions about usage.
#[derive(Debug)]
pub struct Stats {
    runtime: Arc<dyn Runtime>,
    probes: ProbeMetrics,
    settings: Arc<Settings>,
    cgroups: Cgroups,
    names: Vec<CgroupNames>,
    rates: Arc<Rates>,
    /// One look at a time: impatient clients must not pile up.
    turn: tokio::sync::Mutex<()>,
}

impl Stats {
    /// Nothing is read before somebody asks.
    pub fn new(runtime: Arc<dyn Runtime>, probes: ProbeMetrics, settings: Settings) -> Self {
        let edged = &settings.edged;
        // Which driver the runtime has is known later; trees of the other one are just not there.
        let names = [CgroupDriver::Cgroupfs, CgroupDriver::Systemd]
            .map(|driver| CgroupNames::new(driver, &edged.cgroup_root, edged.cgroups_per_qos));
        Self {
            names: names.into(),
            runtime,
            probes,
            settings: Arc::new(settings),
            cgroups: Cgroups::detect(),
            rates: Arc::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// The paths, for the local server.
    pub fn router(self) -> Router {
        Router::new()
            .route("/stats/summary", get(summary).post(summary))
            .route("/metrics/resource", get(resource))
            .route("/metrics/cadvisor", get(cadvisor))
            .route("/metrics/probes", get(probes))
            .with_state(Arc::new(self))
    }

    async fn look(&self, depth: Depth) -> Result<Look, RuntimeError> {
        let look = collect::look(&*self.runtime, &self.cgroups, &self.names, depth).await?;
        let levels = look.levels.iter().map(|level| (level.path.as_str(), &level.usage));
        let groups = look.pods.iter().filter_map(|pod| pod.group.as_ref());
        let groups = levels.chain(groups.map(|(path, usage)| (path.as_str(), usage)));
        let containers = look.pods.iter().flat_map(|pod| &pod.containers);
        let containers = containers.filter_map(|one| Some((one.id.as_str(), one.usage.as_ref()?)));
        let all = std::iter::once(("/", &look.machine)).chain(groups).chain(containers);
        self.rates
            .note(all.filter_map(|(path, usage)| Some((path, usage.cpu?.total))));
        Ok(look)
    }

    async fn summary(&self, small: bool) -> Result<Vec<u8>, String> {
        let _turn = self.turn.lock().await;
        let message = |error: RuntimeError| chain(&error);
        if self.rates.is_empty() {
            self.look(Depth::Usage).await.map_err(message)?;
            tokio::time::sleep(rates::LEAST).await;
        }
        if small {
            let look = self.look(Depth::Usage).await.map_err(message)?;
            let summary = summary::small(&self.settings.node, &look, &self.rates);
            return serde_json::to_vec(&summary).map_err(|error| error.to_string());
        }
        let look = self.look(Depth::All).await.map_err(message)?;
        let images = self.runtime.image_fs_info().await.ok();
        let (settings, rates) = (self.settings.clone(), self.rates.clone());
        let made = tokio::task::spawn_blocking(move || {
            let images = images.as_ref().and_then(|images| images.image_filesystems.first());
            serde_json::to_vec(&summary::full(&settings, &look, &rates, images))
        });
        match made.await {
            Ok(made) => made.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

async fn summary(State(stats): State<Arc<Stats>>, RawQuery(query): RawQuery) -> Response {
    let only = query
        .iter()
        .flat_map(|query| query.split('&'))
        .find_map(|pair| pair.strip_prefix("only_cpu_and_memory="));
    // Go's spellings of true.
    let small = matches!(only, Some("1" | "t" | "T" | "true" | "TRUE" | "True"));
    match stats.summary(small).await {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error).into_response(),
    }
}

async fn resource(State(stats): State<Arc<Stats>>) -> Response {
    let _turn = stats.turn.lock().await;
    let look = stats.look(Depth::Usage).await;
    metrics(resource::text(told(&look)))
}

async fn cadvisor(State(stats): State<Arc<Stats>>) -> Response {
    let _turn = stats.turn.lock().await;
    let look = stats.look(Depth::Network).await;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    metrics(cadvisor::text(told(&look), processors))
}

async fn probes(State(stats): State<Arc<Stats>>) -> Response {
    metrics(stats.probes.text())
}

fn told(look: &Result<Look, RuntimeError>) -> Option<&Look> {
    look.as_ref()
        .inspect_err(|error| tracing::debug!(error = chain(*error), "usage cannot be told"))
        .ok()
}

fn metrics(text: String) -> Response {
    ([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], text).into_response()
}
