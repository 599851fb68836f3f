//! What a container wants done after its start and before its end (spec 05 §6, row 19).
//!
//! Owns nothing. Reads the container's hooks. Emits their commands and requests. Must not decide what a failure means: that is the pod
//! worker's.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use thiserror::Error;

use crate::edged::context::PodContext;
use crate::edged::http_get::{HttpError, http_get, wants_tls};
use crate::edged::runtime::{ContainerId, Runtime};

/// A hook that failed; the text is what a kubelet says.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct HookError(String);

/// Runs the `postStart` hook, if there is one.
pub async fn post_start(
    runtime: &dyn Runtime,
    ctx: &PodContext,
    container: &Container,
    id: &ContainerId,
    pod_ip: Option<IpAddr>,
    limit: Duration,
) -> Result<(), HookError> {
    let hook = container
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.post_start.as_ref());
    run(runtime, ctx, container, hook, id, pod_ip, limit).await
}

/// Runs the `preStop` hook, if there is one, for `limit` at most: it is part of the time that the pod has to end.
pub async fn pre_stop(
    runtime: &dyn Runtime,
    ctx: &PodContext,
    container: &Container,
    id: &ContainerId,
    pod_ip: Option<IpAddr>,
    limit: Duration,
) -> Result<(), HookError> {
    let hook = container
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    run(runtime, ctx, container, hook, id, pod_ip, limit).await
}

async fn run(
    runtime: &dyn Runtime,
    ctx: &PodContext,
    container: &Container,
    hook: Option<&LifecycleHandler>,
    id: &ContainerId,
    pod_ip: Option<IpAddr>,
    limit: Duration,
) -> Result<(), HookError> {
    let Some(hook) = hook else { return Ok(()) };
    let whose = format!(
        "for Container {:?} in Pod {:?} failed - error:",
        container.name,
        ctx.title()
    );
    let (what, work) = if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let what = format!("Exec lifecycle hook ({command:?}) {whose}");
        (
            what,
            tokio::time::timeout(limit, exec_hook(runtime, id, command, limit)).await,
        )
    } else if let Some(get) = &hook.http_get {
        let what = format!(
            "HTTP lifecycle hook ({}) {whose}",
            get.path.as_deref().unwrap_or_default()
        );
        let request = async {
            // Older servers answer in plain text on a port that is called https.
            let answer = match http_get(get, container, pod_ip, "lifecycle", wants_tls(get)).await {
                Err(HttpError::Plain) => http_get(get, container, pod_ip, "lifecycle", false).await,
                answer => answer,
            };
            // Any answer is a success, whatever its status: the hook was delivered.
            answer.map(|_| ()).map_err(|error| common::chain(&error))
        };
        (what, tokio::time::timeout(limit, request).await)
    } else if let Some(sleep) = &hook.sleep {
        let seconds = u64::try_from(sleep.seconds).unwrap_or_default();
        let what = format!("Sleep lifecycle hook ({seconds}) {whose}");
        let sleep = async {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok(())
        };
        (what, tokio::time::timeout(limit, sleep).await)
    } else {
        return Err(HookError("Cannot run handler: invalid handler".into()));
    };
    let outcome = work.unwrap_or_else(|_| Err(format!("not finished within {} s", limit.as_secs())));
    outcome.map_err(|error| HookError(format!("{what} {error}")))
}

async fn exec_hook(
    runtime: &dyn Runtime,
    id: &ContainerId,
    command: Vec<String>,
    limit: Duration,
) -> Result<(), String> {
    let output = runtime
        .exec_sync(id, command, limit)
        .await
        .map_err(|error| error.to_string())?;
    if output.exit_code == 0 {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    let text = text.get(..MAX_OUTPUT).unwrap_or(&text);
    Err(format!(
        "command exited with {}, message: {:?}",
        output.exit_code,
        String::from_utf8_lossy(text)
    ))
}

/// Bytes of a command's output in messages.
const MAX_OUTPUT: usize = 1024;
