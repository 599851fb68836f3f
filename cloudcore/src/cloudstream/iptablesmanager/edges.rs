//! The addresses of edge nodes, for rules that redirect no other connection.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use common::Tasks;
use proto::Object;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};

use crate::kubernetes::{Detail, Kube, NODES, Seen, Selection, follow};

/// Follows the nodes with the edge label.
pub fn follow_edges(kube: Kube, tasks: &Tasks) -> watch::Receiver<BTreeSet<IpAddr>> {
    let (tell, told) = watch::channel(BTreeSet::new());
    let (out, mut events) = mpsc::channel(EVENTS);
    let selection = Selection {
        labels: "node-role.kubernetes.io%2Fedge",
        ..Selection::default()
    };
    tasks.spawn("watch", follow(kube, NODES, selection, Detail::Whole, out));
    tasks.spawn("edge addresses", async move {
        let mut nodes = Nodes::default();
        while let Some(seen) = events.recv().await {
            if let Some(addresses) = nodes.apply(seen) {
                tell.send_if_modified(|old| std::mem::replace(old, addresses.clone()) != addresses);
            }
        }
    });
    told
}

#[derive(Debug, Default)]
struct Nodes {
    addresses: BTreeMap<String, BTreeSet<IpAddr>>,
    listed: Option<BTreeMap<String, BTreeSet<IpAddr>>>,
}

impl Nodes {
    /// Takes in an event; returns all addresses unless a list is under way.
    fn apply(&mut self, seen: Seen) -> Option<BTreeSet<IpAddr>> {
        match seen {
            Seen::Listing => self.listed = Some(BTreeMap::new()),
            Seen::Listed(node) => {
                if let Some(listed) = &mut self.listed {
                    listed.insert(node.meta().name.clone(), addresses(&node));
                }
            }
            Seen::Synced => self.addresses = self.listed.take().unwrap_or_default(),
            Seen::Added(node) | Seen::Modified(node) => {
                self.addresses.insert(node.meta().name.clone(), addresses(&node));
            }
            Seen::Deleted(node) => drop(self.addresses.remove(&node.meta().name)),
        }
        let told = self.listed.is_none();
        told.then(|| self.addresses.values().flatten().copied().collect())
    }
}

#[derive(Deserialize)]
struct View {
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize, Default)]
struct Status {
    #[serde(default)]
    addresses: Option<Vec<Address>>,
}

#[derive(Deserialize)]
struct Address {
    address: String,
}

/// Host names among them are no addresses.
fn addresses(node: &Object) -> BTreeSet<IpAddr> {
    let view = node.view::<View>().ok();
    let all = view.and_then(|view| view.status.addresses).unwrap_or_default();
    all.iter().filter_map(|address| address.address.parse().ok()).collect()
}

/// Events of the watch that may wait; when there are more the watch waits.
const EVENTS: usize = 64;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, ip: &str) -> Object {
        let addresses = json!([{"type": "InternalIP", "address": ip}, {"type": "Hostname", "address": name}]);
        Object::from_value(&json!({"metadata": {"name": name}, "status": {"addresses": addresses}})).expect("object")
    }

    #[test]
    fn addresses_follow_the_nodes() {
        let mut nodes = Nodes::default();
        assert_eq!(nodes.apply(Seen::Listing), None);
        assert_eq!(nodes.apply(Seen::Listed(node("a", "10.0.0.1"))), None);
        assert_eq!(nodes.apply(Seen::Synced).map(|all| all.len()), Some(1));
        assert_eq!(
            nodes.apply(Seen::Added(node("b", "fd00::1"))).map(|all| all.len()),
            Some(2)
        );
        let left = nodes.apply(Seen::Deleted(node("a", "10.0.0.1"))).expect("told");
        assert_eq!(
            left.into_iter().collect::<Vec<_>>(),
            ["fd00::1".parse::<IpAddr>().expect("address")]
        );
    }
}
