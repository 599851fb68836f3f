//! What this cloudcore itself is called.

use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use proto::join::ServerNames;
use tracing::warn;

/// The names of the service that config/manifests make.
const SERVICE: [&str; 4] = ["cloudcore", "cloudcore.kubeedge", "cloudcore.kubeedge.svc", "localhost"];

/// Hosts of containers have an interface for each.
const MAX_ADDRESSES: usize = 64;

/// The configured names with those of the service and the addresses of this host.
pub(super) fn with_own(configured: &ServerNames) -> ServerNames {
    let own = ServerNames {
        dns: SERVICE.map(String::from).into(),
        addresses: addresses(),
    };
    configured.clone().union(&own)
}

fn addresses() -> Vec<IpAddr> {
    let interfaces = match getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            warn!(%error, "the addresses of this host cannot be read, the stream certificate does not name them");
            return Vec::new();
        }
    };
    let mut found: Vec<IpAddr> = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
        })
        .filter(|address| match address {
            IpAddr::V4(_) => true,
            // A link-local address is valid on one link only, and a certificate has no place to say on which.
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        })
        .collect();
    found.sort();
    found.dedup();
    found.truncate(MAX_ADDRESSES);
    found
}
