//! What edges are called by whoever dials them: the name of the Node and what its status lists.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use proto::{NodeName, Object};
use serde::Deserialize;

/// A host as it is dialled.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Host {
    /// A name, in lower case.
    Name(Box<str>),
    /// An address.
    Address(IpAddr),
}

impl Host {
    /// A host as a URL, a TLS client or a Node's status names it; IPv6 addresses with or without brackets.
    pub fn parse(text: &str) -> Self {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        bare.unwrap_or(text)
            .parse()
            .map_or_else(|_| Self::Name(text.to_ascii_lowercase().into()), Self::Address)
    }
}

/// An edge and what it is called besides its Node's name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EdgeHosts {
    /// The Node's name.
    pub node: NodeName,
    /// The rest.
    pub others: Arc<[Host]>,
}

impl EdgeHosts {
    /// All of it.
    pub fn all(&self) -> impl Iterator<Item = Host> + '_ {
        std::iter::once(Host::parse(self.node.as_str())).chain(self.others.iter().cloned())
    }
}

/// An edge whose Node lists an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The Node's name.
    pub node: NodeName,
    /// Where its kubelet is said to be; 0 for nowhere.
    pub port: u16,
    /// When the Node was made; `None` where that cannot be read.
    pub created: Option<Timestamp>,
}

/// Which edges list which address.
#[derive(Default)]
pub(super) struct Lists(HashMap<IpAddr, BTreeSet<NodeName>>);

impl Lists {
    pub(super) fn add(&mut self, edge: &EdgeHosts) {
        for address in addresses_of(edge) {
            self.0.entry(address).or_default().insert(edge.node.clone());
        }
    }

    pub(super) fn remove(&mut self, edge: &EdgeHosts) {
        for address in addresses_of(edge) {
            let Some(nodes) = self.0.get_mut(&address) else {
                continue;
            };
            nodes.remove(&edge.node);
            if nodes.is_empty() {
                self.0.remove(&address);
            }
        }
    }

    /// By name.
    pub(super) fn at(&self, address: IpAddr) -> impl Iterator<Item = &NodeName> {
        self.0.get(&address.to_canonical()).into_iter().flatten()
    }
}

fn addresses_of(edge: &EdgeHosts) -> impl Iterator<Item = IpAddr> {
    edge.all().filter_map(|host| match host {
        Host::Address(address) => Some(address.to_canonical()),
        Host::Name(_) => None,
    })
}

/// What a Node's status lists, without the Node's own name.
pub(super) fn others_of(node: &Object) -> Arc<[Host]> {
    #[derive(Deserialize)]
    struct Node {
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
        #[serde(default)]
        address: String,
    }
    let own = Host::parse(node.name().as_str());
    let listed = node.view::<Node>().ok().and_then(|node| node.status.addresses);
    let mut hosts: Vec<Host> = listed
        .unwrap_or_default()
        .iter()
        .filter(|one| !one.address.is_empty())
        .map(|one| Host::parse(&one.address))
        .filter(|host| *host != own)
        .take(MAX_HOSTS)
        .collect();
    hosts.sort();
    hosts.dedup();
    hosts.into()
}

/// Of one Node; an edge writes this list itself.
const MAX_HOSTS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_called_by_its_name_and_by_what_its_status_lists() {
        let node = Object::parse(
            r#"{"metadata": {"name": "edge-1"}, "status": {"addresses": [
                {"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "Edge-1"},
                {"type": "ExternalDNS", "address": "one.example"}, {"type": "InternalIP", "address": "192.0.2.1"}]}}"#,
        )
        .expect("an object");
        let others = others_of(&node);
        assert_eq!(*others, [Host::parse("one.example"), Host::parse("192.0.2.1")]);
        assert_eq!(Host::parse("[::1]"), Host::parse("::1"));
        let nothing = Object::parse(r#"{"metadata": {"name": "edge-1"}}"#).expect("an object");
        assert!(others_of(&nothing).is_empty());
    }
}
