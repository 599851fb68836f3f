//! Volumes of pods (spec 05 §6, row 28).
//!
//! Owns the folders below `pods/<uid>/volumes` and what is mounted there, laid out as a kubelet does, so that either finds what the
//! other left. Reads pods and the objects that their volumes name. Emits the paths to mount into containers. Must not follow a mount
//! or a link when it deletes or gives a volume to a group.

mod atomic;
mod claims;
mod empty_dir;
mod files;
mod host_path;
mod mounts;
mod ownership;
mod remove;
mod subpath;

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::order;
use proto::Uid;
use tracing::{debug, warn};

use crate::edged::context::{MountedVolume, MountedVolumes, PodContext, Settings, VolumeError};
use crate::pod::Volume;
use files::{Files, is_projected};

pub(super) use subpath::{SubPath, prepare_sub_path};

/// The volumes of this node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Volumes {
    settings: Arc<Settings>,
    /// Whether the machine's refusal to mount was told already.
    warned: Arc<AtomicBool>,
}

impl Volumes {
    /// Nothing is touched yet.
    pub fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            warned: Arc::default(),
        }
    }

    /// Puts all volumes in place that a container of the pod mounts. May be called again: what is in place stays, and a volume that
    /// was filled once does not fail because the object behind it is gone meanwhile.
    pub async fn mount(&self, ctx: &PodContext) -> Result<MountedVolumes, VolumeError> {
        let dir = ctx.dir();
        make_dirs(&dir.join("volumes")).map_err(|error| failed("", &dir, &error))?;
        let mut all = MountedVolumes::default();
        for volume in used(ctx) {
            let mounted = self.mount_one(ctx, volume).await?;
            all.volumes.insert(volume.name.clone(), mounted);
        }
        Ok(all)
    }

    /// Brings the files of ConfigMaps, Secrets, tokens and fields up to date. All are tried; the first failure is returned.
    pub async fn refresh(&self, ctx: &PodContext) -> Result<(), VolumeError> {
        let mut outcome = Ok(());
        for volume in used(ctx).into_iter().filter(|volume| is_projected(volume)) {
            let done = match files::collect(ctx, volume).await {
                Ok(files) => self.write(ctx, volume, files).await.map(|_| ()),
                Err(message) => Err(VolumeError {
                    volume: volume.name.clone(),
                    message,
                }),
            };
            outcome = outcome.and(done);
        }
        outcome
    }

    /// Unmounts everything below the pod's folder and removes the folder. What cannot be unmounted is not deleted.
    pub async fn unmount(&self, uid: &Uid) -> Result<(), VolumeError> {
        let dir = self.settings.pod_directory(uid.as_str());
        // An empty uid would name the folder of all pods.
        if uid.is_empty() || uid.as_str().contains(['/', '.']) {
            return Err(VolumeError {
                volume: String::new(),
                message: format!("{uid:?} is no uid of a pod"),
            });
        }
        blocking(move || remove::pod_folder(&dir).map_err(|error| failed("", &dir, &error))).await
    }

    /// The pods that have a folder.
    pub async fn orphans(&self) -> Vec<Uid> {
        let dir = self.settings.root_directory.join("pods");
        let list = move || {
            let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
            Ok(names
                .filter_map(|entry| entry.file_name().to_str().map(Uid::new))
                .collect())
        };
        blocking(list).await.unwrap_or_default()
    }

    async fn mount_one(&self, ctx: &PodContext, volume: &Volume) -> Result<MountedVolume, VolumeError> {
        if is_projected(volume) {
            return match files::collect(ctx, volume).await {
                Ok(files) => self.write(ctx, volume, files).await,
                Err(message) => {
                    let host_path = files::dir(ctx, volume);
                    if !atomic::is_filled(&host_path) {
                        return Err(VolumeError {
                            volume: volume.name.clone(),
                            message,
                        });
                    }
                    debug!(pod = %ctx.title(), volume = volume.name, message, "volume keeps what it has");
                    Ok(MountedVolume {
                        host_path,
                        read_only: true,
                        selinux_relabel: true,
                    })
                }
            };
        }
        let claim = claims::claim_of(ctx, volume);
        let claimed = match &claim {
            Some(claim) => Some(claims::resolve(ctx, claim).await.map_err(|message| VolumeError {
                volume: volume.name.clone(),
                message,
            })?),
            None => None,
        };
        let (this, ctx, volume) = (self.clone(), ctx.clone(), volume.clone());
        blocking(move || {
            let name = volume.name.clone();
            let done = if let Some(claimed) = claimed {
                claims::mount(&ctx, &claimed)
            } else if let Some(source) = &volume.empty_dir {
                empty_dir::mount(&ctx, &volume.name, source, |error| this.refused(error))
            } else if let Some(source) = &volume.host_path {
                host_path::check(source).map(|host_path| MountedVolume {
                    host_path,
                    read_only: false,
                    selinux_relabel: false,
                })
            } else {
                Err("a volume of this kind is not supported on this node".to_owned())
            };
            done.map_err(|message| VolumeError { volume: name, message })
        })
        .await
    }

    async fn write(&self, ctx: &PodContext, volume: &Volume, files: Files) -> Result<MountedVolume, VolumeError> {
        let (this, ctx, volume) = (self.clone(), ctx.clone(), volume.clone());
        blocking(move || {
            let dir = files::dir(&ctx, &volume);
            let done = files::write(&ctx, &volume, &files, &dir, |error| this.refused(error));
            done.map_err(|error| failed(&volume.name, &dir, &error))?;
            Ok(MountedVolume {
                host_path: dir,
                read_only: true,
                selinux_relabel: true,
            })
        })
        .await
    }

    /// Whether an error means that this machine lets nobody mount, which is told once.
    fn refused(&self, error: &io::Error) -> bool {
        let refused = mounts::is_refusal(error);
        if refused && !self.warned.swap(true, Ordering::Relaxed) {
            warn!(%error, "this machine does not let us mount memory: volumes of pods, secrets included, are on disk");
        }
        refused
    }
}

/// The volumes that some container mounts.
fn used(ctx: &PodContext) -> Vec<&Volume> {
    let spec = ctx.spec();
    let ordinary = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mounts = ordinary.flat_map(|c| c.volume_mounts.iter().flatten());
    let ephemeral = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .flat_map(|c| c.volume_mounts.iter().flatten());
    let names = order::set(mounts.chain(ephemeral).map(|mount| mount.name.as_str()));
    spec.volumes
        .iter()
        .flatten()
        .filter(|volume| names.contains(volume.name.as_str()))
        .collect()
}

/// `pods/<uid>/volumes/kubernetes.io~<plugin>/<name>`.
fn volume_dir(ctx: &PodContext, plugin: &str, name: &str) -> PathBuf {
    ctx.dir()
        .join("volumes")
        .join(format!("kubernetes.io~{plugin}"))
        .join(name)
}

/// Folders that only root may enter, so that nobody on the host reads what is below.
pub(super) fn make_dirs(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o750).create(path)
}

fn failed(volume: &str, path: &Path, error: &io::Error) -> VolumeError {
    VolumeError {
        volume: volume.to_owned(),
        message: format!("{}: {error}", path.display()),
    }
}

/// Runs file system work where it may wait for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
) -> Result<T, VolumeError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        Err(VolumeError {
            volume: String::new(),
            message: "work on the disk was interrupted".into(),
        })
    })
}

#[cfg(test)]
mod tests;
