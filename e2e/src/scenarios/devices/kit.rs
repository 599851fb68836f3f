//! What the scenarios of devices work with: a namespace of models and devices, an MQTT client on the edge's host, and looks at both
//! sides: the API, and edgecore's database.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rumqttc::QoS;
use serde_json::{Value, json};

use crate::api::{self, text};
use crate::edge::{EdgeHost, Keys};
use crate::mqtt::{self, Client, Heard, Mosquitto};
use crate::process;
use crate::settings::{Settings, is_ours, program};
use crate::system::{Context, System};
use crate::wait::{self, seconds};

/// The model of all devices here.
pub(crate) const MODEL: &str = "thermometer";
/// The broker outside edgecore, where a scenario wants one.
const EXTERNAL: [&str; 2] = ["mqttMode: 2", "mqttServerExternal: tcp://127.0.0.1:1883"];

/// Values of a device by property.
pub(crate) type Values = BTreeMap<String, String>;

/// A namespace of devices on the shared edge.
pub(crate) struct Plant<'a> {
    pub(crate) system: &'a mut System,
    pub(crate) namespace: String,
    pub(crate) mqtt: Client,
    /// Where the broker listens.
    pub(crate) port: u16,
    broker: Option<Mosquitto>,
    /// Whose programs run.
    pub(crate) sides: Sides,
}

/// Which sides are ours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sides {
    pub(crate) cloud: bool,
    pub(crate) edge: bool,
}

impl Sides {
    pub(crate) fn of(settings: &Settings) -> Result<Self> {
        Ok(Self {
            cloud: is_ours(&program(&settings.cloud, "cloudcore")?),
            edge: is_ours(&program(&settings.edge, "edgecore")?),
        })
    }

    /// How long something may take that ours are asked to do within a second: ten times that, and a minute for others.
    pub(crate) fn limit(self) -> Duration {
        seconds(if self.cloud && self.edge { 10 } else { 60 })
    }
}

impl<'a> Plant<'a> {
    /// Makes the namespace and its model, and connects to edgecore's own broker. Go's takes a tenth of a second for a message: such an
    /// edge gets a mosquitto.
    pub(crate) fn new(context: &'a mut Context, name: &str, properties: &[&str]) -> Result<Self> {
        if Sides::of(&context.settings)?.edge {
            return Self::at(context, name, properties, mqtt::INTERNAL);
        }
        let system = context.system()?;
        let broker = mqtt::start_mosquitto(&system.edge)?;
        set_external(system, true)?;
        let mut plant = Self::at(context, name, properties, mqtt::EXTERNAL)?;
        plant.broker = Some(broker);
        Ok(plant)
    }

    /// The same with the broker of a port.
    pub(crate) fn at(context: &'a mut Context, name: &str, properties: &[&str], port: u16) -> Result<Self> {
        let sides = Sides::of(&context.settings)?;
        Self::on(context.system()?, sides, name, properties, port)
    }

    /// The same on any system.
    pub(crate) fn on(system: &'a mut System, sides: Sides, name: &str, properties: &[&str], port: u16) -> Result<Self> {
        let namespace = system.namespace(name)?;
        let mqtt = connect(&system.edge, &namespace, port)?;
        let plant = Self {
            system,
            namespace,
            mqtt,
            port,
            broker: None,
            sides,
        };
        plant.create_model(properties)?;
        Ok(plant)
    }

    // --- the cloud ---

    /// Path of an object of the namespace.
    pub(crate) fn path(&self, kind: &str, name: &str) -> String {
        format!(
            "/apis/devices.kubeedge.io/v1beta1/namespaces/{}/{kind}/{name}",
            self.namespace
        )
    }

    fn create_model(&self, properties: &[&str]) -> Result<()> {
        let properties: Vec<Value> = properties
            .iter()
            .map(|name| json!({"name": name, "type": "STRING", "accessMode": "ReadWrite"}))
            .collect();
        let model = json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
            "metadata": {"name": MODEL}, "spec": {"protocol": "virtual", "properties": properties}});
        self.system
            .api()
            .create(&self.path("devicemodels", ""), &model)
            .map(drop)
    }

    /// Creates a device with these desired values; the names are its properties.
    pub(crate) fn create(&self, name: &str, desired: &[(&str, &str)]) -> Result<()> {
        let device = json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device", "metadata": {"name": name},
            "spec": {"nodeName": self.system.edge.name(), "deviceModelRef": {"name": MODEL},
                "protocol": {"protocolName": "virtual", "configData": {"bus": 1}}, "properties": properties(desired)}});
        self.system.api().create(&self.path("devices", ""), &device).map(drop)
    }

    /// Changes the desired values of a device.
    pub(crate) fn desire(&self, name: &str, desired: &[(&str, &str)]) -> Result<()> {
        let patch = json!({"spec": {"properties": properties(desired)}});
        self.system.api().patch(&self.path("devices", name), &patch).map(drop)
    }

    /// What the API shows as reported: in the DeviceStatus, or, as clouds before v1.23 do, in the Device.
    pub(crate) fn reported(&self, name: &str) -> Result<Values> {
        let status = self.system.api().get(&self.path("devicestatuses", name))?;
        let device = match status {
            Some(status) if status.pointer("/status/twins").is_some() => status,
            _ => self.system.api().must(&self.path("devices", name))?,
        };
        Ok(api::elements(&device, "/status/twins")
            .map(|twin| {
                let value = text(twin, "/reported/value");
                (text(twin, "/propertyName").to_owned(), value.to_owned())
            })
            .collect())
    }

    /// Waits until the API shows exactly these values among what is reported.
    pub(crate) fn until_reported(&self, what: &str, name: &str, wanted: &Values, limit: Duration) -> Result<()> {
        wait::until(what, limit, || {
            let shown = self.reported(name)?;
            for (property, value) in wanted {
                let seen = shown.get(property).map_or("nothing", String::as_str);
                ensure!(
                    seen == value,
                    "{name}: the API shows {seen} for {property}, not {value}"
                );
            }
            Ok(Some(()))
        })
    }

    // --- the edge ---

    /// Goes on with the broker of another port.
    pub(crate) fn reach(&mut self, port: u16) -> Result<()> {
        self.mqtt = connect(&self.system.edge, &self.namespace, port)?;
        self.port = port;
        Ok(())
    }

    /// A topic of a device.
    pub(crate) fn topic(&self, name: &str, rest: &str) -> String {
        format!("$hw/events/device/{}/{name}/{rest}", self.namespace)
    }

    /// Publishes a mapper's values, as a program on the edge does.
    pub(crate) fn publish(&self, name: &str, event: &str, values: &[(&str, &str)]) -> Result<()> {
        self.mqtt.publish(
            &self.topic(name, "twin/update"),
            update(event, values),
            QoS::AtLeastOnce,
        )
    }

    /// Publishes values again until edgecore has accepted them: it may not be there yet.
    pub(crate) fn report(&self, name: &str, event: &str, values: &[(&str, &str)], limit: Duration) -> Result<()> {
        let (mark, result) = (self.mqtt.mark(), self.topic(name, "twin/update/result"));
        let tries = limit.as_secs().max(1);
        for _ in 0..tries {
            self.publish(name, event, values)?;
            let answered = self.mqtt.expect_quietly("an answer", mark, seconds(1), |one| {
                let content = one.json();
                (one.topic == result && text(&content, "/event_id") == event && content.get("code").is_none())
                    .then_some(())
            });
            if answered.is_ok() {
                return Ok(());
            }
        }
        anyhow::bail!("{name}: no good answer to {event} in {tries} s")
    }

    /// What `twin/get` tells of a device's actual values.
    pub(crate) fn twin(&self, name: &str, event: &str) -> Result<Values> {
        let (topic, result) = (self.topic(name, "twin/get"), self.topic(name, "twin/get/result"));
        let answer = self.ask(event, &topic, |one| one.topic == result)?;
        let twins = answer.get("twin").and_then(Value::as_object);
        let twins = twins.with_context(|| format!("twin/get was answered by {answer}"))?;
        Ok(twins
            .iter()
            .map(|(property, twin)| (property.clone(), text(twin, "/actual/value").to_owned()))
            .collect())
    }

    /// The answer to a question over MQTT. After a restart of edgecore or the broker one of the two may not be subscribed yet, and the
    /// question or its answer is lost: it is asked once more.
    fn ask(&self, event: &str, topic: &str, is_answer: impl Fn(&Heard) -> bool) -> Result<Value> {
        let mark = self.mqtt.mark();
        let question = json!({"event_id": event}).to_string();
        wait::quietly(topic, seconds(10), || {
            self.mqtt.publish(topic, question.as_str(), QoS::AtLeastOnce)?;
            let is_ours = |one: &Heard| {
                let content = one.json();
                (is_answer(one) && text(&content, "/event_id") == event).then_some(content)
            };
            let answer = self
                .mqtt
                .expect_quietly("an answer to this question", mark, seconds(1), is_ours)?;
            Ok(Some(answer))
        })
    }

    /// The ids of the devices that `membership/get` tells, of this namespace.
    pub(crate) fn members(&self, event: &str) -> Result<Vec<String>> {
        let topic = format!("$hw/events/node/{}/membership/get", self.system.edge.name());
        let answer = self.ask(event, &topic, |one| one.topic.ends_with("membership/get/result"))?;
        let mut ids: Vec<String> = api::elements(&answer, "/devices")
            .map(|device| text(device, "/id").to_owned())
            .filter(|id| id.starts_with(&format!("{}/", self.namespace)))
            .collect();
        ids.sort();
        Ok(ids)
    }

    /// The Device as edgecore has stored it.
    pub(crate) fn stored(&self, kind: &str, name: &str) -> Result<Option<Value>> {
        let key = format!("{}/{kind}/{name}", self.namespace);
        let rows = rows(
            &self.system.edge,
            &format!("SELECT value FROM meta WHERE key = '{key}'"),
        )?;
        match rows.trim() {
            "" => Ok(None),
            row => serde_json::from_str(row).map(Some).context("a row of meta"),
        }
    }

    /// The desired value of a property of the stored Device.
    pub(crate) fn stored_desired(&self, name: &str, property: &str) -> Result<Option<String>> {
        let Some(device) = self.stored("device", name)? else {
            return Ok(None);
        };
        let found = api::elements(&device, "/spec/properties").find(|one| text(one, "/name") == property);
        Ok(found.map(|one| text(one, "/desired/value").to_owned()))
    }

    /// Waits until membership and database tell of a device.
    pub(crate) fn until_known(&self, name: &str) -> Result<()> {
        let id = format!("{}/{name}", self.namespace);
        wait::until("device known at the edge", self.sides.limit(), || {
            let members = self.members("known")?;
            ensure!(members.contains(&id), "membership/get tells of {members:?}");
            Ok(self.stored("device", name)?.map(drop))
        })
    }

    /// Brings a device's properties to where the API shows a first value of each. Go's cloudcore v1.23 stores the first report of a
    /// property as empty strings, so the second one counts there.
    pub(crate) fn prime(&self, name: &str, values: &[(&str, &str)]) -> Result<()> {
        let wanted: Values = owned(values);
        if !self.sides.cloud {
            self.report(name, "first", values, self.sides.limit())?;
            wait::quietly("the properties in the API", self.sides.limit(), || {
                let shown = self.reported(name)?;
                Ok(wanted.keys().all(|property| shown.contains_key(property)).then_some(()))
            })?;
        }
        self.report(name, "second", values, self.sides.limit())?;
        self.until_reported("the first values in the API", name, &wanted, self.sides.limit())
    }

    /// Removes the namespace with all in it and waits until neither side knows of its devices.
    pub(crate) fn clean(self) -> Result<()> {
        self.system
            .api()
            .delete(self.path("devices", "").trim_end_matches('/'))?;
        // Go's cloudcore sends nothing of a device whose node left meanwhile, and waits 10 s for a model that is gone.
        wait::quietly("no devices of the scenario at the edge", seconds(60), || {
            Ok(self.members("clean")?.is_empty().then_some(()))
        })?;
        self.system
            .api()
            .delete(&format!("/api/v1/namespaces/{}", self.namespace))
    }
}

/// A client that hears all of a namespace's devices, and of the node.
fn connect(edge: &EdgeHost, namespace: &str, port: u16) -> Result<Client> {
    let own = format!("$hw/events/device/{namespace}/#");
    // Go answers what it cannot read on the topic of a device without a name.
    let filters = [&own, "$hw/events/node/#", "$hw/events/device//twin/update/result"];
    Client::connect(edge, port, &filters)
}

/// Moves the shared edge to a broker outside edgecore (true), or back to edgecore's own, unless it is there.
pub(crate) fn set_external(system: &mut System, external: bool) -> Result<()> {
    let config = std::fs::read_to_string(system.edge.folder().join("etc/config/edgecore.yaml"))?;
    if config.contains(EXTERNAL[0]) == external {
        return Ok(());
    }
    let keys = if external {
        EXTERNAL.map(str::to_owned).to_vec()
    } else {
        Vec::new()
    };
    restart_with(system, keys)
}

/// Restarts edgecore with these keys of `eventBus`.
pub(crate) fn restart_with(system: &mut System, bus: Vec<String>) -> Result<()> {
    let keys = Keys { bus, ..Keys::default() };
    rejoin(system, |edge| edge.set_keys(keys))
}

/// Restarts edgecore in the orderly way, and waits until the cloud has heard of it.
pub(crate) fn rejoin(system: &mut System, meanwhile: impl FnOnce(&mut EdgeHost)) -> Result<()> {
    let path = format!(
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}",
        system.edge.name()
    );
    let renewed = |system: &System| -> Result<String> {
        let lease = system.api().get(&path)?.unwrap_or_default();
        Ok(text(&lease, "/spec/renewTime").to_owned())
    };
    system.edge.stop_edgecore()?;
    let before = renewed(system)?;
    meanwhile(&mut system.edge);
    system.join()?;
    // The node still looks Ready from before; Go's cloudcore tells of a device once, and not to a node that is away.
    wait::quietly("a sign of life of the restarted edge", seconds(60), || {
        Ok((renewed(system)? != before).then_some(()))
    })
}

/// The payload of `twin/update` with a mapper's values.
pub(crate) fn update(event: &str, values: &[(&str, &str)]) -> String {
    let twins: serde_json::Map<String, Value> = values
        .iter()
        .map(|&(property, value)| {
            let twin = json!({"actual": {"value": value}, "metadata": {"type": "string"}});
            (property.to_owned(), twin)
        })
        .collect();
    json!({"event_id": event, "timestamp": 1, "twin": twins}).to_string()
}

/// What edgecore's database answers.
pub(crate) fn rows(edge: &EdgeHost, query: &str) -> Result<String> {
    let mut command = Command::new("sqlite3");
    command
        .args(["-readonly", "-cmd", ".timeout 5000"])
        .arg(edge.database());
    process::run(command.arg(query))
}

pub(crate) fn owned(values: &[(&str, &str)]) -> Values {
    values
        .iter()
        .map(|&(property, value)| (property.to_owned(), value.to_owned()))
        .collect()
}

fn properties(desired: &[(&str, &str)]) -> Vec<Value> {
    desired
        .iter()
        .map(|(name, value)| {
            json!({"name": name, "desired": {"value": value}, "reportToCloud": true, "collectCycle": 1000, "reportCycle": 1000,
                "visitors": {"protocolName": "virtual", "configData": {"register": 2}}})
        })
        .collect()
}
