//! What `/proc` and the file systems tell of the machine and of the network of a process. Blocking.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use jiff::Timestamp;

use super::cgroup::{Memory, Usage};

/// What a network interface counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) received: Traffic,
    pub(super) sent: Traffic,
}

/// In one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) bytes: u64,
    pub(super) packets: u64,
    pub(super) errors: u64,
    pub(super) dropped: u64,
}

/// A file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FileSystem {
    pub(super) capacity: u64,
    pub(super) available: u64,
    pub(super) used: u64,
    pub(super) inodes: u64,
    pub(super) inodes_free: u64,
}

/// Something on a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

/// Bytes of a line of `/proc/meminfo`.
pub(super) fn meminfo(key: &str) -> Option<u64> {
    kibibytes(&fs::read_to_string("/proc/meminfo").ok()?, key)
}

/// Bytes of a line like `MemTotal:  16 kB`.
fn kibibytes(text: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib.saturating_mul(1024))
}

/// The machine where the root of the cgroups does not count it: processors from the kernel's sums, memory from what is free.
pub(super) fn complete(root: Option<Usage>) -> Usage {
    let mut usage = root.unwrap_or_else(|| Usage {
        at: Timestamp::now(),
        cpu: None,
        memory: None,
        processes: None,
        threads: None,
    });
    let total = meminfo("MemTotal");
    if usage.cpu.is_none() {
        usage.cpu = fs::read_to_string("/proc/stat").ok().as_deref().and_then(busy);
    }
    if usage.memory.is_none() {
        let taken = total
            .zip(meminfo("MemFree"))
            .map(|(total, free)| total.saturating_sub(free));
        usage.memory = taken.map(|taken| Memory {
            usage: Some(taken),
            working_set: taken.saturating_sub(meminfo("Inactive(file)").unwrap_or_default()),
            rss: meminfo("AnonPages"),
            cache: meminfo("Cached"),
            ..Memory::default()
        });
    }
    if let Some(memory) = &mut usage.memory {
        memory.limit = total;
        memory.swap_limit = meminfo("SwapTotal");
        memory.swap = memory
            .swap_limit
            .zip(meminfo("SwapFree"))
            .map(|(total, free)| total.saturating_sub(free));
    }
    usage
}

fn busy(stat: &str) -> Option<super::cgroup::Cpu> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|tick| tick.parse().ok()).collect();
    let sum = |columns: &[usize]| {
        let ticks: u64 = columns.iter().filter_map(|column| ticks.get(*column)).sum();
        ticks.saturating_mul(10_000_000)
    };
    // user, nice, system, idle, iowait, irq, softirq, steal
    let (user, system) = (sum(&[0, 1]), sum(&[2, 5, 6]));
    Some(super::cgroup::Cpu {
        total: user.saturating_add(system),
        user: Some(user),
        system: Some(system),
        throttled: None,
    })
}

/// Memory of processes where no cgroup counts it: what they have in memory, shared pages counted for each.
pub(super) fn resident(processes: &[u32]) -> Option<Memory> {
    let bytes = processes.iter().filter_map(|pid| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        kibibytes(&text, "VmRSS")
    });
    let working_set: u64 = bytes.sum();
    (working_set > 0).then(|| Memory {
        working_set,
        rss: Some(working_set),
        ..Memory::default()
    })
}

/// When the machine was started.
pub(super) fn boot_time() -> Timestamp {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let seconds = text
        .lines()
        .find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
    seconds
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .unwrap_or_default()
}

/// The interfaces in the network of a process, or of this one; without those that only lead to containers.
pub(super) fn interfaces(pid: Option<u32>) -> Vec<Interface> {
    let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let text = fs::read_to_string(format!("/proc/{process}/net/dev")).unwrap_or_default();
    text.lines()
        .filter_map(interface)
        .filter(|one| !is_inner(&one.name))
        .collect()
}

/// Whether a process is in the machine's own network.
pub(super) fn in_host_network(pid: u32) -> bool {
    let network = |process: &str| {
        fs::metadata(format!("/proc/{process}/ns/net"))
            .map(|net| net.ino())
            .ok()
    };
    network(&pid.to_string()) == network("self")
}

fn interface(line: &str) -> Option<Interface> {
    let (name, numbers) = line.split_once(':')?;
    let numbers: Vec<u64> = numbers.split_whitespace().map_while(|one| one.parse().ok()).collect();
    let traffic = |first: usize| {
        let column = |index: usize| numbers.get(first + index).copied().unwrap_or_default();
        Traffic {
            bytes: column(0),
            packets: column(1),
            errors: column(2),
            dropped: column(3),
        }
    };
    (numbers.len() >= 12).then(|| Interface {
        name: name.trim().to_owned(),
        received: traffic(0),
        sent: traffic(8),
    })
}

fn is_inner(name: &str) -> bool {
    name == "lo"
        || ["veth", "docker", "nerdctl"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// The interface that leads outside: `eth0` as kubelets take it, else that of the default route.
pub(super) fn default_interface(all: &[Interface]) -> Option<&Interface> {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let named = |name: &str| all.iter().find(|one| one.name == name);
    named("eth0").or_else(|| {
        let mut columns = routes.lines().map(str::split_whitespace);
        let name = columns.find_map(|mut line| line.next().filter(|_| line.next() == Some("00000000")))?;
        named(name)
    })
}

/// The file system that holds a path, or its nearest parent that exists.
pub(super) fn file_system(path: &Path) -> Option<FileSystem> {
    let existing = path.ancestors().find(|folder| folder.exists())?;
    let stat = rustix::fs::statvfs(existing).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Some(FileSystem {
        capacity: bytes(stat.f_blocks),
        available: bytes(stat.f_bavail),
        used: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
        inodes: stat.f_files,
        inodes_free: stat.f_ffree,
    })
}

/// What the files directly in a folder take.
pub(super) fn files_in(folder: &Path) -> Size {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries
        .filter_map(|entry| entry.metadata().ok())
        .filter(fs::Metadata::is_file);
    files.fold(Size::default(), |sum, file| sum.with(&file))
}

/// What a folder takes with all below it, on its file system. A file with several names counts once for each.
pub(super) fn tree(root: &Path) -> Option<Size> {
    let top = fs::symlink_metadata(root).ok()?;
    let mut sum = Size::default().with(&top);
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            // On an overlay files have other devices than folders.
            if metadata.is_dir() && metadata.dev() != top.dev() {
                continue;
            }
            sum = sum.with(&metadata);
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Some(sum)
}

impl Size {
    pub(super) const fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            inodes: self.inodes.saturating_add(other.inodes),
        }
    }

    fn with(self, file: &fs::Metadata) -> Self {
        self.plus(Self {
            bytes: file.blocks().saturating_mul(512),
            inodes: 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read() {
        let line = "  eth0: 894249184   42455    1    2    0     0          0         0  3469494   9000    3    4    0     0       0          0";
        let found = interface(line).expect("an interface");
        assert_eq!(found.name, "eth0");
        assert_eq!(
            (
                found.received.bytes,
                found.received.packets,
                found.received.errors,
                found.received.dropped
            ),
            (894_249_184, 42_455, 1, 2)
        );
        assert_eq!(
            (
                found.sent.bytes,
                found.sent.packets,
                found.sent.errors,
                found.sent.dropped
            ),
            (3_469_494, 9000, 3, 4)
        );
        assert_eq!(interface(" face |bytes    packets errs drop"), None);
        assert!(is_inner("veth12") && is_inner("lo") && !is_inner("wlan0"));
    }

    #[test]
    fn processor_time_of_the_machine_leaves_idling_out() {
        let cpu = busy("cpu  100 10 50 9000 500 5 5 7 0 0\ncpu0 1 1 1 1\n").expect("numbers");
        assert_eq!(
            (cpu.user, cpu.system, cpu.total),
            (Some(1_100_000_000), Some(600_000_000), 1_700_000_000)
        );
    }

    #[test]
    fn a_tree_is_summed_up() {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir(root.path().join("a")).expect("made");
        fs::write(root.path().join("a/file"), vec![1; 10_000]).expect("written");
        fs::write(root.path().join("file"), vec![1; 10_000]).expect("written");
        let all = tree(root.path()).expect("it is there");
        assert_eq!(all.inodes, 4);
        assert_eq!(files_in(root.path()).inodes, 1);
        assert_eq!(tree(&root.path().join("gone")), None);
    }
}
