//! Two tunnels over a pipe in memory, with virtual time.

use proto::Features;
use proto::tunnel::{Connect, ConnectKind, Role};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Requests, Tunnel, TunnelMetrics, TunnelSettings, start};
use crate::tasks::Tasks;

fn pair(features: Features, tasks: &Tasks) -> (Tunnel, Tunnel, Requests) {
    let (cloud, edge) = tokio::io::duplex(64 * 1024);
    let settings = |role| TunnelSettings {
        role,
        features,
        early: Vec::new(),
        metrics: TunnelMetrics::default(),
    };
    let (cloud, _) = start(cloud, settings(Role::Cloud), tasks);
    let (edge, requests) = start(edge, settings(Role::Edge), tasks);
    (cloud, edge, requests)
}

fn connect(id: u64) -> Connect {
    Connect {
        id,
        kind: ConnectKind::Exec,
        method: "POST".to_owned(),
        target: "/exec/default/web-0/nginx?command=ls".to_owned(),
        headers: vec![("upgrade".to_owned(), "SPDY/3.1".to_owned())],
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_carries_bytes_both_ways_and_ends_once() {
    for features in [Features::TUNNEL, Features::default()] {
        let tasks = Tasks::new();
        let (cloud, edge, mut requests) = pair(features, &tasks);
        let mut client = cloud.open(connect(1)).await.unwrap();
        let incoming = requests.recv().await.unwrap();
        assert_eq!(incoming.connect.target, connect(1).target);
        let mut server = incoming.stream;
        server.write_all(b"HTTP/1.1 101\r\n\r\n").await.unwrap();
        let mut head = [0; 16];
        client.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 101\r\n\r\n");
        let bytes: Vec<u8> = (0..3_000_000u32).map(|i| i.to_le_bytes()[i as usize % 3]).collect();
        let sent = bytes.clone();
        let echo = tokio::join!(
            async {
                client.write_all(&sent).await.unwrap();
                let mut back = vec![0; sent.len()];
                client.read_exact(&mut back).await.unwrap();
                back
            },
            async {
                let mut there = vec![0; sent.len()];
                server.read_exact(&mut there).await.unwrap();
                server.write_all(&there).await.unwrap();
                server.shutdown().await.unwrap();
            }
        )
        .0;
        assert!(echo == bytes);
        assert_eq!(client.read(&mut head).await.unwrap(), 0);
        assert!(client.write_all(b"x").await.is_err());
        drop((client, server));
        assert_eq!((cloud.open_streams(), edge.open_streams()), (0, 0));
        tasks.stop(std::time::Duration::from_secs(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_tunnel_reaches_everybody_with_its_reason() {
    let tasks = Tasks::new();
    let (cloud, edge, mut requests) = pair(Features::TUNNEL, &tasks);
    let mut client = cloud.open(connect(1)).await.unwrap();
    let mut server = requests.recv().await.unwrap().stream;
    cloud.close("no Node of that name");
    let reason = edge.closed().await;
    assert!(reason.ends_with("no Node of that name"), "{reason}");
    for stream in [&mut client, &mut server] {
        let error = stream.read_u8().await.unwrap_err();
        assert!(error.to_string().contains("no Node of that name"), "{error}");
        assert!(stream.write_all(b"x").await.is_err());
    }
    assert!(requests.recv().await.is_none());
    assert!(cloud.open(connect(2)).await.is_err());
    assert!(tasks.stop(std::time::Duration::from_secs(5)).await);
}

/// A program that stops drops what serves a stream: its caller must not take that for the end of the answer.
#[tokio::test(start_paused = true)]
async fn a_stream_that_the_stop_ends_does_not_look_finished() {
    for _ in 0..32 {
        let tasks = Tasks::new();
        let edges = tasks.child();
        let (cloud, edge) = tokio::io::duplex(64 * 1024);
        let settings = |role| TunnelSettings {
            role,
            features: Features::TUNNEL,
            early: Vec::new(),
            metrics: TunnelMetrics::default(),
        };
        let (cloud, _) = start(cloud, settings(Role::Cloud), &tasks);
        let (_edge, mut requests) = start(edge, settings(Role::Edge), &edges);
        let mut client = cloud.open(connect(1)).await.unwrap();
        let mut server = requests.recv().await.unwrap().stream;
        server.write_all(b"begun").await.unwrap();
        let mut begun = [0; 5];
        client.read_exact(&mut begun).await.unwrap();
        edges.token().cancel();
        drop(server);
        let error = client.read_u8().await.unwrap_err();
        assert!(error.to_string().contains("the program stops"), "{error}");
        assert!(tasks.stop(std::time::Duration::from_secs(5)).await);
    }
}

#[test]
fn a_tunnel_at_rest_is_small() {
    let bytes = size_of::<super::shared::Shared>() + size_of::<super::driver::Driver>();
    assert!(bytes <= 1200, "{bytes}");
}
