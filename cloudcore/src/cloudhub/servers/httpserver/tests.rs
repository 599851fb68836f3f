//! The recorded join, replayed against our server: same codes, types and texts, but for what ours refuses and Go does not.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proto::join::{Authority, CertificateName, Token, sign_token};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::cloudhub::identity::unix_now;
use crate::cloudhub::tests::edge::{NodeIdentity, tls};
use crate::cloudhub::tests::fakes::World;

/// Steps that ours answers with another code than Go, which signs too much and knows too little.
const DIFFERENT: [(&str, u16); 9] = [
    ("token, ExtKeyUsages [9]", 500),
    ("token, no NodeName header", 500),
    ("token, CSR for another node than NodeName", 500),
    ("token, CSR with a broken signature", 500),
    ("rotation, CSR for another node", 500),
    ("rotation with a legacy certificate (O=kubeEdge)", 200),
    ("unknown path", 200),
    ("task status, no certificate", 401),
    ("nodeupgrade, no certificate", 401),
];

/// Tokens that only the token's own tests can make.
const SKIPPED: [&str; 2] = ["valid token with HS384", "token without exp"];

struct Answer {
    status: u16,
    content_type: String,
    body: Vec<u8>,
}

async fn exchange(world: &World, identity: Option<&NodeIdentity>, request: &[u8]) -> Answer {
    let ca = world.identity.ca();
    let mut stream = tls(world.hub.https_address(), ca, identity).await.expect("TLS");
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("an answer with a head");
    let head = String::from_utf8(answer[..end].to_vec()).expect("text");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .expect("status");
    let content_type = head
        .lines()
        .find_map(|line| {
            line.split_once(": ")
                .filter(|(name, _)| name.eq_ignore_ascii_case("content-type"))
        })
        .map(|(_, value)| value.to_owned())
        .unwrap_or_default();
    Answer {
        status,
        content_type,
        body: answer[end + 4..].to_vec(),
    }
}

fn with_token(request: &str, authority: &Authority) -> String {
    let jwt = |key: &[u8], expires: u64| {
        let token = sign_token(authority.certificate(), key, expires).expect("signed");
        Token::parse(&token).expect("a token").jwt().to_owned()
    };
    let soon = unix_now().as_secs() + 3600;
    let good = jwt(authority.key(), soon);
    let none = format!(
        "{}.{}.",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#),
        URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{soon}}}"#))
    );
    request
        .replace("redacted.jwt.token", &good)
        .replace("expired.jwt.token", &jwt(authority.key(), 1_700_000_000))
        .replace("foreign.jwt.token", &jwt(b"another key", soon))
        .replace("algnone.jwt.token", &none)
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
    for line in include_str!("../../../../../proto/golden/join.jsonl").lines() {
        let recorded: Value = serde_json::from_str(line).expect("JSON");
        let step = recorded["step"].as_str().expect("step");
        if SKIPPED.contains(&step) {
            continue;
        }
        let identity = recorded["client_certificate"]
            .as_str()
            .map(|description| identity_of(description, authority));
        let head = with_token(recorded["request"].as_str().expect("request"), authority);
        let mut request = head.clone().into_bytes();
        let body = &recorded["request_body"];
        if let Some(base64) = body["base64"].as_str() {
            request.extend(STANDARD.decode(base64).expect("base64"));
        } else if let Some(text) = body["text"].as_str() {
            request.extend(text.as_bytes());
        }
        // The body over the limit is not in the recording.
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok());
        request.resize(request.len().max(head.len() + length.unwrap_or_default()), 0);

        let answer = exchange(&world, identity.as_ref(), &request).await;
        let response = recorded["response"].as_str().expect("response");
        let recorded_status: u16 = response
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .expect("status");
        let different = DIFFERENT
            .iter()
            .find(|(name, _)| *name == step)
            .map(|(_, status)| *status);
        let text = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, different.unwrap_or(recorded_status), "{step}: {text}");
        if different.is_some() {
            continue;
        }
        let typed = response.lines().find_map(|line| line.strip_prefix("Content-Type: "));
        assert_eq!(Some(answer.content_type.as_str()), typed, "{step}");
        match recorded["response_body"]["text"].as_str() {
            // Go's own words follow the first "err: ".
            Some(expected) => {
                let fixed = expected.split_once("err: ").map_or(expected, |(fixed, _)| fixed);
                let fixed = fixed.split_once("invalid character").map_or(fixed, |(fixed, _)| fixed);
                assert!(text.starts_with(fixed), "{step}: {text} instead of {expected}");
            }
            None => assert!(
                CertificateName::of_certificate(&answer.body).is_some(),
                "{step}: no certificate"
            ),
        }
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
    assert_eq!(exchange(&world, Some(&foreign), request.as_bytes()).await.status, 401);
    assert!(world.fake.reports.lock().is_empty());
    let own = NodeIdentity::of_node(authority, "edge-1");
    let answer = exchange(&world, Some(&own), request.as_bytes()).await;
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"ok"[..]));
    let reports = world.fake.reports.lock();
    assert_eq!(
        (reports[0].node.as_str(), reports[0].task_id.as_str()),
        ("edge-1", "u1")
    );
}

#[tokio::test]
async fn strict_mode_gives_no_certificates_without_a_nodes_name() {
    let world = World::start(|settings| settings.legacy_certificates = false).await;
    let authority = world.identity.authority();
    let name = CertificateName {
        organization: "kubeEdge".into(),
        common_name: "kubeedge.io".into(),
    };
    let (csr, _) = crate::cloudhub::tests::edge::csr(&name);
    let head = format!(
        "GET /edge.crt HTTP/1.1\r\nHost: x\r\nConnection: close\r\nNodeName: edge-1\r\nAuthorization: Bearer redacted.jwt.token\r\nContent-Length: {}\r\n\r\n",
        csr.len()
    );
    let request = [with_token(&head, authority).as_bytes(), &csr].concat();
    assert_eq!(exchange(&world, None, &request).await.status, 500);
}
