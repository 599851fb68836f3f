use proto::{Kind, ObjectPath, Operation, Uid};
use tokio::time::Instant;

use super::plan::{Sent, path_of, plan};
use crate::informers::Known;
use crate::objectsync::Record;

fn record(kind: &str, namespace: &str, name: &str, version: &str) -> Record {
    Record {
        api_version: "v1".into(),
        kind: kind.into(),
        namespace: namespace.into(),
        name: name.into(),
        version: version.into(),
    }
}

fn known(uid: &str, version: u64, told: u64) -> Known {
    Known {
        uid: uid.into(),
        version,
        told,
    }
}

fn pod(name: &str) -> ObjectPath {
    ObjectPath::new("ns", Kind::Pod, name)
}

#[tokio::test(start_paused = true)]
async fn newer_missing_gone_and_unchanged() {
    let wanted = vec![
        (pod("old"), known("u1", 9, 9)),
        (pod("same"), known("u2", 9, 4)),
        (pod("new"), known("u3", 9, 9)),
        (ObjectPath::new("ns", Kind::ConfigMap, "unasked"), known("u4", 9, 9)),
        (ObjectPath::cluster(Kind::Node, "n"), known("u5", 9, 9)),
    ];
    let records: Vec<(Uid, Record)> = vec![
        ("u1".into(), record("Pod", "ns", "old", "")),
        ("u2".into(), record("pods", "ns", "same", "4")),
        ("u6".into(), record("Pod", "ns", "gone", "3")),
        ("u7".into(), record("Secret", "ns", "other", "3")),
        ("u8".into(), record("Service", "ns", "d", "3")),
        ("u9".into(), record("ConfigMap", "ns", "stays", "3")),
        ("u10".into(), record("", "ns", "nameless", "3")),
        ("u11".into(), record("Node", "null", "n", "3")),
    ];
    let find = |path: &ObjectPath| match path.name_str() {
        "other" | "n" => Some(known("another uid", 5, 5)),
        "stays" => Some(known("u9", 3, 3)),
        _ => None,
    };
    let mut sent = Sent::new();
    let now = Instant::now();
    let first = plan(&wanted, &records, find, |_| false, true, &mut sent, now);
    assert_eq!(
        first.send,
        [
            (pod("old"), Operation::Update),
            (pod("new"), Operation::Insert),
            (ObjectPath::cluster(Kind::Node, "n"), Operation::Update)
        ]
    );
    assert_eq!(
        first.delete,
        [
            (pod("gone"), "u6".into()),
            (ObjectPath::new("ns", Kind::Secret, "other"), "u7".into())
        ]
    );
    assert_eq!((first.unknown.len(), first.forget), (1, vec!["u11".into()]));
    let again = plan(&wanted, &records, find, |_| false, true, &mut sent, now + super::PERIOD);
    assert!(again.send.is_empty() && again.delete.is_empty(), "{again:?}");
    let later = plan(
        &wanted,
        &records,
        find,
        |_| false,
        true,
        &mut sent,
        now + super::PERIOD * 13,
    );
    assert_eq!((later.send.len(), later.delete.len()), (3, 2));
}

#[test]
fn both_ways_to_write_a_kind() {
    for kind in ["Pod", "pods"] {
        assert_eq!(path_of(&record(kind, "ns", "p", "1")).to_string(), "ns/pod/p");
    }
    assert_eq!(
        path_of(&record("Endpoints", "ns", "p", "1")).to_string(),
        "ns/endpoints/p"
    );
    assert_eq!(path_of(&record("Node", "null", "n", "1")).to_string(), "null/node/n");
}

#[tokio::test(start_paused = true)]
async fn devices_a_go_edge_lacks_are_sent_and_those_it_should_not_have_are_deleted() {
    let device = |name: &str| ObjectPath::new("ns", Kind::Device, name);
    let model = ObjectPath::new("ns", Kind::DeviceModel, "m");
    let wanted = vec![
        (device("new"), known("u1", 9, 9)),
        (model.clone(), known("u2", 9, 9)),
        (device("without-model"), known("u4", 9, 9)),
    ];
    let records: Vec<(Uid, Record)> = vec![
        ("u2".into(), record("DeviceModel", "ns", "m", "3")),
        ("u3".into(), record("Device", "ns", "moved", "3")),
    ];
    // It lives on, for another node.
    let find = |path: &ObjectPath| (path.name_str() == "moved").then(|| known("u3", 9, 9));
    let waits = |path: &ObjectPath| path.name_str() == "without-model";
    let plan = |has_devices| {
        plan(
            &wanted,
            &records,
            find,
            waits,
            has_devices,
            &mut Sent::new(),
            Instant::now(),
        )
    };
    let all = plan(true);
    assert_eq!(
        all.send,
        [(device("new"), Operation::Insert), (model, Operation::Update)]
    );
    assert_eq!(all.delete, [(device("moved"), "u3".into())]);
    assert!(plan(false).delete.is_empty(), "absent knowledge removes nothing");
}

#[test]
fn a_record_that_was_begun_only_is_no_acknowledgement() {
    let records: Vec<(Uid, Record)> = vec![
        ("begun".into(), record("DeviceModel", "ns", "a", "0")),
        ("there".into(), record("DeviceModel", "ns", "b", "3")),
    ];
    assert_eq!(super::delivered(&records), [Uid::from("there")].into());
}
