//! Events and lists in the tests' time.

use std::time::Duration;

use tonic::Code;

use crate::edged::runtime::fake::Life;
use crate::edged::runtime::{Event, RuntimeError};
use crate::edged::testing::{World, pod};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A world with one running pod, whose runtime tells of events.
async fn world(life: Life) -> World {
    let mut world = World::new();
    world.runtime.tell_events();
    world.runtime.lives("main", &[life]);
    world.restart().await;
    world.api.put(&pod("u1", "Always"));
    world.until("it runs", |w| !w.runtime.running().is_empty()).await;
    world
}

fn restarts(world: &World) -> Option<u32> {
    world.runtime.running().first().map(|(_, restarts)| *restarts)
}

/// How often the runtime was asked for everything meanwhile.
async fn lists(world: &World, time: Duration) -> usize {
    let before = world.runtime.lists();
    tokio::time::sleep(time).await;
    world.runtime.lists() - before
}

#[tokio::test(start_paused = true)]
async fn who_is_told_of_events_lists_once_a_minute() {
    let world = world(Life::Runs).await;
    let at_first = lists(&world, seconds(4)).await;
    assert!(at_first >= 3, "{at_first}: the runtime may still say that it has none");
    tokio::time::sleep(seconds(10)).await;
    let later = lists(&world, seconds(600)).await;
    assert!(
        later <= 120,
        "{later}, of which pods that nobody knows and garbage are most"
    );
}

#[tokio::test(start_paused = true)]
async fn an_event_is_followed_by_looks_of_which_there_are_not_too_many() {
    let world = world(Life::Ends(seconds(30), 1)).await;
    tokio::time::sleep(seconds(30)).await;
    assert_eq!(restarts(&world), None, "it has ended and nobody knows");
    // Until it was listed, half a second later, the runtime would not have known it either.
    world.runtime.tell(Ok(Event::Somewhere));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(restarts(&world), Some(1));

    tokio::time::sleep(seconds(20)).await;
    let before = world.runtime.lists();
    for _ in 0..1000 {
        world.runtime.tell(Ok(Event::Somewhere));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    tokio::time::sleep(seconds(3)).await;
    let lists = world.runtime.lists() - before;
    assert!(
        (4..=10).contains(&lists),
        "{lists} for a thousand events in two seconds"
    );
}

#[tokio::test(start_paused = true)]
async fn after_the_end_of_events_there_are_lists_until_events_come_again() {
    let world = world(Life::Runs).await;
    tokio::time::sleep(seconds(10)).await;
    world.runtime.tell(Err(RuntimeError {
        call: "Subscribe",
        subject: String::new(),
        code: Code::Internal,
        message: "overrun".into(),
    }));
    let listing = lists(&world, seconds(50)).await;
    assert!(listing >= 45, "{listing}");
    tokio::time::sleep(seconds(60)).await;
    let later = lists(&world, seconds(600)).await;
    assert!(
        later <= 120,
        "{later}, of which pods that nobody knows and garbage are most"
    );
}

#[tokio::test(start_paused = true)]
async fn a_runtime_without_events_is_asked_every_second() {
    let world = World::new();
    let listing = lists(&world, seconds(120)).await;
    assert!(listing >= 110, "{listing}");
}
