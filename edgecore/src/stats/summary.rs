//! `/stats/summary`, as kubelets answer it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use common::order;
use jiff::Timestamp;
use proto::cri;
use proto::stats::{
    ContainerStats, CpuStats, FsStats, InterfaceStats, MemoryStats, NetworkStats, NodeStats, PodReference, PodStats,
    ProcessStats, RlimitStats, RuntimeStats, Summary, SwapStats, Time, VolumeStats,
};

use super::Settings;
use super::cgroup::Usage;
use super::collect::{Look, Pod, time};
use super::machine::{self, FileSystem, Interface, Size};
use super::rates::Rates;
use crate::edged::context;
use crate::edged::node::processes;

/// Processors and memory alone.
pub(super) fn small(node: &str, look: &Look, rates: &Rates) -> Summary {
    let systems = look.levels.first().map(|level| ContainerStats {
        name: "pods".to_owned(),
        start_time: Time(level.created),
        cpu: cpu(&level.usage, rates.of(&level.path)),
        memory: memory(&level.usage),
        ..ContainerStats::default()
    });
    let machine = &look.machine;
    Summary {
        node: NodeStats {
            node_name: node.to_owned(),
            system_containers: systems.into_iter().collect(),
            start_time: Time(machine::boot_time()),
            cpu: cpu(machine, rates.of("/")),
            memory: memory(machine),
            ..NodeStats::default()
        },
        // A pod of which nothing runs is not among them.
        pods: look
            .pods
            .iter()
            .filter(|pod| !pod.containers.is_empty())
            .map(|pod| small_pod(pod, rates))
            .collect(),
    }
}

fn small_pod(pod: &Pod, rates: &Rates) -> PodStats {
    let containers = pod.containers.iter().map(|container| ContainerStats {
        name: container.name.clone(),
        start_time: Time(container.created),
        cpu: container
            .usage
            .as_ref()
            .and_then(|usage| cpu(usage, rates.of(&container.id))),
        memory: container.usage.as_ref().and_then(memory),
        ..ContainerStats::default()
    });
    let group = pod.group.as_ref();
    PodStats {
        pod_ref: PodReference {
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            uid: pod.uid.clone(),
        },
        start_time: Time(pod.created),
        containers: containers.collect(),
        cpu: group.and_then(|(path, usage)| cpu(usage, rates.of(path))),
        memory: group.and_then(|(_, usage)| memory(usage)),
        ..PodStats::default()
    }
}

/// All of it. Looks at the disk: blocking.
pub(super) fn full(settings: &Settings, look: &Look, rates: &Rates, images: Option<&cri::FilesystemUsage>) -> Summary {
    let mut summary = small(&settings.node, look, rates);
    let disks = Disks::new(settings);
    let now = Time(Timestamp::now());
    let node = &mut summary.node;
    for (system, level) in node.system_containers.iter_mut().zip(&look.levels) {
        system.swap = swap(&level.usage);
    }
    node.network = network(look.machine.at, &look.network);
    node.fs = disks.own.map(|own| FsStats {
        inodes_used: Some(own.inodes.saturating_sub(own.inodes_free)),
        used_bytes: Some(own.used),
        ..stats_of(now, Some(own), None)
    });
    let image_fs = images.map(|images| disks.written(images));
    node.runtime = image_fs.map(|image_fs| RuntimeStats {
        container_fs: Some(image_fs.clone()),
        image_fs: Some(image_fs),
    });
    let (maxpid, curproc) = processes();
    node.rlimit = Some(RlimitStats {
        time: now,
        maxpid,
        curproc,
    });
    node.swap = swap(&look.machine);
    let running = look.pods.iter().filter(|pod| !pod.containers.is_empty());
    for (stats, pod) in summary.pods.iter_mut().zip(running) {
        complete(stats, pod, &disks, now);
    }
    summary
}

fn complete(stats: &mut PodStats, pod: &Pod, disks: &Disks<'_>, now: Time) {
    for (stats, container) in stats.containers.iter_mut().zip(&pod.containers) {
        stats.rootfs = container.written.as_ref().map(|written| disks.written(written));
        let logs = machine::files_in(&disks.logs(pod).join(&container.name));
        stats.logs = Some(stats_of(now, disks.own, Some(logs)));
        stats.swap = container.usage.as_ref().and_then(swap);
    }
    stats.network = pod.network.as_ref().and_then(|all| network(look_time(pod), all));
    let volumes = disks.volumes(&pod.uid, now);
    stats.ephemeral_storage = Some(ephemeral(stats, pod, &volumes, disks, now));
    stats.volume = volumes.into_iter().map(|volume| volume.stats).collect();
    let processes: Option<u64> = pod.containers.iter().map(|one| one.usage?.processes).sum();
    stats.process_stats = processes.map(|count| ProcessStats {
        process_count: Some(count),
    });
    stats.swap = pod.group.as_ref().and_then(|(_, usage)| swap(usage));
}

/// What goes with the pod: what its containers wrote, logs, volumes of its own, its hosts file.
fn ephemeral(stats: &PodStats, pod: &Pod, volumes: &[Volume], disks: &Disks<'_>, now: Time) -> FsStats {
    let containers = stats.containers.iter().flat_map(|one| [&one.rootfs, &one.logs]);
    let volumes = volumes
        .iter()
        .filter(|volume| volume.is_ephemeral)
        .map(|volume| &volume.stats.fs);
    let parts = containers.flatten().chain(volumes).map(|part| Size {
        bytes: part.used_bytes.unwrap_or_default(),
        inodes: part.inodes_used.unwrap_or_default(),
    });
    let hosts = disks.root.pod_directory(&pod.uid).join("etc-hosts");
    let rest = [
        machine::files_in(&disks.logs(pod)),
        machine::tree(&hosts).unwrap_or_default(),
    ];
    stats_of(
        now,
        disks.own,
        Some(parts.chain(rest).fold(Size::default(), Size::plus)),
    )
}

/// A volume's folder.
struct Volume {
    stats: VolumeStats,
    /// On the node's own disk, and removed with the pod.
    is_ephemeral: bool,
}

/// File systems, looked at once for one answer.
struct Disks<'a> {
    settings: &'a Settings,
    root: context::Settings,
    own: Option<FileSystem>,
    others: parking_lot::Mutex<HashMap<PathBuf, Option<FileSystem>>>,
}

impl<'a> Disks<'a> {
    fn new(settings: &'a Settings) -> Self {
        Self {
            own: machine::file_system(&settings.edged.root_directory),
            root: settings.edged.clone(),
            settings,
            others: parking_lot::Mutex::default(),
        }
    }

    fn logs(&self, pod: &Pod) -> PathBuf {
        self.settings
            .edged
            .pod_log_directory(&pod.namespace, &pod.name, &pod.uid)
    }

    fn of(&self, path: &Path) -> Option<FileSystem> {
        let mut others = self.others.lock();
        *others
            .entry(path.to_owned())
            .or_insert_with(|| machine::file_system(path))
    }

    /// What the runtime counted, on the file system that it names.
    fn written(&self, usage: &cri::FilesystemUsage) -> FsStats {
        let value = |number: &Option<cri::UInt64Value>| number.as_ref().map(|number| number.value);
        let disk = usage.fs_id.as_ref().and_then(|id| self.of(Path::new(&id.mountpoint)));
        FsStats {
            used_bytes: value(&usage.used_bytes),
            inodes_used: value(&usage.inodes_used),
            ..stats_of(Time(time(usage.timestamp)), disk, None)
        }
    }

    /// The volumes that edged made for a pod. Those of claims are left out: their names here are not those of the pod's spec.
    fn volumes(&self, uid: &str, now: Time) -> Vec<Volume> {
        let folder = self.root.pod_directory(uid).join("volumes");
        let own = device(&folder);
        let mut all = Vec::new();
        for kind in VOLUME_KINDS {
            let entries = std::fs::read_dir(folder.join(kind)).into_iter().flatten().flatten();
            for entry in entries {
                let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
                // A volume in memory (tmpfs) is a file system of its own.
                let is_mounted = device(&path) != own;
                let fs = if is_mounted {
                    let disk = machine::file_system(&path);
                    let used = disk.map(|disk| Size {
                        bytes: disk.used,
                        inodes: disk.inodes.saturating_sub(disk.inodes_free),
                    });
                    stats_of(now, disk, used)
                } else {
                    stats_of(now, self.own, machine::tree(&path))
                };
                let is_ephemeral = !is_mounted && matches!(*kind, EMPTY_DIR | CONFIG_MAP);
                let stats = VolumeStats { fs, name };
                all.push(Volume { stats, is_ephemeral });
            }
        }
        order::sort_by(&mut all, |a, b| a.stats.name.cmp(&b.stats.name));
        all
    }
}

const EMPTY_DIR: &str = "kubernetes.io~empty-dir";
const CONFIG_MAP: &str = "kubernetes.io~configmap";
const VOLUME_KINDS: &[&str] = &[
    EMPTY_DIR,
    CONFIG_MAP,
    "kubernetes.io~secret",
    "kubernetes.io~projected",
    "kubernetes.io~downward-api",
];

fn device(path: &Path) -> Option<u64> {
    std::fs::metadata(path)
        .ok()
        .map(|found| std::os::unix::fs::MetadataExt::dev(&found))
}

fn stats_of(at: Time, disk: Option<FileSystem>, size: Option<Size>) -> FsStats {
    FsStats {
        time: at,
        available_bytes: disk.map(|disk| disk.available),
        capacity_bytes: disk.map(|disk| disk.capacity),
        used_bytes: size.map(|size| size.bytes),
        inodes_free: disk.map(|disk| disk.inodes_free),
        inodes: disk.map(|disk| disk.inodes),
        inodes_used: size.map(|size| size.inodes),
    }
}

fn look_time(pod: &Pod) -> Timestamp {
    pod.sandbox.usage.map_or_else(Timestamp::now, |usage| usage.at)
}

fn cpu(usage: &Usage, rate: Option<u64>) -> Option<CpuStats> {
    usage.cpu.map(|cpu| CpuStats {
        time: Time(usage.at),
        usage_nano_cores: rate,
        usage_core_nano_seconds: Some(cpu.total),
    })
}

fn memory(usage: &Usage) -> Option<MemoryStats> {
    usage.memory.map(|memory| MemoryStats {
        time: Time(usage.at),
        available_bytes: memory.limit.map(|limit| limit.saturating_sub(memory.working_set)),
        usage_bytes: memory.usage,
        working_set_bytes: Some(memory.working_set),
        rss_bytes: memory.rss,
        page_faults: memory.page_faults,
        major_page_faults: memory.major_page_faults,
    })
}

fn swap(usage: &Usage) -> Option<SwapStats> {
    let memory = usage.memory?;
    Some(SwapStats {
        time: Time(usage.at),
        swap_available_bytes: memory
            .swap_limit
            .map(|limit| limit.saturating_sub(memory.swap.unwrap_or_default())),
        swap_usage_bytes: Some(memory.swap?),
    })
}

fn network(at: Timestamp, all: &[Interface]) -> Option<NetworkStats> {
    let stats = |one: &Interface| InterfaceStats {
        name: one.name.clone(),
        rx_bytes: Some(one.received.bytes),
        rx_errors: Some(one.received.errors),
        tx_bytes: Some(one.sent.bytes),
        tx_errors: Some(one.sent.errors),
    };
    (!all.is_empty()).then(|| NetworkStats {
        time: Time(at),
        default_interface: machine::default_interface(all).map(stats).unwrap_or_default(),
        interfaces: all.iter().map(stats).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::collect::example;
    use super::*;

    #[test]
    fn the_small_form_has_processors_and_memory_only() {
        let look = example();
        let summary = serde_json::to_value(small("edge", &look, &Rates::default())).expect("JSON");
        let keys = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().expect("an object").keys().cloned().collect()
        };
        assert_eq!(
            keys(&summary["node"]),
            ["cpu", "memory", "nodeName", "startTime", "systemContainers"]
        );
        let pod = &summary["pods"][0];
        assert_eq!(keys(pod), ["containers", "cpu", "memory", "podRef", "startTime"]);
        assert_eq!(keys(&pod["containers"][0]), ["cpu", "memory", "name", "startTime"]);
        assert_eq!(pod["containers"][0]["memory"]["availableBytes"], 9000);
        assert_eq!(pod["memory"]["time"], "2026-11-21T03:59:46Z");
    }

    #[test]
    fn the_full_form_counts_logs_and_volumes() {
        let folder = tempfile::tempdir().expect("a folder");
        let edged = context::Settings {
            root_directory: folder.path().join("kubelet"),
            pod_logs_directory: folder.path().join("logs"),
            ..context::Settings::default()
        };
        let put = |path: PathBuf| {
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, vec![1; 10_000]).expect("written");
        };
        put(edged.pod_log_directory("default", "web", "u1").join("main/0.log"));
        put(edged
            .pod_directory("u1")
            .join("volumes/kubernetes.io~empty-dir/scratch/file"));
        let settings = Settings {
            node: "edge".to_owned(),
            edged,
        };
        let summary = full(&settings, &example(), &Rates::default(), None);
        let pod = &summary.pods[0];
        let logs = pod.containers[0]
            .logs
            .as_ref()
            .expect("logs")
            .used_bytes
            .expect("known");
        let volume = &pod.volume[0];
        assert!(logs >= 10_000 && volume.name == "scratch");
        let used = volume.fs.used_bytes.expect("known");
        let ephemeral = pod.ephemeral_storage.as_ref().and_then(|all| all.used_bytes);
        assert_eq!(ephemeral, Some(logs + used));
        assert!(summary.node.rlimit.is_some_and(|limit| limit.curproc > Some(0)));
    }
}
