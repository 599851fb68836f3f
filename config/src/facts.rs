//! The host's name and address, which some defaults are made of.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::mpsc;
use std::time::Duration;

/// What a default configuration takes from the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// A valid node name.
    pub hostname: String,
    /// An address that others reach this host by.
    pub local_ip: String,
}

impl HostFacts {
    /// For an edge: its lower-cased name, or `default-edge-node` where that is no node name; the address that the name stands
    /// for if it is this host's, else the one of the default route, else 127.0.0.1.
    #[must_use]
    pub fn detect() -> Self {
        let hostname = hostname();
        let local_ip = printed(by_name(&hostname).or_else(by_route));
        Self {
            hostname: node_name(hostname),
            local_ip,
        }
    }

    /// For a cloud: the address is the one of the default route, whatever the name stands for.
    #[must_use]
    pub fn detect_by_route() -> Self {
        Self {
            hostname: node_name(hostname()),
            local_ip: printed(by_route()),
        }
    }
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .unwrap_or_default()
        .trim()
        .to_lowercase()
}

fn node_name(hostname: String) -> String {
    if node_name_problems(&hostname).is_empty() {
        hostname
    } else {
        FALLBACK.to_owned()
    }
}

fn printed(ip: Option<IpAddr>) -> String {
    ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)).to_string()
}

/// The messages of Kubernetes' node name check; none when the name is good.
pub(crate) fn node_name_problems(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    if name.len() > MAX_NAME {
        found.push(format!("must be no more than {MAX_NAME} characters"));
    }
    let label = |part: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(part.chars().next())
            && edge(part.chars().next_back())
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    if !name.split('.').all(label) {
        found.push(NAME_RULE.to_owned());
    }
    found
}

fn by_name(name: &str) -> Option<IpAddr> {
    let name = name.to_owned();
    within(RESOLVING, move || {
        let found = (name.as_str(), 0_u16).to_socket_addrs().ok()?;
        found.map(|a| a.ip()).filter(IpAddr::is_ipv4).find(|ip| is_ours(*ip))
    })
}

/// What `work` finds if it does so in time. The system's resolver can neither be given a limit nor interrupted: its thread is
/// left to end by itself.
fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> Option<T> + Send + 'static) -> Option<T> {
    let (found, wait) = mpsc::sync_channel(1);
    let worker = std::thread::Builder::new().name("resolver".to_owned());
    // Nobody may wait for the answer any more.
    worker.spawn(move || drop(found.send(work()))).ok()?;
    wait.recv_timeout(limit).ok()?
}

/// An address is this host's when a socket can be bound to it.
fn is_ours(ip: IpAddr) -> bool {
    let link_local = matches!(ip, IpAddr::V4(v4) if v4.is_link_local());
    !ip.is_loopback()
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && !link_local
        && UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok()
}

/// Connecting a datagram socket sends nothing; it only asks the kernel for the route.
fn by_route() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((ANYWHERE, 53)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
}

/// A host whose name is not in /etc/hosts and whose name servers do not answer must start as quickly as any other: the resolver
/// itself gives up after 10 s and more.
const RESOLVING: Duration = Duration::from_secs(1);
/// Documentation address, reachable only by the default route.
const ANYWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const FALLBACK: &str = "default-edge-node";
const MAX_NAME: usize = 253;
const NAME_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_that_hangs_is_not_waited_for() {
        assert_eq!(within(Duration::from_secs(60), || Some(1)), Some(1));
        assert_eq!(within::<u8>(Duration::from_secs(60), || None), None);
        let (_never, hang) = mpsc::sync_channel::<u8>(1);
        assert_eq!(within(Duration::from_millis(10), move || hang.recv().ok()), None);
    }

    #[test]
    fn node_names() {
        for good in ["a", "edge-1", "a.b-c.d", "0"] {
            assert!(node_name_problems(good).is_empty(), "{good}");
        }
        for bad in ["", "A", "a_b", "-a", "a-", "a..b", ".a"] {
            assert_eq!(node_name_problems(bad).len(), 1, "{bad}");
        }
        assert_eq!(node_name_problems(&"a".repeat(254)).len(), 1);
    }

    #[test]
    fn detection_always_answers() {
        for host in [HostFacts::detect(), HostFacts::detect_by_route()] {
            assert!(node_name_problems(&host.hostname).is_empty());
            assert!(host.local_ip.parse::<IpAddr>().is_ok());
        }
    }
}
