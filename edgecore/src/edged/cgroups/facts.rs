//! What the kernel of this machine can limit.

use std::fs;
use std::path::Path;

use common::order;

use crate::edged::podspec::page_size_name;

/// What the kernel of this machine can limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupFacts {
    /// Whether there is only the one hierarchy of cgroup v2.
    pub unified: bool,
    /// Whether swap can be limited.
    pub swap_controller: bool,
    /// Sizes of huge pages as cgroups name them: `2MB`, `1GB`.
    pub hugepage_sizes: Vec<String>,
}

impl CgroupFacts {
    /// Looks at the machine.
    pub fn detect() -> Self {
        let unified = is_unified();
        Self {
            unified,
            swap_controller: has_swap_controller(unified),
            hugepage_sizes: hugepage_sizes(),
        }
    }
}

/// Where cgroups are mounted.
pub const MOUNT: &str = "/sys/fs/cgroup";

fn is_unified() -> bool {
    rustix::fs::statfs(MOUNT).is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|kind| kind == CGROUP2_MAGIC))
}

fn has_swap_controller(unified: bool) -> bool {
    if !unified {
        return Path::new(MOUNT).join("memory/memory.memsw.limit_in_bytes").exists();
    }
    // In version 2 the root cgroup has no memory.swap.max: the one of this process's own cgroup is looked at.
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap_or_default();
    Path::new(MOUNT).join(own).join("memory.swap.max").exists()
}

fn hugepage_sizes() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else {
        return Vec::new();
    };
    let names = entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        let kib: i64 = name
            .to_str()?
            .strip_prefix("hugepages-")?
            .strip_suffix("kB")?
            .parse()
            .ok()?;
        Some(page_size_name(kib.checked_mul(1024)?))
    });
    let mut names: Vec<String> = names.collect();
    order::sort(&mut names);
    names
}

/// `CGROUP2_SUPER_MAGIC`.
const CGROUP2_MAGIC: u64 = 0x6367_7270;
