//! The addresses at which others reach this host, as they change.
//!
//! Owns the task that asks for them every 30 s. Emits what is known, one of each family: an address that comes later is taken, one
//! that changes replaces the old one, and one that goes stays until another comes. One that is still this host's is kept, whatever takes
//! the default route. Must not wait for name servers.

use std::net::IpAddr;
use std::time::Duration;

use common::Tasks;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::field::display;
use tracing::info;

/// Where others reach this cloudcore.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// By which others know it: of IPv4 where it has one.
    pub first: IpAddr,
    /// Of the other family, where it has one.
    pub second: Option<IpAddr>,
}

impl Addresses {
    /// For what never changes.
    #[must_use]
    pub fn fixed(self) -> watch::Receiver<Self> {
        watch::channel(self).1
    }

    /// The first one and the second one.
    pub fn all(self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.first).chain(self.second)
    }

    /// With those that were found in place of those known of their family. A loopback address is known by want of others.
    fn updated(self, found: Vec<IpAddr>) -> Self {
        let known = self.all().filter(|ip| !ip.is_loopback());
        let all: Vec<IpAddr> = found.into_iter().chain(known).collect();
        let of = |family: fn(&IpAddr) -> bool| all.iter().copied().find(family);
        let (v4, v6) = (of(IpAddr::is_ipv4), of(IpAddr::is_ipv6));
        Self {
            first: v4.or(v6).unwrap_or(self.first),
            second: v4.and(v6),
        }
    }
}

impl From<IpAddr> for Addresses {
    fn from(first: IpAddr) -> Self {
        Self { first, second: None }
    }
}

/// Asks `detect` now and from time to time: of those known which ones are still there, then others. `first` is known beforehand.
pub fn follow(
    first: IpAddr,
    mut detect: impl FnMut(&[IpAddr]) -> Vec<IpAddr> + Send + 'static,
    tasks: &Tasks,
) -> watch::Receiver<Addresses> {
    let (now, told) = watch::channel(Addresses::from(first).updated(detect(&[first])));
    tasks.spawn("addresses", async move {
        loop {
            sleep(PERIOD).await;
            let before = *now.borrow();
            let known: Vec<IpAddr> = before.all().collect();
            let after = before.updated(detect(&known));
            if after != before {
                let second = after.second.map(display);
                info!(address = %after.first, second, "this host has other addresses");
                now.send_replace(after);
            }
        }
    });
    told
}

/// By which others are told to come: the operator's first address, else this host's of now. A list of `detected` alone, what the
/// start found, is the default; where the file has it (`written`), it looks like a printed default, and the family stays.
pub fn advertised(
    given: &[IpAddr],
    written: bool,
    detected: IpAddr,
    own: &watch::Receiver<Addresses>,
    tasks: &Tasks,
) -> watch::Receiver<Addresses> {
    match given {
        [first] if *first == detected && written && !first.is_loopback() => of_family(*first, own.clone(), tasks),
        [first, ..] if given != [detected] => Addresses::from(*first).fixed(),
        _ => own.clone(),
    }
}

/// `known`, then what takes its place in its family.
fn of_family(known: IpAddr, mut own: watch::Receiver<Addresses>, tasks: &Tasks) -> watch::Receiver<Addresses> {
    let (now, told) = watch::channel(Addresses::from(known));
    tasks.spawn("advertised address", async move {
        loop {
            let of_now = *own.borrow_and_update();
            let same = of_now.all().find(|ip| ip.is_ipv4() == known.is_ipv4());
            let before = now.borrow().first;
            if let Some(ip) = same.filter(|ip| *ip != before) {
                now.send_replace(ip.into());
            }
            if own.changed().await.is_err() {
                return;
            }
        }
    });
    told
}

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    struct Host {
        found: Arc<Mutex<Vec<IpAddr>>>,
        told: watch::Receiver<Addresses>,
    }

    impl Host {
        fn new(local_ip: &str, found: &[&str], tasks: &Tasks) -> Self {
            let found = Arc::new(Mutex::new(parsed(found)));
            let detected = found.clone();
            let told = follow(ip(local_ip), move |_| detected.lock().clone(), tasks);
            Self { found, told }
        }

        fn known(&self) -> Vec<String> {
            self.told.borrow().all().map(|ip| ip.to_string()).collect()
        }

        /// What is known after the routes have told these for a while.
        async fn having(&self, found: &[&str]) -> Vec<String> {
            *self.found.lock() = parsed(found);
            sleep(PERIOD * 2).await;
            self.known()
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    fn parsed(all: &[&str]) -> Vec<IpAddr> {
        all.iter().map(|text| ip(text)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_comes_later_is_taken() {
        let tasks = Tasks::new();
        let host = Host::new("10.0.0.5", &["10.0.0.5"], &tasks);
        assert_eq!(host.known(), ["10.0.0.5"]);
        assert_eq!(host.having(&["10.0.0.5", "fd00::5"]).await, ["10.0.0.5", "fd00::5"]);

        let early = Host::new("127.0.0.1", &[], &tasks);
        assert_eq!(early.known(), ["127.0.0.1"]);
        assert_eq!(early.having(&["fd00::5"]).await, ["fd00::5"]);
        assert_eq!(early.having(&["10.0.0.5", "fd00::5"]).await, ["10.0.0.5", "fd00::5"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_changes_replaces_the_old_one() {
        let tasks = Tasks::new();
        let mut host = Host::new("10.0.0.5", &["10.0.0.5", "fd00::5"], &tasks);
        assert_eq!(host.having(&["10.0.0.5", "fd00::6"]).await, ["10.0.0.5", "fd00::6"]);
        assert_eq!(host.having(&["10.0.0.7", "fd00::6"]).await, ["10.0.0.7", "fd00::6"]);
        host.told.borrow_and_update();
        host.having(&["10.0.0.7", "fd00::6"]).await;
        assert!(!host.told.has_changed().expect("running"), "what is known is told once");
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_goes_stays_until_another_comes() {
        let tasks = Tasks::new();
        let host = Host::new("10.0.0.5", &["10.0.0.5", "fd00::5"], &tasks);
        assert_eq!(host.having(&["fd00::5"]).await, ["10.0.0.5", "fd00::5"]);
        assert_eq!(host.having(&[]).await, ["10.0.0.5", "fd00::5"]);
        assert_eq!(host.having(&["10.0.0.6"]).await, ["10.0.0.6", "fd00::5"]);
        // The address that its name stands for, without a route.
        let named = Host::new("10.0.0.5", &["fd00::5"], &tasks);
        assert_eq!(named.known(), ["10.0.0.5", "fd00::5"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_operator_says_does_not_follow() {
        let tasks = Tasks::new();
        let host = Host::new("10.0.0.5", &["10.0.0.5"], &tasks);
        let first = |given: &[&str], written| advertised(&parsed(given), written, ip("10.0.0.5"), &host.told, &tasks);
        let by_default = [first(&["10.0.0.5"], false), first(&["10.0.0.5"], true)];
        let given = [first(&["10.0.0.1"], true), first(&["10.0.0.5", "10.0.0.1"], true)];
        host.having(&["10.0.0.7"]).await;
        assert_eq!(by_default.map(|own| own.borrow().first), [ip("10.0.0.7"); 2]);
        assert_eq!(given.map(|own| own.borrow().first), [ip("10.0.0.1"), ip("10.0.0.5")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_written_default_follows_within_its_family() {
        let tasks = Tasks::new();
        let host = Host::new("fd00::5", &["fd00::5"], &tasks);
        let first = |written| advertised(&[ip("fd00::5")], written, ip("fd00::5"), &host.told, &tasks);
        let (written, by_default) = (first(true), first(false));
        for (found, expected) in [
            (["10.0.0.5", "fd00::5"], ["fd00::5", "10.0.0.5"]),
            (["10.0.0.5", "fd00::6"], ["fd00::6", "10.0.0.5"]),
        ] {
            host.having(&found).await;
            let known = [&written, &by_default].map(|own| own.borrow().first.to_string());
            assert_eq!(known, expected, "{found:?}");
        }
        let early = Host::new("127.0.0.1", &[], &tasks);
        let written = advertised(&[ip("127.0.0.1")], true, ip("127.0.0.1"), &early.told, &tasks);
        early.having(&["fd00::5"]).await;
        assert_eq!(written.borrow().first, ip("fd00::5"), "there was no other address");
    }
}
