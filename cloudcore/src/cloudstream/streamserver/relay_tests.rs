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
        logs: false,
        early: early.to_vec(),
        patience,
    };
    let relay = tokio::spawn(async move { relay(&mut server, tunnel, opening).await });
    Ends { client, edge, relay }
}

async fn rest(stream: &mut DuplexStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("text");
    text
}

#[tokio::test]
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

#[tokio::test]
async fn what_is_no_answer_is_a_bad_gateway() {
    for (said, status) in [(b"SPDY!!!!".as_slice(), "502"), (b"HTT", "502"), (b"", "502")] {
        let mut ends = start(b"", None, 4096);
        ends.edge.write_all(said).await.expect("sent");
        drop(ends.edge);
        let text = rest(&mut ends.client).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{said:?}: {text}");
    }
}

#[tokio::test]
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
#[tokio::test]
async fn an_answer_is_passed_on_to_its_end_although_the_edge_takes_no_more() {
    let mut ends = start(b"", None, 16);
    let answer = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(5000));
    ends.edge.write_all(answer.as_bytes()).await.expect("sent");
    drop(ends.edge);
    ends.client.write_all(b"ping").await.expect("sent");
    assert_eq!(rest(&mut ends.client).await, answer);
}
