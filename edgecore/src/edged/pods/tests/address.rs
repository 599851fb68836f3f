//! Pods of a node whose address changes.

use serde_json::json;
use tokio::time::Instant;

use super::seconds;
use crate::edged::testing::{World, pod};

#[tokio::test(start_paused = true)]
async fn pods_follow_the_address_of_their_node() {
    let world = World::new();
    let mut wanted = pod("u1", "Always");
    wanted["spec"]["hostNetwork"] = true.into();
    wanted["spec"]["containers"][0]["readinessProbe"] = json!({"tcpSocket": {"port": 80}});
    world.api.put(&wanted);
    world.until("running", |w| w.api.phase("u1") == "Running").await;
    let addresses = |world: &World| {
        let status = world.api.pod("u1").status.expect("a status");
        [status.host_ip, status.pod_ip].map(Option::unwrap_or_default)
    };
    assert_eq!(addresses(&world), ["192.0.2.7", "192.0.2.7"]);
    assert_eq!(world.parts.probes_started(), 1);

    let start = Instant::now();
    world.address.send_replace([192, 0, 2, 8].into());
    world
        .until("the new address", |w| addresses(w) == ["192.0.2.8", "192.0.2.8"])
        .await;
    assert!(start.elapsed() < seconds(10));
    assert_eq!(world.parts.probes_started(), 2, "they ask at the new address");
    assert_eq!(
        world.runtime.calls(),
        ["run 0", "start main"],
        "no container is touched"
    );
}
