//! `e2e bench`: the marks, each a line `name value unit` with the number of runs and the check that it was real: Ready in the
//! API *and* running in containerd, or the other way round.
//!
//! Memory is VmRSS in units of 10^6 bytes, 60 s after the last change. Times are those of a client of the API.

mod channels;
mod devices;
mod link;
mod recover;
mod runtime;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use crate::api;
use crate::cluster::ControlPlane;
use crate::edge::{BUSYBOX, EdgeHost, Wire};
use crate::fleet::Fleet;
use crate::process;
use crate::run::Run;
use crate::settings::{Settings, program};
use crate::system::System;
use crate::wait::{self, pause};

/// Time between the last change and a look at memory.
const SETTLE: Duration = Duration::from_secs(60);
/// Time over which CPU use is taken.
const CPU_WINDOW: Duration = Duration::from_secs(60);
/// Longest wait for anything that is measured.
const LIMIT: Duration = Duration::from_secs(180);
const CUT: Duration = Duration::from_secs(42);
const MANY: usize = 30;
const NODE_LIMITS: [u32; 3] = [500, 10_000, 100_000];
/// Simulated edges, and what they are divided by.
const FLEET: usize = 2_000;
const FLEET_DIVISOR: f64 = 2_000.0;

/// All marks, in the order they are taken.
pub const NAMES: &[&str] = &[
    "edgecore-size",
    "cloudcore-size",
    "keadm-size",
    "register",
    "pod-start",
    "edgecore-rss",
    "pods-30",
    "edgecore-rss-30",
    "edge-idle-cpu",
    "delete-30",
    "exec",
    "logs",
    "exec-in",
    "exec-out",
    "twin-answer",
    "twin-api",
    "twin-load",
    "recover",
    "recover@silent",
    "link",
    "cloudcore-rss",
    "accept-cpu",
    "edge-cost",
    "idle-cpu",
];

/// One measured value.
#[derive(Clone, Debug)]
struct Mark {
    name: String,
    value: f64,
    unit: &'static str,
    note: String,
}

/// Takes the marks of these names (all, without) and prints them; with `peer` also those of the programs found there.
pub fn run(settings: &Settings, names: &[String], peer: Option<&Path>) -> Result<()> {
    if let Some(unknown) = names.iter().find(|name| !NAMES.contains(&name.as_str())) {
        bail!("there is no mark {unknown}; there are: {}", NAMES.join(" "));
    }
    let wanted = |name: &str| names.is_empty() || names.iter().any(|one| one == name);
    let ours = measure(settings, &wanted)?;
    let theirs = match peer {
        Some(folder) => {
            let folder = std::fs::canonicalize(folder).with_context(|| format!("{}", folder.display()))?;
            measure(&settings.with_programs(&folder), &wanted)?
        }
        None => Vec::new(),
    };
    println!();
    for mark in &ours {
        let mut line = format!("{} {:.4} {}", mark.name, mark.value, mark.unit);
        if let Some(other) = theirs.iter().find(|other| other.name == mark.name) {
            line.push_str(&format!(
                " peer={:.4} ratio={:.3}",
                other.value,
                mark.value / other.value
            ));
        }
        println!("{line} {}", mark.note);
    }
    Ok(())
}

fn measure(settings: &Settings, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Mark>> {
    println!("cloud: {}\nedge: {}", settings.cloud.display(), settings.edge.display());
    let mut marks = Vec::new();
    for (name, folder, file) in [
        ("edgecore-size", &settings.edge, "edgecore"),
        ("cloudcore-size", &settings.cloud, "cloudcore"),
        ("keadm-size", &settings.edge, "keadm"),
    ] {
        if wanted(name) {
            let path = program(folder, file)?;
            let size = std::fs::metadata(&path)?.len();
            // Exact: programs are far smaller than 2^53 bytes.
            #[allow(clippy::cast_precision_loss)]
            let value = size as f64 / 1e6;
            marks.push(Mark {
                name: name.to_owned(),
                value,
                unit: "MB",
                note: format!("{size} bytes"),
            });
        }
    }
    if NAMES.iter().any(|name| !name.ends_with("-size") && wanted(name)) {
        let run = Run::new(settings)?;
        let mut bench = Bench {
            system: System::start(settings, run.folder(), Wire::Veth, &ControlPlane::default())?,
            marks,
        };
        bench.take(settings, run.folder(), wanted)?;
        marks = bench.marks;
    }
    Ok(marks)
}

struct Bench {
    system: System,
    marks: Vec<Mark>,
}

impl Bench {
    fn push(&mut self, name: &str, value: f64, unit: &'static str, note: String) {
        println!("  {name} {value:.4} {unit} {note}");
        self.marks.push(Mark {
            name: name.to_owned(),
            value,
            unit,
            note,
        });
    }

    fn take(&mut self, settings: &Settings, run: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
        if wanted("register") {
            self.register(settings, run)?;
        }
        if wanted("pod-start") {
            self.pod_start()?;
        }
        if wanted("edgecore-rss") {
            let namespace = self.system.namespace("one")?;
            self.create(&namespace, 1)?;
            self.running(&namespace, 1)?;
            self.memory("edgecore-rss", "1 pod")?;
            self.delete(&namespace)?;
            self.system.clean(&namespace)?;
        }
        if ["pods-30", "edgecore-rss-30", "edge-idle-cpu", "delete-30"]
            .into_iter()
            .any(wanted)
        {
            self.many(wanted)?;
        }
        if channels::NAMES.into_iter().any(wanted) {
            self.channels(settings, run, wanted)?;
        }
        if devices::NAMES.into_iter().any(wanted) {
            self.devices(settings, wanted)?;
        }
        if wanted(recover::BY_INTERFACE) {
            self.recover()?;
        }
        if wanted(recover::SILENTLY) {
            self.recover_silently(settings, run)?;
        }
        if wanted("link") {
            self.link(settings, run)?;
        }
        if wanted("cloudcore-rss") {
            self.cloudcore_memory()?;
        }
        if ["accept-cpu", "edge-cost", "idle-cpu"].into_iter().any(wanted) {
            self.fleet(wanted)?;
        }
        Ok(())
    }

    /// Start of an edgecore that has a token and nothing else, until its node is Ready.
    fn register(&mut self, settings: &Settings, run: &Path) -> Result<()> {
        const RUNS: u32 = 5;
        let mut times = Vec::new();
        for number in 0..RUNS {
            let name = format!("fresh-{number}");
            let mut edge = EdgeHost::start(settings, run, &name, Wire::Veth)?;
            if self.system.cloud.advertise(edge.number().cloud_address()) {
                self.system.cloud.stop()?;
                self.system.cloud.start()?;
            }
            edge.write_config(&self.system.cloud.uplink()?)?;
            let path = api::node_path(&name);
            ensure!(
                self.system.api().get(&path)?.is_none(),
                "the node {name} exists before its edge"
            );
            let start = Instant::now();
            edge.start_edgecore()?;
            let ready = wait::quietly(&format!("node {name} Ready"), LIMIT, || {
                Ok(self
                    .system
                    .api()
                    .get(&path)?
                    .filter(|node| api::condition(node, "Ready") == "True")
                    .map(drop))
            });
            ready.with_context(|| edge.log_tails().into_iter().map(|(_, tail)| tail).collect::<String>())?;
            times.push(start.elapsed().as_secs_f64());
            drop(edge);
            self.system.api().delete(&path)?;
        }
        let note = format!("runs={RUNS} median of {}", list(&times));
        self.push("register", median(&times), "s", note);
        Ok(())
    }

    /// A pod created until it is Ready, one after the other.
    fn pod_start(&mut self) -> Result<()> {
        let times = self.pod_starts(&self.system.edge)?;
        let note = format!("runs={} median of {}, each in containerd", times.len(), list(&times));
        self.push("pod-start", median(&times), "s", note);
        Ok(())
    }

    fn pod_starts(&self, edge: &EdgeHost) -> Result<Vec<f64>> {
        const RUNS: usize = 8;
        let namespace = self.system.namespace("start")?;
        let mut times = Vec::new();
        for number in 0..RUNS {
            let start = Instant::now();
            let name = format!("pod-{number}");
            self.system
                .api()
                .create(&api::pods_path(&namespace), &idle_pod(&name, edge.name()))?;
            let path = format!("{}/{name}", api::pods_path(&namespace));
            wait::quietly(&format!("{name} Ready"), LIMIT, || {
                Ok(self.system.api().get(&path)?.filter(api::is_ready).map(drop))
            })?;
            times.push(start.elapsed().as_secs_f64());
            edge.container(&namespace, &name, "main")
                .context("Ready, yet not in containerd")?;
        }
        self.delete(&namespace)?;
        self.system.clean(&namespace)?;
        Ok(times)
    }

    /// Thirty pods at once: start, memory, idle CPU, deletion; then what the runtime alone needs for as many.
    fn many(&mut self, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
        let namespace = self.system.namespace("many")?;
        let start = Instant::now();
        self.create(&namespace, MANY)?;
        let started = self.running(&namespace, MANY)?.duration_since(start).as_secs_f64();
        if wanted("edgecore-rss-30") {
            self.memory("edgecore-rss-30", "30 pods")?;
        }
        if wanted("edge-idle-cpu") {
            if !wanted("edgecore-rss-30") {
                pause(SETTLE);
            }
            let pid = self.system.edge.edgecore()?.pid();
            let (from, start) = (process::cpu_seconds(pid)?, Instant::now());
            pause(CPU_WINDOW);
            let cores = (process::cpu_seconds(pid)? - from) / start.elapsed().as_secs_f64();
            ensure!(
                self.system.edge.containers(&namespace)?.len() == MANY,
                "not all of the pods still run"
            );
            self.push(
                "edge-idle-cpu",
                cores,
                "cores",
                format!("over {} s with 30 pods", CPU_WINDOW.as_secs()),
            );
        }
        let start = Instant::now();
        self.delete(&namespace)?;
        let deleted = start.elapsed().as_secs_f64();
        self.system.clean(&namespace)?;
        if !wanted("pods-30") && !wanted("delete-30") {
            return Ok(());
        }
        let alone = self.runtime_alone()?;
        for (name, took, alone, check) in [
            (
                "pods-30",
                started,
                alone.start,
                "all Ready in the API and in containerd",
            ),
            (
                "delete-30",
                deleted,
                alone.delete,
                "none left in the API nor in containerd",
            ),
        ] {
            if wanted(name) {
                let note = format!("runs=1 {check} runtime-alone={alone:.2} times={:.2}", took / alone);
                self.push(name, took, "s", note);
            }
        }
        Ok(())
    }

    /// The median of three runs; edgecore stands still meanwhile, so that it neither works nor removes what it does not know.
    fn runtime_alone(&mut self) -> Result<runtime::Alone> {
        const RUNS: usize = 3;
        self.system.edge.stop_edgecore()?;
        let edge = &self.system.edge;
        let (cgroup, folder) = (edge.number().cgroup(), edge.folder().join("alone"));
        let runs = (0..RUNS)
            .map(|_| runtime::alone(&edge.socket(), &cgroup, &folder, MANY))
            .collect::<Result<Vec<_>>>()?;
        println!("  the runtime alone: {runs:?}");
        self.system.edge.start_edgecore()?;
        self.system.node_ready(LIMIT)?;
        let of = |part: fn(&runtime::Alone) -> f64| median(&runs.iter().map(part).collect::<Vec<_>>());
        Ok(runtime::Alone {
            start: of(|run| run.start),
            delete: of(|run| run.delete),
        })
    }

    fn cloudcore_memory(&mut self) -> Result<()> {
        self.system.edge.stop_edgecore()?;
        for limit in NODE_LIMITS {
            self.system.cloud.stop()?;
            self.system.cloud.set_node_limit(limit);
            self.system.cloud.start()?;
            pause(SETTLE);
            let value = process::resident_mb(self.system.cloud.cloudcore()?.pid())?;
            self.push(
                &format!("cloudcore-rss@{limit}"),
                value,
                "MB",
                "no edge connected".to_owned(),
            );
        }
        Ok(())
    }

    /// What edges that do nothing cost the cloud.
    fn fleet(&mut self, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
        self.system.edge.stop_edgecore()?;
        self.system.cloud.stop()?;
        self.system.cloud.set_node_limit(10_000);
        self.system.cloud.start()?;
        pause(SETTLE / 4);
        let pid = self.system.cloud.cloudcore()?.pid();
        let cloud = self.system.cloud.authority()?;
        let (memory, cpu) = (process::resident_mb(pid)?, process::cpu_seconds(pid)?);
        let fleet = Fleet::connect(&cloud, FLEET)?;
        if wanted("accept-cpu") {
            let value = (process::cpu_seconds(pid)? - cpu) * 1e3 / FLEET_DIVISOR;
            let note = format!("edges={FLEET}, TLS, upgrade, a keepalive and a ping each");
            self.push("accept-cpu", value, "ms", note);
        }
        if wanted("edge-cost") || wanted("idle-cpu") {
            pause(SETTLE);
        }
        if wanted("edge-cost") {
            let value = (process::resident_mb(pid)? - memory) * 1e3 / FLEET_DIVISOR;
            let note = format!("edges={} connected, of {memory:.1} MB before", fleet.connected());
            self.push("edge-cost", value, "KB", note);
        }
        if wanted("idle-cpu") {
            let (from, start) = (process::cpu_seconds(pid)?, Instant::now());
            pause(CPU_WINDOW);
            let cores = (process::cpu_seconds(pid)? - from) / start.elapsed().as_secs_f64();
            let note = format!("over {} s with {} edges", CPU_WINDOW.as_secs(), fleet.connected());
            self.push("idle-cpu", cores, "cores", note);
        }
        ensure!(
            fleet.connected() == FLEET,
            "only {} of {FLEET} edges are still connected",
            fleet.connected()
        );
        Ok(())
    }

    fn memory(&mut self, name: &str, what: &str) -> Result<()> {
        pause(SETTLE);
        let daemon = self.system.edge.edgecore()?;
        ensure!(daemon.alive(), "edgecore ended:\n{}", daemon.tail());
        let value = process::resident_mb(daemon.pid())?;
        self.push(
            name,
            value,
            "MB",
            format!("{what}, {} s after the last change", SETTLE.as_secs()),
        );
        Ok(())
    }

    fn create(&self, namespace: &str, count: usize) -> Result<()> {
        for number in 0..count {
            let pod = idle_pod(&format!("pod-{number}"), self.system.edge.name());
            self.system.api().create(&api::pods_path(namespace), &pod)?;
        }
        Ok(())
    }

    /// Waits until all run; the moment is that of the API's last Ready.
    fn running(&self, namespace: &str, count: usize) -> Result<Instant> {
        let mut pods = self.system.api().follow(&api::pods_path(namespace))?;
        pods.until(&format!("{count} pods Ready"), LIMIT, |pods| {
            pods.values().filter(|pod| api::is_ready(pod)).count() == count
        })?;
        let at = Instant::now();
        let running = self.system.edge.containers(namespace)?.len();
        ensure!(
            running == count,
            "{count} pods are Ready, containerd runs {running} containers"
        );
        Ok(at)
    }

    fn delete(&self, namespace: &str) -> Result<()> {
        let path = api::pods_path(namespace);
        let mut pods = self.system.api().follow(&path)?;
        self.system.api().delete(&path)?;
        pods.until("all pods gone", LIMIT, BTreeMap::is_empty)?;
        wait::quietly("all containers gone", LIMIT, || {
            let left = self.system.edge.running()?.iter().any(|one| one.namespace == namespace);
            Ok((!left).then_some(()))
        })
    }
}

/// What the pods of the marks run: it does nothing, and ends at once when asked to.
const IDLE: [&str; 3] = ["sh", "-c", "trap 'exit 0' TERM; sleep 1000000 & wait"];

fn idle_pod(name: &str, node: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "nodeName": node, "terminationGracePeriodSeconds": 1, "tolerations": [{"operator": "Exists"}],
        "containers": [{"name": "main", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent",
            "command": IDLE}]}})
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    if sorted.len() % 2 == 1 {
        at(middle)
    } else {
        f64::midpoint(at(middle.saturating_sub(1)), at(middle))
    }
}

fn list(values: &[f64]) -> String {
    values
        .iter()
        .map(|value| format!("{value:.2}"))
        .collect::<Vec<_>>()
        .join("/")
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn median_of_odd_and_even_counts() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }
}
