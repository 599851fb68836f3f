//! A mapper built with KubeEdge's own mapper-framework, unmodified, from its registration to the removal of its devices.
//!
//! `KE_MAPPER=FILE` names its program; without it there is nothing to run. It is started in a folder of its own with the template's
//! `config.yaml`. Its driver is to work with files there: a property is read from the file that the key `register` of its visitor names, the
//! state from `state` (`ok` without it), and each call is a line of `events`: `init UNIT PORT` and `stop UNIT PORT` with the keys
//! of the protocol, `set REGISTER VALUE`.
//!
//! A Go edge calls a mapper once and never again: what it is to hear by a call is made when it serves its socket, and what is to come by
//! registration is known to edgecore before it starts.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Entry;
use super::devices::kit::{rejoin, rows};
use crate::api::{self, text};
use crate::process::Daemon;
use crate::settings::{is_ours, program};
use crate::system::{Context, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[("mapper_framework", false, life)];

/// The mapper's socket, in edgecore's folder.
const SOCKET: &str = "files.sock";
/// The mapper's devices speak this.
const PROTOCOL: &str = "files";
/// A first port, one that `UpdateDevice` brings, and one that comes by registration alone. Go's edgecore sends numbers as 32-bit floats,
/// ours exactly.
const PORTS: [u32; 3] = [16_777_216, 7, 8];
const EXACT: u32 = 16_777_217;

/// All that the framework does with edgecore: registers without devices and with some, is told of devices and their desired values,
/// reports values and states, and is registered again after it was killed.
fn life(context: &mut Context) -> Result<()> {
    let mut plant = Plant::new(context)?;
    plant.start()?;
    let first = if plant.our_edge { EXACT } else { PORTS[0] };
    plant.create("d1", first)?;
    plant.event(
        "device created: the driver is told (asked: 1 s)",
        &format!("init degrees {first}"),
    )?;
    plant.event("with its desired value", "set temperature 30")?;
    plant.write("temperature", "21")?;
    plant.reported("d1", "reported value in the API", "21")?;
    plant.write("temperature", "hello world {\"a\":1} ü")?;
    if plant.ours {
        plant.reported("d1", "text of any kind in the API", "hello world {\"a\":1} ü")?;
    }
    plant.write("temperature", "22")?;
    plant.state("d1", "ok")?;
    plant.write("state", "offline")?;
    plant.state("d1", "offline")?;

    plant.desire("d1", "31")?;
    plant.event(
        "desired value changed: at the driver (asked: 1 s)",
        "set temperature 31",
    )?;
    plant.change_port("d1", PORTS[1])?;
    plant.event("protocol changed: at the driver", &format!("init degrees {}", PORTS[1]))?;
    plant.observed("d1", "31")?;

    plant.edgecore_restarts()?;
    plant.desire("d1", "32")?;
    plant.event("edgecore restarted: told without a registration", "set temperature 32")?;
    plant.write("temperature", "23")?;
    plant.reported("d1", "edgecore restarted: reported value in the API", "23")?;

    plant.mapper_away(|plant| {
        plant.create("d2", PORTS[2])?;
        plant.desire("d1", "33")?;
        plant.stored("d2", "30")?;
        plant.stored("d1", "33")
    })?;
    // It starts its devices in any order.
    let before = plant.seen.get();
    plant.event("mapper restarted: what changed meanwhile", "set temperature 33")?;
    plant.seen.set(before);
    plant.event(
        "mapper restarted: its new device",
        &format!("init degrees {}", PORTS[2]),
    )?;
    plant.reported("d2", "the new device's value in the API", "23")?;

    plant.remove("d2", PORTS[2])?;
    plant.remove("d1", PORTS[1])?;
    ensure!(plant.mapper()?.alive(), "the mapper ended: {}", plant.mapper()?.tail());
    plant.end()
}

/// A namespace of devices, and the mapper's folder.
struct Plant<'a> {
    system: &'a mut System,
    /// Whether both sides are.
    ours: bool,
    our_edge: bool,
    limit: Duration,
    namespace: String,
    folder: PathBuf,
    mapper: Option<Daemon>,
    /// Lines of `events` that were looked at.
    seen: std::cell::Cell<usize>,
}

impl<'a> Plant<'a> {
    fn new(context: &'a mut Context) -> Result<Self> {
        let (cloud, edge) = (&context.settings.cloud, &context.settings.edge);
        let our_edge = is_ours(&program(edge, "edgecore")?);
        let ours = our_edge && is_ours(&program(cloud, "cloudcore")?);
        let system = context.system()?;
        let namespace = system.namespace("framework")?;
        let folder = system.edge.folder().join("framework");
        // With the events of an earlier run.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("temperature"), "20")?;
        let config = format!(
            "grpc_server:\n  socket_path: /etc/kubeedge/{SOCKET}\ncommon:\n  name: files-mapper\n  version: v1.13.0\n  \
             api_version: v1.0.0\n  protocol: {PROTOCOL}\n  address: 127.0.0.1\n  edgecore_sock: /etc/kubeedge/dmi.sock\n"
        );
        std::fs::write(folder.join("config.yaml"), config)?;
        let plant = Self {
            system,
            ours,
            our_edge,
            limit: seconds(if ours { 10 } else { 60 }),
            namespace,
            folder,
            mapper: None,
            seen: std::cell::Cell::new(0),
        };
        let properties = json!([{"name": "temperature", "type": "STRING", "accessMode": "ReadWrite"}]);
        let model = json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel", "metadata": {"name": "m"},
            "spec": {"protocol": PROTOCOL, "properties": properties}});
        plant.system.api().create(&plant.path("devicemodels", ""), &model)?;
        Ok(plant)
    }

    // --- the mapper ---

    /// Until it serves.
    fn start(&mut self) -> Result<()> {
        let socket = self.system.edge.folder().join("etc").join(SOCKET);
        let _ = std::fs::remove_file(&socket);
        let program = std::env::var_os("KE_MAPPER").context("KE_MAPPER names no program")?;
        let program = std::fs::canonicalize(program)?;
        let mut command = self.in_folder(&program);
        self.mapper = Some(Daemon::start(self.system.edge.folder(), "framework", &mut command)?);
        let served = wait::until("the mapper registers and serves", self.limit, || {
            Ok(socket.exists().then_some(()))
        });
        served.with_context(|| self.mapper.as_ref().map(Daemon::tail).unwrap_or_default())
    }

    /// A program on the edge's host, in the mapper's folder.
    fn in_folder(&self, program: &Path) -> Command {
        let mut command = self.system.edge.command("env");
        command.arg("-C").arg(&self.folder).arg(program).args(["--v", "4"]);
        command
    }

    fn mapper(&mut self) -> Result<&mut Daemon> {
        self.mapper.as_mut().context("the mapper was not started")
    }

    /// The mapper is killed, something changes, it starts again.
    fn mapper_away(&mut self, change: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        self.mapper()?.kill();
        change(self)?;
        self.start()
    }

    fn edgecore_restarts(&mut self) -> Result<()> {
        rejoin(self.system, |_| ())
    }

    /// What the driver reads.
    fn write(&self, register: &str, value: &str) -> Result<()> {
        // In one step: the driver reads at any time.
        let unfinished = self.folder.join(".unfinished");
        std::fs::write(&unfinished, value)?;
        std::fs::rename(unfinished, self.folder.join(register)).context("the mapper's folder")
    }

    /// Waits for a call of the driver after those that were waited for before.
    fn event(&self, what: &str, wanted: &str) -> Result<()> {
        let looked = wait::until(what, self.limit, || {
            let events = std::fs::read_to_string(self.folder.join("events")).unwrap_or_default();
            let mut lines = events.lines().enumerate().skip(self.seen.get());
            let found = lines.find(|(_, line)| *line == wanted);
            ensure!(
                found.is_some(),
                "no {wanted:?} after {} lines of {events}",
                self.seen.get()
            );
            Ok(found.map(|(at, _)| self.seen.set(at + 1)))
        });
        looked.with_context(|| self.mapper.as_ref().map(Daemon::tail).unwrap_or_default())
    }

    // --- the cloud ---

    fn path(&self, kind: &str, name: &str) -> String {
        format!(
            "/apis/devices.kubeedge.io/v1beta1/namespaces/{}/{kind}/{name}",
            self.namespace
        )
    }

    fn create(&self, name: &str, port: u32) -> Result<()> {
        let device = json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device", "metadata": {"name": name},
            "spec": {"nodeName": self.system.edge.name(), "deviceModelRef": {"name": "m"}, "protocol": protocol(port),
                "stateReport": {"reportToCloud": true, "reportCycle": self.cycles()[1]}, "properties": self.properties("30")}});
        self.system.api().create(&self.path("devices", ""), &device).map(drop)
    }

    fn desire(&self, name: &str, value: &str) -> Result<()> {
        let patch = json!({"spec": {"properties": self.properties(value)}});
        self.system.api().patch(&self.path("devices", name), &patch).map(drop)
    }

    /// Waits until edgecore has stored a Device with this desired value.
    fn stored(&self, name: &str, desired: &str) -> Result<()> {
        let query = format!("SELECT value FROM meta WHERE key = '{}/device/{name}'", self.namespace);
        wait::quietly("the Device in edgecore's database", self.limit, || {
            let row = rows(&self.system.edge, &query)?;
            let device: Value = serde_json::from_str(row.trim()).unwrap_or_default();
            let found = api::elements(&device, "/spec/properties").any(|one| text(one, "/desired/value") == desired);
            Ok(found.then_some(()))
        })
    }

    fn change_port(&self, name: &str, port: u32) -> Result<()> {
        let patch = json!({"spec": {"protocol": protocol(port)}});
        self.system.api().patch(&self.path("devices", name), &patch).map(drop)
    }

    /// The device is deleted: its driver stops, and the API keeps nothing of it.
    fn remove(&self, name: &str, port: u32) -> Result<()> {
        self.system.api().delete(&self.path("devices", name))?;
        self.event(
            &format!("{name} deleted: the driver stops"),
            &format!("stop degrees {port}"),
        )?;
        // The garbage collector of Kubernetes learns of new kinds every half minute.
        wait::until(&format!("{name} deleted: no DeviceStatus"), seconds(90), || {
            let status = self.system.api().get(&self.path("devicestatuses", name))?;
            Ok(status.is_none().then_some(()))
        })
    }

    fn status(&self, what: &str, name: &str, pointer: &str, wanted: &str) -> Result<()> {
        let shown = wait::until(what, self.limit, || {
            let status = self
                .system
                .api()
                .get(&self.path("devicestatuses", name))?
                .unwrap_or_default();
            let shown = text(&status, pointer);
            ensure!(shown == wanted, "{pointer} is {shown:?}");
            Ok(Some(()))
        });
        shown.with_context(|| self.mapper.as_ref().map(Daemon::tail).unwrap_or_default())
    }

    fn reported(&self, name: &str, what: &str, wanted: &str) -> Result<()> {
        self.status(what, name, "/status/twins/0/reported/value", wanted)
    }

    fn observed(&self, name: &str, wanted: &str) -> Result<()> {
        self.status(
            "desired value observed",
            name,
            "/status/twins/0/observedDesired/value",
            wanted,
        )
    }

    fn state(&self, name: &str, wanted: &str) -> Result<()> {
        self.status(&format!("state {wanted} in the API"), name, "/status/state", wanted)
    }

    /// Of values and of the state, in milliseconds: Go's edgecore takes one report a second from all mappers together.
    const fn cycles(&self) -> [u32; 2] {
        if self.our_edge { [200, 500] } else { [3000, 6000] }
    }

    fn properties(&self, desired: &str) -> Value {
        json!([{"name": "temperature", "desired": {"value": desired}, "reportToCloud": true, "collectCycle": self.cycles()[0],
            "visitors": {"protocolName": PROTOCOL, "configData": {"register": "temperature"}}}])
    }

    /// Ends the mapper and removes the namespace.
    fn end(mut self) -> Result<()> {
        self.mapper()?.kill();
        for kind in ["devices", "devicemodels"] {
            self.system.api().delete(self.path(kind, "").trim_end_matches('/'))?;
        }
        self.system.clean(&self.namespace)
    }
}

impl Drop for Plant<'_> {
    fn drop(&mut self) {
        if let Some(mapper) = &mut self.mapper {
            mapper.kill();
        }
    }
}

fn protocol(port: u32) -> Value {
    json!({"protocolName": PROTOCOL, "configData": {"unit": "degrees", "port": port}})
}
