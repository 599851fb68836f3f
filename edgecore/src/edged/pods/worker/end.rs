//! A pod that is to end: stopped, cleaned up, removed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use super::{Outcome, Retry, Stage, Wanted, Worker};
use crate::edged::pods::kill;
use crate::edged::runtime::RuntimeError;

impl Worker {
    /// One look at a pod that is to end, or to be gone.
    pub(super) async fn end(&mut self, gone: bool) -> Outcome {
        let ended = match self.stage {
            Stage::Running | Stage::Terminating => self.terminate(gone).await,
            Stage::Cleaning => self.clean(gone).await,
            Stage::Terminated => self.remove(gone).await,
        };
        ended.unwrap_or_else(|error| self.failed("pod not ended", &error))
    }

    pub(super) async fn terminate(&mut self, gone: bool) -> Result<Outcome, RuntimeError> {
        self.probes.clear();
        self.look().await?;
        let ctx = self.ctx.clone();
        if ctx.is_some() && !gone {
            self.report(false, false).await;
        }
        let grace = ctx
            .as_ref()
            .map_or_else(|| kill::orphan_grace(&self.observed), kill::pod_grace);
        let given = self.gone_grace.filter(|_| gone).map(kill::grace);
        let grace = given.map_or(grace, |given| given.min(grace));
        let anything = self.observed.running().next().is_some() || self.observed.sandboxes.iter().any(|s| s.ready);
        if anything {
            info!(pod = %self.key(), uid = %self.uid, grace = grace.as_secs(), gone, "pod ends");
        }
        for record in ctx.iter().flat_map(|_| self.observed.running()) {
            self.tell_killing(&record.name, format!("Stopping container {}", record.name));
        }
        let shared = self.shared.clone();
        let observed = self.observed.clone();
        {
            // A shorter grace time, or the pod's removal, must not wait for the longer one.
            let mut shorter = self.calls.wanted.clone();
            let kill = kill::kill_pod(&shared.runtime, &shared.parts, ctx.as_ref(), &observed, grace);
            tokio::select! {
                killed = kill => killed?,
                () = less_grace(&mut shorter, grace) => return Ok(Outcome::Again),
            }
        }
        self.look().await?;
        if self.observed.running().next().is_some() {
            warn!(pod = %self.key(), "containers run although the runtime said that they were stopped");
            return Ok(self.later(Retry::Error));
        }
        if ctx.is_some() && !gone {
            self.report(true, false).await;
        }
        self.calls.holds.store(false, Ordering::Relaxed);
        self.stage = Stage::Cleaning;
        Ok(Outcome::Again)
    }

    pub(super) async fn clean(&mut self, gone: bool) -> Result<Outcome, RuntimeError> {
        if let Err(error) = self.shared.parts.unmount(&self.uid).await {
            warn!(pod = %self.key(), uid = %self.uid, %error, "volumes are not removed");
            return Ok(self.later(Retry::Error));
        }
        self.volumes = None;
        if let Err(error) = self.shared.parts.remove_cgroup(&self.uid).await {
            warn!(pod = %self.key(), uid = %self.uid, error, "cgroup is not removed");
        }
        if self.ctx.is_some() && !gone {
            self.report(true, true).await;
        }
        self.stage = Stage::Terminated;
        Ok(Outcome::Again)
    }

    pub(super) async fn remove(&mut self, gone: bool) -> Result<Outcome, RuntimeError> {
        if !gone {
            // Ended pods stay for their logs, and a pod whose deletion comes later is reported once more.
            if self.ctx().pod.metadata.deletion_timestamp.is_some() {
                self.report(true, true).await;
            }
            return Ok(self.rest());
        }
        self.look().await?;
        for container in &self.observed.containers {
            self.shared.runtime.remove_container(&container.id).await?;
        }
        for sandbox in &self.observed.sandboxes {
            self.shared.runtime.remove_sandbox(&sandbox.id).await?;
        }
        if let Some(ctx) = &self.ctx {
            self.shared
                .parts
                .remove_logs(ctx.namespace(), ctx.name(), &self.uid)
                .await;
        }
        info!(pod = %self.key(), uid = %self.uid, "pod is gone");
        Ok(Outcome::Done)
    }
}

/// Resolves when the pod is given less time than it had.
async fn less_grace(wanted: &mut watch::Receiver<Wanted>, grace: Duration) {
    let less = |wanted: &Wanted| match wanted {
        Wanted::Gone(seconds) => seconds.is_some_and(|seconds| kill::grace(seconds) < grace),
        Wanted::Pod(pod) => pod
            .metadata
            .deletion_grace_period_seconds
            .is_some_and(|seconds| kill::grace(seconds) < grace),
    };
    if wanted.wait_for(less).await.is_err() {
        std::future::pending().await
    }
}
