//! Turns the logs of running containers over, so that a chatty container cannot fill the disk.
//!
//! Owns the names of a container's older logs: `0.log.20260131-235959` as it was turned over, `….gz` from the next time on. Reads
//! the runtime's list of containers and the sizes of their logs. Must not lose a line: the runtime is told to open the log anew after
//! it was renamed, and the name is given back where it refuses. Nothing wakes up while the node has no pods.
//!
//! A kubelet's names, limits and order (`containerLogMaxSize`, `containerLogMaxFiles`, `containerLogMonitorInterval`), but for the time
//! in a name: it is UTC, and never earlier than that of an older log, also when the clock was set back.

mod files;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::chain;
use jiff::Timestamp;
use proto::cri;
use thiserror::Error;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::context::Settings;
use super::podspec::{RESTART_COUNT, container_log_path};
use super::runtime::{
    ContainerId, LABEL_CONTAINER_NAME, LABEL_POD_NAME, LABEL_POD_NAMESPACE, LABEL_POD_UID, Runtime, RuntimeError,
};
use crate::metamanager::PodSet;

/// When logs are turned over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Bytes from which a log is turned over.
    pub max_size: u64,
    /// Files of one container, the one that is written included; at least 2.
    pub max_files: usize,
    /// Time between two looks.
    pub period: Duration,
}

/// Why a log was not turned over; it is tried again with the next look.
#[derive(Debug, Error)]
enum RotationError {
    #[error("{path}: {doing}")]
    File {
        path: PathBuf,
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the runtime does not open the log anew")]
    Reopen(#[source] RuntimeError),
    #[error("the runtime does not tell where the log is")]
    Unknown(#[source] RuntimeError),
}

/// Runs for ever.
pub(super) async fn run(
    runtime: Arc<dyn Runtime>,
    mut pods: watch::Receiver<Arc<PodSet>>,
    settings: Arc<Settings>,
    policy: Policy,
) {
    let mut rotation = Rotation::new(runtime, settings, policy);
    loop {
        // A set that is not ready may have lost pods whose containers run.
        if pods.wait_for(|set| !set.ready || !set.pods.is_empty()).await.is_err() {
            return;
        }
        tokio::time::sleep(policy.period).await;
        rotation.look(Timestamp::now).await;
    }
}

/// Removes all logs of a container that is removed, and the link to them.
pub(super) async fn remove(settings: &Settings, container: &cri::Container) {
    let Some(log) = Log::of(settings, container) else {
        return;
    };
    let link = settings.container_log_link(log.namespace, log.pod, log.container, &container.id);
    let _ = tokio::fs::remove_file(link).await;
    let path = log.path;
    let removed = tokio::task::spawn_blocking(move || files::remove_all(&path).map_err(|error| (path, error)));
    if let Ok(Err((path, error))) = removed.await {
        warn!(log = %path.display(), %error, "the logs of a removed container stay");
    }
}

struct Rotation {
    runtime: Arc<dyn Runtime>,
    settings: Arc<Settings>,
    policy: Policy,
    /// Containers whose trouble was told.
    troubled: BTreeSet<String>,
}

impl Rotation {
    fn new(runtime: Arc<dyn Runtime>, settings: Arc<Settings>, policy: Policy) -> Self {
        Self {
            runtime,
            settings,
            policy,
            troubled: BTreeSet::new(),
        }
    }

    /// Looks at the log of each running container.
    async fn look(&mut self, now: fn() -> Timestamp) {
        let mut containers = match self.runtime.list_containers(None).await {
            Ok(containers) => containers,
            Err(error) => {
                debug!(%error, "logs are not looked at: the containers cannot be listed");
                return;
            }
        };
        // Containers that do not run write no more lines.
        containers.retain(|c| c.state == cri::ContainerState::ContainerRunning as i32);
        self.troubled.retain(|id| containers.iter().any(|c| c.id == *id));
        for container in &containers {
            let Some(log) = Log::of(&self.settings, container) else {
                continue;
            };
            let id = ContainerId::new(&container.id);
            match self.check(&id, log.path.clone(), now()).await {
                Ok(()) => {
                    self.troubled.remove(&container.id);
                }
                Err(error) if self.troubled.insert(container.id.clone()) => warn!(
                    pod = format!("{}/{}", log.namespace, log.pod),
                    container = log.container,
                    log = %log.path.display(),
                    error = chain(&error),
                    "the container's log is not turned over and may outgrow containerLogMaxSize; tried again every {:?}",
                    self.policy.period,
                ),
                Err(_) => {}
            }
        }
    }

    async fn check(&self, id: &ContainerId, log: PathBuf, now: Timestamp) -> Result<(), RotationError> {
        let (log, size) = match size(&log).await? {
            Some(size) => (log, size),
            // It lies elsewhere, or this program ended between the new name and the new file.
            None => match self.restore(id).await? {
                Some(found) => found,
                None => return Ok(()),
            },
        };
        if size < self.policy.max_size {
            return Ok(());
        }
        let rotated = self.make_room(&log, now).await?;
        rename(&log, &rotated).await?;
        let Err(error) = self.runtime.reopen_log(id).await else {
            debug!(%id, log = %rotated.display(), "log turned over");
            return Ok(());
        };
        // A runtime that opened it nevertheless writes there already.
        if !log.exists() {
            rename(&rotated, &log).await?;
        }
        Err(RotationError::Reopen(error))
    }

    /// Has a log opened that is not there. `None` where the container has none at all.
    async fn restore(&self, id: &ContainerId) -> Result<Option<(PathBuf, u64)>, RotationError> {
        let status = match self.runtime.container_status(id).await {
            Ok(status) => status,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(RotationError::Unknown(error)),
        };
        if status.log_path.is_empty() || status.state != cri::ContainerState::ContainerRunning as i32 {
            return Ok(None);
        }
        let log = PathBuf::from(status.log_path);
        if let Some(size) = size(&log).await? {
            return Ok(Some((log, size)));
        }
        self.runtime.reopen_log(id).await.map_err(RotationError::Reopen)?;
        Ok(size(&log).await?.map(|size| (log, size)))
    }

    /// Makes room among the older logs and returns the name for the next one.
    async fn make_room(&self, log: &Path, now: Timestamp) -> Result<PathBuf, RotationError> {
        let (path, keep) = (log.to_owned(), self.policy.max_files.saturating_sub(2));
        let made = tokio::task::spawn_blocking(move || files::make_room(&path, keep, now)).await;
        made.map_err(io::Error::other)
            .and_then(|made| made)
            .map_err(|source| RotationError::File {
                path: log.to_owned(),
                doing: "older logs cannot be put away",
                source,
            })
    }
}

/// Where the log of a container is by our and kubelet's rules.
struct Log<'a> {
    namespace: &'a str,
    pod: &'a str,
    container: &'a str,
    path: PathBuf,
}

impl<'a> Log<'a> {
    fn of(settings: &Settings, container: &'a cri::Container) -> Option<Self> {
        let label = |key: &str| container.labels.get(key).map(String::as_str);
        let (namespace, pod) = (label(LABEL_POD_NAMESPACE)?, label(LABEL_POD_NAME)?);
        let name = label(LABEL_CONTAINER_NAME)?;
        let attempt = container.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
        let restarts = container
            .annotations
            .get(RESTART_COUNT)
            .and_then(|text| text.parse().ok());
        let folder = settings.pod_log_directory(namespace, pod, label(LABEL_POD_UID)?);
        Some(Self {
            namespace,
            pod,
            container: name,
            path: folder.join(container_log_path(name, restarts.unwrap_or(attempt))),
        })
    }
}

async fn size(path: &Path) -> Result<Option<u64>, RotationError> {
    match tokio::fs::metadata(path).await {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RotationError::File {
            path: path.to_owned(),
            doing: "its size cannot be read",
            source,
        }),
    }
}

async fn rename(from: &Path, to: &Path) -> Result<(), RotationError> {
    let renamed = tokio::fs::rename(from, to).await;
    renamed.map_err(|source| RotationError::File {
        path: from.to_owned(),
        doing: "cannot be renamed",
        source,
    })
}
