//! Against tokio-rustls as client, over connections that give and take as little as they like.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    roots: RootCertStore,
}

type Card = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("signed");
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).expect("a root");
        Self {
            issuer: Issuer::new(params, key),
            roots,
        }
    }

    fn card(&self) -> Card {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["peer".to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        (vec![certificate.der().clone()], key)
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn server(authority: &Authority) -> Arc<ServerConfig> {
    let (chain, key) = authority.card();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authority.roots.clone()), provider())
        .build()
        .expect("a verifier");
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .expect("a configuration");
    // The client of these tests does not read before both have connected.
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

fn client(authority: &Authority, card: Card, version: &'static SupportedProtocolVersion) -> TlsConnector {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .expect("versions")
        .with_root_certificates(authority.roots.clone())
        .with_client_auth_cert(card.0, card.1)
        .expect("a configuration");
    TlsConnector::from(Arc::new(config))
}

/// Both ends of a connection that holds so many bytes each way.
async fn pair(
    holds: usize,
    version: &'static SupportedProtocolVersion,
) -> (ServerStream<DuplexStream>, TlsStream<DuplexStream>) {
    let authority = Authority::new();
    let (near, far) = duplex(holds);
    let connector = client(&authority, authority.card(), version);
    let name = ServerName::try_from("peer").expect("a name");
    let (server, client) = tokio::join!(
        ServerStream::accept(server(&authority), near),
        connector.connect(name, far)
    );
    (server.expect("accepted"), client.expect("connected"))
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

#[tokio::test]
async fn what_is_said_arrives_both_ways_over_any_connection() {
    for version in VERSIONS {
        for holds in [1, 7, 100, 5_000, 1 << 20] {
            let (server, client) = pair(holds, version).await;
            assert_eq!(server.peer_certificates().map(<[_]>::len), Some(1));
            let length = if holds < 100 { 2_000 } else { 300_000 };
            let sent: Vec<u8> = (0..length)
                .map(|byte| u8::try_from(byte % 251).unwrap_or_default())
                .collect();
            let (mut from_server, mut to_server) = tokio::io::split(server);
            let (mut from_client, mut to_client) = tokio::io::split(client);
            let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
            let say = async {
                to_client.write_all(&sent).await.expect("written");
                to_client.shutdown().await.expect("closed");
            };
            let answer = async {
                to_server.write_all(&sent).await.expect("written");
                to_server.shutdown().await.expect("closed");
            };
            let (_, _, heard, answered) = tokio::join!(
                say,
                answer,
                from_server.read_to_end(&mut at_server),
                from_client.read_to_end(&mut at_client)
            );
            heard.expect("all until the client closed");
            answered.expect("all until the server closed");
            assert!(at_server == sent && at_client == sent, "{version:?} over {holds} bytes");
        }
    }
}

#[tokio::test]
async fn an_idle_connection_keeps_no_buffer() {
    for version in VERSIONS {
        let (mut server, mut client) = pair(1 << 16, version).await;
        client.write_all(b"a sign of life").await.expect("written");
        let mut heard = [0; 14];
        server.read_exact(&mut heard).await.expect("read");
        server.write_all(b"an answer").await.expect("written");
        server.flush().await.expect("sent");
        // It looks for more and finds none.
        let more = tokio::time::timeout(Duration::from_millis(20), server.read(&mut heard)).await;
        assert!(more.is_err(), "{more:?}");
        let kept = (
            server.incoming.capacity(),
            server.outgoing.capacity(),
            server.plaintext.capacity(),
        );
        assert_eq!(kept, (0, 0, 0));
    }
}

#[tokio::test]
async fn keys_change_while_both_talk() {
    let (mut server, mut client) = pair(1 << 16, &version::TLS13).await;
    for _ in 0..10 {
        client.get_mut().1.refresh_traffic_keys().expect("new keys");
        client.write_all(b"with new keys").await.expect("written");
        let mut heard = [0; 13];
        server.read_exact(&mut heard).await.expect("read");
        server.write_all(&heard).await.expect("written");
        server.flush().await.expect("sent");
        client.read_exact(&mut heard).await.expect("read");
        assert_eq!(&heard, b"with new keys");
    }
}

#[tokio::test]
async fn a_stranger_is_told_that_it_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (near, far) = duplex(1 << 16);
    let connector = client(&authority, other.card(), &version::TLS13);
    let name = ServerName::try_from("peer").expect("a name");
    let connect = async {
        let mut client = connector.connect(name, far).await?;
        client.read_u8().await
    };
    let (accepted, told) = tokio::join!(ServerStream::accept(server(&authority), near), connect);
    let refused = accepted.err().expect("refused");
    assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    let told = told.expect_err("an alert").to_string();
    assert!(told.contains("alert"), "{told}");
}

#[tokio::test]
async fn whatever_comes_is_an_error_and_not_a_panic() {
    let authority = Authority::new();
    let config = server(&authority);
    let cut_short = |bytes: Vec<u8>| {
        let config = config.clone();
        async move {
            let (near, mut far) = duplex(1 << 20);
            far.write_all(&bytes).await.expect("written");
            drop(far);
            ServerStream::accept(config, near).await.err().expect("an error")
        }
    };
    cut_short(Vec::new()).await;
    cut_short(b"GET / HTTP/1.1\r\n\r\n".to_vec()).await;
    // A handshake message that never ends, in records that are as large as they may be.
    let record = [&[22, 3, 1, 0x40, 0][..], &[1, 0xff, 0xff, 0xff], &[0; 0x4000 - 4]].concat();
    cut_short(record.repeat(20)).await;
    for seed in 0..200_u64 {
        let noise = (0..2_000_u64)
            .map(|at| (seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(at * at) >> 7).to_le_bytes()[0]);
        let head = [22, 3, 1, seed.to_le_bytes()[0] % 8, 0];
        cut_short(head.into_iter().chain(noise).collect()).await;
    }
    // Noise after the handshake.
    let (mut server, client) = pair(1 << 16, &version::TLS13).await;
    let (mut below, _) = client.into_inner();
    below.write_all(&[23, 3, 3, 0, 40]).await.expect("written");
    below.write_all(&[7; 40]).await.expect("written");
    let mut heard = [0; 10];
    let error = server.read(&mut heard).await.expect_err("no record of ours");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}
