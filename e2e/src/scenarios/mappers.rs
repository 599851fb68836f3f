//! The mappers of `examples/` on an edge, with the manifests beside them: from the API to a device and back.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rumqttc::QoS;
use serde_json::Value;

use super::devices::kit::rejoin;
use super::{Entry, needs_our_edge};
use crate::api::{self, number, text};
use crate::edge::Keys;
use crate::mqtt::{self, Client};
use crate::process::{self, Daemon};
use crate::system::{Context, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[
    ("mapper_virtual", false, virtual_device),
    ("mapper_modbus", false, modbus),
    ("mapper_container", false, container),
    ("history_bounded", false, history),
];

/// Port of the Modbus server on the edge's host.
const MODBUS: &str = "1502";
/// What its device has besides that of the manifest.
const MORE_OF_MODEL: &str = "  - {name: door, type: BOOLEAN, accessMode: ReadOnly}
  - {name: flow, type: FLOAT, accessMode: ReadOnly}
";
const MORE_OF_DEVICE: &str = "  - name: door
    reportToCloud: true
    collectCycle: 500
    visitors: {protocolName: modbus, configData: {register: DiscreteInputRegister, offset: 3, limit: 1}}
  - name: flow
    reportToCloud: true
    collectCycle: 500
    visitors: {protocolName: modbus, configData: {register: HoldingRegister, offset: 10, limit: 2}}
";
/// How long what is asked to take a second may take.
const LIMIT: u64 = 10;

/// A mapper on the edge's host, with the devices of its manifest in a namespace.
struct Plant<'a> {
    system: &'a mut System,
    namespace: String,
    mapper: Daemon,
    /// What an earlier scenario left in the log of the mapper.
    old_log: usize,
    device: &'static str,
}

impl<'a> Plant<'a> {
    /// Starts an example, and applies its `device.yaml` after `change`.
    fn start(
        context: &'a mut Context,
        example: &str,
        device: &'static str,
        change: impl Fn(&str) -> String,
    ) -> Result<Self> {
        let manifest = context.settings.root.join("examples").join(example).join("device.yaml");
        let manifest = std::fs::read_to_string(&manifest).with_context(|| format!("{}", manifest.display()))?;
        let system = context.system()?;
        let namespace = system.namespace("mappers")?;
        let log = system.edge.folder().join(format!("{example}.log"));
        let old_log = std::fs::read(log).map_or(0, |log| log.len());
        let mapper = start_mapper(system, example)?;
        let plant = Self {
            system,
            namespace,
            mapper,
            old_log,
            device,
        };
        plant.until_logged("the mapper registers", "registered with edgecore")?;
        let manifest =
            change(&manifest.replace("nodeName: edge-1", &format!("nodeName: {}", plant.system.edge.name())));
        plant.system.cluster.apply(&plant.namespace, &manifest)?;
        plant.until_logged("the mapper has the device (asked: 1 s)", &plant.told("connected"))?;
        Ok(plant)
    }

    /// How the mapper tells of the device.
    fn told(&self, what: &str) -> String {
        format!("{what} namespace={} name={}", self.namespace, self.device)
    }

    fn until_logged(&self, what: &str, line: &str) -> Result<()> {
        wait::until(what, seconds(LIMIT), || {
            let log = std::fs::read_to_string(self.mapper.log())?;
            let new = log.get(self.old_log..).unwrap_or_default();
            Ok(new.contains(line).then_some(()))
        })
        .with_context(|| self.mapper.tail())
    }

    fn path(&self, kind: &str) -> String {
        format!(
            "/apis/devices.kubeedge.io/v1beta1/namespaces/{}/{kind}/{}",
            self.namespace, self.device
        )
    }

    fn until_reported(&self, what: &str, property: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        self.until_reported_in(LIMIT, what, property, wanted)
    }

    fn until_reported_in(&self, limit: u64, what: &str, property: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let reported = wait::until(what, seconds(limit), || {
            let status = self.system.api().must(&self.path("devicestatuses"))?;
            let twin = api::elements(&status, "/status/twins").find(|twin| text(twin, "/propertyName") == property);
            let value = twin.map_or("", |twin| text(twin, "/reported/value"));
            ensure!(wanted(value), "it is {value:?}");
            Ok(Some(()))
        });
        reported.with_context(|| self.mapper.tail())
    }

    /// Changes the desired value of a property, by its place in the manifest.
    fn desire(&self, property: usize, value: &str) -> Result<()> {
        let patch = format!(
            r#"[{{"op": "replace", "path": "/spec/properties/{property}/desired/value", "value": "{value}"}}]"#
        );
        let arguments = [
            "-n",
            &self.namespace,
            "patch",
            "device",
            self.device,
            "--type=json",
            "-p",
            &patch,
        ];
        self.system.cluster.kubectl(&arguments).map(drop)
    }

    /// Deletes the device, which the mapper is told of, and ends the mapper.
    fn end(mut self) -> Result<()> {
        self.system.api().delete(&self.path("devices"))?;
        self.until_logged("the mapper drops the device", &self.told("the device is removed"))?;
        self.mapper.stop(seconds(10))?;
        self.system.clean(&self.namespace)
    }
}

/// Starts an example on the edge's host.
fn start_mapper(system: &System, example: &str) -> Result<Daemon> {
    let program = program_of(example)?;
    Daemon::start(system.edge.folder(), example, &mut system.edge.command(program))
}

/// The program of an example, which was built beside this one.
fn program_of(example: &str) -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name(example);
    ensure!(
        program.is_file(),
        "{} is missing: cargo build -p {example}",
        program.display()
    );
    Ok(program)
}

impl Drop for Plant<'_> {
    fn drop(&mut self) {
        self.mapper.kill();
    }
}

/// A device made in the cloud is served by the virtual mapper; its values are in the DeviceStatus; a desired value arrives, also after
/// restarts of edgecore and the mapper, and one that came while the mapper was away.
fn virtual_device(context: &mut Context) -> Result<()> {
    let mut plant = Plant::start(context, "virtual-device", "thermometer-1", str::to_owned)?;
    plant.until_reported("a value in the API", "temperature", |value| {
        value.parse::<u32>().is_ok()
    })?;
    plant.until_reported("the desired value is reported", "limit", |value| value == "30")?;
    plant.desire(1, "35")?;
    plant.until_reported("desired in the API to reported in the API", "limit", |value| {
        value == "35"
    })?;
    plant.system.edge.kill_edgecore();
    plant.system.edge.start_edgecore()?;
    plant.system.node_ready(seconds(60))?;
    plant.desire(1, "40")?;
    // Edgecore has to start and to dial first, the mapper to register.
    plant.until_reported_in(LIMIT * 3, "edgecore restarted: desired to reported", "limit", |value| {
        value == "40"
    })?;
    plant.mapper.kill();
    plant.desire(1, "45")?;
    plant.mapper = start_mapper(plant.system, "virtual-device")?;
    plant.until_reported_in(
        LIMIT * 3,
        "mapper restarted: what was desired meanwhile",
        "limit",
        |value| value == "45",
    )?;
    plant.end()
}

/// The virtual mapper as people run it: its program in an image, and `mapper.yaml` as it is. A device that is made then reaches it through
/// the socket in the container, and its values are in the API.
fn container(context: &mut Context) -> Result<()> {
    const EXAMPLE: &str = "virtual-device";
    let root = context.settings.root.clone();
    let read = |file: &str| {
        let path = root.join("examples").join(EXAMPLE).join(file);
        std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))
    };
    let system = context.system()?;
    let (manifest, archive) = (read("mapper.yaml")?, system.edge.folder().join("mapper.tar"));
    let image = manifest.lines().find_map(|line| line.trim().strip_prefix("image: "));
    let image = image.context("the image in mapper.yaml")?;
    let mut build = Command::new(root.join("e2e/testcluster/image"));
    build
        .arg("--program")
        .arg(program_of(EXAMPLE)?)
        .arg(image)
        .arg(&archive);
    process::run(&mut build)?;
    system.edge.ctr(&["image", "import", &archive.to_string_lossy()])?;
    std::fs::remove_file(&archive)?;
    let socket = system.edge.folder().join("etc/virtual.sock");
    // Of an earlier scenario.
    let _ = std::fs::remove_file(&socket);

    let namespace = system.namespace("container")?;
    system.cluster.apply(&namespace, &manifest)?;
    wait::until(
        "the mapper in a container has its socket on the host",
        seconds(60),
        || Ok(socket.exists().then_some(())),
    )?;
    let device = read("device.yaml")?.replace("nodeName: edge-1", &format!("nodeName: {}", system.edge.name()));
    system.cluster.apply(&namespace, &device)?;
    let path = format!("/apis/devices.kubeedge.io/v1beta1/namespaces/{namespace}");
    wait::until("a value of it in the API", seconds(60), || {
        let status = system.api().must(&format!("{path}/devicestatuses/thermometer-1"))?;
        let twin = api::elements(&status, "/status/twins").find(|twin| text(twin, "/propertyName") == "temperature");
        let value = twin.map_or("", |twin| text(twin, "/reported/value"));
        ensure!(value.parse::<u32>().is_ok(), "it is {value:?}");
        Ok(Some(()))
    })?;
    system.api().delete(&format!("{path}/devices/thermometer-1"))?;
    system
        .cluster
        .kubectl(&["delete", "-n", &namespace, "daemonset", EXAMPLE])?;
    system.clean(&namespace)?;
    system.edge.ctr(&["image", "rm", image]).map(drop)
}

/// Inputs and registers of a Modbus server come to the API, desired values to a register and a coil.
fn modbus(context: &mut Context) -> Result<()> {
    let python = PathBuf::from(std::env::var_os("KUBEEDGE_PYTHON").context("KUBEEDGE_PYTHON: run e2e/setup")?);
    let script = context.settings.root.join("e2e/modbus/modbus.py");
    let system = context.system()?;
    let mut command = system.edge.command(&python);
    let mut server = Daemon::start(
        system.edge.folder(),
        "modbus",
        command
            .arg(&script)
            .args(["serve", MODBUS, "input:0:215", "discrete:3:1"]),
    )?;
    let outcome = registers(context, |system, arguments| {
        let mut command = system.edge.command(&python);
        Ok(process::run(command.arg(&script).args(arguments))?.trim().to_owned())
    });
    server.kill();
    outcome.with_context(|| server.tail())
}

fn registers(context: &mut Context, device: impl Fn(&System, &[&str]) -> Result<String>) -> Result<()> {
    wait::quietly("the Modbus server", seconds(20), || {
        device(context.system()?, &["get", MODBUS, "register", "0"]).map(Some)
    })?;
    let plant = Plant::start(context, "modbus-mapper", "boiler", |manifest| {
        let manifest = manifest.replace("ip: 192.168.1.20, port: 502", &format!("ip: 127.0.0.1, port: {MODBUS}"));
        let manifest = manifest.replace("\n---\n", &format!("\n{MORE_OF_MODEL}---\n"));
        format!("{manifest}{MORE_OF_DEVICE}")
    })?;
    let get = |kind: &str, number: &str| device(plant.system, &["get", MODBUS, kind, number]);
    let set = |number: &str, value: &str| device(plant.system, &["set", MODBUS, "register", number, value]);
    plant.until_reported("an input register in the API", "temperature", |value| value == "21.5")?;
    plant.until_reported("a discrete input in the API", "door", |value| value == "true")?;
    // The halves of 21.7, then of 22.5.
    set("10", "16813")?;
    set("11", "39322")?;
    plant.until_reported("a number in two registers in the API", "flow", |value| value == "21.7")?;
    set("10", "16820")?;
    set("11", "0")?;
    plant.until_reported("the changed registers in the API (asked: 2 s)", "flow", |value| {
        value == "22.5"
    })?;
    wait::quietly("the desired values in the server", seconds(LIMIT), || {
        Ok((get("register", "1")? == "60" && get("coil", "0")? == "1").then_some(()))
    })?;
    plant.desire(1, "72")?;
    wait::until(
        "a desired value in its register (with a client's start, 0.3 s)",
        seconds(LIMIT),
        || Ok((get("register", "1")? == "72").then_some(())),
    )?;
    plant.until_reported("the same in the API", "limit", |value| value == "72")?;
    plant.end()
}

/// Values are kept at the edge up to the bound, told over HTTP and MQTT.
fn history(context: &mut Context) -> Result<()> {
    needs_our_edge(context, "a history of values at the edge")?;
    let system = context.system()?;
    configure(system, &["history: {enable: true, maxValues: 50}"])?;
    let outcome = remembered(context);
    configure(context.system()?, &[])?;
    outcome
}

/// Restarts edgecore with keys of the section `deviceTwin`, and waits until the cloud has heard of it.
pub(super) fn configure(system: &mut System, keys: &[&str]) -> Result<()> {
    let keys = Keys {
        twin: keys.iter().map(|line| (*line).to_owned()).collect(),
        ..Keys::default()
    };
    rejoin(system, |edge| edge.set_keys(keys))
}

fn remembered(context: &mut Context) -> Result<()> {
    let plant = Plant::start(context, "virtual-device", "thermometer-1", |manifest| {
        manifest.replace("collectCycle: 1000", "collectCycle: 20")
    })?;
    let base = format!(
        "http://127.0.0.1:10350/devices/{}/thermometer-1/history",
        plant.namespace
    );
    let ask = |query: &str| -> Result<Value> {
        let answer = plant.system.edge.fetch(&format!("{base}{query}"))?;
        serde_json::from_str(&answer).with_context(|| answer)
    };
    let counted = |name: &str| -> Result<u64> {
        let metrics = plant.system.edge.fetch("http://127.0.0.1:10350/metrics")?;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        Ok(line.and_then(|value| value.trim().parse().ok()).unwrap_or_default())
    };
    let removed = r#"edgecore_history_values_removed_total{reason="values"}"#;
    let removed = wait::until("old values make room", seconds(30), || {
        // A question writes what was gathered.
        ask("")?;
        Ok(Some(counted(removed)?).filter(|removed| *removed >= 10))
    })?;
    let page = ask("?property=temperature&limit=3&order=newest")?;
    ensure!(
        api::elements(&page, "/values").count() == 3 && !text(&page, "/next").is_empty(),
        "{page}"
    );
    let all = ask("?property=temperature")?;
    let times: Vec<i64> = api::elements(&all, "/values")
        .map(|value| number(value, "/time"))
        .collect();
    ensure!(times.len() == 50 && times.is_sorted(), "{all}");
    println!("    50 values kept, {removed} made room");
    let newest = times.last().context("times")?;
    let since = ask(&format!("?property=temperature&from={newest}"))?;
    ensure!(api::elements(&since, "/values").count() >= 1, "{since}");
    let refused = process::run(&mut curl(&plant, &format!("{base}?limit=0")))?;
    ensure!(refused.ends_with("400"), "{refused}");

    let mqtt = Client::connect(
        &plant.system.edge,
        mqtt::INTERNAL,
        &["$hw/events/device/+/+/history/get/result"],
    )?;
    let mark = mqtt.mark();
    let question = r#"{"event_id":"h1","property":"temperature","limit":3,"newest":true}"#;
    let topic = format!("$hw/events/device/{}/thermometer-1/history/get", plant.namespace);
    mqtt.publish(&topic, question, QoS::AtLeastOnce)?;
    let told = mqtt.expect("the history over MQTT", mark, seconds(LIMIT), |heard| {
        (text(&heard.json(), "/event_id") == "h1").then(|| heard.json())
    })?;
    ensure!(api::elements(&told, "/values").count() == 3, "{told}");
    plant.end()
}

/// Prints the body and the status.
fn curl(plant: &Plant<'_>, url: &str) -> Command {
    let mut command = plant.system.edge.command("curl");
    command.args(["-s", "-m", "3", "-w", "%{http_code}", url]);
    command
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const EXAMPLES: [&str; 2] = ["virtual-device", "modbus-mapper"];

    fn read(example: &str, file: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("examples");
        let path = path.join(example).join(file);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Cargo gives the program of `src/main.rs` the name of its package.
    #[test]
    fn an_image_holds_and_runs_the_program_that_cargo_builds() {
        for example in EXAMPLES {
            let package = read(example, "Cargo.toml");
            assert!(package.contains(&format!("name = \"{example}\"\n")) && !package.contains("[[bin]]"));
            assert!(read(example, "src/main.rs").contains("fn main()"));
            let file = read(example, "Dockerfile");
            let lines: Vec<&str> = file.lines().filter(|line| !line.starts_with('#')).collect();
            let (copy, run) = (
                format!("COPY {example} /{example}"),
                format!("ENTRYPOINT [\"/{example}\"]"),
            );
            assert_eq!(lines, ["FROM scratch", &copy, &run]);
        }
    }

    #[test]
    fn a_mapper_in_a_container_has_the_paths_of_its_host() {
        for example in EXAMPLES {
            let manifest = config::json(&read(example, "mapper.yaml")).expect("YAML");
            assert_eq!(text(&manifest, "/kind"), "DaemonSet");
            let labels = |at: &str| manifest.pointer(at).cloned().expect("labels");
            assert_eq!(
                labels("/spec/selector/matchLabels"),
                labels("/spec/template/metadata/labels")
            );
            let pod = manifest.pointer("/spec/template/spec").expect("a pod");
            let image = text(pod, "/containers/0/image");
            assert!(
                image.starts_with(&format!("registry.example.com/{example}:")),
                "{image}"
            );
            assert!(pod.pointer("/containers/0/command").is_none(), "the image knows it");
            let folder = text(pod, "/volumes/0/hostPath/path");
            assert_eq!(folder, text(pod, "/containers/0/volumeMounts/0/mountPath"));
            assert_eq!(
                text(pod, "/volumes/0/name"),
                text(pod, "/containers/0/volumeMounts/0/name")
            );
            let sockets = read(example, "src/main.rs")
                .matches(&format!("default_value = \"{folder}/"))
                .count();
            assert_eq!(sockets, 2, "edgecore's socket and its own");
            for document in read(example, "device.yaml").split("\n---\n") {
                let object = config::json(document).expect("YAML");
                assert_eq!(text(&object, "/apiVersion"), "devices.kubeedge.io/v1beta1");
            }
        }
    }
}
