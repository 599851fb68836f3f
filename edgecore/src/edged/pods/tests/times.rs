//! What happens by the clock alone.

use tokio::time::Instant;

use super::*;

/// Nothing tells a pod that its token nears its end, or that a ConfigMap differs from the files: it is looked at once in 60 to 90 s.
#[tokio::test(start_paused = true)]
async fn the_files_of_a_pod_that_nobody_touches_are_brought_up_to_date_again_and_again() {
    let world = World::new();
    world.api.put(&pod("u1", "Always"));
    world.until("ready", |w| condition(w, "u1", "Ready") == "True").await;
    // What it reported comes back, and is a look as well.
    pass(10).await;
    let refreshed = || world.parts.refreshed.lock().len();
    for round in 0..5 {
        let before = refreshed();
        pass(91).await;
        assert!(refreshed() > before, "not in round {round}");
    }
}

/// The first restart waits for nothing.
#[tokio::test(start_paused = true)]
async fn a_crashing_container_waits_10_then_20_then_40_s_and_never_more_than_300() {
    let world = World::new();
    let life = seconds(1);
    world.runtime.lives("main", &[Life::Ends(life, 1)]);
    world.api.put(&pod("u1", "Always"));
    world
        .until("the first restart", |w| running(w, "main") == Some(1))
        .await;
    let mut started = Instant::now();
    for (restarts, delay) in (2..).zip([10, 20, 40, 80, 160, 300, 300]) {
        world
            .until("the next restart", |w| running(w, "main") == Some(restarts))
            .await;
        let waited = started.elapsed().saturating_sub(life);
        // The world is looked at ten times a second.
        assert!(
            (seconds(delay - 1)..seconds(delay + 1)).contains(&waited),
            "{waited:?} before restart {restarts}, not {delay} s"
        );
        started = Instant::now();
    }
}
