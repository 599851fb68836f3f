//! The captured sessions of hand-made edges, played again: the cluster changes as it did then, the whole of cloudcore answers over real
//! sockets, and what it sends is held against what Go sent, message by message, as are the ObjectSyncs it leaves.
//!
//! Compared is the order of the messages about one object. Their order among each other is not: Go lets a message that nobody
//! acknowledges hold up the others, ours does not (spec 01 §5). How often and how long a message is repeated is tested with virtual time
//! in `cloudhub::outbox`. Of devices, also what the edge reports is played, and the DeviceStatus after it compared.

mod play;

use std::time::Duration;

use proto::golden::{Capture, Differences};
use proto::{Content, Group, Kind, Message, ObjectPath, Operation, Route, Source};
use serde_json::{Value, json};
use tokio::time::timeout;

use play::{Play, SOON, api_path, device_statuses, reports};

#[tokio::test]
async fn acknowledgements_deletions_and_connections_are_as_captured() {
    let mut play = Play::start(Capture::HubAck, "sim-2").await;
    let (pods, cm, node) = ("sim-ns2/pod/", "sim-ns2/configmap/cm-1", "null/node/sim-2");
    let pod = |name: &str| format!("{pods}{name}");
    play.happens(node);
    let mut edge = play.connect().await;
    play.hears_of(&mut edge, &[node]).await;
    play.change(&mut edge, node).await;
    // The ConfigMap is older than its first message.
    let mut first = play.next(cm).clone();
    first["content"]["metadata"]["resourceVersion"] = "4404".into();
    first["content"]["data"] = Value::Null;
    play.apply(&first);
    play.knows(&ObjectPath::new("sim-ns2", Kind::ConfigMap, "cm-1")).await;

    play.change(&mut edge, &pod("p-1")).await;
    play.records("pod p-1 sent and acked").await;
    play.change(&mut edge, cm).await;
    play.records("configmap cm-1 sent and acked").await;

    // p-2 is not acknowledged while others wait.
    for resource in [&pod("p-2"), cm, &pod("p-3")] {
        play.happens(resource);
    }
    let late = play.receives(&mut edge, &pod("p-2")).await;
    let waiting = [
        play.receives(&mut edge, cm).await,
        play.receives(&mut edge, &pod("p-3")).await,
    ];
    play.records("pod p-2 sent, never acked; configmap changed, p-3 created")
        .await;
    for message in &waiting {
        edge.send(&Message::ack_of(message)).await;
    }
    play.records("after p-2 was given up for the first time").await;
    edge.send(&Message::ack_of(&late)).await;
    play.records("p-2 acked").await;

    for name in ["p-1", "p-2", "p-3"] {
        play.change(&mut edge, &pod(name)).await;
    }
    // The edge confirms the end of p-1.
    let route = Route::parse(&Group::Meta, &pod("p-1"));
    let options = Content::json(
        &serde_json::json!({"gracePeriodSeconds": 0, "preconditions": {"uid": play.next(&pod("p-1"))["content"]["metadata"]["uid"]}}),
    );
    let request = Message::new(Source::Edged, Group::Resource, Operation::Delete, route, options);
    edge.send(&request).await;
    play.hears_of(&mut edge, &[&pod("p-1")]).await;
    play.records("p-1 gone, delete acked").await;

    // The edge is away: pods are deleted by force, the ConfigMap changes.
    drop(edge);
    for resource in [&pod("p-2"), &pod("p-3"), cm] {
        play.happens(resource);
    }
    play.records("edge away: p-2, p-3 force-deleted, cm-1 changed").await;
    let mut edge = play.connect().await;
    play.hears_of(&mut edge, &[&pod("p-2"), &pod("p-3"), cm]).await;
    for _ in 0..3 {
        play.change(&mut edge, node).await;
    }
    play.records("edge back for 8 s").await;

    let mut third = play.connect().await;
    assert!(
        timeout(SOON, edge.receive())
            .await
            .expect("connection 2 ends")
            .is_none()
    );
    // No Pod names it any more: the record makes it known, within 5 s.
    play.change(&mut third, cm).await;
    play.api.remove("/api/v1/nodes/sim-2", None);
    assert!(
        timeout(SOON, third.receive())
            .await
            .expect("connection 7 ends")
            .is_none()
    );
    play.end().await;
}

/// The modules whose answers are played by [`other_answers_are_as_captured`]; those of the EdgeController are in its own tests.
pub(crate) const ANSWERING: [&str; 2] = ["devicecontroller", "cloudhub"];

#[tokio::test]
async fn other_answers_are_as_captured() {
    let none = Differences::parse("").expect("an empty list");
    let mut of = ANSWERING.map(|_| 0);
    let mut silent = Vec::new();
    for (capture, node) in [(Capture::Hub, "edge-go"), (Capture::HubSim, "sim-1")] {
        let mut play = Play::start(capture, node).await;
        for kind in ["devices", "devicemodels"] {
            play.api.put(
                &format!("/apis/devices.kubeedge.io/v1beta1/namespaces/default/{kind}/thermo-1"),
                json!({"metadata": {"name": "thermo-1", "namespace": "default", "uid": "u"},
                    "spec": {"nodeName": node, "deviceModelRef": {"name": "thermo-1"}}}),
            );
        }
        let mut edge = play.connect().await;
        for exchange in capture.exchanges() {
            if matches!(exchange.request["route"]["operation"].as_str(), Some("ping" | "config")) {
                let (request, _) = exchange.again();
                edge.send(&request).await;
                silent.push(request.id);
            }
            let source = exchange.answer["route"]["source"].as_str().unwrap_or_default();
            let Some(part) = ANSWERING.iter().position(|name| *name == source) else {
                continue;
            };
            let (request, mut golden) = exchange.again();
            // The authority of the API server that is played.
            if request.route == Route::ClusterCa {
                golden["content"] = play.api.kube().certificate_authority().as_ref().into();
            }
            edge.send(&request).await;
            let ours = play.answer_to(&mut edge, &request).await;
            let found = none.compare(capture, &golden, &ours);
            assert!(found.is_empty(), "{}: {found:?}", request.route);
            of[part] += 1;
        }
        // What is asked last is answered last.
        let route = Route::parse(&Group::Meta, "k8s/ca.crt");
        let last = Message::new(
            Source::MetaManager,
            Group::Meta,
            Operation::Query,
            route,
            Content::text(""),
        );
        edge.send(&last).await;
        play.answer_to(&mut edge, &last).await;
        let answered = play.early.iter().filter_map(|message| message.parent.as_ref());
        assert!(
            answered.into_iter().all(|id| !silent.contains(id)),
            "reserved operations"
        );
        play.tasks.stop(Duration::from_secs(1)).await;
    }
    assert_eq!((of, silent.len()), ([5, 1], 2));
}

#[tokio::test]
async fn devices_their_models_and_reports_are_as_captured() {
    let mut play = Play::start(Capture::HubDevice, "sim-4").await;
    let (node, membership) = ("null/node/sim-4", "membership");
    let (device, model) = (
        |name| format!("sim-ns4/device/{name}"),
        |name| format!("sim-ns4/devicemodel/{name}"),
    );
    let (d1, d2, d3, d4, m1, m2) = (
        device("d1"),
        device("d2"),
        device("d3"),
        device("d4"),
        model("m1"),
        model("m2"),
    );
    play.happens(node);
    let mut edge = play.connect().await;
    play.hears_of(&mut edge, &[node]).await;
    play.change(&mut edge, node).await;

    play.happens(&m1);
    play.knows(&ObjectPath::new("sim-ns4", Kind::DeviceModel, "m1")).await;
    play.happens(&d1);
    play.hears_of(&mut edge, &[membership, &m1, &d1]).await;
    let mut reports = reports().into_iter();
    // Go stores the first value of a property as an empty text (spec 03 §2.5).
    play.reports(&mut edge, reports.next()).await;
    let first = json!([{"propertyName": "temp", "observedDesired": {"value": ""},
        "reported": {"value": "21", "metadata": {"timestamp": "1795217791350", "type": "string"}}}]);
    assert_eq!(play.device_status("d1")["status"], json!({ "twins": first }));
    let mut statuses = device_statuses().into_iter();
    let (owners, _) = statuses.next().expect("captured");
    assert_eq!(
        Some(play.device_status("d1")["metadata"]["ownerReferences"].clone()),
        owners
    );
    for (_, status) in statuses {
        play.reports(&mut edge, reports.next()).await;
        assert_eq!(play.device_status("d1")["status"], status);
    }
    let before = play.device_status("d1");
    // Of a property that the Device has not; of no Device, which Go leaves unanswered, as it does the question for all.
    for _ in 0..3 {
        play.reports(&mut edge, reports.next()).await;
    }
    assert!(reports.next().is_none() && play.device_status("d1") == before);
    let detail = play
        .early
        .iter()
        .find(|message| message.route == Route::MembershipDetail);
    let detail = detail.expect("the answer to the question for all devices");
    let devices: Value = detail.content.parse().expect("JSON");
    assert_eq!(
        devices["devices"],
        json!([{"id": "sim-ns4/d1", "name": "d1", "twin": {}}])
    );
    assert!(!detail.is_answer());

    // The desired value, a label, a second Device, the model alone.
    play.change(&mut edge, &d1).await;
    play.change(&mut edge, &d1).await;
    play.happens(&d2);
    play.hears_of(&mut edge, &[membership, &d2]).await;
    play.change(&mut edge, &m1).await;
    play.happens(&d2);
    play.hears_of(&mut edge, &[&d2, membership]).await;
    play.happens(&d1);
    play.hears_of(&mut edge, &[&m1, membership, &d1]).await;
    play.api.remove(&api_path(&m1), None);

    play.happens(&m2);
    play.knows(&ObjectPath::new("sim-ns4", Kind::DeviceModel, "m2")).await;
    play.happens(&d3);
    play.hears_of(&mut edge, &[membership, &m2, &d3]).await;
    play.happens(&m2);
    play.hears_of(&mut edge, &[&m2]).await;
    play.happens(&d3);
    play.hears_of(&mut edge, &[membership, &d3]).await;

    // Its model does not exist.
    play.happens(&d4);
    play.hears_of(&mut edge, &[membership]).await;
    play.api.remove(&api_path(&d4), None);
    play.hears_of(&mut edge, &[membership]).await;
    for _ in 0..3 {
        play.change(&mut edge, node).await;
    }
    play.end().await;
}
