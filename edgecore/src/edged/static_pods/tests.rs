//! A folder of manifests and an API in memory.

use std::time::Duration;

use serde_json::json;

use crate::edged::testing::{IMAGE, World};
use crate::uplink::Link;

const NODE: &str = "edge1";

fn manifest(command: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n  containers:\n  - name: main\n    image: {IMAGE}\n    \
         imagePullPolicy: IfNotPresent\n    command: [{command}]\n"
    )
}

fn world(folder: &std::path::Path) -> World {
    let world = World::with_static_pods(folder);
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "uid": "n-1"}});
    world.api.set_node(&node, None);
    world
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_a_file_runs_offline_and_is_mirrored_once_there_is_a_link() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut world = world(folder.path());
    world.api.set_link(Link::Down);
    world.api.set_ready(false);
    std::fs::write(folder.path().join("web.yaml"), manifest("run")).expect("a manifest");
    std::fs::write(folder.path().join(".web.yaml.swp"), "half").expect("a draft");
    std::fs::write(folder.path().join("notes"), "no pod").expect("a note");
    world.until("runs", |w| w.runtime.running().len() == 1).await;
    assert!(world.api.created().is_empty());
    world.api.set_ready(true);
    world.api.set_link(Link::Up(2));
    world.until("mirrored", |w| w.api.created().len() == 1).await;
    let mirror = world.api.created().remove(0);
    assert_eq!(mirror["metadata"]["name"], "web-edge1");
    assert_eq!(mirror["metadata"]["namespace"], "default");
    assert_eq!(mirror["spec"]["nodeName"], NODE);
    assert_eq!(mirror["metadata"]["ownerReferences"][0]["uid"], "n-1");
    let annotations = &mirror["metadata"]["annotations"];
    let uid = annotations["kubernetes.io/config.hash"].as_str().expect("a hash");
    assert!(uid.len() == 32 && uid.chars().all(|c| c.is_ascii_hexdigit()));
    assert_eq!(annotations["kubernetes.io/config.mirror"], *uid);
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    // The API's answer comes back as a pod of this node: it takes the status and is not run itself.
    let name = "m-1";
    world.until("reported", |w| w.api.phase(name) == "Running").await;
    assert_eq!(world.runtime.running().len(), 1);
    world.restart().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.runtime.calls(), ["run 0", "start main"]);
    assert_eq!(world.api.created().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_is_another_pod_that_waits_for_the_old_one_and_a_removed_one_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = world(folder.path());
    let file = folder.path().join("web.yaml");
    std::fs::write(&file, manifest("one")).expect("a manifest");
    world
        .until("reported", |w| {
            w.api.created().len() == 1 && w.api.phase("m-1") == "Running"
        })
        .await;
    std::fs::write(&file, manifest("another")).expect("a manifest");
    world.until("mirrored again", |w| w.api.created().len() == 2).await;
    world.until("reported again", |w| w.api.phase("m-2") == "Running").await;
    assert_eq!(world.api.deleted(), ["m-1"]);
    assert_eq!(world.runtime.running().len(), 1);
    std::fs::remove_file(&file).expect("removed");
    world.until("ended", |w| w.runtime.running().is_empty()).await;
    world.until("unmirrored", |w| w.api.deleted() == ["m-1", "m-2"]).await;
}
