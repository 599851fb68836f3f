//! The edge's end of a tunnel, with a cloud that opens streams; and the dial, with one that speaks TLS.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::routing::{get, post};
use common::Tasks;
use common::tunnel::{Tunnel, TunnelMetrics, TunnelSettings, TunnelStream, start};
use hyper_util::rt::TokioIo;
use proto::Features;
use proto::tunnel::{Connect, ConnectKind, Role};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::serve::serve;

/// A cloud whose edge serves this router.
fn cloud(router: Router, features: Features) -> (Tunnel, Tasks) {
    let tasks = Tasks::new();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let settings = |role| TunnelSettings {
        role,
        features,
        early: Vec::new(),
        metrics: TunnelMetrics::default(),
    };
    let (tunnel, _) = start(near, settings(Role::Cloud), &tasks);
    let (_, mut requests) = start(far, settings(Role::Edge), &tasks);
    let group = tasks.clone();
    tasks.spawn("edge", async move {
        while let Some(incoming) = requests.recv().await {
            group.spawn("request", serve(incoming, router.clone()));
        }
    });
    (tunnel, tasks)
}

async fn open(
    tunnel: &Tunnel,
    kind: ConnectKind,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> TunnelStream {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let connect = Connect {
        id: NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
        kind,
        method: method.to_owned(),
        target: target.to_owned(),
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    };
    tunnel.open(connect).await.expect("open")
}

async fn all(mut stream: TunnelStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("text");
    text
}

#[tokio::test(start_paused = true)]
async fn the_type_of_a_connect_message_only_decides_whether_the_head_comes_back() {
    let router = Router::new()
        .route("/containerLogs/{name}", get(|| async { "line 1\n" }))
        .route(
            "/headers",
            get(|headers: HeaderMap| async move { format!("{:?}", headers.get("x-test")) }),
        );
    for features in [Features::TUNNEL, Features::default()] {
        let (tunnel, tasks) = cloud(router.clone(), features);
        for kind in [ConnectKind::Logs, ConnectKind::Metrics] {
            let text = all(open(&tunnel, kind, "GET", "/containerLogs/web?tailLines=1", &[]).await).await;
            assert_eq!(text, "line 1\n");
            let text = all(open(&tunnel, kind, "GET", "/headers", &[("X-Test", "here")]).await).await;
            assert_eq!(text, "Some(\"here\")");
        }
        for kind in [ConnectKind::Exec, ConnectKind::Attach] {
            let text = all(open(&tunnel, kind, "GET", "/containerLogs/web", &[]).await).await;
            assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
            assert!(text.contains("connection: close\r\n"), "{text}");
            assert!(text.ends_with("\r\n\r\nline 1\n"), "{text}");
            let text = all(open(&tunnel, kind, "GET", "/nowhere", &[]).await).await;
            assert!(text.starts_with("HTTP/1.1 404 Not Found\r\n"), "{text}");
        }
        assert_eq!(tunnel.open_streams(), 0);
        assert!(tasks.stop(Duration::from_secs(5)).await);
    }
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_carries_bytes_both_ways_until_either_side_ends() {
    let tasks = Tasks::new();
    let group = tasks.clone();
    let echo = move |mut request: Request| async move {
        let upgrade = hyper::upgrade::on(&mut request);
        group.spawn("echo", async move {
            let mut io = TokioIo::new(upgrade.await.expect("an upgrade"));
            let mut bytes = [0; 100];
            while let Ok(count @ 1..) = io.read(&mut bytes).await {
                if &bytes[..count] == b"exit" {
                    break;
                }
                io.write_all(&bytes[..count]).await.expect("written");
            }
            io.shutdown().await.expect("ended");
        });
        let answer = axum::http::Response::builder().status(101);
        answer
            .header("connection", "Upgrade")
            .header("upgrade", "SPDY/3.1")
            .body(Body::empty())
            .expect("an answer")
    };
    let (tunnel, _tasks) = cloud(Router::new().route("/exec/{pod}", post(echo)), Features::TUNNEL);
    let headers = [
        ("Connection", "Upgrade"),
        ("Upgrade", "SPDY/3.1"),
        ("Content-Length", "0"),
    ];
    for _ in 0..2 {
        let mut stream = open(&tunnel, ConnectKind::Exec, "POST", "/exec/web?command=sh", &headers).await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a head"));
        }
        let head = String::from_utf8(head).expect("text");
        assert!(head.starts_with("HTTP/1.1 101 ") && !head.contains("close"), "{head}");
        stream.write_all(b"\x80\x03\x00\x01 spdy").await.expect("written");
        let mut back = [0; 9];
        stream.read_exact(&mut back).await.expect("echo");
        assert_eq!(&back, b"\x80\x03\x00\x01 spdy");
        stream.write_all(b"exit").await.expect("written");
        assert_eq!(stream.read(&mut back).await.expect("the end"), 0);
    }
    assert_eq!(tunnel.open_streams(), 0);
}

/// A body that never ends, and tells when nobody reads it any more.
fn endless() -> (Router, CancellationToken) {
    let gone = CancellationToken::new();
    let guard = std::sync::Arc::new(parking_lot::Mutex::new(Some(gone.clone().drop_guard())));
    let logs = move || async move {
        let guard: Option<DropGuard> = guard.lock().take();
        let (sender, pieces) = mpsc::channel::<&'static str>(1);
        sender.send("line\n").await.expect("room");
        let stream = futures::stream::unfold((pieces, sender, guard), |(mut pieces, sender, guard)| async move {
            let piece = pieces.recv().await?;
            Some((Ok::<_, std::convert::Infallible>(piece), (pieces, sender, guard)))
        });
        axum::http::Response::new(Body::from_stream(stream))
    };
    (Router::new().route("/logs", get(logs)), gone)
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_leaves_ends_what_it_read_and_so_does_the_end_of_the_tunnel() {
    for kind in [ConnectKind::Logs, ConnectKind::Exec] {
        for whole_tunnel in [false, true] {
            let (router, gone) = endless();
            let (tunnel, _tasks) = cloud(router, Features::TUNNEL);
            let mut stream = open(&tunnel, kind, "GET", "/logs", &[]).await;
            let mut text = Vec::new();
            while !text.ends_with(b"line\n") && !text.ends_with(b"line\n\r\n") {
                text.push(stream.read_u8().await.expect("text"));
            }
            if whole_tunnel {
                tunnel.close("a test");
            } else {
                drop(stream);
            }
            tokio::time::timeout(Duration::from_secs(1), gone.cancelled())
                .await
                .unwrap_or_else(|_| panic!("{kind:?} goes on, whole tunnel lost: {whole_tunnel}"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_made_is_answered_on_its_stream() {
    let (tunnel, _tasks) = cloud(Router::new(), Features::default());
    let target = format!("/{}", "x".repeat(70_000));
    let text = all(open(&tunnel, ConnectKind::Logs, "GET", &target, &[]).await).await;
    assert!(!text.is_empty());
    let text = all(open(&tunnel, ConnectKind::Exec, "POST", &target, &[]).await).await;
    assert!(text.starts_with("HTTP/1.1 4"), "{text}");
}
