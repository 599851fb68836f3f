//! The host's name and address, which some defaults are made of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::mpsc;
use std::time::Duration;

/// What a default configuration takes from the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// A valid node name.
    pub hostname: String,
    /// An address that others reach this host by, of IPv4 where it has one.
    pub local_ip: String,
}

impl HostFacts {
    /// For an edge: its lower-cased name, or `default-edge-node` where that is no node name; the address that the name stands
    /// for if it is this host's, else the one of the default route, else 127.0.0.1. Any of IPv4 before one of IPv6; of several of a
    /// name the one of the default route.
    #[must_use]
    pub fn detect() -> Self {
        let hostname = hostname();
        let local_ip = printed(of_edge(by_name(&hostname)));
        Self {
            hostname: node_name(hostname),
            local_ip,
        }
    }

    /// For a cloud: the address is the one of the default route, else the one that its name stands for (`pkg/util/util.go`
    /// GetLocalIP, which is not the edge's).
    #[must_use]
    pub fn detect_by_route() -> Self {
        let hostname = hostname();
        let named = std::iter::once_with(|| by_name(&hostname)).flatten();
        let local_ip = printed(preferred(by_routes().chain(named)));
        Self {
            hostname: node_name(hostname),
            local_ip,
        }
    }

    /// For an edge whose address is known: that one while it is this host's, unless it is of IPv6 and one of IPv4 has come; else the
    /// one of the default route. `None`: there is none now. It takes no time. The name is not asked: while a network is away, it may
    /// stand for a bridge of containers, which would be this host's for ever.
    #[must_use]
    pub fn address_after(known: IpAddr) -> Option<IpAddr> {
        let known = Some(known).filter(|ip| is_ours(*ip));
        preferred(known.into_iter().chain(by_routes()))
    }

    /// For an edge that no address is known of: the one that [`Self::detect`] finds. It may ask a name server.
    #[must_use]
    pub fn address_by_name() -> Option<IpAddr> {
        of_edge(by_name(&hostname()))
    }

    /// Whether others may reach a host by such an address: one of the host alone or of a single link is none.
    #[must_use]
    pub fn is_reachable(ip: IpAddr) -> bool {
        is_reachable(ip)
    }

    /// Which of these addresses are still this host's, and then those of its default routes, one of IPv4 first. It takes no time.
    #[must_use]
    pub fn addresses_by_route(known: &[IpAddr]) -> Vec<IpAddr> {
        let still = known.iter().copied().filter(|ip| is_ours(*ip));
        still.chain(by_routes()).collect()
    }
}

/// By its name, else by its default routes.
fn of_edge(named: Vec<IpAddr>) -> Option<IpAddr> {
    chosen(named, &by_routes().collect::<Vec<_>>())
}

/// A name may stand for all addresses of a host (nss-myhostname), those of bridges for containers among them.
fn chosen(named: Vec<IpAddr>, routed: &[IpAddr]) -> Option<IpAddr> {
    let (both, named): (Vec<IpAddr>, Vec<IpAddr>) = named.into_iter().partition(|ip| routed.contains(ip));
    preferred(both.into_iter().chain(named).chain(routed.iter().copied()))
}

/// The first one of IPv4, else the first one. Asks no further than that.
fn preferred(candidates: impl Iterator<Item = IpAddr>) -> Option<IpAddr> {
    let mut first = None;
    for ip in candidates {
        if ip.is_ipv4() {
            return Some(ip);
        }
        first = first.or(Some(ip));
    }
    first
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

fn by_name(name: &str) -> Vec<IpAddr> {
    let name = name.to_owned();
    let found = within(RESOLVING, move || {
        let found = (name.as_str(), 0_u16).to_socket_addrs().ok()?;
        Some(found.map(|a| a.ip()).filter(|ip| is_ours(*ip)).collect())
    });
    found.unwrap_or_default()
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
    is_reachable(ip) && UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok()
}

/// Whether others may reach a host by such an address. One of a single link says nothing without the link's name.
fn is_reachable(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast() && !link_local
}

/// The addresses of the default routes, of both families.
fn by_routes() -> impl Iterator<Item = IpAddr> {
    [ANYWHERE.into(), ANYWHERE_V6.into()].into_iter().filter_map(by_route)
}

/// The address that packets to `remote` leave from. Connecting a datagram socket sends nothing; it only asks the kernel for the
/// route. A unique local address (fc00::/7) is the kernel's choice where there is no global one.
fn by_route(remote: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match remote {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((remote, 53)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    is_reachable(ip).then_some(ip)
}

/// A host whose name is not in /etc/hosts and whose name servers do not answer must start as quickly as any other: the resolver
/// itself gives up after 10 s and more.
const RESOLVING: Duration = Duration::from_secs(1);
/// Documentation addresses (RFC 5737, RFC 3849), reachable only by the default route.
const ANYWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ANYWHERE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
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
    fn ipv4_is_preferred_whoever_names_it() {
        let of = |all: &[&str]| {
            let all = all.iter().map(|ip| ip.parse().expect("address"));
            preferred(all).map(|ip| ip.to_string())
        };
        assert_eq!(of(&["2001:db8::5", "10.0.0.5"]).as_deref(), Some("10.0.0.5"));
        assert_eq!(of(&["10.0.0.5", "10.0.0.6", "fd00::5"]).as_deref(), Some("10.0.0.5"));
        assert_eq!(of(&["fd00::5", "2001:db8::5"]).as_deref(), Some("fd00::5"));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn of_the_addresses_of_a_name_the_routed_one_is_taken() {
        let all = |all: &[&str]| -> Vec<IpAddr> { all.iter().map(|ip| ip.parse().expect("address")).collect() };
        let cases: [(&[&str], &[&str], Option<&str>); 6] = [
            (&["172.17.0.1", "10.0.0.5"], &["10.0.0.5"], Some("10.0.0.5")),
            (&["10.1.0.5"], &["10.0.0.5"], Some("10.1.0.5")),
            (&["10.1.0.5", "10.2.0.5"], &["10.0.0.5"], Some("10.1.0.5")),
            (&["fd00::5"], &["10.0.0.5"], Some("10.0.0.5")),
            (&[], &["fd00::5"], Some("fd00::5")),
            (&[], &[], None),
        ];
        for (named, routed, wanted) in cases {
            let found = chosen(all(named), &all(routed)).map(|ip| ip.to_string());
            assert_eq!(found.as_deref(), wanted, "{named:?} {routed:?}");
        }
    }

    #[test]
    fn addresses_of_one_link_or_host_are_nobody_elses() {
        for (ip, reachable) in [
            ("10.0.0.5", true),
            ("2001:db8::5", true),
            ("fd00::5", true),
            ("fe80::5", false),
            ("169.254.0.5", false),
            ("::1", false),
            ("127.0.0.1", false),
            ("::", false),
            ("ff02::1", false),
        ] {
            assert_eq!(is_reachable(ip.parse().expect("address")), reachable, "{ip}");
        }
    }

    #[test]
    fn an_address_that_is_there_is_kept() {
        // Nobody has the second one.
        for gone in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(192, 0, 2, 1)] {
            let found = HostFacts::address_after(gone.into());
            assert_ne!(found, Some(gone.into()));
            let Some(found) = found.filter(IpAddr::is_ipv4) else {
                continue;
            };
            assert_eq!(HostFacts::address_after(found), Some(found));
        }
    }

    #[test]
    fn detection_always_answers() {
        for host in [HostFacts::detect(), HostFacts::detect_by_route()] {
            assert!(node_name_problems(&host.hostname).is_empty());
            assert!(host.local_ip.parse::<IpAddr>().is_ok());
        }
    }
}
