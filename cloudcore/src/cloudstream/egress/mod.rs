//! The endpoint for API servers with an EgressSelectorConfiguration: an HTTP CONNECT proxy with client certificates, or on a Unix
//! socket. With it no redirect rule is needed anywhere.
//!
//! An API server sends all its connections into the cluster here. Those to the kubelet of an edge go to the stream server, which
//! learns the destination; others are dialled ([`Settings::pass_through`]). Owns the secret `kubeedge/cloudcoreegress` and a folder
//! with the same files: configuration, CA, client certificate and key for the API server. Must not: look into the connections, or
//! let anybody in who only has an edge's certificate.

mod access;
mod material;
mod proxy;
mod settings;
#[cfg(test)]
mod tests;

use std::fs::Permissions;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::Tasks;
use common::places::Places;
use futures::future::BoxFuture;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::addresses::Addresses;
use crate::cloudhub::{Identity, SecretStore};
use crate::informers::Host;
use access::{Access, Caller};
use proxy::Proxy;

pub use access::AccessError;
pub use settings::Settings;

/// A connection of either kind.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

/// What stands for the kubelets of edges.
pub trait Kubelets: Send + Sync {
    /// Whether an edge is called so.
    fn is_edge(&self, host: &Host) -> bool;

    /// Serves a connection to an edge's kubelet, from TLS on. Returns when it ends.
    fn serve(&self, connection: Box<dyn Connection>, caller: SocketAddr, destination: Host) -> BoxFuture<'_, ()>;
}

/// What the endpoint needs.
pub struct Parts {
    /// `modules.cloudStream.egress`.
    pub settings: Settings,
    /// By the first one API servers reach this cloudcore: it is in their files.
    pub advertised: watch::Receiver<Addresses>,
    /// CA and server certificate.
    pub identity: Identity,
    /// Where the API server's certificate is kept.
    pub secrets: Arc<dyn SecretStore>,
    /// The edges.
    pub kubelets: Arc<dyn Kubelets>,
}

/// Why it does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The TCP port is not to be had.
    #[error("cannot listen on {address} (modules.cloudStream.egress.address, port)")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The socket is not to be had.
    #[error("cannot listen on {path} (modules.cloudStream.egress.unixSocket)")]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Client certificates cannot be checked.
    #[error("cannot check the certificates of API servers")]
    Access(#[from] AccessError),
}

/// Opens the port and the socket, and hands out what an API server needs.
pub fn start(parts: Parts, tasks: &Tasks) -> Result<(), StartError> {
    let Parts {
        settings,
        advertised,
        identity,
        secrets,
        kubelets,
    } = parts;
    let proxy = Arc::new(Proxy::new(kubelets, settings.pass_through, tasks.clone()));
    if let Some(path) = &settings.unix_socket {
        let listener = listen_unix(path).map_err(|source| StartError::Socket {
            path: path.clone(),
            source,
        })?;
        info!(path = %path.display(), "listening for the API server's connections into the cluster");
        tasks.spawn("egress socket", accept_unix(listener, proxy.clone(), tasks.clone()));
    }
    if let Some(address) = settings.address {
        let access = Access::new(&settings, &identity)?;
        let listener = common::listen::tcp(address).map_err(|source| StartError::Listen { address, source })?;
        info!(%address, "listening for the API server's connections into the cluster");
        tasks.spawn(
            "egress listener",
            accept(listener, Arc::new(access), proxy, tasks.clone()),
        );
    }
    tasks.spawn("egress files", material::keep(settings, advertised, identity, secrets));
    Ok(())
}

async fn accept(listener: TcpListener, access: Arc<Access>, proxy: Arc<Proxy>, tasks: Tasks) {
    let mut places = Places::new("connections of API servers", CONNECTIONS);
    loop {
        match places.next(|_| listener.accept()).await {
            Ok((stream, peer, place)) => {
                let peer = common::listen::peer(peer);
                // Keystrokes are sent one by one. A socket without the option works as well.
                let _ = stream.set_nodelay(true);
                let (access, proxy) = (access.clone(), proxy.clone());
                tasks.spawn("egress", async move {
                    // Who had to give way is told nothing.
                    match place.hold(timeout(HANDSHAKE, access.accept(stream))).await {
                        Some(Ok(Ok((tls, caller @ Caller::Allowed)))) if place.keep() => {
                            proxy.serve(tls, peer, caller, Some(place)).await;
                        }
                        Some(Ok(Ok((tls, caller)))) => {
                            let _ = place.hold(proxy.serve(tls, peer, caller, None)).await;
                        }
                        Some(Ok(Err(error))) => {
                            debug!(%peer, error = %common::chain(&error), "TLS handshake of an API server failed");
                        }
                        Some(Err(_)) => debug!(%peer, "TLS handshake of an API server took too long"),
                        None => {}
                    }
                });
            }
            Err(error) => pause(&error).await,
        }
    }
}

async fn accept_unix(listener: UnixListener, proxy: Arc<Proxy>, tasks: Tasks) {
    let mut places = Places::new("connections of an API server on this host", CONNECTIONS);
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    loop {
        let accepted = places.next(|_| async { Ok::<_, io::Error>((listener.accept().await?.0, nowhere)) });
        match accepted.await {
            Ok((stream, _, place)) => {
                let proxy = proxy.clone();
                tasks.spawn("egress", async move {
                    // Whoever may open the socket is let in.
                    if place.keep() {
                        proxy.serve(stream, nowhere, Caller::Allowed, Some(place)).await;
                    }
                });
            }
            Err(error) => pause(&error).await,
        }
    }
}

async fn pause(error: &io::Error) {
    warn!(%error, "cannot accept connections of an API server");
    common::listen::pause().await;
}

/// The socket has its name only when its mode is set.
fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut unnamed = path.as_os_str().to_owned();
    unnamed.push(format!(".{}", std::process::id()));
    let unnamed = PathBuf::from(unnamed);
    match std::fs::remove_file(&unnamed) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&unnamed)?;
    std::fs::set_permissions(&unnamed, Permissions::from_mode(common::fs::SECRET))?;
    std::fs::rename(&unnamed, path)?;
    Ok(listener)
}

/// Connections at once: an API server has one for each watch, log and webhook.
const CONNECTIONS: usize = 16_384;
const HANDSHAKE: Duration = Duration::from_secs(10);
