//! Newcomers at a node with two processors.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Refusal, admit};
use crate::edged::context::PodContext;
use crate::edged::node::NodeView;
use crate::edged::podspec::testing;

fn node(change: impl FnOnce(&mut Value)) -> NodeView {
    let mut node = json!({
        "metadata": {"name": "edge1", "labels": {"kubernetes.io/os": "linux", "disk": "ssd", "generation": "3"}},
        "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3"}}
    });
    change(&mut node);
    serde_json::from_value(node).expect("a node")
}

fn pod(spec: &Value) -> PodContext {
    let mut whole = json!({"containers": [{"name": "main"}]});
    for (key, value) in spec.as_object().expect("an object") {
        whole[key] = value.clone();
    }
    let root = tempfile::tempdir().expect("a folder");
    testing::context(root.path(), whole).0
}

fn asking(cpu: &str) -> PodContext {
    pod(&json!({"containers": [{"name": "main", "resources": {"requests": {"cpu": cpu}}}]}))
}

fn reason(node: &NodeView, there: &[PodContext], newcomer: &PodContext) -> String {
    admit(node, there, newcomer)
        .err()
        .map(|refusal| refusal.reason)
        .unwrap_or_default()
}

#[test]
fn refuses_what_does_not_fit_with_the_kubelets_words() {
    let node = node(|_| {});
    let there = [asking("1500m")];
    assert_eq!(admit(&node, &there, &asking("500m")), Ok(()));
    let message = "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000";
    assert_eq!(
        admit(&node, &there, &asking("501m")),
        Err(Refusal::new("OutOfcpu", message))
    );
    let memory = pod(&json!({"containers": [{"name": "main", "resources": {"requests": {"memory": "2Gi"}}}]}));
    assert_eq!(reason(&node, &[], &memory), "OutOfmemory");
    let idle = [pod(&json!({})), pod(&json!({})), pod(&json!({}))];
    assert_eq!(reason(&node, &idle, &pod(&json!({}))), "OutOfpods");
}

#[test]
fn counts_resources_of_the_cluster_only_where_the_node_names_them() {
    let device = |name: &str| pod(&json!({"containers": [{"name": "main", "resources": {"requests": {name: "1"}}}]}));
    assert_eq!(reason(&node(|_| {}), &[], &device("example.com/gpu")), "");
    let without = node(|node| node["status"]["allocatable"]["example.com/gpu"] = json!("0"));
    assert_eq!(
        reason(&without, &[], &device("example.com/gpu")),
        "OutOfexample.com/gpu"
    );
    assert_eq!(
        reason(&node(|_| {}), &[], &device("hugepages-2Mi")),
        "OutOfhugepages-2Mi"
    );
}

#[test]
fn knows_nothing_of_the_room_on_a_node_without_status() {
    let bare = node(|node| node["status"] = json!({}));
    assert_eq!(admit(&bare, &[], &asking("100")), Ok(()));
}

#[test]
fn follows_selectors_and_required_affinity() {
    let node = node(|_| {});
    assert_eq!(reason(&node, &[], &pod(&json!({"nodeSelector": {"disk": "ssd"}}))), "");
    let refusal = admit(&node, &[], &pod(&json!({"nodeSelector": {"disk": "tape"}}))).expect_err("another disk");
    assert_eq!(refusal.reason, "NodeAffinity");
    assert_eq!(
        refusal.message,
        "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
    );
    let demands = |terms: Value| {
        let required = json!({"nodeSelectorTerms": terms});
        let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}});
        reason(&node, &[], &pod(&json!({"affinity": affinity}))).is_empty()
    };
    let label = |key: &str, operator: &str, values: &[&str]| {
        demands(json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]))
    };
    assert!(label("disk", "In", &["ssd", "nvme"]));
    assert!(!label("disk", "In", &["tape"]));
    assert!(label("absent", "NotIn", &["tape"]));
    assert!(!label("disk", "NotIn", &["ssd"]));
    assert!(label("disk", "Exists", &[]));
    assert!(label("absent", "DoesNotExist", &[]));
    assert!(label("generation", "Gt", &["2"]));
    assert!(!label("generation", "Lt", &["3"]));
    assert!(!label("disk", "Gt", &["2"]));
    assert!(!demands(json!([{}])), "a term without demands matches nothing");
    assert!(demands(
        json!([{}, {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["edge1"]}]}])
    ));
}

#[test]
fn gives_a_port_of_the_host_away_once() {
    let node = node(|_| {});
    let on = |ip: &str, port: u16, protocol: &str| {
        let ports = json!([{"containerPort": 80, "hostPort": port, "hostIP": ip, "protocol": protocol}]);
        pod(&json!({"containers": [{"name": "main", "ports": ports}]}))
    };
    let there = [on("192.0.2.1", 8080, "TCP")];
    assert_eq!(reason(&node, &there, &on("", 8080, "TCP")), "NodePorts");
    assert_eq!(reason(&node, &there, &on("192.0.2.1", 8080, "TCP")), "NodePorts");
    assert_eq!(reason(&node, &there, &on("192.0.2.2", 8080, "TCP")), "");
    assert_eq!(reason(&node, &there, &on("", 8080, "UDP")), "");
    assert_eq!(reason(&node, &there, &on("", 8081, "TCP")), "");
}

#[test]
fn keeps_pods_from_a_tainted_node() {
    let tainted = node(|node| {
        node["spec"]["taints"] = json!([{"key": "mine", "value": "yes", "effect": "NoExecute"},
            {"key": "other", "effect": "NoSchedule"}]);
    });
    let with = |tolerations: Value| reason(&tainted, &[], &pod(&json!({"tolerations": tolerations})));
    assert_eq!(with(json!([])), "TaintToleration");
    assert_eq!(with(json!([{"operator": "Exists"}])), "");
    assert_eq!(with(json!([{"key": "mine", "value": "yes"}])), "");
    assert_eq!(with(json!([{"key": "mine", "value": "no"}])), "TaintToleration");
    assert_eq!(
        with(json!([{"key": "mine", "operator": "Exists", "effect": "NoSchedule"}])),
        "TaintToleration"
    );
    let mut of_file = pod(&json!({}));
    let source = json!({"kubernetes.io/config.source": "file"});
    Arc::make_mut(&mut of_file.pod).metadata.annotations = serde_json::from_value(source).expect("annotations");
    assert_eq!(reason(&tainted, &[], &of_file), "", "static pods stand all taints");
}

#[test]
fn runs_linux_only() {
    let node = node(|_| {});
    let windows = pod(&json!({"os": {"name": "windows"}}));
    assert_eq!(reason(&node, &[], &windows), "PodOSNotSupported");
    assert_eq!(reason(&node, &[], &pod(&json!({"os": {"name": "linux"}}))), "");
}
