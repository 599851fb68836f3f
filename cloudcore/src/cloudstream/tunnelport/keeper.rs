//! The task that keeps this cloudcore's entry.

use std::net::IpAddr;
use std::time::Duration;

use common::{Backoff, chain};
use proto::Object;
use proto::tunnelport::{NAME, NAMESPACE, TunnelPortRecord};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::field::display;
use tracing::{info, warn};

use super::pods::Pods;
use super::{Addresses, ConfigMapView, claim};
use crate::kubernetes::{Kube, Seen};

/// Its state.
pub(super) struct Keeper {
    kube: Kube,
    own: watch::Receiver<Addresses>,
    /// What was written.
    entry: Option<Addresses>,
    port: watch::Sender<u16>,
    records: watch::Sender<Option<TunnelPortRecord>>,
    map: ConfigMapView,
    pods: Pods,
    backoff: Backoff,
    claimed: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(
        kube: Kube,
        own: watch::Receiver<Addresses>,
        port: watch::Sender<u16>,
        records: watch::Sender<Option<TunnelPortRecord>>,
    ) -> Self {
        Self {
            kube,
            own,
            entry: None,
            port,
            records,
            map: ConfigMapView::default(),
            pods: Pods::default(),
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            claimed: None,
        }
    }

    /// Until the stop; then the entry goes if the address does.
    pub(super) async fn run(
        mut self,
        mut maps: mpsc::Receiver<Seen>,
        mut pods: mpsc::Receiver<Seen>,
        stop: CancellationToken,
    ) {
        let mut due = Some(Instant::now());
        loop {
            let claim = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = claim => due = self.claim().await,
                Ok(()) = self.own.changed() => due = Some(Instant::now()),
                Some(seen) = maps.recv() => {
                    if let Some(current) = self.map.apply(seen) {
                        due = due.or_else(|| self.look(current.as_ref()));
                    }
                }
                Some(seen) = pods.recv() => self.pod(&seen).await,
            }
        }
        let first = self.own.borrow().first;
        if self.pods.has(first) {
            self.release(first, "this cloudcore's address goes with its pod").await;
        }
    }

    /// Claims the port and tells it. Returns when to try again, if at all.
    async fn claim(&mut self) -> Option<Instant> {
        let (own, left) = self.wanted();
        match claim::claim(&self.kube, own, left).await {
            Ok((record, port)) => {
                self.backoff.reset();
                self.claimed = Some(Instant::now());
                if self.entry.replace(own) != Some(own) {
                    let Addresses { first, second } = own;
                    let second = second.map(display);
                    info!(address = %first, second, port, "requests for edges of this cloudcore come to this tunnel port");
                }
                self.tell(record, port);
                None
            }
            Err(error) => {
                if self.backoff.failures() == 0 {
                    warn!(
                        error = %chain(&error),
                        "no tunnel port can be agreed on with other cloudcores, it is tried again: check that the account may get, \
                         create and patch the ConfigMap {NAMESPACE}/{NAME}"
                    );
                }
                // Logs and exec work without the record where this is the only cloudcore.
                let mut record = self.records.borrow().clone().unwrap_or_default();
                if let Ok(claim) = own.claim(left, &mut record) {
                    self.tell(record, claim.port);
                }
                Some(Instant::now() + self.backoff.next_delay())
            }
        }
    }

    /// Looks at the ConfigMap after somebody changed it. Returns when to claim again if this cloudcore's entry is not in it.
    fn look(&self, current: Option<&Object>) -> Option<Instant> {
        let (own, left) = self.wanted();
        if let Some(record) = current.and_then(|object| TunnelPortRecord::of(object).ok())
            && let Ok(claim) = own.claim(left, &mut record.clone())
            && !claim.changed
        {
            self.tell(record, claim.port);
            return None;
        }
        // If somebody removes the entry again and again, it is written at most once per `PAUSE`.
        let now = Instant::now();
        Some(self.claimed.map_or(now, |at| now.max(at + PAUSE)))
    }

    /// The addresses of now, and that of the entry if it is another.
    fn wanted(&self) -> (Addresses, Option<IpAddr>) {
        let own = *self.own.borrow();
        let entry = self.entry.map(|entry| entry.first);
        (own, entry.filter(|first| *first != own.first))
    }

    fn tell(&self, record: TunnelPortRecord, port: u16) {
        self.port.send_if_modified(|old| std::mem::replace(old, port) != port);
        self.records.send_if_modified(|old| {
            let changed = old.as_ref() != Some(&record);
            *old = Some(record);
            changed
        });
    }

    async fn pod(&mut self, seen: &Seen) {
        let first = self.own.borrow().first;
        for address in self.pods.apply(seen) {
            // A record without it is not written.
            if address != first {
                self.release(address, "its cloudcore pod was deleted").await;
            }
        }
    }

    async fn release(&self, address: IpAddr, why: &str) {
        match claim::release(&self.kube, address).await {
            Ok(()) => info!(%address, why, "out of the record of tunnel ports"),
            Err(error) => warn!(%address, error = %chain(&error), "cannot be taken out of the record of tunnel ports"),
        }
    }
}

/// Between two claims.
const PAUSE: Duration = Duration::from_secs(1);
