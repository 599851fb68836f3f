//! What the parts of edged tell each other about a pod.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use proto::{NodeName, Uid};
use thiserror::Error;

use super::api::Api;
use super::cgroups::CgroupFacts;
use super::log_rotation;
use super::runtime::ContainerId;
use crate::pod::Pod;

/// `modules.edged` in checked types.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder of pods and volumes.
    pub root_directory: PathBuf,
    /// Folder of container logs, by pod.
    pub pod_logs_directory: PathBuf,
    /// Folder of links to the logs of all containers.
    pub container_logs_directory: PathBuf,
    /// When the logs of containers are turned over; `None` is never.
    pub log_rotation: Option<log_rotation::Policy>,
    /// Whether events of pods are sent.
    pub report_event: bool,
    /// Socket of the runtime.
    pub runtime_socket: PathBuf,
    /// Socket of the image service; the runtime's as a rule.
    pub image_socket: PathBuf,
    /// Limit for calls of the runtime, but for those that wait by nature.
    pub runtime_timeout: Duration,
    /// How often a pod is looked at when nothing happens; half of it more is added at random.
    pub sync_frequency: Duration,
    /// One pull at a time.
    pub serialize_image_pulls: bool,
    /// Pulls at a time, when not one.
    pub max_parallel_image_pulls: Option<usize>,
    /// Whether images are removed when the disk fills.
    pub image_gc: ImageGc,
    /// Dead containers kept of each container of a living pod.
    pub dead_containers_per_container: usize,
    /// `cgroupfs` or `systemd`, unless the runtime says otherwise.
    pub cgroup_driver: CgroupDriver,
    /// Whether pods are sorted into cgroups by their class of quality.
    pub cgroups_per_qos: bool,
    /// Cgroup that holds `kubepods`, `/` as a rule.
    pub cgroup_root: String,
    /// What is kept from pods as a whole (`kubeReserved`, `systemReserved`); `None` unless `enforceNodeAllocatable` names `pods`.
    pub reserved: Option<Reserved>,
    /// Whether limits of CPU time are enforced.
    pub cpu_cfs_quota: bool,
    /// Period of CPU time limits.
    pub cpu_cfs_quota_period: Duration,
    /// Processes in one pod; `None` is no limit.
    pub pod_pids_limit: Option<i64>,
    /// Domain of the cluster.
    pub cluster_domain: String,
    /// Name servers of the cluster; empty as a rule at the edge.
    pub cluster_dns: Vec<IpAddr>,
    /// The host's resolver configuration.
    pub resolv_conf: PathBuf,
    /// Seccomp profile of containers that name none: the runtime's instead of none.
    pub seccomp_default: bool,
    /// Folder of seccomp profiles.
    pub seccomp_profiles: PathBuf,
    /// Folder of static pods.
    pub static_pod_path: Option<PathBuf>,
    /// The host's `/etc/hosts`.
    pub hosts_file: PathBuf,
    /// Whether the kernel, out of memory, kills single processes instead of whole containers; only cgroup v2 can do the latter.
    pub single_process_oom_kill: Option<bool>,
    /// Where pods reach MetaServer; set only when it runs with authorization.
    pub meta_server: Option<SocketAddr>,
}

/// When images are removed.
#[derive(Clone, Debug)]
pub struct ImageGc {
    /// Percentage of the disk above which images are removed; 100 is never.
    pub high_percent: u8,
    /// Percentage at which removing ends.
    pub low_percent: u8,
    /// An image is kept for this long at least.
    pub min_age: Duration,
}

/// Who names cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    /// Plain folders.
    Cgroupfs,
    /// Slices.
    Systemd,
}

/// KubeEdge's defaults.
impl Default for Settings {
    fn default() -> Self {
        Self {
            root_directory: "/var/lib/kubelet".into(),
            pod_logs_directory: "/var/log/pods".into(),
            container_logs_directory: "/var/log/containers".into(),
            log_rotation: Some(log_rotation::Policy {
                max_size: 10 << 20,
                max_files: 5,
                period: Duration::from_secs(10),
            }),
            report_event: false,
            runtime_socket: "/run/containerd/containerd.sock".into(),
            image_socket: "/run/containerd/containerd.sock".into(),
            runtime_timeout: Duration::from_secs(120),
            sync_frequency: Duration::from_secs(60),
            serialize_image_pulls: true,
            max_parallel_image_pulls: None,
            image_gc: ImageGc {
                high_percent: 85,
                low_percent: 80,
                min_age: Duration::from_secs(120),
            },
            dead_containers_per_container: 1,
            cgroup_driver: CgroupDriver::Cgroupfs,
            cgroups_per_qos: true,
            cgroup_root: "/".into(),
            reserved: None,
            cpu_cfs_quota: true,
            cpu_cfs_quota_period: Duration::from_millis(100),
            pod_pids_limit: None,
            cluster_domain: "cluster.local".into(),
            cluster_dns: Vec::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            seccomp_default: false,
            seccomp_profiles: "/var/lib/kubelet/seccomp".into(),
            static_pod_path: None,
            hosts_file: "/etc/hosts".into(),
            single_process_oom_kill: None,
            meta_server: None,
        }
    }
}

/// Resources of the machine that pods together may not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Thousandths of a processor.
    pub cpu_millis: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
}

impl Settings {
    /// Folder of a pod: volumes, plugins, `etc-hosts`, `containers`.
    pub fn pod_directory(&self, uid: &str) -> PathBuf {
        self.root_directory.join("pods").join(uid)
    }

    /// Folder of a pod's logs.
    pub fn pod_log_directory(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.pod_logs_directory.join(format!("{namespace}_{name}_{uid}"))
    }

    /// The link to a container's log that log collectors read; its name stays below the limit for file names.
    pub fn container_log_link(&self, namespace: &str, pod: &str, container: &str, id: &str) -> PathBuf {
        let mut name = format!("{pod}_{namespace}_{container}-{id}");
        name.truncate(MAX_NAME - ".log".len());
        self.container_logs_directory.join(name + ".log")
    }
}

/// Bytes in a file name.
const MAX_NAME: usize = 255;

/// What a pod may need to know of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// The node's name.
    pub name: NodeName,
    /// Its addresses, the first one is `status.hostIP`.
    pub ips: Vec<IpAddr>,
    /// CPU of the machine in thousandths.
    pub cpu_millis: i64,
    /// Memory of the machine in bytes.
    pub memory_bytes: i64,
    /// CPU that pods may use, in thousandths.
    pub allocatable_cpu_millis: i64,
    /// Memory that pods may use, in bytes.
    pub allocatable_memory_bytes: i64,
    /// Disk that pods may use, in bytes.
    pub allocatable_disk_bytes: i64,
    /// What its kernel can limit.
    pub cgroups: CgroupFacts,
}

/// A pod and its surroundings. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PodContext {
    /// The pod as the API has it.
    pub pod: Arc<Pod>,
    /// Its node.
    pub node: Arc<NodeFacts>,
    /// How edged is set up.
    pub settings: Arc<Settings>,
    /// Where objects come from.
    pub api: Arc<dyn Api>,
}

impl PodContext {
    /// `metadata.uid`.
    pub fn uid(&self) -> Uid {
        Uid::new(self.pod.metadata.uid.as_deref().unwrap_or_default())
    }

    /// `metadata.namespace`.
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or("default")
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }
}

/// Which list of the pod's spec a container is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ContainerKind {
    /// `initContainers`, run to their end before the others start.
    Init,
    /// `initContainers` with `restartPolicy: Always`.
    Sidecar,
    /// `containers`.
    Main,
    /// `ephemeralContainers`.
    Ephemeral,
}

/// A container of a pod's spec.
#[derive(Clone, Copy, Debug)]
pub struct ContainerRef<'a> {
    /// Its kind.
    pub kind: ContainerKind,
    /// Its spec.
    pub container: &'a Container,
}

/// An image that is present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedImage {
    /// As the container names it, with its default tag.
    pub name: String,
    /// What the runtime calls it: goes into `ContainerConfig.image`.
    pub id: String,
    /// Numeric user of the image, if it has one.
    pub uid: Option<i64>,
    /// Named user of the image, may be empty.
    pub username: String,
}

/// Volumes of a pod that are in place, by their names in the spec.
#[derive(Clone, Debug, Default)]
pub struct MountedVolumes {
    /// By name.
    pub volumes: BTreeMap<String, MountedVolume>,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct MountedVolume {
    /// Where it is on the host; for block devices the device.
    pub host_path: PathBuf,
    /// Whether the volume itself may not be written.
    pub read_only: bool,
    /// Whether the runtime has to label it for SELinux.
    pub selinux_relabel: bool,
}

/// Why no configuration can be made of a pod.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct SpecError {
    /// `CreateContainerConfigError`, `CreateContainerError`, … as `waiting.reason` shows it.
    pub reason: &'static str,
    /// For people; the text that kubelet uses where it is known.
    pub message: String,
}

/// Why the volumes of a pod are not in place. The pod waits in `ContainerCreating`.
#[derive(Debug, Error)]
#[error("volume {volume:?}: {message}")]
pub struct VolumeError {
    /// The volume's name in the spec.
    pub volume: String,
    /// What is wrong with it.
    pub message: String,
}

/// What a probe found. Sent only when it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeEvent {
    /// Name of the container.
    pub container: String,
    /// Which one of its lives.
    pub id: ContainerId,
    /// What was found.
    pub finding: Finding,
}

/// Part of [`ProbeEvent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The startup probe succeeded; sent only where the container has one.
    Started,
    /// The readiness probe changed its mind.
    Ready(bool),
    /// The liveness or the startup probe failed: the container is to be killed.
    Kill {
        /// `liveness` or `startup`.
        probe: &'static str,
        /// `terminationGracePeriodSeconds` of the probe.
        grace_seconds: Option<i64>,
    },
}
