//! The task that keeps the issued certificates: it takes changes in batches, asks the signer, and waits.

use std::sync::Arc;
use std::time::Duration;

use common::Backoff;
use proto::join::ServerNames;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::chosen::Shown;
use super::groups::{Due, Groups};
use super::own;
use super::signer::Signer;
use crate::addresses::Addresses;
use crate::informers::{EdgeHosts, Informers};

/// How often the addresses of this host are looked at.
const LOOK: Duration = Duration::from_secs(60);

/// Where the edges come from.
pub(super) struct Edges {
    pub(super) hosts: Box<dyn Fn() -> Vec<EdgeHosts> + Send>,
    pub(super) changed: watch::Receiver<u64>,
}

impl Edges {
    /// What the first list holds comes in one batch.
    pub(super) async fn of(informers: Informers) -> Self {
        informers.synced().await;
        let changed = informers.hosts_changed();
        let hosts = Box::new(move || informers.hosts());
        Self { hosts, changed }
    }

    /// There are none, and none will come.
    pub(super) fn none() -> Self {
        let (never, changed) = watch::channel(0);
        let hosts = Box::new(move || {
            // Lives as long as this.
            let _ = &never;
            Vec::new()
        });
        Self { hosts, changed }
    }
}

/// See the module.
pub(super) struct Keeper<C> {
    signer: Arc<dyn Signer>,
    configured: ServerNames,
    advertised: watch::Receiver<Addresses>,
    shown: Arc<Shown>,
    clock: C,
    groups: Groups,
    backoff: Backoff,
}

impl<C: Fn() -> Duration + Send> Keeper<C> {
    pub(super) fn new(
        signer: Arc<dyn Signer>,
        configured: ServerNames,
        advertised: watch::Receiver<Addresses>,
        shown: Arc<Shown>,
        clock: C,
    ) -> Self {
        Self {
            groups: Groups::new(own::with_own(&configured)),
            signer,
            configured,
            advertised,
            shown,
            clock,
            backoff: Backoff::new(Duration::from_secs(2), Duration::from_secs(300)),
        }
    }

    pub(super) async fn run(mut self, mut edges: Edges) {
        loop {
            let began = Instant::now();
            edges.changed.borrow_and_update();
            let own = self.own();
            self.groups.set_own(own);
            self.groups.set_edges((edges.hosts)());
            self.shown.set_places(self.groups.places());
            let walk = began.elapsed();
            self.sign_what_is_due().await;
            let wait = self
                .groups
                .next()
                .map_or(LOOK, |due| due.saturating_sub((self.clock)()).min(LOOK));
            tokio::select! {
                () = sleep(wait) => {}
                Ok(()) = self.advertised.changed() => {}
                changed = edges.changed.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // Walking through a large fleet takes a while. With a pause of ten times the last walk it costs at most a tenth of a
                    // core.
                    sleep(self.signer.settle().max(walk.min(LOOK) * 10)).await;
                }
            }
        }
    }

    /// What this cloudcore is called now. A host may have more addresses than are named: the advertised one is in any case.
    fn own(&mut self) -> ServerNames {
        let advertised = ServerNames {
            dns: Vec::new(),
            addresses: vec![self.advertised.borrow_and_update().first],
        };
        own::with_own(&self.configured.clone().union(&advertised))
    }

    async fn sign_what_is_due(&mut self) {
        while let Some(due) = self.groups.due((self.clock)()) {
            match self.signer.sign(&due.names, (self.clock)()).await {
                Ok(signed) => {
                    self.backoff.reset();
                    self.shown.put(due.group, signed.key);
                    self.groups.issued(&due, signed.validity);
                    tell(&due, self.signer.name());
                }
                Err(error) => {
                    let delay = self.backoff.next_delay();
                    warn!(
                        error = %common::chain(&error), ?delay, signer = self.signer.name(),
                        "no new certificate for the stream server: the present one stays, and is tried again"
                    );
                    self.groups.failed(&due, (self.clock)() + delay);
                }
            }
        }
    }
}

fn tell(due: &Due, signer: &str) {
    let (names, addresses) = (due.names.dns.len(), due.names.addresses.len());
    info!(group = due.group, names, addresses, signer, "stream certificate issued");
    debug!(names = ?due.names, "the names in it");
}
