//! What a node tells of its use, and what it keeps from filling its disk: /stats/summary, /metrics/*, `kubectl top`, rotated logs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Entry, bare};
use crate::api::{self, number, text};
use crate::cluster::{ControlPlane, free_ports};
use crate::edge::Keys;
use crate::process::{self, Daemon};
use crate::system::{Context, Skip, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[
    ("usage_told", false, told),
    ("log_rotation", false, rotation),
    ("kubectl_top", false, top),
];

/// The real kubelet beside the edge.
const KUBELET: &str = "kubelet-usage";
/// Uses a fifth of a processor and 24 MiB.
const BUSY: &str = r#"    command: [sh, -c, "dd if=/dev/zero of=/memory/block bs=1M count=24 2>/dev/null; while :; do :; done"]
    resources: {limits: {cpu: 200m, memory: 64Mi}}
    volumeMounts: [{name: memory, mountPath: /memory}, {name: disk, mountPath: /disk}]
    livenessProbe: {exec: {command: ["true"]}, periodSeconds: 1, timeoutSeconds: 10}"#;
const VOLUMES: &str = r#"  volumes:
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: disk, emptyDir: {}}"#;

/// The numbers of a pod whose use is known are right, and their forms are those of a real kubelet.
fn told(context: &mut Context) -> Result<()> {
    let ours = context.ours();
    let system = context.system()?;
    system.cluster.start_node(KUBELET)?;
    let outcome = tell(system, ours);
    system.cluster.stop_node(KUBELET)?;
    outcome
}

fn tell(system: &System, ours: bool) -> Result<()> {
    let namespace = system.namespace("usage")?;
    for (name, node) in [("edge", system.edge.name()), ("cloud", KUBELET)] {
        system.cluster.apply(&namespace, &bare(name, node, VOLUMES, BUSY))?;
    }
    for name in ["edge", "cloud"] {
        system.until_pod("pod Running", (&namespace, name), 60, |pod| {
            api::is_ready(pod).then_some(())
        })?;
    }
    let edge = |path: &str| system.edge.fetch(&format!("http://127.0.0.1:10350{path}"));
    let kubelet = |path: &str| {
        let path = format!("/api/v1/nodes/{KUBELET}/proxy{path}");
        system.cluster.kubectl(&["get", "--raw", &path])
    };

    let summary = wait::until("the pod's use in /stats/summary", seconds(60), || {
        let summary: Value = serde_json::from_str(&edge("/stats/summary")?)?;
        let pod = pod_of(&summary, &namespace, "edge").context("the pod is not there")?;
        let rate = number(pod, "/containers/0/cpu/usageNanoCores");
        let memory = number(pod, "/containers/0/memory/workingSetBytes");
        ensure!(
            (50_000_000..400_000_000).contains(&rate) && (24 << 20..40 << 20).contains(&memory),
            "{rate} billionths of a processor, {memory} bytes"
        );
        Ok(Some(summary))
    })?;
    let node = &summary["node"];
    ensure!(text(node, "/nodeName") == system.edge.name(), "{node}");
    for path in [
        "/memory/workingSetBytes",
        "/fs/capacityBytes",
        "/cpu/usageCoreNanoSeconds",
        "/network/rxBytes",
    ] {
        ensure!(number(node, path) > 0, "node{path} is not told: {node}");
    }
    let pod = pod_of(&summary, &namespace, "edge").context("the pod")?;
    ensure!(
        number(pod, "/network/interfaces/0/rxBytes") > 0 || !ours,
        "the pod's network: {pod}"
    );

    // Everything that a kubelet tells is there, under its name.
    for path in ["/stats/summary", "/stats/summary?only_cpu_and_memory=true"] {
        let missing = wait::until("what a kubelet tells", seconds(30), || {
            let (edge, kubelet) = (edge(path)?, kubelet(path)?);
            let fields = |text: &str, name: &str| -> Result<BTreeSet<String>> {
                let summary: Value = serde_json::from_str(text)?;
                let mut fields = BTreeSet::new();
                collect(&summary["node"], "node", &mut fields);
                collect(
                    pod_of(&summary, &namespace, name).context("the pod")?,
                    "pod",
                    &mut fields,
                );
                Ok(fields)
            };
            let (edge, kubelet) = (fields(&edge, "edge")?, fields(&kubelet, "cloud")?);
            let missing: Vec<String> = kubelet.difference(&edge).cloned().collect();
            // The pods' volumes are measured by a kubelet once a minute.
            Ok(Some(missing))
        })?;
        ensure!(missing.is_empty(), "{path}: a kubelet tells {missing:?}, too");
    }
    for path in ["/metrics/resource", "/metrics/probes"] {
        let (edge, kubelet) = (series(&edge(path)?), series(&kubelet(path)?));
        let missing: Vec<_> = kubelet
            .difference(&edge)
            .filter(|name| !name.starts_with("process_"))
            .collect();
        ensure!(missing.is_empty(), "{path}: a kubelet tells {missing:?}, too");
    }
    let cadvisor = edge("/metrics/cadvisor")?;
    for name in [
        "container_cpu_usage_seconds_total",
        "container_memory_working_set_bytes",
        "container_network_receive_bytes_total",
        "machine_memory_bytes",
    ] {
        ensure!(
            series(&cadvisor).iter().any(|one| one.starts_with(name)),
            "/metrics/cadvisor has no {name}"
        );
    }
    system.clean(&namespace)
}

fn pod_of<'a>(summary: &'a Value, namespace: &str, name: &str) -> Option<&'a Value> {
    let mut pods = api::elements(summary, "/pods");
    pods.find(|pod| text(pod, "/podRef/namespace") == namespace && text(pod, "/podRef/name") == name)
}

/// The paths of all fields.
fn collect(value: &Value, path: &str, fields: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(key, value)| collect(value, &format!("{path}.{key}"), fields)),
        Value::Array(all) => all.iter().for_each(|value| collect(value, path, fields)),
        _ => {
            fields.insert(path.to_owned());
        }
    }
}

/// Names of series with the names of their labels, and whether they have a time.
fn series(text: &str) -> BTreeSet<String> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (series, rest) = line
                .rsplit_once('}')
                .unwrap_or_else(|| line.split_once(' ').unwrap_or((line, "")));
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let mut labels: Vec<&str> = labels
                .split("\",")
                .filter_map(|label| Some(label.split_once('=')?.0))
                .collect();
            labels.sort_unstable();
            let timed = rest.split_whitespace().count() == 2;
            format!("{name}{labels:?}{timed}")
        })
        .collect()
}

/// What an API server needs to speak to metrics-server for its users.
const AGGREGATION: [&str; 6] = [
    "--requestheader-client-ca-file=PKI/ca.crt",
    "--requestheader-username-headers=X-Remote-User",
    "--requestheader-group-headers=X-Remote-Group",
    "--requestheader-extra-headers-prefix=X-Remote-Extra-",
    "--proxy-client-cert-file=PKI/admin.crt",
    "--proxy-client-key-file=PKI/admin.key",
];

/// `kubectl top` of the node and of a pod that uses a fifth of a processor, by a real metrics-server that asks the edge through the
/// tunnel.
fn top(context: &mut Context) -> Result<()> {
    let program = context.settings.metrics_server.clone();
    if !program.is_file() {
        return Err(Skip("e2e/setup could not build metrics-server".to_owned()).into());
    }
    let folder = context.folder().join("metrics-server");
    std::fs::create_dir_all(&folder)?;
    let plane = ControlPlane {
        flags: AGGREGATION.map(str::to_owned).into(),
        ..ControlPlane::default()
    };
    let system = context.system_with(&plane)?;
    let (address, port) = (system.edge.number().cloud_address(), free_ports(14443, 1, 1)?);
    system.cluster.apply("kube-system", &aggregated(&address, port))?;
    let kubeconfig = system.cluster.kubeconfig().display().to_string();
    let mut command = Command::new(program);
    for flag in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
        command.arg(format!("--{flag}={kubeconfig}"));
    }
    command
        .arg(format!("--secure-port={port}"))
        .arg(format!("--cert-dir={}", folder.display()))
        .args([
            "--kubelet-insecure-tls",
            "--kubelet-use-node-status-port",
            "--kubelet-preferred-address-types=InternalIP",
        ])
        .args(["--metric-resolution=10s", "--kubelet-request-timeout=8s"]);
    let mut server = Daemon::start(&folder, "metrics-server", &mut command)?;
    let outcome = look_at_top(system).with_context(|| format!("metrics-server:\n{}", server.tail()));
    server.stop(seconds(20))?;
    outcome
}

fn look_at_top(system: &System) -> Result<()> {
    let namespace = system.namespace("top")?;
    system
        .cluster
        .apply(&namespace, &bare("busy", system.edge.name(), VOLUMES, BUSY))?;
    system.until_pod("pod Running", (&namespace, "busy"), 60, |pod| {
        api::is_ready(pod).then_some(())
    })?;
    let top = |arguments: &[&str]| -> Result<(u64, u64)> {
        let text = system
            .cluster
            .kubectl(&[&["top"], arguments, &["--no-headers"]].concat())?;
        let columns: Vec<&str> = text.split_whitespace().collect();
        let amount = |column: usize, unit: &str| {
            let text = columns.get(column).and_then(|column| column.strip_suffix(unit));
            text.and_then(|number| number.parse().ok())
                .with_context(|| format!("kubectl said {text:?}"))
        };
        // A node has its percentages beside the amounts.
        let memory = if arguments.first() == Some(&"node") { 3 } else { 2 };
        Ok((amount(1, "m")?, amount(memory, "Mi")?))
    };
    let (cpu, memory) = wait::until("kubectl top pod", seconds(120), || {
        let (cpu, memory) = top(&["pod", "busy", "-n", &namespace])?;
        ensure!((100..300).contains(&cpu), "{cpu}m");
        Ok(Some((cpu, memory)))
    })?;
    println!("    kubectl top pod: {cpu}m {memory}Mi");
    ensure!((24..40).contains(&memory), "{memory} MiB");
    let (cpu, memory) = wait::until("kubectl top node", seconds(60), || {
        top(&["node", system.edge.name()]).map(Some)
    })?;
    println!("    kubectl top node: {cpu}m {memory}Mi");
    ensure!(cpu >= 100 && memory >= 24, "{cpu}m {memory}Mi");
    system.clean(&namespace)
}

/// metrics-server as part of the API, outside the cluster at an address.
fn aggregated(address: &str, port: u16) -> String {
    format!(
        r"apiVersion: v1
kind: Service
metadata: {{name: metrics-server}}
spec: {{ports: [{{name: https, port: 443, targetPort: {port}}}]}}
---
apiVersion: v1
kind: Endpoints
metadata: {{name: metrics-server}}
subsets: [{{addresses: [{{ip: {address}}}], ports: [{{name: https, port: {port}}}]}}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {{name: v1beta1.metrics.k8s.io}}
spec:
  service: {{name: metrics-server, namespace: kube-system}}
  group: metrics.k8s.io
  version: v1beta1
  insecureSkipTLSVerify: true
  groupPriorityMinimum: 100
  versionPriority: 100
"
    )
}

/// Lines that the talker writes.
const LINES: usize = 20_000;

/// The log of a chatty container is turned over as a kubelet does, no line is lost, and the number of files stays bounded.
fn rotation(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let outcome = turn_over(system);
    configure(system, &[])?;
    outcome
}

fn turn_over(system: &mut System) -> Result<()> {
    configure(
        system,
        &[
            "containerLogMaxSize: 64Ki",
            "containerLogMaxFiles: 100",
            "containerLogMonitorInterval: 3s",
        ],
    )?;
    let namespace = system.namespace("rotation")?;
    let script = format!(
        "i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); [ $((i % 100)) != 0 ] || sleep 0.05; done; sleep 1000000"
    );
    let command = format!("    command: [sh, -c, \"{script}\"]");
    system
        .cluster
        .apply(&namespace, &bare("talker", system.edge.name(), "", &command))?;
    system.until_pod("talker Running", (&namespace, "talker"), 60, |pod| {
        api::is_ready(pod).then_some(())
    })?;
    let pod = system.pod(&namespace, "talker")?;
    let folder = system.edge.folder().join(format!(
        "logs/pods/{namespace}_talker_{}/main",
        text(&pod, "/metadata/uid")
    ));
    wait::until("all lines written", seconds(120), || {
        Ok(contents(&folder)?
            .contains(&format!(" line {}\n", LINES - 1))
            .then_some(()))
    })?;
    // Files are renamed and compressed while they are read: what was written is complete when it is read in peace.
    let read = wait::until("every line in one of the logs, once", seconds(30), || {
        let all = contents(&folder)?;
        let numbers: Vec<usize> = all
            .lines()
            .filter_map(|line| line.rsplit_once(" line ")?.1.parse().ok())
            .collect();
        let count = numbers.len();
        ensure!(
            numbers.into_iter().eq(0..LINES),
            "{count} of {LINES} lines, or not in their order"
        );
        Ok(Some(count))
    })?;
    let names = names(&folder)?;
    println!("    {read} lines in {names:?}");
    ensure!(names.len() >= 3, "the log was hardly turned over: {names:?}");
    ensure!(names.first().is_some_and(|name| name == "0.log"), "{names:?}");
    ensure!(names.iter().skip(1).all(|name| is_rotated(name)), "{names:?}");
    ensure!(
        names.iter().any(|name| name.ends_with(".gz")),
        "nothing is compressed: {names:?}"
    );

    // The same with room for three files, and a container that never stops.
    configure(
        system,
        &[
            "containerLogMaxSize: 64Ki",
            "containerLogMaxFiles: 3",
            "containerLogMonitorInterval: 3s",
        ],
    )?;
    let command = r#"    command: [sh, -c, "while :; do for i in 0 1 2 3 4 5 6 7 8 9; do echo a line of no importance whatsoever; done; sleep 0.002; done"]"#;
    system
        .cluster
        .apply(&namespace, &bare("chatter", system.edge.name(), "", command))?;
    system.until_pod("chatter Running", (&namespace, "chatter"), 60, |pod| {
        api::is_ready(pod).then_some(())
    })?;
    let pod = system.pod(&namespace, "chatter")?;
    let folder = system.edge.folder().join(format!(
        "logs/pods/{namespace}_chatter_{}/main",
        text(&pod, "/metadata/uid")
    ));
    let mut seen = BTreeSet::new();
    wait::until("six files come, three stay", seconds(120), || {
        let names = names_of_logs(&folder)?;
        ensure!(names.len() <= 3, "{names:?}");
        seen.extend(names.into_iter().map(|name| name.trim_end_matches(".gz").to_owned()));
        Ok((seen.len() > 6).then_some(()))
    })?;
    system.clean(&namespace)?;
    // A kubelet looks for them once a minute.
    wait::until("the pod's logs are gone", seconds(120), || {
        Ok((!folder.exists()).then_some(()))
    })
}

/// Restarts edgecore with these keys of the kubelet's.
pub(super) fn configure(system: &mut System, keys: &[&str]) -> Result<()> {
    system.edge.stop_edgecore()?;
    system.edge.set_keys(Keys {
        kubelet: keys.iter().map(|line| (*line).to_owned()).collect(),
        ..Keys::default()
    });
    system.join()
}

/// The names in a container's folder of logs, sorted.
fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Without those that are being written, and those whose compressed form is there already.
fn names_of_logs(folder: &Path) -> Result<Vec<String>> {
    let all = names(folder)?;
    let is_log = |name: &&String| !name.ends_with(".tmp") && !all.contains(&format!("{name}.gz"));
    Ok(all.iter().filter(is_log).cloned().collect())
}

/// `0.log.20260131-235959`, compressed or not.
fn is_rotated(name: &str) -> bool {
    let Some(time) = name.strip_prefix("0.log.").map(|time| time.trim_end_matches(".gz")) else {
        return false;
    };
    time.len() == 15
        && time
            .bytes()
            .enumerate()
            .all(|(at, byte)| if at == 8 { byte == b'-' } else { byte.is_ascii_digit() })
}

/// All lines, oldest first.
fn contents(folder: &Path) -> Result<String> {
    let mut names = names_of_logs(folder)?;
    // The one that is written has the shortest name and the newest lines.
    names.rotate_left(1);
    let mut all = String::new();
    for name in names {
        let path: PathBuf = folder.join(&name);
        if name.ends_with(".gz") {
            all.push_str(process::run(Command::new("gzip").arg("-dc").arg(&path))?.trim_end());
            all.push('\n');
        } else {
            all.push_str(&std::fs::read_to_string(&path)?);
        }
    }
    Ok(all)
}
