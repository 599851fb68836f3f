//! Every request of the captured hand-made edge, answered by ours while the API server says what it said to Go.

use std::net::IpAddr;
use std::time::Duration;

use common::Tasks;
use proto::golden::{Capture, Differences, Exchange, Replay};
use proto::{Answer, Content, Features, Group, Message, NodeName, Operation, Source};
use serde_json::{Value, json};

use super::desk::Desk;
use super::reply::Peer;
use crate::addresses::Addresses;
use crate::informers::Informers;
use crate::kubernetes::fake::FakeApi;

struct World {
    api: FakeApi,
    desk: Desk,
    tasks: Tasks,
}

async fn world() -> World {
    let (api, tasks) = (FakeApi::default(), Tasks::new());
    let (informers, _changes) = Informers::start(api.kube(), &tasks);
    informers.synced().await;
    World {
        desk: Desk {
            kube: api.kube(),
            informers,
            own: Addresses::from(IpAddr::from([192, 0, 2, 2])).fixed(),
            authorization: true,
        },
        api,
        tasks,
    }
}

impl World {
    async fn ask(&self, peer: Peer, operation: Operation, resource: &str, content: Content) -> Vec<Message> {
        let route = proto::Route::parse(&Group::Meta, resource);
        let request = Message::new(Source::Edged, Group::Meta, operation, route, content);
        self.desk.handle(peer, &NodeName::from("sim-1"), &request).await
    }

    async fn end(self) {
        self.tasks.stop(Duration::from_secs(1)).await;
    }
}

/// What the API server said while Go answered so; `None` where the object did not exist.
fn said(exchange: &Exchange) -> Option<(u16, Value)> {
    let content = &exchange.answer["content"];
    let is_query = exchange.request["route"]["operation"] == "query";
    if !content["Err"]["ErrStatus"].is_null() {
        let status = content["Err"]["ErrStatus"].clone();
        let code = u16::try_from(status["code"].as_u64()?).ok()?;
        return (!is_query).then_some((code, status));
    }
    if !content["ErrStatus"].is_null() {
        return None;
    }
    let mut object = if content["Object"].is_object() {
        content["Object"].clone()
    } else {
        content.clone()
    };
    if !object.is_object() {
        // A bare "OK" hides what was written.
        let version = exchange.answer["header"]["resourceversion"].as_str().unwrap_or("1");
        let uid = exchange.request["content"]
            .get("UID")
            .and_then(Value::as_str)
            .unwrap_or("u");
        object = json!({"metadata": {"name": "x", "uid": uid, "resourceVersion": version}});
    }
    object["kind"] = object.get("kind").cloned().unwrap_or_else(|| "X".into());
    object["apiVersion"] = object.get("apiVersion").cloned().unwrap_or_else(|| "v1".into());
    Some((200, object))
}

/// Who answered in Go.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    /// This controller.
    Desk,
    /// The socket, by itself: operations that no module of an edge uses (spec 01 §2).
    Socket,
    /// Played over a whole session by `crate::golden`.
    Session,
    /// Behind the edge API on 127.0.0.1:10550, which ours does not have yet.
    EdgeApi,
}

fn answered_by(exchange: &Exchange) -> Part {
    match exchange.answer["route"]["source"].as_str() {
        _ if matches!(exchange.request["route"]["operation"].as_str(), Some("ping" | "config")) => Part::Socket,
        Some("edgecontroller") => Part::Desk,
        Some("dynamiccontroller") => Part::EdgeApi,
        source if crate::golden::ANSWERING.contains(&source.unwrap_or_default()) => Part::Session,
        source => panic!("{source:?} answers {}", exchange.request),
    }
}

#[tokio::test]
async fn answers_are_those_of_go() {
    let mut world = world().await;
    // The API server's words that are played back leave out where pods run.
    world.desk.authorization = false;
    let allowed = Differences::committed(Replay::Answers);
    let none = Differences::parse("").expect("an empty list");
    for (capture, node, count) in [
        (Capture::Hub, "edge-go", 60),
        (Capture::HubSim, "sim-1", 40),
        (Capture::HubAck, "sim-2", 6),
    ] {
        let mut answered = 0;
        for exchange in capture.exchanges() {
            let what = format!(
                "{} {}: {} {}",
                capture.name(),
                exchange.note,
                exchange.request["route"]["operation"],
                exchange.request["route"]["resource"]
            );
            match answered_by(&exchange) {
                Part::Desk => answered += 1,
                Part::Socket | Part::EdgeApi => {
                    let answers = world
                        .desk
                        .handle(Peer::Go, &NodeName::from(node), &exchange.again().0)
                        .await;
                    assert!(
                        answers.is_empty() && allowed.unsent(capture, &exchange.answer),
                        "{what}"
                    );
                    continue;
                }
                Part::Session => continue,
            }
            // Our own edge gets Go's forms to the letter; Go edges get other forms of bare errors.
            for (peer, differences) in [(Peer::Ours(Features::OURS), &none), (Peer::Go, &allowed)] {
                world.api.force(said(&exchange));
                let (request, golden) = exchange.again();
                let messages = world.desk.handle(peer, &NodeName::from(node), &request).await;
                let ours = messages.last().unwrap_or_else(|| panic!("{what}: no answer"));
                let ours: Value = serde_json::from_str(&ours.encode()).expect("a message is JSON");
                let found = differences.compare(capture, &golden, &ours);
                assert!(found.is_empty(), "{what} ({peer:?}): {found:?}");
            }
        }
        assert!(answered >= count, "{}: {answered}", capture.name());
    }
    assert_eq!(allowed.unused(), [""; 0]);
    world.end().await;
}

#[tokio::test]
async fn what_go_leaves_unanswered_stays_so() {
    let world = world().await;
    for (operation, resource) in [
        (Operation::Query, "sim-ns/podlist"),
        (Operation::Query, "default/service/kubernetes"),
        (Operation::from("frobnicate"), "sim-ns/configmap/cm-1"),
        (Operation::Query, "sim-ns/frob/x"),
        (Operation::Query, "frob"),
        (Operation::Insert, "sim-ns/event/e"),
        (Operation::Update, "default/nodestatus/sim-1"),
    ] {
        assert!(
            world
                .ask(Peer::Go, operation, resource, Content::text("x"))
                .await
                .is_empty(),
            "{resource}"
        );
    }
    world.end().await;
}

#[tokio::test]
async fn events_are_answered_to_those_who_wait_for_it() {
    let world = world().await;
    let event = json!({"metadata": {"name": "e", "namespace": "sim-ns"}, "reason": "Started"});
    world.api.put("/api/v1/namespaces/sim-ns/events/e", event.clone());
    let event = || Content::json(&event);
    let ask = |peer, content| world.ask(peer, Operation::Update, "sim-ns/event/e", content);
    let older = Features {
        events: 0,
        ..Features::OURS
    };
    assert!(ask(Peer::Go, event()).await.is_empty());
    assert!(ask(Peer::Ours(older), event()).await.is_empty());
    let answers = ask(Peer::Ours(Features::OURS), event()).await;
    let [answer] = answers.as_slice() else {
        panic!("{answers:?}")
    };
    assert!(matches!(answer.content.answer(), Answer::Ok), "{answer:?}");
    let answers = ask(Peer::Ours(Features::OURS), Content::text("x")).await;
    let [answer] = answers.as_slice() else {
        panic!("{answers:?}")
    };
    assert!(
        matches!(answer.content.answer(), Answer::Failed(status) if status.code == 400),
        "{answer:?}"
    );
    world.end().await;
}

#[tokio::test]
async fn a_node_never_stays_without_its_role() {
    let world = world().await;
    let node = Content::json(
        &json!({"metadata": {"name": "sim-1", "labels": {"node-role.kubernetes.io/edge": "", "x": "1"}}}),
    );
    let insert = async |name: &str| {
        let path = format!("null/node/{name}");
        let answers = world.ask(Peer::Go, Operation::Insert, &path, node.clone()).await;
        answers[0].content.get().to_owned()
    };
    let labels = |name: &str| {
        let stored = world.api.get(&format!("/api/v1/nodes/{name}")).expect("node");
        stored["metadata"]["labels"].clone()
    };
    let all = json!({"node-role.kubernetes.io/edge": "", "x": "1"});
    // In one step: not even for a moment without it.
    world.api.refuse("PATCH /api/v1/nodes/sim-1", 500, "InternalError");
    let answer = insert("sim-1").await;
    assert!(answer.ends_with(r#""Err":null}"#), "{answer}");
    assert_eq!(labels("sim-1"), all);
    let stored = world.api.get("/api/v1/nodes/sim-1").expect("node");
    assert_eq!(stored["metadata"]["annotations"]["cloudcore"], "192.0.2.2");
    // A cloudcore in Go left one without.
    world.api.put(
        "/api/v1/nodes/other",
        json!({"metadata": {"name": "other", "labels": {"x": "1"}}}),
    );
    world.api.refuse("PATCH /api/v1/nodes/other", 403, "Forbidden");
    let answer = insert("other").await;
    assert!(answer.contains(r#""reason":"Forbidden""#), "{answer}");
    // Kubelet tries again, and is told that the Node exists: by then it has its labels.
    world.api.refuse("PATCH /api/v1/nodes/other", 500, "InternalError");
    world.api.refuse("PATCH /api/v1/nodes/other", 409, "Conflict");
    let answer = insert("other").await;
    assert!(answer.contains(r#""reason":"AlreadyExists""#), "{answer}");
    assert_eq!(labels("other"), all);
    world.end().await;
}

#[tokio::test]
async fn deletions_of_another_pod_succeed_and_failures_are_told() {
    let world = world().await;
    let path = "/api/v1/namespaces/ns/pods/p";
    world.api.put(
        path,
        json!({"metadata": {"name": "p", "namespace": "ns", "uid": "new"}}),
    );
    let delete = |uid: &str| Content::json(&json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}));
    let answers = world.ask(Peer::Go, Operation::Delete, "ns/pod/p", delete("old")).await;
    assert_eq!(answers[0].content.get(), "\"OK\"");
    assert!(world.api.get(path).is_some());
    world.api.refuse(&format!("DELETE {path}"), 403, "Forbidden");
    let answers = world.ask(Peer::Go, Operation::Delete, "ns/pod/p", delete("new")).await;
    assert!(answers[0].content.get().starts_with(r#"{"ErrStatus":"#));
    let answers = world.ask(Peer::Go, Operation::Delete, "ns/pod/p", delete("new")).await;
    assert_eq!(answers[0].content.get(), "\"OK\"");
    assert!(world.api.get(path).is_none());
    world.end().await;
}

#[tokio::test]
async fn what_only_the_content_tells_is_held_to_the_node() {
    let world = world().await;
    let pod = |node: &str| json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"nodeName": node}, "status": {"phase": "Pending"}});
    let path = "/api/v1/namespaces/ns/pods/p";
    let report = Content::json(&json!([{"UID": "u", "Name": "p", "Status": {"phase": "Running"}}]));
    world.api.put(path, pod("another"));
    let answers = world
        .ask(Peer::Go, Operation::Update, "ns/podstatus", report.clone())
        .await;
    assert!(
        answers[0].content.get().contains("not bound to this node"),
        "{}",
        answers[0].content.get()
    );
    assert_eq!(world.api.get(path).expect("pod")["status"]["phase"], "Pending");
    world.api.put(path, pod("sim-1"));
    let answers = world.ask(Peer::Go, Operation::Update, "ns/podstatus", report).await;
    assert_eq!(answers[0].content.get(), "\"OK\"");

    let path = "/api/v1/nodes/sim-1";
    let role = "node-role.kubernetes.io/gateway";
    world
        .api
        .put(path, json!({"metadata": {"name": "sim-1", "labels": {role: ""}}}));
    let labels = |labels: Value| Content::json(&json!({"metadata": {"labels": labels}}));
    let update = async |content: Content| world.ask(Peer::Go, Operation::Update, "null/node/sim-1", content).await;
    assert_eq!(update(labels(json!({role: "", "example.com/a": "b"}))).await.len(), 1);
    assert_eq!(update(labels(json!({role: "x"}))).await.len(), 0);
    assert_eq!(update(labels(json!({"$patch": "replace"}))).await.len(), 0);
    assert_eq!(
        update(labels(json!({"node-restriction.kubernetes.io/a": ""})))
            .await
            .len(),
        0
    );
    world.end().await;
}

#[tokio::test]
async fn an_inventory_is_not_answered_before_the_node_is_known() {
    tokio::time::timeout(Duration::from_secs(60), async {
        let world = world().await;
        tokio::time::pause();
        let empty = Content::json(&proto::inventory::Digest::default());
        let answers = world
            .ask(Peer::Ours(Features::OURS), Operation::Query, "inventory/sync", empty)
            .await;
        assert!(
            answers[0].content.get().contains("ServiceUnavailable"),
            "{}",
            answers[0].content.get()
        );
        world.end().await;
    })
    .await
    .expect("in time");
}

#[tokio::test]
async fn devices_take_part_in_the_inventory_once_they_are_known() {
    let world = world().await;
    let node = json!({"metadata": {"name": "sim-1", "labels": {"node-role.kubernetes.io/edge": ""}}});
    world.api.put("/api/v1/nodes/sim-1", node);
    let object = |name: &str, spec: Value| json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec});
    let base = "/apis/devices.kubeedge.io/v1beta1/namespaces/ns";
    world.api.put(&format!("{base}/devicemodels/m"), object("m", json!({})));
    let spec = json!({"nodeName": "sim-1", "deviceModelRef": {"name": "m"}});
    world.api.put(&format!("{base}/devices/d"), object("d", spec));
    let listing = Content::json(&json!({"items": [["ns/device/gone", "u", "1"]]}));
    let told = |messages: Vec<Message>| -> Vec<String> {
        let line = |message: &Message| format!("{} {} {}", message.source, message.operation, message.route);
        let lines = messages.iter().map(line);
        lines.filter(|line| line.starts_with("devicecontroller")).collect()
    };
    let ask = || {
        world.ask(
            Peer::Ours(Features::OURS),
            Operation::Update,
            "inventory/sync",
            listing.clone(),
        )
    };
    assert_eq!(told(ask().await), [""; 0], "absent knowledge removes nothing");
    let mut changes = world.desk.informers.devices().start(&world.api.kube(), &world.tasks);
    while changes.recv().await.expect("changes") != crate::informers::devices::DeviceChange::Ready {}
    let node = NodeName::from("sim-1");
    let known = crate::edgecontroller::inventory::devices_known(&world.desk.informers, &node);
    let known = known.await.expect("devices");
    assert_eq!(
        told(known),
        [
            "devicecontroller delete ns/device/gone",
            "devicecontroller insert ns/devicemodel/m",
            "devicecontroller insert ns/device/d",
        ],
        "who was compared before is told when they are known"
    );
    assert_eq!(
        told(ask().await),
        [
            "devicecontroller delete ns/device/gone",
            "devicecontroller insert ns/devicemodel/m",
            "devicecontroller insert ns/device/d",
        ]
    );
    world.end().await;
}
