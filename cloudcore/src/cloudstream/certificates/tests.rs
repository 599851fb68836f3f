//! Certificates without files or handshakes, and files with another clock.

use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use proto::NodeName;
use proto::join::{Authority, Validity};
use rustls::sign::CertifiedKey;
use serde_json::json;

use super::groups::{EDGES, Groups};
use super::signer::{SignError, Signed};
use super::*;
use crate::informers::EdgeHosts;
use crate::kubernetes::fake::FakeApi;

const NOW: Duration = Duration::from_secs(1_795_000_000);
const DAY: Duration = Duration::from_secs(86_400);

fn edge(node: &str, address: &str) -> EdgeHosts {
    EdgeHosts {
        node: NodeName::from(node),
        others: [Host::parse(address)].into(),
    }
}

fn own() -> ServerNames {
    ServerNames {
        dns: vec!["cloud.example".to_owned()],
        addresses: Vec::new(),
    }
}

fn validity(days: u32) -> Validity {
    Validity {
        from: NOW,
        until: NOW + DAY * days,
    }
}

fn names_in(key: &CertifiedKey) -> ServerNames {
    ServerNames::of_certificate(key.end_entity_cert().expect("a leaf")).expect("names")
}

#[test]
fn a_certificate_is_due_for_new_names_and_by_its_age_only() {
    let mut groups = Groups::new(own());
    let first = groups.due(NOW).expect("there is none yet");
    assert_eq!((first.group, &first.names), (0, &own()));
    groups.issued(&first, validity(90));
    assert_eq!(groups.due(NOW), None);
    assert_eq!(groups.next(), Some(NOW + DAY * 60));

    groups.set_edges(vec![edge("edge-1", "192.0.2.1"), edge("edge bad", "192.0.2.2")]);
    let due = groups.due(NOW).expect("an edge joined");
    assert_eq!(
        due.names.dns,
        ["cloud.example", "edge-1"],
        "what is no DNS name is left out"
    );
    assert_eq!(due.names.addresses.len(), 2);
    groups.failed(&due, NOW + Duration::from_secs(5));
    assert_eq!(groups.due(NOW), None);
    groups.issued(&groups.due(NOW + Duration::from_secs(5)).expect("again"), validity(90));

    groups.set_edges(vec![edge("edge-1", "192.0.2.1")]);
    assert_eq!(groups.due(NOW), None, "an edge that left is no reason");
    assert!(!groups.places().contains_key(&Host::parse("192.0.2.2")));
    groups.set_edges(vec![edge("edge-1", "192.0.2.7")]);
    assert!(groups.due(NOW).is_some(), "another address is");
}

#[test]
fn a_large_fleet_has_several_certificates_and_new_edges_change_one() {
    let edges = |count: usize| -> Vec<EdgeHosts> {
        let one = |number: usize| {
            edge(
                &format!("edge-{number}"),
                &format!("10.1.{}.{}", number / 250, number % 250),
            )
        };
        (0..count).map(one).collect()
    };
    let mut groups = Groups::new(own());
    groups.set_edges(edges(2 * EDGES + 1));
    let mut made = 0;
    while let Some(due) = groups.due(NOW) {
        assert!(due.names.dns.len() <= EDGES + 1 && due.names.addresses.len() <= EDGES);
        groups.issued(&due, validity(90));
        made += 1;
    }
    assert_eq!(made, 3);
    let places = groups.places();
    assert_eq!(places.len(), 2 * (2 * EDGES + 1));
    assert_eq!(places.get(&Host::parse("EDGE-0")), places.get(&Host::parse("10.1.0.0")));

    groups.set_edges(edges(2 * EDGES + 2));
    let due = groups.due(NOW).expect("one joined");
    assert_eq!(due.group, 2);
    groups.issued(&due, validity(90));
    assert_eq!(groups.due(NOW), None);
}

/// A signer that works when it is told to, and counts.
struct Moody {
    authority: Authority,
    asked: AtomicU64,
    fails: Mutex<u32>,
}

impl Signer for Moody {
    fn name(&self) -> &'static str {
        "test"
    }

    fn settle(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn sign<'a>(
        &'a self,
        names: &'a ServerNames,
        now: Duration,
    ) -> futures::future::BoxFuture<'a, Result<Signed, SignError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut fails = self.fails.lock();
        let fail = *fails > 0;
        *fails = fails.saturating_sub(1);
        Box::pin(async move {
            if fail {
                return Err(SignError::Unreadable);
            }
            let issued = self.authority.issue_server_for(names, now, signer::LIFETIME)?;
            Signed::new(vec![issued.certificate.into()], issued.key)
        })
    }
}

async fn until(what: &str, mut met: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if met() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{what}");
}

#[tokio::test(start_paused = true)]
async fn edges_that_join_get_into_the_certificate_in_batches_and_it_is_renewed() {
    let tasks = Tasks::new();
    let present = Arc::new(Mutex::new(vec![edge("edge-1", "192.0.2.1")]));
    let (told, changed) = tokio::sync::watch::channel(0);
    let hosts = present.clone();
    let edges = Edges {
        hosts: Box::new(move || hosts.lock().clone()),
        changed,
    };
    let signer = Arc::new(Moody {
        authority: Authority::generate(NOW).expect("a CA"),
        asked: AtomicU64::new(0),
        fails: Mutex::new(2),
    });
    let shown = Arc::new(Shown::default());
    let began = tokio::time::Instant::now();
    let days = Arc::new(AtomicU64::new(0));
    let passed = days.clone();
    let clock = move || NOW + began.elapsed() + DAY * u32::try_from(passed.load(Ordering::Relaxed)).unwrap_or(0);
    let advertised = Addresses::from(IpAddr::from([198, 51, 100, 1])).fixed();
    let keeper = Keeper::new(signer.clone(), own(), advertised, shown.clone(), clock);
    tasks.spawn("keeper", keeper.run(edges));

    let names = |host: &str| shown.get(Some(&Host::parse(host))).map(|key| names_in(&key));
    let has = |host: &str, name: &str| {
        let wanted = ServerNames {
            dns: Vec::new(),
            addresses: vec![name.parse().expect("an address")],
        };
        names(host).is_some_and(|names| names.contain(&wanted))
    };
    until("a certificate in spite of two failures", || has("edge-1", "192.0.2.1")).await;
    assert_eq!(signer.asked.load(Ordering::Relaxed), 3);

    for number in 2..10 {
        let joined = edge(&format!("edge-{number}"), &format!("192.0.2.{number}"));
        present.lock().push(joined);
        told.send_replace(number);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    until("the others", || has("192.0.2.9", "192.0.2.9")).await;
    assert!(signer.asked.load(Ordering::Relaxed) <= 6, "one request for many edges");

    let asked = signer.asked.load(Ordering::Relaxed);
    days.store(59, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(signer.asked.load(Ordering::Relaxed), asked);
    days.store(61, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(
        signer.asked.load(Ordering::Relaxed),
        asked + 1,
        "renewed at two thirds of 90 days"
    );
    assert!(
        shown.get(None).is_some(),
        "a client whose destination is not known gets the first one"
    );
    tasks.stop(DAY).await;
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_advertised_is_named_at_once() {
    let tasks = Tasks::new();
    let (host, advertised) = watch::channel(Addresses::from(IpAddr::from([198, 51, 100, 1])));
    let signer = Arc::new(Moody {
        authority: Authority::generate(NOW).expect("a CA"),
        asked: AtomicU64::new(0),
        fails: Mutex::new(0),
    });
    let shown = Arc::new(Shown::default());
    let keeper = Keeper::new(signer, own(), advertised, shown.clone(), || NOW);
    tasks.spawn("keeper", keeper.run(Edges::none()));
    for number in [1, 2] {
        let address = IpAddr::from([198, 51, 100, number]);
        host.send_replace(address.into());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let names = names_in(&shown.get(None).expect("a certificate"));
        assert!(names.addresses.contains(&address), "{names:?}");
    }
}

/// Certificate and key of a CA of this test's own, in two files; the key by a wrong label.
fn write(folder: &Path, name: &str, days: u32) -> CertificateFiles {
    let authority = Authority::generate(NOW).expect("a CA");
    let names = ServerNames {
        dns: vec![name.to_owned()],
        addresses: Vec::new(),
    };
    let issued = authority.issue_server_for(&names, NOW, DAY * days).expect("issued");
    let files = CertificateFiles {
        certificate: folder.join("stream.crt"),
        key: folder.join("stream.key"),
    };
    let pem = |kind: &str, der: &[u8]| {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n")
    };
    std::fs::write(&files.certificate, pem("CERTIFICATE", &issued.certificate)).expect("written");
    std::fs::write(&files.key, pem("RSA PRIVATE KEY", &issued.key)).expect("written");
    files
}

#[test]
fn files_are_shown_exchanged_and_left_when_they_expire() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |files: &mut Files, now: Duration| files.look(now).map(|key| names_in(&key).dns.concat());
    let paths = write(folder.path(), "one", 30);
    let mut files = Files::new("stream", paths.clone());
    assert_eq!(at(&mut files, NOW).as_deref(), Some("one"));
    assert_eq!(at(&mut files, NOW + DAY * 29).as_deref(), Some("one"));
    assert_eq!(at(&mut files, NOW + DAY * 31), None, "expired");
    assert_eq!(at(&mut files, NOW - DAY), None, "not valid yet");

    write(folder.path(), "other", 60);
    assert_eq!(at(&mut files, NOW + DAY * 31).as_deref(), Some("other"));
    let key = std::fs::read(&paths.key).expect("read");
    std::fs::write(&paths.key, "half a ke").expect("written");
    assert_eq!(at(&mut files, NOW).as_deref(), Some("other"), "the one before it stays");
    std::fs::write(&paths.key, key).expect("written");
    assert_eq!(at(&mut files, NOW).as_deref(), Some("other"));
    std::fs::remove_file(&paths.key).expect("removed");
    std::fs::remove_file(&paths.certificate).expect("removed");
    assert_eq!(at(&mut files, NOW), None);
}

#[test]
fn files_go_before_what_is_issued() {
    let folder = tempfile::tempdir().expect("a folder");
    let shown = Shown::default();
    let issue = |name: &str| {
        let mut files = Files::new("stream", write(folder.path(), name, 30));
        files.look(NOW).expect("good")
    };
    let dns = |destination: Option<&str>| {
        let host = destination.map(Host::parse);
        shown.get(host.as_ref()).map(|key| names_in(&key).dns.concat())
    };
    assert_eq!(dns(None), None);
    shown.put(0, issue("first"));
    shown.put(1, issue("second"));
    shown.set_places([(Host::parse("192.0.2.1"), 1), (Host::parse("192.0.2.2"), 7)].into());
    assert_eq!(dns(Some("192.0.2.1")).as_deref(), Some("second"));
    for unknown in [None, Some("192.0.2.9"), Some("192.0.2.2")] {
        assert_eq!(dns(unknown).as_deref(), Some("first"), "{unknown:?}");
    }
    shown.set_files(Some(issue("files")));
    assert_eq!(dns(Some("192.0.2.1")).as_deref(), Some("files"));
    shown.set_files(None);
    assert_eq!(dns(None).as_deref(), Some("first"));
}

#[tokio::test(start_paused = true)]
async fn kubernetes_signer_is_asked_and_the_request_approved() {
    let api = FakeApi::default();
    let kube = api.kube();
    let signer = KubeletServing::new(kube.client().clone());
    let names = own();
    let (answer, ()) = tokio::join!(signer.sign(&names, NOW), async {
        until("an approval", || {
            api.log().iter().any(|line| line.ends_with("/approval"))
        })
        .await;
    });
    let error = common::chain(&answer.err().expect("nobody signs here"));
    assert!(error.contains("--cluster-signing-kubelet-serving-cert-file"), "{error}");
    let request = api
        .log()
        .iter()
        .find_map(|line| Some(line.strip_prefix("PATCH ")?.strip_suffix("/approval")?.to_owned()))
        .expect("a request");
    let request = api.get(&request).expect("stored");
    assert_eq!(
        request.pointer("/spec/signerName"),
        Some(&json!("kubernetes.io/kubelet-serving"))
    );
    assert_eq!(
        request.pointer("/spec/usages"),
        Some(&json!(["digital signature", "server auth"]))
    );
    assert_eq!(request.pointer("/status/conditions/0/type"), Some(&json!("Approved")));
}
