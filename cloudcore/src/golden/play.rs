//! A cloudcore that plays a captured session: what happened in the cluster then, and what it is to send.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use common::Tasks;
use futures::future::BoxFuture;
use prometheus_client::registry::Registry;
use proto::golden::{Capture, Differences, Direction, Entry, Replay, object_syncs};
use proto::{Message, NodeName, ObjectPath, Route, Source, Status};
use serde_json::{Map, Value};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::addresses::Addresses;
use crate::cloudhub::tests::edge::{Edge, NodeIdentity};
use crate::cloudhub::tests::{Memory, settings};
use crate::cloudhub::{AccessReview, CloudHub, Identity, Parts, ReviewRequest, Revoked};
use crate::cluster::HubCluster;
use crate::devicecontroller::DeviceController;
use crate::edgecontroller::EdgeController;
use crate::informers::Informers;
use crate::kubernetes::fake::FakeApi;
use crate::objectsync::ObjectSyncs;
use crate::synccontroller::SyncController;

/// A cloudcore with a cluster in memory, and what is still to be sent of a capture.
pub(super) struct Play {
    capture: Capture,
    /// The messages about objects, each once, in the order of the wire.
    captured: VecDeque<Value>,
    /// Those among them that ours does not send.
    unsent: VecDeque<Value>,
    /// Messages that came before they were looked for.
    pub(super) early: Vec<Message>,
    allowed: Differences,
    node: NodeName,
    pub(super) api: FakeApi,
    informers: Informers,
    hub: CloudHub,
    identity: Identity,
    pub(super) tasks: Tasks,
    _folder: TempDir,
}

impl Play {
    pub(super) async fn start(capture: Capture, node: &str) -> Self {
        let (api, tasks, folder) = (FakeApi::default(), Tasks::new(), tempfile::tempdir().expect("folder"));
        let (kube, settings) = (api.kube(), settings(folder.path()));
        let identity = Identity::load(&settings, Arc::new(Memory::default()))
            .await
            .expect("identity");
        let syncs = ObjectSyncs::start(kube.clone(), &tasks);
        let (informers, changes) = Informers::start(kube.clone(), &tasks);
        let (upstream, requests) = mpsc::channel(64);
        let (twins, reports) = mpsc::channel(64);
        let cluster = HubCluster {
            kube: kube.clone(),
            informers: informers.clone(),
        };
        let parts = Parts {
            settings,
            identity: identity.clone(),
            access: Arc::new(Everything),
            cluster: Arc::new(cluster),
            records: Arc::new(syncs.clone()),
            upstream,
            twins: Some(twins),
            tasks: tasks.clone(),
        };
        let mut registry = Registry::default();
        let hub = CloudHub::start(parts, &mut registry).await.expect("hub");
        hub.revoke(Revoked::default());
        let reconciler = SyncController::new(kube.clone(), informers.clone(), syncs.clone(), hub.clone());
        let devices = DeviceController {
            kube: kube.clone(),
            informers: informers.clone(),
            hub: hub.clone(),
            reconciler: reconciler.clone(),
            settings: (&config::cloudcore::DeviceController::default()).into(),
        };
        devices.start(reports, &mut registry, &tasks);
        let controller = EdgeController {
            kube,
            informers: informers.clone(),
            hub: hub.clone(),
            syncs,
            reconciler: reconciler.clone(),
            // As the captured Nodes name their cloudcore.
            own: Addresses::from(IpAddr::from([192, 0, 2, 2])).fixed(),
            authorization: true,
        };
        controller.start(changes, requests, &mut registry, &tasks);
        reconciler.start(&tasks);
        informers.synced().await;
        let allowed = Differences::committed(Replay::Session(capture));
        let (unsent, captured) = about_objects(capture)
            .into_iter()
            .partition(|message| allowed.unsent(capture, message));
        Self {
            capture,
            captured,
            unsent,
            early: Vec::new(),
            allowed,
            node: node.into(),
            api,
            informers,
            hub,
            identity,
            tasks,
            _folder: folder,
        }
    }

    /// Waits until an informer has seen an object: watches are not in step.
    pub(super) async fn knows(&self, path: &ObjectPath) {
        let seen = async {
            while self.informers.known(path).is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SOON, seen).await.expect("seen by its informer");
    }

    pub(super) async fn connect(&mut self) -> Edge {
        self.early.clear();
        let identity = NodeIdentity::of_node(self.identity.authority(), self.node.as_str());
        let headers = [
            ("node_id", self.node.as_str()),
            ("project_id", "p"),
            ("ConnectionUse", "msg"),
        ];
        let edge = Edge::websocket(
            self.hub.websocket_address(),
            self.identity.ca(),
            Some(&identity),
            &headers,
        )
        .await;
        edge.map_err(|refusal| format!("{refusal:?}")).expect("connected")
    }

    /// The next captured message about an object.
    pub(super) fn next(&self, resource: &str) -> &Value {
        let mut all = self.captured.iter().chain(&self.unsent);
        let found = all.find(|message| resource_of(message) == resource);
        found.unwrap_or_else(|| panic!("nothing more was captured about {resource}"))
    }

    /// What the next captured message about an object tells happens in the cluster.
    pub(super) fn happens(&self, resource: &str) {
        self.apply(self.next(resource));
    }

    pub(super) fn apply(&self, message: &Value) {
        let (path, content) = (api_path(resource_of(message)), message["content"].clone());
        if message["route"]["operation"] == "delete" {
            self.api.remove(&path, content.get("kind").is_some().then_some(content));
        } else {
            self.api.publish(&path, content);
        }
    }

    /// The next message about an object comes, as captured.
    pub(super) async fn receives(&mut self, edge: &mut Edge, resource: &str) -> Message {
        let message = loop {
            let known = self.early.iter().position(|message| message.route.render() == resource);
            if let Some(at) = known {
                break self.early.remove(at);
            }
            let next = timeout(SOON, edge.receive()).await;
            let next = next.unwrap_or_else(|_| panic!("nothing comes about {resource}"));
            let next = next.expect("the session lasts");
            // The answer to the deletion is compared with the other answers.
            if !next.is_answer() {
                self.early.push(next);
            }
        };
        let at = self
            .captured
            .iter()
            .position(|message| resource_of(message) == resource);
        let golden = self.captured.remove(at.expect("captured")).expect("is there");
        let ours: Value = serde_json::from_str(&message.encode()).expect("a message is JSON");
        let found = self.allowed.compare(self.capture, &golden, &ours);
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert!(
            found.is_empty(),
            "{} {resource}: {found:#?}",
            golden["route"]["operation"]
        );
        message
    }

    /// The answer to a question or a report, as JSON.
    pub(super) async fn answer_to(&mut self, edge: &mut Edge, question: &Message) -> Value {
        loop {
            let next = timeout(SOON, edge.receive()).await;
            let next = next.unwrap_or_else(|_| panic!("{} is not answered", question.route));
            let next = next.expect("the session lasts");
            if next.parent.as_ref() == Some(&question.id) {
                return serde_json::from_str(&next.encode()).expect("a message is JSON");
            }
            self.early.push(next);
        }
    }

    /// The edge reports and is told that it was heard, as captured where Go does so.
    pub(super) async fn reports(&mut self, edge: &mut Edge, report: Option<(Message, Option<Value>)>) {
        let (report, golden) = report.expect("captured");
        edge.send(&report).await;
        let ours = self.answer_to(edge, &report).await;
        let found = golden.map(|golden| self.allowed.compare(self.capture, &golden, &ours));
        assert!(
            found.is_none_or(|found| found.is_empty()),
            "{} is confirmed by {ours}",
            report.route
        );
        if report.route == Route::MembershipDetail {
            let detail = timeout(SOON, edge.receive()).await.expect("the devices");
            self.early.push(detail.expect("the session lasts"));
        }
    }

    pub(super) fn device_status(&self, name: &str) -> Value {
        let path = format!("/apis/devices.kubeedge.io/v1beta1/namespaces/sim-ns4/devicestatuses/{name}");
        self.api.get(&path).expect("a DeviceStatus")
    }

    /// The next messages about some objects come, and are acknowledged.
    pub(super) async fn hears_of(&mut self, edge: &mut Edge, resources: &[&str]) {
        for resource in resources {
            let message = self.receives(edge, resource).await;
            edge.send(&Message::ack_of(&message)).await;
        }
    }

    /// Something happens and the edge hears of it.
    pub(super) async fn change(&mut self, edge: &mut Edge, resource: &str) {
        self.happens(resource);
        self.hears_of(edge, &[resource]).await;
    }

    /// The ObjectSyncs come to be as they were captured at this moment, by names, contents and versions.
    pub(super) async fn records(&self, moment: &str) {
        let (_, yaml) = object_syncs()
            .into_iter()
            .find(|(name, _)| name == moment)
            .expect("captured");
        let golden: Vec<String> = yaml
            .lines()
            .map(|line| line.replacen("- ", "  ", 1))
            .filter(|line| line.starts_with("  ") && !is_volatile(line))
            .collect();
        let mut ours = Vec::new();
        for _ in 0..SOON.as_millis() / 10 {
            ours.clear();
            for sync in self.api.all("objectsyncs") {
                render(sync.as_object().expect("an object"), 1, &mut ours);
            }
            ours.retain(|line| !is_volatile(line));
            if ours == golden {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{moment}: captured\n{}\nours\n{}", golden.join("\n"), ours.join("\n"));
    }

    pub(super) async fn end(self) {
        let rest: Vec<&str> = self.captured.iter().map(resource_of).collect();
        assert!(rest.is_empty(), "not played: {rest:?}");
        assert_eq!(self.allowed.unused(), [""; 0]);
        self.tasks.stop(Duration::from_secs(1)).await;
    }
}

/// Lets every node read everything.
struct Everything;

impl AccessReview for Everything {
    fn review<'a>(&'a self, _: &'a NodeName, _: &'a ReviewRequest) -> BoxFuture<'a, Result<bool, Status>> {
        Box::pin(async { Ok(true) })
    }
}

/// What the edge said of devices, with Go's answer.
pub(super) fn reports() -> Vec<(Message, Option<Value>)> {
    let sent = Capture::HubDevice.messages(Direction::Up);
    let reports = sent.filter(|(_, message)| message.source == Source::Twin);
    let answers = Capture::HubDevice.exchanges();
    let answered = |message: &Message| {
        let of_this = |exchange: &&proto::golden::Exchange| exchange.request["header"]["msg_id"] == message.id.as_str();
        answers.iter().find(of_this).map(|exchange| exchange.answer.clone())
    };
    reports
        .map(|(_, message)| (message.clone(), answered(&message)))
        .collect()
}

/// The DeviceStatus of d1 as it was captured after each report, the first with its owners.
pub(super) fn device_statuses() -> Vec<(Option<Value>, Value)> {
    let notes = Capture::HubDevice
        .entries()
        .into_iter()
        .filter_map(|entry| match entry {
            Entry::Note(note) => note.strip_prefix("kubectl get devicestatus: ").map(str::to_owned),
            Entry::Frame(_) => None,
        });
    let parsed = notes.map(|note| {
        let values = serde_json::Deserializer::from_str(&note).into_iter::<Value>();
        let mut values: Vec<Value> = values.collect::<Result<_, _>>().expect("JSON");
        let status = values.pop().expect("a status");
        (values.pop(), status)
    });
    parsed.collect()
}

/// What Go's controllers sent by themselves; copies of what was not acknowledged are left out.
fn about_objects(capture: Capture) -> VecDeque<Value> {
    let mut known = Vec::new();
    let messages = capture.messages(Direction::Down);
    let sent = messages.filter(|(_, message)| {
        let is_new = !known.contains(&message.id);
        known.push(message.id.clone());
        is_new && !message.is_answer() && matches!(message.source, Source::EdgeController | Source::DeviceController)
    });
    sent.filter_map(|(frame, _)| frame.value()).collect()
}

fn resource_of(message: &Value) -> &str {
    message["route"]["resource"].as_str().unwrap_or_default()
}

/// Where the API server has what a message is about.
pub(super) fn api_path(resource: &str) -> String {
    let parts: Vec<&str> = resource.split('/').collect();
    match parts[..] {
        [namespace, kind @ ("device" | "devicemodel"), name] => {
            format!("/apis/devices.kubeedge.io/v1beta1/namespaces/{namespace}/{kind}s/{name}")
        }
        ["null", kind, name] => format!("/api/v1/{kind}s/{name}"),
        [namespace, kind, name] => format!("/api/v1/namespaces/{namespace}/{kind}s/{name}"),
        _ => panic!("{resource} is no object"),
    }
}

/// As kubectl prints it.
fn render(object: &Map<String, Value>, depth: usize, lines: &mut Vec<String>) {
    let indent = "  ".repeat(depth);
    for (key, value) in object {
        match value {
            Value::Object(object) => {
                lines.push(format!("{indent}{key}:"));
                render(object, depth + 1, lines);
            }
            Value::String(text) if text.parse::<u64>().is_err() => lines.push(format!("{indent}{key}: {text}")),
            other => lines.push(format!("{indent}{key}: {other}")),
        }
    }
}

/// Whether a line has what differs in every run; the version of an ObjectSync itself, but not the one it is about.
fn is_volatile(line: &str) -> bool {
    ["creationTimestamp:", "resourceVersion:", "uid:"]
        .iter()
        .any(|key| line.trim_start().starts_with(key))
}

/// What comes within this time comes.
pub(super) const SOON: Duration = Duration::from_secs(20);
