//! Mappers in Go over the device mapper interface, with both forms of `:authority` that grpc-go has had.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Entry, our_cloud};
use crate::api::{self, text};
use crate::settings::{Settings, is_ours, program};
use crate::system::{Context, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[
    ("dmi_grpc_1_56", false, old),
    ("dmi_grpc_1_67", false, new),
    ("dmi_model_after_device", false, model_after_device),
];

/// edgecore's socket as its host sees it.
const SOCKET: &str = "/etc/kubeedge/dmi.sock";

fn old(context: &mut Context) -> Result<()> {
    mapper(context, "go-1.56")
}

fn new(context: &mut Context) -> Result<()> {
    mapper(context, "go")
}

/// A mapper from its registration to the deletion of its device, over restarts of edgecore and of itself.
fn mapper(context: &mut Context, build: &str) -> Result<()> {
    let settings = context.settings.clone();
    let ours = is_ours(&program(&settings.edge, "edgecore")?);
    let limit = seconds(if ours { 10 } else { 60 });
    let cloud = our_cloud(context)?;
    let system = context.system()?;
    let plant = Plant::new(system, &build.replace('.', "-"))?;
    plant.create_model(system)?;
    plant.create(system, "d1", "1")?;

    let mut mapper = Mapper::start(system, &settings, build, &plant.protocol, "one")?;
    mapper.register("d1", limit)?;
    mapper.say("serve")?;
    mapper.done("mapper serves", "serve", limit)?;
    plant.reported(system, &mut mapper, "21", limit)?;
    if ours {
        plant.reported(system, &mut mapper, "hello world {\"a\":1} ü", limit)?;
    }
    for state in ["offline", "ok"] {
        plant.state(system, &mut mapper, state, limit)?;
    }
    plant.desire(system, "d1", "2")?;
    mapper.called("desired value changed: the mapper is told", "UpdateDevice", "2", limit)?;
    // Go's cloudcore finds a changed model every 5 s, and Go's edgecore tells no mapper of what was found so.
    if ours || cloud {
        plant.describe_model(system, "in the hall")?;
        let limit = if cloud { limit } else { seconds(60) };
        mapper.called(
            "model changed alone: the mapper is told",
            "UpdateDeviceModel",
            "in the hall",
            limit,
        )?;
    }
    if ours {
        plant.refused(system, &mut mapper, limit)?;
    }

    // It does not register again. Edgecore has to start and to dial first.
    let again = limit * 3;
    system.edge.stop_edgecore()?;
    system.join()?;
    plant.desire(system, "d1", "3")?;
    mapper.called("edgecore restarted: the mapper is told", "UpdateDevice", "3", again)?;
    // Go keeps the first address of a mapper for ever.
    if ours {
        drop(mapper);
        mapper = Mapper::start(system, &settings, build, &plant.protocol, "two")?;
        mapper.register("d1", limit)?;
        mapper.say("serve")?;
        system.edge.stop_edgecore()?;
        system.join()?;
        plant.create(system, "d2", "9")?;
        mapper.called(
            "another socket, edgecore restarted: told of a new device",
            "RegisterDevice",
            "9",
            again,
        )?;
    }
    system.api().delete(&plant.path("devices", "d1"))?;
    mapper.called("device deleted: the mapper is told", "RemoveDevice", "d1", limit)?;
    drop(mapper);
    plant.clean(system)
}

/// A device is made before its model, as by `kubectl apply` of a file in that order: the mapper hears of both once the model is there, and
/// loses both with the device.
fn model_after_device(context: &mut Context) -> Result<()> {
    let settings = context.settings.clone();
    let system = context.system()?;
    let plant = Plant::new(system, "later")?;
    let mut mapper = Mapper::start(system, &settings, "go", &plant.protocol, "later")?;
    wait::quietly("a mapper without devices registers", seconds(60), || {
        mapper.say("register")?;
        mapper.answer("MapperRegister").map(Some)
    })?;
    mapper.say("serve")?;
    plant.create(system, "d1", "5")?;
    // How much earlier it comes.
    wait::pause(seconds(2));
    plant.create_model(system)?;
    // Go's cloudcore looks for a model once a second; a Go edge gets the device from ours with the next comparison, 5 s later at most.
    mapper.called_all(
        "model made: the mapper is told of it and its device",
        vec![("CreateDeviceModel", "m"), ("RegisterDevice", "5")],
        seconds(60),
    )?;
    plant.desire(system, "d1", "6")?;
    mapper.called(
        "desired value changed: the mapper is told",
        "UpdateDevice",
        "6",
        seconds(60),
    )?;
    system.api().delete(&plant.path("devices", "d1"))?;
    mapper.called_all(
        "last device deleted: the mapper is told of it and its model",
        vec![("RemoveDevice", "d1"), ("RemoveDeviceModel", "m")],
        seconds(60),
    )?;
    drop(mapper);
    plant.clean(system)
}

/// A mapper registers, and a value of it reaches the API, whatever else is missing.
pub(super) fn serves_a_mapper(system: &System, settings: &Settings, name: &str, limit: Duration) -> Result<()> {
    let plant = Plant::new(system, name)?;
    plant.create_model(system)?;
    plant.create(system, "d1", "1")?;
    let mut mapper = Mapper::start(system, settings, "go", &plant.protocol, name)?;
    mapper.register("d1", limit)?;
    plant.reported(system, &mut mapper, "21", limit)?;
    drop(mapper);
    plant.clean(system)
}

/// A namespace, and a protocol that only its devices speak.
struct Plant {
    namespace: String,
    protocol: String,
}

impl Plant {
    fn new(system: &System, name: &str) -> Result<Self> {
        let namespace = system.namespace(&format!("dmi-{name}"))?;
        let protocol = format!("of-{namespace}");
        Ok(Self { namespace, protocol })
    }

    /// The model of its devices.
    fn create_model(&self, system: &System) -> Result<()> {
        let model = json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel", "metadata": {"name": "m"},
            "spec": {"protocol": self.protocol, "properties": [{"name": "temp", "type": "STRING", "accessMode": "ReadWrite"}]}});
        system.api().create(&self.path("devicemodels", ""), &model).map(drop)
    }

    /// Changes nothing but the model.
    fn describe_model(&self, system: &System, description: &str) -> Result<()> {
        let property = json!({"name": "temp", "type": "STRING", "accessMode": "ReadWrite", "description": description});
        let patch = json!({"spec": {"properties": [property]}});
        system.api().patch(&self.path("devicemodels", "m"), &patch).map(drop)
    }

    fn clean(&self, system: &System) -> Result<()> {
        for kind in ["devices", "devicemodels"] {
            system.api().delete(self.path(kind, "").trim_end_matches('/'))?;
        }
        system.api().delete(&format!("/api/v1/namespaces/{}", self.namespace))
    }

    fn path(&self, kind: &str, name: &str) -> String {
        format!(
            "/apis/devices.kubeedge.io/v1beta1/namespaces/{}/{kind}/{name}",
            self.namespace
        )
    }

    fn create(&self, system: &System, name: &str, desired: &str) -> Result<()> {
        let device = json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device", "metadata": {"name": name},
            "spec": {"nodeName": system.edge.name(), "deviceModelRef": {"name": "m"},
                "protocol": {"protocolName": self.protocol, "configData": {"bus": 7}}, "properties": properties(desired)}});
        system.api().create(&self.path("devices", ""), &device).map(drop)
    }

    fn desire(&self, system: &System, name: &str, desired: &str) -> Result<()> {
        let patch = json!({"spec": {"properties": properties(desired)}});
        system.api().patch(&self.path("devices", name), &patch).map(drop)
    }

    /// The mapper reports a value, and the API shows it. It reports until then, as mappers do.
    fn reported(&self, system: &System, mapper: &mut Mapper, value: &str, limit: Duration) -> Result<()> {
        wait::until(&format!("reported {value}: in the API"), limit, || {
            mapper.say(&format!("report {}/d1 temp {value}", self.namespace))?;
            mapper.answer("ReportDeviceStatus")?;
            self.shown(system, "/status/twins/0/reported/value", value).map(Some)
        })
    }

    /// The same of a state.
    fn state(&self, system: &System, mapper: &mut Mapper, state: &str, limit: Duration) -> Result<()> {
        wait::until(&format!("state {state}: in the API"), limit, || {
            mapper.say(&format!("state {}/d1 {state}", self.namespace))?;
            mapper.answer("ReportDeviceStates")?;
            self.shown(system, "/status/state", state).map(Some)
        })
    }

    /// What the API shows of d1.
    fn shown(&self, system: &System, pointer: &str, wanted: &str) -> Result<()> {
        let status = system.api().get(&self.path("devicestatuses", "d1"))?;
        let status = status.unwrap_or_default();
        let shown = text(&status, pointer);
        ensure!(shown == wanted, "the API shows {shown:?}");
        Ok(())
    }

    /// A device that the mapper refuses is told again, after 1 s, 2 s and so on, until the mapper takes it; then it is told of changes.
    fn refused(&self, system: &System, mapper: &mut Mapper, limit: Duration) -> Result<()> {
        mapper.say("fail RegisterDevice")?;
        mapper.done("mapper refuses devices", "fail", limit)?;
        self.create(system, "d3", "71")?;
        mapper.called("new device: told and refused", "RegisterDevice", "71", limit)?;
        let device = format!("device {}/d3", self.namespace);
        wait::until("the refused call is made again", seconds(20), || {
            let log = system.edge.log();
            let refusals = log.lines().filter(|line| line.contains("the mapper refused a call"));
            let count = refusals.filter(|line| line.contains(&device)).count();
            ensure!(count >= 2, "refused {count} times");
            Ok(Some(()))
        })?;
        mapper.say("fail")?;
        mapper.done("mapper takes devices", "fail", limit)?;
        mapper.called("refused before: told again", "RegisterDevice", "71", seconds(60))?;
        self.desire(system, "d3", "72")?;
        mapper.called("and of its new desired value", "UpdateDevice", "72", limit)
    }
}

fn properties(desired: &str) -> Value {
    json!([{"name": "temp", "desired": {"value": desired}, "reportToCloud": true,
        "visitors": {"protocolName": "virtual", "configData": {"register": 2}}}])
}

/// A mapper in Go that runs on the edge's host; it ends with this value.
pub(super) struct Mapper {
    child: Child,
    commands: ChildStdin,
    lines: Receiver<String>,
}

impl Mapper {
    /// Starts one build of it, for a protocol, with a socket of this name.
    pub(super) fn start(system: &System, settings: &Settings, build: &str, protocol: &str, name: &str) -> Result<Self> {
        let mut command = system.edge.command(settings.dmi.join(build));
        command.arg("-proto").arg(settings.root.join("proto/proto/dmi.proto"));
        command.args([
            "-edge",
            SOCKET,
            "-protocol",
            protocol,
            "-name",
            &format!("mapper-of-{protocol}"),
        ]);
        command.args(["-socket", &format!("/etc/kubeedge/{name}.sock")]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let commands = child.stdin.take().context("standard input")?;
        let output = BufReader::new(child.stdout.take().context("standard output")?);
        let (sender, lines) = sync_channel(256);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, commands, lines })
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Gives a command (`e2e/dmi/main.go`).
    pub(super) fn say(&mut self, command: &str) -> Result<()> {
        writeln!(self.commands, "{command}").context("the mapper ended")
    }

    /// The first line that `look` takes; lines before it are gone.
    fn expect<T>(&mut self, what: &str, limit: Duration, mut look: impl FnMut(&Value) -> Option<T>) -> Result<T> {
        let (start, mut seen) = (Instant::now(), Vec::new());
        while let Some(left) = limit.checked_sub(start.elapsed()) {
            let Ok(line) = self.lines.recv_timeout(left) else { break };
            let value: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
            if let Some(found) = look(&value) {
                println!("    {what}: {:.1} s", start.elapsed().as_secs_f64());
                return Ok(found);
            }
            seen.push(line);
        }
        bail!("{what}: not within {limit:?}; the mapper said {seen:#?}")
    }

    /// Waits until it has done what it was told to.
    fn done(&mut self, what: &str, command: &str, limit: Duration) -> Result<()> {
        self.expect(what, limit, |line| (text(line, "/done") == command).then_some(()))
    }

    /// What edgecore answers to a call that was just asked for.
    pub(super) fn answer(&mut self, method: &str) -> Result<Value> {
        loop {
            let line = self
                .lines
                .recv_timeout(seconds(10))
                .context("the mapper says nothing")?;
            let value: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
            ensure!(value.get("failed").is_none() && value.get("fatal").is_none(), "{line}");
            if text(&value, "/answered") == method {
                return Ok(value);
            }
        }
    }

    /// Registers again until edgecore gives it this device.
    fn register(&mut self, device: &str, limit: Duration) -> Result<()> {
        let answer = wait::until("mapper registered, with its device", limit, || {
            self.say("register")?;
            let answer = self.answer("MapperRegister")?;
            let found = api::elements(&answer, "/response/deviceList").any(|one| text(one, "/name") == device);
            ensure!(found, "{answer}");
            Ok(Some(answer))
        })?;
        ensure!(api::elements(&answer, "/response/modelList").count() == 1, "{answer}");
        Ok(())
    }

    /// What it said since it was last looked at.
    pub(super) fn lines(&self) -> Vec<Value> {
        let lines = self.lines.try_iter();
        lines.filter_map(|line| serde_json::from_str(&line).ok()).collect()
    }

    /// Waits for a call whose request names this.
    fn called(&mut self, what: &str, method: &str, named: &str, limit: Duration) -> Result<()> {
        self.called_all(what, vec![(method, named)], limit)
    }

    /// Waits for several such calls, in any order: Go's edgecore tells of what is gone in the order of the messages, a model first.
    pub(super) fn called_all(&mut self, what: &str, mut left: Vec<(&str, &str)>, limit: Duration) -> Result<()> {
        self.expect(what, limit, |line| {
            let request = line.get("request")?.to_string();
            left.retain(|(method, named)| text(line, "/call") != *method || !request.contains(&format!("\"{named}\"")));
            left.is_empty().then_some(())
        })
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        self.kill();
    }
}
