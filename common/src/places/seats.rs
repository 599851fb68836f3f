//! Who has which place, and who gives way: no I/O, no clock.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Whom a place is counted for: who has one address of IPv6 has all of its network.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Host(IpAddr);

impl Host {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => Self(Ipv6Addr::from_bits(address.to_bits() & NETWORK).into()),
            address => Self(address),
        }
    }

    pub(super) const fn address(self) -> IpAddr {
        self.0
    }
}

/// Whether there is a place for a newcomer.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Room {
    /// One is free.
    Free,
    /// When this one gives way.
    For(u64),
    /// Nobody gives way before that.
    From(Instant),
    /// All are kept.
    No,
}

/// A place that is taken.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) host: Host,
    since: Instant,
    /// Told that it has to give way.
    pub(super) displaced: CancellationToken,
}

/// The places of one listener.
pub(super) struct Seats {
    capacity: usize,
    /// Never given twice, and the later the higher.
    next: u64,
    /// By number, which is by age.
    open: BTreeMap<u64, Seat>,
    /// How many of them each host has.
    hosts: HashMap<Host, usize>,
    /// Whose connections nobody displaces.
    kept: HashMap<u64, Seat>,
}

impl Seats {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            next: 0,
            open: BTreeMap::new(),
            hosts: HashMap::new(),
            kept: HashMap::new(),
        }
    }

    pub(super) fn free(&self) -> usize {
        self.capacity.saturating_sub(self.open.len() + self.kept.len())
    }

    /// How many places a host has that are not kept.
    pub(super) fn of(&self, host: Host) -> usize {
        self.hosts.get(&host).copied().unwrap_or_default()
    }

    /// Who gives way is the oldest one of the host that has most, with the newcomer counted: nobody pushes out those of a host that
    /// has less. Each has [`GRACE`], so that they come to an end when more come than there are places for.
    pub(super) fn room(&self, newcomer: Host, now: Instant) -> Room {
        if self.free() > 0 {
            return Room::Free;
        }
        let weight = |host: Host| self.of(host) + usize::from(host == newcomer);
        let most = self.hosts.keys().map(|host| weight(*host)).max();
        let mut oldest_first = self.open.iter();
        match oldest_first.find(|(_, seat)| Some(weight(seat.host)) == most) {
            None => Room::No,
            Some((number, seat)) if seat.since + GRACE <= now => Room::For(*number),
            Some((_, seat)) => Room::From(seat.since + GRACE),
        }
    }

    /// Takes a place, whether there is one or not. The number names it.
    pub(super) fn take(&mut self, host: Host, now: Instant, displaced: CancellationToken) -> u64 {
        self.open(Seat {
            host,
            since: now,
            displaced,
        })
    }

    /// Gives a place back. `None` when somebody else has it already.
    pub(super) fn leave(&mut self, number: u64) -> Option<Seat> {
        self.kept.remove(&number).or_else(|| self.close(number))
    }

    /// Nobody takes it from now on. Returns whether nobody has before.
    pub(super) fn keep(&mut self, number: u64) -> bool {
        if let Some(seat) = self.close(number) {
            self.kept.insert(number, seat);
        }
        self.kept.contains_key(&number)
    }

    /// One that was kept is as one that was taken now. Returns its number from now on; `None` when it was not kept.
    pub(super) fn release(&mut self, number: u64, now: Instant) -> Option<u64> {
        let seat = self.kept.remove(&number)?;
        Some(self.open(Seat { since: now, ..seat }))
    }

    fn open(&mut self, seat: Seat) -> u64 {
        let number = self.next;
        self.next += 1;
        *self.hosts.entry(seat.host).or_default() += 1;
        self.open.insert(number, seat);
        number
    }

    fn close(&mut self, number: u64) -> Option<Seat> {
        let seat = self.open.remove(&number)?;
        if let Some(count) = self.hosts.get_mut(&seat.host) {
            *count -= 1;
            if *count == 0 {
                self.hosts.remove(&seat.host);
            }
        }
        Some(seat)
    }
}

/// What a connection has at least, however many come: a handshake over a bad link (200 ms, a packet or two lost) is over by then.
pub(super) const GRACE: Duration = Duration::from_secs(3);
/// The part of an IPv6 address that says which network.
const NETWORK: u128 = !0 << 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn host(last: u8) -> Host {
        Host::of([192, 0, 2, last].into())
    }

    /// Full, with a place for each of these, one a second, the last one a second ago.
    fn full(hosts: &[u8]) -> (Seats, Instant) {
        let mut seats = Seats::new(hosts.len());
        let mut now = Instant::now();
        for last in hosts {
            assert_eq!(seats.room(host(*last), now), Room::Free);
            seats.take(host(*last), now, CancellationToken::new());
            now += Duration::from_secs(1);
        }
        (seats, now)
    }

    #[test]
    fn the_oldest_of_the_host_that_has_most_gives_way() {
        for (hosts, newcomer, expected) in [
            (&[1, 2, 2, 2, 3, 3, 3, 3][..], 9, 4),
            // The newcomer counts: between equals it is its own host that gives way.
            (&[1, 1, 1, 2, 2, 2], 2, 3),
            (&[1, 1, 1, 2, 2, 2], 1, 0),
            (&[1, 1, 1, 2, 2, 2], 9, 0),
            // Who floods pushes out nobody else.
            (&[1, 2, 2, 2, 2, 2], 2, 1),
            (&[1, 2, 3, 4, 5, 6], 9, 0),
            (&[1, 2, 3, 4, 5, 6], 2, 1),
        ] {
            let (seats, now) = full(hosts);
            let room = seats.room(host(newcomer), now + GRACE);
            assert_eq!(room, Room::For(expected), "{hosts:?} {newcomer}");
        }
    }

    #[test]
    fn nobody_gives_way_before_its_time() {
        let (seats, now) = full(&[1, 1, 2, 2, 2]);
        // The oldest of those who have most came 3 s before.
        assert_eq!(seats.room(host(9), now), Room::For(2));
        let (seats, now) = full(&[1, 1, 2, 2]);
        assert_eq!(
            seats.room(host(2), now),
            Room::From(now - Duration::from_secs(2) + GRACE)
        );
        assert_eq!(seats.room(host(1), now), Room::For(0));
    }

    #[test]
    fn what_is_kept_is_nobody_elses_until_it_is_released() {
        let (mut seats, now) = full(&[1, 1]);
        let later = now + GRACE;
        assert!(seats.keep(0) && seats.keep(0));
        assert_eq!((seats.of(host(1)), seats.free()), (1, 0));
        assert_eq!(seats.room(host(2), later), Room::For(1));
        assert!(seats.keep(1));
        assert_eq!(seats.room(host(2), later), Room::No);
        assert_eq!(seats.release(0, later), Some(2), "another number");
        assert_eq!(
            seats.room(host(2), later),
            Room::From(later + GRACE),
            "as young as others"
        );
        assert_eq!(seats.release(0, later), None);
        assert!(seats.leave(1).is_some());
        assert_eq!(seats.room(host(2), later), Room::Free);
    }

    #[test]
    fn a_place_comes_free_once() {
        let (mut seats, now) = full(&[1, 1]);
        assert!(seats.leave(0).is_some());
        assert!(seats.leave(0).is_none());
        assert!(!seats.keep(0));
        assert_eq!(
            (seats.free(), seats.of(host(1))),
            (1, 1),
            "nobody keeps what another has"
        );
        seats.take(host(2), now, CancellationToken::new());
        assert!(seats.leave(1).is_some() && seats.leave(2).is_some());
        assert_eq!((seats.free(), seats.hosts.len()), (2, 0));
    }

    #[test]
    fn a_network_of_ipv6_is_one_host() {
        let of = |text: &str| Host::of(text.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), host(1));
        assert_ne!(host(1), host(2));
    }
}
