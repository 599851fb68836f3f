//! A link between two hosts that can be made bad: two TUN interfaces, one in each network namespace, and threads that carry
//! the packets, with delay, loss, reordering and silent cuts drawn from a seed. Kernels of small machines have no netem.

use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::hosts::HostNumber;
use crate::tun;

/// Packets under way in one direction; the rest is dropped, as a router does.
const QUEUE: usize = 4096;
/// How long a packet may wait for those before it on a slow line: 32 KB at 1 Mbit/s.
const BACKLOG: Duration = Duration::from_millis(256);
/// Longest packet: the interface's MTU is 1500.
const PACKET: usize = 2048;

/// How bad the link is, in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quality {
    /// Time a packet takes.
    pub delay: Duration,
    /// At most this much is added, evenly spread; packets may overtake each other.
    pub jitter: Duration,
    /// Part of the packets that are lost, 0 to 1.
    pub loss: f64,
    /// Bits a second that pass in each direction; 0 for no limit. What waits longer than `BACKLOG` for its turn is dropped, as the
    /// router in front of a slow line does.
    pub rate: u32,
    /// Nothing arrives, and nobody is told.
    pub cut: bool,
}

/// The link. Its interfaces go when it is dropped.
#[derive(Debug)]
pub struct Link {
    host: HostNumber,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    quality: Mutex<Quality>,
    /// Packets that arrived after one that was sent later.
    overtaken: AtomicU64,
}

impl Link {
    /// Makes the link of `host`, as good as a cable.
    pub fn start(host: HostNumber, seed: u64) -> Result<Self> {
        let cloud = Arc::new(tun::open(&host.interface(), None)?);
        let edge = Arc::new(tun::open("eth0", Some(host.netns_path()))?);
        host.configure_link()?;
        let shared = Arc::new(Shared {
            quality: Mutex::default(),
            overtaken: AtomicU64::new(0),
        });
        carry(Arc::clone(&cloud), Arc::clone(&edge), &shared, Random(seed));
        carry(edge, cloud, &shared, Random(!seed));
        Ok(Self { host, shared })
    }

    /// Changes its quality from now on; packets under way arrive as they would have.
    pub fn set(&self, quality: Quality) {
        *hold(&self.shared.quality) = quality;
    }

    /// Cuts it so that neither end is told.
    pub fn cut(&self) {
        hold(&self.shared.quality).cut = true;
    }

    /// Packets of either direction that have arrived after one that was sent later.
    #[must_use]
    pub fn overtaken(&self) -> u64 {
        self.shared.overtaken.load(Ordering::Relaxed)
    }

    /// As good as a cable.
    pub fn heal(&self) {
        self.set(Quality::default());
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Without their interfaces the threads' reads fail, which ends them.
        let _ = crate::process::call("ip", &["link", "del", &self.host.interface()]);
        let _ = self.host.inside(&["link", "del", "eth0"]);
    }
}

/// A packet that waits for its time. Ordered so that a max-heap gives the earliest.
struct Waiting {
    due: Instant,
    order: u64,
    bytes: Vec<u8>,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.due, other.order).cmp(&(self.due, self.order))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Waiting {}

#[derive(Default)]
struct Pipe {
    state: Mutex<(BinaryHeap<Waiting>, bool)>,
    changed: Condvar,
}

/// Starts the two threads of one direction: one reads and decides, one writes when it is time.
fn carry(from: Arc<File>, to: Arc<File>, shared: &Arc<Shared>, mut random: Random) {
    let pipe = Arc::new(Pipe::default());
    let (shared, out, writer) = (Arc::clone(shared), Arc::clone(&to), Arc::clone(&pipe));
    let count = Arc::clone(&shared);
    std::thread::spawn(move || deliver(&writer, &to, &count.overtaken));
    std::thread::spawn(move || {
        let mut buffer = [0; PACKET];
        let mut order = 0;
        let mut free_at = Instant::now();
        while let Ok(length) = (&*from).read(&mut buffer) {
            let quality = *hold(&shared.quality);
            let lost = random.fraction() < quality.loss;
            let jitter = quality.jitter.mul_f64(random.fraction());
            if quality.cut || lost {
                continue;
            }
            let packet = buffer.get(..length).unwrap_or_default();
            let now = Instant::now();
            free_at = free_at.max(now);
            if free_at - now > BACKLOG {
                continue;
            }
            free_at += turn(length, quality.rate);
            let mut state = hold(&pipe.state);
            if state.0.is_empty() && quality.delay + jitter == Duration::ZERO && free_at <= now {
                drop(state);
                // Refused while the other end is down: lost, as on a cable.
                let _ = (&*out).write(packet);
                continue;
            }
            if state.0.len() < QUEUE {
                order += 1;
                state.0.push(Waiting {
                    due: free_at + quality.delay + jitter,
                    order,
                    bytes: packet.to_vec(),
                });
                pipe.changed.notify_one();
            }
        }
        hold(&pipe.state).1 = true;
        pipe.changed.notify_one();
    });
}

/// How long a packet occupies a line.
fn turn(bytes: usize, rate: u32) -> Duration {
    let bits = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(8);
    let nanoseconds = bits.saturating_mul(1_000_000_000).checked_div(u64::from(rate));
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

fn deliver(pipe: &Pipe, to: &File, overtaken: &AtomicU64) {
    let mut newest = 0;
    let mut state = hold(&pipe.state);
    loop {
        let now = Instant::now();
        let next = match state.0.peek() {
            _ if state.1 => return,
            Some(first) if first.due <= now => None,
            Some(first) => Some(first.due - now),
            None => Some(Duration::from_secs(3600)),
        };
        if let Some(time) = next {
            state = pipe
                .changed
                .wait_timeout(state, time)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        } else if let Some(packet) = state.0.pop() {
            drop(state);
            overtaken.fetch_add(u64::from(packet.order < newest), Ordering::Relaxed);
            newest = newest.max(packet.order);
            let _ = (&*to).write(&packet.bytes);
            state = hold(&pipe.state);
        }
    }
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// SplitMix64: enough randomness for a link, and the same from the same seed.
#[derive(Clone, Copy, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 up to 1.
    pub fn fraction(&mut self) -> f64 {
        // 32 bits are exact in an f64.
        f64::from(u32::try_from(self.draw() >> 32).unwrap_or_default()) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_repeats_and_spreads() {
        let (mut a, mut b) = (Random(7), Random(7));
        let values: Vec<f64> = (0..1000).map(|_| a.fraction()).collect();
        assert!(values.iter().all(|value| (0.0..=1.0).contains(value)));
        assert!((values.iter().sum::<f64>() / 1000.0 - 0.5).abs() < 0.05);
        assert_eq!(values, (0..1000).map(|_| b.fraction()).collect::<Vec<_>>());
    }

    #[test]
    fn a_packet_occupies_a_slow_line_for_its_bits() {
        assert_eq!(turn(1250, 1_000_000), Duration::from_millis(10));
        assert_eq!(turn(1250, 0), Duration::ZERO);
    }

    #[test]
    fn waiting_packets_leave_in_order_of_time_then_of_arrival() {
        let now = Instant::now();
        let packet = |ms, order| Waiting {
            due: now + Duration::from_millis(ms),
            order,
            bytes: Vec::new(),
        };
        let mut heap = BinaryHeap::from([packet(2, 1), packet(1, 3), packet(1, 2)]);
        assert_eq!(
            [heap.pop(), heap.pop(), heap.pop()].map(|p| p.map(|p| p.order)),
            [Some(2), Some(3), Some(1)]
        );
    }
}
