//! What happens by the clock alone.

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
