use proto::{Namespace, Object};
use serde_json::json;

use super::fake::FakeApi;
use super::*;

#[tokio::test]
async fn refusals_come_back_as_the_server_said_them() {
    let api = FakeApi::default();
    let error = api
        .kube()
        .get(&LEASES, &"kube-node-lease".into(), "n")
        .await
        .expect_err("absent");
    assert!(error.is_not_found());
    let status = error.into_status();
    assert_eq!(status.message, "leases.coordination.k8s.io \"n\" not found");
    assert_eq!(
        status.details,
        Some(json!({"name": "n", "group": "coordination.k8s.io", "kind": "leases"}))
    );
    assert_eq!((status.kind, status.api_version), (None, None));
}

#[tokio::test]
async fn names_cannot_leave_their_place_in_the_path() {
    let api = FakeApi::default();
    for name in ["..", "a/b", "a?b", "a%2fb", ""] {
        let error = api.kube().get(&PODS, &"ns".into(), name).await.expect_err(name);
        assert_eq!(error.into_status().code, 400, "{name}");
        api.kube().delete(&PODS, &"ns".into(), name, "").await.expect_err(name);
    }
    assert!(api.log().is_empty(), "{:?}", api.log());
}

#[tokio::test]
async fn unknown_fields_survive() {
    let api = FakeApi::default();
    let object = Object::from_value(&json!({"metadata": {"name": "n"}, "future": {"x": [1, 2.50]}})).expect("object");
    let created = api
        .kube()
        .create(&NODES, &Namespace::cluster(), &object)
        .await
        .expect("created");
    assert!(created.json().contains(r#""future":{"x":[1,2.5]}"#));
}

#[test]
fn stored_kinds_become_resources() {
    for (api_version, kind, path) in [
        ("v1", "Pod", "/api/v1/namespaces/ns/pods/x"),
        ("v1", "pods", "/api/v1/namespaces/ns/pods/x"),
        ("v1", "Endpoints", "/api/v1/namespaces/ns/endpoints/x"),
        (
            "policy/v1",
            "NetworkPolicy",
            "/apis/policy/v1/namespaces/ns/networkpolicies/x",
        ),
        (
            "devices.kubeedge.io/v1beta1",
            "Device",
            "/apis/devices.kubeedge.io/v1beta1/namespaces/ns/devices/x",
        ),
        ("x/v1", "Glass", "/apis/x/v1/namespaces/ns/glasses/x"),
    ] {
        let resource = Resource::guess(api_version, kind, true);
        assert_eq!(resource.path(Some(&"ns".into()), "x", "").expect("path"), path);
    }
}
