//! edgecore, the broker, cloudcore and a mapper end in any order while values are under way.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::super::dmi::Mapper;
use super::kit::{Plant, Values, owned, set_external};
use crate::api::{self, text};
use crate::link::Random;
use crate::mqtt::{EXTERNAL, INTERNAL, Mosquitto, start_mosquitto};
use crate::settings::Settings;
use crate::system::Context;
use crate::wait::{self, seconds};

const PROPERTIES: [&str; 3] = ["a", "b", "c"];
/// Steps of one seed.
const STEPS: usize = 6;
/// Seeds without `--long` and with it. The even ones have a broker beside edgecore, the odd ones edgecore's own, which ends with it.
const SEEDS: (u64, u64) = (2, 20);
/// The seed, with a broker beside edgecore, and its step in which, ours, all parts are down together.
const ALL_DOWN: (u64, usize) = (0, STEPS / 2);
/// What a step may kill. A broker of edgecore's own goes with it.
const PARTS: [&str; 4] = ["edgecore", "cloudcore", "mapper", "broker"];

/// They are killed and started in an order drawn from a seed, with either kind of broker, ours also two at a time and once all, and reports
/// over MQTT and DMI and desired values between: in the end both sides show each value that edgecore accepted last, and the edge and its
/// mapper know what was desired last.
pub(super) fn restarts(context: &mut Context) -> Result<()> {
    let (seeds, settings) = (if context.long { SEEDS.1 } else { SEEDS.0 }, context.settings.clone());
    let broker = start_mosquitto(&context.system()?.edge)?;
    set_external(context.system()?, true)?;
    let result = all_seeds(context, settings, seeds, broker);
    set_external(context.system()?, false)?;
    result
}

fn all_seeds(context: &mut Context, settings: Settings, seeds: u64, broker: Mosquitto) -> Result<()> {
    let plant = Plant::at(context, "restarts", &PROPERTIES, EXTERNAL)?;
    plant.create("t1", &PROPERTIES.map(|property| (property, "0")))?;
    plant.until_known("t1")?;
    plant.prime("t1", &PROPERTIES.map(|property| (property, "first")))?;
    let mapper = Told::start(&plant, &settings)?;
    let mut board = Board {
        plant,
        settings,
        broker: Some(broker),
        mapper,
    };
    board.mapper.register()?;
    // Go's own broker takes a tenth of a second for a message.
    let always_beside = !board.plant.sides.edge;
    // All of a kind together: to change the broker takes as long as a seed.
    let (beside, own): (Vec<u64>, Vec<u64>) = (0..seeds).partition(|seed| always_beside || seed % 2 == 0);
    for seed in beside {
        board.one_seed(seed)?;
    }
    if !own.is_empty() {
        board.use_own_broker()?;
    }
    for seed in own {
        board.one_seed(seed)?;
    }
    board.mapper.mapper.kill();
    board.plant.clean()
}

/// What is killed and started again.
struct Board<'a> {
    plant: Plant<'a>,
    settings: Settings,
    /// The one beside edgecore.
    broker: Option<Mosquitto>,
    mapper: Told,
}

impl Board<'_> {
    fn use_own_broker(&mut self) -> Result<()> {
        set_external(self.plant.system, false)?;
        self.broker = None;
        self.plant.reach(INTERNAL)
    }

    fn one_seed(&mut self, seed: u64) -> Result<()> {
        let mut random = Random(seed);
        let mut draw = |below: usize| usize::try_from(random.draw() % 1000).unwrap_or(0) % below;
        let start = PROPERTIES.map(|property| (property, "start"));
        self.plant.report("t1", &format!("start-{seed}"), &start, seconds(60))?;
        let mut reported = owned(&start);
        let mut desired = Values::new();
        let mut done = Vec::new();
        for step in 0..STEPS {
            let (property, value) = (PROPERTIES[draw(PROPERTIES.len())], format!("{seed}-{step}"));
            let mut parts = if (seed, step) == ALL_DOWN && self.both_ours() {
                PARTS.to_vec()
            } else {
                self.some_parts(&mut draw)
            };
            for part in &parts {
                self.kill(part);
            }
            if draw(2) == 0 {
                parts.reverse();
            }
            self.start(&parts)?;
            done.push(if parts.is_empty() {
                "nobody".to_owned()
            } else {
                parts.join(" and ")
            });
            if draw(2) == 0 {
                let list = PROPERTIES.map(|property| (property, value.as_str()));
                self.plant.desire("t1", &list)?;
                desired = owned(&list);
            }
            if draw(2) == 0 {
                self.report(property, &value)?;
            } else {
                let event = format!("step-{seed}-{step}");
                self.plant.report("t1", &event, &[(property, &value)], seconds(60))?;
            }
            reported.insert(property.to_owned(), value);
        }
        let which = if self.broker.is_some() {
            "mosquitto"
        } else {
            "own broker"
        };
        let what = format!("seed {seed} ({which}; {}): all agree", done.join(", "));
        self.agree(&what, &reported, &desired)
    }

    fn both_ours(&self) -> bool {
        self.plant.sides.cloud && self.plant.sides.edge
    }

    /// What is killed next: one part, nobody, or, ours, two, in their order.
    fn some_parts(&self, draw: &mut impl FnMut(usize) -> usize) -> Vec<&'static str> {
        let parts = &PARTS[..PARTS.len() - usize::from(self.broker.is_none())];
        let drawn = draw(parts.len() + 1 + usize::from(self.both_ours()));
        let first = parts.get(drawn).copied();
        if first.is_some() || drawn == parts.len() {
            return first.into_iter().collect();
        }
        let one = draw(parts.len());
        let other = (one + 1 + draw(parts.len() - 1)) % parts.len();
        vec![parts[one], parts[other]]
    }

    fn kill(&mut self, part: &str) {
        match (part, &mut self.broker) {
            ("edgecore", _) => self.plant.system.edge.kill_edgecore(),
            ("cloudcore", _) => self.plant.system.cloud.kill(),
            ("mapper", _) => self.mapper.mapper.kill(),
            (_, Some(broker)) => broker.kill(),
            _ => {}
        }
    }

    /// Starts parts that were killed, in this order.
    fn start(&mut self, parts: &[&str]) -> Result<()> {
        for part in parts {
            let system = &mut *self.plant.system;
            match (*part, &mut self.broker) {
                ("edgecore", _) => system.edge.start_edgecore()?,
                ("cloudcore", _) => system.cloud.start()?,
                ("mapper", _) => self.mapper = Told::start(&self.plant, &self.settings)?,
                (_, Some(broker)) => *broker = start_mosquitto(&system.edge)?,
                _ => {}
            }
        }
        // Not before edgecore is there, whichever was started first.
        if parts.contains(&"mapper") {
            self.mapper.register()?;
        }
        Ok(())
    }

    /// The mapper reports a value until edgecore shows it: a report is answered before it is stored.
    fn report(&mut self, property: &str, value: &str) -> Result<()> {
        let device = format!("{}/t1", self.plant.namespace);
        wait::quietly("a value of the mapper at the edge", seconds(60), || {
            self.mapper.mapper.say(&format!("report {device} {property} {value}"))?;
            self.mapper.look();
            let shown = self.plant.twin("t1", "mapper")?;
            Ok((shown.get(property).map(String::as_str) == Some(value)).then_some(()))
        })
    }

    fn agree(&mut self, what: &str, reported: &Values, desired: &Values) -> Result<()> {
        wait::until(what, seconds(60), || {
            let twin = self.plant.twin("t1", "end")?;
            ensure!(twin == *reported, "the edge tells {twin:?}, accepted was {reported:?}");
            let shown = self.plant.reported("t1")?;
            ensure!(shown == *reported, "the API shows {shown:?}, accepted was {reported:?}");
            let told = self.mapper.look();
            for (property, value) in desired {
                let stored = self.plant.stored_desired("t1", property)?;
                ensure!(
                    stored.as_ref() == Some(value),
                    "desired is {value} of {property}, stored {stored:?}"
                );
                ensure!(
                    told.get(property) == Some(value),
                    "desired is {value} of {property}, the mapper was told {told:?}"
                );
            }
            Ok(Some(()))
        })
    }
}

/// A mapper, and the device's desired values as it was told them last.
struct Told {
    mapper: Mapper,
    desired: Values,
}

impl Told {
    /// The mapper alone: edgecore may be away.
    fn start(plant: &Plant<'_>, settings: &Settings) -> Result<Self> {
        Ok(Self {
            mapper: Mapper::start(plant.system, settings, "go", "virtual", "restarts")?,
            desired: Values::new(),
        })
    }

    /// Registers until edgecore gives it the device, then serves, as the framework does.
    fn register(&mut self) -> Result<()> {
        wait::quietly("the mapper registers and gets its device", seconds(60), || {
            self.mapper.say("register")?;
            let answer = self.mapper.answer("MapperRegister")?;
            api::elements(&answer, "/response/deviceList").for_each(|device| self.note(device));
            Ok((!self.desired.is_empty()).then_some(()))
        })?;
        self.mapper.say("serve")
    }

    /// What it was told until now.
    fn look(&mut self) -> &Values {
        for line in self.mapper.lines() {
            if let Some(device) = line.pointer("/request/device") {
                self.note(device);
            }
        }
        &self.desired
    }

    fn note(&mut self, device: &Value) {
        if text(device, "/name") == "t1" {
            let desired = api::elements(device, "/spec/properties");
            let desired = desired.map(|one| (text(one, "/name").to_owned(), text(one, "/desired/value").to_owned()));
            self.desired = desired.collect();
        }
    }
}
