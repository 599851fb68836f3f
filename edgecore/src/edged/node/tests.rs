//! Tests of registration against a channel in place of the cloud.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use common::Tasks;
use proto::{Content, Message, Object, Operation, Source, Status};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Machine, NodeFacts, Parts, RuntimeState, Settings, Taint, Usage, start};
use crate::metamanager::{self, MetaManager};
use crate::uplink::{Link, Outgoing, Uplink, UplinkEnd};

const GIB: i64 = 1024 * 1024 * 1024;

struct Board;

impl NodeFacts for Board {
    fn machine(&self) -> Machine {
        Machine {
            processors: 2,
            memory: 8 * GIB,
            huge_pages: vec![("hugepages-2Mi".into(), 0)],
            machine_id: "m".into(),
            ..Machine::default()
        }
    }

    fn usage(&self) -> Usage {
        Usage {
            memory_available: 4 * GIB,
            disk_total: 100 * GIB,
            disk_available: 50 * GIB,
            ..Usage::default()
        }
    }
}

fn settings() -> Settings {
    Settings {
        node: "edge-1".into(),
        hostname: "edge-1".into(),
        port: 10350,
        kubelet_version: "v1.32.10-kubeedge-v1.23.1".into(),
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        taints: vec![Taint {
            key: "k".into(),
            value: String::new(),
            effect: "NoSchedule".into(),
        }],
        schedulable: true,
        max_pods: 110,
        kube_reserved: [("cpu".to_owned(), "100m".to_owned())].into(),
        system_reserved: std::collections::BTreeMap::new(),
        eviction_hard: [("memory.available", "100Mi"), ("nodefs.available", "10%")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        look: Duration::from_secs(10),
        report: Duration::from_secs(300),
        pressure_hold: Duration::from_secs(300),
        lease_seconds: 40,
    }
}

/// The cloud: answers leases by itself and hands out everything else.
struct Cloud {
    end: UplinkEnd,
    leases: u32,
}

type Asked = (Message, tokio::sync::oneshot::Sender<Message>);

impl Cloud {
    async fn asked(&mut self) -> Asked {
        loop {
            let outgoing = self.end.recv().await.expect("edge runs");
            let Outgoing::Ask { message, answer } = outgoing else {
                continue;
            };
            if !message.route.to_string().starts_with("kube-node-lease/lease/") {
                return (message, answer);
            }
            let content = match message.operation {
                Operation::Query => {
                    Content::envelope(None, Some(&Status::not_found("coordination.k8s.io", "lease", "edge-1")))
                }
                _ => {
                    self.leases += 1;
                    Content::envelope(Some(&message.content), None)
                }
            };
            // An asker that went is no matter here.
            drop(answer.send(Message::answer_to(&message, Source::EdgeController, content)));
        }
    }

    fn answer((message, answer): Asked, content: Content) -> Message {
        answer
            .send(Message::answer_to(&message, Source::EdgeController, content))
            .expect("asker waits");
        message
    }
}

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

async fn board() -> (Cloud, watch::Sender<RuntimeState>, Tasks, tempfile::TempDir) {
    let (_fixed, address) = watch::channel(ADDRESS);
    board_at(address).await
}

async fn board_at(address: watch::Receiver<IpAddr>) -> (Cloud, watch::Sender<RuntimeState>, Tasks, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("folder");
    let (uplink, end) = Uplink::channel();
    let tasks = Tasks::new();
    let meta = metamanager::Settings {
        node: "edge-1".into(),
        database: folder.path().join("edgecore.db"),
        remote_timeout: Duration::from_secs(60),
    };
    let meta = MetaManager::start(meta, uplink, &tasks).await.expect("started");
    let (runtime, seen) = watch::channel(RuntimeState {
        name: "containerd".into(),
        version: "1.7.0".into(),
        ..RuntimeState::default()
    });
    let parts = Parts {
        meta,
        runtime: seen,
        address,
        facts: Arc::new(Board),
    };
    start(settings(), parts, &tasks);
    end.link.send_replace(Link::Up(1));
    (Cloud { end, leases: 0 }, runtime, tasks, folder)
}

fn node_of(message: &Message) -> Value {
    message.content.parse().expect("JSON")
}

fn stored(node: &Value) -> Content {
    let mut node = node.clone();
    node["metadata"]["uid"] = "n1".into();
    node["metadata"]["resourceVersion"] = "5".into();
    Content::envelope(Some(&Content::json(&node)), None)
}

fn ready(patch: &Value) -> &Value {
    patch["status"]["conditions"]
        .as_array()
        .and_then(|all| all.last())
        .expect("conditions")
}

#[tokio::test]
async fn registers_reports_changes_at_once_and_again_after_a_reconnect() {
    let (mut cloud, runtime, tasks, _folder) = board().await;
    let query = Cloud::answer(
        cloud.asked().await,
        Content::error(&Status::not_found("", "node", "edge-1")),
    );
    assert_eq!(
        (query.operation, query.route.to_string().as_str()),
        (Operation::Query, "null/node/edge-1")
    );
    let asked = cloud.asked().await;
    let node = node_of(&asked.0);
    assert_eq!(
        (&asked.0.operation, asked.0.route.to_string().as_str()),
        (&Operation::Insert, "null/node/edge-1")
    );
    assert_eq!(node["metadata"]["labels"]["node-role.kubernetes.io/edge"], "");
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "edge-1");
    assert_eq!(node["metadata"]["labels"]["zone"], "a");
    assert_eq!(node["spec"], json!({"taints": [{"key": "k", "effect": "NoSchedule"}]}));
    assert_eq!(node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], 10350);
    assert_eq!(
        node["status"]["nodeInfo"]["kubeletVersion"],
        "v1.32.10-kubeedge-v1.23.1"
    );
    assert_eq!(
        node["status"]["nodeInfo"]["containerRuntimeVersion"],
        "containerd://1.7.0"
    );
    assert_eq!(
        node["status"]["allocatable"],
        json!({"cpu": "1900m", "memory": "8286208Ki", "ephemeral-storage": "96636764160", "pods": "110", "hugepages-2Mi": "0"})
    );
    assert_eq!(ready(&node)["reason"], "KubeletNotReady");
    Cloud::answer(asked, stored(&node));

    // The runtime comes up: told at once, as text.
    runtime.send_modify(|state| (state.ready, state.network_ready) = (true, true));
    let asked = cloud.asked().await;
    assert_eq!(
        (&asked.0.operation, asked.0.route.to_string().as_str()),
        (&Operation::Patch, "null/nodepatch/edge-1")
    );
    assert!(asked.0.content.as_text().is_some());
    let patch = node_of(&asked.0);
    assert_eq!(
        (&ready(&patch)["reason"], &ready(&patch)["status"]),
        (&json!("EdgeReady"), &json!("True"))
    );
    assert_eq!(patch["status"]["addresses"][2], json!({"$patch": "replace"}));
    assert!(patch.get("metadata").is_none(), "nothing of it differs");
    assert!(
        patch["status"].get("daemonEndpoints").is_none(),
        "the port is the cloud's after registration"
    );
    Cloud::answer(asked, stored(&node));

    cloud.end.link.send_replace(Link::Down);
    cloud.end.link.send_replace(Link::Up(2));
    let (again, _) = cloud.asked().await;
    assert_eq!(
        again.operation,
        Operation::Patch,
        "the cloud may have lost it meanwhile"
    );
    assert!(cloud.leases > 0, "the lease is held");
    tasks.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn an_address_that_changes_is_reported_at_once_and_one_that_changed_offline_after_the_connect() {
    let (moves, address) = watch::channel(ADDRESS);
    let (mut cloud, _runtime, tasks, _folder) = board_at(address).await;
    Cloud::answer(
        cloud.asked().await,
        Content::error(&Status::not_found("", "node", "edge-1")),
    );
    let asked = cloud.asked().await;
    let node = node_of(&asked.0);
    assert_eq!(
        node["status"]["addresses"][0],
        json!({"type": "InternalIP", "address": "10.0.0.2"})
    );
    Cloud::answer(asked, stored(&node));
    moves.send_replace([10, 0, 0, 3].into());
    let asked = cloud.asked().await;
    assert_eq!(
        node_of(&asked.0)["status"]["addresses"],
        json!([
            {"type": "InternalIP", "address": "10.0.0.3"}, {"type": "Hostname", "address": "edge-1"}, {"$patch": "replace"}
        ])
    );
    Cloud::answer(asked, stored(&node));

    cloud.end.link.send_replace(Link::Down);
    moves.send_replace([10, 0, 0, 4].into());
    moves.send_replace([10, 0, 0, 5].into());
    cloud.end.link.send_replace(Link::Up(2));
    let (again, _) = cloud.asked().await;
    assert_eq!(node_of(&again)["status"]["addresses"][0]["address"], "10.0.0.5");
    tasks.stop(Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn registers_although_an_old_cloud_does_not_answer_about_a_node_that_is_not_there() {
    let (mut cloud, _runtime, tasks, _folder) = board().await;
    let unanswered = cloud.asked().await;
    assert_eq!(unanswered.0.operation, Operation::Query);
    let asked = cloud.asked().await;
    assert_eq!(asked.0.operation, Operation::Insert);
    let node = node_of(&asked.0);
    Cloud::answer(asked, stored(&node));
    tasks.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn an_existing_node_is_taken_over_by_one_patch_that_keeps_foreign_labels() {
    let (mut cloud, _runtime, tasks, _folder) = board().await;
    let existing = json!({"metadata": {"name": "edge-1", "labels": {"mine": "x", "kubernetes.io/os": "linux"}},
        "status": {"capacity": {"hugepages-1Gi": "0", "example.com/gpu": "1"}}});
    // The question finds nothing at first, then another process has made the Node.
    Cloud::answer(
        cloud.asked().await,
        Content::error(&Status::not_found("", "node", "edge-1")),
    );
    let exists = Status::failure(409, "AlreadyExists", "nodes \"edge-1\" already exists");
    Cloud::answer(
        cloud.asked().await,
        Content::envelope(Some(&Content::json(&json!({}))), Some(&exists)),
    );
    let query = Cloud::answer(cloud.asked().await, Content::json(&existing));
    assert_eq!(query.operation, Operation::Query);
    let asked = cloud.asked().await;
    let patch = node_of(&asked.0);
    assert_eq!(asked.0.operation, Operation::Patch);
    let labels = &patch["metadata"]["labels"];
    assert_eq!(
        (labels.get("mine"), labels.get("kubernetes.io/os")),
        (None, None),
        "what is right is left alone"
    );
    assert_eq!(labels["node-role.kubernetes.io/agent"], "");
    assert_eq!(
        patch["status"]["capacity"].get("hugepages-1Gi"),
        Some(&Value::Null),
        "what is gone is removed"
    );
    assert_eq!(patch["status"]["capacity"].get("example.com/gpu"), None);
    tasks.stop(Duration::from_secs(5)).await;
}

#[test]
fn objects_of_the_real_machine_are_complete() {
    let facts = super::SystemFacts {
        root: "/var/lib/kubelet-of-nobody".into(),
    };
    let machine = facts.machine();
    assert!(machine.processors > 0 && machine.memory > 0 && !machine.kernel.is_empty() && !machine.boot_id.is_empty());
    let usage = facts.usage();
    assert!(usage.disk_total > 0 && usage.disk_total >= usage.disk_available);
    assert!(usage.pids_total >= usage.pids_available);
    let report = super::status::Report::new(
        &settings(),
        ADDRESS,
        &machine,
        &usage,
        super::status::Pressure::default(),
        &RuntimeState::default(),
    );
    let node: Object = report.node(&settings(), jiff::Timestamp::now()).expect("object");
    node.view::<k8s_openapi::api::core::v1::Node>()
        .expect("a Node as Kubernetes reads it");
}

#[test]
fn what_is_below_a_threshold_is_a_condition_of_the_node() {
    use super::status::{Pressure, Report};

    let mut settings = settings();
    for (signal, limit) in [("nodefs.inodesFree", "5%"), ("pid.available", "10%")] {
        settings.eviction_hard.insert(signal.to_owned(), limit.to_owned());
    }
    let machine = Board.machine();
    let short = |usage: Usage| {
        let pressure = Pressure::of(&settings, &machine, &usage);
        let report = Report::new(&settings, ADDRESS, &machine, &usage, pressure, &RuntimeState::default());
        let node = report.node(&settings, jiff::Timestamp::now()).expect("object");
        let node: Value = node.view().expect("JSON");
        let all = node["status"]["conditions"].as_array().expect("conditions");
        let mut kinds = all.iter().filter(|one| one["status"] == "True").map(|one| &one["type"]);
        let first = kinds.next().and_then(Value::as_str).unwrap_or_default().to_owned();
        assert_eq!(kinds.next(), None, "{first} and more");
        first
    };
    // All at the threshold: not yet below.
    let least = Usage {
        memory_available: 100 * 1024 * 1024,
        disk_total: 100 * GIB,
        disk_available: 10 * GIB,
        inodes_total: 1000,
        inodes_available: 50,
        pids_total: 32_000,
        pids_available: 3_200,
    };
    assert_eq!(short(least), "");
    let memory_available = least.memory_available - 1;
    assert_eq!(
        short(Usage {
            memory_available,
            ..least
        }),
        "MemoryPressure"
    );
    let disk_available = least.disk_available - 1;
    assert_eq!(
        short(Usage {
            disk_available,
            ..least
        }),
        "DiskPressure"
    );
    let inodes_available = least.inodes_available - 1;
    assert_eq!(
        short(Usage {
            inodes_available,
            ..least
        }),
        "DiskPressure"
    );
    let pids_available = least.pids_available - 1;
    assert_eq!(
        short(Usage {
            pids_available,
            ..least
        }),
        "PIDPressure"
    );
    // What cannot be told is no shortage.
    let (pids_total, pids_available) = (0, 0);
    let untold = Usage {
        pids_total,
        pids_available,
        ..least
    };
    assert_eq!(short(untold), "");
}

#[test]
fn a_board_without_a_network_leaves_the_address_that_it_was_known_by() {
    let machine = Machine::default();
    let report = super::status::Report::new(
        &settings(),
        Ipv4Addr::LOCALHOST.into(),
        &machine,
        &Usage::default(),
        super::status::Pressure::default(),
        &RuntimeState::default(),
    );
    let addresses = |known: &str| {
        let stored = json!({"metadata": {"name": "edge-1"}, "status": {"addresses": [
            {"type": "InternalIP", "address": known}, {"type": "Hostname", "address": "edge-1"}]}});
        let stored = Object::from_value(&stored).expect("object");
        let patch = report.patch(&settings(), Some(&stored), jiff::Timestamp::now());
        let patch: Value = serde_json::from_str(&patch).expect("JSON");
        patch["status"]["addresses"][0]["address"].clone()
    };
    assert_eq!(addresses("10.0.0.2"), Value::Null);
    assert_eq!(addresses("127.0.0.1"), "127.0.0.1");
}

#[tokio::test(start_paused = true)]
async fn a_shortage_is_told_for_a_while_after_it_has_passed() {
    let (mut shortages, start, hold) = (
        super::status::Shortages::default(),
        Instant::now(),
        Duration::from_secs(300),
    );
    let short = super::status::Pressure {
        memory: true,
        ..Default::default()
    };
    let fine = super::status::Pressure::default();
    assert_eq!(shortages.tell(fine, start, hold), fine);
    assert_eq!(shortages.tell(short, start, hold), short);
    assert_eq!(shortages.tell(fine, start + hold / 2, hold), short);
    assert_eq!(shortages.tell(fine, start + hold, hold), fine);
}
