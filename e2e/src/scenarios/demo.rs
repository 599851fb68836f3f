//! `e2e/demo`, as its user runs it, with a cluster of its own and with somebody's: what it shows, and that nothing of it is left.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{Entry, our_cloud, our_edge};
use crate::api;
use crate::cluster::Cluster;
use crate::edge::NUMBER;
use crate::hosts::HostNumber;
use crate::process;
use crate::run;
use crate::settings::Settings;
use crate::system::{Context, Skip};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[("demo", false, demo)];

/// A variable of all processes of one call of our scripts, and of what they start; each call has another value (`e2e/common.sh`).
const RUN: &str = "KUBEEDGE_E2E_RUN";

/// What our edge says of itself: the Kubernetes and the KubeEdge that it stands for.
const VERSION: &str = "v1.32.10-kubeedge-v1.23.1";

fn demo(context: &mut Context) -> Result<()> {
    let folder = run::base().join(crate::demo::NAME);
    if folder.exists() {
        return Err(Skip("a demo is on this machine: e2e/demo --down".to_owned()).into());
    }
    let ours = our_cloud(context)? && our_edge(context)?;
    let settings = context.settings.clone();
    comes_and_goes(&settings, ours, &[])?;
    ensure!(!folder.exists(), "{} is left", folder.display());
    let said = call(&settings, &["--down"])?;
    ensure!(
        said == "The demo does not run.\n",
        "a second e2e/demo --down said {said:?}"
    );
    let cluster = context.control_plane()?;
    let kubeconfig = cluster.kubeconfig().to_string_lossy().into_owned();
    let outcome = comes_and_goes(&settings, ours, &["--kubeconfig", &kubeconfig])
        .and_then(|()| has_nothing_of_it(&cluster, ours));
    context.discard();
    outcome
}

/// Up, up once more, down: nothing of it is left on the machine.
fn comes_and_goes(settings: &Settings, ours: bool, arguments: &[&str]) -> Result<()> {
    let before = Machine::look()?;
    let shown = shows_a_system(settings, ours, arguments).and_then(|()| {
        let said = call(settings, &[])?;
        ensure!(
            said.starts_with("The demo runs already.\n") && said.contains("export KUBECONFIG="),
            "a second e2e/demo said {said:?}"
        );
        Ok(())
    });
    let hosts = hosts();
    let down = call(settings, &["--down"]);
    shown?;
    ensure!(!hosts.is_empty(), "the demo's edge has no host");
    let said = down?;
    ensure!(said.ends_with("The demo is gone.\n"), "e2e/demo --down said {said:?}");
    wait::until("nothing of the demo is left", seconds(20), || {
        let left = Machine::look()?.since(&before, &hosts);
        ensure!(left.is_empty(), "e2e/demo --down left {left:#?}");
        Ok(Some(()))
    })
}

/// The script; the programs are there, as this one is.
fn call(settings: &Settings, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(settings.root.join("e2e/demo"));
    command.env("KUBEEDGE_E2E_BUILT", "1").env(RUN, own_run());
    process::run(command.args(arguments))
}

/// The value of [`RUN`] that the demo's processes have.
fn own_run() -> OsString {
    std::env::var_os(RUN).unwrap_or_else(|| std::process::id().to_string().into())
}

/// The names of the demo's hosts, while it is there.
fn hosts() -> BTreeSet<String> {
    let edges = std::fs::read_dir(run::base().join(crate::demo::NAME).join("edges"));
    let edges = edges.into_iter().flatten().flatten();
    let numbers = edges.filter_map(|edge| HostNumber::read(&edge.path().join(NUMBER)).ok());
    numbers.map(HostNumber::netns).collect()
}

/// It ends with the node Ready, the Deployment running, its page fetched and the device's value in the API; the API agrees.
fn shows_a_system(settings: &Settings, ours: bool, arguments: &[&str]) -> Result<()> {
    let said = call(settings, arguments)?;
    let line = |start: &str| {
        let found = said.lines().find(|line| line.starts_with(start));
        found.with_context(|| format!("no line of e2e/demo begins with {start:?}:\n{said}"))
    };
    let node = line("node/edge-1 ")?;
    let words: Vec<&str> = node.split_whitespace().collect();
    ensure!(
        words.get(1..3) == Some(&["Ready", "agent,edge"]) && (!ours || words.contains(&VERSION)),
        "{node}"
    );
    let deployment = line("deployment.apps/hello-edge ")?;
    ensure!(deployment.split_whitespace().nth(1) == Some("1/1"), "{deployment}");
    let pod = line("pod/hello-edge-")?;
    ensure!(pod.split_whitespace().skip(1).take(2).eq(["1/1", "Running"]), "{pod}");
    let page = line("The pod's page, http://")?;
    ensure!(page.ends_with("says: hello one"), "{page}");
    let device = line("thermometer-1 ")?;
    let shown = device.split_whitespace().skip(1).take(2);
    ensure!(shown.eq(["temperature", "21.5"]), "{device}");
    let kubeconfig = line("export KUBECONFIG=")?;
    let kubeconfig = kubeconfig.split_once('=').map_or("", |(_, file)| file);
    has_all_of_it(&Cluster::existing(settings, Path::new(kubeconfig))?)
}

/// The Deployment's pod has a ConfigMap, a Secret and a probe.
fn has_all_of_it(cluster: &Cluster) -> Result<()> {
    let pods = cluster.api().list(&api::pods_path("default"))?;
    let [pod] = pods.as_slice() else {
        anyhow::bail!("the demo has {} pods", pods.len());
    };
    ensure!(api::is_ready(pod), "the demo's pod is not Ready");
    let has = |list: &str, part: &str| api::elements(pod, list).any(|one| one.pointer(part).is_some());
    ensure!(
        has("/spec/volumes", "/configMap")
            && has("/spec/volumes", "/secret")
            && has("/spec/containers", "/readinessProbe/httpGet"),
        "the demo's pod is {pod}"
    );
    Ok(())
}

/// Somebody's cluster has nothing of the demo but what that says it leaves.
fn has_nothing_of_it(cluster: &Cluster, ours: bool) -> Result<()> {
    const DEVICES: &str = "/apis/devices.kubeedge.io/v1beta1/namespaces/default";
    // Kubernetes puts this one into each namespace.
    const ROOT: &str = "kube-root-ca.crt";
    let lists = [
        "/api/v1/nodes".to_owned(),
        "/apis/apps/v1/namespaces/default/deployments".to_owned(),
        "/api/v1/namespaces/default/secrets".to_owned(),
        "/api/v1/namespaces/default/configmaps".to_owned(),
        api::pods_path("default"),
        format!("{DEVICES}/devices"),
        format!("{DEVICES}/devicemodels"),
    ];
    // Kubernetes removes it, behind its device, with the owner that our cloudcore writes into it.
    let statuses = ours.then(|| format!("{DEVICES}/devicestatuses"));
    wait::until("nothing of the demo is in the cluster", seconds(120), || {
        for list in lists.iter().chain(&statuses) {
            let objects = cluster.api().list(list)?;
            let left: Vec<&str> = objects.iter().map(api::name).filter(|name| *name != ROOT).collect();
            ensure!(left.is_empty(), "{list}: {left:?}");
        }
        Ok(Some(()))
    })
}

/// What a machine has that a demo could leave; of processes, interfaces and rules those of this network namespace, and processes of
/// network namespaces that are new. What belongs to another run on the machine is not looked at.
struct Machine {
    network: PathBuf,
    /// By pid and start, their network namespace and name.
    processes: BTreeMap<(u32, String), (PathBuf, String)>,
    things: BTreeSet<String>,
}

impl Machine {
    fn look() -> Result<Self> {
        let mut things = BTreeSet::new();
        let mut add = |kind: &str, lines: &str| things.extend(lines.lines().map(|line| format!("{kind} {line}")));
        add("network namespace", &process::call("ip", &["netns"])?);
        add("interface", &interfaces()?);
        add("mount", &mounts()?);
        add("cgroup", &cgroups().join("\n"));
        add("rule", &rules());
        Ok(Self {
            network: std::fs::read_link("/proc/self/ns/net")?,
            processes: processes()?,
            things,
        })
    }

    /// What is here and was not before; `hosts` are the demo's.
    fn since(&self, before: &Self, hosts: &BTreeSet<String>) -> Vec<String> {
        let things = self.things.difference(&before.things);
        let things = things.filter(|thing| !is_of_other_host(thing, hosts)).cloned();
        let known: BTreeSet<&PathBuf> = before.processes.values().map(|(network, _)| network).collect();
        let processes = self.processes.iter().filter(|(id, (network, _))| {
            !before.processes.contains_key(*id) && (*network == self.network || !known.contains(network))
        });
        let processes = processes.map(|((pid, _), (_, name))| format!("process {pid} {name}"));
        things.chain(processes).collect()
    }
}

fn processes() -> Result<BTreeMap<(u32, String), (PathBuf, String)>> {
    let own = own_run();
    let pids = std::fs::read_dir("/proc")?.flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // One that ends meanwhile, or has ended and is not waited for, has no network any more.
    let found = pids.filter_map(|pid| {
        let started = run::start_time(pid)?;
        let network = std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        if is_of_other_run(pid, &own)? {
            return None;
        }
        Some(((pid, started), (network, name.trim_end().to_owned())))
    });
    Ok(found.collect())
}

/// Whether a process is of another call of our scripts than `own`: by its environment or, as what runs in a pod has not got that, by that of
/// the nearest process it descends from that has. None when one of them has ended meanwhile.
fn is_of_other_run(pid: u32, own: &OsStr) -> Option<bool> {
    let mut at = pid;
    while at > 1 {
        let environment = std::fs::read(format!("/proc/{at}/environ")).ok()?;
        let mut variables = environment.split(|byte| *byte == 0);
        let run = variables.find_map(|variable| variable.strip_prefix(RUN.as_bytes())?.strip_prefix(b"="));
        if let Some(run) = run {
            return Some(run != own.as_bytes());
        }
        let stat = std::fs::read_to_string(format!("/proc/{at}/stat")).ok()?;
        at = stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()?;
    }
    Some(false)
}

/// Whether a thing has the name of a host that is not the demo's: of another edge, or of an ordinary node, of which the demo has none.
fn is_of_other_host(thing: &str, hosts: &BTreeSet<String>) -> bool {
    let mut words = thing.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-');
    words.any(|word| word.starts_with("testnode-") || (word.starts_with("ke2e-") && !hosts.contains(word)))
}

/// All but the folder of network namespaces, which `ip netns` mounts once and for good.
fn mounts() -> Result<String> {
    let all = std::fs::read_to_string("/proc/self/mounts")?;
    let lines = all.lines().filter(|line| line.split(' ').nth(1) != Some("/run/netns"));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// Their names.
fn interfaces() -> Result<String> {
    let lines = process::call("ip", &["-o", "link"])?;
    let names = lines.lines().filter_map(|line| line.split(": ").nth(1));
    Ok(names.collect::<Vec<_>>().join("\n"))
}

/// Those below the root of each hierarchy, where an edge and an ordinary node have theirs.
fn cgroups() -> Vec<String> {
    let root = Path::new("/sys/fs/cgroup");
    let folders = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    };
    let all = if root.join("cgroup.controllers").exists() {
        folders(root)
    } else {
        folders(root).iter().flat_map(|folder| folders(folder)).collect()
    };
    all.iter().map(|path| path.display().to_string()).collect()
}

/// All rules, and the chains and tables that somebody made.
fn rules() -> String {
    let is_own = |line: &&str| match line.split(' ').collect::<Vec<_>>()[..] {
        ["-A", ..] | [_, "-", _] => true,
        ["table", _, name] => !["filter", "nat", "mangle", "raw", "security"].contains(&name),
        _ => false,
    };
    let listings: [(&str, &[&str]); 4] = [
        ("iptables-save", &[]),
        ("iptables-legacy-save", &[]),
        ("ip6tables-save", &[]),
        ("nft", &["list", "tables"]),
    ];
    let mut rules = Vec::new();
    for (program, arguments) in listings {
        // Not every machine has all of them, nor every kernel what they list.
        let text = process::call(program, arguments).unwrap_or_default();
        // After a chain's name comes what counts its packets.
        let lines = text
            .lines()
            .filter(is_own)
            .map(|line| line.split(" - [").next().unwrap_or(line));
        rules.extend(lines.map(|line| format!("{program}: {line}")));
    }
    rules.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_of_another_run_has_is_not_the_demos() {
        let hosts = ["ke2e-1".to_owned()].into();
        for (thing, others) in [
            ("network namespace ke2e-1", false),
            ("network namespace ke2e-12 (id: 3)", true),
            ("mount nsfs /run/netns/ke2e-2 nsfs rw 0 0", true),
            ("cgroup /sys/fs/cgroup/pids/ke2e-1", false),
            ("cgroup /sys/fs/cgroup/testnode-ab12", true),
            ("mount tmpfs /mnt tmpfs rw 0 0", false),
        ] {
            assert_eq!(is_of_other_host(thing, &hosts), others, "{thing}");
        }
    }
}
