use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::SanType;
use serde_json::Value;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::*;
use crate::ids::NodeName;

const NOW: Duration = Duration::from_secs(1_795_000_000);

/// The body of the request that this step of the recorded join sent.
fn recorded_request(step: &str) -> Vec<u8> {
    let recording = include_str!("../../golden/join.jsonl");
    let exchange = recording
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let exchange = exchange
        .into_iter()
        .find(|exchange| exchange["step"] == step)
        .expect("step is in the recording");
    let body = &exchange["request_body"];
    match body["text"].as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => STANDARD.decode(body["base64"].as_str().unwrap()).unwrap(),
    }
}

fn recorded_ca() -> Vec<u8> {
    let recording = include_str!("../../golden/join.jsonl");
    let first: Value = serde_json::from_str(recording.lines().next().unwrap()).unwrap();
    STANDARD
        .decode(first["response_body"]["base64"].as_str().unwrap())
        .unwrap()
}

#[test]
fn requests_of_go_edges_are_read() {
    let node = NodeName::from("sim-1");
    for step in [
        "issue with token",
        "token, legacy CSR",
        "rotation with the client certificate",
    ] {
        CertificateRequest::check(&recorded_request(step), &node).expect(step);
    }
    let refused = |step: &str| CertificateRequest::check(&recorded_request(step), &node).expect_err(step);
    assert!(matches!(
        refused("token, CSR for another node than NodeName"),
        BadRequest::Name { .. }
    ));
    assert!(matches!(
        refused("token, CSR with a broken signature"),
        BadRequest::Unverified(_)
    ));
    assert!(matches!(refused("token, garbage CSR"), BadRequest::Malformed));
    assert!(matches!(
        CertificateRequest::check(b"", &node),
        Err(BadRequest::Malformed)
    ));
    let nameless = CertificateRequest::check(&recorded_request("issue with token"), &NodeName::from(""));
    assert!(matches!(nameless, Err(BadRequest::Name { .. })));
    assert!(matches!(ExtendedKeyUsages::parse("[9]"), Err(BadRequest::Usage(9))));
    assert!(matches!(
        ExtendedKeyUsages::parse("x"),
        Err(BadRequest::UsagesMalformed(_))
    ));
}

#[test]
fn no_cut_request_panics() {
    let request = recorded_request("issue with token");
    for end in 0..request.len() {
        assert!(CertificateRequest::check(&request[..end], &NodeName::from("sim-1")).is_err());
    }
    for position in 0..request.len() {
        for value in [0, 1, 0x30, 0x31, 0x80, 0xff] {
            let mut changed = request.clone();
            changed[position] = value;
            let _ = CertificateRequest::check(&changed, &NodeName::from("sim-1"));
        }
    }
}

#[test]
fn an_edge_certificate_has_the_fields_of_the_recorded_one() {
    let authority = Authority::generate(NOW).unwrap();
    let request = CertificateRequest::check(&recorded_request("issue with token"), &NodeName::from("sim-1")).unwrap();
    let days = Duration::from_secs(365 * 86_400);
    let der = authority
        .issue_edge(&request, ExtendedKeyUsages::DEFAULT, NOW, days)
        .unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(
        certificate.subject().to_string(),
        "O=system:nodes, CN=system:node:sim-1"
    );
    assert_eq!(certificate.issuer().to_string(), "CN=KubeEdge");
    assert_eq!(certificate.validity().not_before.timestamp(), 1_795_000_000 - 300);
    assert_eq!(
        certificate.validity().not_after.timestamp(),
        1_795_000_000 + 365 * 86_400
    );
    assert!(certificate.basic_constraints().unwrap().is_none());
    assert!(certificate.subject_alternative_name().unwrap().is_none());
    let usage = certificate.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature() && usage.value.key_encipherment());
    let extended = certificate.extended_key_usage().unwrap().unwrap();
    assert!(!extended.critical && extended.value.client_auth && !extended.value.server_auth);
    let oids: Vec<String> = certificate
        .extensions()
        .iter()
        .map(|extension| extension.oid.to_id_string())
        .collect();
    assert!(
        oids.contains(&"2.5.29.35".to_owned()),
        "no authority key identifier in {oids:?}"
    );
    assert!(!oids.contains(&"2.5.29.19".to_owned()), "basicConstraints in {oids:?}");
    let (_, ca) = X509Certificate::from_der(authority.certificate()).unwrap();
    assert!(certificate.verify_signature(Some(ca.public_key())).is_ok());
}

#[test]
fn a_certificate_serves_under_no_name_of_others() {
    let authority = Authority::generate(NOW).unwrap();
    let node = NodeName::from("sim-1");
    let usages = ExtendedKeyUsages::parse("[1,2]").unwrap();
    let names = |node: &NodeName, dns: &[&str], address: [u8; 4]| {
        let der = recorded_request("issue with token, ExtKeyUsages [1,2], SANs in the CSR");
        let mut request = CertificateRequest::check(&der, &NodeName::from("sim-1")).unwrap();
        let of_others = ServerNames {
            dns: dns.iter().map(|name| (*name).to_owned()).collect(),
            addresses: vec![address.into()],
        };
        request.keep_own_names(node, &of_others);
        let der = authority.issue_edge(&request, usages, NOW, Duration::from_secs(86_400));
        let names = ServerNames::of_certificate(&der.unwrap()).unwrap_or_default();
        (names.dns, names.addresses.len())
    };
    let own = vec!["sim-1".to_owned()];
    assert_eq!(names(&node, &["cloud"], [192, 0, 2, 1]), (own.clone(), 1));
    assert_eq!(
        names(&node, &["cloud"], [10, 250, 0, 2]),
        (own, 0),
        "the cloud's address"
    );
    assert_eq!(
        names(&node, &["sim-1"], [10, 250, 0, 2]),
        (Vec::new(), 0),
        "its name too"
    );
    assert_eq!(
        names(&"sim-2".into(), &[], [192, 0, 2, 1]),
        (Vec::new(), 1),
        "another node's name"
    );
}

#[test]
fn nor_does_it_under_another_spelling_of_one() {
    let of_others = ServerNames {
        dns: vec!["Cloud.example".to_owned()],
        addresses: vec![[192, 0, 2, 1].into()],
    };
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let address = |text: &str| SanType::IpAddress(text.parse().unwrap());
    let der = recorded_request("issue with token, ExtKeyUsages [1,2], SANs in the CSR");
    for (node, name, kept) in [
        ("edge.example", dns("edge.example"), true),
        ("cloud.example", dns("cloud.example"), false),
        ("*.example", dns("*.example"), false),
        ("edge.example", address("192.0.2.7"), true),
        ("edge.example", address("::ffff:192.0.2.7"), true),
        ("edge.example", address("::ffff:192.0.2.1"), false),
        ("edge.example", address("::ffff:127.0.0.1"), true),
    ] {
        let mut request = CertificateRequest::check(&der, &NodeName::from("sim-1")).unwrap();
        let what = format!("{name:?}");
        request.subject_alt_names = vec![name];
        request.keep_own_names(&node.into(), &of_others);
        assert_eq!(!request.subject_alt_names.is_empty(), kept, "{what}");
    }
}

#[test]
fn host_names_get_in_with_server_authentication_only() {
    let authority = Authority::generate(NOW).unwrap();
    let der = recorded_request("issue with token, ExtKeyUsages [1,2], SANs in the CSR");
    let request = CertificateRequest::check(&der, &NodeName::from("sim-1")).unwrap();
    let issue = |usages| {
        authority
            .issue_edge(&request, usages, NOW, Duration::from_secs(86_400))
            .unwrap()
    };
    let both = ServerNames::of_certificate(&issue(ExtendedKeyUsages::parse("[1,2]").unwrap())).unwrap();
    assert_eq!(both.dns, ["sim-1"]);
    assert_eq!(both.addresses, ["10.250.0.2".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(
        ServerNames::of_certificate(&issue(ExtendedKeyUsages::DEFAULT)).unwrap(),
        ServerNames::default()
    );
}

#[test]
fn the_ca_has_the_fields_of_the_recorded_one_and_comes_back_from_its_bytes() {
    let made = Authority::generate(NOW).unwrap();
    let authority = Authority::new(made.certificate().clone(), made.key().to_vec()).unwrap();
    assert_eq!(authority.key().len(), 121, "SEC1 with the curve named");
    let go = recorded_ca();
    let (_, ours) = X509Certificate::from_der(authority.certificate()).unwrap();
    let (_, theirs) = X509Certificate::from_der(&go).unwrap();
    assert_eq!(ours.subject().to_string(), theirs.subject().to_string());
    assert_eq!(ours.tbs_certificate.serial, theirs.tbs_certificate.serial);
    assert_eq!(
        ours.key_usage().unwrap().unwrap().value.flags,
        theirs.key_usage().unwrap().unwrap().value.flags
    );
    assert_eq!(
        ours.extended_key_usage().unwrap().unwrap().value,
        theirs.extended_key_usage().unwrap().unwrap().value
    );
    assert!(ours.basic_constraints().unwrap().unwrap().critical && ours.is_ca());
    let lifetime = |c: &X509Certificate<'_>| c.validity().not_after.timestamp() - c.validity().not_before.timestamp();
    assert_eq!(lifetime(&ours), lifetime(&theirs));
    let other = Authority::generate(NOW).unwrap();
    let mixed = Authority::new(made.certificate().clone(), other.key().to_vec());
    assert!(matches!(mixed, Err(AuthorityError::Mismatch)));
    assert!(matches!(
        Authority::new(made.certificate().clone(), b"x".to_vec()),
        Err(AuthorityError::Key)
    ));
}

#[test]
fn a_server_certificate_names_what_it_should_and_nothing_empty() {
    let authority = Authority::generate(NOW).unwrap();
    let wanted = ServerNames {
        dns: vec![String::new(), "cloud.example".into()],
        addresses: vec!["192.0.2.2".parse().unwrap(), "2001:db8::1".parse().unwrap()],
    };
    let issued = authority.issue_server(&wanted, NOW).unwrap();
    let names = ServerNames::of_certificate(&issued.certificate).unwrap();
    assert!(names.contain(&wanted));
    assert_eq!(names.dns, ["cloud.example"]);
    let more = ServerNames {
        dns: vec!["b".into()],
        ..ServerNames::default()
    };
    assert!(!names.contain(&more) && names.union(&more).contain(&more));
    assert!(rustls_pki_types::PrivateKeyDer::try_from(issued.key.as_slice()).is_ok());
}
