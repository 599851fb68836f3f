//! Revocation of nodes: the ConfigMap `revokednodes` of namespace `kubeedge`, node names as keys (see [`Revoked`] for the values).
//!
//! Owns nothing; reads that one ConfigMap by a watch of its own, so that a line in it works at once, and hands the list to the hub, which
//! ends sessions and refuses certificates by it; before the first list nobody is let in. While the API server cannot be reached the last
//! list holds. Deleting a Node object alone ends its session, but does not keep the node out: as a kubelet does, it registers again. Go's
//! cloudcore has no such list.

use std::collections::BTreeMap;

use common::Tasks;
use proto::Object;
use serde::Deserialize;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::cloudhub::{CloudHub, Revoked};
use crate::kubernetes::{CONFIG_MAPS, Detail, Kube, Seen, Selection, follow};

/// Where KubeEdge keeps what is its own.
const NAMESPACE: &str = "kubeedge";
/// Encoded for a URL; the watch sees other namespaces too.
const BY_NAME: &str = "metadata.name%3Drevokednodes";
/// Events of the watch that may wait; when there are more the watch waits.
const EVENTS: usize = 8;

/// Keeps the hub's list up to date.
pub fn start(kube: Kube, hub: CloudHub, tasks: &Tasks) {
    let (out, mut events) = mpsc::channel(EVENTS);
    let selection = Selection {
        fields: BY_NAME,
        ..Selection::default()
    };
    tasks.spawn("watch", follow(kube, CONFIG_MAPS, selection, Detail::Whole, out));
    tasks.spawn("revocation", async move {
        let mut listed = None;
        while let Some(seen) = events.recv().await {
            match seen {
                Seen::Listing => listed = None,
                Seen::Listed(object) if is_ours(&object) => listed = Some(object),
                Seen::Synced => tell(&hub, listed.take().as_ref()),
                Seen::Added(object) | Seen::Modified(object) if is_ours(&object) => tell(&hub, Some(&object)),
                Seen::Deleted(object) if is_ours(&object) => tell(&hub, None),
                Seen::Listed(_) | Seen::Added(_) | Seen::Modified(_) | Seen::Deleted(_) => {}
            }
        }
    });
}

fn is_ours(object: &Object) -> bool {
    object.namespace().as_str() == NAMESPACE
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    data: Option<BTreeMap<String, String>>,
}

fn tell(hub: &CloudHub, list: Option<&Object>) {
    let revoked = match list.map(Object::view::<List>) {
        None => Revoked::default(),
        Some(Ok(list)) => Revoked::new(list.data.unwrap_or_default()),
        Some(Err(error)) => {
            warn!(error = %common::chain(&error), "the ConfigMap kubeedge/revokednodes cannot be read, the last list holds");
            return;
        }
    };
    if !revoked.is_empty() {
        info!(
            nodes = revoked.len(),
            "certificates of nodes are revoked by the ConfigMap kubeedge/revokednodes"
        );
    }
    hub.revoke(revoked);
}
