//! The captured upgrades, asked again as they were sent, and how a connection is closed.

use std::time::Duration;

use proto::golden::{Capture, Differences, Direction, Replay, Upgrade, join_answer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::edge::{NodeIdentity, tls};
use super::fakes::World;

const SOON: Duration = Duration::from_secs(10);

/// The answer, raw: a refusal is all that comes, a session goes on after the head.
async fn answer(stream: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.expect("a head"));
    }
    if !answer.starts_with(b"HTTP/1.1 101 ") {
        // Whether the end of TLS is said does not matter here.
        let _ = stream.read_to_end(&mut answer).await;
    }
    answer
}

/// A close frame of a code, as clients send it: under a mask, here of zeros.
fn close_frame(code: u16) -> [u8; 8] {
    let [high, low] = code.to_be_bytes();
    [0x88, 0x82, 0, 0, 0, 0, high, low]
}

/// The edge closes as it did, and is told what it was told.
async fn close(stream: &mut TlsStream<TcpStream>, upgrade: &Upgrade) {
    let code = |by: Direction| {
        let mut all = upgrade.closes.iter();
        all.find(|(from, _)| *from == by).and_then(|(_, code)| *code)
    };
    let Some(sent) = code(Direction::Up) else { return };
    let [high, low] = code(Direction::Down).expect("Go answered it").to_be_bytes();
    stream.write_all(&close_frame(sent)).await.expect("sent");
    let mut said = [0; 4];
    stream.read_exact(&mut said).await.expect("a close frame");
    assert_eq!(said, [0x88, 2, high, low]);
    assert!(matches!(stream.read(&mut said).await, Ok(0) | Err(_)), "the end");
}

#[tokio::test]
async fn upgrades_are_answered_and_connections_closed_as_captured() {
    let world = World::start(|_| {}).await;
    let allowed = Differences::committed(Replay::Upgrades);
    let (mut answered, mut closed) = (0, 0);
    for capture in Capture::ALL {
        for upgrade in capture.upgrades() {
            let what = format!("{}, {:?}", capture.name(), upgrade.note);
            let node = upgrade.request.lines().find_map(|line| line.strip_prefix("Node_id: "));
            let identity = NodeIdentity::of_node(world.identity.authority(), node.expect("the node's name"));
            let address = world.hub.websocket_address();
            let dialled = tls(address, world.identity.ca(), Some(&identity)).await;
            let mut stream = dialled.expect("TLS");
            stream.write_all(upgrade.request.as_bytes()).await.expect("sent");
            let ours = timeout(SOON, answer(&mut stream)).await.expect("in time");
            let (golden, ours) = (join_answer(upgrade.answer.as_bytes()), join_answer(&ours));
            let found = allowed.compare_upgrade(capture, &upgrade.note, &golden, &ours);
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            assert!(found.is_empty(), "{what}: {found:#?}");
            timeout(SOON, close(&mut stream, &upgrade)).await.expect("in time");
            answered += 1;
            closed += usize::from(!upgrade.closes.is_empty());
        }
    }
    assert_eq!((answered, closed), (15, 1));
    assert_eq!(allowed.unused(), [""; 0]);
}
