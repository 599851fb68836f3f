//! What each side does with a stream and with nonsense (spec 04 §5.4, §15).

use std::time::Duration;

use super::{Bench, Seen, connect, read_all};
use crate::tunnel::mux::{HOLD, MAX_MISSED, MAX_STREAMS, Read, RefusedOpen};
use crate::tunnel::{ConnectKind, Kind, Role};

#[test]
fn an_edge_that_is_done_removes_once_and_ignores_what_comes_after() {
    let mut edge = Bench::new(Role::Edge, false);
    let key = edge.accept(300);
    assert_eq!(edge.mux.write(key, b"HTTP/1.1 200 OK\r\n\r\n"), Some(19));
    edge.mux.finish(key);
    assert_eq!(edge.mux.write(key, b"more"), None);
    edge.mux.release(key);
    assert_eq!(
        edge.sent(),
        [Seen::Data(300, b"HTTP/1.1 200 OK\r\n\r\n".to_vec()), Seen::Remove(300)]
    );
    // As many as a Go cloud was seen to send for one exec.
    for _ in 0..3478 {
        edge.say(300, Kind::RemoveConnect, &[]);
    }
    edge.say(300, Kind::Data, b"late");
    assert_eq!(edge.sent(), []);
    let counts = edge.mux.take_counts();
    assert_eq!((counts.late, counts.opened, counts.ended), (3479, 1, 1));
    assert!(edge.mux.is_empty() && edge.mux.ended().is_none());
}

#[test]
fn an_edge_answers_the_removal_at_once_and_sends_no_more_data() {
    let mut edge = Bench::new(Role::Edge, false);
    let key = edge.accept(1);
    edge.say(1, Kind::Data, b"last words");
    edge.mux.write(key, &[b'x'; 100_000]);
    edge.say(1, Kind::RemoveConnect, &[]);
    edge.say(1, Kind::RemoveConnect, &[]);
    assert_eq!(edge.sent(), [Seen::Remove(1)]);
    assert_eq!(edge.mux.write(key, b"x"), None);
    assert_eq!(read_all(&mut edge.mux, key), b"last words");
    assert_eq!(edge.mux.read(key), Read::End);
    edge.mux.release(key);
    assert_eq!(edge.sent(), []);
    assert!(edge.mux.is_empty());
}

#[test]
fn a_cloud_whose_client_left_removes_once() {
    for credits in [false, true] {
        let mut cloud = Bench::new(Role::Cloud, credits);
        let key = cloud.mux.open(cloud.now, &connect(7)).unwrap();
        assert_eq!(cloud.sent(), [Seen::Connect(7)]);
        cloud.say(7, Kind::Data, b"HTTP/1.1 101");
        cloud.mux.write(key, b"stdin");
        cloud.mux.release(key);
        assert_eq!(cloud.sent(), [Seen::Data(7, b"stdin".to_vec()), Seen::Remove(7)]);
        cloud.say(7, Kind::Data, b"late");
        cloud.say(7, Kind::RemoveConnect, &[]);
        assert_eq!(cloud.sent(), []);
        assert!(cloud.mux.is_empty());
    }
}

#[test]
fn a_cloud_does_not_answer_the_removal_of_the_edge() {
    let mut cloud = Bench::new(Role::Cloud, false);
    let key = cloud.mux.open(cloud.now, &connect(7)).unwrap();
    cloud.sent();
    cloud.say(7, Kind::Data, b"body");
    cloud.mux.write(key, b"never to be sent");
    cloud.say(7, Kind::RemoveConnect, &[]);
    assert_eq!(read_all(&mut cloud.mux, key), b"body");
    assert_eq!(cloud.mux.read(key), Read::End);
    cloud.mux.finish(key);
    cloud.mux.release(key);
    assert_eq!(cloud.sent(), []);
    assert!(cloud.mux.is_empty());
}

#[test]
fn nothing_overtakes_the_start_of_a_stream_on_a_go_edge() {
    let mut cloud = Bench::new(Role::Cloud, false);
    let first = cloud.mux.open(cloud.now, &connect(1)).unwrap();
    let second = cloud.mux.open(cloud.now, &connect(2)).unwrap();
    cloud.mux.write(first, b"early");
    cloud.mux.release(second);
    assert_eq!(cloud.sent(), [Seen::Connect(1), Seen::Connect(2)]);
    cloud.say(1, Kind::Data, b"HTTP/1.1 101");
    assert_eq!(cloud.sent(), [Seen::Data(1, b"early".to_vec())]);
    assert_eq!(cloud.mux.deadline(), cloud.now + HOLD);
    cloud.now += HOLD - Duration::from_millis(1);
    cloud.mux.expire(cloud.now);
    assert_eq!(cloud.sent(), []);
    cloud.now += Duration::from_millis(1);
    cloud.mux.expire(cloud.now);
    assert_eq!(cloud.sent(), [Seen::Remove(2)]);
    // Ours reads in order.
    let mut cloud = Bench::new(Role::Cloud, true);
    let key = cloud.mux.open(cloud.now, &connect(1)).unwrap();
    cloud.mux.release(key);
    assert_eq!(cloud.sent(), [Seen::Connect(1), Seen::Remove(1)]);
}

#[test]
fn a_request_that_cannot_be_made_is_answered_and_the_tunnel_stays() {
    let mut edge = Bench::new(Role::Edge, false);
    edge.say(1, Kind::ExecConnect, br#"{"MessID":1,"url":"http://x","header":{}}"#);
    edge.say(2, Kind::LogsConnect, b"nonsense");
    assert!(edge.mux.accept().is_none());
    let sent = edge.sent();
    let (Seen::Data(1, exec), Seen::Data(2, logs)) = (&sent[0], &sent[1]) else {
        panic!("{sent:?}");
    };
    assert!(
        exec.starts_with(b"HTTP/1.1 400 Bad Request\r\n"),
        "{}",
        exec.escape_ascii()
    );
    assert!(logs.starts_with(b"the connect message"), "{}", logs.escape_ascii());
    assert_eq!(sent[2..], [Seen::Remove(1), Seen::Remove(2)]);
    assert!(edge.mux.is_empty() && edge.mux.ended().is_none());
    assert_eq!(edge.mux.take_counts().refused, 2);
}

#[test]
fn a_connect_with_a_live_id_ends_that_stream_alone() {
    let mut edge = Bench::new(Role::Edge, false);
    let (first, other) = (edge.accept(1), edge.accept(2));
    edge.say(1, Kind::Data, b"x");
    edge.say(1, Kind::ExecConnect, &connect(1).encode());
    assert!(matches!(edge.mux.read(first), Read::Failed(_)));
    assert_eq!(edge.mux.read(other), Read::Wait);
    assert_eq!(edge.sent(), [Seen::Remove(1)]);
    // The id is free again, although the old holder has not let go.
    let again = edge.accept(1);
    edge.mux.write(again, b"new");
    edge.mux.release(first);
    assert_eq!(edge.sent(), [Seen::Data(1, b"new".to_vec())]);
}

#[test]
fn what_makes_no_sense_there_is_counted_and_ignored() {
    let mut cloud = Bench::new(Role::Cloud, false);
    cloud.say(1, Kind::ExecConnect, &connect(1).encode());
    cloud.say(0, Kind::CloseConnect, b"not from an edge");
    cloud.say(1, Kind::Credit, &[5]);
    assert!(cloud.mux.accept().is_none() && cloud.mux.ended().is_none());
    assert_eq!((cloud.sent(), cloud.mux.take_counts().unknown), (Vec::new(), 3));
    let mut edge = Bench::new(Role::Edge, true);
    edge.say(1, Kind::Credit, &[0x80]);
    edge.say(1, Kind::Credit, &[5]);
    let counts = edge.mux.take_counts();
    assert_eq!((counts.unknown, counts.late), (1, 1));
}

#[test]
fn streams_are_bounded_and_refused_when_nobody_accepts() {
    let mut edge = Bench::new(Role::Edge, true);
    let payload = |id| connect(id).encode();
    for id in 0..=MAX_STREAMS as u64 {
        edge.say(id, Kind::ExecConnect, &payload(id));
    }
    assert_eq!(edge.sent(), [Seen::Remove(MAX_STREAMS as u64)]);
    let key = edge.mux.accept().unwrap().0;
    edge.mux.refuse_all();
    assert_eq!(edge.sent().len(), MAX_STREAMS - 1);
    edge.say(99_999, Kind::ExecConnect, &payload(99_999));
    assert_eq!(edge.sent(), [Seen::Remove(99_999)]);
    edge.mux.release(key);
    assert_eq!(edge.sent(), [Seen::Remove(0)]);
    assert!(edge.mux.is_empty());
}

#[test]
fn a_peer_that_sends_and_does_not_read_is_given_up() {
    let mut edge = Bench::new(Role::Edge, true);
    edge.mux.refuse_all();
    for id in 0..100_000 {
        edge.say(id, Kind::ExecConnect, b"{}");
    }
    assert_eq!(edge.mux.ended(), Some("the peer sends and does not read"));
}

#[test]
fn the_cloud_says_why_it_ends_a_tunnel() {
    let mut cloud = Bench::new(Role::Cloud, false);
    let key = cloud.mux.open(cloud.now, &connect(1)).unwrap();
    cloud.sent();
    cloud.say(1, Kind::Data, b"x");
    cloud.mux.close("failed to update the node");
    cloud.mux.close("again");
    let text = "failed to update the node".to_owned();
    assert_eq!(
        cloud.sent(),
        [Seen::CloseConnect(text.clone()), Seen::Close(1001, text.clone())]
    );
    assert_eq!(read_all(&mut cloud.mux, key), b"x");
    assert_eq!(cloud.mux.read(key), Read::Failed(&text));
    assert_eq!(cloud.mux.open(cloud.now, &connect(2)), Err(RefusedOpen::Ended(text)));
    cloud.mux.release(key);
    assert!(cloud.mux.is_empty());

    let mut edge = Bench::new(Role::Edge, false);
    let key = edge.accept(1);
    edge.say(0, Kind::CloseConnect, b"failed to update the node");
    assert_eq!(
        edge.mux.ended(),
        Some("the cloud closed the tunnel: failed to update the node")
    );
    assert!(matches!(edge.mux.read(key), Read::Failed(_)));
    assert_eq!(edge.sent(), [Seen::Close(1000, String::new())]);
}

#[test]
fn what_cannot_be_read_ends_the_tunnel_with_a_reason() {
    let oversized = [&[0x81, 0xff][..], &(2u64 << 20).to_be_bytes(), &[0; 4]].concat();
    let cases: [(&[u8], u16, &str); 4] = [
        (&[0x81, 0x80, 0, 0, 0, 0], 1002, "a message is empty"),
        (b"GET / HTTP/1.1\r\n", 1002, "reserved bits"),
        (&oversized, 1009, "over the limit"),
        (&[0x81, 0x02, 1, 3], 1002, "masked"),
    ];
    for (bytes, code, words) in cases {
        let mut cloud = Bench::new(Role::Cloud, false);
        let key = cloud.mux.open(cloud.now, &connect(1)).unwrap();
        cloud.sent();
        cloud.mux.receive(cloud.now, &mut bytes.to_vec());
        let reason = cloud.mux.ended().unwrap().to_owned();
        assert!(
            reason.starts_with("the peer broke the protocol: ") && reason.contains(words),
            "{reason}"
        );
        let sent = cloud.sent();
        assert!(
            matches!(&sent[..], [Seen::Close(sent, why)] if *sent == code && why.contains(words)),
            "{sent:?}"
        );
        assert_eq!(cloud.mux.read(key), Read::Failed(&reason));
    }
}

#[test]
fn a_ping_is_answered_and_of_many_the_last() {
    let mut edge = Bench::new(Role::Edge, false);
    edge.control(|frames, out| frames.ping(out, b"1"));
    edge.control(|frames, out| frames.ping(out, b"2"));
    assert_eq!(edge.sent(), [Seen::Pong(b"2".to_vec())]);
    edge.control(|frames, out| frames.close(out, 1000, "bye"));
    assert_eq!(
        edge.mux.ended(),
        Some("the peer closed the connection with code 1000: bye")
    );
    assert_eq!(edge.sent(), [Seen::Close(1000, String::new())]);
}

#[test]
fn ids_are_not_used_twice_at_a_time() {
    let mut cloud = Bench::new(Role::Cloud, true);
    let key = cloud.mux.open(cloud.now, &connect(1)).unwrap();
    assert_eq!(cloud.mux.open(cloud.now, &connect(1)), Err(RefusedOpen::InUse(1)));
    let mut long = connect(2);
    long.kind = ConnectKind::Logs;
    long.target = "/x".repeat(600_000);
    assert!(matches!(cloud.mux.open(cloud.now, &long), Err(RefusedOpen::TooLong(_))));
    cloud.mux.release(key);
    cloud.sent();
    assert!(cloud.mux.is_empty());
}

#[test]
fn a_peer_that_speaks_on_a_stream_before_it_is_opened_ends_it_without_a_word() {
    let mut cloud = Bench::new(Role::Cloud, true);
    let key = cloud.mux.open(cloud.now, &connect(1)).unwrap();
    cloud.say(1, Kind::Data, &[0; 100_000]);
    assert!(matches!(cloud.mux.read(key), Read::Failed(_)));
    let key = cloud.mux.open(cloud.now, &connect(2)).unwrap();
    cloud.say(2, Kind::RemoveConnect, &[]);
    assert_eq!(cloud.sent(), []);
    assert_eq!(cloud.mux.read(key), Read::End);
}

#[test]
fn what_an_edge_says_before_it_is_asked_is_its_answer() {
    let mut cloud = Bench::new(Role::Cloud, true);
    let key = cloud.mux.open(cloud.now, &connect(1)).unwrap();
    cloud.say(1, Kind::Data, b"early");
    assert_eq!(cloud.sent(), [Seen::Connect(1)]);
    assert_eq!(read_all(&mut cloud.mux, key), b"early");
    assert_eq!(cloud.mux.read(key), Read::Wait);
}

#[test]
fn a_stream_whose_first_bytes_came_before_it_is_refused_alone() {
    for credits in [false, true] {
        let mut edge = Bench::new(Role::Edge, credits);
        let other = edge.accept(1);
        edge.say(2, Kind::Data, b"dropped");
        edge.say(2, Kind::Data, b"this, too");
        edge.say(2, Kind::ExecConnect, &connect(2).encode());
        assert!(edge.mux.accept().is_none());
        edge.say(2, Kind::Data, b"of no stream either");
        assert_eq!(edge.sent(), [Seen::Remove(2)]);
        assert_eq!(edge.mux.read(other), Read::Wait);
        let counts = edge.mux.take_counts();
        assert_eq!((counts.late, counts.refused), (3, 1));
        edge.accept(3);
    }
}

#[test]
fn late_data_of_streams_that_are_over_is_remembered_within_bounds() {
    let mut edge = Bench::new(Role::Edge, false);
    for id in 0..1000 {
        let key = edge.accept(id);
        edge.mux.release(key);
        assert_eq!(edge.sent(), [Seen::Remove(id)]);
        edge.say(id, Kind::Data, b"late");
    }
    assert_eq!(edge.mux.missed.len(), MAX_MISSED);
    assert_eq!(edge.sent(), []);
}
