use std::time::Duration;

use common::Tasks;
use proto::{NodeName, Object};
use serde_json::{Value, json};

use super::index::Index;
use super::*;
use crate::kubernetes::Seen;
use crate::kubernetes::fake::FakeApi;

const UID: &str = "5c4183df-34c8-4521-ba45-b4d6fa6474cd";

fn object(kind: &str, namespace: &str) -> ObjectRef {
    ObjectRef {
        api_version: "v1".into(),
        kind: kind.into(),
        namespace: namespace.into(),
        name: "p-1".into(),
        uid: UID.into(),
    }
}

fn path(node: &str) -> String {
    format!("/apis/reliablesyncs.kubeedge.io/v1alpha1/namespaces/sim-ns2/objectsyncs/{node}.{UID}")
}

async fn eventually(mut done: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came to be");
}

#[tokio::test]
async fn a_record_lives_as_go_writes_it() {
    let (api, tasks, node) = (FakeApi::default(), Tasks::new(), NodeName::from("edge.with.dots"));
    let syncs = ObjectSyncs::start(api.kube(), &tasks);
    let pod = object("Pod", "sim-ns2");
    syncs.begin(&node, &pod).await;
    assert_eq!(syncs.recorded(&node, &pod.uid).as_deref(), Some("0"));
    eventually(|| {
        api.get(&path("edge.with.dots"))
            .is_some_and(|sync| sync["status"]["objectResourceVersion"] == "0")
    })
    .await;
    let sync = api.get(&path("edge.with.dots")).expect("written");
    assert_eq!(
        sync["spec"],
        json!({"objectAPIVersion": "v1", "objectKind": "Pod", "objectName": "p-1"})
    );
    assert_eq!(sync["kind"], "ObjectSync");
    syncs.acked(&node, &pod, "4405").await;
    assert_eq!(syncs.recorded(&node, &pod.uid).as_deref(), Some("4405"));
    eventually(|| {
        api.get(&path("edge.with.dots"))
            .is_some_and(|sync| sync["status"]["objectResourceVersion"] == "4405")
    })
    .await;
    // The shell of a deleted object knows no kind; the record knows its place.
    syncs
        .deleted(
            &node,
            &ObjectRef {
                kind: "".into(),
                ..pod.clone()
            },
        )
        .await;
    assert_eq!(syncs.recorded(&node, &pod.uid), None);
    eventually(|| api.get(&path("edge.with.dots")).is_none()).await;
    tasks.stop(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn an_ack_without_a_record_makes_one_and_conflicts_are_retried() {
    let (api, tasks, node) = (FakeApi::default(), Tasks::new(), NodeName::from("e"));
    let syncs = ObjectSyncs::start(api.kube(), &tasks);
    let cluster = object("Node", "null");
    let path = format!("/apis/reliablesyncs.kubeedge.io/v1alpha1/clusterobjectsyncs/e.{UID}");
    api.refuse(&format!("PATCH {path}/status"), 409, "Conflict");
    syncs.acked(&node, &cluster, "7").await;
    eventually(|| {
        api.get(&path)
            .is_some_and(|sync| sync["status"]["objectResourceVersion"] == "7")
    })
    .await;
    assert_eq!(api.get(&path).expect("written")["kind"], "ClusterObjectSync");
    syncs
        .acked(
            &node,
            &ObjectRef {
                uid: "other".into(),
                kind: "".into(),
                ..cluster.clone()
            },
            "7",
        )
        .await;
    assert_eq!(syncs.recorded(&node, &"other".into()), None);
    tasks.stop(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn records_of_a_node_that_is_gone_are_deleted() {
    let (api, tasks) = (FakeApi::default(), Tasks::new());
    let sync = |name: &str| json!({"metadata": {"name": format!("{name}.{UID}"), "namespace": "sim-ns2"}, "spec": {"objectKind": "Pod"}});
    api.put(&path("gone"), sync("gone"));
    api.put(&path("there"), sync("there"));
    api.put("/api/v1/nodes/there", json!({"metadata": {"name": "there"}}));
    let syncs = ObjectSyncs::start(api.kube(), &tasks);
    eventually(|| syncs.is_synced()).await;
    syncs.node_gone(&"gone".into()).await;
    syncs.node_gone(&"there".into()).await;
    eventually(|| api.get(&path("gone")).is_none()).await;
    assert!(api.get(&path("there")).is_some());
    tasks.stop(Duration::from_secs(1)).await;
}

/// DeviceController has the devices that wait sent then, not only by SyncController's next round.
#[tokio::test]
async fn who_waits_for_models_hears_of_their_acknowledgements() {
    let (api, tasks, node) = (FakeApi::default(), Tasks::new(), NodeName::from("e"));
    let syncs = ObjectSyncs::start(api.kube(), &tasks);
    let mut models = syncs.models_delivered();
    syncs.acked(&node, &object("Pod", "ns"), "7").await;
    assert!(models.try_recv().is_err());
    syncs.acked(&node, &object(DEVICE_MODEL, "ns"), "8").await;
    assert_eq!(models.try_recv().ok(), Some(node));
    tasks.stop(Duration::from_secs(1)).await;
}

#[test]
fn the_watch_does_not_set_back_what_was_written() {
    let mut index = Index::default();
    let node = NodeName::from("e");
    let pod = object("Pod", "sim-ns2");
    assert!(index.begin(&node, &pod) && !index.begin(&node, &pod));
    assert!(index.acked(&node, &pod, "9") && !index.acked(&node, &pod, "8"));
    let event = |version: Value| {
        Object::from_value(
            &json!({"metadata": {"name": format!("e.{UID}"), "namespace": "sim-ns2"},
            "spec": {"objectKind": "pods", "objectName": "p-1"}, "status": {"objectResourceVersion": version}}),
        )
        .expect("object")
    };
    index.apply(true, Seen::Modified(event("0".into())));
    assert_eq!(index.version(&node, &pod.uid).as_deref(), Some("9"));
    index.apply(true, Seen::Modified(event("12".into())));
    assert_eq!(index.version(&node, &pod.uid).as_deref(), Some("12"));
    index.apply(false, Seen::Listing);
    index.apply(false, Seen::Synced);
    assert!(index.version(&node, &pod.uid).is_some() && !index.is_synced());
    index.apply(true, Seen::Listing);
    index.apply(true, Seen::Synced);
    assert!(index.version(&node, &pod.uid).is_none() && index.is_synced());
}
