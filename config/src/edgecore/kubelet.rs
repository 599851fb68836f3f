//! `modules.edged.tailoredKubeletConfig`.

use std::collections::BTreeMap;

use crate::decode::{GoDuration, section};

type Texts = BTreeMap<String, String>;
const fn secs(secs: i64) -> GoDuration {
    GoDuration::from_secs(secs)
}

section! {
    /// The kubelet's own configuration, as far as it means something at the edge.
    pub struct KubeletConfig {
        /// Folder of static pods.
        "staticPodPath" omit static_pod_path: String = "/etc/kubeedge/manifests".into();
        /// Folder of container logs.
        "podLogsDir" omit pod_logs_dir: String = "/var/log/pods".into();
        /// Longest time between two looks at all pods.
        "syncFrequency" always sync_frequency: GoDuration = secs(60);
        /// Time between two looks at the static pods.
        "fileCheckFrequency" always file_check_frequency: GoDuration = secs(20);
        /// Address of the kubelet's server.
        "address" omit address: String = "127.0.0.1".into();
        /// Its port; 0 turns logs and exec off.
        "readOnlyPort" omit read_only_port: i32 = 10350;
        /// Image pulls a second; 0 is no limit.
        "registryPullQPS" omit registry_pull_qps: Option<i32> = Some(5);
        /// Image pulls in a burst.
        "registryBurst" omit registry_burst: i32 = 10;
        /// Events a second; 0 is no limit.
        "eventRecordQPS" omit event_record_qps: Option<i32> = Some(50);
        /// Events in a burst.
        "eventBurst" omit event_burst: i32 = 100;
        /// Whether logs, exec and the like are served.
        "enableDebuggingHandlers" omit enable_debugging_handlers: Option<bool> = Some(true);
        /// Lock profiles.
        "enableContentionProfiling" omit enable_contention_profiling: bool = false;
        /// Of our own process.
        "oomScoreAdj" omit oom_score_adj: Option<i32> = Some(-999);
        /// Domain of service names.
        "clusterDomain" omit cluster_domain: String = "cluster.local".into();
        /// Name servers of pods.
        "clusterDNS" omit cluster_dns: Vec<String> = Vec::new();
        /// Longest silence of an exec or port-forward.
        "streamingConnectionIdleTimeout" always streaming_connection_idle_timeout: GoDuration = secs(4 * 3600);
        /// Time between two computations of the node's status.
        "nodeStatusUpdateFrequency" always node_status_update_frequency: GoDuration = secs(10);
        /// Longest time between two reports of an unchanged node's status.
        "nodeStatusReportFrequency" always node_status_report_frequency: GoDuration = secs(300);
        /// Seconds a lease lasts.
        "nodeLeaseDurationSeconds" omit node_lease_duration_seconds: i32 = 40;
        /// An unused image is kept for this long at least.
        "imageMinimumGCAge" always image_minimum_gc_age: GoDuration = secs(120);
        /// An unused image is kept for this long at most; 0 turns it off.
        "imageMaximumGCAge" always image_maximum_gc_age: GoDuration = secs(0);
        /// Disk use in percent above which images are removed.
        "imageGCHighThresholdPercent" omit image_gc_high_threshold_percent: Option<i32> = Some(85);
        /// Disk use in percent down to which images are removed.
        "imageGCLowThresholdPercent" omit image_gc_low_threshold_percent: Option<i32> = Some(80);
        /// Time between two measurements of volumes.
        "volumeStatsAggPeriod" always volume_stats_agg_period: GoDuration = secs(60);
        /// Cgroup of our own process.
        "kubeletCgroups" omit kubelet_cgroups: String = String::new();
        /// Cgroup for other processes.
        "systemCgroups" omit system_cgroups: String = String::new();
        /// Cgroup above the pods'.
        "cgroupRoot" omit cgroup_root: String = String::new();
        /// Whether each QoS class has its cgroup.
        "cgroupsPerQOS" omit cgroups_per_qos: Option<bool> = Some(true);
        /// `cgroupfs` or `systemd`.
        "cgroupDriver" omit cgroup_driver: String = "cgroupfs".into();
        /// Whether only one process of a container is killed when memory is short.
        "singleProcessOOMKill" omit single_process_oom_kill: Option<bool> = None;
        /// CPU manager.
        "cpuManagerPolicy" omit cpu_manager_policy: String = "none".into();
        /// Its options.
        "cpuManagerPolicyOptions" omit cpu_manager_policy_options: Texts = Texts::new();
        /// Its period.
        "cpuManagerReconcilePeriod" always cpu_manager_reconcile_period: GoDuration = secs(10);
        /// Memory manager.
        "memoryManagerPolicy" omit memory_manager_policy: String = "None".into();
        /// Topology manager.
        "topologyManagerPolicy" omit topology_manager_policy: String = "none".into();
        /// Its scope.
        "topologyManagerScope" omit topology_manager_scope: String = "container".into();
        /// Its options.
        "topologyManagerPolicyOptions" omit topology_manager_policy_options: Texts = Texts::new();
        /// Memory reserved by QoS class.
        "qosReserved" omit qos_reserved: Texts = Texts::new();
        /// Longest call to the runtime.
        "runtimeRequestTimeout" always runtime_request_timeout: GoDuration = secs(120);
        /// Accepted, without effect.
        "hairpinMode" omit hairpin_mode: String = "promiscuous-bridge".into();
        /// Most pods.
        "maxPods" omit max_pods: i32 = 110;
        /// Address range of pods.
        "podCIDR" omit pod_cidr: String = String::new();
        /// Most processes of a pod; -1 is no limit.
        "podPidsLimit" omit pod_pids_limit: Option<i64> = Some(-1);
        /// The host's resolver file.
        "resolvConf" omit resolv_conf: Option<String> = Some("/etc/resolv.conf".into());
        /// Whether CPU limits are enforced.
        "cpuCFSQuota" omit cpu_cfs_quota: Option<bool> = Some(true);
        /// Period of that enforcement.
        "cpuCFSQuotaPeriod" omit cpu_cfs_quota_period: Option<GoDuration> = Some(GoDuration::from_nanos(100_000_000));
        /// Images in the node's status; -1 is all.
        "nodeStatusMaxImages" omit node_status_max_images: Option<i32> = Some(0);
        /// Open files of our own process.
        "maxOpenFiles" omit max_open_files: i64 = 1_000_000;
        /// Accepted, without effect.
        "contentType" omit content_type: String = "application/json".into();
        /// Whether images are pulled one after the other.
        "serializeImagePulls" omit serialize_image_pulls: Option<bool> = Some(true);
        /// Most pulls at once.
        "maxParallelImagePulls" omit max_parallel_image_pulls: Option<i32> = None;
        /// Thresholds that end pods at once.
        "evictionHard" omit eviction_hard: Texts = eviction_hard();
        /// Thresholds that end pods after a grace period.
        "evictionSoft" omit eviction_soft: Texts = Texts::new();
        /// Those grace periods.
        "evictionSoftGracePeriod" omit eviction_soft_grace_period: Texts = Texts::new();
        /// How long a pressure condition stays.
        "evictionPressureTransitionPeriod" always eviction_pressure_transition_period: GoDuration = secs(300);
        /// Longest grace period of an eviction, seconds.
        "evictionMaxPodGracePeriod" omit eviction_max_pod_grace_period: i32 = 0;
        /// Least that an eviction frees.
        "evictionMinimumReclaim" omit eviction_minimum_reclaim: Texts = Texts::new();
        /// Most pods for each core; 0 is no limit.
        "podsPerCore" omit pods_per_core: i32 = 0;
        /// Whether volumes are attached by the controller.
        "enableControllerAttachDetach" omit enable_controller_attach_detach: Option<bool> = Some(true);
        /// Whether unusual kernel settings are refused.
        "protectKernelDefaults" omit protect_kernel_defaults: bool = false;
        /// Accepted, without effect.
        "makeIPTablesUtilChains" omit make_iptables_util_chains: Option<bool> = Some(true);
        /// Accepted, without effect.
        "iptablesMasqueradeBit" omit iptables_masquerade_bit: Option<i32> = Some(14);
        /// Accepted, without effect.
        "iptablesDropBit" omit iptables_drop_bit: Option<i32> = Some(15);
        /// The kubelet's own gates.
        "featureGates" omit feature_gates: BTreeMap<String, bool> = BTreeMap::new();
        /// Whether swap is refused.
        "failSwapOn" omit fail_swap_on: Option<bool> = Some(false);
        /// Swap of pods.
        "memorySwap" always memory_swap: MemorySwap = MemorySwap::default();
        /// Size at which a container's log is turned over.
        "containerLogMaxSize" omit container_log_max_size: String = "10Mi".into();
        /// How many logs of a container are kept.
        "containerLogMaxFiles" omit container_log_max_files: Option<i32> = Some(5);
        /// How many are turned over at once.
        "containerLogMaxWorkers" omit container_log_max_workers: Option<i32> = Some(1);
        /// Time between two looks at the logs.
        "containerLogMonitorInterval" omit container_log_monitor_interval: Option<GoDuration> = Some(secs(10));
        /// How changes of ConfigMaps and Secrets are noticed.
        "configMapAndSecretChangeDetectionStrategy" omit config_map_and_secret_change_detection_strategy: String = "Get".into();
        /// Set aside for the system.
        "systemReserved" omit system_reserved: Texts = Texts::new();
        /// Set aside for Kubernetes.
        "kubeReserved" omit kube_reserved: Texts = Texts::new();
        /// CPUs set aside.
        "reservedSystemCPUs" omit reserved_system_cpus: String = String::new();
        /// Accepted, without effect.
        "showHiddenMetricsForVersion" omit show_hidden_metrics_for_version: String = String::new();
        /// Cgroup of `systemReserved`.
        "systemReservedCgroup" omit system_reserved_cgroup: String = String::new();
        /// Cgroup of `kubeReserved`.
        "kubeReservedCgroup" omit kube_reserved_cgroup: String = String::new();
        /// On what the reservations are enforced.
        "enforceNodeAllocatable" omit enforce_node_allocatable: Vec<String> = vec!["pods".into()];
        /// Unsafe sysctls that pods may set.
        "allowedUnsafeSysctls" omit allowed_unsafe_sysctls: Vec<String> = Vec::new();
        /// Folder of volume plug-ins.
        "volumePluginDir" omit volume_plugin_dir: String = "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/".into();
        /// Memory pressure told by the kernel.
        "kernelMemcgNotification" omit kernel_memcg_notification: bool = false;
        /// Accepted, without effect: use `-v`.
        "logging" always logging: Logging = Logging::default();
        /// Whether the host's logs are served.
        "enableSystemLogHandler" omit enable_system_log_handler: Option<bool> = Some(true);
        /// Whether they can be searched.
        "enableSystemLogQuery" omit enable_system_log_query: Option<bool> = None;
        /// Time for pods when the machine goes down.
        "shutdownGracePeriod" always shutdown_grace_period: GoDuration = secs(0);
        /// The part of it for critical pods.
        "shutdownGracePeriodCriticalPods" always shutdown_grace_period_critical_pods: GoDuration = secs(0);
        /// The same by priority.
        "shutdownGracePeriodByPodPriority" omit shutdown_grace_period_by_pod_priority: Vec<ShutdownGracePeriod> = Vec::new();
        /// Longest wait between restarts.
        "crashLoopBackOff" always crash_loop_back_off: CrashLoopBackOff = CrashLoopBackOff::default();
        /// Memory set aside by NUMA node.
        "reservedMemory" omit reserved_memory: Vec<ReservedMemory> = Vec::new();
        /// Profiles.
        "enableProfilingHandler" omit enable_profiling_handler: Option<bool> = Some(true);
        /// Flags over HTTP.
        "enableDebugFlagsHandler" omit enable_debug_flags_handler: Option<bool> = Some(true);
        /// Whether the runtime's seccomp profile is the default.
        "seccompDefault" omit seccomp_default: Option<bool> = Some(false);
        /// Share of the limit at which memory is throttled.
        "memoryThrottlingFactor" omit memory_throttling_factor: Option<f64> = Some(0.9);
        /// Taints of a new node.
        "registerWithTaints" omit register_with_taints: Vec<Taint> = Vec::new();
        /// Whether the node registers itself.
        "registerNode" omit register_node: Option<bool> = Some(true);
        /// Whether local storage is counted.
        "localStorageCapacityIsolation" omit local_storage_capacity_isolation: Option<bool> = Some(true);
        /// Socket of the runtime.
        "containerRuntimeEndpoint" always container_runtime_endpoint: String = "unix:///run/containerd/containerd.sock".into();
        /// Socket of the image service.
        "imageServiceEndpoint" omit image_service_endpoint: String = "unix:///run/containerd/containerd.sock".into();
        /// Whether cgroup v1 is refused.
        "failCgroupV1" omit fail_cgroup_v1: Option<bool> = Some(false);
    }
}

section! {
    /// `memorySwap`.
    pub struct MemorySwap null keeps {
        /// `NoSwap` or `LimitedSwap`.
        "swapBehavior" omit swap_behavior: String = String::new();
    }
}

section! {
    /// `crashLoopBackOff`.
    pub struct CrashLoopBackOff null keeps {
        /// Longest wait between restarts.
        "maxContainerRestartPeriod" omit max_container_restart_period: Option<GoDuration> = None;
    }
}

section! {
    /// One element of `shutdownGracePeriodByPodPriority`.
    pub struct ShutdownGracePeriod null keeps {
        /// From this priority on.
        "priority" always priority: i32 = 0;
        /// Seconds.
        "shutdownGracePeriodSeconds" always shutdown_grace_period_seconds: i64 = 0;
    }
}

section! {
    /// One element of `reservedMemory`.
    pub struct ReservedMemory null keeps {
        /// NUMA node.
        "numaNode" always numa_node: i32 = 0;
        /// Amounts by resource.
        "limits" always limits: Texts = Texts::new();
    }
}

section! {
    /// A taint of the node.
    pub struct Taint null keeps {
        /// Its key.
        "key" always key: String = String::new();
        /// Its value.
        "value" omit value: String = String::new();
        /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
        "effect" always effect: String = String::new();
        /// When it was added, RFC 3339.
        "timeAdded" omit time_added: String = String::new();
    }
}

section! {
    /// `logging`.
    pub struct Logging null keeps {
        /// `text` or `json`.
        "format" omit format: String = "text".into();
        /// Time between two writes.
        "flushFrequency" always flush_frequency: FlushFrequency = FlushFrequency(secs(5));
        /// Level.
        "verbosity" always verbosity: u32 = 0;
        /// Level by file.
        "vmodule" omit vmodule: Vec<LogModule> = Vec::new();
        /// By format.
        "options" always options: LogOptions = LogOptions::default();
    }
}

section! {
    /// One element of `logging.vmodule`.
    pub struct LogModule null keeps {
        /// Which files.
        "filePattern" always file_pattern: String = String::new();
        /// Level.
        "verbosity" always verbosity: u32 = 0;
    }
}

section! {
    /// `logging.options`.
    pub struct LogOptions null keeps {
        /// For JSON.
        "json" always json: LogRouting = LogRouting::default();
        /// For text.
        "text" always text: LogRouting = LogRouting::default();
    }
}

section! {
    /// `logging.options.json` and `.text`.
    pub struct LogRouting null keeps {
        /// Whether errors go elsewhere.
        "splitStream" omit split_stream: bool = false;
        /// Bytes kept back.
        "infoBufferSize" always info_buffer_size: String = "0".into();
    }
}

/// A duration that Go also reads as a number of nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushFrequency(pub GoDuration);

impl crate::decode::Value for FlushFrequency {
    fn merge(&mut self, node: &crate::yaml::Node, reader: &mut crate::decode::Reader) {
        if let crate::yaml::Kind::Int(_) = node.kind {
            let mut nanos = 0_i64;
            nanos.merge(node, reader);
            self.0 = GoDuration::from_nanos(nanos);
        } else {
            self.0.merge(node, reader);
        }
    }
    fn tree(&self) -> crate::yaml::Tree {
        self.0.tree()
    }
}

fn eviction_hard() -> Texts {
    let mut texts = Texts::new();
    for (signal, amount) in [
        ("imagefs.available", "15%"),
        ("imagefs.inodesFree", "5%"),
        ("memory.available", "100Mi"),
        ("nodefs.available", "10%"),
        ("nodefs.inodesFree", "5%"),
    ] {
        texts.insert(signal.to_owned(), amount.to_owned());
    }
    texts
}
