//! What the kernel and the disk say about this machine.

use std::fs;
use std::path::{Path, PathBuf};

use common::order;

/// What does not change while the program runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The firmware's id, or else the machine's.
    pub system_uuid: String,
    /// The kernel's random id of this boot.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel: String,
    /// `PRETTY_NAME` of os-release.
    pub os_image: String,
    /// In Go's words: `amd64`, `arm64`, `arm`.
    pub architecture: String,
    /// Processors.
    pub processors: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Sizes of huge pages with the bytes reserved in each.
    pub huge_pages: Vec<(String, i64)>,
}

/// What is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of memory that pods can still get.
    pub memory_available: i64,
    /// Bytes of the disk that holds the pods.
    pub disk_total: i64,
    /// Of which free.
    pub disk_available: i64,
    /// Inodes of it; 0 where the file system has no fixed number.
    pub inodes_total: i64,
    /// Of which free.
    pub inodes_available: i64,
    /// Threads that there may be; 0 where that cannot be told.
    pub pids_total: i64,
    /// Of which free.
    pub pids_available: i64,
}

/// The machine, so that tests can have another.
pub trait NodeFacts: Send + Sync {
    /// What does not change.
    fn machine(&self) -> Machine;
    /// What does.
    fn usage(&self) -> Usage;
}

/// This machine.
#[derive(Clone, Debug)]
pub struct SystemFacts {
    /// The folder whose disk counts: `rootDirectory`.
    pub root: PathBuf,
}

impl NodeFacts for SystemFacts {
    fn machine(&self) -> Machine {
        let machine_id = first_line(&["/etc/machine-id", "/var/lib/dbus/machine-id"]);
        let uuid = first_line(&["/sys/class/dmi/id/product_uuid", "/proc/device-tree/vm,uuid"]);
        Machine {
            system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
            machine_id,
            boot_id: first_line(&["/proc/sys/kernel/random/boot_id"]),
            kernel: first_line(&["/proc/sys/kernel/osrelease"]),
            os_image: os_image(),
            architecture: architecture().to_owned(),
            processors: processors(),
            memory: memory("MemTotal:"),
            huge_pages: huge_pages(Path::new("/sys/kernel/mm/hugepages")),
        }
    }

    fn usage(&self) -> Usage {
        let existing = self
            .root
            .ancestors()
            .find(|folder| folder.exists())
            .unwrap_or_else(|| Path::new("/"));
        let disk = rustix::fs::statvfs(existing).ok();
        let bytes = |blocks: u64| {
            disk.as_ref()
                .map_or(0, |disk| number(blocks.saturating_mul(disk.f_frsize)))
        };
        let (pids_total, pids_available) = match processes() {
            (Some(limit), Some(now)) => (limit, limit.saturating_sub(now)),
            _ => (0, 0),
        };
        Usage {
            memory_available: memory("MemAvailable:"),
            disk_total: bytes(disk.as_ref().map_or(0, |disk| disk.f_blocks)),
            disk_available: bytes(disk.as_ref().map_or(0, |disk| disk.f_bavail)),
            inodes_total: disk.as_ref().map_or(0, |disk| number(disk.f_files)),
            inodes_available: disk.as_ref().map_or(0, |disk| number(disk.f_favail)),
            pids_total,
            pids_available,
        }
    }
}

/// The architecture in Go's words.
pub(super) const fn architecture() -> &'static str {
    if cfg!(target_arch = "x86_64") {
        "amd64"
    } else if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        std::env::consts::ARCH
    }
}

fn first_line(paths: &[&str]) -> String {
    paths
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .filter_map(|text| {
            text.lines()
                .next()
                .map(|line| line.trim_matches(['\0', ' ']).to_owned())
        })
        .find(|line| !line.is_empty())
        .unwrap_or_default()
}

fn os_image() -> String {
    let text = fs::read_to_string("/etc/os-release")
        .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
        .unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map_or_else(
        || "Linux".to_owned(),
        |value| value.trim_matches(['"', '\'']).to_owned(),
    )
}

fn processors() -> i64 {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let listed = text.lines().filter(|line| line.starts_with("processor")).count();
    let count = if listed > 0 {
        listed
    } else {
        std::thread::available_parallelism().map_or(1, usize::from)
    };
    i64::try_from(count).unwrap_or(1)
}

/// How many threads there may be, and are.
pub(crate) fn processes() -> (Option<i64>, Option<i64>) {
    let limit = |name: &str| -> Option<i64> {
        let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
        text.trim().parse().ok()
    };
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let now = text
        .split_whitespace()
        .nth(3)
        .and_then(|part| part.split_once('/')?.1.parse().ok());
    (limit("pid_max").into_iter().chain(limit("threads-max")).min(), now)
}

fn memory(key: &str) -> i64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse::<i64>().ok());
    kib.unwrap_or_default().saturating_mul(1024)
}

/// Folders are named `hugepages-2048kB`; the resource `hugepages-2Mi`.
fn huge_pages(folder: &Path) -> Vec<(String, i64)> {
    let mut found: Vec<(String, i64)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kib: i64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let pages: i64 = fs::read_to_string(entry.path().join("nr_hugepages"))
                .ok()?
                .trim()
                .parse()
                .ok()?;
            let size = if kib % (1024 * 1024) == 0 {
                format!("{}Gi", kib / (1024 * 1024))
            } else if kib % 1024 == 0 {
                format!("{}Mi", kib / 1024)
            } else {
                format!("{kib}Ki")
            };
            Some((
                format!("hugepages-{size}"),
                pages.saturating_mul(kib).saturating_mul(1024),
            ))
        })
        .collect();
    order::sort(&mut found);
    found
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
