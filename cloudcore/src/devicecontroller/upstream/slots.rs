//! One slot for each device that reports: what is to be written, and when. Pure: time comes in, writes come out.
//!
//! A device that was quiet is written at once. While it is written, and until its pace allows the next write, newer values take the
//! place of older ones. Devices of one node take turns at the pace of the node. Bounded: a slot is made for Devices that exist, and
//! holds their properties once.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use common::Backoff;
use proto::device::{DeviceId, DeviceStatus};
use proto::{MsgId, NodeName};
use tokio::time::Instant;

use super::change::Change;

/// The least time between two writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) device: Duration,
    pub(super) node: Duration,
}

/// What an edge says of a device.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) node: NodeName,
    pub(super) id: MsgId,
    pub(super) device: DeviceId,
    pub(super) change: Change,
    /// Whether the status of the Device is to show it too.
    pub(super) of_device: bool,
}

/// A write that is due.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) device: DeviceId,
    /// Who reported last.
    pub(super) node: NodeName,
    /// Whether the last write of the device failed.
    pub(super) is_retry: bool,
    pub(super) change: Change,
    /// As in the last [`Report`].
    pub(super) of_device: bool,
    /// What is confirmed by it.
    pub(super) reports: VecDeque<(NodeName, MsgId)>,
    /// The DeviceStatus as it was last seen.
    pub(super) stored: Option<DeviceStatus>,
    /// Whether the status of the Device lacks what its DeviceStatus has.
    pub(super) is_behind: bool,
}

/// How a write ended.
#[derive(Debug)]
pub(super) enum End {
    /// The DeviceStatus is like this now; or nothing could be written, and never will.
    Done(Option<DeviceStatus>),
    /// It is tried again.
    Failed,
}

#[derive(Debug)]
pub(super) struct Slots {
    pace: Pace,
    slots: HashMap<DeviceId, Slot>,
    /// Devices whose pace does not allow a write before this time.
    resting: BTreeSet<(Instant, DeviceId)>,
    nodes: HashMap<NodeName, Turns>,
    /// Nodes with devices that may be written, and from when on.
    due: BTreeSet<(Instant, NodeName)>,
}

#[derive(Debug)]
struct Slot {
    /// Who reported last.
    node: NodeName,
    change: Change,
    reports: VecDeque<(NodeName, MsgId)>,
    stored: Option<DeviceStatus>,
    of_device: bool,
    is_behind: bool,
    is_writing: bool,
    /// Not before.
    next: Instant,
    backoff: Backoff,
    used: Instant,
}

#[derive(Debug)]
struct Turns {
    ready: VecDeque<DeviceId>,
    next: Instant,
}

impl Job {
    /// For a write that is tried again, when its node has no session here any more. The node tells the cloudcore that it is with what was
    /// not confirmed, and what came later: a state of before must not be the last to be written. With it go the confirmations of the
    /// node, which has to tell it again if it was the newest.
    pub(super) fn leave_state(&mut self) {
        if self.change.leave_state() {
            let node = &self.node;
            self.reports.retain(|(reporter, _)| reporter != node);
        }
    }
}

impl Slots {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            pace,
            slots: HashMap::new(),
            resting: BTreeSet::new(),
            nodes: HashMap::new(),
            due: BTreeSet::new(),
        }
    }

    /// Takes a report in. Returns how many of its values were older than others that wait, at `unix` milliseconds.
    pub(super) fn take(&mut self, report: Report, now: Instant, unix: i64) -> usize {
        let Report {
            node,
            id,
            device,
            change,
            of_device,
        } = report;
        let slot = self.slots.entry(device.clone());
        let slot = slot.or_insert_with(|| Slot::new(&node, now));
        let was_waiting = slot.is_waiting();
        slot.node.clone_from(&node);
        slot.used = now;
        slot.of_device = of_device;
        let older = slot.change.absorb(change, unix);
        slot.note((node, id));
        if !was_waiting && !slot.is_writing {
            self.resting.insert((slot.next, device));
        }
        older
    }

    /// The next write; [`Slots::done`] must follow.
    pub(super) fn next(&mut self, now: Instant) -> Option<Job> {
        self.wake(now);
        let (_, node) = self.due.first().filter(|(due, _)| *due <= now)?.clone();
        self.due.pop_first();
        let turns = self.nodes.get_mut(&node)?;
        let device = turns.ready.pop_front()?;
        // A turn in which the Device is written too is two writes.
        let slot = self.slots.get_mut(&device);
        let writes = slot.as_ref().map_or(1, |slot| 1 + u32::from(slot.of_device));
        turns.next = now + self.pace.node * writes;
        if !turns.ready.is_empty() {
            self.due.insert((turns.next, node));
        }
        let slot = slot?;
        slot.is_writing = true;
        slot.next = now + self.pace.device * writes;
        Some(Job {
            device,
            node: slot.node.clone(),
            is_retry: slot.backoff.failures() > 0,
            of_device: slot.of_device,
            change: std::mem::take(&mut slot.change),
            reports: std::mem::take(&mut slot.reports),
            stored: slot.stored.take(),
            is_behind: slot.is_behind,
        })
    }

    /// A write has ended.
    pub(super) fn done(&mut self, job: Job, end: End, now: Instant, unix: i64) {
        let Some(slot) = self.slots.get_mut(&job.device) else {
            return;
        };
        slot.is_writing = false;
        slot.used = now;
        slot.is_behind = job.is_behind;
        match end {
            End::Done(stored) => {
                slot.stored = stored;
                slot.backoff.reset();
            }
            End::Failed => {
                let newer = std::mem::replace(&mut slot.change, job.change);
                slot.change.absorb(newer, unix);
                for report in std::mem::replace(&mut slot.reports, job.reports) {
                    slot.note(report);
                }
                slot.next = slot.next.max(now + slot.backoff.next_delay());
            }
        }
        if slot.is_waiting() {
            self.resting.insert((slot.next, job.device));
        }
    }

    /// When there is something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        let resting = self.resting.first().map(|(due, _)| *due);
        let nodes = self.due.first().map(|(due, _)| *due);
        resting.into_iter().chain(nodes).min()
    }

    /// Devices with something that is not written.
    pub(super) fn waiting(&self) -> usize {
        self.slots
            .values()
            .filter(|slot| slot.is_waiting() || slot.is_writing)
            .count()
    }

    /// Forgets devices that have been quiet, and says how many are left.
    pub(super) fn forget(&mut self, now: Instant) -> usize {
        self.slots
            .retain(|_, slot| slot.is_waiting() || slot.is_writing || now.duration_since(slot.used) < REMEMBERED);
        self.nodes
            .retain(|_, turns| !turns.ready.is_empty() || turns.next > now);
        self.slots.len()
    }

    /// Devices whose rest is over wait for the turn of their node.
    fn wake(&mut self, now: Instant) {
        while self.resting.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, device)) = self.resting.pop_first() else {
                return;
            };
            let Some(slot) = self.slots.get(&device) else { continue };
            let turns = self.nodes.entry(slot.node.clone()).or_insert_with(|| Turns {
                ready: VecDeque::new(),
                next: now,
            });
            if turns.ready.is_empty() {
                self.due.insert((turns.next.max(now), slot.node.clone()));
            }
            turns.ready.push_back(device);
        }
    }
}

impl Slot {
    fn new(node: &NodeName, now: Instant) -> Self {
        Self {
            node: node.clone(),
            change: Change::default(),
            reports: VecDeque::new(),
            stored: None,
            of_device: false,
            is_behind: false,
            is_writing: false,
            next: now,
            backoff: Backoff::new(RETRY, LONGEST_RETRY),
            used: now,
        }
    }

    fn is_waiting(&self) -> bool {
        !self.reports.is_empty()
    }

    /// A report that is repeated is confirmed once. Of very many the oldest are left to be repeated by the edge.
    fn note(&mut self, report: (NodeName, MsgId)) {
        if self.reports.contains(&report) {
            return;
        }
        if self.reports.len() >= REPORTS {
            self.reports.pop_front();
        }
        self.reports.push_back(report);
    }
}

/// Reports that one write confirms.
const REPORTS: usize = 256;
/// How long the DeviceStatus of a quiet device is remembered: until then a write takes one request, not two.
const REMEMBERED: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::device::{StateUpdate, TwinUpdate};

    use super::*;

    const UNIX: i64 = 1_795_217_800_000;
    const PACE: Pace = Pace {
        device: Duration::from_millis(100),
        node: Duration::from_millis(10),
    };

    fn value(number: u32) -> Change {
        let text = format!(
            r#"{{"twin":{{"t":{{"actual":{{"value":"{number}","metadata":{{"timestamp":{}}}}}}}}}}}"#,
            UNIX + i64::from(number)
        );
        TwinUpdate::parse(text.as_bytes()).expect("twin").into()
    }

    fn report(device: u8, number: u32) -> Report {
        Report {
            node: "n".into(),
            id: number.to_string().as_str().into(),
            device: DeviceId::new("ns", device.to_string()),
            change: value(number),
            of_device: false,
        }
    }

    fn take(slots: &mut Slots, device: u8, number: u32, now: Instant) {
        slots.take(report(device, number), now, UNIX);
    }

    fn newest(job: &Job) -> Change {
        job.change.clone()
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_device_is_written_at_once_and_then_at_its_pace_with_the_newest_value() {
        let (mut slots, start) = (Slots::new(PACE), Instant::now());
        take(&mut slots, 1, 1, start);
        let job = slots.next(start).expect("at once");
        for number in 2..100 {
            take(&mut slots, 1, number, start);
        }
        assert!(slots.next(start).is_none(), "one write at a time");
        slots.done(job, End::Done(None), start, UNIX);
        assert!(slots.next(start + PACE.device / 2).is_none());
        assert_eq!(slots.due(), Some(start + PACE.device));
        let job = slots.next(start + PACE.device).expect("due");
        assert_eq!((newest(&job), job.reports.len()), (value(99), 98));
        slots.done(job, End::Done(None), start + PACE.device, UNIX);
        assert_eq!((slots.due(), slots.waiting()), (None, 0));
        assert_eq!(slots.forget(start + PACE.device + REMEMBERED), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_is_tried_again_under_what_came_after_it() {
        let (mut slots, start) = (Slots::new(PACE), Instant::now());
        take(&mut slots, 1, 1, start);
        let job = slots.next(start).expect("at once");
        take(&mut slots, 1, 2, start);
        slots.done(job, End::Failed, start, UNIX);
        let due = slots.due().expect("again");
        assert!(due >= start + RETRY);
        let job = slots.next(due).expect("due");
        assert_eq!((newest(&job), job.reports.len()), (value(2), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_that_could_not_be_written_is_left_to_where_its_node_is_now() {
        let (mut slots, start) = (Slots::new(PACE), Instant::now());
        let state = StateUpdate {
            state: "online".into(),
            timestamp: UNIX,
            ..StateUpdate::default()
        };
        let other = Report {
            node: "other".into(),
            ..report(1, 1)
        };
        slots.take(other, start, UNIX);
        let online = Report {
            change: state.into(),
            ..report(1, 2)
        };
        slots.take(online, start, UNIX);
        let job = slots.next(start).expect("at once");
        assert!(!job.is_retry && job.change.state.is_some());
        slots.done(job, End::Failed, start, UNIX);
        let due = slots.due().expect("again");
        let mut job = slots.next(due).expect("due");
        assert!(job.is_retry && job.change.state.is_some());
        job.leave_state();
        assert_eq!(newest(&job), value(1), "values have times of their own");
        let left: Vec<&str> = job.reports.iter().map(|(node, _)| node.as_str()).collect();
        assert_eq!(left, ["other"]);
        // Without a state all are confirmed by whoever writes.
        job.leave_state();
        assert_eq!(job.reports.len(), 1);
        slots.done(job, End::Done(None), due, UNIX);
        take(&mut slots, 1, 3, due);
        let next = slots.due().expect("due");
        assert!(!slots.next(next).expect("due").is_retry);
    }

    #[tokio::test(start_paused = true)]
    async fn devices_of_a_node_take_turns_and_other_nodes_do_not_wait() {
        let (mut slots, start) = (Slots::new(PACE), Instant::now());
        for device in 0..5 {
            take(&mut slots, device, 1, start);
        }
        let other = Report {
            node: "other".into(),
            ..report(9, 1)
        };
        slots.take(other, start, UNIX);
        let first: Vec<Job> = std::iter::from_fn(|| slots.next(start)).collect();
        assert_eq!(first.len(), 2, "one of each node");
        let more = (1..=4)
            .filter(|turn| slots.next(start + PACE.node * *turn).is_some())
            .count();
        assert_eq!(more, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_is_written_too_takes_two_turns_of_its_own_and_of_its_node() {
        let (mut slots, start) = (Slots::new(PACE), Instant::now());
        let old = |number| Report {
            of_device: true,
            ..report(1, number)
        };
        slots.take(old(1), start, UNIX);
        take(&mut slots, 2, 1, start);
        let job = slots.next(start).expect("at once");
        assert!(job.of_device);
        assert!(slots.next(start + PACE.node).is_none());
        let other = slots.next(start + PACE.node * 2).expect("the other one's turn");
        assert!(!other.of_device);
        slots.take(old(2), start, UNIX);
        slots.done(job, End::Done(None), start, UNIX);
        assert_eq!(slots.due(), Some(start + PACE.device * 2));
    }

    #[tokio::test(start_paused = true)]
    async fn confirmations_that_wait_are_bounded() {
        let (mut slots, start) = (Slots::new(PACE), Instant::now());
        for number in 0..1000 {
            take(&mut slots, 1, number, start);
            take(&mut slots, 1, number, start);
        }
        assert_eq!(slots.next(start).expect("due").reports.len(), REPORTS);
    }

    proptest! {
        /// Whatever comes when, and whichever writes fail: each device ends with its last value, every report that is not
        /// pushed out is confirmed, and no pace is broken.
        #[test]
        fn the_newest_is_written_and_no_pace_is_broken(
            steps in proptest::collection::vec((0..4u8, 0..60u64), 1..80),
            failures in proptest::collection::vec(any::<bool>(), 0..20),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runtime");
            let mut now = runtime.block_on(async { Instant::now() });
            let (mut slots, mut failures) = (Slots::new(PACE), failures.into_iter());
            let (mut wanted, mut written) = (HashMap::new(), HashMap::new());
            let (mut reports, mut confirmed, mut writes) = (0, 0, Vec::new());
            let mut steps = steps.into_iter().enumerate();
            loop {
                match steps.next() {
                    Some((number, (device, pause))) => {
                        now += Duration::from_millis(pause);
                        let number = u32::try_from(number).expect("small");
                        take(&mut slots, device, number, now);
                        wanted.insert(DeviceId::new("ns", device.to_string()), value(number));
                        reports += 1;
                    }
                    None => match slots.due() {
                        Some(due) => now = now.max(due),
                        None => break,
                    },
                }
                while let Some(job) = slots.next(now) {
                    writes.push((now, job.device.clone()));
                    let fails = failures.next().unwrap_or(false);
                    if !fails {
                        written.insert(job.device.clone(), newest(&job));
                        confirmed += job.reports.len();
                    }
                    slots.done(job, if fails { End::Failed } else { End::Done(None) }, now, UNIX);
                }
            }
            prop_assert_eq!(written, wanted);
            prop_assert_eq!(confirmed, reports);
            for pair in writes.windows(2) {
                prop_assert!(pair[1].0 >= pair[0].0 + PACE.node);
            }
            for device in 0..4u8 {
                let id = DeviceId::new("ns", device.to_string());
                let times: Vec<Instant> = writes.iter().filter(|(_, other)| *other == id).map(|(at, _)| *at).collect();
                prop_assert!(times.windows(2).all(|pair| pair[1] >= pair[0] + PACE.device));
            }
        }
    }
}
