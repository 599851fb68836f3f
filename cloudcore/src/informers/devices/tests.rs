use proto::device::DeviceId;
use proto::{Kind, Object, ObjectPath};
use serde_json::{Value, json};

use super::index::{DeviceChange, DevicePlace, Index, Watch};
use crate::kubernetes::Seen;

fn device(name: &str, version: u64, node: &str, model: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "ns", "uid": format!("u-{name}"), "resourceVersion": version.to_string()},
        "spec": {"nodeName": node, "deviceModelRef": {"name": model}, "properties": [{"name": "temp"}, {"name": "hum"}]}})
}

fn model(name: &str, version: u64) -> Value {
    json!({"metadata": {"name": name, "namespace": "ns", "uid": format!("m-{name}"), "resourceVersion": version.to_string()},
        "spec": {"protocol": version.to_string()}})
}

/// An index that has seen its first lists, with these in them.
fn index(models: &[Value], devices: &[Value]) -> Index {
    let mut index = Index::default();
    for (watch, listed) in [
        (Watch::Models, models),
        (Watch::Devices, devices),
        (Watch::Statuses, &[]),
    ] {
        index.apply(watch, Seen::Listing);
        for one in listed {
            index.apply(watch, Seen::Listed(object(one)));
        }
        index.apply(watch, Seen::Synced);
    }
    assert!(index.is_ready());
    index
}

fn object(value: &Value) -> Object {
    Object::from_value(value).expect("object")
}

/// `node: what name +model`.
fn told(changes: Vec<DeviceChange>) -> Vec<String> {
    let with = |model: Option<Object>| model.map_or_else(String::new, |model| format!(" +{}", model.name()));
    let one = |change| match change {
        DeviceChange::Added { node, device, model } => format!("{node}: added {}{}", device.name(), with(model)),
        DeviceChange::Updated { node, device, model } => format!("{node}: updated {}{}", device.name(), with(model)),
        DeviceChange::Removed { node, device, model } => format!("{node}: removed {}{}", device.name(), with(model)),
        DeviceChange::Model {
            mut nodes,
            operation,
            model,
        } => {
            nodes.sort();
            format!("{nodes:?}: {operation} {}", model.name())
        }
        DeviceChange::Ready => "ready".to_owned(),
    };
    changes.into_iter().map(one).collect()
}

fn seen(index: &mut Index, value: &Value) -> Vec<String> {
    let is_model = value["metadata"]["uid"]
        .as_str()
        .is_some_and(|uid| uid.starts_with("m-"));
    let watch = if is_model { Watch::Models } else { Watch::Devices };
    told(index.apply(watch, Seen::Modified(object(value))))
}

#[test]
fn a_model_goes_with_the_first_device_of_a_node_and_leaves_with_the_last() {
    let mut index = index(&[model("m", 1)], &[]);
    assert_eq!(seen(&mut index, &device("a", 2, "n", "m")), ["n: added a +m"]);
    assert_eq!(seen(&mut index, &device("b", 3, "n", "m")), ["n: added b"]);
    assert_eq!(seen(&mut index, &device("c", 4, "o", "m")), ["o: added c +m"]);
    assert_eq!(seen(&mut index, &model("m", 5)), [r#"["n", "o"]: update m"#]);
    let gone =
        |index: &mut Index, name| told(index.apply(Watch::Devices, Seen::Deleted(object(&device(name, 9, "n", "m")))));
    assert_eq!(gone(&mut index, "a"), ["n: removed a"]);
    assert_eq!(gone(&mut index, "b"), ["n: removed b +m"]);
    assert_eq!(gone(&mut index, "b"), [""; 0]);
}

#[test]
fn a_device_that_moves_leaves_one_node_and_comes_to_the_other() {
    let mut index = index(&[model("m", 1)], &[device("a", 2, "n", "m")]);
    assert_eq!(
        seen(&mut index, &device("a", 3, "o", "m")),
        ["n: removed a +m", "o: added a +m"]
    );
    assert_eq!(index.place(&DeviceId::new("ns", "a")), DevicePlace::Node("o".into()));
    assert_eq!(seen(&mut index, &device("a", 4, "", "m")), ["o: removed a +m"]);
    assert_eq!(index.place(&DeviceId::new("ns", "a")), DevicePlace::Unbound);
    assert!(index.wanted(&"o".into()).is_empty());
}

#[test]
fn another_model_comes_before_the_device_and_the_old_one_goes_after_it() {
    let mut index = index(&[model("m", 1), model("k", 1)], &[device("a", 2, "n", "m")]);
    assert_eq!(
        seen(&mut index, &device("a", 3, "n", "k")),
        ["n: updated a +k", r#"["n"]: delete m"#]
    );
}

#[test]
fn a_status_alone_is_not_told_and_older_events_are_not_taken() {
    let mut index = index(&[model("m", 1)], &[device("a", 2, "n", "m")]);
    let mut reported = device("a", 5, "n", "m");
    reported["status"] = json!({"twins": []});
    assert_eq!(seen(&mut index, &reported), [""; 0]);
    assert_eq!(seen(&mut index, &device("a", 4, "other", "m")), [""; 0]);
    reported["metadata"]["labels"] = json!({"a": "b"});
    reported["metadata"]["resourceVersion"] = "6".into();
    assert_eq!(seen(&mut index, &reported), ["n: updated a"]);
}

#[test]
fn devices_without_a_model_go_out_and_a_late_model_follows() {
    let mut index = index(&[], &[]);
    let path = |name: &str| ObjectPath::new("ns", Kind::Device, name);
    assert_eq!(seen(&mut index, &device("a", 2, "n", "m")), ["n: added a"]);
    assert_eq!(seen(&mut index, &device("b", 3, "n", "")), ["n: added b"]);
    let mut changed = device("a", 4, "n", "m");
    changed["spec"]["protocol"] = json!({"protocolName": "p"});
    assert_eq!(seen(&mut index, &changed), ["n: updated a"]);
    let waits = |index: &Index, name: &str, delivered: bool| index.waits(&path(name), |_| delivered);
    assert!(waits(&index, "a", true) && !waits(&index, "b", false) && !waits(&index, "absent", false));
    assert_eq!(seen(&mut index, &model("m", 5)), [r#"["n"]: insert m"#]);
    assert!(!waits(&index, "a", true) && waits(&index, "a", false));
    let first = index.wanted(&"n".into()).remove(0);
    assert_eq!(
        first.0.to_string(),
        "ns/devicemodel/m",
        "models come before their devices"
    );
    let bare = json!({"metadata": {"name": "x", "namespace": "ns", "uid": "u-x", "resourceVersion": "9"}, "spec": {"nodeName": "n"}});
    assert_eq!(seen(&mut index, &bare), ["n: added x"]);
    assert_eq!(index.members(&"n".into()).len(), 3);
    assert_eq!(index.wanted(&"n".into()).len(), 4);
}

#[test]
fn what_a_new_list_lacks_is_gone_and_a_successor_is_another_device() {
    let mut index = index(&[model("m", 1)], &[device("a", 2, "n", "m"), device("b", 3, "n", "m")]);
    let mut successor = device("b", 7, "n", "m");
    successor["metadata"]["uid"] = "u-b2".into();
    index.apply(Watch::Devices, Seen::Listing);
    let listed = told(index.apply(Watch::Devices, Seen::Listed(object(&successor))));
    assert_eq!(listed, ["n: removed b", "n: added b"]);
    assert_eq!(told(index.apply(Watch::Devices, Seen::Synced)), ["n: removed a"]);
}

#[test]
fn devices_with_a_node_lack_a_status_until_one_is_seen() {
    let mut index = index(&[], &[device("a", 2, "n", "m"), device("free", 3, "", "m")]);
    let a = DeviceId::new("ns", "a");
    assert_eq!(index.take_lacking(9), [(a.clone(), "u-a".into())]);
    assert!(index.take_lacking(9).is_empty());
    index.still_lacks(&a);
    assert_eq!(index.take_lacking(9).len(), 1);
    let status = object(&json!({"metadata": {"name": "a", "namespace": "ns", "uid": "s"}}));
    index.apply(Watch::Statuses, Seen::Added(status.clone()));
    index.still_lacks(&a);
    assert!(index.take_lacking(9).is_empty());
    index.apply(Watch::Statuses, Seen::Deleted(status));
    assert_eq!(index.take_lacking(9).len(), 1);
}

#[test]
fn properties_are_known_by_their_whole_names() {
    let index = index(&[], &[device("a", 2, "n", "m")]);
    let entry = index.entry(&DeviceId::new("ns", "a")).expect("known");
    assert!(entry.has_property("temp") && entry.has_property("hum"));
    assert!(!entry.has_property("tem") && !entry.has_property(""));
}
