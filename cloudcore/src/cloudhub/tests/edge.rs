//! An edge made by hand: certificate, upgrade, messages.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use proto::Message;
use proto::join::{Authority, CertificateName, CertificateRequest, ExtendedKeyUsages, ec_private_key};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as WsMessage};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::cloudhub::identity::unix_now;

/// A certificate of a node with its key, as TLS takes them.
pub(crate) struct NodeIdentity {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

pub(crate) fn csr(name: &CertificateName) -> (Vec<u8>, KeyPair) {
    let pair = KeyPair::generate().expect("key");
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, name.organization.as_str());
    params
        .distinguished_name
        .push(DnType::CommonName, name.common_name.as_str());
    (params.serialize_request(&pair).expect("request").der().to_vec(), pair)
}

impl NodeIdentity {
    pub(crate) fn of_node(authority: &Authority, node: &str) -> Self {
        Self::issue(
            authority,
            &CertificateName::of_node(&node.into()),
            node,
            unix_now(),
            "[2]",
        )
    }

    pub(crate) fn legacy(authority: &Authority, organization: &str) -> Self {
        let name = CertificateName {
            organization: organization.into(),
            common_name: "kubeedge.io".into(),
        };
        Self::issue(authority, &name, "any", unix_now(), "[2]")
    }

    /// Valid from `from` (Unix time) for one day.
    pub(crate) fn issue(
        authority: &Authority,
        name: &CertificateName,
        node: &str,
        from: Duration,
        usages: &str,
    ) -> Self {
        let (request, pair) = csr(name);
        let request = CertificateRequest::check(&request, &node.into()).expect("request is good");
        let usages = ExtendedKeyUsages::parse(usages).expect("usages");
        let certificate = authority
            .issue_edge(&request, usages, from, Duration::from_secs(86_400))
            .expect("issued");
        Self {
            certificate: certificate.into(),
            key: ec_private_key(&pair).expect("P-256"),
        }
    }
}

/// TLS to one of the hub's ports.
pub(crate) async fn tls(
    address: SocketAddr,
    ca: &CertificateDer<'static>,
    identity: Option<&NodeIdentity>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).expect("CA is a root");
    let builder = ClientConfig::builder_with_provider(common::tls::server::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let key = PrivateKeyDer::try_from(identity.key.clone()).expect("key");
            builder
                .with_client_auth_cert(vec![identity.certificate.clone()], key)
                .expect("client certificate")
        }
    };
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::IpAddress(address.ip().into());
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// A connected edge.
pub(crate) struct Edge {
    pub(crate) socket: WebSocketStream<TlsStream<TcpStream>>,
    pub(crate) features: String,
}

impl Edge {
    /// Dials; a refusal is its code and text.
    pub(crate) async fn dial(
        address: SocketAddr,
        ca: &CertificateDer<'static>,
        identity: &NodeIdentity,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, (u16, String)> {
        let stream = tls(address, ca, Some(identity))
            .await
            .map_err(|error| (0, error.to_string()))?;
        let mut request = format!("wss://{address}/project/node/events")
            .into_client_request()
            .expect("request");
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().expect("header"));
        }
        match client_async(request, stream).await {
            Ok((socket, response)) => {
                let features = response.headers().get(proto::FEATURES_HEADER);
                let features = features
                    .and_then(|value| value.to_str().ok())
                    .unwrap_or_default()
                    .to_owned();
                Ok(Self { socket, features })
            }
            Err(WsError::Http(response)) => {
                let body = response.body().clone().unwrap_or_default();
                Err((response.status().as_u16(), String::from_utf8_lossy(&body).into_owned()))
            }
            Err(error) => Err((0, error.to_string())),
        }
    }

    pub(crate) async fn send(&mut self, message: &Message) {
        self.send_text(&message.encode()).await;
    }

    pub(crate) async fn send_text(&mut self, text: &str) {
        self.socket.send(WsMessage::Text(text.into())).await.expect("sent");
    }

    /// The next message of the hub; `None` at the end of the session.
    pub(crate) async fn receive(&mut self) -> Option<Message> {
        loop {
            match self.socket.next().await {
                Some(Ok(WsMessage::Text(text))) => return Some(Message::decode(text.as_bytes()).expect("a message")),
                Some(Ok(WsMessage::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }
}
