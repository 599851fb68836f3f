//! Certificates of two CAs, tokens and rights, against an API server in memory.

use std::time::Duration;

use proto::join::Authority;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};

use super::*;
use crate::cloudhub::unix_now;
use crate::kubernetes::fake::FakeApi;

const RIGHT: Right = Right {
    verb: "get",
    subresource: "proxy",
};

fn access(api: &FakeApi, ca: Option<&Authority>) -> Access {
    let verifier = ca.map(|ca| common::tls::server::client_verifier(ca.certificate().clone()).expect("a verifier"));
    Access::new(api.kube(), watch::channel(verifier).1)
}

fn certificate(authority: &Authority) -> Vec<CertificateDer<'static>> {
    let issued = authority.issue_client("kubelet-client", unix_now()).expect("issued");
    vec![CertificateDer::from(issued.certificate)]
}

fn review(status: &Value) -> Option<(u16, Value)> {
    Some((
        201,
        json!({"metadata": {}, "spec": {"user": "x", "token": "x"}, "status": status}),
    ))
}

#[tokio::test]
async fn a_certificate_counts_by_the_clusters_ca_only() {
    let (cluster, other) = (
        Authority::generate(unix_now()).expect("a CA"),
        Authority::generate(unix_now()).expect("a CA"),
    );
    let api = FakeApi::default();
    let access = access(&api, Some(&cluster));
    let (good, foreign) = (certificate(&cluster), certificate(&other));
    let shown = |certificates| Credentials {
        certificates,
        token: None,
    };
    let known = access.authenticate(shown(&good)).await.expect("known");
    assert_eq!(known.user, "kubelet-client");
    assert_eq!(known.groups, ["KubeEdge", "system:authenticated"]);
    assert_eq!(access.authenticate(shown(&foreign)).await, Err(Denied::Unauthorized));
    assert_eq!(access.authenticate(shown(&[])).await, Err(Denied::Unauthorized));
    assert!(api.log().is_empty(), "{:?}", api.log());
}

#[tokio::test]
async fn a_foreign_certificate_does_not_spoil_a_token() {
    let other = Authority::generate(unix_now()).expect("a CA");
    let api = FakeApi::default();
    api.force(review(
        &json!({"authenticated": true, "user": {"username": "someone", "groups": ["a"]}}),
    ));
    let access = access(&api, None);
    let certificates = certificate(&other);
    let credentials = Credentials {
        certificates: &certificates,
        token: Some("abc"),
    };
    for _ in 0..3 {
        assert_eq!(access.authenticate(credentials).await.expect("known").user, "someone");
    }
    assert_eq!(api.log().len(), 1, "asked once: {:?}", api.log());
}

#[tokio::test(start_paused = true)]
async fn a_right_is_asked_for_by_node_and_given_soon_after_it_was_refused() {
    let api = FakeApi::default();
    let access = access(&api, None);
    let (subject, node) = (Subject::default(), NodeName::from("edge-1"));
    api.force(review(&json!({"allowed": false})));
    let refused = access.authorize(&subject, &node, RIGHT).await;
    assert!(
        matches!(&refused, Err(Denied::Forbidden(text)) if text.contains("name=edge-1")),
        "{refused:?}"
    );
    api.force(review(&json!({"allowed": true})));
    assert!(
        access.authorize(&subject, &node, RIGHT).await.is_err(),
        "the refusal counts for a moment"
    );
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(access.authorize(&subject, &node, RIGHT).await, Ok(()));
    api.force(Some((500, json!({"message": "broken"}))));
    assert_eq!(access.authorize(&subject, &node, RIGHT).await, Ok(()));
    let other = access.authorize(&subject, &NodeName::from("edge-2"), RIGHT).await;
    assert!(matches!(other, Err(Denied::Unknown(_))), "{other:?}");
}
