use proto::{Kind, NodeName, Object, ObjectPath, Operation};
use serde_json::{Value, json};

use super::change::{Change, Need};
use super::index::Index;
use super::watches::Watch;
use crate::kubernetes::Seen;

fn object(value: Value) -> Object {
    Object::from_value(&value).expect("object")
}

fn node(name: &str, version: u64, label: &str) -> Object {
    object(
        json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": name, "uid": format!("n-{name}"),
        "resourceVersion": version.to_string(), "labels": {"x": label}}}),
    )
}

fn pod(name: &str, node: &str, uid: &str, version: u64, extra: Value) -> Object {
    let mut spec = json!({"nodeName": node});
    let mut status = json!({"phase": "Pending"});
    if let Value::Object(extra) = &extra {
        for (key, value) in extra {
            match key.as_str() {
                "phase" => status["phase"] = "Running".into(),
                "conditions" => status["conditions"] = value.clone(),
                _ => spec[key] = value.clone(),
            }
        }
    }
    object(
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "namespace": "ns", "uid": uid,
        "resourceVersion": version.to_string(), "managedFields": [{"x": version}]}, "spec": spec, "status": status}),
    )
}

fn config_map(version: u64) -> Object {
    object(
        json!({"metadata": {"name": "cm", "namespace": "ns", "uid": "cm-uid", "resourceVersion": version.to_string()}}),
    )
}

fn env_from(name: &str, optional: bool) -> Value {
    json!({"containers": [{"envFrom": [{"configMapRef": {"name": name, "optional": optional}}]}]})
}

fn listed(index: &mut Index, watch: Watch, objects: Vec<Object>) -> Vec<Change> {
    let mut changes = index.apply(watch, Seen::Listing);
    for object in objects {
        changes.extend(index.apply(watch, Seen::Listed(object)));
    }
    changes.extend(index.apply(watch, Seen::Synced));
    changes
}

fn started() -> Index {
    let mut index = Index::default();
    listed(&mut index, Watch::Nodes, vec![node("e", 1, "")]);
    listed(&mut index, Watch::ConfigMaps, vec![]);
    listed(&mut index, Watch::Secrets, vec![]);
    listed(&mut index, Watch::Pods, vec![]);
    index
}

fn ops(changes: &[Change]) -> Vec<String> {
    changes
        .iter()
        .map(|change| match change {
            Change::Pod { node, operation, pod } => {
                format!("{operation} pod {} {} on {node}", pod.meta().name, pod.uid())
            }
            Change::Node { node, .. } => format!("node {node}"),
            Change::NodeAppeared { node } => format!("appeared {node}"),
            Change::NodeGone { node } => format!("gone {node}"),
            Change::Referenced {
                path, operation, nodes, ..
            } => format!("{operation} {path} on {nodes:?}"),
        })
        .collect()
}

#[test]
fn pods_of_edges_only_and_status_is_no_change() {
    let mut index = started();
    assert!(
        index
            .apply(Watch::Pods, Seen::Added(pod("a", "cloud", "u", 5, json!({}))))
            .is_empty()
    );
    let inserted = index.apply(Watch::Pods, Seen::Added(pod("a", "e", "u", 5, json!({}))));
    assert_eq!(ops(&inserted), ["insert pod a u on e"]);
    assert!(
        index
            .apply(Watch::Pods, Seen::Modified(pod("a", "e", "u", 6, json!({"phase": 1}))))
            .is_empty()
    );
    let known = index.known(&ObjectPath::new("ns", Kind::Pod, "a")).expect("known");
    assert_eq!((known.version, known.told), (6, 5));
    let unready = |ready: &str| json!({"conditions": [{"type": "Ready", "status": ready}, {"type": "ContainersReady", "status": ready}]});
    for ready in ["True", "False", "True"] {
        let told = index.apply(Watch::Pods, Seen::Modified(pod("a", "e", "u", 6, unready(ready))));
        assert_eq!(ops(&told), [""; 0], "as the edge says");
    }
    let called =
        json!({"conditions": [{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "True"}]});
    let told = index.apply(Watch::Pods, Seen::Modified(pod("a", "e", "u", 6, called)));
    assert_eq!(
        ops(&told),
        ["update pod a u on e"],
        "as the node lifecycle controller says"
    );
    let changed = index.apply(Watch::Pods, Seen::Modified(pod("a", "e", "u", 7, json!({"x": 1}))));
    assert_eq!(ops(&changed), ["update pod a u on e"]);
    let deleted = index.apply(Watch::Pods, Seen::Deleted(pod("a", "e", "u", 8, json!({}))));
    assert_eq!(ops(&deleted), ["delete pod a u on e"]);
    assert!(
        index
            .apply(Watch::Pods, Seen::Deleted(pod("a", "e", "u", 8, json!({}))))
            .is_empty()
    );
}

#[test]
fn a_bound_pod_is_an_update_and_so_is_one_that_goes_already() {
    let mut index = started();
    assert!(
        index
            .apply(Watch::Pods, Seen::Added(pod("a", "", "u", 5, json!({}))))
            .is_empty()
    );
    let bound = index.apply(Watch::Pods, Seen::Modified(pod("a", "e", "u", 6, json!({}))));
    assert_eq!(ops(&bound), ["update pod a u on e"]);
    let mut going: Value = pod("b", "e", "v", 7, json!({})).view().expect("value");
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    assert_eq!(
        ops(&index.apply(Watch::Pods, Seen::Added(object(going)))),
        ["update pod b v on e"]
    );
}

#[test]
fn config_maps_go_where_pods_name_them_and_the_last_pod_takes_the_place_away() {
    let mut index = started();
    let path = ObjectPath::new("ns", Kind::ConfigMap, "cm");
    let e = NodeName::from("e");
    assert!(index.apply(Watch::ConfigMaps, Seen::Added(config_map(3))).is_empty());
    index.apply(Watch::Pods, Seen::Added(pod("a", "e", "u", 5, env_from("cm", true))));
    assert_eq!(index.need(&e, &path), Need::Optional);
    index.apply(Watch::Pods, Seen::Added(pod("b", "e", "v", 6, env_from("cm", false))));
    assert_eq!(index.need(&e, &path), Need::Required);
    assert_eq!(
        ops(&index.apply(Watch::ConfigMaps, Seen::Modified(config_map(7)))),
        ["update ns/configmap/cm on [\"e\"]"]
    );
    let mut wanted: Vec<String> = index
        .wanted(&e)
        .into_iter()
        .map(|(path, known)| format!("{path} {}", known.version))
        .collect();
    wanted.sort();
    assert_eq!(
        wanted,
        ["ns/configmap/cm 7", "ns/pod/a 5", "ns/pod/b 6", "null/node/e 1"]
    );
    index.apply(Watch::Pods, Seen::Deleted(pod("b", "e", "v", 8, json!({}))));
    assert_eq!(index.need(&e, &path), Need::Optional);
    assert_eq!(
        ops(&index.apply(Watch::ConfigMaps, Seen::Deleted(config_map(9)))),
        ["delete ns/configmap/cm on [\"e\"]"]
    );
    index.apply(Watch::Pods, Seen::Modified(pod("a", "e", "u", 10, json!({}))));
    assert_eq!(index.need(&e, &path), Need::None);
    assert!(index.apply(Watch::ConfigMaps, Seen::Added(config_map(11))).is_empty());
}

#[test]
fn a_node_that_appears_later_gets_its_pods() {
    let mut index = started();
    assert!(
        index
            .apply(Watch::Pods, Seen::Added(pod("a", "late", "u", 5, json!({}))))
            .is_empty()
    );
    let appeared = index.apply(Watch::Nodes, Seen::Added(node("late", 6, "")));
    assert_eq!(ops(&appeared), ["node late", "appeared late"]);
    // Between the question and its answer one pod goes and one changes.
    index.apply(Watch::Pods, Seen::Modified(pod("b", "late", "v", 9, json!({"x": 2}))));
    index.apply(Watch::Pods, Seen::Deleted(pod("c", "late", "w", 9, json!({}))));
    let found = vec![
        pod("a", "late", "u", 5, json!({})),
        pod("b", "late", "v", 8, json!({"x": 1})),
        pod("c", "late", "w", 4, json!({})),
    ];
    assert_eq!(
        ops(&index.found_pods(&"late".into(), found)),
        ["insert pod a u on late"]
    );
    assert_eq!(
        ops(&index.apply(Watch::Nodes, Seen::Deleted(node("late", 12, "")))),
        ["gone late"]
    );
    assert!(index.known(&ObjectPath::new("ns", Kind::Pod, "a")).is_none());
}

#[test]
fn a_second_list_finds_what_vanished_unseen() {
    let mut index = started();
    index.apply(Watch::Pods, Seen::Added(pod("a", "e", "u", 5, json!({}))));
    index.apply(Watch::Pods, Seen::Added(pod("b", "e", "v", 6, json!({}))));
    let changes = listed(&mut index, Watch::Pods, vec![pod("b", "e", "v2", 9, json!({}))]);
    assert_eq!(
        ops(&changes),
        ["delete pod b v on e", "insert pod b v2 on e", "delete pod a u on e"]
    );
    assert_eq!(ops(&listed(&mut index, Watch::Nodes, vec![])), ["gone e"]);
}

#[test]
fn nodes_change_by_anything_but_their_version() {
    let mut index = started();
    assert!(index.apply(Watch::Nodes, Seen::Modified(node("e", 2, ""))).is_empty());
    assert_eq!(
        ops(&index.apply(Watch::Nodes, Seen::Modified(node("e", 3, "y")))),
        ["node e"]
    );
    assert_eq!(
        index
            .known(&ObjectPath::cluster(Kind::Node, "e"))
            .expect("known")
            .version,
        3
    );
}

#[test]
fn versions_that_are_equal_tell_nobody_twice() {
    let mut index = started();
    index.apply(Watch::Pods, Seen::Added(pod("a", "e", "u", 5, env_from("cm", false))));
    assert_eq!(
        ops(&index.apply(Watch::ConfigMaps, Seen::Added(config_map(6)))),
        ["insert ns/configmap/cm on [\"e\"]"]
    );
    assert!(listed(&mut index, Watch::ConfigMaps, vec![config_map(6)]).is_empty());
    let secret = object(json!({"metadata": {"name": "s", "namespace": "ns", "uid": "s-uid", "resourceVersion": "7"}}));
    let spec = json!({"imagePullSecrets": [{"name": "s"}]});
    index.apply(Watch::Pods, Seen::Added(pod("b", "e", "v", 8, spec)));
    assert_eq!(
        ops(&index.apply(Watch::Secrets, Seen::Added(secret))),
        ["update ns/secret/s on [\"e\"]"]
    );
    assert_eq!(
        index.pod_node(&ObjectPath::new("ns", Kind::Pod, "b")),
        Some(&NodeName::from("e"))
    );
    assert!(matches!(
        index
            .apply(Watch::Pods, Seen::Deleted(pod("b", "e", "other", 9, json!({}))))
            .as_slice(),
        []
    ));
    assert_eq!(Operation::Insert.as_str(), "insert");
}

#[test]
fn a_pod_made_again_on_another_node_unseen_leaves_the_first() {
    let mut index = started();
    index.apply(Watch::Nodes, Seen::Added(node("f", 1, "")));
    index.found_pods(&NodeName::new("f"), vec![]);
    let pods = |index: &Index, name: &str| index.wanted(&NodeName::new(name)).len() - 1;
    listed(&mut index, Watch::Pods, vec![pod("db-0", "e", "u1", 5, json!({}))]);
    let changes = listed(&mut index, Watch::Pods, vec![pod("db-0", "f", "u2", 9, json!({}))]);
    assert_eq!(ops(&changes), ["delete pod db-0 u1 on e", "insert pod db-0 u2 on f"]);
    assert_eq!((pods(&index, "e"), pods(&index, "f")), (0, 1));
    let changes = listed(
        &mut index,
        Watch::Pods,
        vec![pod("db-0", "no-edge", "u3", 12, json!({}))],
    );
    assert_eq!(ops(&changes), ["delete pod db-0 u2 on f"]);
    assert_eq!((pods(&index, "e"), pods(&index, "f")), (0, 0));
}

#[test]
fn who_lists_an_address_follows_the_nodes() {
    let node = |name: &str, addresses: &[&str]| {
        let addresses: Vec<Value> = addresses
            .iter()
            .map(|address| json!({"type": "InternalIP", "address": address}))
            .collect();
        object(json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-11-20T23:26:44Z"},
            "status": {"addresses": addresses, "daemonEndpoints": {"kubeletEndpoint": {"Port": 10352}}},
        }))
    };
    let mut index = started();
    let at = |index: &Index, address: &str| -> Vec<String> {
        let found = index.nodes_at(address.parse().expect("an address"));
        found.iter().map(|one| one.node.to_string()).collect()
    };
    index.apply(Watch::Nodes, Seen::Added(node("b", &["192.0.2.1", "fd00::1"])));
    index.apply(Watch::Nodes, Seen::Added(node("a", &["::ffff:192.0.2.1"])));
    index.apply(Watch::Nodes, Seen::Added(node("192.0.2.3", &["192.0.2.3"])));
    assert_eq!(at(&index, "192.0.2.1"), ["a", "b"]);
    assert_eq!(at(&index, "192.0.2.3"), ["192.0.2.3"]);
    let known = index.nodes_at("fd00::1".parse().expect("an address"));
    let created = known[0].created.map(|time| time.to_string());
    assert_eq!((known.len(), known[0].port), (1, 10352));
    assert_eq!(created.as_deref(), Some("2026-11-20T23:26:44Z"));
    index.apply(Watch::Nodes, Seen::Modified(node("b", &["192.0.2.2", "fd00::1"])));
    assert_eq!(at(&index, "192.0.2.1"), ["a"]);
    assert_eq!(at(&index, "192.0.2.2"), ["b"]);
    index.apply(Watch::Nodes, Seen::Deleted(node("a", &[])));
    assert_eq!(at(&index, "192.0.2.1"), [""; 0]);
    listed(&mut index, Watch::Nodes, vec![]);
    assert_eq!(at(&index, "fd00::1"), [""; 0]);
}
