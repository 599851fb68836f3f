//! What the API server is told, with a fake one; questions over TLS as it asks them.

use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::registration::{CONFIGURATION, Place};
use super::server::CONNECTIONS;
use super::*;
use crate::cloudhub::tests::Memory;
use crate::kubernetes::fake::FakeApi;

const DEVICES: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/devices.devices.kubeedge.io";
const MODELS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/devicemodels.devices.kubeedge.io";
const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/kubeedge-cloudcore";

fn advertised() -> watch::Receiver<Addresses> {
    Addresses::from(IpAddr::from([192, 0, 2, 1])).fixed()
}

fn url(text: &str) -> Target {
    Target::Url(text.to_owned())
}

async fn identity(folder: &TempDir) -> Identity {
    let settings = crate::cloudhub::tests::settings(folder.path());
    Identity::load(&settings, Arc::new(Memory::default()))
        .await
        .expect("an identity")
}

/// An API server with the CRDs as they are applied.
fn api() -> FakeApi {
    let api = FakeApi::default();
    let service = json!({"namespace": "kubeedge", "name": "cloudcore", "port": 10006, "path": "/convert"});
    let webhook = json!({"conversionReviewVersions": ["v1"], "clientConfig": {"service": service}});
    for path in [DEVICES, MODELS] {
        let conversion = json!({"strategy": "Webhook", "webhook": webhook});
        api.put(
            path,
            json!({"metadata": {}, "spec": {"group": "devices.kubeedge.io", "conversion": conversion}}),
        );
    }
    api
}

async fn keeper(api: &FakeApi, folder: &TempDir, target: Target) -> Keeper {
    let ca = identity(folder).await.ca().clone();
    let tls = cloud_config(&[ca], None).expect("a client");
    Keeper::new(api.kube(), Registration::new(target, "the CA"), tls)
}

fn client(api: &FakeApi, path: &str) -> Value {
    let object = api.get(path).expect("there");
    let conversion = object.pointer("/spec/conversion/webhook/clientConfig");
    let hook = object.pointer("/webhooks/0/clientConfig");
    conversion.or(hook).cloned().expect("a client configuration")
}

#[tokio::test]
async fn the_api_server_is_told_once_and_again_when_it_forgets() {
    let (api, folder) = (api(), TempDir::new().expect("a folder"));
    let mut keeper = keeper(&api, &folder, Target::Service(10006)).await;
    keeper.look().await;
    let service = |path| json!({"service": {"namespace": "kubeedge", "name": "cloudcore", "port": 10006, "path": path}, "caBundle": "dGhlIENB"});
    assert_eq!(client(&api, DEVICES), service("/convert"));
    assert_eq!(client(&api, MODELS), service("/convert"));
    assert_eq!(client(&api, HOOKS), service("/devices"));
    assert_eq!(api.get(HOOKS).expect("made")["webhooks"][1]["failurePolicy"], "Ignore");
    keeper.look().await;
    let writes = |api: &FakeApi| api.log().iter().filter(|line| !line.starts_with("GET")).count();
    assert_eq!(writes(&api), 3, "nothing is written twice: {:?}", api.log());
    let mut broken = api.get(DEVICES).expect("there");
    broken["spec"]["conversion"]["webhook"]["clientConfig"]["caBundle"] = json!("eA==");
    api.put(DEVICES, broken);
    let mut without = api.get(MODELS).expect("there");
    without["spec"]["conversion"] = json!({"strategy": "None"});
    api.put(MODELS, without);
    keeper.look().await;
    assert_eq!(client(&api, DEVICES), service("/convert"));
    assert_eq!(client(&api, MODELS), service("/convert"));
    assert_eq!(writes(&api), 5);
}

#[tokio::test]
async fn outside_the_cluster_the_url_takes_the_place_of_the_service() {
    let (api, folder) = (api(), TempDir::new().expect("a folder"));
    keeper(&api, &folder, url("https://192.0.2.1:10006")).await.look().await;
    let by_url = |path| json!({"url": format!("https://192.0.2.1:10006{path}"), "caBundle": "dGhlIENB"});
    assert_eq!(client(&api, DEVICES), by_url("/convert"));
    assert_eq!(client(&api, HOOKS), by_url("/devices"));
}

#[tokio::test]
async fn a_cloudcore_that_answers_keeps_its_place_and_a_silent_one_loses_it() {
    let (api, folder) = (api(), TempDir::new().expect("a folder"));
    let tasks = Tasks::new();
    let identity = identity(&folder).await;
    let certificate = certificates::own_certificate(ServerNames::default(), advertised(), &identity, &tasks);
    let tls = server_config(certificate, ClientCertificates::None).expect("a server");
    let other = listen(([127, 0, 0, 1], 0).into()).await;
    let other_url = format!("https://{}", other.local_addr().expect("bound"));
    let server = Server::new(
        TlsAcceptor::from(Arc::new(tls)),
        &mut Registry::default(),
        tasks.clone(),
    );
    let serving = tasks.child();
    serving.spawn("other", server.accept(other));
    let first = Registration::new(url(&other_url), "the CA");
    for path in [DEVICES, MODELS] {
        let patch = first.patch(Place::Crd(""), &json!({})).expect("a patch");
        api.put(path, patch);
    }
    api.put(HOOKS, first.configuration());
    let tls = cloud_config(&[identity.ca().clone()], None).expect("a client");
    let mut keeper = Keeper::new(api.kube(), Registration::new(url("https://127.0.0.1:1"), "the CA"), tls);
    for _ in 0..3 {
        keeper.look().await;
    }
    assert_eq!(client(&api, DEVICES)["url"], format!("{other_url}/convert"));
    serving.token().cancel();
    for _ in 0..4 {
        keeper.look().await;
    }
    for (path, question) in [(DEVICES, "convert"), (MODELS, "convert"), (HOOKS, "devices")] {
        assert_eq!(client(&api, path)["url"], format!("https://127.0.0.1:1/{question}"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_default_url_follows_the_advertised_address() {
    let (api, folder) = (api(), TempDir::new().expect("a folder"));
    let settings = Settings::new(&config::cloudcore::Webhook::default(), false);
    let (host, advertised) = watch::channel(Addresses::from(IpAddr::from([127, 0, 0, 1])));
    let target = move || settings.target(advertised.borrow().first);
    let keeper = keeper(&api, &folder, target()).await;
    let tasks = Tasks::new();
    tasks.spawn("keeper", keeper.run(target));
    for (address, base) in [
        ("127.0.0.1", "https://127.0.0.1:10006"),
        ("192.0.2.1", "https://192.0.2.1:10006"),
        ("2001:db8::1", "https://[2001:db8::1]:10006"),
    ] {
        let address: IpAddr = address.parse().expect("an address");
        host.send_replace(address.into());
        sleep(Duration::from_secs(60)).await;
        for (path, question) in [(DEVICES, "convert"), (MODELS, "convert"), (HOOKS, "devices")] {
            assert_eq!(client(&api, path)["url"], format!("{base}/{question}"));
        }
    }
}

#[test]
fn a_loopback_url_is_nobodys() {
    let known = |target: &str, other: &str| {
        let other = Registration::new(url(other), "the CA").configuration();
        Registration::new(url(target), "the CA").other(Place::Configuration, &other)
    };
    let (outside, inside) = ("https://192.0.2.1:1", "https://127.0.0.1:1");
    assert_eq!(known(outside, inside), None);
    assert_eq!(known(outside, "https://[::1]:1"), None);
    assert_eq!(known(inside, outside).as_deref(), Some(outside));
    assert_eq!(known("https://127.0.0.1:2", inside).as_deref(), Some(inside));
    assert_eq!(known(inside, inside), None);
}

#[tokio::test]
async fn a_loopback_url_gives_way_once() {
    let (api, folder) = (api(), TempDir::new().expect("a folder"));
    let (outside, inside) = ("https://192.0.2.1:1", "https://127.0.0.1:1");
    let mut keeper = keeper(&api, &folder, url(outside)).await;
    let beside = Registration::new(url(inside), "the CA");
    for expected in [outside, inside] {
        for path in [DEVICES, MODELS] {
            let patch = beside.patch(Place::Crd(""), &json!({})).expect("a patch");
            api.put(path, patch);
        }
        api.put(HOOKS, beside.configuration());
        for _ in 0..5 {
            keeper.look().await;
        }
        for (path, question) in [(DEVICES, "convert"), (MODELS, "convert"), (HOOKS, "devices")] {
            assert_eq!(client(&api, path)["url"], format!("{expected}/{question}"));
        }
    }
}

#[tokio::test]
async fn without_crds_or_rights_it_goes_on() {
    let (api, folder) = (FakeApi::default(), TempDir::new().expect("a folder"));
    api.refuse(
        &format!("POST {}", HOOKS.trim_end_matches(&format!("/{CONFIGURATION}"))),
        403,
        "Forbidden",
    );
    let mut keeper = keeper(&api, &folder, Target::Service(10006)).await;
    keeper.look().await;
    assert_eq!(api.get(HOOKS), None);
    keeper.look().await;
    assert!(api.get(HOOKS).is_some());
}

/// A question of JSON, as long as it says.
async fn ask(address: SocketAddr, identity: &Identity, head: &str, body: &str) -> (u16, String) {
    let length = format!("Content-Length: {}", body.len());
    send(address, identity, head, &length, body).await
}

async fn connected(address: SocketAddr, identity: &Identity) -> TlsStream<TcpStream> {
    let tls = cloud_config(&[identity.ca().clone()], None).expect("a client");
    let stream = TcpStream::connect(address).await.expect("connected");
    let name = SERVICE.try_into().expect("a name");
    let connecting = TlsConnector::from(Arc::new(tls)).connect(name, stream);
    connecting.await.expect("TLS")
}

async fn send(address: SocketAddr, identity: &Identity, head: &str, length: &str, body: &str) -> (u16, String) {
    let mut tls = connected(address, identity).await;
    let headers = "Host: x\r\nConnection: close\r\nContent-Type: application/json";
    let request = format!("{head} HTTP/1.1\r\n{headers}\r\n{length}\r\n\r\n{body}");
    tls.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await.expect("read");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (code.expect("a status"), body.to_owned())
}

/// A server, and whose CA its certificate is of.
async fn serving(folder: &TempDir, tasks: &Tasks) -> (SocketAddr, Identity) {
    let identity = identity(folder).await;
    let certificate = certificates::own_certificate(ServerNames::default(), advertised(), &identity, tasks);
    let tls = server_config(certificate, ClientCertificates::None).expect("a server");
    let listener = listen(([127, 0, 0, 1], 0).into()).await;
    let address = listener.local_addr().expect("bound");
    let server = Server::new(
        TlsAcceptor::from(Arc::new(tls)),
        &mut Registry::default(),
        tasks.clone(),
    );
    tasks.spawn("server", server.accept(listener));
    (address, identity)
}

#[tokio::test]
async fn questions_are_answered_over_tls() {
    let (folder, tasks) = (TempDir::new().expect("a folder"), Tasks::new());
    let (address, identity) = serving(&folder, &tasks).await;
    let device = json!({"apiVersion": "devices.kubeedge.io/v1alpha2", "kind": "Device", "metadata": {"name": "a"}});
    let request = json!({"uid": "7", "desiredAPIVersion": "devices.kubeedge.io/v1beta1", "objects": [device]});
    let review =
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "request": request}).to_string();
    let (code, body) = ask(address, &identity, "POST /convert", &review).await;
    assert_eq!(code, 200);
    assert!(body.contains(r#""apiVersion":"devices.kubeedge.io/v1beta1""#), "{body}");
    let (code, body) = ask(address, &identity, "POST /devices", &review).await;
    assert_eq!((code, body.contains("is not the review")), (400, true), "{body}");
    assert_eq!(ask(address, &identity, "GET /convert", "").await.0, 405);
    assert_eq!(
        ask(address, &identity, "GET /healthz", "").await,
        (200, "ok".to_owned())
    );
    let announced = |length: &'static str| send(address, &identity, "POST /devices", length, "");
    assert_eq!(announced("Content-Length: 8388609").await.0, 413, "without reading it");
    assert_eq!(announced("Transfer-Encoding: chunked").await.0, 411);
}

#[tokio::test]
async fn no_edge_serves_where_api_servers_ask() {
    let (folder, tasks) = (TempDir::new().expect("a folder"), Tasks::new());
    let identity = identity(&folder).await;
    for (fixed, address) in [
        ("https://hooks.example:10006", "192.0.2.8"),
        ("https://192.0.2.9", "192.0.2.9"),
    ] {
        let parts = Parts {
            settings: Settings {
                address: ([127, 0, 0, 1], 0).into(),
                fixed: Some(url(fixed)),
            },
            identity: identity.clone(),
            names: ServerNames {
                dns: Vec::new(),
                addresses: vec![[192, 0, 2, 8].into()],
            },
            advertised: advertised(),
            kube: api().kube(),
        };
        start(parts, &mut Registry::default(), &tasks).expect("started");
        let names = identity.names_of_the_cloud();
        let has = |name: &str| names.dns.iter().any(|of| of == name);
        assert!(has("cloudcore.kubeedge.svc") && has("hooks.example"), "{names:?}");
        assert!(
            names.addresses.contains(&address.parse().expect("an address")),
            "{names:?}"
        );
    }
}

#[tokio::test]
async fn who_asks_nothing_gives_way_to_who_asks() {
    let (folder, tasks) = (TempDir::new().expect("a folder"), Tasks::new());
    let (address, identity) = serving(&folder, &tasks).await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS {
        silent.push(connected(address, &identity).await);
    }
    let answer = timeout(Duration::from_secs(30), ask(address, &identity, "GET /healthz", ""));
    assert_eq!(answer.await, Ok((200, "ok".to_owned())));
}

#[test]
fn hosts_and_urls() {
    let host = |url| host_of(url).map(|(host, port)| format!("{host} {port}"));
    assert_eq!(host("https://192.0.2.1:10006").as_deref(), Some("192.0.2.1 10006"));
    assert_eq!(
        host("https://[2001:db8::1]:10006").as_deref(),
        Some("2001:db8::1 10006")
    );
    assert_eq!(host("https://cloud.example").as_deref(), Some("cloud.example 443"));
    assert_eq!(host("http://cloud.example"), None);
    let mut section = config::cloudcore::Webhook::default();
    let target = |section: &config::cloudcore::Webhook, in_cluster| {
        Settings::new(section, in_cluster).target(IpAddr::from([192, 0, 2, 1]))
    };
    assert_eq!(target(&section, true), Target::Service(10006));
    assert_eq!(target(&section, false), url("https://192.0.2.1:10006"));
    section.url = "https://cloud.example".to_owned();
    assert_eq!(target(&section, true), url("https://cloud.example"));
}
