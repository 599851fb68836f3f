//! An edge made by hand: certificate, upgrade, messages.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::line::quic::{self, DialError, Path, QuicLine};
use common::line::{Line as _, Received};
use futures::{SinkExt as _, StreamExt as _};
use proto::Message;
use proto::join::{Authority, CertificateName, CertificateRequest, ExtendedKeyUsages, ec_private_key};
use proto::quic::Hello;
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
    pub(crate) certificate: CertificateDer<'static>,
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
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::IpAddress(address.ip().into());
    let config = client_config(ca, identity);
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

fn client_config(ca: &CertificateDer<'static>, identity: Option<&NodeIdentity>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).expect("CA is a root");
    let builder = ClientConfig::builder_with_provider(common::tls::server::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let key = PrivateKeyDer::try_from(identity.key.clone()).expect("key");
            builder
                .with_client_auth_cert(vec![identity.certificate.clone()], key)
                .expect("client certificate")
        }
    }
}

/// A connected edge.
pub(crate) struct Edge {
    socket: Socket,
    pub(crate) features: String,
}

enum Socket {
    WebSocket(Box<WebSocketStream<TlsStream<TcpStream>>>),
    Quic(Box<QuicLine>, Path),
}

/// A refusal is its code and text; 0 for what failed before anything was said.
pub(crate) type Dialled = Result<Edge, (u16, String)>;

impl Edge {
    /// Dials over WebSocket.
    pub(crate) async fn websocket(
        address: SocketAddr,
        ca: &CertificateDer<'static>,
        identity: Option<&NodeIdentity>,
        headers: &[(&'static str, &str)],
    ) -> Dialled {
        let stream = tls(address, ca, identity)
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
                let socket = Socket::WebSocket(Box::new(socket));
                Ok(Self { socket, features })
            }
            Err(WsError::Http(response)) => {
                let body = response.body().clone().unwrap_or_default();
                Err((response.status().as_u16(), String::from_utf8_lossy(&body).into_owned()))
            }
            Err(error) => Err((0, error.to_string())),
        }
    }

    /// Dials over QUIC.
    pub(crate) async fn quic(
        address: SocketAddr,
        ca: &CertificateDer<'static>,
        identity: Option<&NodeIdentity>,
        headers: &[(&'static str, &str)],
    ) -> Dialled {
        let pairs = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let hello = Hello {
            headers: pairs.collect(),
        };
        let config = client_config(ca, identity);
        match quic::dial(address, &address.ip().to_string(), config, &hello).await {
            Ok((line, welcome, path)) => Ok(Self {
                socket: Socket::Quic(Box::new(line), path),
                features: welcome.headers.get(proto::FEATURES_HEADER).cloned().unwrap_or_default(),
            }),
            Err(DialError::Refused(welcome)) => Err((welcome.status, welcome.text)),
            Err(error) => Err((0, common::chain(&error))),
        }
    }

    /// The WebSocket itself.
    pub(crate) fn raw(&mut self) -> &mut WebSocketStream<TlsStream<TcpStream>> {
        match &mut self.socket {
            Socket::WebSocket(socket) => socket,
            Socket::Quic(..) => panic!("not over QUIC"),
        }
    }

    /// What the connection over QUIC travels by.
    pub(crate) const fn path(&self) -> Option<&Path> {
        match &self.socket {
            Socket::Quic(_, path) => Some(path),
            Socket::WebSocket(_) => None,
        }
    }

    pub(crate) async fn send(&mut self, message: &Message) {
        assert!(self.send_text(&message.encode()).await, "sent");
    }

    /// Returns whether it could be sent.
    pub(crate) async fn send_text(&mut self, text: &str) -> bool {
        match &mut self.socket {
            Socket::WebSocket(socket) => socket.send(WsMessage::Text(text.into())).await.is_ok(),
            Socket::Quic(line, _) => {
                let (mut first, mut sent) = (Some(text.to_owned()), false);
                std::future::poll_fn(|context| {
                    let written = line.poll_write(context, &mut |lane| {
                        if lane == proto::Lane::Urgent {
                            return None;
                        }
                        sent = first.is_none();
                        first.take()
                    });
                    match written {
                        Ok(()) if !sent => std::task::Poll::Pending,
                        outcome => std::task::Poll::Ready(outcome.is_ok()),
                    }
                })
                .await
            }
        }
    }

    /// The next message of the hub; `None` at the end of the session.
    pub(crate) async fn receive(&mut self) -> Option<Message> {
        loop {
            let bytes = match &mut self.socket {
                Socket::WebSocket(socket) => match socket.next().await {
                    Some(Ok(WsMessage::Text(text))) => text.as_bytes().to_vec(),
                    Some(Ok(WsMessage::Close(_)) | Err(_)) | None => return None,
                    Some(Ok(_)) => continue,
                },
                Socket::Quic(line, _) => match std::future::poll_fn(|context| line.poll_read(context)).await {
                    Ok(Received::Message(bytes)) => bytes,
                    Ok(Received::Sign) => continue,
                    Err(_) => return None,
                },
            };
            return Some(Message::decode(&bytes).expect("a message"));
        }
    }
}
