//! Simulated edges that are idle: all that a cloudcore sees of them is a certificate, an upgrade, a keepalive every 15 s and
//! answers to pings. They show what an edge costs the cloud; they run no pods. Only towards this machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use common::Tasks;
use futures::{SinkExt as _, StreamExt as _, TryStreamExt as _};
use proto::join::{Authority, CertificateName, CertificateRequest, ExtendedKeyUsages, ec_private_key};
use proto::{Message, NodeName};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::{Instant, interval_at, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message as WsMessage;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{WebSocketStream, client_async};

/// As edges are configured by default.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Edges that dial at the same time.
const DIALS: usize = 8;
/// How long one edge may take to connect.
const LIMIT: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(86_400);

type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// The cloud as its edges know it.
pub struct Cloud {
    /// Port of the hub's WebSocket on this machine.
    pub port: u16,
    /// An address in its certificate.
    pub name: IpAddr,
    /// Certificate of the CA, DER.
    pub ca: Vec<u8>,
    /// Key of the CA, as it is stored.
    pub ca_key: Vec<u8>,
}

/// Connected edges. Dropping it ends them.
pub struct Fleet {
    // Its tasks end with it.
    _runtime: Runtime,
    connected: Arc<AtomicUsize>,
}

impl Fleet {
    /// Connects `count` edges; each has had its upgrade, sent a keepalive and been answered a ping.
    pub fn connect(cloud: &Cloud, count: usize) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let connected = Arc::new(AtomicUsize::new(0));
        let certificates = Certificates::new(cloud)?;
        let tasks = Tasks::new();
        let dials = futures::stream::iter(0..count).map(|number| {
            let node = NodeName::from(format!("fleet-{number}").as_str());
            let config = certificates.client(&node);
            async move {
                timeout(LIMIT, dial(cloud, &node, config?))
                    .await
                    .with_context(|| format!("{node}: not connected within {LIMIT:?}"))?
                    .with_context(|| format!("{node} cannot connect"))
            }
        });
        runtime.block_on(dials.buffer_unordered(DIALS).try_for_each(|socket| {
            connected.fetch_add(1, Ordering::Relaxed);
            tasks.spawn("fleet edge", idle(socket, connected.clone()));
            std::future::ready(Ok(()))
        }))?;
        Ok(Self {
            _runtime: runtime,
            connected,
        })
    }

    /// How many are still connected.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.connected.load(Ordering::Relaxed)
    }
}

/// Issues the certificates that the edges would have had by joining; one key serves all.
struct Certificates {
    authority: Authority,
    pair: KeyPair,
    roots: Arc<RootCertStore>,
    now: Duration,
}

impl Certificates {
    fn new(cloud: &Cloud) -> Result<Self> {
        let ca = CertificateDer::from(cloud.ca.clone());
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone())?;
        Ok(Self {
            authority: Authority::new(ca, cloud.ca_key.clone())?,
            pair: KeyPair::generate()?,
            roots: roots.into(),
            now: SystemTime::now().duration_since(UNIX_EPOCH)?,
        })
    }

    fn client(&self, node: &NodeName) -> Result<ClientConfig> {
        let name = CertificateName::of_node(node);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, name.organization);
        params.distinguished_name.push(DnType::CommonName, name.common_name);
        let request = params.serialize_request(&self.pair)?;
        let request = CertificateRequest::check(request.der(), node)?;
        let certificate = self
            .authority
            .issue_edge(&request, ExtendedKeyUsages::DEFAULT, self.now, DAY)?;
        let key = ec_private_key(&self.pair).context("the key cannot be written")?;
        let key = PrivateKeyDer::try_from(key).map_err(anyhow::Error::msg)?;
        ClientConfig::builder_with_provider(common::tls::server::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(vec![certificate.into()], key)
            .context("the certificate cannot be used")
    }
}

async fn dial(cloud: &Cloud, node: &NodeName, config: ClientConfig) -> Result<Socket> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, cloud.port));
    let stream = TcpStream::connect(address).await?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(ServerName::IpAddress(cloud.name.into()), stream)
        .await?;
    let mut request =
        format!("wss://{address}/e632aba927ea4ac2b575ec1603d56f10/{node}/events").into_client_request()?;
    for (name, value) in [("Node_id", node.as_str()), ("ConnectionUse", "msg")] {
        request.headers_mut().append(name, value.parse()?);
    }
    let (mut socket, _) = client_async(request, stream).await?;
    socket.send(keepalive()).await?;
    socket.send(WsMessage::Ping(b"fleet".as_slice().into())).await?;
    loop {
        match socket.next().await.context("closed at once")?? {
            WsMessage::Pong(text) => {
                ensure!(text.as_ref() == b"fleet", "answer to a ping that was not sent");
                return Ok(socket);
            }
            WsMessage::Close(reason) => bail!("closed at once: {reason:?}"),
            _ => {}
        }
    }
}

/// Stays connected until the other side ends it.
async fn idle(mut socket: Socket, connected: Arc<AtomicUsize>) {
    let mut beat = interval_at(Instant::now() + KEEPALIVE, KEEPALIVE);
    loop {
        tokio::select! {
            _ = beat.tick() => {
                if socket.send(keepalive()).await.is_err() {
                    break;
                }
            }
            frame = socket.next() => {
                if !matches!(frame, Some(Ok(_))) {
                    break;
                }
            }
        }
    }
    connected.fetch_sub(1, Ordering::Relaxed);
}

fn keepalive() -> WsMessage {
    WsMessage::Text(Message::keepalive().encode().into())
}
