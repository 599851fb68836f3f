//! The address that the API and the cloud know this node by, as it changes.
//!
//! Owns the task that looks for it every 10 s, and whenever the link to the cloud comes or goes. Emits the one address that the Node,
//! pods and the tunnel have. One by which others reach this host is never given up for one by which they do not (loopback, of a single
//! link): it stays until another comes. The host's name is asked for only while there is none that others reach it by. Must not hold
//! up the start. Behaviour: spec 05 §5.3.

use std::net::IpAddr;
use std::time::Duration;

use common::Tasks;
use config::HostFacts;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::info;

use crate::settings::BadSetting;
use crate::uplink::Link;

/// Where the address comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `nodeIP`.
    Fixed(IpAddr),
    /// Of a network interface, `customInterfaceName`.
    Interface(String),
    /// The host's, whatever it is at the time.
    Host,
}

impl Source {
    /// The address at the start, where the host was looked at already.
    fn first(&self, host: &HostFacts) -> Result<IpAddr, BadSetting> {
        match self {
            Self::Fixed(address) => Ok(*address),
            Self::Interface(name) => of_interface(name).ok_or_else(|| BadSetting::Interface(name.clone())),
            Self::Host => host.local_ip.parse().map_err(|_| BadSetting::Address {
                key: "the host's address",
                value: host.local_ip.clone(),
            }),
        }
    }

    /// The address now, where `known` was it; `None` where there is none. It takes no time.
    fn now(&self, known: IpAddr) -> Option<IpAddr> {
        match self {
            Self::Fixed(address) => Some(*address),
            Self::Interface(name) => of_interface(name),
            Self::Host => HostFacts::address_after(known),
        }
    }

    /// What may know an address while there is none. It may ask a name server.
    fn named(&self) -> Option<fn() -> Option<IpAddr>> {
        match self {
            Self::Fixed(_) | Self::Interface(_) => None,
            Self::Host => Some(HostFacts::address_by_name),
        }
    }
}

/// Follows the address until the process stops. One that the operator chose does not change.
pub fn start(
    source: Source,
    host: &HostFacts,
    link: watch::Receiver<Link>,
    tasks: &Tasks,
) -> Result<watch::Receiver<IpAddr>, BadSetting> {
    let first = source.first(host)?;
    if matches!(source, Source::Fixed(_)) {
        return Ok(watch::channel(first).1);
    }
    let named = source.named();
    Ok(follow(first, move |known| source.now(known), named, link, tasks))
}

/// Asks `detect` now and from time to time; `first` is known beforehand. `named` takes time and is asked only while the address is one
/// that others do not reach: as soon as `detect` has one, as the name goes before the routes, and else from time to time.
fn follow<D, N>(
    first: IpAddr,
    detect: D,
    named: Option<N>,
    mut link: watch::Receiver<Link>,
    tasks: &Tasks,
) -> watch::Receiver<IpAddr>
where
    D: Fn(IpAddr) -> Option<IpAddr> + Send + 'static,
    N: Fn() -> Option<IpAddr> + Clone + Send + 'static,
{
    let (now, told) = watch::channel(first);
    tasks.spawn("address", async move {
        // The start has just asked for the host's name.
        let mut asked = Instant::now();
        loop {
            let known = *now.borrow();
            let mut found = detect(known);
            let is_time = found.is_some() || asked.elapsed() >= ASK;
            if let Some(ask) = named.clone().filter(|_| is_time && !HostFacts::is_reachable(known)) {
                asked = Instant::now();
                found = tokio::task::spawn_blocking(ask).await.ok().flatten().or(found);
            }
            if let Some(next) = found.filter(|found| replaces(*found, known)) {
                info!(address = %next, before = %known, "this node's address changed");
                now.send_replace(next);
            }
            tokio::select! {
                // A link that was lost may have gone with the address, one that came with another.
                Ok(()) = link.changed() => {}
                () = sleep(LOOK) => {}
            }
        }
    });
    told
}

/// Waits for another address; for ever where it does not change any more.
pub async fn changed(address: &mut watch::Receiver<IpAddr>) {
    if address.changed().await.is_err() {
        std::future::pending().await
    }
}

fn replaces(found: IpAddr, known: IpAddr) -> bool {
    found != known && (HostFacts::is_reachable(found) || !HostFacts::is_reachable(known))
}

fn of_interface(name: &str) -> Option<IpAddr> {
    let all = nix::ifaddrs::getifaddrs().ok()?;
    let found = all.filter(|entry| entry.interface_name == name).filter_map(|entry| {
        let address = entry.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
    });
    main_address(found)
}

/// The first one of IPv4, else the first one of IPv6 that means something beyond its link, else any: a board whose network has given
/// it no address yet starts its pods all the same.
fn main_address(all: impl Iterator<Item = IpAddr>) -> Option<IpAddr> {
    all.min_by_key(|address| match address {
        IpAddr::V4(_) => 0,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => 2,
        IpAddr::V6(_) => 1,
    })
}

/// Between two looks at the host; a kubelet looks as often.
const LOOK: Duration = Duration::from_secs(10);
/// Between two questions for the host's name that find nothing.
const ASK: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    struct Host {
        has: Arc<Mutex<Option<IpAddr>>>,
        /// What its name stands for, and how often that was asked.
        named: Arc<Mutex<(Option<IpAddr>, usize)>>,
        link: watch::Sender<Link>,
        told: watch::Receiver<IpAddr>,
    }

    impl Host {
        fn new(first: &str, tasks: &Tasks) -> Self {
            let has = Arc::new(Mutex::new(None));
            let (link, seen) = watch::channel(Link::Down);
            let named = Arc::new(Mutex::new((None, 0)));
            let (looked, asked) = (has.clone(), named.clone());
            let ask = move || {
                let mut asked = asked.lock();
                asked.1 += 1;
                asked.0
            };
            let told = follow(ip(first), move |_| *looked.lock(), Some(ask), seen, tasks);
            Self { has, named, link, told }
        }

        /// What is known soon after the look that follows.
        async fn having(&self, now: Option<&str>) -> String {
            *self.has.lock() = now.map(ip);
            sleep(LOOK + Duration::from_secs(1)).await;
            self.told.borrow().to_string()
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[tokio::test(start_paused = true)]
    async fn a_board_without_a_route_has_its_address_within_a_look_of_getting_one() {
        let tasks = Tasks::new();
        let mut host = Host::new("127.0.0.1", &tasks);
        assert_eq!(host.having(None).await, "127.0.0.1");
        assert_eq!(host.having(Some("10.0.0.5")).await, "10.0.0.5");
        host.told.borrow_and_update();
        assert_eq!(host.having(Some("10.0.0.5")).await, "10.0.0.5");
        assert!(!host.told.has_changed().expect("running"), "what is known is told once");
        assert_eq!(host.having(Some("10.0.0.7")).await, "10.0.0.7");
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_address_stays_until_another_good_one_comes() {
        let tasks = Tasks::new();
        let host = Host::new("10.0.0.5", &tasks);
        for none in [None, Some("127.0.0.1"), Some("169.254.7.7"), Some("fe80::5")] {
            assert_eq!(host.having(none).await, "10.0.0.5", "{none:?}");
        }
        assert_eq!(host.having(Some("fd00::5")).await, "fd00::5");
    }

    #[tokio::test(start_paused = true)]
    async fn the_name_is_asked_now_and_then_while_there_is_no_address() {
        let tasks = Tasks::new();
        let host = Host::new("127.0.0.1", &tasks);
        for _ in 0..12 {
            assert_eq!(host.having(None).await, "127.0.0.1");
        }
        let asked = host.named.lock().1;
        assert!((1..=3).contains(&asked), "{asked} times in two minutes");
        host.named.lock().0 = Some(ip("10.1.0.5"));
        // The name goes before the routes.
        assert_eq!(host.having(Some("10.0.0.5")).await, "10.1.0.5");
        host.named.lock().0 = Some(ip("172.17.0.1"));
        let asked = host.named.lock().1;
        for _ in 0..12 {
            assert_eq!(host.having(None).await, "10.1.0.5");
        }
        assert_eq!(host.having(Some("10.0.0.7")).await, "10.0.0.7");
        assert_eq!(host.named.lock().1, asked, "never again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_comes_is_a_reason_to_look() {
        let tasks = Tasks::new();
        let mut host = Host::new("10.0.0.5", &tasks);
        host.having(None).await;
        *host.has.lock() = Some(ip("10.0.0.7"));
        let start = tokio::time::Instant::now();
        host.link.send_replace(Link::Up(1));
        host.told.changed().await.expect("running");
        assert_eq!(*host.told.borrow(), ip("10.0.0.7"));
        assert!(start.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_operators_address_does_not_change() {
        let tasks = Tasks::new();
        let host = HostFacts {
            hostname: "edge-1".into(),
            local_ip: "10.0.0.5".into(),
        };
        let link = watch::channel(Link::Down).1;
        let mut told = start(Source::Fixed(ip("192.0.2.9")), &host, link, &tasks).expect("an address");
        assert_eq!(*told.borrow(), ip("192.0.2.9"));
        let waited = tokio::time::timeout(LOOK * 10, changed(&mut told)).await;
        assert!(waited.is_err(), "nobody takes a source that has ended for a change");
    }

    #[test]
    fn an_interface_is_known_by_what_others_can_use() {
        let of = |all: &[&str]| main_address(all.iter().map(|text| ip(text))).map(|ip| ip.to_string());
        assert_eq!(of(&["fe80::1", "fd00::5", "10.0.0.5"]).as_deref(), Some("10.0.0.5"));
        assert_eq!(of(&["fe80::1", "fd00::5"]).as_deref(), Some("fd00::5"));
        assert_eq!(of(&["fe80::1"]).as_deref(), Some("fe80::1"));
        assert_eq!(of(&[]), None);
    }
}
