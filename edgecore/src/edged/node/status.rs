//! The Node object that this machine wants to be: pure, from facts to JSON (spec 05 §5.3, §6 row 31).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use config::HostFacts;
use jiff::Timestamp;
use proto::{BadObject, Object};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::facts::{Machine, Usage};
use super::{Allocatable, RuntimeState, Settings};
use crate::edged::quantity::Quantity;

/// Set by the kubelet since attaching moved to the controller; peers expect it.
const ATTACH: &str = "volumes.kubernetes.io/controller-managed-attach-detach";

/// One row of `status.conditions`, without times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    kind: &'static str,
    status: bool,
    reason: &'static str,
    message: String,
}

/// What is reported, without times: equal reports need no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    conditions: Vec<Condition>,
    capacity: BTreeMap<String, String>,
    allocatable: BTreeMap<String, String>,
    addresses: Vec<(&'static str, String)>,
    /// Whether the first one is one that others may reach the node by.
    reachable: bool,
    info: BTreeMap<&'static str, String>,
    port: u16,
}

impl Report {
    pub(super) fn new(
        settings: &Settings,
        address: IpAddr,
        machine: &Machine,
        usage: &Usage,
        pressure: Pressure,
        runtime: &RuntimeState,
    ) -> Self {
        let (capacity, allocatable) = resources(settings, machine, usage);
        let runtime_version = if runtime.name.is_empty() {
            "containerd://Unknown".to_owned()
        } else {
            format!("{}://{}", runtime.name, runtime.version)
        };
        let info = [
            ("machineID", machine.machine_id.clone()),
            ("systemUUID", machine.system_uuid.clone()),
            ("bootID", machine.boot_id.clone()),
            ("kernelVersion", machine.kernel.clone()),
            ("osImage", machine.os_image.clone()),
            ("containerRuntimeVersion", runtime_version),
            ("kubeletVersion", settings.kubelet_version.clone()),
            ("kubeProxyVersion", String::new()),
            ("operatingSystem", "linux".to_owned()),
            ("architecture", machine.architecture.clone()),
        ];
        Self {
            conditions: conditions(pressure, runtime),
            capacity,
            allocatable,
            addresses: vec![
                ("InternalIP", address.to_string()),
                ("Hostname", settings.hostname.clone()),
            ],
            reachable: HostFacts::is_reachable(address),
            info: info.into(),
            port: settings.port,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.conditions
            .iter()
            .any(|condition| condition.kind == "Ready" && condition.status)
    }

    /// The Node to register.
    pub(super) fn node(&self, settings: &Settings, now: Timestamp) -> Result<Object, BadObject> {
        let mut labels = default_labels(settings);
        labels.extend(settings.labels.iter().map(|(key, value)| (key.clone(), value.clone())));
        let mut spec = Map::new();
        if !settings.taints.is_empty() {
            spec.insert("taints".into(), json!(settings.taints));
        }
        if !settings.schedulable {
            spec.insert("unschedulable".into(), true.into());
        }
        Object::from_value(&json!({
            "kind": "Node",
            "apiVersion": "v1",
            "metadata": {"name": settings.node, "labels": labels, "annotations": {ATTACH: "true"}},
            "spec": spec,
            "status": self.status(None, now),
        }))
    }

    /// The patch that makes the stored Node say what this report says. Times of conditions that have not changed are kept.
    pub(super) fn patch(&self, settings: &Settings, stored: Option<&Object>, now: Timestamp) -> String {
        let stored = stored.and_then(|object| object.view::<Value>().ok());
        let mut status = self.status(stored.as_ref(), now);
        if let Value::Object(status) = &mut status {
            // Said once, at registration: from then on it is the port at which the cloud serves logs and exec for the node.
            status.remove("daemonEndpoints");
            let order: Vec<Value> = self
                .conditions
                .iter()
                .map(|condition| json!({"type": condition.kind}))
                .collect();
            status.insert("$setElementOrder/conditions".into(), order.into());
            // A board without a network keeps the addresses that it is known by.
            if !self.reachable && has_address(stored.as_ref()) {
                status.remove("addresses");
            }
            // A list with a merge key keeps foreign entries unless it is replaced as a whole.
            if let Some(Value::Array(addresses)) = status.get_mut("addresses") {
                addresses.push(json!({"$patch": "replace"}));
            }
            for field in ["capacity", "allocatable"] {
                let old = stored
                    .as_ref()
                    .and_then(|node| node.get("status")?.get(field)?.as_object());
                let Some(Value::Object(new)) = status.get_mut(field) else {
                    continue;
                };
                for key in old.into_iter().flat_map(Map::keys).filter(|key| is_own_resource(key)) {
                    new.entry(key.clone()).or_insert(Value::Null);
                }
            }
        }
        let mut patch = Map::new();
        if let Some(metadata) = missing_metadata(settings, stored.as_ref()) {
            patch.insert("metadata".into(), metadata);
        }
        patch.insert("status".into(), status);
        Value::Object(patch).to_string()
    }

    fn status(&self, stored: Option<&Value>, now: Timestamp) -> Value {
        let now = seconds(now);
        let conditions: Vec<Value> = self
            .conditions
            .iter()
            .map(|condition| {
                let status = if condition.status { "True" } else { "False" };
                let since = stored
                    .and_then(|node| transition(node, condition.kind, status))
                    .unwrap_or(now.as_str());
                json!({
                    "type": condition.kind, "status": status, "reason": condition.reason, "message": condition.message,
                    "lastHeartbeatTime": now, "lastTransitionTime": since,
                })
            })
            .collect();
        let addresses: Vec<Value> = self
            .addresses
            .iter()
            .map(|(kind, address)| json!({"type": kind, "address": address}))
            .collect();
        json!({
            "capacity": self.capacity,
            "allocatable": self.allocatable,
            "conditions": conditions,
            "addresses": addresses,
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
            "nodeInfo": self.info,
        })
    }
}

/// RFC 3339 with whole seconds.
pub(super) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn transition<'a>(node: &'a Value, kind: &str, status: &str) -> Option<&'a str> {
    node.get("status")?
        .get("conditions")?
        .as_array()?
        .iter()
        .find(|condition| condition.get("type").and_then(Value::as_str) == Some(kind))
        .filter(|condition| condition.get("status").and_then(Value::as_str) == Some(status))?
        .get("lastTransitionTime")?
        .as_str()
}

/// Whether the Node has an address that others may reach it by.
fn has_address(stored: Option<&Value>) -> bool {
    let addresses = stored.and_then(|node| node.get("status")?.get("addresses")?.as_array());
    addresses.into_iter().flatten().any(|address| {
        let address = address.get("address").and_then(Value::as_str);
        let address: Option<IpAddr> = address.and_then(|text| text.parse().ok());
        address.is_some_and(HostFacts::is_reachable)
    })
}

fn default_labels(settings: &Settings) -> BTreeMap<String, String> {
    let architecture = super::facts::architecture();
    [
        ("kubernetes.io/hostname", settings.hostname.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture),
        ("node-role.kubernetes.io/edge", ""),
        ("node-role.kubernetes.io/agent", ""),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// Our labels and the annotation, where the API's Node has others; labels of users are theirs.
fn missing_metadata(settings: &Settings, stored: Option<&Value>) -> Option<Value> {
    let metadata = stored?.get("metadata")?;
    let differs = |field: &str, key: &str, value: &str| {
        metadata.get(field).and_then(|all| all.get(key)).and_then(Value::as_str) != Some(value)
    };
    let mut labels = default_labels(settings);
    labels.retain(|key, value| differs("labels", key, value));
    let mut patch = Map::new();
    if !labels.is_empty() {
        patch.insert("labels".into(), json!(labels));
    }
    if differs("annotations", ATTACH, "true") {
        patch.insert("annotations".into(), json!({ATTACH: "true"}));
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

fn is_own_resource(key: &str) -> bool {
    matches!(key, "cpu" | "memory" | "pods" | "ephemeral-storage") || key.starts_with("hugepages-")
}

/// What pods may use, in numbers: for admission and for fields of pods.
pub(super) fn allocatable(settings: &Settings, machine: &Machine, usage: &Usage) -> Allocatable {
    let reserved = |resource: &str| -> Quantity {
        [&settings.kube_reserved, &settings.system_reserved]
            .into_iter()
            .filter_map(|reserved| Quantity::parse(reserved.get(resource)?).ok())
            .sum()
    };
    let threshold = |signal: &str, total: i64| {
        settings
            .eviction_hard
            .get(signal)
            .and_then(|text| threshold(text, total))
            .unwrap_or_default()
    };
    let huge: i64 = machine.huge_pages.iter().map(|(_, bytes)| bytes).sum();
    let cpu = machine.processors.saturating_mul(1000) - reserved("cpu").milli_value();
    let memory = machine.memory - reserved("memory").value() - threshold("memory.available", machine.memory) - huge;
    let disk =
        usage.disk_total - reserved("ephemeral-storage").value() - threshold("nodefs.available", usage.disk_total);
    Allocatable {
        cpu_millis: cpu.max(0),
        memory_bytes: memory.max(0),
        disk_bytes: disk.max(0),
    }
}

type Amounts = BTreeMap<String, String>;

fn resources(settings: &Settings, machine: &Machine, usage: &Usage) -> (Amounts, Amounts) {
    let mut capacity = Amounts::new();
    let mut allocatable = Amounts::new();
    capacity.insert("cpu".into(), machine.processors.to_string());
    capacity.insert("memory".into(), format!("{}Ki", machine.memory / 1024));
    capacity.insert("ephemeral-storage".into(), format!("{}Ki", usage.disk_total / 1024));
    capacity.insert("pods".into(), settings.max_pods.to_string());
    for (size, bytes) in &machine.huge_pages {
        let text = if *bytes == 0 {
            "0".to_owned()
        } else {
            format!("{}Ki", bytes / 1024)
        };
        capacity.insert(size.clone(), text.clone());
        allocatable.insert(size.clone(), text);
    }
    let amounts = self::allocatable(settings, machine, usage);
    let cpu = amounts.cpu_millis;
    let cpu = if cpu % 1000 == 0 {
        (cpu / 1000).to_string()
    } else {
        format!("{cpu}m")
    };
    allocatable.insert("cpu".into(), cpu);
    allocatable.insert("memory".into(), format!("{}Ki", amounts.memory_bytes / 1024));
    allocatable.insert("ephemeral-storage".into(), amounts.disk_bytes.to_string());
    allocatable.insert("pods".into(), settings.max_pods.to_string());
    (capacity, allocatable)
}

/// A hard eviction threshold, an amount or a share of the total.
fn threshold(text: &str, total: i64) -> Option<i64> {
    if let Some(percent) = text.strip_suffix('%') {
        let basis_points = (percent.parse::<f64>().ok()?.clamp(0.0, 100.0) * 100.0).round();
        #[expect(clippy::cast_possible_truncation, reason = "clamped to 10,000")]
        let basis_points = basis_points as i64;
        return i64::try_from(i128::from(total) * i128::from(basis_points) / 10_000).ok();
    }
    Quantity::parse(text).ok().map(Quantity::value)
}

/// What the machine is short of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pressure {
    pub(super) memory: bool,
    pub(super) disk: bool,
    pub(super) pids: bool,
}

impl Pressure {
    /// By the thresholds of hard eviction.
    pub(super) fn of(settings: &Settings, machine: &Machine, usage: &Usage) -> Self {
        let below = |signal: &str, available: i64, total: i64| {
            total > 0
                && settings
                    .eviction_hard
                    .get(signal)
                    .and_then(|text| threshold(text, total))
                    .is_some_and(|limit| available < limit)
        };
        Self {
            memory: below("memory.available", usage.memory_available, machine.memory),
            disk: below("nodefs.available", usage.disk_available, usage.disk_total)
                || below("nodefs.inodesFree", usage.inodes_available, usage.inodes_total),
            pids: below("pid.available", usage.pids_available, usage.pids_total),
        }
    }
}

/// When something was last short: what comes and goes is told as staying, or the scheduler would send pods in between.
#[derive(Debug, Default)]
pub(super) struct Shortages {
    memory: Option<Instant>,
    disk: Option<Instant>,
    pids: Option<Instant>,
}

impl Shortages {
    /// What to tell: what is short now or was within `hold`.
    pub(super) fn tell(&mut self, seen: Pressure, now: Instant, hold: Duration) -> Pressure {
        let held = |last: &mut Option<Instant>, short: bool| {
            if short {
                *last = Some(now);
            }
            last.is_some_and(|last| short || now.duration_since(last) < hold)
        };
        Pressure {
            memory: held(&mut self.memory, seen.memory),
            disk: held(&mut self.disk, seen.disk),
            pids: held(&mut self.pids, seen.pids),
        }
    }
}

fn conditions(Pressure { memory, disk, pids }: Pressure, runtime: &RuntimeState) -> Vec<Condition> {
    let condition = |kind, status, reason, message: &str| Condition {
        kind,
        status,
        reason,
        message: message.to_owned(),
    };
    let pressure = |kind, short, with: (&'static str, &'static str), without: (&'static str, &'static str)| {
        let (reason, message) = if short { with } else { without };
        condition(kind, short, reason, message)
    };
    let ready = runtime.ready && runtime.network_ready;
    vec![
        pressure(
            "MemoryPressure",
            memory,
            (
                "KubeletHasInsufficientMemory",
                "kubelet has insufficient memory available",
            ),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            disk,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            pids,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        if ready {
            condition("Ready", true, "EdgeReady", "edge is posting ready status")
        } else {
            let message = if runtime.reason.is_empty() {
                "container runtime is down"
            } else {
                runtime.reason.as_str()
            };
            condition("Ready", false, "KubeletNotReady", message)
        },
    ]
}
