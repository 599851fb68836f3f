//! Tests against a channel in place of edgehub.

mod damaged_rows;
mod go_databases;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::Tasks;
use proto::{Content, Group, Kind, Message, Namespace, Object, ObjectName, ObjectPath, Operation, Source, Status, Uid};
use rusqlite::Connection;
use serde_json::{Value, json};

use super::readiness::GRACE;
use super::{MetaManager, RequestError, RunningPod, Settings, TokenKey};
use crate::uplink::{Link, Outgoing, Uplink, UplinkEnd};

const NODE: &str = "edge-go";

struct Edge {
    meta: MetaManager,
    cloud: UplinkEnd,
    tasks: Tasks,
}

impl Edge {
    async fn start(database: &Path) -> Self {
        let (uplink, cloud) = Uplink::channel();
        let tasks = Tasks::new();
        let settings = Settings {
            node: NODE.into(),
            database: database.to_owned(),
            remote_timeout: Duration::from_secs(60),
        };
        let meta = MetaManager::start(settings, uplink, &tasks).await.expect("started");
        cloud.link.send_replace(Link::Up(1));
        Self { meta, cloud, tasks }
    }

    async fn deliver(&self, message: Message) {
        self.meta.deliver(&mut Some(message)).await;
    }

    /// What the edge sends next.
    async fn sent(&mut self) -> Message {
        match self.cloud.recv().await.expect("edge runs") {
            Outgoing::Tell(message) => message,
            Outgoing::Ask { message, .. } => panic!("asked {}", message.route),
        }
    }

    /// The next question, answered.
    async fn answer(&mut self, content: Content) -> Message {
        let (message, answer) = self.asked().await;
        let reply = Message::answer_to(&message, Source::EdgeController, content);
        answer.send(reply).expect("asker waits");
        message
    }

    async fn asked(&mut self) -> (Message, tokio::sync::oneshot::Sender<Message>) {
        match self.cloud.recv().await.expect("edge runs") {
            Outgoing::Ask { message, answer } => (message, answer),
            Outgoing::Tell(message) => panic!("told {} {}", message.operation, message.route),
        }
    }

    fn uids(&self) -> Vec<String> {
        self.meta.pods().borrow().pods.keys().map(ToString::to_string).collect()
    }

    async fn stop(self) {
        self.tasks.stop(Duration::from_secs(5)).await;
    }
}

fn database() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("edgecore.db");
    (folder, path)
}

fn pod_json(name: &str, uid: &str, version: u64) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"namespace": "default", "name": name, "uid": uid, "resourceVersion": version.to_string()},
        "spec": {"nodeName": NODE, "containers": [{"name": "c", "image": "i"}]},
    })
}

fn message(operation: Operation, kind: Kind, name: &str, content: &Value) -> Message {
    let path = ObjectPath::new("default", kind, name);
    Message::new(
        Source::EdgeController,
        Group::Resource,
        operation,
        path,
        Content::json(content),
    )
}

fn pod(operation: Operation, name: &str, uid: &str, version: u64) -> Message {
    message(operation, Kind::Pod, name, &pod_json(name, uid, version))
}

fn is_ack(message: &Message, of: &Message) -> bool {
    message.operation == Operation::Response
        && message.parent.as_ref() == Some(&of.id)
        && message.source == of.source
        && message.group == of.group
        && message.route == of.route
        && message.content.as_text().as_deref() == Some("OK")
}

/// Frames of the capture, in order: (connection, from the cloud, message).
fn captured() -> Vec<(i64, bool, Message)> {
    let text = include_str!("../../../../proto/golden/hub.jsonl");
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["frame"] == "text")
        .map(|line| {
            let message = Message::decode(line["text"].as_str().unwrap_or_default().as_bytes()).expect("message");
            (
                line["connection"].as_i64().unwrap_or_default(),
                line["direction"] == "cloud->edge",
                message,
            )
        })
        .collect()
}

#[tokio::test]
async fn acknowledges_the_captured_messages_as_the_go_edge_did() {
    let (_folder, path) = database();
    let mut edge = Edge::start(&path).await;
    let frames = captured();
    let mut compared = 0;
    for (_, down, message) in &frames {
        if !down || message.parent.is_some() || !matches!(message.group, Group::Resource | Group::Func) {
            continue;
        }
        let theirs = frames.iter().find(|(_, down, ack)| {
            !down && ack.operation == Operation::Response && ack.parent.as_ref() == Some(&message.id)
        });
        let Some((_, _, theirs)) = theirs else { continue };
        edge.deliver(message.clone()).await;
        let ours = edge.sent().await;
        assert_eq!(ours.parent, theirs.parent);
        assert_eq!(
            (
                ours.source,
                ours.group,
                ours.operation,
                ours.route,
                ours.version,
                ours.content.get()
            ),
            (
                theirs.source.clone(),
                theirs.group.clone(),
                theirs.operation.clone(),
                theirs.route.clone(),
                theirs.version.clone(),
                theirs.content.get()
            )
        );
        compared += 1;
    }
    assert!(compared > 20, "only {compared} acknowledgements compared");
    edge.stop().await;
}

#[tokio::test]
async fn a_message_is_stored_before_it_is_acknowledged_and_acknowledged_again() {
    let (_folder, path) = database();
    let mut edge = Edge::start(&path).await;
    let insert = pod(Operation::Insert, "web", "u1", 7);
    edge.deliver(insert.clone()).await;
    let ack = edge.sent().await;
    assert!(is_ack(&ack, &insert), "{ack:?}");
    // The acknowledgement is lost with the process: another process finds the pod, and acknowledges once more.
    edge.stop().await;
    let mut edge = Edge::start(&path).await;
    assert_eq!(edge.uids(), ["u1"]);
    edge.deliver(insert.clone()).await;
    assert!(is_ack(&edge.sent().await, &insert));
    assert_eq!(edge.uids(), ["u1"]);
    edge.stop().await;
}

#[tokio::test]
async fn the_newest_wins_and_a_late_delete_spares_the_successor() {
    let (_folder, path) = database();
    let mut edge = Edge::start(&path).await;
    for (operation, uid, version) in [
        (Operation::Insert, "u1", 9),
        (Operation::Update, "u1", 8),
        (Operation::Insert, "u2", 20),
        (Operation::Delete, "u1", 10),
    ] {
        let message = pod(operation, "web", uid, version);
        edge.deliver(message.clone()).await;
        assert!(is_ack(&edge.sent().await, &message));
    }
    let set = edge.meta.pods().borrow().clone();
    let versions: Vec<_> = set
        .pods
        .values()
        .map(|pod| pod.object.meta().resource_version.clone())
        .collect();
    assert_eq!((edge.uids(), versions), (vec!["u2".to_owned()], vec!["20".to_owned()]));
    // A delete without a body means whichever is there.
    let path = ObjectPath::new("default", Kind::Pod, "web");
    let delete = Message::new(
        Source::EdgeController,
        Group::Resource,
        Operation::Delete,
        path,
        Content::null(),
    );
    edge.deliver(delete.clone()).await;
    assert!(is_ack(&edge.sent().await, &delete));
    assert!(edge.uids().is_empty());
    edge.stop().await;
}

#[tokio::test]
async fn what_is_no_object_is_refused_and_what_is_unknown_ignored() {
    let (_folder, path) = database();
    let mut edge = Edge::start(&path).await;
    let bad = message(Operation::Insert, Kind::Pod, "web", &json!("not an object"));
    edge.deliver(bad.clone()).await;
    let refusal = edge.sent().await;
    assert_eq!(
        (refusal.operation, refusal.source),
        (Operation::Error, Source::MetaManager)
    );
    assert_eq!(refusal.parent, Some(bad.id));
    edge.deliver(message(Operation::Other("dance".into()), Kind::Pod, "web", &json!({})))
        .await;
    let good = pod(Operation::Insert, "web", "u1", 1);
    edge.deliver(good.clone()).await;
    assert!(is_ack(&edge.sent().await, &good));
    edge.stop().await;
}

#[tokio::test]
async fn a_disk_that_refuses_writes_refuses_messages_but_lets_pods_go() {
    let (_folder, path) = database();
    let mut edge = Edge::start(&path).await;
    let insert = pod(Operation::Insert, "web", "u1", 1);
    edge.deliver(insert.clone()).await;
    assert!(is_ack(&edge.sent().await, &insert));

    edge.meta.shared.store.pragma("query_only", true).await;
    let second = pod(Operation::Insert, "other", "u2", 2);
    edge.deliver(second.clone()).await;
    assert_eq!(edge.sent().await.operation, Operation::Error);
    assert_eq!(edge.uids(), ["u1"], "stored objects stay");
    edge.deliver(pod(Operation::Delete, "web", "u1", 3)).await;
    assert_eq!(edge.sent().await.operation, Operation::Error);
    assert!(edge.uids().is_empty(), "what ends a pod is obeyed");

    edge.meta.shared.store.pragma("query_only", false).await;
    edge.deliver(second.clone()).await;
    assert!(is_ack(&edge.sent().await, &second));
    edge.stop().await;
}

#[tokio::test]
async fn an_absent_configmap_is_asked_for_once_and_errors_are_never_stored() {
    let (_folder, path) = database();
    let mut edge = Edge::start(&path).await;
    let path = ObjectPath::new("default", Kind::ConfigMap, "cfg");
    let (first, second, ()) = tokio::join!(
        edge.meta.clone().object_of(&path),
        edge.meta.clone().object_of(&path),
        async {
            let missing = Content::error(&Status::not_found("", "configmap", "cfg"));
            edge.answer(missing).await;
            assert_eq!(
                edge.sent().await.operation,
                Operation::Response,
                "errors are acknowledged too"
            );
            let found =
                json!({"metadata": {"namespace": "default", "name": "cfg", "uid": "u", "resourceVersion": "3"}});
            edge.answer(Content::json(&found)).await;
            assert_eq!(edge.sent().await.operation, Operation::Response);
        }
    );
    let outcomes = [first, second];
    assert!(
        outcomes
            .iter()
            .any(|outcome| matches!(outcome, Err(RequestError::Refused(status)) if status.is_not_found()))
    );
    assert!(outcomes.iter().any(Result::is_ok));
    // Offline now: the row answers.
    edge.cloud.link.send_replace(Link::Down);
    let stored = edge.meta.object(&path).await.expect("stored");
    assert_eq!(
        (stored.meta().kind.as_str(), stored.meta().name.as_str()),
        ("ConfigMap", "cfg")
    );
    edge.stop().await;
}

impl MetaManager {
    async fn object_of(self, path: &ObjectPath) -> Result<Object, RequestError> {
        self.object(path).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_database_is_set_aside_and_running_pods_are_adopted() {
    let (folder, path) = database();
    std::fs::write(
        &path,
        b"this is not a database, it only has the name of one".repeat(100),
    )
    .expect("damage");
    let mut edge = Edge::start(&path).await;
    let aside = std::fs::read_dir(folder.path())
        .expect("folder")
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("edgecore.db.damaged-"));
    assert!(aside);
    let mut pods = edge.meta.pods();
    assert!(!pods.borrow().ready, "an empty database proves nothing");

    // A cloud without inventory: the node is answered for, then each running pod.
    edge.meta.connected(false).await;
    let running = |name: &str, uid: &str| RunningPod {
        namespace: Namespace::new("default"),
        name: ObjectName::new(name),
        uid: Uid::new(uid),
    };
    edge.meta.adopt(vec![running("web", "u1"), running("old", "u9")]).await;
    let envelope = |object: &Value| Content::envelope(Some(&Content::json(object)), None);
    let asked = edge.answer(envelope(&pod_json("web", "u1", 5))).await;
    assert_eq!(
        (asked.operation, asked.route.to_string().as_str()),
        (Operation::Patch, "default/podpatch/web")
    );
    edge.answer(Content::envelope(None, Some(&Status::not_found("", "pods", "old"))))
        .await;
    let meta = edge.meta.clone();
    let lease = json!({"metadata": {"name": NODE, "namespace": "kube-node-lease"}});
    let (leased, _) = tokio::join!(meta.lease(), edge.answer(envelope(&lease)));
    leased.expect("lease");
    edge.sent().await;
    let since = tokio::time::Instant::now();
    pods.wait_for(|set| set.ready).await.expect("ready");
    assert!(
        since.elapsed() + Duration::from_secs(1) >= GRACE,
        "not before the cloud had time to tell the rest"
    );
    assert_eq!(edge.uids(), ["u1"]);
    edge.stop().await;
    let edge = Edge::start(&path).await;
    assert!(
        edge.meta.pods().borrow().ready,
        "the database counts as filled from now on"
    );
    edge.stop().await;
}

#[tokio::test]
async fn damage_while_running_keeps_the_pods() {
    let (_folder, path) = database();
    let mut edge = Edge::start(&path).await;
    edge.meta.connected(true).await;
    let insert = pod(Operation::Insert, "web", "u1", 7);
    edge.deliver(insert).await;
    edge.sent().await;
    edge.meta.compared(vec![Uid::new("u1")]).await;
    edge.meta.pods().wait_for(|set| set.ready).await.expect("ready");
    edge.meta.shared.store.pretend_damage().await;
    // Whatever was in flight is refused or stored; afterwards the new file has the pod.
    let mut state = edge.meta.shared.store.state();
    state.wait_for(|state| state.replaced == 1).await.expect("replaced");
    let stored = async {
        while edge.meta.inventory().await.map_or(true, |items| items.is_empty()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), stored)
        .await
        .expect("stored again");
    assert_eq!(edge.uids(), ["u1"]);
    edge.stop().await;
}

#[tokio::test]
async fn a_kept_status_leaves_although_the_cloud_pushed_the_pod_before_it_answered() {
    let (_folder, path) = database();
    let mut edge = Edge::start(&path).await;
    edge.deliver(pod(Operation::Insert, "web", "u1", 7)).await;
    edge.sent().await;
    let (namespace, name) = (Namespace::new("default"), ObjectName::new("web"));
    edge.cloud.link.send_replace(Link::Down);
    let offline = edge.meta.patch_pod_status(&namespace, &name, "{\"a\":1}").await;
    assert!(offline.is_err());
    edge.cloud.link.send_replace(Link::Up(2));
    edge.deliver(pod(Operation::Update, "web", "u1", 8)).await;
    edge.sent().await;
    let meta = edge.meta.clone();
    let answer = Content::envelope(Some(&Content::json(&pod_json("web", "u1", 8))), None);
    let (patched, _) = tokio::join!(
        meta.patch_pod_status(&namespace, &name, "{\"a\":2}"),
        edge.answer(answer)
    );
    assert!(patched.is_ok());
    // The task takes one after the other: once this is acknowledged, the answer was seen.
    edge.deliver(pod(Operation::Update, "web", "u1", 9)).await;
    edge.sent().await;
    assert_eq!(edge.meta.pod_patch(&namespace, &name).await.expect("read"), None);
    edge.stop().await;
}

#[tokio::test]
async fn the_mirror_of_a_static_pod_is_one_of_the_pods() {
    let (_folder, path) = database();
    let mut edge = Edge::start(&path).await;
    let mut mirror = pod_json("static-edge1", "m1", 7);
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "hash"});
    let mut message = pod(Operation::Insert, "static-edge1", "m1", 7);
    message.content = Content::json(&mirror);
    edge.deliver(message).await;
    edge.sent().await;
    assert_eq!(edge.uids(), ["m1"], "edged tells it from those to run");
    assert_eq!(edge.meta.inventory().await.expect("read").len(), 1);
    edge.stop().await;
}

#[tokio::test]
async fn a_status_that_cannot_be_sent_is_kept_and_leaves_when_one_is_sent() {
    let (_folder, path) = database();
    let mut edge = Edge::start(&path).await;
    edge.deliver(pod(Operation::Insert, "web", "u1", 7)).await;
    edge.sent().await;
    let (namespace, name) = (Namespace::new("default"), ObjectName::new("web"));
    edge.cloud.link.send_replace(Link::Down);
    let offline = edge.meta.patch_pod_status(&namespace, &name, "{\"a\":1}").await;
    assert!(offline.is_err_and(|error| error.is_transient()));
    assert_eq!(
        edge.meta.pod_patch(&namespace, &name).await.expect("read").as_deref(),
        Some("{\"a\":1}")
    );
    edge.cloud.link.send_replace(Link::Up(2));
    let meta = edge.meta.clone();
    let answer = Content::envelope(Some(&Content::json(&pod_json("web", "u1", 8))), None);
    let (patched, asked) = tokio::join!(
        meta.patch_pod_status(&namespace, &name, "{\"a\":2}"),
        edge.answer(answer)
    );
    assert_eq!(patched.expect("patched").meta().resource_version, "8");
    assert_eq!(
        asked.content.as_text().as_deref(),
        Some("{\"a\":2}"),
        "the patch travels as text"
    );
    let mut pods = edge.meta.pods();
    pods.wait_for(|set| set.pods.values().all(|pod| pod.object.meta().resource_version == "8"))
        .await
        .expect("newer pod");
    assert_eq!(edge.meta.pod_patch(&namespace, &name).await.expect("read"), None);
    edge.stop().await;
}
