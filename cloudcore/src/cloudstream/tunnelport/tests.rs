use std::net::IpAddr;
use std::time::Duration;

use common::Tasks;
use proto::Object;
use proto::tunnelport::{ANNOTATION, SECOND_ANNOTATION, TunnelPortRecord};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::pods::Pods;
use super::*;
use crate::kubernetes::fake::FakeApi;

const PATH: &str = "/api/v1/namespaces/kubeedge/configmaps/tunnelport";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

/// A cloudcore with one address.
fn at(text: &str) -> Addresses {
    Addresses {
        first: ip(text),
        second: None,
    }
}

fn annotation(api: &FakeApi, key: &str) -> Option<String> {
    let map = api.get(PATH).expect("ConfigMap");
    map["metadata"]["annotations"][key].as_str().map(str::to_owned)
}

fn record(api: &FakeApi) -> String {
    annotation(api, ANNOTATION).expect("annotation")
}

fn config_map(annotations: Value) -> Value {
    json!({"metadata": {"name": "tunnelport", "namespace": "kubeedge", "annotations": annotations}, "data": {"kept": "yes"}})
}

fn pod(name: &str, host_network: bool, ip: &str) -> Object {
    let pod = json!({"metadata": {"name": name, "namespace": "kubeedge"}, "spec": {"hostNetwork": host_network},
        "status": {"podIP": ip, "podIPs": [{"ip": ip}]}});
    Object::from_value(&pod).expect("object")
}

#[tokio::test]
async fn the_first_cloudcore_makes_the_config_map_and_the_second_adds_itself() {
    let api = FakeApi::default();
    assert_eq!(
        claim::claim(&api.kube(), at("10.0.0.5"), None)
            .await
            .expect("claimed")
            .1,
        10351
    );
    assert_eq!(
        claim::claim(&api.kube(), at("fd00::6"), None).await.expect("claimed").1,
        10352
    );
    assert_eq!(
        record(&api),
        r#"{"ipTunnelPort":{"10.0.0.5":10351,"fd00::6":10352},"port":{"10351":true,"10352":true}}"#
    );
    let writes = api.log().len();
    claim::claim(&api.kube(), at("10.0.0.5"), None).await.expect("claimed");
    assert_eq!(api.log().len(), writes + 1, "what is there already is only read");
}

#[tokio::test]
async fn a_second_address_is_beside_the_record_that_go_reads() {
    let api = FakeApi::default();
    let go = r#"{"ipTunnelPort":{"10.0.0.9":10351},"port":{"10351":true}}"#;
    api.put(PATH, config_map(json!({ANNOTATION: go})));
    let both = Addresses {
        second: Some(ip("fd00::5")),
        ..at("10.0.0.5")
    };
    assert_eq!(claim::claim(&api.kube(), both, None).await.expect("claimed").1, 10352);
    assert_eq!(
        record(&api),
        r#"{"ipTunnelPort":{"10.0.0.5":10352,"10.0.0.9":10351},"port":{"10351":true,"10352":true}}"#
    );
    let second = || annotation(&api, SECOND_ANNOTATION);
    assert_eq!(second().as_deref(), Some(r#"{"10.0.0.5":"fd00::5"}"#));
    let writes = api.log().len();
    claim::claim(&api.kube(), both, None).await.expect("claimed");
    assert_eq!(api.log().len(), writes + 1, "what is there already is only read");

    claim::claim(&api.kube(), at("10.0.0.5"), None).await.expect("claimed");
    assert_eq!(second(), None, "a host that has lost its second address");
    claim::claim(&api.kube(), both, None).await.expect("claimed");
    claim::release(&api.kube(), ip("10.0.0.5")).await.expect("released");
    assert_eq!((record(&api).as_str(), second()), (go, None));
}

#[tokio::test]
async fn config_maps_without_a_record_are_repaired() {
    for annotations in [
        json!(null),
        json!({}),
        json!({ANNOTATION: "{}"}),
        json!({ANNOTATION: "oh"}),
    ] {
        let api = FakeApi::default();
        api.put(PATH, config_map(annotations.clone()));
        let claimed = claim::claim(&api.kube(), at("10.0.0.5"), None).await;
        assert_eq!(claimed.expect("claimed").1, 10351, "{annotations}");
        assert_eq!(
            record(&api),
            r#"{"ipTunnelPort":{"10.0.0.5":10351},"port":{"10351":true}}"#
        );
        assert_eq!(api.get(PATH).expect("there")["data"]["kept"], "yes");
    }
}

#[tokio::test]
async fn a_conflict_is_answered_with_a_fresh_read() {
    let api = FakeApi::default();
    api.refuse("POST /api/v1/namespaces/kubeedge/configmaps", 409, "AlreadyExists");
    api.refuse(&format!("PATCH {PATH}"), 409, "Conflict");
    api.put(PATH, config_map(json!({})));
    claim::claim(&api.kube(), at("10.0.0.5"), None).await.expect("claimed");
    let gets = api.log().iter().filter(|line| line.starts_with("GET")).count();
    assert_eq!(gets, 2);
    let (one, two) = (api.kube(), api.kube());
    let both = futures::future::join(
        claim::claim(&one, at("10.0.0.6"), None),
        claim::claim(&two, at("10.0.0.7"), None),
    )
    .await;
    assert_ne!(both.0.expect("claimed").1, both.1.expect("claimed").1);
}

#[tokio::test(start_paused = true)]
async fn the_entry_is_kept_and_nobody_waits_for_the_api() {
    let api = FakeApi::default();
    api.force(Some((
        403,
        json!({"kind": "Status", "code": 403, "reason": "Forbidden", "message": "no"}),
    )));
    let tasks = Tasks::new();
    let (port, mut port_told) = watch::channel(1);
    let (records, mut records_told) = watch::channel(None);
    let (maps, map_events) = mpsc::channel(8);
    let (pods, pod_events) = mpsc::channel(8);
    let keeper = keeper::Keeper::new(api.kube(), at("10.0.0.5").fixed(), port, records);
    tasks.spawn_draining("tunnelport", |stop| keeper.run(map_events, pod_events, stop));

    port_told.changed().await.expect("told");
    assert_eq!(
        *port_told.borrow_and_update(),
        10351,
        "forbidden: the first port, as if alone"
    );
    assert!(api.get(PATH).is_none());

    api.force(None);
    let go = r#"{"ipTunnelPort":{"10.0.0.9":10351},"port":{"10351":true}}"#;
    api.put(PATH, config_map(json!({ANNOTATION: go})));
    port_told.changed().await.expect("told");
    assert_eq!(*port_told.borrow_and_update(), 10352, "10351 is a Go cloudcore's");

    // A manager of Go takes the entry away; it comes back with both maps right.
    let map = api.put(PATH, config_map(json!({ANNOTATION: go})));
    maps.send(Seen::Modified(Object::from_value(&map).expect("object")))
        .await
        .expect("running");
    tokio::time::timeout(Duration::from_secs(30), async {
        while !record(&api).contains("10.0.0.5") {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("back");
    records_told.changed().await.expect("told");

    // Another replica's pod is deleted, then this one ends, which is a pod with a network of its own.
    pods.send(Seen::Deleted(pod("other", false, "10.0.0.9")))
        .await
        .expect("running");
    pods.send(Seen::Added(pod("this", false, "10.0.0.5")))
        .await
        .expect("running");
    tokio::time::timeout(Duration::from_secs(30), async {
        while record(&api).contains("10.0.0.9") {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("released");
    assert!(tasks.stop(Duration::from_secs(5)).await);
    assert_eq!(record(&api), r#"{"ipTunnelPort":{},"port":{}}"#);
}

#[tokio::test(start_paused = true)]
async fn the_entry_follows_the_addresses_of_the_host() {
    let api = FakeApi::default();
    let go = r#"{"ipTunnelPort":{"10.0.0.9":10351},"port":{"10351":true}}"#;
    api.put(PATH, config_map(json!({ANNOTATION: go})));
    let tasks = Tasks::new();
    let (host, own) = watch::channel(at("10.0.0.5"));
    let (port, port_told) = watch::channel(1);
    let (records, mut records_told) = watch::channel(None);
    let (_maps, map_events) = mpsc::channel(8);
    let (_pods, pod_events) = mpsc::channel(8);
    let keeper = keeper::Keeper::new(api.kube(), own, port, records);
    tasks.spawn_draining("tunnelport", |stop| keeper.run(map_events, pod_events, stop));
    for (first, second) in [
        ("10.0.0.5", None),
        ("10.0.0.5", Some("fd00::5")),
        ("10.0.0.5", Some("fd00::6")),
        ("10.0.0.7", Some("fd00::6")),
    ] {
        host.send_replace(Addresses {
            second: second.map(ip),
            ..at(first)
        });
        records_told.changed().await.expect("told");
        assert_eq!(
            record(&api),
            format!(r#"{{"ipTunnelPort":{{"{first}":10352,"10.0.0.9":10351}},"port":{{"10351":true,"10352":true}}}}"#)
        );
        let second = second.map(|second| format!(r#"{{"{first}":"{second}"}}"#));
        assert_eq!(annotation(&api, SECOND_ANNOTATION), second);
        assert_eq!(*port_told.borrow(), 10352, "nodes keep their port");
    }
    assert!(tasks.stop(Duration::from_secs(5)).await);
}

#[test]
fn addresses_of_hosts_stay_and_pods_that_vanished_unseen_are_found() {
    let mut pods = Pods::default();
    pods.apply(&Seen::Listing);
    pods.apply(&Seen::Listed(pod("a", false, "10.0.0.5")));
    pods.apply(&Seen::Listed(pod("b", true, "192.168.0.1")));
    pods.apply(&Seen::Synced);
    assert!(pods.has(ip("10.0.0.5")) && !pods.has(ip("192.168.0.1")));
    assert!(pods.apply(&Seen::Deleted(pod("b", true, "192.168.0.1"))).is_empty());
    pods.apply(&Seen::Listing);
    assert_eq!(
        pods.apply(&Seen::Synced).into_iter().collect::<Vec<_>>(),
        [ip("10.0.0.5")]
    );
}

#[test]
fn the_view_follows_one_config_map() {
    let map = Object::from_value(&config_map(json!({}))).expect("object");
    let mut view = ConfigMapView::default();
    assert!(view.apply(Seen::Listing).is_none());
    assert!(view.apply(Seen::Listed(map.clone())).is_none());
    assert!(view.apply(Seen::Synced).expect("known").is_some());
    assert!(view.apply(Seen::Deleted(map)).expect("known").is_none());
    assert!(TunnelPortRecord::parse("{}").is_ok());
}
