//! Asks the runtime how it is.

use std::sync::Arc;
use std::time::Duration;

use proto::cri;
use tokio::sync::watch;
use tracing::{info, warn};

use super::node::RuntimeState;
use super::runtime::{Runtime, RuntimeError};

/// As often as kubelet asks.
const PERIOD: Duration = Duration::from_secs(5);
/// Until the first answer.
const FIRST_PERIOD: Duration = Duration::from_millis(500);

/// Runs for ever. `network` stays empty until the runtime was reached.
pub(super) async fn run(
    runtime: Arc<dyn Runtime>,
    state: watch::Sender<RuntimeState>,
    network: watch::Sender<Option<bool>>,
    name: watch::Sender<String>,
) {
    let mut version = None;
    loop {
        let now = look(&*runtime, &mut version).await;
        let reached = version.is_some();
        if *state.borrow() != now {
            if now.reason.is_empty() {
                info!(
                    runtime = now.name,
                    version = now.version,
                    "the container runtime is ready"
                );
            } else {
                warn!(reason = now.reason, "the container runtime is not ready");
            }
            if reached {
                network.send_replace(Some(now.network_ready));
                name.send_if_modified(|name| {
                    let changed = *name != now.name;
                    name.clone_from(&now.name);
                    changed
                });
            }
            state.send_replace(now);
        }
        tokio::time::sleep(if reached { PERIOD } else { FIRST_PERIOD }).await;
    }
}

async fn look(runtime: &dyn Runtime, version: &mut Option<cri::VersionResponse>) -> RuntimeState {
    match ask(runtime, version).await {
        Ok(state) => state,
        Err(error) => {
            let known = version.clone().unwrap_or_default();
            // Another version may come back.
            *version = None;
            RuntimeState {
                ready: false,
                network_ready: false,
                name: known.runtime_name,
                version: known.runtime_version,
                reason: format!("the container runtime does not answer: {error}"),
            }
        }
    }
}

async fn ask(runtime: &dyn Runtime, version: &mut Option<cri::VersionResponse>) -> Result<RuntimeState, RuntimeError> {
    let known = match version {
        Some(known) => known.clone(),
        None => version.insert(runtime.version().await?).clone(),
    };
    let conditions = runtime.status().await?.status.unwrap_or_default().conditions;
    let mut problems = Vec::new();
    let mut holds = |kind: &str| match conditions.iter().find(|c| c.r#type == kind) {
        Some(condition) if condition.status => true,
        Some(condition) => {
            let (reason, message) = (&condition.reason, &condition.message);
            problems.push(format!("{kind}=false reason:{reason} message:{message}"));
            false
        }
        None => {
            problems.push(format!("the container runtime does not tell {kind}"));
            false
        }
    };
    let (ready, network_ready) = (holds("RuntimeReady"), holds("NetworkReady"));
    Ok(RuntimeState {
        ready,
        network_ready,
        name: known.runtime_name,
        version: known.runtime_version,
        reason: problems.join(", "),
    })
}
