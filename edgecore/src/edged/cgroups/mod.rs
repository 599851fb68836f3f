//! The tree of cgroups that pods live in (spec 05 §6, row 21).
//!
//! Owns `kubepods` below the configured root: its levels of service and one folder per pod. Reads the pods' requests and limits.
//! Emits nothing. Must not touch the folders of containers: those are the runtime's.
//!
//! With the systemd driver the slices are made as folders of the same names. Systemd adopts none of them, but the runtime makes the
//! scopes of containers below by asking systemd, which then finds the limits in place.

mod facts;
mod kernel;
mod limits;
mod names;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proto::Uid;
use thiserror::Error;
use tracing::warn;

use crate::edged::context::{CgroupDriver, PodContext, Settings};
use crate::edged::podspec::{MIN_SHARES, QosClass, cpu_shares, pod_requests};
use crate::pod::Pod;
use kernel::Kernel;
use limits::Limits;

pub use facts::{CgroupFacts, MOUNT};
pub use names::CgroupNames;

/// Why a pod has no cgroup.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// The pod's amounts cannot be read.
    #[error("{0}")]
    Amounts(String),
    /// The kernel refuses.
    #[error("cgroup {path}")]
    Kernel {
        /// Which cgroup.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What is done to the hierarchies of the kernel.
trait Tree: Send + Sync + std::fmt::Debug {
    /// Makes a cgroup with these limits in every hierarchy, or brings an existing one up to date.
    fn apply(&self, path: &str, limits: &Limits) -> io::Result<()>;
    /// Removes a cgroup and what is below it, after killing what still runs there.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// The names of the cgroups directly below one, over all hierarchies.
    fn children(&self, path: &str) -> BTreeSet<String>;
}

/// The cgroups of pods. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PodCgroups {
    settings: Arc<Settings>,
    names: CgroupNames,
    tree: Arc<dyn Tree>,
    /// Whether the machine's refusal was told already.
    warned: Arc<AtomicBool>,
}

impl PodCgroups {
    /// `driver` is what the runtime says, or else the configuration. Makes the levels of service.
    pub fn new(settings: Arc<Settings>, driver: CgroupDriver) -> Self {
        let tree = Arc::new(Kernel::detect());
        Self::with_tree(settings, driver, tree)
    }

    fn with_tree(settings: Arc<Settings>, driver: CgroupDriver, tree: Arc<dyn Tree>) -> Self {
        let names = CgroupNames::new(driver, &settings.cgroup_root, settings.cgroups_per_qos);
        let this = Self {
            settings,
            names,
            tree,
            warned: Arc::default(),
        };
        if this.names.per_qos() {
            let none = Limits::default();
            let least = Limits {
                cpu_shares: Some(MIN_SHARES),
                ..Limits::default()
            };
            let levels = [
                (this.names.root(), &none),
                (this.names.qos(QosClass::Burstable), &none),
                (this.names.qos(QosClass::BestEffort), &least),
            ];
            for (path, limits) in levels {
                if let Err(error) = this.tree.apply(&path, limits) {
                    this.refused(&path, &error);
                }
            }
        }
        this
    }

    /// What the runtime is told to put the pod's sandbox under.
    pub fn parent(&self, pod: &Pod) -> String {
        self.names
            .pod_parent(QosClass::of(pod), pod.metadata.uid.as_deref().unwrap_or_default())
    }

    /// Makes the pod's cgroup with its limits, and returns [`PodCgroups::parent`]. A machine that lets nobody make cgroups is told
    /// about once; the runtime then does what it can.
    pub async fn create(&self, ctx: &PodContext) -> Result<String, CgroupError> {
        let parent = self.parent(&ctx.pod);
        if !self.names.per_qos() {
            return Ok(parent);
        }
        let limits = Limits::of(ctx).map_err(|error| CgroupError::Amounts(error.message))?;
        self.limit(parent.clone(), limits).await?;
        Ok(parent)
    }

    /// Removes the pod's cgroup, whatever its class was, and kills what is left in it.
    pub async fn remove(&self, uid: &Uid) -> Result<(), CgroupError> {
        if !self.names.per_qos() || uid.is_empty() {
            return Ok(());
        }
        for class in [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort] {
            let path = self.names.pod_parent(class, uid.as_str());
            let (this, removed) = (self.clone(), path.clone());
            match blocking(move || this.tree.remove(&removed)).await {
                Err(source) if !is_refusal(&source) => return Err(CgroupError::Kernel { path, source }),
                _ => {}
            }
        }
        Ok(())
    }

    /// The pods that have a cgroup.
    pub async fn orphans(&self) -> Vec<Uid> {
        if !self.names.per_qos() {
            return Vec::new();
        }
        let this = self.clone();
        let list = move || {
            let mut found = BTreeSet::new();
            for class in [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort] {
                let children = this.tree.children(&this.names.qos(class));
                found.extend(
                    children
                        .iter()
                        .filter_map(|name| this.names.pod_uid(name))
                        .map(Uid::new),
                );
            }
            Ok(found.into_iter().collect())
        };
        blocking(list).await.unwrap_or_default()
    }

    /// Limits all pods together to what the machine has left beside its reservations (`enforceNodeAllocatable: [pods]`).
    pub async fn enforce(&self, cpu_millis: i64, memory_bytes: i64) -> Result<(), CgroupError> {
        if !self.names.per_qos() {
            return Ok(());
        }
        let memory = Some(memory_bytes).filter(|bytes| *bytes > 0);
        self.limit(
            self.names.root(),
            Limits {
                cpu_shares: Some(cpu_shares(cpu_millis)),
                memory,
                ..Limits::default()
            },
        )
        .await
    }

    /// Gives the burstable pods together as much processor time as they ask for, when it is short. To be called when pods come or go.
    pub async fn balance(&self, pods: &[PodContext]) -> Result<(), CgroupError> {
        if !self.names.per_qos() {
            return Ok(());
        }
        let mut milli = 0_i64;
        for ctx in pods.iter().filter(|ctx| ctx.qos() == QosClass::Burstable) {
            let requests = pod_requests(ctx).map_err(|error| CgroupError::Amounts(error.message))?;
            milli = milli.saturating_add(requests.get("cpu").copied().unwrap_or_default().milli_value());
        }
        let limits = Limits {
            cpu_shares: Some(cpu_shares(milli)),
            ..Limits::default()
        };
        self.limit(self.names.qos(QosClass::Burstable), limits).await
    }

    async fn limit(&self, path: String, limits: Limits) -> Result<(), CgroupError> {
        let (this, written) = (self.clone(), path.clone());
        match blocking(move || this.tree.apply(&written, &limits)).await {
            Err(source) if is_refusal(&source) => self.refused(&path, &source),
            Err(source) => return Err(CgroupError::Kernel { path, source }),
            Ok(()) => {}
        }
        Ok(())
    }

    fn refused(&self, path: &str, error: &io::Error) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            let root = &self.settings.cgroup_root;
            warn!(cgroup = path, root, %error, "cannot make cgroups: limits of pods as a whole are not enforced on this machine");
        }
    }
}

/// A machine that has no such hierarchy, or lets nobody write it.
fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | NotFound)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Where the hierarchies are mounted.
fn mount_root() -> PathBuf {
    facts::MOUNT.into()
}
