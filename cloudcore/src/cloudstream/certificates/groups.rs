//! Which certificate names which edges, and which of them are due. Without input or output; all times are Unix times.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use proto::NodeName;
use proto::join::{ServerNames, Validity};
use rustls_pki_types::ServerName;

use crate::informers::{EdgeHosts, Host};

/// Edges in one certificate: with a name and an address each it has some 16 KB, and no TLS library takes more than 64 KB.
pub(super) const EDGES: usize = 500;

/// All certificates.
pub(super) struct Groups {
    own: ServerNames,
    groups: Vec<Group>,
    members: HashMap<NodeName, usize>,
}

#[derive(Default)]
struct Group {
    edges: HashMap<NodeName, EdgeHosts>,
    /// What the present certificate names.
    named: HashSet<Host>,
    /// When another is due in any case.
    renewal: Option<Duration>,
    /// Not to be asked for before, after a failure.
    not_before: Duration,
    /// Names something that the certificate lacks.
    lacks: bool,
}

/// A certificate to ask for.
#[derive(Debug, PartialEq)]
pub(super) struct Due {
    pub(super) group: usize,
    pub(super) names: ServerNames,
}

impl Groups {
    /// The first certificate names this cloudcore, too.
    pub(super) fn new(own: ServerNames) -> Self {
        let first = Group {
            lacks: true,
            ..Group::default()
        };
        Self {
            own,
            groups: vec![first],
            members: HashMap::new(),
        }
    }

    /// Other names of this cloudcore.
    pub(super) fn set_own(&mut self, own: ServerNames) {
        if let Some(first) = self.groups.first_mut() {
            first.lacks |= !hosts_of(&own).is_subset(&first.named);
        }
        self.own = own;
    }

    /// The edges that there are. One that is gone stays in its certificate until another is made; its place is free.
    pub(super) fn set_edges(&mut self, edges: Vec<EdgeHosts>) {
        let present: HashSet<&NodeName> = edges.iter().map(|edge| &edge.node).collect();
        let gone = self.members.extract_if(|node, _| !present.contains(node));
        for (node, group) in gone {
            if let Some(group) = self.groups.get_mut(group) {
                group.edges.remove(&node);
            }
        }
        let mut free = 0;
        for edge in edges {
            let place = match self.members.get(&edge.node) {
                Some(place) => *place,
                None => {
                    while self.groups.get(free).is_some_and(|group| group.edges.len() >= EDGES) {
                        free += 1;
                    }
                    self.members.insert(edge.node.clone(), free);
                    free
                }
            };
            if self.groups.len() <= place {
                self.groups.push(Group::default());
            }
            if let Some(group) = self.groups.get_mut(place) {
                group.lacks |= edge.all().any(|host| !group.named.contains(&host));
                group.edges.insert(edge.node.clone(), edge);
            }
        }
    }

    /// The first certificate that is to be asked for now.
    pub(super) fn due(&self, now: Duration) -> Option<Due> {
        let (group, found) = self
            .groups
            .iter()
            .enumerate()
            .find(|(_, group)| group.due().is_some_and(|due| due <= now))?;
        let mut names = if group == 0 {
            self.own.clone()
        } else {
            ServerNames::default()
        };
        let mut hosts: Vec<Host> = found.edges.values().flat_map(EdgeHosts::all).collect();
        hosts.sort();
        hosts.dedup();
        for host in hosts {
            match host {
                // What is no DNS name would spoil the whole certificate, and no client can ask for it.
                Host::Name(name) if ServerName::try_from(&*name).is_ok() => names.dns.push(name.into()),
                Host::Name(_) => {}
                Host::Address(address) => names.addresses.push(address),
            }
        }
        let own = ServerNames::default().union(&names);
        Some(Due { group, names: own })
    }

    /// When something will be due, if nothing changes.
    pub(super) fn next(&self) -> Option<Duration> {
        self.groups.iter().filter_map(Group::due).min()
    }

    /// The certificate that was due is there.
    pub(super) fn issued(&mut self, due: &Due, validity: Validity) {
        if let Some(group) = self.groups.get_mut(due.group) {
            group.named = hosts_of(&due.names);
            group.lacks = false;
            group.renewal = Some(validity.renewal());
            group.not_before = Duration::ZERO;
        }
    }

    /// It is not; again not before `then`.
    pub(super) fn failed(&mut self, due: &Due, then: Duration) {
        if let Some(group) = self.groups.get_mut(due.group) {
            group.not_before = then;
        }
    }

    /// Where each host of an edge is named.
    pub(super) fn places(&self) -> HashMap<Host, usize> {
        let groups = self.groups.iter().enumerate();
        let hosts = groups.flat_map(|(place, group)| {
            let hosts = group.edges.values().flat_map(EdgeHosts::all);
            hosts.map(move |host| (host, place))
        });
        hosts.collect()
    }
}

impl Group {
    fn due(&self) -> Option<Duration> {
        if self.lacks {
            return Some(self.not_before);
        }
        // A group whose edges are all gone needs no other one; the first one is for everybody.
        self.renewal.map(|renewal| renewal.max(self.not_before))
    }
}

fn hosts_of(names: &ServerNames) -> HashSet<Host> {
    let dns = names.dns.iter().map(|name| Host::parse(name));
    let addresses = names.addresses.iter().map(|address| Host::Address(*address));
    dns.chain(addresses).collect()
}
