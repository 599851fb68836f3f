//! Cgroups as the kernel shows them: one hierarchy per controller (v1), or one for all (v2).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use common::order;
use rustix::process::{Pid, Signal, kill_process};
use tracing::debug;

use super::limits::Limits;
use super::{CgroupFacts, Tree, mount_root};

/// The hierarchies of this machine.
#[derive(Debug)]
pub(super) struct Kernel {
    root: PathBuf,
    unified: bool,
}

impl Kernel {
    pub(super) fn detect() -> Self {
        Self {
            root: mount_root(),
            unified: CgroupFacts::detect().unified,
        }
    }

    #[cfg(test)]
    pub(super) const fn at(root: PathBuf, unified: bool) -> Self {
        Self { root, unified }
    }

    /// Where the hierarchies begin. Several controllers may share one; links make it appear under each name.
    fn hierarchies(&self) -> Vec<PathBuf> {
        if self.unified {
            return vec![self.root.clone()];
        }
        let mut seen = BTreeSet::new();
        let paths = CONTROLLERS_V1
            .iter()
            .filter_map(|name| self.root.join(name).canonicalize().ok());
        paths.filter(|path| seen.insert(path.clone())).collect()
    }

    /// Controllers have to be handed down level by level.
    fn delegate(&self, path: &str) {
        let mut dir = self.root.clone();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let offered = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
            let active = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
            for name in CONTROLLERS_V2 {
                let has = |list: &str| list.split_whitespace().any(|known| known == name);
                if has(&offered) && !has(&active) {
                    // One by one: a single refusal would undo them all.
                    if let Err(error) = fs::write(dir.join("cgroup.subtree_control"), format!("+{name}")) {
                        debug!(cgroup = %dir.display(), controller = name, %error, "cannot hand a controller down");
                    }
                }
            }
            dir.push(part);
            let _ = fs::create_dir(&dir);
        }
    }

    fn files(&self, limits: &Limits) -> Vec<(&'static str, String, String)> {
        let mut all = Vec::new();
        let mut put =
            |controller: &'static str, file: &str, value: String| all.push((controller, file.to_owned(), value));
        if self.unified {
            if let Some(shares) = limits.cpu_shares {
                // The range of weights is 1 to 10000, that of shares 2 to 262144.
                put(
                    "cpu",
                    "cpu.weight",
                    (1 + (shares.max(2) - 2) * 9999 / 262_142).to_string(),
                );
            }
            if let Some((quota, period)) = limits.cpu_quota {
                let quota = if quota < 0 { "max".to_owned() } else { quota.to_string() };
                put("cpu", "cpu.max", format!("{quota} {period}"));
            }
            if let Some(bytes) = limits.memory {
                put(
                    "memory",
                    "memory.max",
                    if bytes > 0 { bytes.to_string() } else { "max".into() },
                );
            }
        } else {
            if let Some(shares) = limits.cpu_shares {
                put("cpu", "cpu.shares", shares.to_string());
            }
            if let Some((quota, period)) = limits.cpu_quota {
                put("cpu", "cpu.cfs_period_us", period.to_string());
                put("cpu", "cpu.cfs_quota_us", quota.to_string());
            }
            if let Some(bytes) = limits.memory {
                put(
                    "memory",
                    "memory.limit_in_bytes",
                    if bytes > 0 { bytes.to_string() } else { "-1".into() },
                );
            }
        }
        if let Some(pids) = limits.pids {
            put("pids", "pids.max", pids.to_string());
        }
        for (size, bytes) in &limits.hugepages {
            let file = if self.unified { "max" } else { "limit_in_bytes" };
            put("hugetlb", &format!("hugetlb.{size}.{file}"), bytes.to_string());
        }
        all
    }

    fn dirs(&self, path: &str) -> Vec<PathBuf> {
        let below = path.trim_start_matches('/');
        self.hierarchies().into_iter().map(|root| root.join(below)).collect()
    }
}

impl Tree for Kernel {
    fn apply(&self, path: &str, limits: &Limits) -> io::Result<()> {
        let below = path.trim_start_matches('/');
        if self.unified {
            self.delegate(path);
        }
        let mut made = 0_usize;
        let mut refusal = None;
        for dir in self.dirs(path) {
            match fs::create_dir_all(&dir).and_then(|()| fill_cpuset(&dir)) {
                Ok(()) => made += 1,
                Err(error) => refusal = Some(error),
            }
        }
        // Version 1 has several hierarchies, and a machine may refuse us some of them. One that took the folder is enough.
        if let Some(error) = refusal.filter(|_| made == 0) {
            return Err(error);
        }
        for (controller, file, value) in self.files(limits) {
            let dir = if self.unified {
                self.root.join(below)
            } else {
                self.root.join(controller).join(below)
            };
            let path = dir.join(file);
            // A controller that the kernel was built without limits nothing.
            if path.exists() {
                fs::write(&path, value)?;
            }
        }
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut outcome = Ok(());
        for dir in self.dirs(path).iter().filter(|dir| dir.is_dir()) {
            outcome = remove_tree(dir).and(outcome);
        }
        outcome
    }

    fn children(&self, path: &str) -> BTreeSet<String> {
        let dirs = self.dirs(path);
        let below = dirs.iter().flat_map(|dir| subfolders(dir));
        order::set(below.filter_map(|dir| Some(dir.file_name()?.to_str()?.to_owned())))
    }
}

/// A new cpuset of v1 is empty and takes no process: it gets what its parent has.
fn fill_cpuset(dir: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = dir.join(file);
        let Some(parent) = dir.parent().map(|parent| parent.join(file)) else {
            continue;
        };
        // Version 2 inherits by itself, and its parent may have no such file.
        if !own.exists() || !parent.exists() || !fs::read_to_string(&own)?.trim().is_empty() {
            continue;
        }
        let mut inherited = fs::read_to_string(&parent)?;
        if inherited.trim().is_empty() && dir.parent().is_some_and(|parent| parent.join("tasks").exists()) {
            fill_cpuset(dir.parent().unwrap_or(dir))?;
            inherited = fs::read_to_string(&parent)?;
        }
        if !inherited.trim().is_empty() {
            fs::write(&own, inherited.trim())?;
        }
    }
    Ok(())
}

/// Innermost first. A cgroup with processes cannot be removed; they are killed, and the caller comes again.
fn remove_tree(dir: &Path) -> io::Result<()> {
    let mut found = vec![dir.to_owned()];
    let mut next = 0;
    while let Some(folder) = found.get(next).cloned() {
        found.extend(subfolders(&folder));
        next += 1;
    }
    for folder in found.iter().rev() {
        for pid in fs::read_to_string(folder.join("cgroup.procs"))
            .unwrap_or_default()
            .lines()
        {
            if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        match fs::remove_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn subfolders(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

const CONTROLLERS_V1: [&str; 9] = [
    "cpu", "cpuacct", "memory", "pids", "hugetlb", "cpuset", "blkio", "devices", "systemd",
];
const CONTROLLERS_V2: [&str; 6] = ["cpuset", "cpu", "io", "memory", "pids", "hugetlb"];
