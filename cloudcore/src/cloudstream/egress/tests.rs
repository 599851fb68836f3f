//! The endpoint without Kubernetes: the proxy in memory, and over TLS what certificates open.

use std::net::IpAddr;
use std::path::Path;

use parking_lot::Mutex;
use proto::join::{Authority, CertificateRequest, ExtendedKeyUsages};
use rustls_pki_types::{PrivateKeyDer, PrivateSec1KeyDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::*;
use crate::cloudhub::tests::{Memory, settings as hub_settings};

/// Edges at 192.0.2.*, which say where they were wanted and send back what comes.
#[derive(Default)]
struct Edges {
    wanted: Mutex<Vec<Host>>,
}

impl Kubelets for Edges {
    fn is_edge(&self, host: &Host) -> bool {
        matches!(host, Host::Address(address) if address.to_string().starts_with("192.0.2."))
    }

    fn serve(&self, mut connection: Box<dyn Connection>, _: SocketAddr, destination: Host) -> BoxFuture<'_, ()> {
        self.wanted.lock().push(destination);
        Box::pin(async move {
            let (mut reader, mut writer) = tokio::io::split(&mut connection);
            // The test looks at what came back.
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        })
    }
}

async fn connect(edges: &Arc<Edges>, pass_through: bool, caller: Caller, request: &str) -> (DuplexStream, String) {
    let tasks = Tasks::new();
    let proxy = Arc::new(Proxy::new(edges.clone(), pass_through, tasks.clone()));
    let (mut client, server) = duplex(65_536);
    let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    tasks.spawn("served", async move { proxy.serve(server, peer, caller, None).await });
    client.write_all(request.as_bytes()).await.expect("written");
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(char::from(client.read_u8().await.expect("a head")));
    }
    (client, head.lines().next().unwrap_or_default().to_owned())
}

fn ask(target: &str) -> String {
    format!("CONNECT {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
}

#[tokio::test]
async fn a_kubelet_of_an_edge_is_reached_through_the_stream_server_under_its_name() {
    let edges = Arc::new(Edges::default());
    let (mut client, status) = connect(&edges, false, Caller::Allowed, &ask("192.0.2.7:10351")).await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    client.write_all(b"\x16\x03\x01").await.expect("written");
    let mut back = [0; 3];
    client.read_exact(&mut back).await.expect("sent back");
    assert_eq!(&back, b"\x16\x03\x01");
    assert_eq!(*edges.wanted.lock(), [Host::parse("192.0.2.7")]);
}

#[tokio::test]
async fn refusals_say_why_in_the_line_that_an_api_server_shows() {
    let edges = Arc::new(Edges::default());
    for (pass_through, caller, request, expected) in [
        (
            false,
            Caller::Allowed,
            ask("198.51.100.1:443"),
            "403 198.51.100.1:443 is not the kubelet of an edge",
        ),
        (
            false,
            Caller::Allowed,
            ask("192.0.2.7:22"),
            "403 192.0.2.7:22 is not the kubelet",
        ),
        (
            true,
            Caller::Allowed,
            ask("127.0.0.1:9091"),
            "403 cloudcore cannot reach 127.0.0.1:9091",
        ),
        (
            true,
            Caller::Allowed,
            ask("[::1]:9091"),
            "403 cloudcore cannot reach [::1]:9091",
        ),
        (
            true,
            Caller::Allowed,
            ask("no.such.host.invalid:1"),
            "502 cloudcore cannot reach no.such.host.invalid:1",
        ),
        (
            true,
            Caller::Stranger("system:node:edge-1".to_owned()),
            ask("192.0.2.7:10351"),
            "403 a certificate named \"system:node:edge-1\"",
        ),
        (
            true,
            Caller::Allowed,
            "GET http://192.0.2.7:10351/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "405 only CONNECT",
        ),
    ] {
        let (_, status) = connect(&edges, pass_through, caller, &request).await;
        assert!(
            status.starts_with(&format!("HTTP/1.1 {expected}")),
            "{request}: {status}"
        );
    }
    assert!(edges.wanted.lock().is_empty());
}

fn settings(folder: &Path) -> Settings {
    Settings {
        address: None,
        unix_socket: None,
        client_ca_file: None,
        client_names: vec![settings::CLIENT_NAME.to_owned()],
        pass_through: false,
        folder: Some(folder.to_owned()),
    }
}

async fn identity(folder: &Path, secrets: &Arc<Memory>) -> Identity {
    Identity::load(&hub_settings(folder), secrets.clone())
        .await
        .expect("an identity")
}

/// A handshake as the holder of a certificate; what the endpoint makes of it.
async fn shown(access: Arc<Access>, identity: &Identity, certificate: Vec<u8>, key: Vec<u8>) -> io::Result<Caller> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let own = common::tls::client::Identity {
        chain: vec![certificate.into()],
        key: PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(key)),
    };
    let config = common::tls::client::client_config(&[identity.ca().clone()], Some(own)).expect("a configuration");
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let stream = TcpStream::connect(listener.local_addr()?).await?;
    let (accepted, _) = listener.accept().await?;
    let (server, _) = tokio::join!(access.accept(accepted), async {
        // TLS 1.3 tells a client of a refusal only when it reads.
        let mut tls = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let _ = tokio::time::timeout(Duration::from_millis(200), tls.read_u8()).await;
        io::Result::Ok(())
    });
    server.map(|(_, caller)| caller)
}

#[tokio::test]
async fn only_the_certificate_for_api_servers_opens_the_endpoint() {
    let (folder, secrets) = (tempfile::tempdir().expect("a folder"), Arc::new(Memory::default()));
    let identity = identity(folder.path(), &secrets).await;
    let access = Arc::new(Access::new(&settings(folder.path()), &identity).expect("access"));
    let now = crate::cloudhub::unix_now();
    let good = identity
        .authority()
        .issue_client(settings::CLIENT_NAME, now)
        .expect("issued");
    let caller = shown(access.clone(), &identity, good.certificate, good.key)
        .await
        .expect("let in");
    assert_eq!(caller, Caller::Allowed);

    let pair = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, "system:nodes");
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "system:node:edge-1");
    let request = params.serialize_request(&pair).expect("a request");
    let request = CertificateRequest::check(request.der(), &"edge-1".into()).expect("good");
    let edge = identity
        .authority()
        .issue_edge(&request, ExtendedKeyUsages::DEFAULT, now, Duration::from_secs(3600));
    let key = proto::join::ec_private_key(&pair).expect("P-256");
    let caller = shown(access.clone(), &identity, edge.expect("issued"), key)
        .await
        .expect("a handshake");
    assert_eq!(caller, Caller::Stranger("system:node:edge-1".to_owned()));

    let foreign = Authority::generate(now)
        .expect("a CA")
        .issue_client(settings::CLIENT_NAME, now)
        .expect("issued");
    assert!(
        shown(access, &identity, foreign.certificate, foreign.key)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn what_an_api_server_needs_is_made_once_and_handed_out() {
    let (folder, secrets) = (tempfile::tempdir().expect("a folder"), Arc::new(Memory::default()));
    let identity = identity(folder.path(), &secrets).await;
    let mut settings = settings(folder.path());
    settings.address = Some(([0, 0, 0, 0], 10005).into());
    let advertised = "2001:db8::1".parse().expect("an address");
    let files = material::files(&settings, advertised, &identity, None).expect("made");
    let text = |files: &std::collections::BTreeMap<String, Vec<u8>>, name: &str| {
        String::from_utf8(files.get(name).cloned().unwrap_or_default()).expect("text")
    };
    let configuration = text(&files, "egress-selector.yaml");
    assert!(
        configuration.contains("url: https://[2001:db8::1]:10005\n"),
        "{configuration}"
    );
    assert!(configuration.contains(&format!("clientKey: {}/client.key\n", folder.path().display())));
    let again = material::files(&settings, advertised, &identity, Some(&files)).expect("the same");
    assert_eq!(
        text(&files, "client.crt"),
        text(&again, "client.crt"),
        "an API server has read it already"
    );

    let other_folder = tempfile::tempdir().expect("a folder");
    let other = Identity::load(&hub_settings(other_folder.path()), Arc::new(Memory::default()))
        .await
        .expect("another CA");
    let anew = material::files(&settings, advertised, &other, Some(&files)).expect("made");
    assert_ne!(
        text(&files, "client.crt"),
        text(&anew, "client.crt"),
        "of another CA it is worth nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn files_and_secret_follow_the_advertised_address() {
    let (folder, secrets) = (tempfile::tempdir().expect("a folder"), Arc::new(Memory::default()));
    let identity = identity(folder.path(), &secrets).await;
    let mut settings = settings(folder.path());
    settings.address = Some(([0, 0, 0, 0], 10005).into());
    let (host, advertised) = watch::channel(Addresses::from(IpAddr::from([192, 0, 2, 1])));
    let tasks = Tasks::new();
    tasks.spawn("files", material::keep(settings, advertised, identity, secrets.clone()));
    let read = |name: &str| std::fs::read(folder.path().join(name)).expect("handed out");
    let mut certificates = Vec::new();
    for (address, url) in [
        ("192.0.2.1", "url: https://192.0.2.1:10005\n"),
        ("2001:db8::1", "url: https://[2001:db8::1]:10005\n"),
    ] {
        let address: IpAddr = address.parse().expect("an address");
        host.send_replace(address.into());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let configuration = read("egress-selector.yaml");
        assert!(String::from_utf8_lossy(&configuration).contains(url), "{url}");
        let secret = secrets.read("cloudcoreegress").await.expect("read").expect("there");
        assert_eq!(secret.data().get("egress-selector.yaml"), Some(&configuration));
        certificates.push(read("client.crt"));
    }
    certificates.dedup();
    assert_eq!(certificates.len(), 1, "an API server has read it already");
}

#[tokio::test(start_paused = true)]
async fn replicas_leave_each_others_address_in_the_secret() {
    let (folders, secrets) = (
        [(); 2].map(|()| tempfile::tempdir().expect("a folder")),
        Arc::new(Memory::default()),
    );
    let identity = identity(folders[0].path(), &secrets).await;
    let tasks = Tasks::new();
    let shared = async || {
        let secret = secrets.read("cloudcoreegress").await.expect("read").expect("there");
        secret.data()["egress-selector.yaml"].clone()
    };
    let own = |folder: &TempDir| std::fs::read(folder.path().join("egress-selector.yaml")).expect("handed out");
    let hosts = [1_u8, 2].map(|last| watch::channel(Addresses::from(IpAddr::from([192, 0, 2, last]))));
    for (folder, (_, advertised)) in folders.iter().zip(&hosts) {
        let mut settings = settings(folder.path());
        settings.address = Some(([0, 0, 0, 0], 10005).into());
        let (advertised, identity, secrets) = (advertised.clone(), identity.clone(), secrets.clone());
        tasks.spawn("files", material::keep(settings, advertised, identity, secrets));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(
            shared().await,
            own(folder),
            "the one that starts last tells its address"
        );
    }
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(250)).await;
        assert_eq!(shared().await, own(&folders[1]));
    }
    assert_ne!(own(&folders[0]), own(&folders[1]));
    hosts[0].0.send_replace(IpAddr::from([192, 0, 2, 3]).into());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(String::from_utf8_lossy(&own(&folders[0])).contains("https://192.0.2.3:10005"));
    assert_eq!(shared().await, own(&folders[1]), "it was not told by this one");
    hosts[1].0.send_replace(IpAddr::from([192, 0, 2, 4]).into());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(String::from_utf8_lossy(&shared().await).contains("https://192.0.2.4:10005"));
}

#[tokio::test]
async fn a_socket_is_for_its_owner_only_and_takes_the_place_of_a_stale_one() {
    let (folder, secrets) = (tempfile::tempdir().expect("a folder"), Arc::new(Memory::default()));
    let path = folder.path().join("run/egress.sock");
    let identity = identity(folder.path(), &secrets).await;
    let edges = Arc::new(Edges::default());
    for _ in 0..2 {
        let tasks = Tasks::new();
        let mut settings = settings(folder.path());
        settings.unix_socket = Some(path.clone());
        let parts = Parts {
            settings,
            advertised: Addresses::from(IpAddr::from([192, 0, 2, 1])).fixed(),
            identity: identity.clone(),
            secrets: secrets.clone(),
            kubelets: edges.clone(),
        };
        start(parts, &tasks).expect("started");
        let mode = std::fs::metadata(&path).expect("the socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut client = tokio::net::UnixStream::connect(&path).await.expect("connected");
        client
            .write_all(ask("192.0.2.7:10351").as_bytes())
            .await
            .expect("written");
        let mut head = [0; 15];
        client.read_exact(&mut head).await.expect("an answer");
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        tasks.stop(Duration::from_secs(5)).await;
    }
}
