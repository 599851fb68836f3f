//! Images that nobody uses, removed when the disk fills.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proto::cri;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::edged::context::ImageGc;
use crate::edged::runtime::{Runtime, RuntimeError};

#[derive(Clone, Copy, Debug)]
struct Known {
    first_seen: Instant,
    last_used: Instant,
}

/// What is known of images over time.
#[derive(Debug, Default)]
pub(super) struct ImageCollector(BTreeMap<String, Known>);

impl ImageCollector {
    /// Notes what is in use, and removes the images that were longest not, if the disk is too full.
    pub(super) async fn collect(&mut self, runtime: &dyn Runtime, limits: &ImageGc) -> Result<(), RuntimeError> {
        let images = runtime.list_images().await?;
        let containers = runtime.list_containers(None).await?;
        let used = in_use(&containers, &images);
        let now = Instant::now();
        for image in &images {
            let known = self.0.entry(image.id.clone()).or_insert(Known {
                first_seen: now,
                last_used: now,
            });
            if used.contains(&image.id) {
                known.last_used = now;
            }
        }
        self.0.retain(|id, _| images.iter().any(|image| image.id == *id));
        if limits.high_percent >= 100 {
            return Ok(());
        }
        let Some(mut to_free) = bytes_to_free(runtime, limits).await? else {
            return Ok(());
        };
        let mut unused: Vec<&cri::Image> = images.iter().filter(|i| !i.pinned && !used.contains(&i.id)).collect();
        unused.sort_by_key(|image| self.0.get(&image.id).map(|known| known.last_used));
        for image in unused {
            let young = self
                .0
                .get(&image.id)
                .is_none_or(|k| now.duration_since(k.first_seen) < limits.min_age);
            if to_free == 0 {
                break;
            }
            if young {
                continue;
            }
            info!(image = image.id, names = ?image.repo_tags, bytes = image.size, "unused image is removed");
            runtime.remove_image(&image.id).await?;
            to_free = to_free.saturating_sub(image.size);
        }
        if to_free > 0 {
            warn!(
                bytes = to_free,
                "the disk is too full and there is no unused image left to remove"
            );
        }
        Ok(())
    }
}

fn in_use(containers: &[cri::Container], images: &[cri::Image]) -> BTreeSet<String> {
    let named: BTreeSet<&str> = containers
        .iter()
        .flat_map(|c| {
            [
                c.image_ref.as_str(),
                c.image_id.as_str(),
                c.image.as_ref().map_or("", |i| i.image.as_str()),
            ]
        })
        .filter(|name| !name.is_empty())
        .collect();
    images
        .iter()
        .filter(|image| {
            let names = std::iter::once(&image.id)
                .chain(&image.repo_tags)
                .chain(&image.repo_digests);
            names.into_iter().any(|name| named.contains(name.as_str()))
                // A sandbox runs the pause image without a container of its own to tell.
                || image.repo_tags.iter().any(|tag| tag.contains("pause"))
        })
        .map(|image| image.id.clone())
        .collect()
}

/// How much is above the lower limit, when the disk is above the upper one.
async fn bytes_to_free(runtime: &dyn Runtime, limits: &ImageGc) -> Result<Option<u64>, RuntimeError> {
    let info = runtime.image_fs_info().await?;
    let Some(path) = info
        .image_filesystems
        .into_iter()
        .find_map(|fs| fs.fs_id)
        .map(|id| id.mountpoint)
    else {
        return Ok(None);
    };
    let Ok(disk) = rustix::fs::statvfs(Path::new(&path)) else {
        return Ok(None);
    };
    let capacity = disk.f_blocks.saturating_mul(disk.f_frsize);
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let used = capacity.saturating_sub(free);
    if capacity == 0 || used.saturating_mul(100) < capacity.saturating_mul(u64::from(limits.high_percent)) {
        return Ok(None);
    }
    Ok(Some(
        used.saturating_sub(capacity / 100 * u64::from(limits.low_percent)),
    ))
}
