//! The virtual port of this cloudcore: negotiated with other replicas by the ConfigMap `kubeedge/tunnelport`.
//!
//! Owns this cloudcore's entry of the record, and beside it its second address: claimed at the start, without waiting, put back when
//! somebody takes them away, exchanged when this host has others, and removed at a clean end if the address goes too (a pod with a
//! network of its own). Entries of other cloudcore pods that were deleted are removed.
//! Offers the port, and the record for the redirect rules. Nobody waits for it: until the record can be read, and while it cannot be
//! written, the port is 10351. Spec 04 §12.

mod claim;
mod keeper;
mod pods;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use common::{Tasks, chain};
use proto::Object;
use proto::tunnelport::{Claim, FIRST_PORT, NAME, NAMESPACE, NoPortLeft, TunnelPortRecord};
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::addresses::Addresses;
use crate::kubernetes::{CONFIG_MAPS, Detail, Kube, PODS, Seen, Selection, follow};

/// What the record says, as it changes.
#[derive(Clone, Debug)]
pub struct TunnelPort {
    /// The virtual port of this cloudcore.
    pub port: watch::Receiver<u16>,
    /// The whole record; nothing before it is known.
    pub records: watch::Receiver<Option<TunnelPortRecord>>,
}

impl Addresses {
    /// Makes the record say so, the first one being the key. The entry of `left` goes.
    fn claim(self, left: Option<IpAddr>, record: &mut TunnelPortRecord) -> Result<Claim, NoPortLeft> {
        let released = left.is_some_and(|left| record.release(left));
        let claim = record.claim(self.first)?;
        let changed = record.set_second(self.first, self.second);
        Ok(Claim {
            changed: released || claim.changed || changed,
            ..claim
        })
    }
}

/// Claims a port for this cloudcore and keeps it. `own` is where the hosts of API servers reach it.
pub fn start(kube: &Kube, own: watch::Receiver<Addresses>, tasks: &Tasks) -> TunnelPort {
    let (port, port_told) = watch::channel(FIRST_PORT);
    let (records, records_told) = watch::channel(None);
    let maps = follow_config_map(kube, tasks);
    let (out, pods) = mpsc::channel(EVENTS);
    let selection = Selection {
        namespace: NAMESPACE,
        labels: "kubeedge%3Dcloudcore",
        ..Selection::default()
    };
    tasks.spawn("watch", follow(kube.clone(), PODS, selection, Detail::Whole, out));
    let keeper = keeper::Keeper::new(kube.clone(), own, port, records);
    tasks.spawn_draining("tunnelport", |stop| keeper.run(maps, pods, stop));
    TunnelPort {
        port: port_told,
        records: records_told,
    }
}

/// Only reads the record: for a manager of redirect rules that is no cloudcore.
pub fn read_only(kube: &Kube, tasks: &Tasks) -> watch::Receiver<Option<TunnelPortRecord>> {
    let (records, told) = watch::channel(None);
    let mut events = follow_config_map(kube, tasks);
    tasks.spawn("tunnelport", async move {
        let mut view = ConfigMapView::default();
        while let Some(seen) = events.recv().await {
            if let Some(current) = view.apply(seen) {
                // A record that is gone or broken removes no rule.
                if let Some(record) = current.as_ref().and_then(readable) {
                    records.send_replace(Some(record));
                }
            }
        }
    });
    told
}

fn follow_config_map(kube: &Kube, tasks: &Tasks) -> mpsc::Receiver<Seen> {
    let (out, events) = mpsc::channel(EVENTS);
    let selection = Selection {
        namespace: NAMESPACE,
        fields: "metadata.name%3Dtunnelport",
        ..Selection::default()
    };
    tasks.spawn(
        "watch",
        follow(kube.clone(), CONFIG_MAPS, selection, Detail::Whole, out),
    );
    events
}

/// The record of a ConfigMap that was seen; a warning if it has none.
fn readable(config_map: &Object) -> Option<TunnelPortRecord> {
    TunnelPortRecord::of(config_map)
        .inspect_err(
            |error| warn!(error = %chain(error), "the ConfigMap {NAMESPACE}/{NAME} has no record of tunnel ports"),
        )
        .ok()
}

/// Turns what the watch tells into the ConfigMap as it is.
#[derive(Default)]
struct ConfigMapView {
    listed: Option<Object>,
}

impl ConfigMapView {
    /// The ConfigMap now, if the event says anything about it; nothing in it when it does not exist.
    fn apply(&mut self, seen: Seen) -> Option<Option<Object>> {
        match seen {
            Seen::Listing => self.listed = None,
            Seen::Listed(object) if object.meta().name == NAME => self.listed = Some(object),
            Seen::Synced => return Some(self.listed.take()),
            Seen::Added(object) | Seen::Modified(object) if object.meta().name == NAME => return Some(Some(object)),
            Seen::Deleted(object) if object.meta().name == NAME => return Some(None),
            Seen::Listed(_) | Seen::Added(_) | Seen::Modified(_) | Seen::Deleted(_) => {}
        }
        None
    }
}

/// Events that a watch may be ahead.
const EVENTS: usize = 8;
