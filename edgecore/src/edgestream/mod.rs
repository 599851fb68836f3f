//! EdgeStream: the tunnel by which the cloud reaches this node's kubelet API.
//!
//! Owns the connection to the cloud's tunnel server. Reads the certificate that EdgeHub has got, the state of EdgeHub's link and the
//! node's address. Emits requests to the kubelet's API and their answers. Must not look into what streams carry, nor end the process.
//! When the tunnel is lost, everything that came through it ends at once: no shell lives on without its terminal. Where the node's
//! address changes it is dialled anew, because the cloud finds the node by it. Behaviour: spec 04 §2, §5, §8; what is
//! ours: a certificate renewed by EdgeHub is used at the next dial, the cloud's certificate is verified, pauses grow, and a cloud that
//! EdgeHub has just reached again is dialled without one.

mod dial;
mod serve;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::time::Duration;

use axum::Router;
use common::backoff::random_unit;
use common::tunnel::{Requests, Tunnel, TunnelMetrics, TunnelSettings};
use common::{Backoff, Tasks, chain};
use proto::tunnel::Role;
use proto::{Features, NodeName};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::address;
use crate::edgehub::{Paths, Unusable, Usable};
use crate::metamanager::MetaManager;
use crate::uplink::Link;

/// The first pause after a lost or refused tunnel is at most this long …
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// … and later ones at most this.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// A tunnel that lived this long was a good one: the next pause is a short one again.
const GOOD: Duration = Duration::from_secs(60);
/// How often the certificate, or the node, is looked for while there is none.
const LOOK: Duration = Duration::from_millis(200);
/// A node that is not registered by then is another's business.
const REGISTRATION: Duration = Duration::from_secs(10);
/// How long the tunnel waits for EdgeHub before it is dialled without it.
const EDGEHUB: Duration = Duration::from_secs(5);
/// How long a Go cloud is left alone after EdgeHub has reached it, or the address changed. It begins a tunnel by writing the Node's status.
/// Where a report of this node comes between its read and its write, it tries again only after 20 s: until then nobody reaches the node,
/// and if the tunnel has ended meanwhile, it takes the place of the one that is there.
const REPORTS: Duration = Duration::from_secs(1);

/// What this module needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node.
    pub node: NodeName,
    /// `server`: host and port of the cloud's tunnel.
    pub server: String,
    /// `handshakeTimeout`.
    pub handshake_timeout: Duration,
    /// The certificate: this module's own keys of the file, else EdgeHub's.
    pub paths: Vec<Paths>,
    /// The address that the cloud knows the node by, as it changes.
    pub address: watch::Receiver<IpAddr>,
}

/// Starts the module; requests of the cloud are served by `router`.
pub fn start(settings: Settings, router: Router, meta: MetaManager, metrics: TunnelMetrics, tasks: &Tasks) {
    let stream = EdgeStream {
        settings,
        router,
        link: meta.link(),
        meta,
        metrics,
        tasks: tasks.clone(),
        said: String::new(),
        mismatch_said: false,
    };
    tasks.spawn("edgestream", stream.run());
}

struct EdgeStream {
    settings: Settings,
    router: Router,
    link: watch::Receiver<Link>,
    meta: MetaManager,
    metrics: TunnelMetrics,
    tasks: Tasks,
    said: String,
    mismatch_said: bool,
}

impl EdgeStream {
    async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE).with_jitter(0.0);
        let mut identity = self.identity().await;
        let _ = tokio::time::timeout(REGISTRATION, self.registered()).await;
        let mut fresh = true;
        loop {
            self.settle(fresh).await;
            // Only a link that comes up from here on cuts the next pause short.
            self.link.mark_unchanged();
            let address = *self.settings.address.borrow_and_update();
            match dial::dial(&self.settings, address, identity).await {
                Ok(connection) => {
                    self.said.clear();
                    self.note_mismatch(connection.name_mismatch);
                    let began = Instant::now();
                    self.session(connection).await;
                    if began.elapsed() >= GOOD {
                        backoff.reset();
                    }
                }
                Err(error) => self.say(chain(&error)),
            }
            fresh = false;
            tokio::select! {
                () = tokio::time::sleep(backoff.next_delay().mul_f64(random_unit())) => {}
                () = came_up(&mut self.link) => {
                    fresh = true;
                    backoff.reset();
                }
                () = address::changed(&mut self.settings.address) => {
                    fresh = true;
                    backoff.reset();
                }
            }
            identity = self.identity().await;
        }
    }

    /// Waits for the node's first registration: a Go cloud that knows no such node does not look at its tunnel for 20 s.
    async fn registered(&self) {
        while !matches!(self.meta.node().await, Ok(Some(_))) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits a while for EdgeHub, and lets a Go cloud take the reports that follow.
    async fn settle(&mut self, mut fresh: bool) {
        if !self.link.borrow().is_up() {
            fresh = tokio::time::timeout(EDGEHUB, came_up(&mut self.link)).await.is_ok();
        }
        if fresh && self.link.borrow().is_up() && self.meta.features() == Features::default() {
            tokio::time::sleep(REPORTS).await;
        }
    }

    /// Waits until EdgeHub has got a certificate.
    async fn identity(&mut self) -> Usable {
        loop {
            let mut trouble = None;
            for paths in &self.settings.paths {
                match paths.load(&self.settings.node) {
                    Ok(usable) => return usable,
                    Err(Unusable::Missing(_)) => {}
                    Err(error) => trouble = Some(chain(&error)),
                }
            }
            // EdgeHub says what is wrong with its certificate, and cures it.
            if let Some(trouble) = trouble {
                debug!(trouble, "the tunnel waits for a certificate");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Serves one tunnel to its end: that of the connection, or of the address that it was dialled with.
    async fn session(&self, connection: dial::Connection) {
        let settings = TunnelSettings {
            role: Role::Edge,
            features: connection.features,
            early: connection.early,
            metrics: self.metrics.clone(),
        };
        let server = &self.settings.server;
        info!(server, features = %settings.features, "tunnel to cloudcore is up: logs, exec and metrics can be reached");
        let session = self.tasks.child();
        let (tunnel, requests) = common::tunnel::start(connection.io, settings, &session);
        let mut address = self.settings.address.clone();
        tokio::select! {
            () = self.serve(tunnel, requests, &session) => {}
            () = address::changed(&mut address) => {
                let address = *address.borrow();
                info!(server, %address, "this node's address changed: the tunnel is dialled anew");
            }
        }
        // Whatever still runs for the cloud has nobody to run for.
        session.token().cancel();
    }

    async fn serve(&self, tunnel: Tunnel, mut requests: Requests, session: &Tasks) {
        while let Some(incoming) = requests.recv().await {
            session.spawn("edgestream-request", serve::serve(incoming, self.router.clone()));
        }
        let reason = tunnel.closed().await;
        warn!(server = self.settings.server, reason, "tunnel to cloudcore lost");
    }

    fn note_mismatch(&mut self, mismatch: bool) {
        if mismatch && !self.mismatch_said {
            self.mismatch_said = true;
            warn!(
                server = self.settings.server,
                "the certificate of cloudcore's tunnel is good but not for this name or address; add it to modules.cloudHub.advertiseAddress \
                 or dnsNames in cloudcore.yaml"
            );
        }
    }

    /// One line for each cause.
    fn say(&mut self, trouble: String) {
        if trouble == self.said {
            debug!(trouble, "still");
        } else {
            warn!("{trouble}");
            self.said = trouble;
        }
    }
}

/// Waits for EdgeHub to reach the cloud anew.
async fn came_up(link: &mut watch::Receiver<Link>) {
    while link.changed().await.is_ok() {
        if link.borrow_and_update().is_up() {
            return;
        }
    }
    std::future::pending().await
}
