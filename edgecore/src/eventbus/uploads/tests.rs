//! The machine alone, with virtual time and a database made of a map; then the task with a real one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use common::Tasks;
use proto::bus::Upload;
use proto::{Content, Features, Message, MsgId, Source};
use tokio::time::Instant;

use super::machine::{Action, Amount, Machine, PATIENCE, Record};
use super::{Uploads, metrics};
use crate::metamanager::{MetaManager, Settings};
use crate::uplink::{Link, Outgoing, Uplink, UplinkEnd};

const BUDGET: u64 = 1024 * 1024;
const LIMIT: Duration = Duration::from_secs(20);

fn upload(number: usize, size: usize) -> Upload {
    Upload {
        topic: format!("default/user/{number}"),
        payload: vec![b'x'; size].into(),
    }
}

/// Rows, and what the machine did with them.
#[derive(Default)]
struct Rows {
    rows: BTreeMap<u64, Record>,
    fails: bool,
    writes: usize,
}

impl Rows {
    /// Does what the machine wants until it waits; returns what it sends.
    fn drive(&mut self, machine: &mut Machine, now: Instant) -> Vec<Record> {
        let mut sent = Vec::new();
        for _ in 0..10_000 {
            match machine.next(now) {
                Action::Wait(_) => return sent,
                Action::Send(record) => sent.push(record),
                Action::Open => {
                    let bytes = self.rows.values().map(Record::size).sum();
                    let count = u64::try_from(self.rows.len()).expect("few");
                    let last = self.rows.keys().next_back().copied().unwrap_or_default();
                    machine.opened(Amount { count, bytes }, last);
                }
                _ if self.fails => machine.store_failed(now),
                Action::Store { records, trim } => {
                    self.writes += 1;
                    self.rows
                        .extend(records.iter().map(|record| (record.sequence, record.clone())));
                    let mut trimmed = Amount::default();
                    while let Some(trim) = trim
                        && trimmed.bytes < trim.bytes
                        && let Some((&first, _)) = self.rows.range(trim.after + 1..).next()
                        && let Some(lost) = self.rows.remove(&first)
                    {
                        trimmed.count += 1;
                        trimmed.bytes += lost.size();
                    }
                    machine.stored(&records, trimmed);
                }
                Action::Load { after } => {
                    let next = self.rows.range(after + 1..).take(8);
                    machine.loaded(now, next.map(|(_, record)| record.clone()).collect());
                }
                Action::Forget(sequences) => {
                    for sequence in sequences {
                        self.rows.remove(&sequence);
                    }
                    machine.forgotten();
                }
            }
        }
        panic!("the machine never waits");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_while_the_cloud_takes_everything_at_once() {
    let (mut machine, mut rows, now) = (Machine::new(BUDGET), Rows::default(), Instant::now());
    machine.link(true);
    for number in 0..1000 {
        let at = now + Duration::from_millis(u64::try_from(number).expect("small"));
        machine.push(at, 1, upload(number, 10));
        for record in rows.drive(&mut machine, at) {
            assert!(machine.taken(&record.id));
        }
    }
    assert_eq!((rows.writes, machine.waiting()), (0, Amount::default()));
}

#[tokio::test(start_paused = true)]
async fn what_the_cloud_does_not_take_in_a_second_is_written_and_removed_later() {
    let (mut machine, mut rows, now) = (Machine::new(BUDGET), Rows::default(), Instant::now());
    machine.link(true);
    machine.push(now, 1, upload(0, 10));
    let sent = rows.drive(&mut machine, now);
    assert_eq!((sent.len(), rows.rows.len()), (1, 0));
    assert!(rows.drive(&mut machine, now + PATIENCE).is_empty());
    assert_eq!(rows.rows.len(), 1);
    machine.taken(&sent[0].id);
    rows.drive(&mut machine, now + PATIENCE);
    assert_eq!((rows.rows.len(), machine.waiting()), (0, Amount::default()));
}

#[tokio::test(start_paused = true)]
async fn beyond_the_budget_the_oldest_are_dropped_and_counted() {
    let (mut machine, mut rows, now) = (Machine::new(BUDGET), Rows::default(), Instant::now());
    let each = upload(0, 10_000);
    for number in 0..200 {
        let upload = Upload {
            topic: format!("{number:04}"),
            ..each.clone()
        };
        machine.push(now, 1, upload);
        rows.drive(&mut machine, now);
    }
    rows.drive(&mut machine, now + PATIENCE);
    let waits = machine.waiting();
    assert!(waits.bytes <= BUDGET && waits.bytes > BUDGET / 2, "{waits:?}");
    assert_eq!(waits.count + machine.dropped().count, 200);
    machine.link(true);
    let mut got = Vec::new();
    loop {
        let sent = rows.drive(&mut machine, now + PATIENCE);
        if sent.is_empty() {
            break;
        }
        for record in sent {
            machine.taken(&record.id);
            got.push(record.upload.topic);
        }
    }
    assert_eq!(got.last().map(String::as_str), Some("0199"));
    assert_eq!(u64::try_from(got.len()).expect("few"), waits.count);
    assert!(got.is_sorted());
}

#[tokio::test(start_paused = true)]
async fn a_database_that_fails_costs_the_oldest_beyond_a_megabyte() {
    let (mut machine, mut rows, mut now) = (Machine::new(BUDGET), Rows::default(), Instant::now());
    rows.fails = true;
    for number in 0..30 {
        machine.push(now, 1, upload(number, 100_000));
        rows.drive(&mut machine, now);
        now += Duration::from_secs(1);
    }
    assert!(machine.waiting().bytes <= BUDGET + 400_000);
    assert!(machine.dropped().count > 15);
    rows.fails = false;
    rows.drive(&mut machine, now + Duration::from_secs(5));
    assert!(rows.rows.len() >= 7, "{}", rows.rows.len());
}

#[tokio::test(start_paused = true)]
async fn a_stop_writes_at_once_what_nobody_acknowledged_and_sends_no_more() {
    let (mut machine, mut rows, now) = (Machine::new(BUDGET), Rows::default(), Instant::now());
    machine.link(true);
    machine.push(now, 1, upload(0, 10));
    machine.push(now, 1, upload(1, 10));
    let sent = rows.drive(&mut machine, now);
    rows.drive(&mut machine, now + PATIENCE);
    assert_eq!((sent.len(), rows.rows.len()), (2, 2));
    machine.taken(&sent[0].id);
    machine.push(now + PATIENCE, 1, upload(2, 10));
    assert_eq!(rows.drive(&mut machine, now + PATIENCE).len(), 1);
    machine.push(now + PATIENCE, 1, upload(3, 10));
    rows.fails = true;
    machine.stop();
    assert!(rows.drive(&mut machine, now + PATIENCE).is_empty());
    assert_eq!(machine.unwritten().count, 2, "they can only be told of");
    rows.fails = false;
    machine.stop();
    assert!(rows.drive(&mut machine, now + PATIENCE).is_empty());
    assert_eq!(machine.unwritten(), Amount::default());
    let kept: Vec<&str> = rows.rows.values().map(|record| record.upload.topic.as_str()).collect();
    assert_eq!(kept, ["default/user/1", "default/user/2", "default/user/3"]);
}

/// A little generator: seeds that fail can be run again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Links that come and go, acknowledgements that are lost or come in any order, stops, crashes, a database that fails: what was
/// waiting for more than a second, or for any time before a stop, arrives; first arrivals are in order.
#[tokio::test(start_paused = true)]
async fn whatever_happens_all_that_was_stored_arrives_in_order() {
    for seed in 1..=300 {
        let mut dice = Dice(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        let (mut machine, mut rows, mut now) = (Machine::new(u64::MAX), Rows::default(), Instant::now());
        let (mut pushed, mut arrived, mut may_be_lost) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut under_way: Vec<MsgId> = Vec::new();
        for _ in 0..400 {
            match dice.roll(20) {
                0 => {
                    under_way.clear();
                    machine.link(dice.roll(3) > 0);
                }
                1 => rows.fails = dice.roll(4) == 0,
                2 if dice.roll(4) == 0 => {
                    let is_orderly = dice.roll(2) == 0;
                    if is_orderly {
                        machine.stop();
                        assert!(rows.drive(&mut machine, now).is_empty(), "seed {seed}");
                    }
                    if rows.fails || !is_orderly {
                        // Power fails: what is only in memory is gone.
                        let stored: BTreeSet<String> =
                            rows.rows.values().map(|record| record.upload.topic.clone()).collect();
                        may_be_lost.extend(pushed.iter().filter(|topic| !stored.contains(*topic)).cloned());
                    }
                    under_way.clear();
                    machine = Machine::new(u64::MAX);
                    machine.link(dice.roll(2) > 0);
                }
                3..8 => {
                    let topic = format!("{:05}", pushed.len());
                    pushed.push(topic.clone());
                    let payload = Bytes::from(vec![0; usize::try_from(dice.roll(3000)).expect("small")]);
                    machine.push(now, 1, Upload { topic, payload });
                }
                8..15 if !under_way.is_empty() => {
                    let index = usize::try_from(dice.roll(u64::try_from(under_way.len()).expect("few"))).expect("few");
                    let id = under_way.swap_remove(index);
                    if dice.roll(5) == 0 {
                        machine.refused(now, &id);
                    } else {
                        machine.taken(&id);
                    }
                }
                _ => now += Duration::from_millis(dice.roll(1500)),
            }
            for record in rows.drive(&mut machine, now) {
                under_way.push(record.id);
                arrived.push(record.upload.topic);
            }
        }
        rows.fails = false;
        machine.link(true);
        for _ in 0..400 {
            now += Duration::from_secs(1);
            for record in rows.drive(&mut machine, now) {
                machine.taken(&record.id);
                arrived.push(record.upload.topic);
            }
        }
        assert_eq!(
            (machine.waiting(), rows.rows.len()),
            (Amount::default(), 0),
            "seed {seed}"
        );
        let mut seen = BTreeSet::new();
        let first: Vec<String> = arrived.into_iter().filter(|topic| seen.insert(topic.clone())).collect();
        assert!(first.is_sorted(), "seed {seed}: {first:?}");
        let missing: Vec<&String> = pushed
            .iter()
            .filter(|topic| !seen.contains(*topic) && !may_be_lost.contains(*topic))
            .collect();
        assert!(missing.is_empty(), "seed {seed}: {missing:?}");
    }
}

struct Edge {
    uploads: Uploads,
    meta: MetaManager,
    cloud: UplinkEnd,
    metrics: metrics::Uploads,
    tasks: Tasks,
}

impl Edge {
    async fn start(database: &Path) -> Self {
        let (uplink, cloud) = Uplink::channel();
        let tasks = Tasks::new();
        let settings = Settings {
            node: "n".into(),
            database: database.to_owned(),
            remote_timeout: Duration::from_secs(60),
        };
        let meta = MetaManager::start(settings, uplink.clone(), &tasks)
            .await
            .expect("started");
        let metrics = metrics::Uploads::default();
        let uploads = Uploads::start(BUDGET, meta.tables(), uplink, metrics.clone(), &tasks);
        Self {
            uploads,
            meta,
            cloud,
            metrics,
            tasks,
        }
    }

    /// A cloud of ours is there.
    fn connect(&self) {
        self.cloud.features.send_replace(Features::OURS);
        self.cloud.link.send_replace(Link::Up(1));
    }

    /// The next upload that reaches the cloud, acknowledged.
    async fn acknowledge(&mut self) -> Upload {
        let next = tokio::time::timeout(LIMIT, self.cloud.recv()).await;
        let Ok(Some(Outgoing::Ask { message, answer })) = next else {
            panic!("told, or stopped, or nothing")
        };
        let ack = Message::answer_to(&message, Source::CloudHub, Content::ok());
        let _ = answer.send(ack);
        Upload::of(&message).expect("an upload")
    }

    async fn stored(&self) -> Amount {
        super::store::open(&self.meta.tables()).await.expect("read").0
    }

    async fn until_stored(&self, what: impl Fn(Amount) -> bool) -> Amount {
        let all = async {
            loop {
                let stored = self.stored().await;
                if what(stored) {
                    return stored;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LIMIT, all).await.expect("rows")
    }

    async fn until_rows(&self, count: u64) {
        self.until_stored(|stored| stored.count == count).await;
    }

    async fn stop(self) {
        drop(self.uploads);
        assert!(self.tasks.stop(LIMIT).await, "all ended");
    }
}

#[tokio::test]
async fn uploads_of_a_time_without_a_link_survive_a_restart_and_are_acknowledged() {
    let folder = tempfile::tempdir().expect("folder");
    let database = folder.path().join("edgecore.db");
    let edge = Edge::start(&database).await;
    for number in 0..3 {
        edge.uploads.push(upload(number, 3)).await;
    }
    let binary = Upload {
        topic: "default/user/binary".to_owned(),
        payload: Bytes::from_static(&[0, 0xff, 0xfe]),
    };
    edge.uploads.push(binary.clone()).await;
    edge.until_rows(4).await;
    edge.stop().await;

    let mut edge = Edge::start(&database).await;
    edge.connect();
    let mut got = Vec::new();
    while got.len() < 4 {
        got.push(edge.acknowledge().await);
    }
    assert_eq!(got.last(), Some(&binary));
    assert!(got[..3].iter().map(|upload| &upload.topic).is_sorted());
    edge.until_rows(0).await;
    edge.stop().await;
}

#[tokio::test]
async fn what_came_just_before_a_stop_arrives_after_the_start_and_what_was_acknowledged_does_not() {
    let folder = tempfile::tempdir().expect("folder");
    let database = folder.path().join("edgecore.db");
    let mut edge = Edge::start(&database).await;
    edge.connect();
    edge.uploads.push(upload(0, 3)).await;
    assert_eq!(edge.acknowledge().await, upload(0, 3));
    let counted = async {
        while edge.metrics.acknowledged.get() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, counted).await.expect("acknowledged");
    for number in 1..4 {
        edge.uploads.push(upload(number, 3)).await;
    }
    edge.stop().await;

    let mut edge = Edge::start(&database).await;
    assert_eq!(edge.stored().await.count, 3);
    edge.connect();
    for number in 1..4 {
        assert_eq!(edge.acknowledge().await, upload(number, 3));
    }
    edge.until_rows(0).await;
    // Had one come twice, it would come now.
    edge.uploads.push(upload(4, 3)).await;
    assert_eq!(edge.acknowledge().await, upload(4, 3));
    edge.stop().await;
}

#[tokio::test]
async fn an_answer_that_comes_with_the_stop_counts() {
    let folder = tempfile::tempdir().expect("folder");
    let database = folder.path().join("edgecore.db");
    let mut edge = Edge::start(&database).await;
    edge.connect();
    edge.uploads.push(upload(0, 3)).await;
    assert_eq!(edge.acknowledge().await, upload(0, 3));
    // Nothing waits between the two: the task sees both at once.
    edge.stop().await;
    let edge = Edge::start(&database).await;
    assert_eq!(edge.stored().await.count, 0);
    edge.stop().await;
}

#[tokio::test]
async fn a_damaged_row_costs_its_own_upload_and_no_other() {
    let folder = tempfile::tempdir().expect("folder");
    let database = folder.path().join("edgecore.db");
    let edge = Edge::start(&database).await;
    for number in 0..4 {
        edge.uploads.push(upload(number, 3)).await;
    }
    edge.until_rows(4).await;
    let spoil = |connection: &rusqlite::Connection| {
        connection.execute_batch(
            "UPDATE bus_upload SET id = CAST(x'84' AS TEXT) WHERE topic = 'default/user/0';
             UPDATE bus_upload SET payload = 7 WHERE topic = 'default/user/1';
             UPDATE bus_upload SET topic = CAST(x'84' AS TEXT) WHERE topic = 'default/user/2';",
        )
    };
    edge.meta.tables().transact(spoil).await.expect("spoiled");
    edge.stop().await;
    let mut edge = Edge::start(&database).await;
    edge.connect();
    for number in [0, 3] {
        assert_eq!(edge.acknowledge().await, upload(number, 3));
    }
    edge.until_rows(0).await;
    assert_eq!(edge.metrics.dropped.get(), 2);
    edge.stop().await;
}

#[tokio::test]
async fn a_time_without_a_link_costs_the_oldest_beyond_the_budget_and_the_newest_arrive() {
    const COUNT: usize = 300;
    const SIZE: usize = 10_000;
    let folder = tempfile::tempdir().expect("folder");
    let mut edge = Edge::start(&folder.path().join("edgecore.db")).await;
    for number in 0..COUNT {
        edge.uploads.push(upload(number, SIZE)).await;
        let stored = edge.stored().await;
        assert!(stored.bytes <= BUDGET, "{stored:?}");
    }
    let dropped = edge.metrics.dropped.clone();
    let is_all = |stored: Amount| stored.count + dropped.get() == 300;
    let stored = edge.until_stored(is_all).await;
    assert!(stored.bytes <= BUDGET && stored.bytes > BUDGET / 2, "{stored:?}");
    assert!(edge.metrics.dropped_bytes.get() > dropped.get() * 10_000);

    edge.connect();
    let mut got = Vec::new();
    for _ in 0..stored.count {
        let Upload { topic, payload } = edge.acknowledge().await;
        assert_eq!(payload.len(), SIZE);
        got.push(topic);
    }
    let newest = COUNT - got.len() / 2..COUNT;
    let newest: Vec<String> = newest.map(|number| upload(number, 0).topic).collect();
    assert!(got.ends_with(&newest), "{got:?}");
    edge.until_rows(0).await;
    assert_eq!(
        edge.metrics.dropped.get() + stored.count,
        300,
        "and no more are dropped"
    );
    edge.stop().await;
}

#[tokio::test]
async fn a_go_cloud_gets_uploads_in_order_and_is_asked_for_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let mut edge = Edge::start(&folder.path().join("edgecore.db")).await;
    for number in 0..100 {
        edge.uploads.push(upload(number, 3)).await;
    }
    edge.cloud.link.send_replace(Link::Up(1));
    for number in 0..100 {
        match edge.cloud.recv().await {
            Some(Outgoing::Tell(message)) => assert_eq!(Upload::of(&message), Some(upload(number, 3))),
            other => panic!("{other:?}"),
        }
    }
    edge.until_rows(0).await;
    edge.stop().await;
}
