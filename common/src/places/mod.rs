//! The places of a listener for connections of which nobody knows yet whose they are: there are so many, and one host that takes them
//! all and says nothing does not keep the others out.
//!
//! Who finds no place waits here, not in the kernel's queue, where nobody sees where it comes from: the next one in is one of the host
//! that has fewest places. Room is made by the connections of the host that has most, the oldest first, each of which has its time
//! (`seats`). A connection that is known by now keeps its place ([`Place::keep`]). No host has a limit: behind an address may be a
//! fleet, which has all places while nobody else wants them.
//!
//! Must not: know what a connection is, or what is said on it.

mod queue;
mod seats;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::future::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use queue::Queue;
use seats::{Host, Room, Seats};

/// The places of one listener, and who waits for one.
pub struct Places<T> {
    shared: Arc<Shared>,
    queue: Queue<(T, SocketAddr)>,
    told: Told,
}

struct Shared {
    /// What the listener is for.
    what: &'static str,
    seats: Mutex<Seats>,
    /// There may be room now.
    changed: Notify,
}

/// A place, until it is dropped.
pub struct Place {
    shared: Arc<Shared>,
    number: AtomicU64,
    displaced: CancellationToken,
}

impl<T> Places<T> {
    /// `what` names the listener in the log.
    pub fn new(what: &'static str, capacity: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                what,
                seats: Mutex::new(Seats::new(capacity)),
                changed: Notify::new(),
            }),
            queue: Queue::new(WAITING),
            told: Told::default(),
        }
    }

    /// The next connection that has a place. `accept` accepts one; it is told how many places are free, and dropped while it waits
    /// when others come or go.
    ///
    /// # Errors
    /// When `accept` fails.
    pub async fn next<A, E>(&mut self, accept: impl Fn(usize) -> A) -> Result<(T, SocketAddr, Place), E>
    where
        A: Future<Output = Result<(T, SocketAddr), E>>,
    {
        loop {
            let due = match self.seat(Instant::now()) {
                Ok(seated) => return Ok(seated),
                Err(due) => due,
            };
            let free = self.shared.seats.lock().free();
            let accepted = tokio::select! {
                accepted = accept(free) => Some(accepted?),
                () = self.shared.changed.notified() => None,
                () = until(due) => None,
            };
            if let Some((connection, peer)) = accepted {
                let away = self.queue.push(Host::of(peer.ip()), (connection, peer));
                if let Some((connection, peer)) = away {
                    drop(connection);
                    self.told.turned_away += 1;
                    self.told.tell(self.shared.what, peer.ip(), Instant::now());
                }
            }
        }
    }

    /// Gives a place to the next one, or says when there may be one.
    fn seat(&mut self, now: Instant) -> Result<(T, SocketAddr, Place), Option<Instant>> {
        let mut seats = self.shared.seats.lock();
        let Some(host) = self.queue.turn(|host| seats.of(host)) else {
            return Err(None);
        };
        let mut gave_way = None;
        match seats.room(host, now) {
            Room::Free => {}
            Room::For(number) => gave_way = seats.leave(number),
            Room::From(then) => return Err(Some(then)),
            Room::No => return Err(None),
        }
        let Some((connection, peer)) = self.queue.pop(host) else {
            return Err(None);
        };
        let displaced = CancellationToken::new();
        let number = seats.take(host, now, displaced.clone());
        drop(seats);
        if let Some(seat) = gave_way {
            seat.displaced.cancel();
            self.told.displaced += 1;
            self.told.tell(self.shared.what, seat.host.address(), now);
        }
        let place = Place {
            shared: self.shared.clone(),
            number: AtomicU64::new(number),
            displaced,
        };
        Ok((connection, peer, place))
    }
}

impl Place {
    /// What a connection does while it has this place; `None` when it had to give way.
    pub fn hold<F: Future>(&self, work: F) -> impl Future<Output = Option<F::Output>> {
        work.with_cancellation_token(&self.displaced)
    }

    /// It is known whose connection this is: it gives way to nobody. Returns whether it has not given way before.
    pub fn keep(&self) -> bool {
        self.shared.seats.lock().keep(self.number.load(Ordering::Relaxed))
    }

    /// A connection that was kept for the time being is as one that came now.
    pub fn release(&self) {
        let released = self
            .shared
            .seats
            .lock()
            .release(self.number.load(Ordering::Relaxed), Instant::now());
        if let Some(number) = released {
            self.number.store(number, Ordering::Relaxed);
            self.shared.changed.notify_one();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let left = self.shared.seats.lock().leave(self.number.load(Ordering::Relaxed));
        if left.is_some() {
            self.shared.changed.notify_one();
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// What the log is not told yet.
#[derive(Default)]
struct Told {
    last: Option<Instant>,
    displaced: u64,
    turned_away: u64,
}

impl Told {
    fn tell(&mut self, listener: &'static str, from: IpAddr, now: Instant) {
        let Some((displaced, turned_away)) = self.due(now) else {
            return;
        };
        warn!(
            listener,
            displaced,
            turned_away,
            %from,
            "more connections come than there are places: the oldest ones give way that nobody has vouched for, of the addresses that have most"
        );
    }

    /// How many since it was told last, which is not more often than [`QUIET`].
    fn due(&mut self, now: Instant) -> Option<(u64, u64)> {
        if self.last.is_some_and(|last| now < last + QUIET) {
            return None;
        }
        self.last = Some(now);
        Some((
            std::mem::take(&mut self.displaced),
            std::mem::take(&mut self.turned_away),
        ))
    }
}

/// Who waits for a place, at most: as many as in the kernel's queue.
pub const WAITING: usize = 1024;
/// The log is told at most so often.
const QUIET: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::seats::GRACE;
    use super::*;

    type Arrivals = Mutex<mpsc::Receiver<(u32, SocketAddr)>>;

    fn peer(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 4711).into()
    }

    /// Connections are numbers, which come in by a channel.
    fn arrivals() -> (mpsc::Sender<(u32, SocketAddr)>, Arrivals) {
        let (sender, receiver) = mpsc::channel(2 * WAITING);
        (sender, Mutex::new(receiver))
    }

    async fn next(places: &mut Places<u32>, arrivals: &Arrivals) -> (u32, Place) {
        let accept =
            move |_| std::future::poll_fn(move |context| arrivals.lock().poll_recv(context).map(|come| come.ok_or(())));
        let (connection, _, place) = places.next(accept).await.expect("one more");
        (connection, place)
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_floods_in_silence_keeps_nobody_out() {
        let (sender, arrivals) = arrivals();
        let mut places = Places::new("test", 4);
        let mut silent = Vec::new();
        // As many as are let in, as many as may wait, and more.
        for number in 0..1500 {
            sender.try_send((number, peer(1))).expect("room");
        }
        for expected in 0..4 {
            let (number, place) = next(&mut places, &arrivals).await;
            assert_eq!(number, expected);
            silent.push(place);
        }
        sender.try_send((9000, peer(2))).expect("room");
        sender.try_send((9001, peer(2))).expect("room");
        let (start, grace) = (Instant::now(), GRACE.as_secs());
        let (number, honest) = next(&mut places, &arrivals).await;
        assert_eq!(
            (number, start.elapsed().as_secs()),
            (9000, grace),
            "when the oldest had its time"
        );
        let first = silent.remove(0);
        assert_eq!(first.hold(std::future::pending::<()>()).await, None);
        let (number, _second) = next(&mut places, &arrivals).await;
        assert_eq!(
            (number, start.elapsed().as_secs()),
            (9001, grace),
            "no longer than the others"
        );
        let (number, _third) = next(&mut places, &arrivals).await;
        assert_eq!(
            (number, start.elapsed().as_secs()),
            (4, grace),
            "whoever comes first when nobody has fewer"
        );
        assert_eq!(honest.hold(async { 1 }).await, Some(1));
        // Of 474 for whom there was no room the log has the first one.
        assert_eq!((places.told.displaced, places.told.turned_away), (3, 473));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_known_stays_until_it_leaves() {
        let (sender, arrivals) = arrivals();
        let mut places = Places::new("test", 1);
        sender.try_send((0, peer(1))).expect("room");
        sender.try_send((1, peer(2))).expect("room");
        let (_, place) = next(&mut places, &arrivals).await;
        assert!(place.keep());
        let hour = Duration::from_secs(3600);
        assert!(
            timeout(hour, next(&mut places, &arrivals)).await.is_err(),
            "it has its place"
        );
        place.release();
        let start = Instant::now();
        let (number, second) = next(&mut places, &arrivals).await;
        assert_eq!((number, start.elapsed().as_secs()), (1, GRACE.as_secs()));
        assert_eq!(place.hold(async {}).await, None);
        drop(place);
        sender.try_send((2, peer(1))).expect("room");
        assert!(
            timeout(GRACE / 2, next(&mut places, &arrivals)).await.is_err(),
            "the place is the second one's"
        );
        drop(second);
        assert_eq!(next(&mut places, &arrivals).await.0, 2, "who gives it back makes room");
    }

    #[test]
    fn the_log_is_told_once_in_a_while() {
        let (mut told, start) = (Told::default(), Instant::now());
        let mut said = Vec::new();
        for second in 0..100 {
            told.displaced += 1;
            told.turned_away += 2;
            said.extend(told.due(start + Duration::from_secs(second)));
        }
        assert_eq!(said, [(1, 2), (30, 60), (30, 60), (30, 60)]);
    }
}
