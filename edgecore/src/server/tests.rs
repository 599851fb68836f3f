//! The paths of the kubelet's API with a runtime in memory and a streaming server that answers as containerd's.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use common::Tasks;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt as _;

use super::{Kubelet, debugging_paths, without_debugging};
use crate::edged::testing::{World, pod};

/// A pod `default/web` whose container `main` runs.
async fn world() -> (World, Router) {
    let world = World::new();
    world.api.put(&pod("a", "Always"));
    world
        .until("the pod runs", |world| {
            let status = world.edged.as_ref().and_then(|edged| edged.status(&"a".into()));
            status.is_some_and(|status| status.phase.as_deref() == Some("Running"))
        })
        .await;
    let kubelet = Kubelet {
        edged: world.edged.clone().expect("started"),
        tasks: Tasks::new(),
    };
    let router = debugging_paths(kubelet, "{}".to_owned());
    (world, router)
}

async fn ask(router: &Router, method: &str, target: &str, upgrade: bool) -> (StatusCode, String) {
    let mut request = Request::builder().method(method).uri(target);
    if upgrade {
        request = request.header("connection", "Upgrade").header("upgrade", "SPDY/3.1");
    }
    let request = request.body(Body::empty()).expect("a request");
    let answer = router.clone().oneshot(request).await.expect("an answer");
    let status = answer.status();
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test(start_paused = true)]
async fn logs_are_refused_in_the_kubelets_words() {
    let (_world, router) = world().await;
    let cases = [
        ("web/main?tailLines=x", 400, r#"{"message": "Unable to decode query."}"#),
        ("web/main?tailLines=-1", 422, r#"{"message": "Invalid request."}"#),
        ("nope/main", 404, r#"pod "nope" does not exist"#),
        ("web/side", 404, r#"container "side" not found in pod "web""#),
        (
            "web/main?previous=true",
            400,
            r#"previous terminated container "main" in pod "web" not found"#,
        ),
    ];
    for (path, status, text) in cases {
        let answer = ask(&router, "GET", &format!("/containerLogs/default/{path}"), false).await;
        assert_eq!((answer.0.as_u16(), answer.1.as_str()), (status, text), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn streams_are_refused_in_the_kubelets_words() {
    let (world, router) = world().await;
    let nothing = "you must specify at least 1 of stdin, stdout, stderr";
    let cases = [
        ("exec/default/web/main?command=ls", 400, nothing),
        ("exec/default/nope/main?output=1", 404, "pod does not exist"),
        ("exec/default/web/other-uid/main?output=1", 404, "pod not found"),
        ("exec/default/web/side?output=1", 500, "container not found (\"side\")"),
        (
            "exec/default/web/main?command=ls&output=1",
            500,
            "Upgrade request required\n",
        ),
        (
            "attach/default/web/side?output=1",
            500,
            "container side not found in pod web_default",
        ),
        ("portForward/default/nope", 404, "pod does not exist"),
        ("portForward/default/web/x", 404, "pod not found"),
        ("portForward/default/web", 500, "Upgrade request required\n"),
    ];
    for (path, status, text) in cases {
        let answer = ask(&router, "POST", &format!("/{path}"), false).await;
        assert_eq!((answer.0.as_u16(), answer.1.as_str()), (status, text), "{path}");
    }
    // A runtime that has nothing to stream with.
    let answer = ask(&router, "POST", "/exec/default/web/a/main?output=1&error=1", true).await;
    assert_eq!(answer.0, 500);
    assert_eq!(answer.1, "rpc error: code = Unimplemented desc = not in the fake");
    world.stop().await;
    world.runtime.power_cut();
    let answer = ask(&router, "POST", "/exec/default/web/main?output=1", true).await;
    assert_eq!(answer.1, "container not found (\"main\")");
    let answer = ask(&router, "POST", "/portForward/default/web", true).await;
    assert_eq!(answer.1, "pod not found (\"web_default\")");
}

#[tokio::test(start_paused = true)]
async fn what_is_turned_off_says_so() {
    let router = without_debugging();
    for path in [
        "/exec/default/web/main",
        "/containerLogs/default/web/main",
        "/runningpods/",
    ] {
        let answer = ask(&router, "GET", path, false).await;
        assert_eq!(
            answer,
            (
                StatusCode::METHOD_NOT_ALLOWED,
                "Debug endpoints are disabled.\n".to_owned()
            )
        );
    }
}

#[tokio::test(start_paused = true)]
async fn running_pods_are_listed() {
    let (_world, router) = world().await;
    let (status, list) = ask(&router, "GET", "/runningpods/", false).await;
    let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    assert_eq!(status, 200);
    assert_eq!(list["items"][0]["metadata"]["name"], "web");
    assert_eq!(list["items"][0]["spec"]["containers"][0]["name"], "main");
}

/// Serves one request as the runtime's streaming server, then echoes in capitals until `bye`.
async fn streaming_server(listener: TcpListener) -> String {
    let (mut stream, _) = listener.accept().await.expect("a caller");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    stream
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\nearly ")
        .await
        .expect("written");
    let mut bytes = [0; 1024];
    loop {
        let count = stream.read(&mut bytes).await.expect("bytes");
        let said = bytes[..count].to_ascii_uppercase();
        stream.write_all(&said).await.expect("written");
        if count == 0 || said.ends_with(b"BYE") {
            return String::from_utf8(head).expect("text");
        }
    }
}

#[tokio::test]
async fn a_caller_is_connected_with_the_runtime_and_both_end_together() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/exec/token", listener.local_addr().expect("an address"));
    let runtime = tokio::task::JoinSet::from_iter([streaming_server(listener)]);
    let tasks = Tasks::new();
    let group = tasks.clone();
    let router = Router::new().fallback(move |request: axum::extract::Request| {
        let (url, group) = (url.clone(), group.clone());
        async move { super::relay::relay(&url, request, &group).await }
    });
    let front = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = front.local_addr().expect("an address");
    tasks.spawn("front", async move {
        axum::serve(front, router).await.expect("served");
    });

    let mut caller = TcpStream::connect(address).await.expect("connected");
    caller
        .write_all(b"POST /exec/default/web/main?output=1 HTTP/1.1\r\nHost: edge\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Stream-Protocol-Version: v5.channel.k8s.io\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\nfirst ")
        .await
        .expect("written");
    let mut said = String::new();
    let mut bytes = [0; 1024];
    while !said.contains("FIRST ") {
        let count = caller.read(&mut bytes).await.expect("bytes");
        assert!(count > 0, "{said}");
        said.push_str(std::str::from_utf8(&bytes[..count]).expect("text"));
    }
    assert!(said.starts_with("HTTP/1.1 101 "), "{said}");
    assert!(
        said.contains("x-stream-protocol-version: v4.channel.k8s.io\r\n"),
        "{said}"
    );
    assert!(said.ends_with("\r\n\r\nearly FIRST "), "{said}");
    caller.write_all(b"bye").await.expect("written");
    let mut rest = String::new();
    caller.read_to_string(&mut rest).await.expect("the end");
    assert_eq!(rest, "BYE");
    let head = runtime.join_all().await.concat();
    assert!(head.starts_with("POST /exec/token HTTP/1.1\r\n"), "{head}");
    assert_eq!(head.matches("x-stream-protocol-version: ").count(), 2, "{head}");
    assert!(head.contains("connection: Upgrade\r\n"), "{head}");
}
