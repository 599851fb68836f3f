//! Windows, caps and turns.

use super::{Bench, Seen, connect, read_all};
use crate::tunnel::mux::{CHUNK, Event, Key, MAX_WINDOW, Read, SEND_BUFFER, STREAM_CAP, TUNNEL_CAP};
use crate::tunnel::{INITIAL_CREDIT, Kind, MAX_PAYLOAD, Role};

/// Everything that a writer can be made to take.
fn fill(bench: &mut Bench, key: Key) -> usize {
    let mut total = 0;
    loop {
        match bench.mux.write(key, &[b'x'; 100_000]) {
            Some(0) => return total,
            Some(count) => total += count,
            None => panic!("the stream is over"),
        }
        bench.sent();
    }
}

#[test]
fn a_writer_stops_at_the_window_and_goes_on_with_credit() {
    let mut edge = Bench::new(Role::Edge, true);
    let key = edge.accept(1);
    assert_eq!(fill(&mut edge, key), SEND_BUFFER + INITIAL_CREDIT as usize);
    assert_eq!(edge.sent(), []);
    // What is waiting for credit is not lost when the holder is gone.
    edge.say(1, Kind::Credit, &[3]);
    assert_eq!(edge.sent(), [Seen::Data(1, b"xxx".to_vec())]);
    while edge.mux.event().is_some() {}
    edge.say(1, Kind::Credit, &[0x80, 0x80, 0x0c]);
    edge.sent();
    assert_eq!(edge.mux.event(), Some(Event::Writable(key)));
    edge.mux.release(key);
    edge.sent();
    edge.say(
        1,
        Kind::Credit,
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
    );
    assert!(matches!(edge.sent()[..], [Seen::Data(1, _), Seen::Remove(1)]));
}

#[test]
fn the_cloud_removes_a_stream_that_has_no_credit_when_its_client_leaves() {
    let mut cloud = Bench::new(Role::Cloud, true);
    let key = cloud.mux.open(cloud.now, &connect(1)).unwrap();
    fill(&mut cloud, key);
    cloud.mux.release(key);
    assert_eq!(cloud.sent(), [Seen::Remove(1)]);
    assert!(cloud.mux.is_empty());
}

#[test]
fn a_window_grows_while_it_is_read_and_never_over_its_bound() {
    let mut cloud = Bench::new(Role::Cloud, true);
    let key = cloud.mux.open(cloud.now, &connect(1)).unwrap();
    let mut allowed = u64::from(INITIAL_CREDIT);
    for round in 0..20 {
        while allowed > 0 {
            let now = allowed.min(MAX_PAYLOAD as u64);
            cloud.say(1, Kind::Data, &vec![b'x'; usize::try_from(now).unwrap()]);
            allowed -= now;
        }
        let waiting = cloud.mux.waiting_bytes() as u64;
        assert!(
            waiting <= MAX_WINDOW && (round < 5 || waiting == MAX_WINDOW),
            "{waiting}"
        );
        read_all(&mut cloud.mux, key);
        allowed = cloud.mux.streams[key.index()].flow.window;
        while !cloud.sent().is_empty() {}
        allowed -= cloud.mux.streams[key.index()].flow.consumed;
    }
    assert!(matches!(cloud.mux.read(key), Read::Wait));
}

#[test]
fn a_peer_that_sends_over_its_credit_loses_that_stream() {
    let mut edge = Bench::new(Role::Edge, true);
    let (greedy, other) = (edge.accept(1), edge.accept(2));
    edge.say(1, Kind::Data, &[b'x'; INITIAL_CREDIT as usize]);
    assert!(matches!(edge.mux.read(greedy), Read::Bytes(_)));
    edge.say(1, Kind::Data, b"y");
    assert!(matches!(edge.mux.read(greedy), Read::Failed(_)));
    assert_eq!(edge.mux.read(other), Read::Wait);
    assert_eq!(edge.sent(), [Seen::Remove(1)]);
    assert_eq!(edge.mux.waiting_bytes(), 0);
}

#[test]
fn without_credits_a_stream_is_ended_alone_at_its_cap() {
    let mut cloud = Bench::new(Role::Cloud, false);
    let slow = cloud.mux.open(cloud.now, &connect(1)).unwrap();
    let other = cloud.mux.open(cloud.now, &connect(2)).unwrap();
    cloud.sent();
    for _ in 0..STREAM_CAP / MAX_PAYLOAD {
        cloud.say(1, Kind::Data, &vec![b'x'; MAX_PAYLOAD]);
        cloud.say(2, Kind::Data, &vec![b'x'; MAX_PAYLOAD]);
        assert_eq!(read_all(&mut cloud.mux, other).len(), MAX_PAYLOAD);
    }
    assert_eq!(cloud.mux.waiting_bytes(), STREAM_CAP);
    cloud.say(1, Kind::Data, b"y");
    assert!(matches!(cloud.mux.read(slow), Read::Failed(_)));
    assert_eq!((cloud.mux.waiting_bytes(), cloud.sent()), (0, vec![Seen::Remove(1)]));
    cloud.say(1, Kind::Data, b"late");
    assert_eq!(cloud.mux.read(other), Read::Wait);
    assert_eq!(cloud.mux.take_counts().capped, 1);
}

#[test]
fn the_cap_of_a_tunnel_ends_the_largest_stream() {
    let mut cloud = Bench::new(Role::Cloud, false);
    let keys: Vec<Key> = (0..10)
        .map(|id| cloud.mux.open(cloud.now, &connect(id)).unwrap())
        .collect();
    cloud.sent();
    cloud.say(3, Kind::Data, &vec![b'x'; MAX_PAYLOAD]);
    'full: loop {
        for id in 0..10 {
            cloud.say(id, Kind::Data, &[b'x'; 500_000]);
            if cloud.mux.take_counts().capped > 0 {
                break 'full;
            }
        }
    }
    assert_eq!(cloud.sent(), [Seen::Remove(3)]);
    assert!(cloud.mux.waiting_bytes() < TUNNEL_CAP);
    let failed = keys
        .iter()
        .filter(|key| matches!(cloud.mux.read(**key), Read::Failed(_)))
        .count();
    assert_eq!(failed, 1);
}

#[test]
fn the_cap_of_a_tunnel_ends_a_stream_that_the_peer_has_removed_already() {
    let mut cloud = Bench::new(Role::Cloud, false);
    let keys: Vec<Key> = (0..5)
        .map(|id| cloud.mux.open(cloud.now, &connect(id)).unwrap())
        .collect();
    cloud.sent();
    for id in 0..4 {
        for _ in 0..STREAM_CAP / MAX_PAYLOAD {
            cloud.say(id, Kind::Data, &vec![b'x'; MAX_PAYLOAD]);
        }
        cloud.say(id, Kind::RemoveConnect, &[]);
    }
    assert_eq!(cloud.mux.waiting_bytes(), TUNNEL_CAP);
    cloud.say(4, Kind::Data, b"date\n");
    assert_eq!(cloud.mux.waiting_bytes(), TUNNEL_CAP - STREAM_CAP + 5);
    assert_eq!(read_all(&mut cloud.mux, keys[4]), b"date\n");
    assert_eq!(cloud.mux.read(keys[4]), Read::Wait);
    let failed = keys
        .iter()
        .filter(|key| matches!(cloud.mux.read(**key), Read::Failed(_)))
        .count();
    assert_eq!((failed, cloud.mux.take_counts().capped), (1, 1));
    assert_eq!(cloud.sent(), []);
    for key in keys {
        cloud.mux.release(key);
    }
    assert_eq!(cloud.sent(), [Seen::Remove(4)]);
    assert!(cloud.mux.is_empty() && cloud.mux.waiting_bytes() == 0);
}

#[test]
fn a_large_stream_takes_turns_with_small_ones_and_never_holds_up_a_new_one() {
    let mut cloud = Bench::new(Role::Cloud, true);
    let large = cloud.mux.open(cloud.now, &connect(1)).unwrap();
    let small = cloud.mux.open(cloud.now, &connect(2)).unwrap();
    cloud.sent();
    cloud.mux.write(large, &[b'x'; 200_000]);
    cloud.mux.write(small, b"date\n");
    cloud.mux.open(cloud.now, &connect(3)).unwrap();
    let sent = cloud.sent();
    assert_eq!(sent[0], Seen::Connect(3));
    assert!(matches!(&sent[1], Seen::Data(1, bytes) if bytes.len() == CHUNK));
    assert_eq!(sent[2], Seen::Data(2, b"date\n".to_vec()));
}
