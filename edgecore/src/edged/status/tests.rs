//! The patch between two statuses.

use std::sync::Arc;
use std::time::Duration;

use common::Tasks;
use k8s_openapi::api::core::v1::PodStatus;
use proto::{Object, Uid};
use serde_json::{Value, json};

use super::patch::{patch, status_of};
use super::{Report, StatusManager, Statuses};
use crate::edged::api::Api;
use crate::edged::testing::FakeApi;

fn status(value: &Value) -> PodStatus {
    serde_json::from_value(value.clone()).expect("a status")
}

fn object(status: &Value) -> Object {
    Object::parse(&json!({"metadata": {"name": "web", "uid": "u"}, "status": status}).to_string()).expect("an object")
}

#[test]
fn nothing_changed_means_no_patch() {
    let old = json!({
        "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
        "conditions": [{"type": "Ready", "status": "True", "lastProbeTime": null}],
        "newerField": {"a": 1},
    });
    let new = json!({
        "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    });
    assert_eq!(patch(&Uid::new("u"), &status_of(&object(&old)), &status(&new)), None);
}

#[test]
fn lists_are_merged_by_their_key_and_other_fields_stay() {
    let old = json!({
        "phase": "Pending", "reason": "Old",
        "conditions": [
            {"type": "Mine", "status": "True"}, {"type": "Ready", "status": "False", "reason": "ContainersNotReady"},
        ],
        "podIPs": [{"ip": "10.0.0.1"}],
        "newerField": 1,
    });
    let new = json!({
        "phase": "Running",
        "conditions": [
            {"type": "Mine", "status": "True"}, {"type": "Ready", "status": "True"},
        ],
        "podIPs": [{"ip": "10.0.0.2"}],
    });
    let text = patch(&Uid::new("u"), &status_of(&object(&old)), &status(&new)).expect("a patch");
    let patch: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        patch,
        json!({
            "metadata": {"uid": "u"},
            "status": {
                "phase": "Running",
                "reason": null,
                "$setElementOrder/conditions": [{"type": "Mine"}, {"type": "Ready"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": null}],
                "$setElementOrder/podIPs": [{"ip": "10.0.0.2"}],
                "podIPs": [{"ip": "10.0.0.2"}, {"$patch": "delete", "ip": "10.0.0.1"}],
            }
        })
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_patch_nobody_answers_holds_no_other() {
    let api = Arc::new(FakeApi::new());
    for name in ["a", "b"] {
        api.put(
            &json!({"metadata": {"namespace": "default", "name": name, "uid": name}, "status": {"phase": "Pending"}}),
        );
    }
    api.leave_unanswered("a");
    let tasks = Tasks::new();
    let manager = StatusManager::start(api.clone(), api.pods(), Statuses::default(), &tasks);
    let report = |name: &str, phase: &str| {
        manager.report(Report {
            uid: Uid::new(name),
            namespace: "default".into(),
            name: name.into(),
            status: Arc::new(status(&json!({"phase": phase}))),
            patience: Duration::ZERO,
            finished: false,
        })
    };
    report("a", "Running").await;
    for phase in ["Running", "Succeeded"] {
        report("b", phase).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(api.phase("b"), phase);
    }
    assert_eq!(api.phase("a"), "Pending");
}

#[tokio::test(start_paused = true)]
async fn a_status_that_can_wait_is_not_sent_when_a_newer_one_comes_meanwhile() {
    let api = Arc::new(FakeApi::new());
    api.put(&json!({"metadata": {"namespace": "default", "name": "a", "uid": "a"}, "status": {"phase": "Pending"}}));
    let tasks = Tasks::new();
    let manager = StatusManager::start(api.clone(), api.pods(), Statuses::default(), &tasks);
    let patience = Duration::from_secs(1);
    let report = |phase: &str, message: &str, patience: Duration| {
        manager.report(Report {
            uid: Uid::new("a"),
            namespace: "default".into(),
            name: "a".into(),
            status: Arc::new(status(&json!({"phase": phase, "message": message}))),
            patience,
            finished: false,
        })
    };
    report("Pending", "first", patience).await;
    report("Pending", "second", patience).await;
    tokio::time::sleep(patience / 2).await;
    assert!(api.patches().is_empty());
    tokio::time::sleep(patience).await;
    assert_eq!(api.patches().len(), 1, "the second, when its time is over");
    report("Pending", "third", patience).await;
    report("Running", "", Duration::ZERO).await;
    tokio::time::sleep(patience * 2).await;
    assert_eq!(api.patches().len(), 2);
    assert_eq!(api.phase("a"), "Running");
}
