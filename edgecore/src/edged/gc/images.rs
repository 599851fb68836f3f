//! Images that nobody uses, removed when the disk fills.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use common::order;
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
        let Some(to_free) = bytes_to_free(runtime, limits).await? else {
            return Ok(());
        };
        let (chosen, left) = self.choose(&images, &used, now, limits.min_age, to_free);
        for image in chosen {
            info!(image = image.id, names = ?image.repo_tags, bytes = image.size, "unused image is removed");
            runtime.remove_image(&image.id).await?;
        }
        if left > 0 {
            warn!(
                bytes = left,
                "the disk is too full and there is no unused image left to remove"
            );
        }
        Ok(())
    }

    /// The images to remove, longest unused first, and how much is missing after that.
    fn choose<'a>(
        &self,
        images: &'a [cri::Image],
        used: &BTreeSet<String>,
        now: Instant,
        min_age: Duration,
        to_free: u64,
    ) -> (Vec<&'a cri::Image>, u64) {
        let old = |known: &&Known| now.duration_since(known.first_seen) >= min_age;
        let mut unused: Vec<(Instant, &cri::Image)> = images
            .iter()
            .filter(|image| !image.pinned && !used.contains(&image.id))
            .filter_map(|image| Some((self.0.get(&image.id).filter(old)?.last_used, image)))
            .collect();
        order::sort_by_key(&mut unused, |(last_used, _)| *last_used);
        let mut left = to_free;
        let mut chosen = Vec::new();
        for (_, image) in unused {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(image.size);
            chosen.push(image);
        }
        (chosen, left)
    }
}

fn in_use(containers: &[cri::Container], images: &[cri::Image]) -> BTreeSet<String> {
    let named = containers.iter().flat_map(|c| {
        [
            c.image_ref.as_str(),
            c.image_id.as_str(),
            c.image.as_ref().map_or("", |i| i.image.as_str()),
        ]
    });
    let named = order::set(named.filter(|name| !name.is_empty()));
    let used = images.iter().filter(|image| {
        let names = std::iter::once(&image.id)
            .chain(&image.repo_tags)
            .chain(&image.repo_digests);
        names.into_iter().any(|name| named.contains(name.as_str()))
            // Pause images count as used: sandboxes run them, but no container names them.
            || image.repo_tags.iter().any(|tag| tag.contains("pause"))
    });
    order::set(used.map(|image| image.id.clone()))
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
    Ok(excess(capacity, free, limits))
}

fn excess(capacity: u64, free: u64, limits: &ImageGc) -> Option<u64> {
    let used = capacity.saturating_sub(free);
    if capacity == 0 || used.saturating_mul(100) < capacity.saturating_mul(u64::from(limits.high_percent)) {
        return None;
    }
    Some(used.saturating_sub(capacity / 100 * u64::from(limits.low_percent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, size: u64) -> cri::Image {
        cri::Image {
            id: id.to_owned(),
            size,
            ..Default::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_unused_go_first_until_enough_is_free() {
        let start = Instant::now();
        let second = Duration::from_secs;
        let known = |first: u64, last: u64| Known {
            first_seen: start + second(first),
            last_used: start + second(last),
        };
        let ages = [
            ("old", 0, 10),
            ("older", 0, 5),
            ("used", 0, 1),
            ("young", 290, 290),
            ("pinned", 0, 0),
        ];
        let collector = ImageCollector(ages.map(|(id, first, last)| (id.to_owned(), known(first, last))).into());
        let mut images: Vec<_> = ages.iter().map(|(id, _, _)| image(id, 100)).collect();
        if let Some(last) = images.last_mut() {
            last.pinned = true;
        }
        let used = ["used".to_owned()].into();
        let choose = |bytes| {
            let (chosen, left) = collector.choose(&images, &used, start + second(300), second(120), bytes);
            (chosen.iter().map(|image| image.id.as_str()).collect::<Vec<_>>(), left)
        };
        assert_eq!(choose(100), (vec!["older"], 0));
        assert_eq!(choose(101), (vec!["older", "old"], 0));
        assert_eq!(choose(1000), (vec!["older", "old"], 800));
        assert_eq!(choose(0), (vec![], 0));
    }

    #[test]
    fn containers_name_their_images_in_many_ways() {
        let mut tagged = image("sha256:1", 1);
        tagged.repo_tags = vec!["docker.io/library/a:1".into()];
        let mut digested = image("sha256:2", 1);
        digested.repo_digests = vec!["docker.io/library/b@sha256:ff".into()];
        let mut pause = image("sha256:3", 1);
        pause.repo_tags = vec!["registry.k8s.io/pause:3.10".into()];
        let images = [tagged, digested, pause, image("sha256:4", 1), image("sha256:5", 1)];
        let by_tag = cri::Container {
            image: Some(cri::ImageSpec {
                image: "docker.io/library/a:1".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let by_digest = cri::Container {
            image_ref: "docker.io/library/b@sha256:ff".into(),
            ..Default::default()
        };
        let by_id = cri::Container {
            image_id: "sha256:4".into(),
            ..Default::default()
        };
        let used = in_use(&[by_tag, by_digest, by_id], &images);
        let expected = ["sha256:1", "sha256:2", "sha256:3", "sha256:4"].map(str::to_owned);
        assert_eq!(used, expected.into());
    }

    #[test]
    fn nothing_is_removed_below_the_upper_limit() {
        let limits = ImageGc {
            high_percent: 85,
            low_percent: 80,
            min_age: Duration::ZERO,
        };
        assert_eq!(excess(1000, 151, &limits), None);
        assert_eq!(excess(1000, 150, &limits), Some(50));
        assert_eq!(excess(0, 0, &limits), None);
    }
}
