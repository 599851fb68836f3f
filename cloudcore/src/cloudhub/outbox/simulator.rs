//! The outbox against an edge that loses, delays, swaps and repeats, over links that break and a cloud that crashes.
//!
//! The API's objects change at random. Whoever sends is simple: each change once, and after a connect all that differs from the
//! records, as the synchronisation does. In the end the edge must hold exactly the API's objects.

use std::collections::BTreeMap;

use proto::{Content, ObjectPath, Operation};

use super::tests::{drain, message};
use super::*;

const OBJECTS: u64 = 12;

/// Numbers that look random and repeat with the seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }
}

struct World {
    seed: u64,
    dice: Dice,
    now: Instant,
    outbox: Outbox,
    connected: bool,
    /// What the API has: version by name.
    api: BTreeMap<String, u64>,
    /// What ObjectSync says.
    records: BTreeMap<String, u64>,
    /// What the edge has stored, and the newest version that it ever stored.
    edge: BTreeMap<String, u64>,
    newest: BTreeMap<String, u64>,
    /// Frames on their way down (and whether the edge acknowledges this copy), acknowledgements on their way up: when they arrive.
    down: Vec<(Instant, Message, bool)>,
    /// When the last frame arrives.
    link: Instant,
    up: Vec<(Instant, MsgId)>,
    version: u64,
    messages: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            now: Instant::now(),
            outbox: Outbox::new(Arc::new(Metrics::default())),
            connected: true,
            api: BTreeMap::new(),
            records: BTreeMap::new(),
            edge: BTreeMap::new(),
            newest: BTreeMap::new(),
            down: Vec::new(),
            link: Instant::now(),
            up: Vec::new(),
            version: 100,
            messages: 0,
        }
    }

    fn offer(&mut self, operation: Operation, name: &str, version: u64) {
        let mut message = match operation {
            Operation::Delete => deletion(name),
            operation => message(operation, name, &version.to_string()),
        };
        self.messages += 1;
        message.id = MsgId::from(format!("{:08}", self.messages));
        let recorded = self.records.entry(name.to_owned()).or_insert(0).to_string();
        if self.connected {
            let lane = lane(&message);
            self.outbox.offer(self.now, message, lane, Some(&recorded));
        }
    }

    /// A name is used once, as a uid is.
    fn change(&mut self) {
        self.version += 1;
        let version = self.version;
        let existing: Vec<String> = self.api.keys().cloned().collect();
        let pick = usize::try_from(self.dice.roll(OBJECTS)).unwrap_or_default();
        match existing.get(pick) {
            Some(name) if self.dice.chance(15) => {
                self.api.remove(name);
                self.offer(Operation::Delete, name, 0);
            }
            Some(name) => {
                self.api.insert(name.clone(), version);
                self.offer(Operation::Update, name, version);
            }
            None => {
                let name = format!("o{version}");
                self.api.insert(name.clone(), version);
                self.offer(Operation::Insert, &name, version);
            }
        }
    }

    fn synchronise(&mut self) {
        let missing: Vec<(String, u64)> = self
            .api
            .iter()
            .map(|(name, version)| (name.clone(), *version))
            .collect();
        for (name, version) in missing {
            if self.records.get(&name).copied().unwrap_or_default() < version {
                self.offer(Operation::Update, &name, version);
            }
        }
        let gone: Vec<String> = self
            .records
            .keys()
            .filter(|name| !self.api.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            self.offer(Operation::Delete, &name, 0);
        }
    }

    fn cut(&mut self) {
        self.connected = false;
        self.outbox = Outbox::new(Arc::new(Metrics::default()));
        self.down.clear();
        self.up.clear();
    }

    fn send(&mut self) {
        for message in drain(&mut self.outbox, self.now) {
            let name = name_of(&message);
            assert!(
                self.outbox.unacked <= WINDOW
                    && self.outbox.sent.values().filter(|uid| **uid == uid_of(&name)).count() <= 1,
                "more than one in flight for {name}"
            );
            let copies = if self.dice.chance(10) { 2 } else { 1 };
            // A connection keeps the order; the edge's goroutines may swap what comes within less than a second.
            self.link = self.link.max(self.now + Duration::from_millis(self.dice.roll(3000)));
            let delay = Duration::from_millis(self.dice.roll(700));
            for copy in 1..=copies {
                // A copy that we did not send is not acknowledged by itself.
                self.down.push((self.link + delay, message.clone(), copy == 1));
            }
        }
    }

    fn deliver(&mut self, lossy: bool) {
        let now = self.now;
        let (arrived, waiting): (Vec<_>, Vec<_>) = self.down.drain(..).partition(|(at, ..)| *at <= now);
        self.down = waiting;
        for (_, message, acks) in arrived {
            if lossy && self.dice.chance(20) {
                continue;
            }
            let name = name_of(&message);
            if message.operation == Operation::Delete {
                self.edge.remove(&name);
            } else {
                let version: u64 = message.version.parse().unwrap_or_default();
                let newest = self.newest.entry(name.clone()).or_default();
                assert!(
                    version >= *newest,
                    "seed {}: version {version} of {name} after {newest}",
                    self.seed
                );
                *newest = version;
                self.edge.insert(name, version);
            }
            if acks && !(lossy && self.dice.chance(20)) {
                let delay = Duration::from_millis(self.dice.roll(if lossy { 9000 } else { 500 }));
                self.up.push((now + delay, message.id));
            }
        }
        let (arrived, waiting): (Vec<_>, Vec<_>) = self.up.drain(..).partition(|(at, _)| *at <= now);
        self.up = waiting;
        for (_, id) in arrived {
            let Some(Delivered {
                object,
                version,
                deleted,
            }) = self.outbox.on_ack(now, &id)
            else {
                continue;
            };
            let name = object.name.as_str().to_owned();
            if deleted {
                self.records.remove(&name);
            } else {
                let recorded = self.records.entry(name).or_default();
                *recorded = (*recorded).max(version.parse().unwrap_or_default());
            }
        }
    }

    fn step(&mut self, lossy: bool) {
        self.now += Duration::from_millis(250);
        if self.connected {
            self.outbox.on_time(self.now);
            self.send();
            self.deliver(lossy);
        }
    }
}

fn deletion(name: &str) -> Message {
    let mut message = message(Operation::Delete, name, "");
    let json = format!(r#"{{"metadata":{{"name":"{name}","namespace":"default","uid":"u-{name}"}}}}"#);
    message.content = Content::from_json_text(json).expect("JSON");
    message
}

fn name_of(message: &Message) -> String {
    message
        .route
        .object()
        .map(ObjectPath::name_str)
        .unwrap_or_default()
        .to_owned()
}

fn uid_of(name: &str) -> Uid {
    Uid::from(format!("u-{name}"))
}

#[test]
fn the_edge_ends_with_what_the_api_has() {
    for seed in 1..=200 {
        let mut world = World::new(seed);
        for _ in 0..400 {
            if world.dice.chance(40) {
                world.change();
            }
            match world.dice.roll(100) {
                0 if world.connected => world.cut(),
                1..=10 if !world.connected => {
                    world.connected = true;
                    world.synchronise();
                }
                _ => {}
            }
            world.step(true);
        }
        if !world.connected {
            world.connected = true;
            world.synchronise();
        }
        // No more losses: 400 s reach beyond the longest rest.
        for _ in 0..1600 {
            world.step(false);
        }
        assert_eq!(world.edge, world.api, "seed {seed}");
        assert_eq!(world.records, world.api, "seed {seed}");
        assert!(
            world.outbox.slots.is_empty() && world.outbox.timers.is_empty() && world.outbox.unacked == 0,
            "seed {seed}"
        );
    }
}
