//! The cloudcores that run as pods: whose address goes with them. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proto::Object;
use serde::Deserialize;

use crate::kubernetes::Seen;

/// The addresses of cloudcore pods with a network of their own, by pod name. Pods in their host's network share an address that stays.
#[derive(Debug, Default)]
pub(super) struct Pods {
    own: BTreeMap<String, BTreeSet<IpAddr>>,
    /// A list under way.
    listed: Option<BTreeMap<String, BTreeSet<IpAddr>>>,
}

impl Pods {
    /// Takes in what the watch tells. Returns the addresses that went with a deleted pod and that no other has.
    pub(super) fn apply(&mut self, seen: &Seen) -> BTreeSet<IpAddr> {
        match seen {
            Seen::Listing => self.listed = Some(BTreeMap::new()),
            Seen::Listed(pod) => {
                if let Some(listed) = &mut self.listed {
                    listed.insert(pod.meta().name.clone(), own_addresses(pod));
                }
            }
            Seen::Synced => {
                let listed = self.listed.take().unwrap_or_default();
                let before = std::mem::replace(&mut self.own, listed);
                return self.unused(before.into_values().flatten());
            }
            Seen::Added(pod) | Seen::Modified(pod) => {
                self.own.insert(pod.meta().name.clone(), own_addresses(pod));
            }
            Seen::Deleted(pod) => {
                let mut gone = self.own.remove(&pod.meta().name).unwrap_or_default();
                gone.extend(own_addresses(pod));
                return self.unused(gone);
            }
        }
        BTreeSet::new()
    }

    /// Whether an address belongs to such a pod.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.own.values().any(|addresses| addresses.contains(&address))
    }

    fn unused(&self, addresses: impl IntoIterator<Item = IpAddr>) -> BTreeSet<IpAddr> {
        addresses.into_iter().filter(|address| !self.has(*address)).collect()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct View {
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    host_network: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default, rename = "podIP")]
    pod_ip: Option<IpAddr>,
    #[serde(default, rename = "podIPs")]
    pod_ips: Option<Vec<Address>>,
}

#[derive(Deserialize)]
struct Address {
    ip: IpAddr,
}

fn own_addresses(pod: &Object) -> BTreeSet<IpAddr> {
    let Ok(View { spec, status }) = pod.view::<View>() else {
        return BTreeSet::new();
    };
    if spec.host_network == Some(true) {
        return BTreeSet::new();
    }
    let more = status.pod_ips.into_iter().flatten().map(|address| address.ip);
    status.pod_ip.into_iter().chain(more).collect()
}
