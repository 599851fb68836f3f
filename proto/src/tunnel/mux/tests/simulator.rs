//! Two sides over a link that delays, splits and cuts, from a seed: every byte arrives once and in order, ends arrive, nothing is left.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{Key, Mux, MuxSettings, Read, connect, read_all};
use crate::tunnel::{Decoder, Kind, Part, Role};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("it is below a usize")
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// What the bytes of a stream are: any part can be checked by its place alone.
fn byte(id: u64, place: u64) -> u8 {
    (id.wrapping_mul(31) ^ place ^ (place >> 8).wrapping_mul(7)).to_le_bytes()[0]
}

struct Side {
    mux: Mux,
    streams: Vec<Held>,
    /// On its way to the other side.
    wire: Vec<u8>,
    watch: Decoder,
    /// RemoveConnects that were sent, by id.
    removed: HashMap<u64, u32>,
}

struct Held {
    id: u64,
    key: Key,
    written: u64,
    read: u64,
    /// Bytes to write before it ends the stream.
    wants: u64,
    paused: bool,
}

struct World {
    random: Random,
    now: Instant,
    sides: [Side; 2],
    next: u64,
    complete: u32,
}

const CLOUD: usize = 0;
const EDGE: usize = 1;

impl World {
    fn new(seed: u64, credits: bool) -> Self {
        let now = Instant::now();
        let side = |role, other| Side {
            mux: Mux::new(&MuxSettings { role, credits, seed }, now),
            streams: Vec::new(),
            wire: Vec::new(),
            watch: Decoder::new(other, credits),
            removed: HashMap::new(),
        };
        Self {
            random: Random(seed),
            now,
            sides: [side(Role::Cloud, Role::Edge), side(Role::Edge, Role::Cloud)],
            next: seed % 1000,
            complete: 0,
        }
    }

    fn step(&mut self) {
        self.now += Duration::from_micros(self.random.next() % 2000);
        if self.random.chance(5) && self.sides[CLOUD].streams.len() < 30 {
            self.next += 1;
            let key = self.sides[CLOUD].mux.open(self.now, &connect(self.next)).expect("open");
            self.hold(CLOUD, self.next, key);
        }
        while let Some((key, connect)) = self.sides[EDGE].mux.accept() {
            self.hold(EDGE, connect.id, key);
        }
        for side in [CLOUD, EDGE] {
            self.act(side);
            self.carry(side);
            let mux = &mut self.sides[side].mux;
            mux.expire(self.now);
            while mux.event().is_some() {}
        }
    }

    fn hold(&mut self, side: usize, id: u64, key: Key) {
        let wants = if self.random.chance(20) {
            self.random.below(3_000_000)
        } else {
            self.random.below(5000)
        };
        let paused = self.random.chance(10);
        self.sides[side].streams.push(Held {
            id,
            key,
            written: 0,
            read: 0,
            wants: wants as u64,
            paused,
        });
    }

    fn act(&mut self, side: usize) {
        let (random, Side { mux, streams, .. }) = (&mut self.random, &mut self.sides[side]);
        streams.retain_mut(|held| {
            if held.paused {
                held.paused = !random.chance(1);
                return true;
            }
            if random.chance(50) {
                let count = (held.wants - held.written).min(random.below(50_000) as u64);
                let bytes: Vec<u8> = (held.written..held.written + count)
                    .map(|place| byte(held.id, place))
                    .collect();
                held.written += mux.write(held.key, &bytes).unwrap_or_default() as u64;
            }
            let mut budget = random.below(60_000);
            let over = loop {
                match mux.read(held.key) {
                    Read::Bytes(_) if budget == 0 => break false,
                    Read::Bytes(bytes) => {
                        let count = bytes.len().min(budget);
                        for &got in &bytes[..count] {
                            assert_eq!(got, byte(held.id, held.read), "stream {} at {}", held.id, held.read);
                            held.read += 1;
                        }
                        mux.consume(held.key, count);
                        budget -= count;
                    }
                    Read::Wait => break false,
                    Read::End => break true,
                    Read::Failed(reason) => panic!("{reason}"),
                }
            };
            // The edge ends its streams, and now and then a client leaves.
            let done = held.written == held.wants && side == EDGE && random.chance(30);
            if over || done || (side == CLOUD && random.chance(1)) {
                self.complete += 1;
                if random.chance(50) {
                    mux.finish(held.key);
                }
                mux.release(held.key);
                return false;
            }
            true
        });
    }

    /// Moves a portion of what one side sends to the other.
    fn carry(&mut self, from: usize) {
        let side = &mut self.sides[from];
        if side.mux.has_output() && side.wire.len() < 300_000 {
            let start = side.wire.len();
            side.mux.transmit(&mut side.wire, start + self.random.below(70_000));
            let mut copy = side.wire[start..].to_vec();
            let mut input = copy.as_mut_slice();
            while let Some(part) = side.watch.next(&mut input).expect("our own frames") {
                let (id, remove) = match part {
                    Part::Data { id, .. } => (id, false),
                    Part::Message(message) => (message.id, message.kind == Kind::RemoveConnect),
                    _ => continue,
                };
                let removed = side.removed.entry(id).or_default();
                assert_eq!(*removed, 0, "stream {id} goes on after its RemoveConnect");
                *removed += u32::from(remove);
            }
        }
        if self.random.chance(70) {
            let count = self.random.below(100_000).min(side.wire.len());
            let mut moved: Vec<u8> = side.wire.drain(..count).collect();
            self.sides[1 - from].mux.receive(self.now, &mut moved);
        }
    }

    fn check(&self) {
        for Side { mux, .. } in &self.sides {
            assert!(mux.ended().is_none(), "{:?}", mux.ended());
            if mux.credits {
                let windows: u64 = mux
                    .streams
                    .iter()
                    .filter(|(_, stream)| stream.is_live())
                    .map(|(_, s)| s.flow.window)
                    .sum();
                assert_eq!(windows, mux.committed);
            }
            let waiting: usize = mux.streams.iter().map(|(_, stream)| stream.incoming.len()).sum();
            assert_eq!(waiting, mux.waiting);
        }
    }
}

#[test]
fn two_sides_over_a_bad_link() {
    for seed in 0..10 {
        for credits in [true, false] {
            let mut world = World::new(seed, credits);
            for _ in 0..1000 {
                world.step();
            }
            world.check();
            // Everybody leaves: nothing may be left behind.
            for side in &mut world.sides {
                for held in std::mem::take(&mut side.streams) {
                    side.mux.release(held.key);
                }
            }
            for _ in 0..3000 {
                world.now += Duration::from_millis(1);
                while let Some((key, _)) = world.sides[EDGE].mux.accept() {
                    world.sides[EDGE].mux.release(key);
                }
                for side in [CLOUD, EDGE] {
                    world.carry(side);
                    world.sides[side].mux.expire(world.now);
                }
            }
            world.check();
            assert!(world.complete > 20, "seed {seed}: {}", world.complete);
            for side in &world.sides {
                assert!(
                    side.mux.is_empty() && side.mux.ids.is_empty(),
                    "seed {seed} credits {credits}"
                );
            }
        }
    }
}

#[test]
fn a_cut_link_fails_every_stream_after_what_had_arrived() {
    for seed in 100..110 {
        let mut world = World::new(seed, seed % 2 == 0);
        for _ in 0..300 {
            world.step();
        }
        for side in &mut world.sides {
            side.mux.lost("cut");
            for held in std::mem::take(&mut side.streams) {
                let rest = read_all(&mut side.mux, held.key);
                assert!(
                    rest.iter()
                        .zip(held.read..)
                        .all(|(got, place)| *got == byte(held.id, place))
                );
                assert!(matches!(side.mux.read(held.key), Read::Failed("cut") | Read::End));
                assert_eq!(side.mux.write(held.key, b"x"), None);
                side.mux.release(held.key);
            }
            assert!(side.mux.is_empty() && !side.mux.has_output());
        }
    }
}

#[test]
fn five_thousand_streams_at_once() {
    let mut world = World::new(1, true);
    let bytes = |id: u64, from: u64| (from..from + 3000).map(|place| byte(id, place)).collect::<Vec<u8>>();
    let mut cloud = HashMap::new();
    for id in 1..=5000 {
        let key = world.sides[CLOUD].mux.open(world.now, &connect(id)).unwrap();
        world.sides[CLOUD].mux.write(key, &bytes(id, 0));
        cloud.insert(id, key);
    }
    let mut edge = HashMap::new();
    let mut echoed = 0;
    while echoed < 5000 {
        for side in [CLOUD, EDGE] {
            world.carry(side);
        }
        while let Some((key, connect)) = world.sides[EDGE].mux.accept() {
            edge.insert(connect.id, (key, Vec::new()));
        }
        for (id, (key, read)) in &mut edge {
            let mux = &mut world.sides[EDGE].mux;
            let now = read_all(mux, *key);
            mux.write(*key, &now);
            read.extend(now);
            if read.len() == 3000 {
                assert!(*read == bytes(*id, 0));
                read.push(0);
                mux.release(*key);
                echoed += 1;
            }
        }
        edge.retain(|_, (_, read)| read.len() <= 3000);
    }
    while world.sides[CLOUD].mux.open_streams() > 0 {
        for side in [CLOUD, EDGE] {
            world.carry(side);
        }
    }
    let mux = &mut world.sides[CLOUD].mux;
    for (id, key) in cloud {
        assert!(read_all(mux, key) == bytes(id, 0));
        assert_eq!(mux.read(key), Read::End);
        mux.release(key);
    }
    assert!(mux.is_empty() && mux.streams.capacity() == 0);
}
