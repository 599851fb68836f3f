//! Who waits at the door: no I/O, no clock.

use std::collections::{HashMap, VecDeque};

use super::seats::Host;

/// Those of one host come in as they came; between hosts somebody else says whose turn it is.
pub(super) struct Queue<T> {
    limit: usize,
    length: usize,
    next: u64,
    hosts: HashMap<Host, Line<T>>,
}

/// With the number of each, which is higher the later it came.
type Line<T> = VecDeque<(u64, T)>;

impl<T> Queue<T> {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            length: 0,
            next: 0,
            hosts: HashMap::new(),
        }
    }

    /// Returns who is turned away when that is one too many: the last one of the host of which most wait.
    pub(super) fn push(&mut self, host: Host, waiting: T) -> Option<T> {
        let number = self.next;
        self.next += 1;
        self.length += 1;
        self.hosts.entry(host).or_default().push_back((number, waiting));
        if self.length <= self.limit {
            return None;
        }
        let most = self.hosts.iter().max_by_key(|(_, those)| those.len());
        let most = most.map(|(host, _)| *host)?;
        self.take(most, VecDeque::pop_back)
    }

    /// Whose turn it is: the host that has fewest places, between equals the one that waits longest.
    pub(super) fn turn(&self, places: impl Fn(Host) -> usize) -> Option<Host> {
        let first = self.hosts.iter().min_by_key(|(host, those)| {
            let longest = those.front().map(|(number, _)| *number);
            (places(**host), longest)
        });
        first.map(|(host, _)| *host)
    }

    /// The one of a host that waits longest.
    pub(super) fn pop(&mut self, host: Host) -> Option<T> {
        self.take(host, VecDeque::pop_front)
    }

    fn take(&mut self, host: Host, end: impl Fn(&mut Line<T>) -> Option<(u64, T)>) -> Option<T> {
        let those = self.hosts.get_mut(&host)?;
        let (_, taken) = end(those)?;
        if those.is_empty() {
            self.hosts.remove(&host);
        }
        self.length -= 1;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(last: u8) -> Host {
        Host::of([192, 0, 2, last].into())
    }

    #[test]
    fn the_turn_is_the_hosts_that_has_fewest_places() {
        let mut queue = Queue::new(9);
        for (last, name) in [(1, 'a'), (1, 'b'), (2, 'c'), (3, 'd')] {
            assert_eq!(queue.push(host(last), name), None);
        }
        let mut places = HashMap::from([(host(1), 5), (host(2), 1), (host(3), 1)]);
        let mut order = String::new();
        while let Some(host) = queue.turn(|host| places[&host]) {
            *places.get_mut(&host).expect("known") += 3;
            order.extend(queue.pop(host));
        }
        assert_eq!(order, "cdab");
        assert!(queue.hosts.is_empty() && queue.length == 0);
    }

    #[test]
    fn who_is_turned_away_is_the_last_of_those_who_are_most() {
        let mut queue = Queue::new(3);
        for (last, name, away) in [(1, 'a', None), (1, 'b', None), (1, 'c', None), (1, 'd', Some('d'))] {
            assert_eq!(queue.push(host(last), name), away);
        }
        assert_eq!(queue.push(host(2), 'e'), Some('c'), "never one of the few");
        assert_eq!(queue.pop(host(1)), Some('a'));
        assert_eq!(queue.push(host(3), 'f'), None);
        assert_eq!((queue.pop(host(2)), queue.pop(host(2))), (Some('e'), None));
    }
}
