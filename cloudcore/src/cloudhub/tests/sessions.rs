use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use proto::{Content, Features, Group, Kind, Message, Namespace, NodeName, ObjectPath, Operation, Route, Source};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message as WsMessage;

use super::edge::{Dialled, Edge, NodeIdentity, tls};
use super::fakes::{Way, World};
use crate::cloudhub::servers::websocket::HANDSHAKES;
use crate::cloudhub::{Revoked, SessionEvent, Upstream};

const SOON: Duration = Duration::from_secs(10);

/// The same tests for both transports.
macro_rules! battery {
    ($($test:ident),* $(,)?) => {
        mod over_websocket {
            $(#[tokio::test] async fn $test() { super::$test(super::Way::WebSocket).await; })*
        }
        mod over_quic {
            $(#[tokio::test] async fn $test() { super::$test(super::Way::Quic).await; })*
        }
    };
}

battery! {
    refusals_come_before_the_session,
    a_revoked_node_is_out_at_once_and_back_with_a_new_certificate,
    nobody_is_let_in_before_it_is_known_who_is_revoked,
    certificates_without_a_nodes_name,
    who_has_no_certificate_of_the_ca_gets_nothing,
    delivers_and_records_the_acknowledgement,
    features_are_agreed_on_and_an_inventory_needs_no_records,
    the_second_connection_ends_the_first_and_lives,
    messages_go_where_they_belong,
    what_is_no_message_ends_the_session,
    large_messages_pass_both_ways_and_too_large_ones_end_the_session,
    only_keepalives_keep_a_session_alive,
    an_edge_that_reads_nothing_is_cut_off,
}

async fn dial(world: &World, node: &str, headers: &[(&'static str, &str)]) -> Dialled {
    let identity = NodeIdentity::of_node(world.identity.authority(), node);
    world.dial(Some(&identity), headers).await
}

/// An edge as Go's connects, with the header repeated as on a third try.
async fn connect(world: &World, node: &str) -> Edge {
    let mut events = world.hub.sessions();
    let headers = [
        ("node_id", node),
        ("project_id", "p"),
        ("ConnectionUse", "msg"),
        ("ConnectionUse", "msg"),
    ];
    let edge = dial(world, node, &headers).await.expect("connected");
    let event = timeout(SOON, events.recv()).await.expect("in time").expect("event");
    assert!(matches!(event, SessionEvent::Connected { node: connected, .. } if connected.as_str() == node));
    edge
}

fn pod(version: &str) -> Message {
    let json = format!(
        r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"p","namespace":"default","uid":"u1","resourceVersion":"{version}"}}}}"#
    );
    let route = ObjectPath::new("default", Kind::Pod, "p");
    let content = Content::from_json_text(json).unwrap();
    let mut message = Message::new(
        Source::EdgeController,
        Group::Resource,
        Operation::Insert,
        route,
        content,
    );
    message.version = version.into();
    message
}

fn request(operation: Operation, resource: &str) -> Message {
    Message::new(
        Source::Edged,
        Group::Meta,
        operation,
        Route::parse(&Group::Meta, resource),
        Content::null(),
    )
}

async fn next(edge: &mut Edge) -> Message {
    timeout(SOON, edge.receive())
        .await
        .expect("in time")
        .expect("a message")
}

async fn ended(edge: &mut Edge) -> bool {
    timeout(SOON, async { while edge.receive().await.is_some() {} })
        .await
        .is_ok()
}

async fn upstream(world: &mut World) -> Upstream {
    timeout(SOON, world.upstream.recv())
        .await
        .expect("in time")
        .expect("a message")
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waited = timeout(SOON, async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

async fn refusals_come_before_the_session(way: Way) {
    let world = World::over(way, |settings| settings.node_limit = 1).await;
    for (headers, status) in [
        (&[("node_id", "edge-1")][..], 400),
        (&[("node_id", "edge-1"), ("ConnectionUse", "str")], 400),
        (&[("ConnectionUse", "msg")], 400),
        (&[("node_id", "edge-2"), ("ConnectionUse", "msg")], 403),
        (
            &[
                ("node_id", "edge-1"),
                ("ConnectionUse", "msg"),
                ("Origin", "https://elsewhere"),
            ],
            403,
        ),
    ] {
        assert_eq!(
            dial(&world, "edge-1", headers).await.err().map(|(code, _)| code),
            Some(status),
            "{headers:?}"
        );
    }
    assert_eq!(world.hub.connected_count(), 0);
    let _one = connect(&world, "edge-1").await;
    let refused = dial(&world, "edge-2", &[("node_id", "edge-2"), ("ConnectionUse", "msg")])
        .await
        .err();
    assert_eq!(refused.map(|(code, _)| code), Some(503));
    let _again = connect(&world, "edge-1").await;
    assert_eq!(world.hub.connected_count(), 1);
}

async fn a_revoked_node_is_out_at_once_and_back_with_a_new_certificate(way: Way) {
    let world = World::over(way, |_| {}).await;
    let authority = world.identity.authority();
    let now = crate::cloudhub::identity::unix_now();
    let name = proto::join::CertificateName::of_node(&"edge-1".into());
    let hour = Duration::from_secs(3600);
    let old = NodeIdentity::issue(authority, &name, "edge-1", now - hour, "[2]");
    let headers = [("node_id", "edge-1"), ("ConnectionUse", "msg")];
    let dial = async |identity: &NodeIdentity| world.dial(Some(identity), &headers).await.map_err(|(code, _)| code);
    let mut edge = dial(&old).await.expect("connected");
    let list = |text: &str| Revoked::new([("edge-1".to_owned(), text.to_owned())].into());
    let minute_ago = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(60);
    world.hub.revoke(list(&minute_ago.to_string()));
    assert!(ended(&mut edge).await);
    assert_eq!(dial(&old).await.err(), Some(403));
    let new = NodeIdentity::of_node(authority, "edge-1");
    let mut edge = dial(&new).await.expect("connected with a new certificate");
    world.hub.revoke(list("stolen"));
    assert!(ended(&mut edge).await);
    assert_eq!(dial(&new).await.err(), Some(403));
    world.hub.revoke(Revoked::default());
    assert!(dial(&new).await.is_ok());
}

async fn nobody_is_let_in_before_it_is_known_who_is_revoked(way: Way) {
    let world = World::unlisted(way, |_| {}).await;
    let authority = world.identity.authority();
    let (good, stolen) = ("edge-1", "edge-2");
    let identities = [good, stolen].map(|node| NodeIdentity::of_node(authority, node));
    let headers = [good, stolen].map(|node| [("node_id", node), ("ConnectionUse", "msg")]);
    let dials = [0, 1].map(|index| world.dial(Some(&identities[index]), &headers[index]));
    let [first, second] = dials;
    tokio::pin!(first);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), &mut first)
            .await
            .is_err()
    );
    assert_eq!(world.hub.connected_count(), 0);
    assert!(!*world.hub.revocations().borrow());
    world
        .hub
        .revoke(Revoked::new([(stolen.to_owned(), "lost".to_owned())].into()));
    assert!(first.await.is_ok());
    assert_eq!(second.await.err().map(|(code, _)| code), Some(403));
}

async fn certificates_without_a_nodes_name(way: Way) {
    for (legacy, expected) in [(true, None), (false, Some(403))] {
        let world = World::over(way, |settings| settings.legacy_certificates = legacy).await;
        let identity = NodeIdentity::legacy(world.identity.authority(), "kubeEdge");
        let headers = [("node_id", "old"), ("ConnectionUse", "msg")];
        let dialled = world.dial(Some(&identity), &headers).await;
        assert_eq!(dialled.err().map(|(code, _)| code), expected);
    }
}

#[tokio::test]
async fn without_a_certificate_there_is_no_tls() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let world = World::start(|_| {}).await;
    let address = world.hub.websocket_address();
    let foreign = proto::join::Authority::generate(crate::cloudhub::identity::unix_now()).unwrap();
    let foreign = NodeIdentity::of_node(&foreign, "edge-1");
    for identity in [None, Some(&foreign)] {
        let mut read = Vec::new();
        // TLS 1.3 tells the client with its first read.
        let outcome = async {
            let mut stream = tls(address, world.identity.ca(), identity).await?;
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
            stream.read_to_end(&mut read).await
        };
        assert!(outcome.await.is_err() && read.is_empty());
    }
    let own = NodeIdentity::of_node(world.identity.authority(), "edge-1");
    let mut stream = tls(address, world.identity.ca(), Some(&own)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(
        answer.starts_with(b"HTTP/1.1 400 Bad Request"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

async fn delivers_and_records_the_acknowledgement(way: Way) {
    let world = World::over(way, |_| {}).await;
    let node = NodeName::from("edge-1");
    let mut edge = connect(&world, "edge-1").await;
    world.hub.send(&node, pod("7")).await;
    assert_eq!(world.fake.record("edge-1", "u1").as_deref(), Some("0"));
    let received = next(&mut edge).await;
    assert_eq!(received.version, "7");
    edge.send(&Message::ack_of(&received)).await;
    eventually("recorded", || world.fake.record("edge-1", "u1").as_deref() == Some("7")).await;
    // What the node has is not sent again.
    world.hub.send(&node, pod("7")).await;
    world.hub.send(&node, pod("8")).await;
    assert_eq!(next(&mut edge).await.version, "8");
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &world.registry).unwrap();
    assert!(text.contains("\nKubeEdge_CloudHub_connected_nodes 1\n"), "{text}");
    assert!(
        text.contains("cloudcore_hub_messages_acked_total{class=\"state\"} 1"),
        "{text}"
    );
    let age = |class: &str| -> f64 {
        let start = format!("cloudcore_hub_messages_oldest_age_seconds{{class=\"{class}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&start));
        value.expect("an age").parse().expect("a number")
    };
    assert!(
        age("state") > 0.0 && age("answer") <= 0.0 && age("notice") <= 0.0,
        "{text}"
    );
}

#[tokio::test]
async fn a_node_that_is_away_has_a_record_and_nothing_else() {
    let world = World::start(|_| {}).await;
    world.hub.send(&"away".into(), pod("7")).await;
    assert_eq!(world.fake.record("away", "u1").as_deref(), Some("0"));
}

async fn features_are_agreed_on_and_an_inventory_needs_no_records(way: Way) {
    let world = World::over(way, |_| {}).await;
    let headers = [
        ("node_id", "edge-1"),
        ("ConnectionUse", "msg"),
        (proto::FEATURES_HEADER, "inventory/7,else/1"),
    ];
    let mut edge = dial(&world, "edge-1", &headers).await.expect("connected");
    assert_eq!(edge.features, "inventory/1");
    let node = NodeName::from("edge-1");
    let inventory = Features {
        inventory: 1,
        ..Features::default()
    };
    assert_eq!(world.hub.features(&node), Some(inventory));
    world.hub.send(&node, pod("7")).await;
    let received = next(&mut edge).await;
    edge.send(&Message::ack_of(&received)).await;
    edge.send(&request(Operation::Query, "k8s/ca.crt")).await;
    next(&mut edge).await;
    assert_eq!(world.fake.record("edge-1", "u1"), None);
    drop(edge);
    eventually("gone", || !world.hub.is_connected(&node)).await;
    world.hub.send(&node, pod("9")).await;
    assert_eq!(world.fake.record("edge-1", "u1"), None);
}

async fn the_second_connection_ends_the_first_and_lives(way: Way) {
    let world = World::over(way, |_| {}).await;
    let mut current = connect(&world, "edge-1").await;
    for _ in 0..20 {
        let next = connect(&world, "edge-1").await;
        assert!(ended(&mut current).await);
        current = next;
    }
    current.send(&request(Operation::Query, "k8s/ca.crt")).await;
    assert_eq!(
        next(&mut current).await.content.as_text().as_deref(),
        Some("the cluster's CA")
    );
    assert_eq!(world.hub.connected_count(), 1);
    world.hub.disconnect(&"edge-1".into());
    assert!(ended(&mut current).await);
    eventually("gone", || world.hub.connected_count() == 0).await;
}

async fn messages_go_where_they_belong(way: Way) {
    let mut world = World::over(way, |_| {}).await;
    world.fake.pods.lock().insert("default/other".into(), "edge-2".into());
    let mut edge = connect(&world, "edge-1").await;
    // Refused ones are answered in the form that the request expects.
    for (operation, resource, answered) in [
        (Operation::Patch, "default/podpatch/other", Some("Err")),
        (Operation::Insert, "null/node/edge-2", Some("Err")),
        (Operation::Delete, "default/pod/other", Some("ErrStatus")),
        (Operation::Query, "default/secret/hidden", Some("by node edge-1")),
    ] {
        let message = request(operation, resource);
        edge.send(&message).await;
        let answer = next(&mut edge).await;
        assert_eq!(answer.parent.as_ref(), Some(&message.id), "{resource}");
        assert!(
            answer.content.get().contains(answered.unwrap()),
            "{resource}: {}",
            answer.content.get()
        );
        assert!(
            answer.content.get().contains("403") || answer.operation == Operation::Error,
            "{resource}"
        );
    }
    // What the cloud's own modules say comes from no edge.
    let mut disguised = request(Operation::Update, "default/configmap/allowed");
    disguised.source = Source::EdgeController;
    edge.send(&disguised).await;
    for (operation, resource) in [
        (Operation::Query, "default/secret/allowed"),
        (Operation::Insert, "null/node/edge-1"),
        (Operation::Patch, "default/podpatch/mine"),
        (Operation::Update, "kube-node-lease/lease/edge-1"),
        (
            Operation::UpdateNodeActionStatus,
            "operations.kubeedge.io/v1alpha2/nodeupgradejob/j/node/edge-1",
        ),
    ] {
        let mut message = request(operation.clone(), resource);
        if operation == Operation::Patch {
            message.content = Content::from_json_text(r#"{"status":{}}"#.into()).unwrap();
        }
        edge.send(&message).await;
        let Upstream { node, message } = upstream(&mut world).await;
        assert_eq!(
            (node.as_str(), message.operation, message.route.render().as_str()),
            ("edge-1", operation, resource)
        );
    }
    assert_eq!(world.fake.reviews.lock().len(), 3, "{:?}", world.fake.reviews.lock());
}

#[tokio::test]
async fn odd_frames() {
    let mut world = World::start(|_| {}).await;
    let mut edge = connect(&world, "edge-1").await;
    let text = r#"{"header":{"msg_id":"x","timestamp":1,"new":{}},"route":{"operation":"query","resource":"default/secret/allowed"},"more":1} trailing"#;
    edge.raw()
        .send(WsMessage::Binary(text.as_bytes().to_vec().into()))
        .await
        .unwrap();
    assert_eq!(upstream(&mut world).await.message.id.as_str(), "x");
    edge.raw().send(WsMessage::Ping("hello".into())).await.unwrap();
    assert!(matches!(edge.raw().next().await, Some(Ok(WsMessage::Pong(payload))) if &payload[..] == b"hello"));
}

async fn what_is_no_message_ends_the_session(way: Way) {
    let world = World::over(way, |_| {}).await;
    let mut edge = connect(&world, "edge-1").await;
    edge.send_text(r#"{"header":{"msg_id":"x","timestamp":"1"}}"#).await;
    assert!(ended(&mut edge).await);
}

async fn who_has_no_certificate_of_the_ca_gets_nothing(way: Way) {
    let world = World::over(way, |_| {}).await;
    let foreign = proto::join::Authority::generate(crate::cloudhub::identity::unix_now()).unwrap();
    let foreign = NodeIdentity::of_node(&foreign, "edge-1");
    let headers = [("node_id", "edge-1"), ("ConnectionUse", "msg")];
    for identity in [None, Some(&foreign)] {
        let refused = world.dial(identity, &headers).await.err();
        assert_eq!(refused.map(|(code, _)| code), Some(0));
    }
    assert_eq!(world.hub.connected_count(), 0);
}

/// Urgent messages go between the pieces of a large one, and all of it arrives.
#[tokio::test]
async fn pieces_over_websocket() {
    use common::line::websocket::{Counted, WebSocketLine, config};
    use common::line::{Line as _, Received};
    let (one, other) = tokio::io::duplex(8192);
    let socket = async |stream, role| {
        tokio_tungstenite::WebSocketStream::from_raw_socket(Counted::new(stream), role, Some(config())).await
    };
    use tokio_tungstenite::tungstenite::protocol::Role;
    let mut sender = WebSocketLine::new(socket(one, Role::Client).await, true);
    let mut receiver = WebSocketLine::new(socket(other, Role::Server).await, true);
    let large = format!("\"{}\"", "x".repeat(100_000));
    let (mut bulk, mut asked, mut got) = (Some(large.clone()), 0, Vec::new());
    while got.len() < 4 {
        let mut next = |lane| match lane {
            proto::Lane::Bulk => bulk.take(),
            proto::Lane::Urgent => {
                asked += 1;
                (asked % 3 == 2 && asked < 10).then(|| format!("\"{asked}\""))
            }
        };
        let received = std::future::poll_fn(|context| {
            // The receiver's pongs let the sender go on.
            while sender.poll_read(context).is_ready() {}
            sender.poll_write(context, &mut next).expect("written");
            receiver.poll_read(context)
        });
        if let Received::Message(bytes) = received.await.expect("read") {
            got.push(String::from_utf8(bytes).expect("text"));
        }
    }
    assert_eq!(got, ["\"2\"", "\"5\"", "\"8\"", large.as_str()]);
}

#[tokio::test]
async fn a_session_over_quic_goes_on_from_another_port() {
    let world = World::over(Way::Quic, |_| {}).await;
    let mut events = world.hub.sessions();
    let mut edge = connect(&world, "edge-1").await;
    for round in 0..5 {
        edge.path().expect("QUIC").rebind().expect("another socket");
        let question = request(Operation::Query, "k8s/ca.crt");
        edge.send(&question).await;
        assert_eq!(next(&mut edge).await.parent, Some(question.id), "{round}");
    }
    assert!(matches!(events.try_recv(), Ok(SessionEvent::Connected { .. })));
    assert!(events.try_recv().is_err(), "the session is the first one");
}

async fn large_messages_pass_both_ways_and_too_large_ones_end_the_session(way: Way) {
    let mut world = World::over(way, |_| {}).await;
    let node = NodeName::from("edge-1");
    let mut edge = connect(&world, "edge-1").await;
    let mut other = connect(&world, "edge-2").await;
    let data = "ä".repeat(1_500_000);
    let json = format!(
        r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"c","namespace":"default","uid":"u","resourceVersion":"1"}},"data":{{"k":"{data}"}}}}"#
    );
    let mut message = pod("1");
    message.route = ObjectPath::new(Namespace::new("default"), Kind::ConfigMap, "c").into();
    message.content = Content::from_json_text(json.clone()).unwrap();
    world.hub.send(&node, message.clone()).await;
    assert_eq!(next(&mut edge).await.content.get(), json);
    message.source = Source::MetaServer;
    message.operation = Operation::Null;
    message.route = Route::WatchSync;
    edge.send(&message).await;
    assert_eq!(upstream(&mut world).await.message.content.get(), json);
    // The hub may close before all of it is written.
    edge.send_text(&"x".repeat(33 * 1024 * 1024)).await;
    assert!(ended(&mut edge).await);
    other.send(&request(Operation::Query, "k8s/ca.crt")).await;
    next(&mut other).await;
}

async fn only_keepalives_keep_a_session_alive(way: Way) {
    let world = World::over(way, |settings| settings.keepalive = Duration::from_secs(3)).await;
    let mut talking = connect(&world, "talking").await;
    let mut alive = connect(&world, "alive").await;
    // Longer than the interval, and each keepalive has fifteen times the time that it takes.
    for _ in 0..20 {
        talking
            .send_text(&request(Operation::Query, "k8s/ca.crt").encode())
            .await;
        alive.send(&Message::keepalive()).await;
        // Real time: the sockets are real.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(ended(&mut talking).await);
    assert_eq!(world.hub.connected(), ["alive".into()]);
}

async fn an_edge_that_reads_nothing_is_cut_off(way: Way) {
    let world = World::over(way, |settings| settings.write_timeout = Duration::from_millis(500)).await;
    let node = NodeName::from("deaf");
    let _edge = connect(&world, "deaf").await;
    for number in 0..40 {
        let mut message = pod("1");
        message.route = Route::Membership;
        message.content = Content::text(&"x".repeat(1_000_000));
        message.timestamp = number;
        world.hub.send(&node, message).await;
    }
    eventually("cut off", || !world.hub.is_connected(&node)).await;
}

#[tokio::test]
async fn silent_connections_give_way_to_an_edge() {
    let world = World::start(|_| {}).await;
    let mut silent = Vec::new();
    for _ in 0..HANDSHAKES {
        let connecting = TcpStream::connect(world.hub.websocket_address());
        silent.push(connecting.await.expect("connected"));
    }
    let _edge = connect(&world, "edge-1").await;
    eventually("the oldest gave way", || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &world.registry).unwrap();
        text.contains("cloudcore_hub_connections_refused_total{reason=\"displaced\"} 1")
    })
    .await;
}
