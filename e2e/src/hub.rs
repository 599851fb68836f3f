//! A node made by hand: it asks for certificates, connects to the hub and says whatever a scenario wants it to say, as an edge
//! without any of our extras would.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use common::tls::client::{Identity, client_config, unverified_config};
use futures::{SinkExt as _, StreamExt as _};
use proto::join::{Authority, CertificateName, CertificateRequest, ExtendedKeyUsages, ec_private_key, sign_token};
use proto::tunnel::Role;
use proto::tunnel::websocket::{self, Piece};
use proto::{Message, NodeName};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as Frame};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::api::{Api, text};
use crate::edge::Uplink;

/// How long anything with the hub may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A certificate with its key.
#[derive(Clone)]
pub struct Card {
    chain: CertificateDer<'static>,
    key: Vec<u8>,
}

/// Where the hub is, and its CA with the key: a scenario makes certificates that no cloudcore would.
pub struct Door {
    address: String,
    uplink: Uplink,
    authority: Authority,
    runtime: Runtime,
}

/// How the hub said no: code and words of the upgrade, or 0 and what TLS said.
#[derive(Debug)]
pub struct Refusal {
    /// HTTP status.
    pub code: u16,
    /// The words.
    pub text: String,
}

/// A connected node.
pub struct Node<'a> {
    door: &'a Door,
    socket: WebSocketStream<TlsStream<TcpStream>>,
}

/// A key and the request (DER) for a certificate of that name.
fn application(organization: &str, common_name: &str) -> Result<(KeyPair, Vec<u8>)> {
    let pair = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::CommonName, common_name);
    let request = params.serialize_request(&pair)?.der().to_vec();
    Ok((pair, request))
}

/// A request as a CertificateSigningRequest of Kubernetes holds it.
pub fn encoded_request(node: &str) -> Result<String> {
    let pair = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params
        .distinguished_name
        .push(DnType::CommonName, format!("system:node:{node}"));
    let pem = params.serialize_request(&pair)?.pem()?;
    Ok(base64::engine::general_purpose::STANDARD.encode(pem))
}

impl Door {
    /// The hub at an address, with the CA from its secret.
    pub fn new(api: &Api, address: &str, uplink: Uplink) -> Result<Self> {
        let secret = api.must("/api/v1/namespaces/kubeedge/secrets/casecret")?;
        let bytes = |key: &str| base64::engine::general_purpose::STANDARD.decode(text(&secret, key));
        let authority = Authority::new(bytes("/data/cadata")?.into(), bytes("/data/cakeydata")?)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self {
            address: address.to_owned(),
            uplink,
            authority,
            runtime,
        })
    }

    /// A certificate that the hub's CA signed for this node, from `from` (Unix time) for `life`; usages as the header has them.
    pub fn forge(&self, node: &str, from: Duration, life: Duration, usages: &str) -> Result<Card> {
        forge(&self.authority, node, from, life, usages)
    }

    /// A join token that ends at a moment (Unix time).
    pub fn token(&self, until: Duration) -> Result<String> {
        let certificate = self.authority.certificate();
        Ok(sign_token(certificate, self.authority.key(), until.as_secs())?)
    }

    /// A certificate of another CA.
    pub fn foreign(node: &str, now: Duration) -> Result<Card> {
        forge(&Authority::generate(now)?, node, now, Duration::from_secs(3600), "[2]")
    }

    /// Joins as keadm's edge does: a certificate for the token.
    pub fn join(&self, node: &str) -> Result<Card> {
        let token = self.uplink.token.clone();
        let (status, body, pair) = self.apply(node, node, Some(&token), None)?;
        anyhow::ensure!(
            status == 200,
            "no certificate: {status} {}",
            String::from_utf8_lossy(&body)
        );
        Ok(Card {
            chain: body.into(),
            key: ec_private_key(&pair).context("key")?,
        })
    }

    /// Asks for a certificate in the name of `subject` as `node`; returns status and body.
    pub fn apply(
        &self,
        node: &str,
        subject: &str,
        token: Option<&str>,
        card: Option<&Card>,
    ) -> Result<(u16, Vec<u8>, KeyPair)> {
        let (pair, request) = application("system:nodes", &format!("system:node:{subject}"))?;
        let config = match card {
            None => unverified_config()?,
            Some(card) => client_config(&[self.authority.certificate().clone()], Some(card.identity()?))?,
        };
        let authorization = token
            .and_then(|token| token.split_once('.'))
            .map_or_else(String::new, |(_, jwt)| format!("Authorization: Bearer {jwt}\r\n"));
        let head = format!(
            "GET /edge.crt HTTP/1.1\r\nHost: {}\r\nNodeName: {node}\r\n{authorization}Content-Length: {}\r\nConnection: close\r\n\r\n",
            self.address,
            request.len()
        );
        let exchange = async {
            let mut stream = self.tls(config, self.uplink.https).await?;
            stream.write_all(&[head.as_bytes(), &request].concat()).await?;
            let mut answer = Vec::new();
            // The end may come without a farewell of TLS.
            let _ = stream.read_to_end(&mut answer).await;
            anyhow::Ok(answer)
        };
        let answer = self.runtime.block_on(async { timeout(LIMIT, exchange).await })??;
        let at = answer
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .context("the answer has no head")?;
        let (head, body) = answer.split_at(at);
        let status = String::from_utf8_lossy(head)
            .split(' ')
            .nth(1)
            .unwrap_or_default()
            .parse()?;
        Ok((status, body.get(4..).unwrap_or_default().to_vec(), pair))
    }

    /// TLS as the node of a certificate.
    pub fn client(&self, card: &Card) -> Result<rustls::ClientConfig> {
        Ok(client_config(
            &[self.authority.certificate().clone()],
            Some(card.identity()?),
        )?)
    }

    /// Connects as a node with a certificate, or says how that was refused.
    pub fn connect(&self, node: &str, card: Option<&Card>) -> Result<Result<Node<'_>, Refusal>> {
        let identity = card.map(Card::identity).transpose()?;
        let config = client_config(&[self.authority.certificate().clone()], identity)?;
        let url = format!(
            "wss://{}:{}/e632aba927ea4ac2b575ec1603d56f10/{node}/events",
            self.address, self.uplink.websocket
        );
        let mut request = url.into_client_request()?;
        for (name, value) in [("node_id", node), ("project_id", "e2e"), ("ConnectionUse", "msg")] {
            request.headers_mut().insert(name, value.parse()?);
        }
        let refused = |code, text: String| Ok(Err(Refusal { code, text }));
        let dial = async {
            let stream = match self.tls(config, self.uplink.websocket).await {
                Ok(stream) => stream,
                Err(error) => return refused(0, format!("{error:#}")),
            };
            match client_async(request, stream).await {
                Ok((socket, _)) => Ok(Ok(Node { door: self, socket })),
                Err(WsError::Http(response)) => {
                    let body = response.body().clone().unwrap_or_default();
                    refused(response.status().as_u16(), String::from_utf8_lossy(&body).into_owned())
                }
                Err(error) => refused(0, error.to_string()),
            }
        };
        self.runtime.block_on(async { timeout(LIMIT, dial).await })?
    }

    /// Sends the head of a request to the port of the tunnels: the first line of the answer and the rest, or how TLS failed.
    pub fn tunnel(&self, card: Option<&Card>, head: &str) -> Result<Refusal> {
        let identity = card.map(Card::identity).transpose()?;
        let config = client_config(&[self.authority.certificate().clone()], identity)?;
        let talk = async {
            let mut stream = self.tls(config, self.uplink.tunnel).await?;
            stream.write_all(head.as_bytes()).await?;
            let mut answer = Vec::new();
            // A tunnel that is let in does not end.
            while !answer.starts_with(b"HTTP/1.1 101") && stream.read_buf(&mut answer).await? > 0 {}
            anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        let answer = self.runtime.block_on(async { timeout(LIMIT, talk).await })?;
        Ok(match answer {
            Ok(text) => {
                let code = text.split(' ').nth(1).and_then(|code| code.parse().ok());
                Refusal {
                    code: code.unwrap_or_default(),
                    text,
                }
            }
            Err(error) => Refusal {
                code: 0,
                text: format!("{error:#}"),
            },
        })
    }

    /// Opens a tunnel and sends bytes that break the protocol: the code and the words that the cloud closes it with.
    pub fn break_tunnel(&self, card: &Card, head: &str, bytes: &[u8]) -> Result<(u16, String)> {
        let config = client_config(&[self.authority.certificate().clone()], Some(card.identity()?))?;
        let talk = async {
            let mut stream = self.tls(config, self.uplink.tunnel).await?;
            stream.write_all(head.as_bytes()).await?;
            let mut answer = Vec::new();
            let length = loop {
                if let Some(at) = memchr::memmem::find(&answer, b"\r\n\r\n") {
                    break at + 4;
                }
                anyhow::ensure!(stream.read_buf(&mut answer).await? > 0, "the answer has no end");
            };
            anyhow::ensure!(answer.starts_with(b"HTTP/1.1 101"), "no tunnel");
            stream.write_all(bytes).await?;
            stream.flush().await?;
            // The end may come without a farewell of TLS.
            let _ = stream.read_to_end(&mut answer).await;
            anyhow::Ok(answer.split_off(length))
        };
        let mut frames = self.runtime.block_on(async { timeout(LIMIT, talk).await })??;
        let (mut decoder, mut input) = (websocket::Decoder::new(Role::Edge, u64::MAX), frames.as_mut_slice());
        while let Some(piece) = decoder.next(&mut input)? {
            if let Piece::Close { code, reason } = piece {
                return Ok((code.context("a close without a code")?, reason));
            }
        }
        bail!("the tunnel ended without a close")
    }

    async fn tls(&self, config: rustls::ClientConfig, port: u16) -> Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect((self.address.as_str(), port)).await?;
        let name = ServerName::try_from(self.address.clone())?;
        Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
    }
}

impl Card {
    fn identity(&self) -> Result<Identity> {
        let key = PrivateKeyDer::try_from(self.key.clone()).map_err(|error| anyhow::anyhow!(error))?;
        Ok(Identity {
            chain: vec![self.chain.clone()],
            key,
        })
    }

    /// The certificate and its key as the files of an edge hold them.
    #[must_use]
    pub fn pem(&self) -> (String, String) {
        (pem("CERTIFICATE", &self.chain), pem("EC PRIVATE KEY", &self.key))
    }
}

impl Node<'_> {
    /// Sends a message.
    pub fn tell(&mut self, message: &Message) -> Result<()> {
        let frame = Frame::text(message.encode());
        Ok(self.door.runtime.block_on(self.socket.send(frame))?)
    }

    /// Sends a message and waits for its answer; nothing if none comes within `limit`.
    pub fn ask(&mut self, message: &Message, limit: Duration) -> Result<Option<Message>> {
        self.tell(message)?;
        let answer = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Frame::Text(text))) => {
                        let received = Message::decode(text.as_bytes())?;
                        if received.parent.as_ref() == Some(&message.id) {
                            return anyhow::Ok(received);
                        }
                    }
                    Some(Ok(Frame::Close(_)) | Err(_)) | None => bail!("the hub ended the session"),
                    Some(Ok(_)) => {}
                }
            }
        };
        match self.door.runtime.block_on(async { timeout(limit, answer).await }) {
            Ok(answer) => answer.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Whether the hub ends the session within a time.
    pub fn ended(&mut self, limit: Duration) -> bool {
        let end = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Frame::Close(_)) | Err(_)) | None => return,
                    Some(Ok(_)) => {}
                }
            }
        };
        self.door.runtime.block_on(async { timeout(limit, end).await }).is_ok()
    }
}

fn forge(authority: &Authority, node: &str, from: Duration, life: Duration, usages: &str) -> Result<Card> {
    let name = CertificateName::of_node(&NodeName::from(node));
    let (pair, request) = application(&name.organization, &name.common_name)?;
    let request = CertificateRequest::check(&request, &NodeName::from(node))?;
    let certificate = authority.issue_edge(&request, ExtendedKeyUsages::parse(usages)?, from, life)?;
    Ok(Card {
        chain: certificate.into(),
        key: ec_private_key(&pair).context("key")?,
    })
}

pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<String> = text
        .as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
