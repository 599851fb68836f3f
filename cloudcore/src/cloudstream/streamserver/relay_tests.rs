//! Both ends of a relay held by the test, over pipes in memory, with virtual time.

use tokio::io::{DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::*;

struct Ends {
    client: DuplexStream,
    edge: DuplexStream,
    relay: JoinHandle<()>,
}

#[expect(clippy::disallowed_methods, reason = "a test ends with its tasks")]
fn start(early: &[u8], patience: Option<Duration>, pipe: usize) -> Ends {
    let (client, mut server) = duplex(pipe);
    let (edge, tunnel) = duplex(64 * 1024);
    let opening = Opening {
        node: NodeName::from("edge-1"),
        last_word: Form::Status,
        early: early.to_vec(),
        patience,
    };
    let relay = tokio::spawn(async move { relay(&mut server, tunnel, opening, &CancellationToken::new()).await });
    Ends { client, edge, relay }
}

async fn rest(stream: &mut DuplexStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("text");
    text
}

#[tokio::test(start_paused = true)]
async fn bytes_go_both_ways_and_early_ones_wait_for_the_answer() {
    let mut ends = start(b"early ", None, 4096);
    ends.client.write_all(b"and late").await.expect("sent");
    ends.edge
        .write_all(b"HTTP/1.1 101 Switching\r\n\r\n")
        .await
        .expect("sent");
    let mut got = [0; 14];
    ends.edge.read_exact(&mut got).await.expect("passed on");
    assert_eq!(&got, b"early and late");
    ends.edge.shutdown().await.expect("ended");
    assert_eq!(rest(&mut ends.client).await, "HTTP/1.1 101 Switching\r\n\r\n");
    ends.relay.await.expect("ends");
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_says_nothing_is_a_time_out() {
    let mut ends = start(b"", Some(Duration::from_secs(30)), 4096);
    let text = rest(&mut ends.client).await;
    assert!(text.starts_with("HTTP/1.1 504"), "{text}");
    assert!(text.ends_with("edge node edge-1 did not answer within 30s"), "{text}");
    // The edge hears that nobody waits.
    assert_eq!(rest(&mut ends.edge).await, "");
}

#[tokio::test(start_paused = true)]
async fn a_followed_log_may_begin_after_an_hour() {
    let mut ends = start(b"", None, 4096);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    ends.edge.write_all(b"HTTP/1.1 200 OK\r\n\r\nline").await.expect("sent");
    drop(ends.edge);
    assert_eq!(rest(&mut ends.client).await, "HTTP/1.1 200 OK\r\n\r\nline");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_answer_is_a_bad_gateway() {
    for (said, status) in [(b"SPDY!!!!".as_slice(), "502"), (b"HTT", "502"), (b"", "502")] {
        let mut ends = start(b"", None, 4096);
        ends.edge.write_all(said).await.expect("sent");
        drop(ends.edge);
        let text = rest(&mut ends.client).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{said:?}: {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_ends_the_stream_at_once() {
    for answered in [false, true] {
        let mut ends = start(b"", None, 4096);
        if answered {
            ends.edge.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("sent");
            let mut got = [0; 19];
            ends.client.read_exact(&mut got).await.expect("passed on");
        }
        drop(ends.client);
        assert_eq!(rest(&mut ends.edge).await, "", "answered: {answered}");
        ends.relay.await.expect("ends");
    }
}

/// A client that still sends, and is slower to read than the edge was to write: nothing of the answer is lost.
#[tokio::test(start_paused = true)]
async fn an_answer_is_passed_on_to_its_end_although_the_edge_takes_no_more() {
    let mut ends = start(b"", None, 16);
    let answer = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(5000));
    ends.edge.write_all(answer.as_bytes()).await.expect("sent");
    drop(ends.edge);
    ends.client.write_all(b"ping").await.expect("sent");
    assert_eq!(rest(&mut ends.client).await, answer);
}

/// A client that still pings while it reads: frames tell it the end where the runtime said it, others are told at once, and none meets a
/// closed connection.
#[tokio::test(start_paused = true)]
async fn a_client_has_time_to_read_the_end() {
    let goodbye = [SPDY, &[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0]].concat();
    let other = b"HTTP/1.1 101 Switching\r\n\r\n";
    for (answer, silent) in [(goodbye.as_slice(), LEAVE), (other, Duration::ZERO)] {
        for leaves in [true, false] {
            let mut ends = start(b"", None, 4096);
            ends.edge.write_all(answer).await.expect("sent");
            drop(ends.edge);
            let begun = tokio::time::Instant::now();
            let mut got = vec![0; answer.len()];
            ends.client.read_exact(&mut got).await.expect("the answer");
            ends.client.write_all(b"ping").await.expect("it is read");
            if !leaves {
                assert_eq!(rest(&mut ends.client).await, "");
                assert_eq!(begun.elapsed(), silent);
                ends.client.write_all(b"ping").await.expect("it is read");
            }
            drop(ends.client);
            ends.relay.await.expect("ends");
            assert!(begun.elapsed() <= silent, "{silent:?}, leaves: {leaves}");
        }
    }
}

/// Relays an answer that breaks off after these pieces, and returns what the client gets.
async fn broken_after(pieces: &[&[u8]], last_word: Form) -> Vec<u8> {
    let (mut client, mut server) = duplex(64 * 1024);
    let pieces = pieces.iter().map(|piece| Ok(std::io::Cursor::new(piece.to_vec())));
    let cut = Err(io::Error::other("the link is cut"));
    let script = futures::stream::iter(pieces.chain([cut]).collect::<Vec<_>>());
    let edge = tokio::io::join(tokio_util::io::StreamReader::new(script), tokio::io::sink());
    let opening = Opening {
        node: NodeName::from("edge-1"),
        last_word,
        early: Vec::new(),
        patience: None,
    };
    let relayed = async move { relay(&mut server, edge, opening, &CancellationToken::new()).await };
    let mut got = Vec::new();
    let (read, ()) = tokio::join!(client.read_to_end(&mut got), relayed);
    read.expect("bytes");
    got
}

const SPDY: &[u8] = b"HTTP/1.1 101 Switching\r\nUpgrade: SPDY/3.1\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_command_that_breaks_off_says_so_on_its_error_stream() {
    let whole = b"\0\0\0\x05\0\0\0\x02hi";
    // Of the second frame only the beginning came: the client gets nothing of it.
    for last in [&b""[..], b"\0\0\0\x05\0", b"\0\0\0\x05\0\0\0\x05hel"] {
        let got = broken_after(&[SPDY, whole, last], Form::Status).await;
        let rest = got.strip_prefix([SPDY, whole].concat().as_slice()).expect("what came");
        let (header, status) = rest.split_at(8);
        assert_eq!(header.get(..5), Some(&b"\0\0\0\x01\x01"[..]));
        let status: proto::Status = serde_json::from_slice(status).expect("a status");
        assert_eq!(
            (status.status.as_str(), status.message.as_str()),
            (
                "Failure",
                "edge node edge-1 lost its connection: the link is cut; how the command ends is not known"
            )
        );
    }
}

/// A runtime that stops says no goodbye, and its edge ends the stream as any other.
#[tokio::test(start_paused = true)]
async fn a_command_of_whose_end_nothing_was_told_has_not_gone_well() {
    let output = b"\0\0\0\x05\0\0\0\x02hi";
    for (last, told) in [
        (&b""[..], false),
        (b"\0\0\0\x05\x01\0\0\0", false),
        (b"\0\0\0\x01\x01\0\0\x02{}", true),
        (b"\x80\x03\0\x07\0\0\0\x08\0\0\0\x01\0\0\0\0", true),
    ] {
        let mut ends = start(b"", None, 4096);
        let answer = [SPDY, output, last].concat();
        ends.edge.write_all(&answer).await.expect("sent");
        drop(ends.edge);
        let mut got = Vec::new();
        ends.client.read_to_end(&mut got).await.expect("bytes");
        let rest = got.strip_prefix(answer.as_slice()).expect("what came");
        let status = b"the stream of edge node edge-1 broke off; how the command ends is not known";
        let has_status = rest.windows(status.len()).any(|part| part == status);
        assert_eq!((rest.is_empty(), has_status), (told, !told), "{last:?}");
        assert!(told || rest.starts_with(b"\0\0\0\x01\x01"));
    }
}

/// A frame larger than the buffer goes on as it comes: after its beginning nothing can be said, after its end it can.
#[tokio::test(start_paused = true)]
async fn a_frame_that_does_not_fit_goes_on_in_parts() {
    let frame = [&[0, 0, 0, 5, 0, 3, 0, 0][..], &[7; 3 << 16]].concat();
    for cut in [frame.len(), frame.len() - 1] {
        let half = cut / 2;
        let pieces = [SPDY, &frame[..half], &frame[half..cut]];
        let got = broken_after(&pieces, Form::Status).await;
        let rest = got.strip_prefix(SPDY).expect("the head");
        assert_eq!(rest.get(..cut), frame.get(..cut));
        assert_eq!(rest.len() > cut, cut == frame.len(), "{cut}");
    }
}

#[tokio::test(start_paused = true)]
async fn other_answers_break_off_without_a_word() {
    let frame = b"\0\0\0\x05\0\0\0\x02hi";
    assert_eq!(broken_after(&[SPDY, frame], Form::None).await, [SPDY, frame].concat());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_cloudcore_is_told() {
    let (mut client, mut server) = duplex(64 * 1024);
    let (mut edge, tunnel) = duplex(64 * 1024);
    let opening = Opening {
        node: NodeName::from("edge-1"),
        last_word: Form::Line,
        early: Vec::new(),
        patience: None,
    };
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    edge.write_all(head.as_bytes()).await.expect("sent");
    let stop = CancellationToken::new();
    let relayed = async {
        relay(&mut server, tunnel, opening, &stop).await;
        drop(server);
    };
    let looking = async {
        let mut got = vec![0; head.len()];
        client.read_exact(&mut got).await.expect("the head");
        stop.cancel();
        rest(&mut client).await
    };
    let ((), text) = tokio::join!(relayed, looking);
    assert_eq!(text, "35\r\nerror: the log breaks off here: this cloudcore stops\n\r\n");
}
