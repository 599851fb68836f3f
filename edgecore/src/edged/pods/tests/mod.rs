//! Pods in the tests' time, on a runtime in memory.

mod address;
mod ending;
mod times;

use std::time::Duration;

use serde_json::{Value, json};

use crate::edged::context::{Finding, ProbeEvent};
use crate::edged::runtime::fake::Life;
use crate::edged::testing::{World, pod};
use crate::uplink::Link;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

async fn pass(n: u64) {
    tokio::time::sleep(seconds(n)).await;
}

fn condition(world: &World, uid: &str, kind: &str) -> String {
    let conditions = world.api.pod(uid).status.and_then(|s| s.conditions).unwrap_or_default();
    conditions
        .iter()
        .find(|c| c.type_ == kind)
        .map(|c| c.status.clone())
        .unwrap_or_default()
}

fn container(world: &World, uid: &str, name: &str) -> Value {
    let status = world.api.stored(uid)["status"].clone();
    let lists = ["containerStatuses", "initContainerStatuses"].map(|list| status[list].clone());
    let all: Vec<Value> = lists.iter().filter_map(Value::as_array).flatten().cloned().collect();
    all.into_iter().find(|c| c["name"] == name).unwrap_or_default()
}

/// Whether a status with that reason ever went out: the next one may follow at once.
fn was_sent(world: &World, reason: &str) -> bool {
    let reason = Value::from(reason);
    let waits = |patch: &Value| patch["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == reason;
    world.api.patches().iter().any(waits)
}

fn running(world: &World, name: &str) -> Option<u32> {
    world
        .runtime
        .running()
        .into_iter()
        .find(|(n, _)| n == name)
        .map(|(_, restarts)| restarts)
}

#[tokio::test(start_paused = true)]
async fn a_pod_runs_is_reported_once_and_stays_quiet() {
    let world = World::new();
    world.api.put(&pod("u1", "Always"));
    world.until("ready", |w| condition(w, "u1", "Ready") == "True").await;
    let status = world.api.pod("u1").status.expect("a status");
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.host_ip.as_deref(), Some("192.0.2.7"));
    assert!(status.pod_ip.is_some_and(|ip| ip.starts_with("10.0.0.")));
    let order: Vec<String> = status.conditions.into_iter().flatten().map(|c| c.type_).collect();
    assert_eq!(
        order,
        [
            "PodReadyToStartContainers",
            "Initialized",
            "Ready",
            "ContainersReady",
            "PodScheduled"
        ]
    );
    let sent = world.api.patches().len();
    assert!(sent <= 3, "{:#?}", world.api.patches());
    pass(600).await;
    assert_eq!(world.api.patches().len(), sent, "nothing changed, so nothing is sent");
    assert_eq!(world.runtime.calls(), ["run 0", "start main"]);
}

#[tokio::test(start_paused = true)]
async fn a_crashing_container_waits_longer_each_time_and_edged_may_restart_meanwhile() {
    let mut world = World::new();
    world.runtime.lives("main", &[Life::Ends(seconds(1), 1)]);
    world.api.put(&pod("u1", "Always"));
    world
        .until("first crash loop", |w| {
            container(w, "u1", "main")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        })
        .await;
    let main = container(&world, "u1", "main");
    assert_eq!(main["restartCount"], 1, "{main:#}");
    assert_eq!(
        main["state"]["waiting"]["message"],
        "back-off 10s restarting failed container=main pod=web_default(u1)"
    );
    assert_eq!(main["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(world.api.phase("u1"), "Running");
    world.restart().await;
    pass(5).await;
    assert_eq!(
        container(&world, "u1", "main")["restartCount"],
        1,
        "the delay survives a restart"
    );
    let says = |w: &World, delay: &str| {
        let message = container(w, "u1", "main")["state"]["waiting"]["message"].clone();
        message
            .as_str()
            .is_some_and(|m| m.starts_with(&format!("back-off {delay} ")))
    };
    for delay in ["20s", "40s", "1m20s", "2m40s", "5m0s", "5m0s"] {
        world.until(delay, |w| says(w, delay)).await;
        pass(12).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ran_for_ten_minutes_starts_from_the_beginning() {
    let world = World::new();
    let crash = Life::Ends(seconds(1), 1);
    world
        .runtime
        .lives("main", &[crash, crash, crash, Life::Ends(seconds(700), 1), crash]);
    world.api.put(&pod("u1", "Always"));
    world.until("the long life", |w| running(w, "main") == Some(3)).await;
    world
        .until("the next life", |w| container(w, "u1", "main")["restartCount"] == 4)
        .await;
    world
        .until("the shortest delay again", |w| {
            container(w, "u1", "main")["state"]["waiting"]["message"]
                .as_str()
                .is_some_and(|m| m.contains("back-off 10s"))
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn edged_restarts_without_touching_a_container() {
    let mut world = World::new();
    world.api.put(&pod("u1", "Always"));
    world.until("ready", |w| condition(w, "u1", "Ready") == "True").await;
    let sent = world.api.patches().len();
    world.runtime.clear_calls();
    world.api.set_link(Link::Down);
    world.restart().await;
    pass(200).await;
    assert!(world.runtime.calls().is_empty(), "{:?}", world.runtime.calls());
    assert_eq!(world.api.patches().len(), sent);
}

#[tokio::test(start_paused = true)]
async fn after_a_power_cut_the_pod_gets_a_new_sandbox() {
    let mut world = World::new();
    world.api.put(&pod("u1", "Always"));
    world.until("ready", |w| condition(w, "u1", "Ready") == "True").await;
    world.stop().await;
    world.api.set_link(Link::Down);
    world.runtime.power_cut();
    world.start();
    let _ = &mut world;
    world.until("runs again", |w| running(w, "main") == Some(1)).await;
    assert_eq!(world.runtime.sandbox_attempts().last(), Some(&1));
    world.api.set_link(Link::Up(2));
    world
        .until("reported", |w| container(w, "u1", "main")["restartCount"] == 1)
        .await;
    assert_eq!(world.api.phase("u1"), "Running");
}

#[tokio::test(start_paused = true)]
async fn init_containers_run_in_order_and_again_after_a_failure() {
    let world = World::new();
    let mut wanted = pod("u1", "Always");
    let image = wanted["spec"]["containers"][0]["image"].clone();
    wanted["spec"]["initContainers"] = json!([
        {"name": "one", "image": image}, {"name": "two", "image": image},
    ]);
    world
        .runtime
        .lives("one", &[Life::Ends(seconds(2), 1), Life::Ends(seconds(2), 0)]);
    world.runtime.lives("two", &[Life::Ends(seconds(2), 0)]);
    world.api.put(&wanted);
    world
        .until("first init", |w| {
            container(w, "u1", "main")["state"]["waiting"]["reason"] == "PodInitializing"
        })
        .await;
    assert_eq!(world.api.phase("u1"), "Pending");
    world.until("ready", |w| condition(w, "u1", "Ready") == "True").await;
    assert_eq!(
        world.runtime.calls(),
        ["run 0", "start one", "start one", "start two", "start main"]
    );
    assert_eq!(container(&world, "u1", "one")["restartCount"], 1);
    assert_eq!(container(&world, "u1", "one")["ready"], true);
}

#[tokio::test(start_paused = true)]
async fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let world = World::new();
    let mut wanted = pod("u1", "Never");
    wanted["spec"]["initContainers"] = json!([{"name": "one", "image": wanted["spec"]["containers"][0]["image"]}]);
    world.runtime.lives("one", &[Life::Ends(seconds(2), 1)]);
    world.api.put(&wanted);
    world.until("failed", |w| w.api.phase("u1") == "Failed").await;
    assert!(!world.runtime.calls().contains(&"start main".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn sidecars_start_first_come_back_and_do_not_keep_a_job_alive() {
    let world = World::new();
    let mut wanted = pod("u1", "Never");
    let image = wanted["spec"]["containers"][0]["image"].clone();
    wanted["spec"]["initContainers"] = json!([{"name": "side", "image": image, "restartPolicy": "Always"}]);
    world.runtime.lives("side", &[Life::Ends(seconds(3), 1), Life::Runs]);
    world.runtime.lives("main", &[Life::Ends(seconds(60), 0)]);
    world.api.put(&wanted);
    world.until("succeeded", |w| w.api.phase("u1") == "Succeeded").await;
    let calls = world.runtime.calls();
    assert_eq!(calls[..3], ["run 0", "start side", "start main"]);
    assert_eq!(calls.iter().filter(|c| *c == "start side").count(), 2);
    assert!(world.runtime.running().is_empty());
}

#[tokio::test(start_paused = true)]
async fn probes_decide_readiness_and_kill() {
    let world = World::new();
    let mut wanted = pod("u1", "Always");
    wanted["spec"]["containers"][0]["readinessProbe"] = json!({"tcpSocket": {"port": 80}});
    wanted["spec"]["containers"][0]["livenessProbe"] = json!({"tcpSocket": {"port": 80}});
    world.api.put(&wanted);
    world.until("running", |w| w.api.phase("u1") == "Running").await;
    assert_eq!(condition(&world, "u1", "Ready"), "False");
    let (id, findings) = world.parts.probe("main").expect("probes run");
    let event = |finding| ProbeEvent {
        container: "main".into(),
        id: id.clone(),
        finding,
    };
    findings
        .send(event(Finding::Ready(true)))
        .await
        .expect("the worker listens");
    world.until("ready", |w| condition(w, "u1", "Ready") == "True").await;
    findings
        .send(event(Finding::Kill {
            probe: "liveness",
            grace_seconds: Some(5),
        }))
        .await
        .expect("the worker listens");
    world
        .until("restarted", |w| container(w, "u1", "main")["restartCount"] == 1)
        .await;
    assert!(
        world
            .runtime
            .calls()
            .iter()
            .any(|c| c == "stop main 5" || c == "stop main 4"),
        "{:?}",
        world.runtime.calls()
    );
    assert_eq!(
        condition(&world, "u1", "Ready"),
        "False",
        "the new one was not probed yet"
    );
}

#[tokio::test(start_paused = true)]
async fn an_image_that_cannot_be_pulled_is_tried_ever_more_rarely() {
    let world = World::new();
    world.runtime.fail_pull("registry.test/nothing:1", "not found");
    let mut wanted = pod("u1", "Always");
    wanted["spec"]["containers"][0]["image"] = json!("registry.test/nothing:1");
    world.api.put(&wanted);
    let reason = |w: &World| container(w, "u1", "main")["state"]["waiting"]["reason"].clone();
    world.until("the error", |w| was_sent(w, "ErrImagePull")).await;
    world.until("the back-off", |w| reason(w) == "ImagePullBackOff").await;
    pass(1800).await;
    let pulls = world.runtime.pulls().len();
    assert!((6..=11).contains(&pulls), "{pulls} pulls");
    assert_eq!(world.api.phase("u1"), "Pending");
}

#[tokio::test(start_paused = true)]
async fn what_keeps_a_container_from_starting_is_said() {
    let world = World::new();
    let mut never = pod("u1", "Always");
    never["spec"]["containers"][0]["image"] = json!("registry.test/absent:1");
    never["spec"]["containers"][0]["imagePullPolicy"] = json!("Never");
    world.api.put(&never);
    world
        .until("never", |w| {
            container(w, "u1", "main")["state"]["waiting"]["reason"] == "ErrImageNeverPull"
        })
        .await;
    let mut bad = pod("u2", "Always");
    bad["spec"]["containers"][0]["image"] = json!("NOT AN IMAGE");
    world.api.put(&bad);
    world
        .until("bad", |w| {
            container(w, "u2", "main")["state"]["waiting"]["reason"] == "InvalidImageName"
        })
        .await;
    world.runtime.fail_start("main", "exec: no such file");
    world.api.put(&pod("u3", "Always"));
    world.until("start", |w| was_sent(w, "RunContainerError")).await;
}

#[tokio::test(start_paused = true)]
async fn volumes_and_network_hold_a_pod_back() {
    let world = World::new();
    *world.parts.mount_error.lock() = Some("configmap \"settings\" not found".into());
    world.api.put(&pod("u1", "Always"));
    pass(100).await;
    assert!(world.runtime.calls().is_empty());
    assert_eq!(
        container(&world, "u1", "main")["state"]["waiting"]["reason"],
        "ContainerCreating"
    );
    world.runtime.set_network_ready(false);
    pass(10).await;
    *world.parts.mount_error.lock() = None;
    pass(100).await;
    assert!(world.runtime.calls().is_empty());
    world.runtime.set_network_ready(true);
    world.until("ready", |w| condition(w, "u1", "Ready") == "True").await;
}

#[tokio::test(start_paused = true)]
async fn statuses_go_out_after_a_reconnect_and_only_the_newest() {
    let world = World::new();
    world.runtime.lives("main", &[Life::Ends(seconds(1), 1)]);
    world.api.set_link(Link::Down);
    world.api.put(&pod("u1", "Always"));
    pass(120).await;
    assert!(world.api.patches().is_empty());
    world.api.set_link(Link::Up(2));
    world.until("sent", |w| !w.api.patches().is_empty()).await;
    pass(1).await;
    let patches = world.api.patches();
    assert_eq!(patches.len(), 1, "{patches:#?}");
    assert!(patches[0]["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(3));
}

#[tokio::test(start_paused = true)]
async fn another_image_restarts_the_container() {
    let world = World::new();
    world.api.put(&pod("u1", "Always"));
    world.until("ready", |w| condition(w, "u1", "Ready") == "True").await;
    world.api.edit("u1", |pod| {
        pod["spec"]["containers"][0]["image"] = json!("docker.io/library/busybox:1.37")
    });
    world
        .until("restarted", |w| container(w, "u1", "main")["restartCount"] == 1)
        .await;
    assert_eq!(
        container(&world, "u1", "main")["image"],
        "docker.io/library/busybox:1.37"
    );
}

#[tokio::test(start_paused = true)]
async fn what_happened_offline_before_a_restart_is_reported_after_it() {
    let mut world = World::new();
    world.api.set_link(Link::Down);
    world.api.put(&pod("u1", "Always"));
    pass(60).await;
    world.restart().await;
    pass(60).await;
    assert!(world.api.patches().is_empty());
    world.api.set_link(Link::Up(2));
    world.until("ready", |w| condition(w, "u1", "Ready") == "True").await;
    assert_eq!(world.api.patches().len(), 1);
}

/// A Node with room for two processors.
fn node(labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "edge1", "labels": labels},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"}}})
}

fn asking(uid: &str, created: &str, cpu: &str) -> Value {
    let mut pod = pod(uid, "Always");
    pod["metadata"]["name"] = json!(uid);
    pod["metadata"]["creationTimestamp"] = json!(created);
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
    pod
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_fit_fails_and_the_next_one_gets_its_chance() {
    let mut world = World::new();
    world.api.set_node(&node(json!({})), None);
    world.api.put(&asking("u1", "2026-01-01T00:00:00Z", "1500m"));
    world.until("ready", |w| condition(w, "u1", "Ready") == "True").await;
    world.api.put(&asking("u2", "2026-01-01T00:00:01Z", "600m"));
    world.until("refused", |w| w.api.phase("u2") == "Failed").await;
    pass(60).await;
    let status = world.api.pod("u2").status.expect("a status");
    assert_eq!(status.reason.as_deref(), Some("OutOfcpu"));
    assert_eq!(
        status.message.as_deref(),
        Some("Pod was rejected: Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000")
    );
    assert!(status.container_statuses.is_none() && status.start_time.is_some());
    assert_eq!(world.runtime.calls(), ["run 0", "start main"]);
    // A restart finds both as they are: the place once given is kept, the refused pod is not tried again.
    world.api.set_node(&node(json!({})), None);
    world.restart().await;
    pass(120).await;
    assert_eq!(world.api.pod("u2").status, Some(status));
    assert_eq!(world.api.phase("u1"), "Running");
    assert_eq!(world.runtime.calls(), ["run 0", "start main"]);
    // What a pod holds is free once its containers are gone.
    world.api.edit("u1", |pod| {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:10:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(1);
    });
    world.until("gone", |w| w.api.deleted() == ["u1"]).await;
    world.api.put(&asking("u3", "2026-01-01T00:11:00Z", "1500m"));
    world.until("ready", |w| condition(w, "u3", "Ready") == "True").await;
    // The refused one goes when it is deleted.
    world.api.edit("u2", |pod| {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:12:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(1);
    });
    world.until("deleted", |w| w.api.deleted() == ["u1", "u2"]).await;
}

#[tokio::test(start_paused = true)]
async fn of_two_that_come_together_the_older_one_gets_the_place() {
    let world = World::new();
    world.api.set_node(&node(json!({})), None);
    world.api.set_ready(false);
    world.api.put(&asking("u1", "2026-01-01T00:00:05Z", "1500m"));
    world.api.put(&asking("u2", "2026-01-01T00:00:01Z", "1500m"));
    world.until("ready", |w| condition(w, "u2", "Ready") == "True").await;
    world.until("refused", |w| w.api.phase("u1") == "Failed").await;
}

#[tokio::test(start_paused = true)]
async fn the_cloud_is_asked_for_the_node_before_a_pod_is_refused() {
    let world = World::new();
    world
        .api
        .set_node(&node(json!({})), Some(&node(json!({"disk": "ssd"}))));
    let mut choosy = pod("u1", "Always");
    choosy["spec"]["nodeSelector"] = json!({"disk": "ssd"});
    world.api.put(&choosy);
    world.until("ready", |w| condition(w, "u1", "Ready") == "True").await;
}

#[tokio::test(start_paused = true)]
async fn containers_of_a_go_edgecore_go_on_whatever_it_hashed_until_their_image_changes() {
    let mut world = World::new();
    world.api.put(&pod("u1", "Always"));
    world.until("ready", |w| condition(w, "u1", "Ready") == "True").await;
    world.stop().await;
    // Of the whole spec, as releases of long ago did.
    world.runtime.made_by_go("deadbeef");
    world.start();
    pass(120).await;
    assert_eq!(world.runtime.calls(), ["run 0", "start main"]);
    assert_eq!(condition(&world, "u1", "Ready"), "True");
    world.api.edit("u1", |pod| {
        pod["spec"]["containers"][0]["image"] = json!("docker.io/library/busybox:1.37")
    });
    world.until("restarted", |w| running(w, "main") == Some(1)).await;
}

#[tokio::test(start_paused = true)]
async fn of_dead_containers_only_the_newest_is_kept() {
    let world = World::new();
    world.runtime.lives("main", &[Life::Ends(seconds(1), 1)]);
    world.api.put(&pod("u1", "Always"));
    pass(3600).await;
    let restarts = container(&world, "u1", "main")["restartCount"]
        .as_u64()
        .expect("a number");
    assert!(restarts >= 10, "{restarts}");
    pass(120).await;
    // One to tell the last end from, and the one that ended since.
    assert!(world.runtime.dead() <= 2, "{}", world.runtime.dead());
    assert_eq!(world.runtime.sandbox_attempts(), [0]);
}
