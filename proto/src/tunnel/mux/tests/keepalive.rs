//! Pings and silence, in virtual seconds.

use std::time::{Duration, Instant};

use super::{Bench, Seen};
use crate::tunnel::{Kind, Role};

/// Lets time pass; the seconds at which pings went and the one at which the tunnel ended.
fn run(bench: &mut Bench, seconds: u64, mut each: impl FnMut(&mut Bench, u64)) -> (Vec<u64>, Option<u64>) {
    let start = bench.now;
    let at = |now: Instant| now.duration_since(start).as_secs();
    let (mut pings, end) = (Vec::new(), start + Duration::from_secs(seconds));
    while bench.now < end {
        let second = bench.now + Duration::from_secs(1);
        while bench.mux.deadline() <= second {
            bench.now = bench.mux.deadline();
            bench.mux.expire(bench.now);
            if bench.mux.ended().is_some() {
                return (pings, Some(at(bench.now)));
            }
            pings.extend(
                bench
                    .sent()
                    .iter()
                    .filter(|seen| **seen == Seen::Ping)
                    .map(|_| at(bench.now)),
            );
        }
        bench.now = second;
        let now = at(second);
        each(bench, now);
    }
    (pings, None)
}

fn pong(bench: &mut Bench) {
    bench.control(|frames, out| frames.pong(out, b"ping you"));
}

#[test]
fn an_edge_pings_every_5_s_and_gives_a_silent_cloud_up_after_20() {
    let mut edge = Bench::new(Role::Edge, true);
    let (pings, ended) = run(&mut edge, 100, |_, _| ());
    assert_eq!((pings, ended), (vec![5, 10, 15], Some(20)));
    assert_eq!(edge.mux.ended(), Some("nothing came from the peer for 20 s"));
}

#[test]
fn an_edge_waits_150_s_for_the_first_word_of_a_go_cloud_only() {
    let mut edge = Bench::new(Role::Edge, false);
    let (pings, ended) = run(&mut edge, 1000, |_, _| ());
    assert_eq!((pings.len(), ended), (29, Some(150)));
    let mut edge = Bench::new(Role::Edge, false);
    let (_, ended) = run(&mut edge, 1000, |edge, second| {
        if second == 120 {
            pong(edge);
        }
    });
    assert_eq!(ended, Some(140));
    let mut edge = Bench::new(Role::Edge, false);
    let (_, ended) = run(&mut edge, 1000, |edge, second| {
        if second == 3 {
            edge.say(9, Kind::RemoveConnect, &[]);
        }
    });
    assert_eq!(ended, Some(23), "who asks reads, too");
}

#[test]
fn any_frame_counts_as_a_sign_of_life() {
    let mut edge = Bench::new(Role::Edge, true);
    let (pings, ended) = run(&mut edge, 300, |edge, second| {
        if second % 19 == 0 {
            edge.say(9, Kind::RemoveConnect, &[]);
        }
    });
    assert_eq!((pings.len(), ended), (60, None));
}

#[test]
fn a_cloud_asks_a_silent_go_edge_after_60_s_and_ends_after_another_60() {
    let mut cloud = Bench::new(Role::Cloud, false);
    let (pings, ended) = run(&mut cloud, 1000, |_, _| ());
    assert_eq!((pings, ended), (vec![60], Some(120)));
    let mut cloud = Bench::new(Role::Cloud, false);
    let (pings, ended) = run(&mut cloud, 1000, |cloud, second| {
        if second % 100 == 0 {
            pong(cloud);
        }
    });
    assert_eq!((pings.len(), ended), (10, None));
}

#[test]
fn a_cloud_gives_one_of_ours_up_after_20_s_and_asks_before() {
    let mut cloud = Bench::new(Role::Cloud, true);
    let (pings, ended) = run(&mut cloud, 100, |_, _| ());
    assert_eq!((pings, ended), (vec![10], Some(20)));
    let mut cloud = Bench::new(Role::Cloud, true);
    let (pings, ended) = run(&mut cloud, 100, |cloud, second| {
        if second % 5 == 0 {
            cloud.control(|frames, out| frames.ping(out, b"ping you"));
        }
    });
    assert_eq!((pings.len(), ended), (0, None));
}
