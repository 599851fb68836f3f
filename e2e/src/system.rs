//! The scenario runner: `e2e system [FILTER] [--long]`.
//!
//! Owns the run, the one cluster, cloudcore and edge that scenarios share, and the counting. A scenario leaves the shared
//! system as it found it; after a failure the runner repairs it, or starts a new one.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::api::{self, Api, text};
use crate::cloud::{CloudHost, http_body};
use crate::cluster::{self, Cluster, ControlPlane};
use crate::edge::{EdgeHost, Wire};
use crate::known::{Known, Peer};
use crate::link::Quality;
use crate::process::Daemon;
use crate::run::Run;
use crate::scenarios;
use crate::settings::{Settings, program};
use crate::wait::{self, seconds};

/// The name of the shared edge.
pub const NODE: &str = "edge-1";
/// Seed of the shared edge's link.
const SEED: u64 = 20_261_121;

/// A scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// What `FILTER` is looked for in.
    pub name: &'static str,
    /// Runs only with `--long`.
    pub long: bool,
    /// What it does.
    pub run: fn(&mut Context) -> Result<()>,
}

/// An error that means "cannot be done on this machine".
#[derive(Debug)]
pub struct Skip(pub String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Skip {}

/// What a scenario works with. The fields stop in this order.
pub struct Context {
    system: Option<System>,
    run: Run,
    /// Programs and paths.
    pub settings: Settings,
    /// The long forms are wanted.
    pub long: bool,
}

impl Context {
    /// An empty one.
    pub fn new(settings: &Settings, long: bool) -> Result<Self> {
        Ok(Self {
            system: None,
            run: Run::new(settings)?,
            settings: settings.clone(),
            long,
        })
    }

    /// The run's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.run.folder()
    }

    /// Whether the programs of both sides are ours: then the scenarios also hold them to what only ours promise.
    #[must_use]
    pub fn ours(&self) -> bool {
        std::env::var_os("KE_CLOUD").is_none() && std::env::var_os("KE_EDGE").is_none()
    }

    /// The shared system, started when first needed.
    pub fn system(&mut self) -> Result<&mut System> {
        self.system_with(&ControlPlane::default())
    }

    /// A system whose control plane is special. It takes the place of the shared one, until a scenario asks for another.
    pub fn system_with(&mut self, plane: &ControlPlane) -> Result<&mut System> {
        if self.system.as_ref().is_some_and(|system| system.plane != *plane) {
            self.discard();
        }
        if self.system.is_none() {
            match System::start(&self.settings, self.run.folder(), Wire::Tun(SEED), plane) {
                Ok(system) => self.system = Some(system),
                Err(error) => {
                    self.discard();
                    return Err(error);
                }
            }
        }
        self.system.as_mut().context("was just started")
    }

    /// A control plane alone, in the place of the shared system, until [`Self::discard`].
    pub fn control_plane(&mut self) -> Result<Cluster> {
        self.discard();
        let folder = self.run.folder().join("cluster");
        let started = Cluster::start(&self.settings, &folder, &ControlPlane::default());
        if started.is_err() {
            self.discard();
        }
        started.context("the control plane")
    }

    /// A host that a scenario leaves is stopped with the run only, by a number that may be another's by then.
    fn nothing_left(&self) -> Result<()> {
        let entries = std::fs::read_dir(self.folder().join("edges"));
        for entry in entries.into_iter().flatten().flatten() {
            if entry.file_name() != NODE {
                bail!("its host {} is left", entry.path().display());
            }
        }
        Ok(())
    }

    fn log_tails(&self) -> Vec<(String, String)> {
        self.system.as_ref().map_or_else(Vec::new, |system| {
            let mut all = system.edge.log_tails();
            all.extend(system.cloud.log_tails());
            all
        })
    }

    /// Whose programs run in the shared system: cloud, edge.
    fn peers(&self) -> (Option<Peer>, Option<Peer>) {
        self.system.as_ref().map_or((None, None), |system| {
            (Peer::of_log(&system.cloud.log()), Peer::of_log(&system.edge.log()))
        })
    }

    /// The Node of an edge whose cloudcore was started anew still looks Ready, while that pauses for up to half a minute before it dials:
    /// what the next scenario asks to take a second would begin with that. Where nobody counts there is nothing to wait for.
    fn until_connected(&self) {
        const COUNTS: [&str; 2] = ["KubeEdge_CloudHub_connected_nodes", "cloudcore_tunnel_tunnels"];
        let Some(system) = &self.system else { return };
        let connected = wait::quietly("the edge is connected", seconds(90), || {
            let metrics = http_body(&system.cloud.monitor(), "/metrics").unwrap_or_default();
            let of_count = |line: &&str| COUNTS.iter().any(|count| line.starts_with(count));
            let none = metrics.lines().filter(of_count).any(|line| line.ends_with(" 0"));
            Ok((!none).then_some(()))
        });
        if let Err(error) = connected {
            println!("    before the scenario: {error:#}");
        }
    }

    fn recover(&mut self) {
        let Some(system) = &mut self.system else { return };
        if let Err(error) = system.repair() {
            println!("    the system cannot be repaired, the next scenario gets a new one: {error:#}");
            self.discard();
        }
    }

    /// Stops the shared system and removes its files, whatever state it is in.
    pub fn discard(&mut self) {
        self.system = None;
        let (cloud, cluster) = (self.run.folder().join("cloud"), self.run.folder().join("cluster"));
        crate::cloud::teardown(&cloud);
        if let Err(error) = cluster::teardown(&self.settings, &cluster) {
            eprintln!("e2e: {error:#}");
        }
        for folder in [cloud, cluster] {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

/// A cluster, a cloudcore and an edge. The fields stop in this order.
pub struct System {
    /// The edge.
    pub edge: EdgeHost,
    /// The cloudcore.
    pub cloud: CloudHost,
    /// The control plane.
    pub cluster: Cluster,
    /// How the control plane was asked for.
    plane: ControlPlane,
}

impl System {
    /// Starts all of it below `run` and waits for a Ready node.
    pub fn start(settings: &Settings, run: &Path, wire: Wire, plane: &ControlPlane) -> Result<Self> {
        // Before anything is started for nothing.
        program(&settings.cloud, "cloudcore")?;
        program(&settings.edge, "edgecore")?;
        let cluster = Cluster::start(settings, &run.join("cluster"), plane).context("the control plane")?;
        let mut system = Self::with_cluster(settings, run, wire, cluster, NODE)?;
        system.plane = plane.clone();
        Ok(system)
    }

    /// The same with a cluster that runs already.
    pub fn with_cluster(settings: &Settings, run: &Path, wire: Wire, cluster: Cluster, node: &str) -> Result<Self> {
        let mut cloud = CloudHost::new(settings, run, &cluster)?;
        let edge = EdgeHost::start(settings, run, node, wire).context("the edge host")?;
        cloud.advertise(edge.number().cloud_address());
        cloud.start()?;
        let mut system = Self {
            edge,
            cloud,
            cluster,
            plane: ControlPlane::default(),
        };
        system.join()?;
        Ok(system)
    }

    /// Configures and starts edgecore, and waits until the node is Ready.
    pub fn join(&mut self) -> Result<()> {
        self.edge.write_config(&self.cloud.uplink()?)?;
        self.edge.start_edgecore()?;
        let ready = self.node_ready(seconds(90));
        ready.with_context(|| {
            self.edge
                .log_tails()
                .into_iter()
                .map(|(name, tail)| format!("{name}:\n{tail}"))
                .collect::<String>()
        })
    }

    /// The API.
    #[must_use]
    pub fn api(&self) -> &Api {
        self.cluster.api()
    }

    /// Waits until the edge's node is Ready and its edgecore runs.
    pub fn node_ready(&mut self, limit: Duration) -> Result<()> {
        let path = api::node_path(self.edge.name());
        let api = self.cluster.api().clone();
        let edgecore = self.edge.edgecore()?;
        wait::until("node Ready", limit, || {
            anyhow::ensure!(edgecore.alive(), "edgecore ended");
            Ok(api
                .get(&path)?
                .filter(|node| api::condition(node, "Ready") == "True")
                .map(drop))
        })
    }

    /// Makes a namespace for a scenario and waits until pods can be created in it.
    pub fn namespace(&self, name: &str) -> Result<String> {
        let namespace = format!("{name}{}", mark());
        // A scenario that runs twice in one run may be quicker than the deletion of its first namespace.
        let path = format!("/api/v1/namespaces/{namespace}");
        wait::quietly("the namespace's name", seconds(120), || {
            Ok(self.api().get(&path)?.is_none().then_some(()))
        })?;
        self.api().create(
            "/api/v1/namespaces",
            &serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
        )?;
        let account = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
        let root = format!("/api/v1/namespaces/{namespace}/configmaps/kube-root-ca.crt");
        wait::quietly("the namespace's service account", seconds(60), || {
            Ok(self.api().get(&account)?.and(self.api().get(&root)?))
        })?;
        Ok(namespace)
    }

    /// Removes a scenario's namespace and waits until none of its containers runs and none of its pods exists.
    pub fn clean(&self, namespace: &str) -> Result<()> {
        self.api().delete(&format!("/api/v1/namespaces/{namespace}"))?;
        wait::until("namespace gone from the API and containerd", seconds(120), || {
            let gone = self.edge.running()?.iter().all(|one| one.namespace != namespace);
            Ok((gone && self.pods(namespace)?.is_empty()).then_some(()))
        })
    }

    /// The pods of a namespace.
    pub fn pods(&self, namespace: &str) -> Result<Vec<Value>> {
        self.api().list(&api::pods_path(namespace))
    }

    /// A pod that must exist.
    pub fn pod(&self, namespace: &str, name: &str) -> Result<Value> {
        self.api().must(&format!("{}/{name}", api::pods_path(namespace)))
    }

    /// Waits until a condition on a pod gives a value.
    pub fn until_pod<T>(
        &self,
        what: &str,
        (namespace, name): (&str, &str),
        limit: u64,
        mut look: impl FnMut(&Value) -> Option<T>,
    ) -> Result<T> {
        wait::until(what, seconds(limit), || Ok(look(&self.pod(namespace, name)?)))
    }

    /// Waits until a namespace has exactly `count` pods, all Ready, and containerd runs exactly their containers, once each.
    pub fn converged(&self, what: &str, namespace: &str, count: usize, limit: u64) -> Result<Vec<Value>> {
        wait::until(what, seconds(limit), || self.agree(namespace, count).map(Some))
    }

    /// The pods of a namespace, if there are so many, all Ready, and containerd runs exactly their containers.
    pub fn agree(&self, namespace: &str, count: usize) -> Result<Vec<Value>> {
        let pods = self.pods(namespace)?;
        if pods.len() != count || !pods.iter().all(api::is_ready) {
            bail!(
                "{} of {count} pods are Ready, {} exist",
                pods.iter().filter(|pod| api::is_ready(pod)).count(),
                pods.len()
            );
        }
        self.runs_exactly(namespace, &pods)?;
        Ok(pods)
    }

    /// Whether containerd runs exactly the containers of these pods in a namespace ("" for all), once each.
    pub fn runs_exactly(&self, namespace: &str, pods: &[Value]) -> Result<()> {
        let actual: Vec<String> = self.edge.containers(namespace)?.into_keys().collect();
        let wanted = expected(pods);
        anyhow::ensure!(actual == wanted, "containerd runs {actual:?}, the API wants {wanted:?}");
        Ok(())
    }

    /// Brings everything up that a scenario may have left down.
    pub fn repair(&mut self) -> Result<()> {
        self.cluster.restart()?;
        self.edge.set_link(true)?;
        if let Ok(link) = self.edge.link() {
            link.set(Quality::default());
        }
        self.edge.start_containerd()?;
        if !self.cloud.cloudcore().is_ok_and(Daemon::alive) {
            self.cloud.start()?;
        }
        if !self.edge.edgecore().is_ok_and(Daemon::alive) {
            self.edge.start_edgecore()?;
        }
        self.node_ready(seconds(60))?;
        self.sweep()
    }

    /// Removes what a scenario left: nodes, on which other scenarios' pods would be put, and namespaces, whose names others want.
    fn sweep(&self) -> Result<()> {
        let mark = mark();
        let nodes = self.api().list("/api/v1/nodes")?;
        let strangers = nodes.iter().map(api::name).filter(|name| *name != self.edge.name());
        let namespaces = self.api().list("/api/v1/namespaces")?;
        let left = namespaces.iter().map(api::name).filter(|name| name.ends_with(&mark));
        let paths = strangers
            .map(api::node_path)
            .chain(left.map(|name| format!("/api/v1/namespaces/{name}")));
        for path in paths {
            self.api().delete(&path)?;
        }
        Ok(())
    }
}

/// What the names of this run's namespaces end with.
fn mark() -> String {
    format!("-{:x}", std::process::id())
}

/// The container names that pods should have running, as [`EdgeHost::containers`] gives them, in order.
fn expected(pods: &[Value]) -> Vec<String> {
    let mut names: Vec<String> = pods
        .iter()
        .flat_map(|pod| {
            let pod_name = format!("{}/{}", text(pod, "/metadata/namespace"), api::name(pod));
            api::elements(pod, "/spec/containers").map(move |one| format!("{pod_name}/{}", text(one, "/name")))
        })
        .collect();
    names.sort();
    names
}

/// How a scenario ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It held.
    Passed,
    /// It did not.
    Failed,
    /// This machine cannot run it.
    Skipped,
    /// It failed as `e2e/known` says it does with these programs.
    Known,
}

impl Outcome {
    const WORDS: [(Self, &'static str); 4] = [
        (Self::Passed, "ok"),
        (Self::Failed, "FAILED"),
        (Self::Skipped, "skipped"),
        (Self::Known, "known"),
    ];

    /// The word with which the line begins that tells of it; the scenario's name follows.
    fn word(self) -> &'static str {
        Self::WORDS
            .iter()
            .find(|(one, _)| *one == self)
            .map_or("", |(_, word)| word)
    }

    /// What a printed line tells of a scenario, if it tells that.
    #[must_use]
    pub fn of_line(line: &str, name: &str) -> Option<Self> {
        let (first, rest) = line.split_once(' ')?;
        let outcome = Self::WORDS.iter().find(|(_, word)| *word == first)?.0;
        let after = rest.strip_prefix(name)?;
        (after.starts_with(" (") || after.starts_with(':')).then_some(outcome)
    }
}

/// The outcome of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Scenarios that held.
    pub passed: u32,
    /// Scenarios that did not.
    pub failed: u32,
    /// Scenarios that this machine cannot run.
    pub skipped: u32,
    /// Scenarios that failed as `e2e/known` says they do with these programs.
    pub known: u32,
}

impl Count {
    /// Counts one more.
    pub fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed => self.failed += 1,
            Outcome::Skipped => self.skipped += 1,
            Outcome::Known => self.known += 1,
        }
    }
}

impl std::ops::Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
            known: self.known + other.known,
        }
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )?;
        match self.known {
            0 => Ok(()),
            known => write!(f, ", {known} known"),
        }
    }
}

/// The scenarios whose name contains one of the filters (all, without filters), in their order.
pub fn chosen(filters: &[String], long: bool) -> Result<Vec<Scenario>> {
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let list: Vec<Scenario> = scenarios::all()
        .into_iter()
        .filter(|one| wanted(one.name) && (long || !one.long))
        .collect();
    if list.is_empty() {
        bail!(
            "no scenario is called like {filters:?}{}",
            if long { "" } else { " (without --long)" }
        );
    }
    Ok(list)
}

/// Runs scenarios one after another, as they come.
pub fn run(settings: &Settings, list: impl Iterator<Item = Scenario>, long: bool) -> Result<Count> {
    let known = Known::committed()?;
    let mut context = Context::new(settings, long)?;
    let mut count = Count::default();
    for scenario in list {
        println!("--- {}", scenario.name);
        context.until_connected();
        let start = Instant::now();
        let result = (scenario.run)(&mut context).and_then(|()| context.nothing_left());
        let took = start.elapsed().as_secs_f64();
        let (outcome, why) = match result {
            Ok(()) => (Outcome::Passed, String::new()),
            Err(error) if error.is::<Skip>() => (Outcome::Skipped, format!(": {error:#}")),
            Err(error) => {
                let (cloud, edge) = context.peers();
                let ended = match known.of(scenario.name, cloud.as_ref(), edge.as_ref()) {
                    Some(what) => (Outcome::Known, format!(": {what}: {error:#}")),
                    None => {
                        for (name, tail) in context.log_tails() {
                            println!("----- end of the log of {name}\n{tail}");
                        }
                        (Outcome::Failed, format!(": {error:#}"))
                    }
                };
                context.recover();
                ended
            }
        };
        count.add(outcome);
        println!("{} {} ({took:.1} s){why}", outcome.word(), scenario.name);
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_line_tells_how_its_scenario_ended() {
        let of = |line| Outcome::of_line(line, "link_cut");
        assert_eq!(of("ok link_cut (12.3 s)"), Some(Outcome::Passed));
        assert_eq!(of("FAILED link_cut (1.0 s): no"), Some(Outcome::Failed));
        assert_eq!(of("skipped link_cut (0.0 s): no tun"), Some(Outcome::Skipped));
        assert_eq!(of("ok link_cut_silently (12.3 s)"), None);
        assert_eq!(of("    ok link_cut (12.3 s)"), None);
        assert_eq!(of("--- link_cut"), None);
    }
}
