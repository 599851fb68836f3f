//! The recorded join, replayed against our server; what ours refuses and Go does not.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::places::Places;
use common::tls::server::{ClientCertificates, server_config};
use proto::golden::{Differences, Replay, join, join_answer};
use proto::join::{Authority, CertificateName, ServerNames, Token, sign_token};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::{HANDSHAKE, connect};
use crate::cloudhub::Identity;
use crate::cloudhub::identity::unix_now;
use crate::cloudhub::tests::edge::{NodeIdentity, csr, tls};
use crate::cloudhub::tests::fakes::World;
use crate::cloudhub::tests::{Memory, settings};

/// The answer as it comes.
async fn exchange(world: &World, identity: Option<&NodeIdentity>, request: &[u8]) -> Vec<u8> {
    let ca = world.identity.ca();
    let mut stream = tls(world.hub.https_address(), ca, identity).await.expect("TLS");
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

/// An answer that is a text, with its status.
fn told(answer: &[u8]) -> (u16, String) {
    let answer = String::from_utf8_lossy(answer);
    let (head, text) = answer.split_once("\r\n\r\n").expect("an answer with a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.expect("a status"), text.to_owned())
}

fn identity_of(description: &str, authority: &Authority) -> NodeIdentity {
    let name = CertificateName::of_node(&"sim-1".into());
    let now = unix_now();
    match description {
        "system:node:sim-1" => NodeIdentity::of_node(authority, "sim-1"),
        "kubeedge.io, O=kubeEdge" => NodeIdentity::legacy(authority, "kubeEdge"),
        "kubeedge.io, O=KubeEdge" => NodeIdentity::legacy(authority, "KubeEdge"),
        "system:node:sim-1, self-signed" => {
            NodeIdentity::of_node(&Authority::generate(now).expect("another CA"), "sim-1")
        }
        "system:node:sim-1, expired" => {
            NodeIdentity::issue(authority, &name, "sim-1", now - Duration::from_secs(3 * 86_400), "[2]")
        }
        "system:node:sim-1, EKU serverAuth only" => NodeIdentity::issue(authority, &name, "sim-1", now, "[1]"),
        other => panic!("unknown certificate in the recording: {other}"),
    }
}

#[tokio::test]
async fn the_recorded_join() {
    let world = World::start(|_| {}).await;
    let authority = world.identity.authority();
    let allowed = Differences::committed(Replay::Join);
    for recorded in join() {
        let description = recorded.client_certificate.as_deref();
        let identity = description.map(|description| identity_of(description, authority));
        let request = recorded.request_again(authority.key(), unix_now().as_secs());
        let ours = join_answer(&exchange(&world, identity.as_ref(), &request).await);
        let found = allowed.compare_join(recorded.method(), &recorded.step, &recorded.answer(), &ours);
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert!(found.is_empty(), "{}: {found:#?}", recorded.step);
    }
    assert_eq!(allowed.unused(), [""; 0]);
}

/// What is said in place of Go's answers, which give too much and know too little.
#[tokio::test]
async fn what_go_answers_and_ours_does_not() {
    let world = World::start(|_| {}).await;
    let authority = world.identity.authority();
    let not_signed = "failed to sign certs for edgenode sim-1, err: ";
    let needed = "the client certificate of the node is required";
    for (step, status, text) in [
        ("token, ExtKeyUsages [9]", 500, not_signed),
        ("token, no NodeName header", 500, "failed to sign certs for edgenode "),
        ("token, CSR for another node than NodeName", 500, not_signed),
        ("token, CSR with a broken signature", 500, not_signed),
        ("rotation, CSR for another node", 500, not_signed),
        (
            "token without exp",
            401,
            "token validation failure, err: token has invalid claims",
        ),
        ("task status, no certificate", 401, needed),
        ("nodeupgrade, no certificate", 401, needed),
        ("unknown path", 200, "ok"),
    ] {
        let recorded = join().into_iter().find(|recorded| recorded.step == step).expect(step);
        let description = recorded.client_certificate.as_deref();
        let identity = description.map(|description| identity_of(description, authority));
        let request = recorded.request_again(authority.key(), unix_now().as_secs());
        let (code, said) = told(&exchange(&world, identity.as_ref(), &request).await);
        assert_eq!(code, status, "{step}: {said}");
        assert!(said.starts_with(text), "{step}: {said}");
    }
}

#[tokio::test]
async fn reports_on_tasks_need_the_nodes_certificate() {
    let world = World::start(|_| {}).await;
    let authority = world.identity.authority();
    let body = r#"{"UpgradeID":"u1","HistoryID":"h","NodeName":"edge-1","Status":"upgrade_success"}"#;
    let request = format!(
        "POST /nodeupgrade HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let foreign = NodeIdentity::of_node(authority, "edge-2");
    assert_eq!(told(&exchange(&world, Some(&foreign), request.as_bytes()).await).0, 401);
    assert!(world.fake.reports.lock().is_empty());
    let own = NodeIdentity::of_node(authority, "edge-1");
    let answer = exchange(&world, Some(&own), request.as_bytes()).await;
    assert_eq!(told(&answer), (200, "ok".to_owned()));
    let reports = world.fake.reports.lock();
    assert_eq!(
        (reports[0].node.as_str(), reports[0].task_id.as_str()),
        ("edge-1", "u1")
    );
}

/// Asks for a certificate in this name for edge-1, to serve with too, showing a certificate or a token.
async fn renewal(world: &World, shown: Option<&NodeIdentity>, organization: &str, common_name: &str) -> Vec<u8> {
    let authority = world.identity.authority();
    let (csr, _) = csr(&CertificateName {
        organization: organization.into(),
        common_name: common_name.into(),
    });
    let soon = unix_now().as_secs() + 3600;
    let token = sign_token(authority.certificate(), authority.key(), soon).expect("signed");
    let head = format!(
        "GET /edge.crt HTTP/1.1\r\nHost: x\r\nConnection: close\r\nNodeName: edge-1\r\nExtKeyUsages: [1,2]\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
        Token::parse(&token).expect("a token").jwt(),
        csr.len()
    );
    let request = [head.as_bytes(), &csr].concat();
    exchange(world, shown, &request).await
}

#[tokio::test]
async fn nobody_serves_under_a_name_that_is_reserved() {
    let world = World::start(|_| {}).await;
    world.identity.reserve(&ServerNames {
        dns: vec!["edge-1".into()],
        addresses: vec![[192, 0, 2, 9].into()],
    });
    let authority = world.identity.authority();
    let own = NodeIdentity::of_node(authority, "edge-1");
    let mut params =
        CertificateParams::new(vec!["edge-1".into(), "192.0.2.7".into(), "192.0.2.9".into()]).expect("names");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, "system:node:edge-1");
    let pair = KeyPair::generate().expect("a key");
    let csr = params.serialize_request(&pair).expect("a request");
    let head = format!(
        "GET /edge.crt HTTP/1.1\r\nHost: x\r\nConnection: close\r\nNodeName: edge-1\r\nExtKeyUsages: [1,2]\r\nContent-Length: {}\r\n\r\n",
        csr.der().len()
    );
    let request = [head.as_bytes(), csr.der()].concat();
    let answer = exchange(&world, Some(&own), &request).await;
    let body = answer
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .expect("a head")
        + 4;
    let names = ServerNames::of_certificate(&answer[body..]).expect("a certificate");
    assert_eq!((names.dns.len(), names.addresses), (0, vec![[192, 0, 2, 7].into()]));
}

/// The usage `serverAuth` as a certificate has it: 1.3.6.1.5.5.7.3.1.
const SERVER_AUTH: [u8; 10] = [0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];

#[tokio::test]
async fn nobody_gets_more_than_was_proven() {
    let (node, legacy) = ("system:node:edge-1", "kubeedge.io");
    for (legacy_certificates, shown, organization, name, status) in [
        (true, Some(node), "system:nodes", node, 200),
        // It would let in as any node.
        (true, Some(node), "KubeEdge", legacy, 500),
        (true, Some(legacy), "kubeEdge", legacy, 200),
        (true, Some(legacy), "system:nodes", node, 200),
        (true, None, "kubeEdge", legacy, 200),
        (false, Some(node), "system:nodes", node, 200),
        (false, Some(legacy), "system:nodes", node, 401),
        (false, Some(legacy), "kubeEdge", legacy, 401),
        (false, None, "kubeEdge", legacy, 500),
    ] {
        let world = World::start(|settings| settings.legacy_certificates = legacy_certificates).await;
        let authority = world.identity.authority();
        let identity = shown.map(|shown| match shown {
            "kubeedge.io" => NodeIdentity::legacy(authority, "kubeEdge"),
            _ => NodeIdentity::of_node(authority, "edge-1"),
        });
        let answer = renewal(&world, identity.as_ref(), organization, name).await;
        let what = format!(
            "{legacy_certificates} {shown:?} {name}: {}",
            String::from_utf8_lossy(&answer)
        );
        assert!(answer.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{what}");
        let serves = answer.windows(SERVER_AUTH.len()).any(|bytes| bytes == SERVER_AUTH);
        assert_eq!(serves, status == 200 && name == node, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_begins_no_tls_is_not_waited_for_as_long_as_who_asks() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = settings(folder.path());
    let identity = Identity::load(&settings, Arc::new(Memory::default())).await;
    let certificate = identity.expect("an identity").server_certificate();
    let tls = server_config(certificate, ClientCertificates::Requested).expect("TLS");
    let peer = SocketAddr::from(([192, 0, 2, 1], 4711));
    let mut places = Places::new("test", 1);
    let come = |_| std::future::ready(Ok::<_, io::Error>(((), peer)));
    let ((), _, place) = places.next(come).await.expect("a place");
    let (_silent, stream) = tokio::io::duplex(64);
    let (acceptor, router, start) = (TlsAcceptor::from(Arc::new(tls)), axum::Router::new(), Instant::now());
    connect(acceptor, router, stream, peer, Arc::new(place)).await;
    assert_eq!(start.elapsed().as_secs(), HANDSHAKE.as_secs());
}
