//! Logs of pods that went while nobody looked: deleted while this program did not run, or lost with the runtime's state.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::order;
use proto::Uid;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::edged::context::Settings;
use crate::edged::runtime::{LABEL_POD_UID, Runtime, RuntimeError};
use crate::metamanager::PodSet;

/// Removes folders of logs whose pod neither the set nor the runtime has, and the links into them.
///
/// The order matters: folders are listed first, so that each of a pod that came meanwhile is of a pod that is known.
pub(super) async fn orphans(
    runtime: &dyn Runtime,
    pods: &watch::Receiver<Arc<PodSet>>,
    settings: &Settings,
) -> Result<(), RuntimeError> {
    let folders = folders(&settings.pod_logs_directory).await;
    let set = pods.borrow().clone();
    if !set.ready || folders.iter().all(|(uid, _)| set.pods.contains_key(uid)) {
        return Ok(());
    }
    let (sandboxes, containers) = futures::try_join!(runtime.list_sandboxes(None), runtime.list_containers(None))?;
    let labels = sandboxes.iter().map(|sandbox| &sandbox.labels);
    let labels = labels.chain(containers.iter().map(|container| &container.labels));
    let held = order::set(labels.filter_map(|labels| labels.get(LABEL_POD_UID).map(Uid::new)));
    for (uid, folder) in folders {
        if set.pods.contains_key(&uid) || held.contains(&uid) {
            continue;
        }
        match tokio::fs::remove_dir_all(&folder).await {
            Ok(()) => info!(folder = %folder.display(), "logs of a pod that is gone were removed"),
            Err(error) => warn!(folder = %folder.display(), %error, "logs of a pod that is gone are not removed"),
        }
    }
    dead_links(&settings.container_logs_directory).await;
    Ok(())
}

/// Those named `<namespace>_<name>_<uid>`; whatever else is there is somebody else's.
async fn folders(logs: &Path) -> Vec<(Uid, PathBuf)> {
    let mut found = Vec::new();
    let Ok(mut entries) = tokio::fs::read_dir(logs).await else {
        return found;
    };
    while let Ok(Some(entry)) = entries.next_entry().await {
        let name = entry.file_name();
        let parts: Vec<&str> = name.to_str().unwrap_or_default().split('_').collect();
        if let [_, _, uid] = parts.as_slice()
            && !uid.is_empty()
            && entry.file_type().await.is_ok_and(|kind| kind.is_dir())
        {
            found.push((Uid::new(uid), entry.path()));
        }
    }
    found
}

/// Links to logs of pods whose folder is gone. A log alone may be away for a moment, while it is turned over.
async fn dead_links(links: &Path) {
    let Ok(mut entries) = tokio::fs::read_dir(links).await else {
        return;
    };
    while let Ok(Some(entry)) = entries.next_entry().await {
        let Ok(log) = tokio::fs::read_link(entry.path()).await else {
            continue;
        };
        let Some(pod) = log.ancestors().nth(2) else { continue };
        if matches!(tokio::fs::try_exists(pod).await, Ok(false)) {
            let _ = tokio::fs::remove_file(entry.path()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::edged::api::Api;
    use crate::edged::runtime::SandboxId;
    use crate::edged::runtime::fake::Fake;
    use crate::edged::testing::FakeApi;

    #[tokio::test]
    async fn only_logs_of_pods_that_nobody_has_are_removed() {
        let root = tempfile::tempdir().expect("a folder");
        let settings = Settings {
            pod_logs_directory: root.path().join("pods"),
            container_logs_directory: root.path().join("containers"),
            ..Settings::default()
        };
        for name in [
            "default_known_u1",
            "default_held_u2",
            "default_gone_u3",
            "not-ours",
            "a_b_c_d",
        ] {
            fs::create_dir_all(settings.pod_logs_directory.join(name).join("main")).expect("made");
        }
        fs::create_dir(&settings.container_logs_directory).expect("made");
        for (name, target) in [
            ("known", "default_known_u1/main/0.log"),
            ("gone", "default_gone_u3/main/0.log"),
        ] {
            let target = settings.pod_logs_directory.join(target);
            std::os::unix::fs::symlink(target, settings.container_logs_directory.join(name)).expect("linked");
        }
        let api = FakeApi::new();
        api.put(&serde_json::json!({"metadata": {"namespace": "default", "name": "known", "uid": "u1"}}));
        let runtime = Fake::new(&[]);
        let config = proto::cri::ContainerConfig {
            labels: [(LABEL_POD_UID.to_owned(), "u2".to_owned())].into(),
            ..Default::default()
        };
        let sandbox = SandboxId::new("s");
        let made = runtime.create_container(&sandbox, config, Default::default());
        made.await.expect("made");
        let names = |folder: &Path| -> Vec<String> {
            let entries = fs::read_dir(folder).expect("read").flatten();
            let mut names: Vec<_> = entries
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        };
        let all = names(&settings.pod_logs_directory);

        api.set_ready(false);
        orphans(&runtime, &api.pods(), &settings).await.expect("looked");
        assert_eq!(
            names(&settings.pod_logs_directory),
            all,
            "absent knowledge removes nothing"
        );

        api.set_ready(true);
        orphans(&runtime, &api.pods(), &settings).await.expect("looked");
        let left = ["a_b_c_d", "default_held_u2", "default_known_u1", "not-ours"];
        assert_eq!(names(&settings.pod_logs_directory), left);
        assert_eq!(names(&settings.container_logs_directory), ["known"]);
    }
}
