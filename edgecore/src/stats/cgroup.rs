//! What the kernel counts of a group of processes, by cgroup v1 or v2. Blocking.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::machine;
use crate::edged::cgroups::{CgroupFacts, CgroupNames, MOUNT};

/// Usage of one cgroup and all below it. What the kernel does not count is absent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Usage {
    pub(super) at: Timestamp,
    pub(super) cpu: Option<Cpu>,
    pub(super) memory: Option<Memory>,
    pub(super) processes: Option<u64>,
    pub(super) threads: Option<u64>,
}

/// Nanoseconds of processor time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cpu {
    pub(super) total: u64,
    pub(super) user: Option<u64>,
    pub(super) system: Option<u64>,
    /// Periods, those that were cut short, nanoseconds waited; where there is a limit.
    pub(super) throttled: Option<(u64, u64, u64)>,
}

/// Bytes, but for faults, failures and kills, which are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) usage: Option<u64>,
    pub(super) working_set: u64,
    pub(super) rss: Option<u64>,
    pub(super) cache: Option<u64>,
    pub(super) mapped_file: Option<u64>,
    pub(super) swap: Option<u64>,
    pub(super) peak: Option<u64>,
    pub(super) failures: Option<u64>,
    pub(super) oom_kills: Option<u64>,
    pub(super) page_faults: Option<u64>,
    pub(super) major_page_faults: Option<u64>,
    /// Absent without a limit.
    pub(super) limit: Option<u64>,
    pub(super) swap_limit: Option<u64>,
}

/// The hierarchies of this machine.
#[derive(Clone, Debug)]
pub(super) struct Cgroups {
    root: PathBuf,
    unified: bool,
}

/// Where pods and containers are, as paths below the hierarchies' root.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    /// What holds others: `kubepods` and its levels of service.
    pub(super) levels: Vec<String>,
    /// By uid.
    pub(super) pods: HashMap<String, String>,
    /// By the runtime's id, sandboxes too.
    pub(super) containers: HashMap<String, String>,
}

impl Cgroups {
    pub(super) fn detect() -> Self {
        Self {
            root: MOUNT.into(),
            unified: CgroupFacts::detect().unified,
        }
    }

    #[cfg(test)]
    pub(super) const fn at(root: PathBuf, unified: bool) -> Self {
        Self { root, unified }
    }

    /// Looks at one. `None` where it does not exist.
    pub(super) fn usage(&self, path: &str) -> Option<Usage> {
        let at = Timestamp::now();
        let processes = self.processes(path);
        let (cpu, memory) = if self.unified {
            (self.cpu_v2(path), self.memory_v2(path))
        } else {
            (self.cpu_v1(path), self.memory_v1(path))
        };
        // Boards often run without the controller for memory.
        let memory = memory.or_else(|| machine::resident(processes.as_deref()?));
        (cpu.is_some() || memory.is_some()).then(|| Usage {
            at,
            cpu,
            memory,
            processes: processes.map(|all| all.len() as u64),
            threads: number(&self.folder("pids", path).join("pids.current")),
        })
    }

    /// When it was made.
    pub(super) fn created(&self, path: &str) -> Timestamp {
        let modified = fs::metadata(self.listing(path)).and_then(|folder| folder.modified());
        modified.ok().and_then(|at| at.try_into().ok()).unwrap_or_default()
    }

    /// The processes directly in a cgroup.
    pub(super) fn processes(&self, path: &str) -> Option<Vec<u32>> {
        let text = fs::read_to_string(self.listing(path).join("cgroup.procs")).ok()?;
        Some(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Finds pods and containers below what holds all pods.
    pub(super) fn places(&self, names: &CgroupNames) -> Places {
        let mut places = Places::default();
        self.walk(names, names.root(), MAX_DEPTH, &mut places);
        places
    }

    fn walk(&self, names: &CgroupNames, path: String, depth: u8, places: &mut Places) {
        let Ok(entries) = fs::read_dir(self.listing(&path)) else {
            return;
        };
        let folders = entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        for name in folders.filter_map(|entry| entry.file_name().into_string().ok()) {
            let below = format!("{}/{name}", path.trim_end_matches('/'));
            if let Some(id) = container_id(&name) {
                places.containers.insert(id.to_owned(), below);
                continue;
            }
            if let Some(uid) = names.pod_uid(&name) {
                places.pods.insert(uid, below.clone());
            }
            if depth > 0 {
                self.walk(names, below, depth - 1, places);
            }
        }
        if depth >= MAX_DEPTH - 1 && !places.pods.values().any(|pod| *pod == path) {
            places.levels.push(path);
        }
    }

    /// One hierarchy that has all groups.
    fn listing(&self, path: &str) -> PathBuf {
        let folder = self.folder("cpuacct", path);
        if self.unified || folder.exists() {
            return folder;
        }
        self.folder("memory", path)
    }

    fn folder(&self, controller: &str, path: &str) -> PathBuf {
        let root = if self.unified {
            self.root.clone()
        } else {
            self.root.join(controller)
        };
        root.join(path.trim_start_matches('/'))
    }

    fn cpu_v1(&self, path: &str) -> Option<Cpu> {
        let folder = self.folder("cpuacct", path);
        let ticks = Values::read(&folder.join("cpuacct.stat"));
        let time = |file: &str, key: &str| {
            number(&folder.join(file)).or_else(|| Some(ticks.get(key)?.saturating_mul(NANOS_PER_TICK)))
        };
        let stat = Values::read(&self.folder("cpu", path).join("cpu.stat"));
        Some(Cpu {
            total: number(&folder.join("cpuacct.usage"))?,
            user: time("cpuacct.usage_user", "user"),
            system: time("cpuacct.usage_sys", "system"),
            throttled: stat.throttled("throttled_time", 1),
        })
    }

    fn cpu_v2(&self, path: &str) -> Option<Cpu> {
        let stat = Values::read(&self.folder("cpu", path).join("cpu.stat"));
        let nanos = |key| Some(stat.get(key)?.saturating_mul(1000));
        Some(Cpu {
            total: nanos("usage_usec")?,
            user: nanos("user_usec"),
            system: nanos("system_usec"),
            throttled: stat.throttled("throttled_usec", 1000),
        })
    }

    fn memory_v1(&self, path: &str) -> Option<Memory> {
        let folder = self.folder("memory", path);
        let file = |name: &str| number(&folder.join(name));
        let usage = file("memory.usage_in_bytes")?;
        let stat = Values::read(&folder.join("memory.stat"));
        Some(Memory {
            usage: Some(usage),
            working_set: usage.saturating_sub(stat.get("total_inactive_file").unwrap_or_default()),
            rss: stat.get("total_rss"),
            cache: stat.get("total_cache"),
            mapped_file: stat.get("total_mapped_file"),
            swap: stat.get("total_swap"),
            peak: file("memory.max_usage_in_bytes"),
            failures: file("memory.failcnt"),
            oom_kills: Values::read(&folder.join("memory.oom_control")).get("oom_kill"),
            page_faults: stat.get("total_pgfault"),
            major_page_faults: stat.get("total_pgmajfault"),
            limit: file("memory.limit_in_bytes").filter(is_limit),
            swap_limit: file("memory.memsw.limit_in_bytes").filter(is_limit),
        })
    }

    fn memory_v2(&self, path: &str) -> Option<Memory> {
        let folder = self.folder("memory", path);
        let file = |name: &str| number(&folder.join(name));
        let usage = file("memory.current")?;
        let stat = Values::read(&folder.join("memory.stat"));
        let events = Values::read(&folder.join("memory.events"));
        Some(Memory {
            usage: Some(usage),
            working_set: usage.saturating_sub(stat.get("inactive_file").unwrap_or_default()),
            rss: stat.get("anon"),
            cache: stat.get("file"),
            mapped_file: stat.get("file_mapped"),
            swap: file("memory.swap.current"),
            peak: file("memory.peak"),
            failures: events.get("max"),
            oom_kills: events.get("oom_kill"),
            page_faults: stat.get("pgfault"),
            major_page_faults: stat.get("pgmajfault"),
            // Without a limit the file says `max`.
            limit: file("memory.max"),
            swap_limit: file("memory.swap.max"),
        })
    }
}

/// Lines of a name and a number.
struct Values(String);

impl Values {
    fn read(path: &Path) -> Self {
        Self(fs::read_to_string(path).unwrap_or_default())
    }

    fn get(&self, key: &str) -> Option<u64> {
        let line = self
            .0
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
        line.trim().parse().ok()
    }

    fn throttled(&self, key: &str, factor: u64) -> Option<(u64, u64, u64)> {
        let periods = self.get("nr_periods").filter(|periods| *periods > 0)?;
        Some((
            periods,
            self.get("nr_throttled")?,
            self.get(key)?.saturating_mul(factor),
        ))
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Version 1 writes a very large number, rounded to pages, where there is no limit.
const fn is_limit(bytes: &u64) -> bool {
    *bytes < 1 << 62
}

/// `<id>` or `cri-containerd-<id>.scope`.
fn container_id(folder: &str) -> Option<&str> {
    let name = folder.strip_suffix(".scope").unwrap_or(folder);
    let id = name.rsplit_once('-').map_or(name, |(_, id)| id);
    let is_id = id.len() == ID_LENGTH && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then_some(id)
}

/// From what holds all pods down: a level of service, a pod, a container.
const MAX_DEPTH: u8 = 2;
/// Of a container's id.
const ID_LENGTH: usize = 64;
/// The kernel's clock ticks are a hundredth of a second for programs, whatever it uses itself.
const NANOS_PER_TICK: u64 = 10_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edged::context::CgroupDriver;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn version_2_is_read() {
        let root = tempfile::tempdir().expect("a folder");
        write(
            root.path(),
            "a/cpu.stat",
            "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnr_periods 4\nnr_throttled 2\nthrottled_usec 7\n",
        );
        write(root.path(), "a/memory.current", "1000\n");
        write(
            root.path(),
            "a/memory.stat",
            "anon 300\nfile 200\ninactive_file 100\npgfault 9\npgmajfault 1\n",
        );
        write(root.path(), "a/memory.max", "max\n");
        write(root.path(), "a/memory.events", "max 3\noom 1\noom_kill 2\n");
        write(root.path(), "a/cgroup.procs", "1\n2\n");
        write(root.path(), "a/pids.current", "5\n");
        let usage = Cgroups::at(root.path().into(), true).usage("/a").expect("it is there");
        let cpu = Cpu {
            total: 1_500_000,
            user: Some(1_000_000),
            system: Some(500_000),
            throttled: Some((4, 2, 7000)),
        };
        assert_eq!(usage.cpu, Some(cpu));
        let memory = usage.memory.expect("memory");
        assert_eq!((memory.working_set, memory.rss, memory.limit), (900, Some(300), None));
        assert_eq!(
            (memory.failures, memory.oom_kills, memory.major_page_faults),
            (Some(3), Some(2), Some(1))
        );
        assert_eq!((usage.processes, usage.threads), (Some(2), Some(5)));
        assert_eq!(Cgroups::at(root.path().into(), true).usage("/gone"), None);
    }

    #[test]
    fn version_1_is_read_and_its_unlimited_is_no_limit() {
        let root = tempfile::tempdir().expect("a folder");
        write(root.path(), "cpuacct/a/cpuacct.usage", "77\n");
        write(root.path(), "cpuacct/a/cpuacct.stat", "user 3\nsystem 1\n");
        write(
            root.path(),
            "cpu/a/cpu.stat",
            "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n",
        );
        write(root.path(), "memory/a/memory.usage_in_bytes", "1000\n");
        write(
            root.path(),
            "memory/a/memory.stat",
            "inactive_file 1\ntotal_inactive_file 400\ntotal_rss 5\n",
        );
        write(root.path(), "memory/a/memory.limit_in_bytes", "9223372036854771712\n");
        let usage = Cgroups::at(root.path().into(), false).usage("a").expect("it is there");
        let cpu = Cpu {
            total: 77,
            user: Some(30_000_000),
            system: Some(10_000_000),
            throttled: None,
        };
        assert_eq!(usage.cpu, Some(cpu));
        let memory = usage.memory.expect("memory");
        assert_eq!((memory.working_set, memory.rss, memory.limit), (600, Some(5), None));
    }

    #[test]
    fn pods_and_containers_are_found_under_either_driver() {
        let id = "ab".repeat(32);
        for (driver, pod, container) in [
            (CgroupDriver::Cgroupfs, "kubepods/burstable/podu-1", id.clone()),
            (
                CgroupDriver::Systemd,
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podu_1.slice",
                format!("cri-containerd-{id}.scope"),
            ),
        ] {
            let root = tempfile::tempdir().expect("a folder");
            write(root.path(), &format!("{pod}/{container}/cgroup.procs"), "");
            let places = Cgroups::at(root.path().into(), true).places(&CgroupNames::new(driver, "/", true));
            assert_eq!(places.pods.get("u-1"), Some(&format!("/{pod}")));
            assert_eq!(places.containers.get(&id), Some(&format!("/{pod}/{container}")));
            assert_eq!(places.levels.len(), 2, "{:?}", places.levels);
        }
    }
}
