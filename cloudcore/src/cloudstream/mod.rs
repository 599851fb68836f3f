//! CloudStream: logs, exec, attach, port-forward and metrics of edges, for the API server and whoever else may ask a kubelet.
//!
//! Owns the tunnels of the edges (port 10004) and the server that stands for their kubelets (port 10003). Reads where pods and nodes are
//! from the informers and the API; writes one field of Nodes, the port at which the API server finds their kubelet (`nodeport`).
//! A request is passed on as it is, by one way for all routes: its head opens a stream of the tunnel, and all that follows are
//! bytes that nobody here reads (spec 04 §6). A request for a node whose tunnel is at another cloudcore goes there (`forward`).
//! Callers are let in as a kubelet would (`access`); what they prove it by never reaches an edge. Must not know of SPDY more than where its
//! frames end, or how connections of the API server come to its port.

mod access;
pub mod certificates;
pub mod diagnosis;
pub mod egress;
mod forward;
pub mod iptablesmanager;
mod looks;
mod nodeport;
mod sessions;
mod settings;
mod streamserver;
pub mod tunnelport;
mod tunnelserver;
pub mod wayin;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use common::Tasks;
use common::tunnel::TunnelMetrics;
use futures::future::BoxFuture;
use prometheus_client::registry::Registry;
use proto::NodeName;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::warn;

pub use settings::Settings;

use crate::addresses::Addresses;
use crate::cloudhub::{CloudHub, Identity};
use crate::informers::{Host, Informers};
use crate::kubernetes::Kube;
use access::Access;
use certificates::{StreamCertificates, TunnelCertificate};
use nodeport::NodePorts;
use sessions::Sessions;
use streamserver::Rivals;
use wayin::{Trials, Way};

/// The annotation of a Node that says where other cloudcores reach its tunnel, `address:port`. Go's have only `cloudcore`, which is
/// about the session of the hub.
const HOLDER_ANNOTATION: &str = "kubeedge.io/tunnel";

/// What [`CloudStream::start`] needs.
pub struct Parts {
    /// The configuration.
    pub settings: Settings,
    /// Whose certificates are trusted.
    pub hub: CloudHub,
    /// The CA of the edges and the certificate of the tunnel server.
    pub identity: Identity,
    /// The API.
    pub kube: Kube,
    /// Where pods and nodes are.
    pub informers: Informers,
    /// The certificates of the stream server.
    pub certificates: StreamCertificates,
    /// The certificate of the tunnel server.
    pub tunnel_certificate: TunnelCertificate,
    /// The port that stands for this cloudcore in the status of nodes.
    pub port: watch::Receiver<u16>,
    /// This host's addresses, of which Nodes have the first in their annotations.
    pub own: watch::Receiver<Addresses>,
    /// The group that the tasks belong to.
    pub tasks: Tasks,
}

/// Why CloudStream does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A port cannot be had.
    #[error("cannot listen on port {port} for {what}")]
    Listen {
        /// What it is for, with the key of the configuration.
        what: &'static str,
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No TLS by the CA or the certificate.
    #[error("cannot serve TLS")]
    Tls(#[from] common::tls::server::ServerTlsError),
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct CloudStream {
    shared: Arc<Shared>,
}

/// What the servers share.
struct Shared {
    settings: Settings,
    hub: CloudHub,
    identity: Identity,
    /// CloudHub's CA, which signs the edges' certificates, and what the operator has besides.
    authorities: Vec<CertificateDer<'static>>,
    kube: Kube,
    informers: Informers,
    /// `None` when everybody is let in.
    access: Option<Access>,
    sessions: Arc<Sessions>,
    rivals: Rivals,
    /// TLS of the stream server, but for the certificate.
    tls: ServerConfig,
    certificates: StreamCertificates,
    tunnel_certificate: TunnelCertificate,
    own: watch::Receiver<Addresses>,
    metrics: TunnelMetrics,
    trials: Arc<Trials>,
    tasks: Tasks,
}

impl Shared {
    /// The address by which other cloudcores know this one.
    fn address(&self) -> String {
        self.own.borrow().first.to_string()
    }
}

impl CloudStream {
    /// Opens the ports and serves. The tasks end with `parts.tasks`.
    ///
    /// # Errors
    /// When a port cannot be had.
    pub fn start(parts: Parts, registry: &mut Registry) -> Result<Self, StartError> {
        let Parts {
            settings,
            hub,
            identity,
            kube,
            informers,
            certificates,
            tunnel_certificate,
            port,
            own,
            tasks,
        } = parts;
        let access = settings.authorization.then(|| Access::start(kube.clone(), &tasks));
        if access.is_none() {
            warn!(
                "modules.cloudStream.streamAuthorization is false: whoever reaches port {} may run commands in every pod of every edge",
                settings.stream_port
            );
        }
        let metrics = TunnelMetrics::default();
        metrics.register(registry.sub_registry_with_prefix("cloudcore"));
        let sessions = Arc::new(Sessions::new());
        let ports = NodePorts {
            kube: kube.clone(),
            informers: informers.clone(),
            sessions: sessions.clone(),
            port,
            own: own.clone(),
            tunnel_port: settings.tunnel_port,
        };
        let shared = Arc::new(Shared {
            tls: streamserver::tls(&certificates)?,
            authorities: tunnelserver::authorities(&settings.tunnel_ca_file, &identity),
            certificates,
            tunnel_certificate,
            settings,
            hub,
            identity,
            kube,
            informers,
            access,
            sessions,
            rivals: Rivals::default(),
            own,
            metrics,
            trials: Arc::default(),
            tasks,
        });
        ports.start(&shared.tasks);
        tunnelserver::start(&shared)?;
        streamserver::start(&shared)?;
        Ok(Self { shared })
    }

    /// Serves a connection that came in by another way than the port: the client begins with TLS. `destination` is the host that it
    /// wanted to reach. Returns when the connection ends.
    pub async fn serve(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send,
        peer: SocketAddr,
        destination: Option<Host>,
    ) {
        streamserver::serve(&self.shared, io, (peer, Way::Egress), destination, None).await;
    }

    /// The port of the stream server.
    fn port(&self) -> u16 {
        self.shared.settings.stream_port
    }

    fn trials(&self) -> Arc<Trials> {
        self.shared.trials.clone()
    }

    /// A node that has its tunnel here; waits for the first one.
    async fn some_node(&self) -> NodeName {
        let mut arrivals = self.shared.sessions.arrivals();
        loop {
            if let Some(session) = self.shared.sessions.all().first() {
                return session.node.clone();
            }
            // Only that one came is of interest.
            let _ = arrivals.recv().await;
        }
    }

    /// How many tunnels are here.
    pub fn tunnels(&self) -> usize {
        self.shared.sessions.len()
    }
}

impl egress::Kubelets for CloudStream {
    fn is_edge(&self, host: &Host) -> bool {
        self.shared.certificates.is_edge(host)
    }

    fn serve(
        &self,
        connection: Box<dyn egress::Connection>,
        caller: SocketAddr,
        destination: Host,
    ) -> BoxFuture<'_, ()> {
        Box::pin(Self::serve(self, connection, caller, Some(destination)))
    }
}

/// Listens on all addresses.
fn listen(what: &'static str, port: u16) -> Result<TcpListener, StartError> {
    let listener = common::listen::tcp((Ipv4Addr::UNSPECIFIED, port).into());
    listener.map_err(|source| StartError::Listen { what, port, source })
}
