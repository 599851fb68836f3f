use std::time::Duration;

use proto::{Content, Group, Message, Operation, Route, Source};

use super::*;
use crate::cloudhub::tests::fakes::Fake;
use crate::cloudhub::tests::settings;

fn message(operation: Operation, resource: &str, content: &str) -> Message {
    let route = Route::parse(&Group::Meta, resource);
    let content = Content::from_json_text(content.to_owned()).unwrap();
    Message::new(Source::Edged, Group::Meta, operation, route, content)
}

fn authorizer(change: impl FnOnce(&mut Settings)) -> (Authorizer, Arc<Fake>) {
    let fake = Arc::new(Fake::default());
    fake.pods.lock().insert("default/mine".into(), "edge-1".into());
    fake.pods.lock().insert("default/other".into(), "edge-2".into());
    fake.pods.lock().insert("default/unbound".into(), "".into());
    let mut settings = settings(std::path::Path::new("/"));
    change(&mut settings);
    (Authorizer::new(&settings, fake.clone(), fake.clone()), fake)
}

const MIRROR: &str = r#"{"metadata":{"name":"m-edge-1","namespace":"default","annotations":{"kubernetes.io/config.mirror":"x"}},"spec":{"nodeName":"edge-1","containers":[{"name":"c"}]}}"#;

const STATUS: &str = r#"{"metadata":{"uid":"u"},"status":{"phase":"Running"}}"#;

/// Captured from a Go edge.
const CONDITIONS: &str = r#"{"status":{"$setElementOrder/conditions":[{"type":"MemoryPressure"},{"type":"Ready"}],"conditions":[{"lastHeartbeatTime":"2026-11-20T22:45:43Z","type":"Ready"}]}}"#;

/// A kubelet's, when an address is gone.
const ADDRESSES: &str = r#"{"metadata":{"annotations":{"a":null}},"status":{"$setElementOrder/addresses":[{"type":"Hostname"}],"addresses":[{"address":"h","type":"Hostname"},{"$patch":"replace"}]}}"#;

/// The API server sees no pod in it, and makes a token that outlives every pod.
const HIDDEN: &str = r#"{"spec":{"$serde_json::private::RawValue":"{\"boundObjectRef\":{\"kind\":\"Pod\",\"name\":\"mine\",\"uid\":\"u\"}}"}}"#;

fn labels(key: &str) -> String {
    format!(r#"{{"metadata":{{"labels":{{"{key}":""}}}}}}"#)
}

fn event(name: &str, kind: &str, about: &str) -> String {
    format!(
        r#"{{"metadata":{{"name":"{name}"}},"involvedObject":{{"kind":"{kind}","name":"{about}","namespace":"default"}}}}"#
    )
}

fn event_patch(name: &str, patch: &str) -> String {
    format!(r#"{{"event":{},"patchData":"{patch}"}}"#, event(name, "Node", "edge-1"))
}

fn token(pod: &str) -> String {
    format!(r#"{{"spec":{{"boundObjectRef":{{"kind":"Pod","name":"{pod}","uid":"u"}}}}}}"#)
}

#[tokio::test]
async fn a_node_writes_what_is_its_own() {
    let (authorizer, fake) = authorizer(|_| {});
    let node = NodeName::from("edge-1");
    let with_secret = MIRROR.replace(
        r#"{"name":"c"}"#,
        r#"{"name":"c","envFrom":[{"secretRef":{"name":"s"}}]}"#,
    );
    let with_account = MIRROR.replace(r#""nodeName""#, r#""serviceAccountName":"default","nodeName""#);
    let elsewhere = MIRROR.replace(r#""nodeName":"edge-1""#, r#""nodeName":"edge-2""#);
    let owned = MIRROR.replace(
        r#""annotations""#,
        r#""ownerReferences":[{"kind":"ReplicaSet","name":"r"}],"annotations""#,
    );
    let twice = MIRROR.replace(
        r#""containers""#,
        r#""containers":[{"name":"c","envFrom":[{"secretRef":{"name":"s"}}]}],"containers""#,
    );
    let plain = MIRROR.replace("kubernetes.io/config.mirror", "x");
    for (operation, resource, content, allowed) in [
        (Operation::Insert, "null/node/edge-1", "null", true),
        (
            Operation::Insert,
            "null/node/edge-1",
            &labels("node-role.kubernetes.io/edge"),
            true,
        ),
        (
            Operation::Insert,
            "null/node/edge-1",
            &labels("node-restriction.kubernetes.io/a"),
            false,
        ),
        (
            Operation::Insert,
            "default/nodestatus/edge-1",
            &labels("kubernetes.io/a"),
            false,
        ),
        (Operation::Patch, "default/nodepatch/edge-1", STATUS, true),
        (
            Operation::Patch,
            "default/nodepatch/edge-1",
            &labels("example.com/a"),
            true,
        ),
        (
            Operation::Patch,
            "default/nodepatch/edge-1",
            &labels("node-role.kubernetes.io/control-plane"),
            false,
        ),
        (
            Operation::Patch,
            "default/nodepatch/edge-1",
            r#"{"$patch":"delete"}"#,
            false,
        ),
        (
            Operation::Insert,
            "null/node/edge-1",
            r#"{"metadata":{"labels":{"$patch":"replace"}}}"#,
            false,
        ),
        (
            Operation::Patch,
            "default/nodepatch/edge-1",
            r#"{"metadata":{"labels":{"$patch":"replace","a":"b"}}}"#,
            false,
        ),
        (
            Operation::Patch,
            "default/nodepatch/edge-1",
            r#"{"metadata":{"labels":{"$retainKeys":["a"]}}}"#,
            false,
        ),
        (
            Operation::Patch,
            "default/nodepatch/edge-1",
            r#"{"metadata":{"labels":null}}"#,
            false,
        ),
        (
            Operation::Patch,
            "default/nodepatch/edge-1",
            r#"{"metadata":{"annotations":{"$patch":"delete"}}}"#,
            false,
        ),
        (
            Operation::Patch,
            "default/nodepatch/edge-1",
            r#"{"metadata":{"labels":{"kubernetes.io/a":"b"},"labels":{}}}"#,
            false,
        ),
        (
            Operation::Patch,
            "default/nodepatch/edge-1",
            r#"{"metadata":null}"#,
            false,
        ),
        (Operation::Patch, "default/nodepatch/edge-1", CONDITIONS, true),
        (Operation::Patch, "default/nodepatch/edge-1", ADDRESSES, true),
        (
            Operation::Patch,
            "default/nodepatch/edge-1",
            r#"{"metadata":{"finalizers":[]}}"#,
            false,
        ),
        (Operation::Patch, "default/nodepatch/edge-1", "null", false),
        (Operation::Update, "default/nodestatus/edge-1", "null", true),
        (Operation::Patch, "null/nodepatch/edge-2", "null", false),
        (Operation::Update, "kube-node-lease/lease/edge-1", "null", true),
        (
            Operation::Insert,
            "kube-node-lease/lease/edge-1",
            r#"{"metadata":{"name":"edge-1"}}"#,
            true,
        ),
        (
            Operation::Insert,
            "kube-node-lease/lease/edge-1",
            r#"{"metadata":{"name":"edge-2"}}"#,
            false,
        ),
        (Operation::Update, "kube-node-lease/lease/edge-2", "null", false),
        (Operation::Update, "kube-system/lease/edge-1", "null", false),
        (Operation::Patch, "default/podpatch/mine", STATUS, true),
        (Operation::Patch, "default/podpatch/mine", CONDITIONS, true),
        (Operation::Patch, "default/podpatch/mine", &labels("a"), false),
        (
            Operation::Patch,
            "default/podpatch/mine",
            r#"{"metadata":{"annotations":{"$patch":"replace"}}}"#,
            false,
        ),
        (Operation::Patch, "default/podpatch/other", STATUS, false),
        (Operation::Patch, "default/podpatch/unbound", STATUS, false),
        (Operation::Patch, "default/podpatch/unknown", STATUS, true),
        (Operation::Update, "default/podstatus", "null", true),
        (Operation::Delete, "default/pod/other", "null", false),
        (Operation::Insert, "default/event/e", "null", false),
        (
            Operation::Insert,
            "default/event/e",
            &event("edge-1.1", "Node", "edge-1"),
            true,
        ),
        (
            Operation::Insert,
            "default/event/e",
            &event("edge-2.1", "Node", "edge-2"),
            false,
        ),
        (
            Operation::Insert,
            "default/event/e",
            &event("other.1", "Node", "edge-1"),
            false,
        ),
        (
            Operation::Update,
            "default/event/e",
            &event("mine.1", "Pod", "mine"),
            true,
        ),
        (
            Operation::Update,
            "default/event/e",
            &event("other.1", "Pod", "other"),
            false,
        ),
        (
            Operation::Insert,
            "default/event/e",
            &event("s.1", "Secret", "s"),
            false,
        ),
        (
            Operation::Patch,
            "default/event/e",
            &event_patch("edge-1.1", "{}"),
            true,
        ),
        (
            Operation::Patch,
            "default/event/e",
            &event_patch("edge-1.1", r#"{\"count\":2}"#),
            true,
        ),
        (
            Operation::Patch,
            "default/event/e",
            &event_patch("edge-1.1", r#"{\"involvedObject\":{}}"#),
            false,
        ),
        (
            Operation::Patch,
            "default/event/e",
            &event_patch("edge-1.1", r#"{\"$retainKeys\":[\"count\"]}"#),
            false,
        ),
        (
            Operation::Patch,
            "default/event/e",
            &event_patch("edge-1.1", "no patch"),
            false,
        ),
        (Operation::Insert, "default/certificatesigningrequest/c", "null", false),
        (Operation::Query, "default/serviceaccounttoken/sa", "null", false),
        (
            Operation::Query,
            "default/serviceaccounttoken/sa",
            &token("other"),
            false,
        ),
        (Operation::Query, "default/serviceaccounttoken/sa", HIDDEN, false),
        (Operation::Insert, "default/pod/m-edge-1", MIRROR, true),
        (Operation::Insert, "default/pod/another", MIRROR, false),
        (Operation::Insert, "default/pod/m-edge-1", &with_secret, false),
        (Operation::Insert, "default/pod/m-edge-1", &with_account, false),
        (Operation::Insert, "default/pod/m-edge-1", &elsewhere, false),
        (Operation::Insert, "default/pod/m-edge-1", &twice, false),
        (Operation::Insert, "default/pod/m-edge-1", &plain, false),
        (Operation::Insert, "default/pod/m-edge-1", &owned, false),
        (Operation::Query, "default/deployment/d", "null", false),
        (Operation::from("Delta"), "a/b/c/d", "null", false),
    ] {
        let verdict = authorizer
            .authorize(&node, &message(operation.clone(), resource, content))
            .await;
        assert_eq!(verdict.is_ok(), allowed, "{operation} {resource}: {verdict:?}");
    }
    assert!(fake.reviews.lock().is_empty(), "{:?}", fake.reviews.lock());
}

#[tokio::test(start_paused = true)]
async fn what_a_node_reads_is_asked_and_remembered() {
    let (authorizer, fake) = authorizer(|_| {});
    let node = NodeName::from("edge-1");
    let ask = async |resource: &str| {
        authorizer
            .authorize(&node, &message(Operation::Query, resource, "null"))
            .await
    };
    for _ in 0..3 {
        assert!(ask("default/secret/allowed").await.is_ok());
        assert!(ask("default/secret/hidden").await.is_err());
    }
    let asked = message(Operation::Query, "default/serviceaccounttoken/allowed", &token("mine"));
    assert!(authorizer.authorize(&node, &asked).await.is_ok());
    assert!(ask("default/volumeattachment/allowed").await.is_ok());
    assert_eq!(
        *fake.reviews.lock(),
        [
            "edge-1: get secrets default allowed",
            "edge-1: get secrets default hidden",
            "edge-1: create serviceaccounts/token default allowed",
            "edge-1: get volumeattachments allowed",
        ]
    );
    tokio::time::advance(Duration::from_secs(3)).await;
    assert!(ask("default/secret/allowed").await.is_ok());
    assert!(ask("default/secret/hidden").await.is_err());
    assert_eq!(fake.reviews.lock().len(), 5, "a refusal is asked about again soon");
}

#[tokio::test]
async fn debug_and_off_let_everything_pass() {
    let forbidden = message(Operation::Patch, "null/nodepatch/edge-2", "null");
    for change in [
        |settings: &mut Settings| settings.authorization = false,
        |settings: &mut Settings| settings.authorization_debug = true,
    ] {
        let (authorizer, _) = authorizer(change);
        assert!(authorizer.authorize(&"edge-1".into(), &forbidden).await.is_ok());
    }
}

#[tokio::test]
async fn devices_and_the_edge_api_read_nothing_of_edged() {
    let (authorizer, fake) = authorizer(|_| {});
    for source in [Source::MetaServer, Source::Twin] {
        for (resource, allowed) in [
            ("default/secret/allowed", false),
            ("null/persistentvolume/allowed", false),
            ("null/volumeattachment/allowed", false),
            ("default/service/s", true),
        ] {
            let mut question = message(Operation::Query, resource, "null");
            question.source = source.clone();
            let verdict = authorizer.authorize(&"edge-1".into(), &question).await;
            assert_eq!(verdict.is_ok(), allowed, "{source} {resource}: {verdict:?}");
        }
    }
    assert!(fake.reviews.lock().is_empty());
}

#[tokio::test]
async fn a_node_reports_about_its_own_devices() {
    let (authorizer, _) = authorizer(|_| {});
    for (resource, allowed) in [
        ("device/default/mine/twin/edge_updated", true),
        ("device/default/other/twin/edge_updated", false),
        ("device/default/other/state/update", false),
        ("membership/detail", true),
    ] {
        let mut report = message(Operation::Update, resource, "{}");
        report.source = Source::Twin;
        let verdict = authorizer.authorize(&"edge-1".into(), &report).await;
        assert_eq!(verdict.is_ok(), allowed, "{resource}");
        if let Err(Refused { reason }) = verdict {
            let answer = refusal(&report, proto::Features::default(), &"edge-1".into(), &reason).expect("an answer");
            assert_eq!((answer.parent, answer.content.get()), (Some(report.id), r#""OK""#));
        }
    }
}
