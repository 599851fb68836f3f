//! A seeded model: writes, syncs, restarts, cuts and failures in any order; in the end the cloud has the newest values.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;

const DEVICES: [&str; 3] = ["default/a", "default/b", "other/a"];
const NAMES: [&str; 3] = ["p", "q", "r"];

#[derive(Clone, Debug)]
enum Step {
    Write {
        device: usize,
        name: usize,
        delete: bool,
    },
    State {
        device: usize,
    },
    Sync {
        device: usize,
        name: usize,
        version: i64,
    },
    Restart,
    Link(bool),
    Disk(bool),
    Wait(u64),
    /// The cloud gets what is sent; its answer comes, gets lost, or comes twice.
    Deliver(Fate),
    /// What was sent is lost on the way.
    Lose,
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Answered,
    Unanswered,
    Twice,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..3usize, 0..3usize, prop::bool::weighted(0.1)).prop_map(|(device, name, delete)| Step::Write { device, name, delete }),
        2 => (0..3usize).prop_map(|device| Step::State { device }),
        1 => (0..3usize, 0..3usize, 0..20i64).prop_map(|(device, name, version)| Step::Sync { device, name, version }),
        1 => Just(Step::Restart),
        2 => any::<bool>().prop_map(Step::Link),
        1 => any::<bool>().prop_map(Step::Disk),
        3 => (0..100_000u64).prop_map(Step::Wait),
        4 => prop_oneof![Just(Fate::Answered), Just(Fate::Unanswered), Just(Fate::Twice)].prop_map(Step::Deliver),
        1 => Just(Step::Lose),
    ];
    prop::collection::vec(step, 1..80)
}

/// What the cloud holds: the actual value and its edge version by property, the state by device.
#[derive(Default)]
struct Cloud {
    twins: BTreeMap<(String, String), (Option<String>, i64)>,
    states: BTreeMap<String, String>,
}

impl Cloud {
    fn take(&mut self, message: &Message) {
        let DeviceTopic { device, part } = DeviceTopic::of(&message.route).expect("a device");
        let text = message.content.document();
        if part == DevicePart::State {
            let update = proto::device::StateUpdate::parse(text.as_bytes()).expect("state");
            self.states.insert(device.to_string(), update.state);
            return;
        }
        let update = TwinUpdate::parse(text.as_bytes()).expect("twins");
        for (name, twin) in update.twin.expect("twins") {
            let twin = twin.expect("never null towards the cloud");
            let Some(version) = twin.actual_version else { continue };
            let value = twin.actual.and_then(|actual| actual.value);
            let last = self.twins.insert((device.to_string(), name), (value, version.edge));
            // Never a value older than one that was told before.
            assert!(
                last.as_ref().is_none_or(|(_, last)| *last <= version.edge),
                "{device}: {last:?} after {version:?}"
            );
        }
    }
}

struct World {
    edge: Edge,
    cloud: Cloud,
    sent: Vec<(u64, Message)>,
    values: u64,
}

impl World {
    fn new() -> Self {
        let mut edge = Edge::new();
        for device in DEVICES {
            edge.stored(device);
        }
        Self {
            edge,
            cloud: Cloud::default(),
            sent: Vec::new(),
            values: 0,
        }
    }

    fn send(&mut self) {
        let sent = self.edge.sent();
        self.sent.extend(sent);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Write { device, name, delete } => {
                self.values += 1;
                let twin = if delete {
                    json!(null)
                } else {
                    json!({"actual": {"value": self.values.to_string()}})
                };
                let topic = format!("$hw/events/device/{}/twin/update", DEVICES[device]);
                self.edge
                    .mqtt(&topic, &json!({"twin": {NAMES[name]: twin}}).to_string());
            }
            Step::State { device } => {
                let state = if self.values.is_multiple_of(2) {
                    "online"
                } else {
                    "offline"
                };
                let topic = format!("$hw/events/device/{}/state/update", DEVICES[device]);
                self.edge.mqtt(&topic, &json!({"state": state}).to_string());
            }
            Step::Sync { device, name, version } => {
                let twin = json!({"expected": {"value": "x"}, "metadata": {"type": "string"}, "expected_version": {"cloud": version, "edge": 0}});
                let resource = format!("device/{}/twin/cloud_updated", DEVICES[device]);
                self.edge
                    .cloud(&resource, &json!({"twin": {NAMES[name]: twin}}).to_string());
            }
            Step::Restart => {
                self.sent.clear();
                self.edge.restart();
            }
            Step::Link(up) => {
                self.edge.machine.link(up, self.edge.now.instant);
                if !up {
                    self.settle(Outcome::Unsent);
                }
            }
            Step::Disk(broken) => self.edge.broken = broken,
            Step::Wait(millis) => {
                self.edge.wait(Duration::from_millis(millis));
                self.edge.feed(Vec::new());
            }
            Step::Deliver(fate) => {
                for (_, message) in &self.sent {
                    self.cloud.take(message);
                }
                match fate {
                    Fate::Answered => self.settle(Outcome::Confirmed),
                    Fate::Unanswered => self.settle(Outcome::Unanswered),
                    Fate::Twice => {
                        let ids: Vec<u64> = self.sent.iter().map(|(id, _)| *id).collect();
                        self.settle(Outcome::Confirmed);
                        ids.into_iter().for_each(|id| self.edge.answer(id, Outcome::Confirmed));
                    }
                }
            }
            Step::Lose => self.settle(Outcome::Unanswered),
        }
        self.send();
    }

    fn settle(&mut self, outcome: Outcome) {
        for (id, _) in std::mem::take(&mut self.sent) {
            self.edge.answer(id, outcome);
        }
    }

    /// The link stays, the cloud answers: soon it knows everything.
    fn finish(&mut self) {
        self.step(Step::Disk(false));
        self.step(Step::Link(true));
        for _ in 0..40 {
            self.step(Step::Deliver(Fate::Answered));
            self.step(Step::Wait(250));
        }
        assert!(self.edge.machine.reports.is_quiet());
        for (id, device) in &self.edge.machine.devices {
            assert_eq!(
                self.cloud.states.get(&id.to_string()).map_or("", String::as_str),
                device.state
            );
            for (name, property) in &device.twins {
                let Some(version) = property.actual.version else {
                    continue;
                };
                let known = self.cloud.twins.get(&(id.to_string(), name.clone()));
                assert_eq!(
                    known,
                    Some(&(property.actual.value.clone(), version.edge)),
                    "{id} {name}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_cloud_ends_with_the_newest_values(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.finish();
    }
}
