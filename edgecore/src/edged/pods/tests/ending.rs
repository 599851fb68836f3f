//! How pods end: finished, failed, deleted, too old.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_finished_job_is_not_run_again() {
    let mut world = World::new();
    world.runtime.lives("main", &[Life::Ends(seconds(5), 0)]);
    world.api.put(&pod("u1", "OnFailure"));
    world.until("succeeded", |w| w.api.phase("u1") == "Succeeded").await;
    let ready = world
        .api
        .pod("u1")
        .status
        .and_then(|s| s.conditions)
        .into_iter()
        .flatten()
        .find(|c| c.type_ == "Ready");
    assert_eq!(ready.and_then(|c| c.reason).as_deref(), Some("PodCompleted"));
    world.runtime.forget_ended();
    world.runtime.power_cut();
    world.runtime.clear_calls();
    world.restart().await;
    pass(300).await;
    assert_eq!(world.api.phase("u1"), "Succeeded");
    assert!(
        !world
            .runtime
            .calls()
            .iter()
            .any(|call| call.starts_with("start") || call.starts_with("run"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_container_ends_a_pod_that_never_restarts() {
    let world = World::new();
    world.runtime.lives("main", &[Life::Ends(seconds(5), 3)]);
    world.api.put(&pod("u1", "Never"));
    world.until("failed", |w| w.api.phase("u1") == "Failed").await;
    assert_eq!(container(&world, "u1", "main")["state"]["terminated"]["exitCode"], 3);
    assert_eq!(
        world.runtime.calls().iter().filter(|c| c.starts_with("start")).count(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_ends_with_grace_and_leaves_the_api_once() {
    let world = World::new();
    world.runtime.lives("main", &[Life::Stubborn]);
    let mut wanted = pod("u1", "Always");
    wanted["spec"]["containers"][0]["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 3}}});
    world.api.put(&wanted);
    world.until("ready", |w| condition(w, "u1", "Ready") == "True").await;
    world.runtime.clear_calls();
    world.api.edit("u1", |pod| {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(10);
    });
    world.until("gone from the API", |w| w.api.deleted() == ["u1"]).await;
    let calls = world.runtime.calls();
    assert!(
        calls[0] == "stop main 7" || calls[0] == "stop main 6",
        "3 of 10 s went to the hook: {calls:?}"
    );
    assert!(calls.contains(&"stop sandbox".to_owned()));
    world.until("nothing left", |w| w.runtime.is_empty()).await;
    assert_eq!(world.parts.unmounted.lock().len(), 1);
    let last = world
        .api
        .patches()
        .into_iter()
        .rfind(|p| p["status"].get("phase").is_some());
    assert_eq!(last.expect("a phase")["status"]["phase"], "Failed");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_deleted_pod_is_told_in_one_patch() {
    let world = World::new();
    world.api.put(&pod("u1", "Always"));
    world.until("ready", |w| condition(w, "u1", "Ready") == "True").await;
    let before = world.api.patches().len();
    world.api.edit("u1", |pod| {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(1);
    });
    world.until("gone from the API", |w| w.api.deleted() == ["u1"]).await;
    let told = world.api.patches().split_off(before);
    assert_eq!(told.len(), 1, "{told:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_row_is_gone_is_killed_and_its_successor_runs() {
    let world = World::new();
    world.api.put(&pod("u1", "Always"));
    world.until("ready", |w| condition(w, "u1", "Ready") == "True").await;
    world.api.remove("u1");
    world.api.put(&pod("u2", "Always"));
    world
        .until("successor", |w| condition(w, "u2", "Ready") == "True")
        .await;
    world
        .until("one left", |w| w.runtime.sandbox_attempts().len() == 1)
        .await;
    assert!(world.runtime.calls().contains(&"stop main 30".to_owned()));
    assert!(
        world.api.deleted().is_empty(),
        "the API does not have the old one any more"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_deleted_by_force_does_not_get_the_time_of_its_spec() {
    let world = World::new();
    world.api.put(&pod("u1", "Always"));
    world.until("ready", |w| condition(w, "u1", "Ready") == "True").await;
    world.api.remove_within("u1", Some(0));
    world.until("nothing left", |w| w.runtime.is_empty()).await;
    assert!(world.runtime.calls().contains(&"stop main 2".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_ends_slowly_is_removed_by_force() {
    let world = World::new();
    world.runtime.lives("main", &[Life::Stubborn]);
    world.api.put(&pod("u1", "Always"));
    world.until("ready", |w| condition(w, "u1", "Ready") == "True").await;
    world.api.edit("u1", |pod| {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(600);
    });
    world
        .until("ends", |w| w.runtime.calls().contains(&"stop main 600".to_owned()))
        .await;
    world.api.remove_within("u1", Some(0));
    world
        .until("force", |w| w.runtime.calls().contains(&"stop main 2".to_owned()))
        .await;
    world.until("nothing left", |w| w.runtime.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_wanted_again_while_it_ends_starts_anew() {
    let world = World::new();
    world.runtime.lives("main", &[Life::Stubborn]);
    world.api.put(&pod("u1", "Always"));
    world.until("ready", |w| condition(w, "u1", "Ready") == "True").await;
    world.api.remove("u1");
    pass(1).await;
    world.api.put(&pod("u1", "Always"));
    world
        .until("it runs again", |w| {
            w.runtime.calls().iter().filter(|call| *call == "start main").count() == 2
                && condition(w, "u1", "Ready") == "True"
        })
        .await;
    let failed = |patch: &Value| patch["status"]["phase"] == "Failed";
    assert!(!world.api.patches().iter().any(failed), "{:#?}", world.api.patches());
}

#[tokio::test(start_paused = true)]
async fn a_grace_time_beyond_all_clocks_ends_a_pod_too() {
    let world = World::new();
    let mut patient = pod("u1", "Always");
    patient["spec"]["terminationGracePeriodSeconds"] = i64::MAX.into();
    world.api.put(&patient);
    world.until("ready", |w| condition(w, "u1", "Ready") == "True").await;
    world.api.edit("u1", |pod| {
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        pod["metadata"]["deletionGracePeriodSeconds"] = i64::MAX.into();
    });
    world.until("gone", |w| !w.api.deleted().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_removed_before_the_set_of_pods_is_ready() {
    let mut world = World::new();
    world.api.put(&pod("u1", "Always"));
    world.until("ready", |w| condition(w, "u1", "Ready") == "True").await;
    world.stop().await;
    world.api.set_ready(false);
    world.api.remove("u1");
    world.start();
    pass(300).await;
    assert_eq!(running(&world, "main"), Some(0));
    world.api.set_ready(true);
    world.until("the stranger is gone", |w| w.runtime.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_finished_offline_is_not_run_again_though_the_runtime_forgot_it() {
    let mut world = World::new();
    world.api.set_link(Link::Down);
    world.runtime.lives("main", &[Life::Ends(seconds(5), 0)]);
    world.api.put(&pod("u1", "OnFailure"));
    pass(60).await;
    world.runtime.forget_ended();
    world.runtime.clear_calls();
    world.restart().await;
    pass(60).await;
    assert!(
        !world
            .runtime
            .calls()
            .iter()
            .any(|call| call.starts_with("start") || call.starts_with("run"))
    );
    world.api.set_link(Link::Up(2));
    world.until("reported", |w| w.api.phase("u1") == "Succeeded").await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_ends_when_its_time_is_over_and_stays_ended() {
    let mut world = World::new();
    let mut short = pod("u1", "Always");
    short["spec"]["activeDeadlineSeconds"] = json!(100);
    world.api.put(&short);
    world.until("ready", |w| condition(w, "u1", "Ready") == "True").await;
    pass(90).await;
    assert_eq!(world.api.phase("u1"), "Running");
    world.until("over", |w| w.api.phase("u1") == "Failed").await;
    let status = world.api.pod("u1").status.expect("a status");
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
    assert_eq!(
        status.message.as_deref(),
        Some("Pod was active on the node longer than the specified deadline")
    );
    assert!(status.pod_ip.is_some(), "the address of an ended pod stays known");
    assert!(world.runtime.running().is_empty());
    world.restart().await;
    pass(60).await;
    assert_eq!(world.api.pod("u1").status, Some(status));
    assert!(world.runtime.running().is_empty());
}
