//! Hosts on one machine: the control plane and the cloud live in the network namespace of the run (the demo: of the machine),
//! each edge in one of its own, joined by a link with 10.250.N.1/24 at the cloud's end and 10.250.N.2/24 at the edge's; where IPv6 is
//! asked for, fd00:250:N::1/64 and fd00:250:N::2/64. N is unique on the machine while the namespace exists. Also the edge's cgroups.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::process::{self, call};
use crate::{run, wait};

/// Moves this process, and all that it starts from now on, to a network namespace without a name: redirect rules and ports of
/// one run are then unknown to other runs and to the machine. It has a default route, which leads nowhere, because programs
/// take their own address from it. Must be called before the first thread is started.
pub fn isolate() -> Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET).context("a network namespace for the run")?;
    for arguments in [
        "link set lo up",
        "link add uplink type veth peer name nowhere",
        "addr add 198.18.0.1/24 dev uplink",
        "link set uplink up",
        "link set nowhere up",
        "route add default dev uplink",
    ] {
        call("ip", &arguments.split(' ').collect::<Vec<_>>())?;
    }
    Ok(())
}

/// The number of an edge's host on this machine; all its global names derive from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostNumber(u8);

impl HostNumber {
    /// Takes the first free number, makes its network namespace and writes the number to `file`, by which anybody can give it back.
    pub fn take(file: &Path) -> Result<Self> {
        std::fs::create_dir_all(run::base())?;
        let _lock = process::lock(&run::base().join("lock"))?;
        let addresses = call("ip", &["-4", "-o", "addr"])?;
        for number in 0..=254 {
            let host = Self(number);
            if !host.netns_path().exists() && !addresses.contains(&format!(" 10.250.{number}.")) {
                std::fs::write(file, host.to_string()).with_context(|| format!("{}", file.display()))?;
                call("ip", &["netns", "add", &host.netns()])?;
                host.inside(&["link", "set", "lo", "up"])?;
                return Ok(host);
            }
        }
        bail!("all 255 host numbers are taken: see `ip netns`")
    }

    /// The number that a file holds.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
        Ok(Self(
            text.trim().parse().with_context(|| format!("{}", file.display()))?,
        ))
    }

    /// Name of the network namespace.
    #[must_use]
    pub fn netns(self) -> String {
        format!("ke2e-{self}")
    }

    /// Its file.
    #[must_use]
    pub fn netns_path(self) -> PathBuf {
        Path::new("/run/netns").join(self.netns())
    }

    /// The cloud's end of the link.
    #[must_use]
    pub fn interface(self) -> String {
        format!("ke2e{self}")
    }

    /// The cloud's address on this link.
    #[must_use]
    pub fn cloud_address(self) -> String {
        format!("10.250.{self}.1")
    }

    /// The edge's address.
    #[must_use]
    pub fn address(self) -> String {
        format!("10.250.{self}.2")
    }

    /// The cloud's address on this link after [`Self::change_to_ipv6`].
    /// With a digit before the number, as nobody prints a group of 0.
    #[must_use]
    pub fn cloud_address_v6(self) -> String {
        format!("fd00:250:1{self}::1")
    }

    /// The edge's address after [`Self::change_to_ipv6`].
    #[must_use]
    pub fn address_v6(self) -> String {
        format!("fd00:250:1{self}::2")
    }

    /// First three parts of the addresses of the edge's pods.
    #[must_use]
    pub fn pod_prefix(self) -> String {
        format!("10.244.{self}")
    }

    /// Runs `ip` inside the namespace.
    pub fn inside(self, arguments: &[&str]) -> Result<String> {
        let netns = self.netns();
        let mut all = vec!["-n", netns.as_str()];
        all.extend_from_slice(arguments);
        call("ip", &all)
    }

    /// Makes the link as a veth pair.
    pub fn make_veth(self) -> Result<()> {
        let (interface, peer) = (self.interface(), format!("ke2e{self}e"));
        call(
            "ip",
            &[
                "link",
                "add",
                &interface,
                "type",
                "veth",
                "peer",
                "name",
                &peer,
                "netns",
                &self.netns(),
            ],
        )?;
        self.inside(&["link", "set", &peer, "name", "eth0"])?;
        self.configure_link()
    }

    /// Makes the cloud's end of a link whose other end is in a kernel of its own.
    pub fn make_tap(self) -> Result<()> {
        let (interface, address) = (self.interface(), format!("{}/24", self.cloud_address()));
        call("ip", &["tuntap", "add", &interface, "mode", "tap"])?;
        call("ip", &["addr", "add", &address, "dev", &interface])?;
        self.set_link(true)
    }

    /// Gives both ends of a link their addresses and brings them up.
    pub fn configure_link(self) -> Result<()> {
        let interface = self.interface();
        call(
            "ip",
            &[
                "addr",
                "add",
                &format!("{}/24", self.cloud_address()),
                "dev",
                &interface,
            ],
        )?;
        call("ip", &["link", "set", &interface, "up"])?;
        self.inside(&["addr", "add", &format!("{}/24", self.address()), "dev", "eth0"])?;
        self.inside(&["link", "set", "eth0", "up"])?;
        self.inside(&["route", "add", "default", "via", &self.cloud_address(), "dev", "eth0"])?;
        Ok(())
    }

    /// Gives both ends of the link IPv6, and takes IPv4 from the edge's.
    pub fn change_to_ipv6(self) -> Result<()> {
        let (cloud, edge) = (self.cloud_address_v6(), self.address_v6());
        // Nobody else can have these addresses: there is no waiting for an objection.
        let add = |address: &str, device: &str| {
            let address = format!("{address}/64");
            ["-6", "addr", "add", &address, "dev", device, "nodad"]
                .map(str::to_owned)
                .to_vec()
        };
        process::run(Command::new("ip").args(add(&cloud, &self.interface())))?;
        self.inside(&add(&edge, "eth0").iter().map(String::as_str).collect::<Vec<_>>())?;
        self.inside(&["-4", "addr", "flush", "dev", "eth0"])?;
        self.inside(&["-6", "route", "add", "default", "via", &cloud, "dev", "eth0"])
            .map(drop)
    }

    /// Takes the cloud's end down, or up again.
    pub fn set_link(self, up: bool) -> Result<()> {
        call(
            "ip",
            &["link", "set", &self.interface(), if up { "up" } else { "down" }],
        )
        .map(drop)
    }

    /// Ends the processes of the host whose number `file` holds, removes its cgroups, link and namespace, and the file with them: a
    /// file that stayed would soon name somebody else's host. What is not there is no error.
    pub fn give_back(file: &Path) -> Result<()> {
        if !file.exists() {
            return Ok(());
        }
        let host = Self::read(file)?;
        host.cgroup().kill()?;
        host.cgroup().remove()?;
        host.remove()?;
        std::fs::remove_file(file).with_context(|| format!("{}", file.display()))
    }

    fn remove(self) -> Result<()> {
        if self.netns_path().exists() {
            // An open TUN descriptor keeps its namespace: the interface goes first.
            let _ = self.inside(&["link", "del", "eth0"]);
            call("ip", &["netns", "del", &self.netns()])?;
        }
        let _ = call("ip", &["link", "del", &self.interface()]);
        Ok(())
    }

    /// The edge's cgroups: `/ke2e-N` in every hierarchy, pods below `kubepods`, all else in `system`.
    #[must_use]
    pub fn cgroup(self) -> Cgroup {
        Cgroup { name: self.netns() }
    }
}

impl fmt::Display for HostNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A cgroup of an edge, in all hierarchies of version 1 or in the only one of version 2.
#[derive(Clone, Debug)]
pub struct Cgroup {
    name: String,
}

const MOUNT: &str = "/sys/fs/cgroup";

impl Cgroup {
    fn unified() -> bool {
        Path::new(MOUNT).join("cgroup.controllers").exists()
    }

    /// The folder whose cgroup.procs tell which processes are the edge's.
    fn main(&self) -> PathBuf {
        if Self::unified() {
            Path::new(MOUNT).join(&self.name)
        } else {
            Path::new(MOUNT).join("pids").join(&self.name)
        }
    }

    fn folders(&self) -> Vec<PathBuf> {
        if Self::unified() {
            return vec![self.main()];
        }
        let hierarchies = std::fs::read_dir(MOUNT)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        hierarchies
            .filter(|folder| folder.join("cgroup.procs").exists())
            .map(|folder| folder.join(&self.name))
            .collect()
    }

    /// Its path below each hierarchy's root, as `cgroupRoot` wants it.
    #[must_use]
    pub fn root(&self) -> String {
        format!("/{}", self.name)
    }

    /// Where a process writes its pid to become one of the edge's.
    #[must_use]
    pub fn system_procs(&self) -> PathBuf {
        self.main().join("system/cgroup.procs")
    }

    /// One below it.
    #[must_use]
    pub fn below(&self, part: &str) -> Self {
        Self {
            name: format!("{}/{part}", self.name),
        }
    }

    /// Creates it, with the part for all but pods.
    pub fn create(&self) -> Result<()> {
        self.make()?;
        std::fs::create_dir_all(self.main().join("system")).with_context(|| format!("{}", self.main().display()))
    }

    /// Creates it, empty.
    pub fn make(&self) -> Result<()> {
        for folder in self.folders() {
            // A named hierarchy may be read-only for us; the edge does without.
            if std::fs::create_dir_all(&folder).is_err() {
                continue;
            }
            let parent = folder.parent().context("a cgroup has a parent")?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let (false, Ok(text)) = (Self::unified(), std::fs::read_to_string(parent.join(file))) {
                    std::fs::write(folder.join(file), text)?;
                }
            }
        }
        if Self::unified() {
            for folder in [Path::new(MOUNT), &self.main()] {
                for controller in ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"] {
                    // Controllers that this kernel has not got are refused one by one.
                    let _ = std::fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
                }
            }
        }
        Ok(())
    }

    /// All processes in it, in the part given ("" for all).
    #[must_use]
    pub fn processes(&self, part: &str) -> Vec<Pid> {
        let mut found = Vec::new();
        collect(&self.main().join(part), &mut found);
        found
    }

    /// Kills all processes in it, containers first so that no shim sees them end in an orderly way.
    pub fn kill(&self) -> Result<()> {
        for part in ["kubepods", ""] {
            wait::quietly(
                &format!("the end of all processes in cgroup {}", self.name),
                wait::seconds(60),
                || {
                    let pids = self.processes(part);
                    for pid in &pids {
                        process::signal(*pid, Signal::SIGKILL);
                    }
                    Ok(pids.is_empty().then_some(()))
                },
            )?;
        }
        Ok(())
    }

    /// Removes it, once it is empty.
    pub fn remove(&self) -> Result<()> {
        wait::quietly(&format!("removal of cgroup {}", self.name), wait::seconds(60), || {
            let folders = self.folders();
            for folder in &folders {
                remove_tree(folder);
            }
            Ok(folders.iter().all(|folder| !folder.exists()).then_some(()))
        })
    }
}

fn subfolders(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
}

fn collect(folder: &Path, found: &mut Vec<Pid>) {
    let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.parse().ok()).map(Pid::from_raw));
    for below in subfolders(folder) {
        collect(&below, found);
    }
}

fn remove_tree(folder: &Path) {
    for below in subfolders(folder) {
        remove_tree(&below);
    }
    // Still busy: the caller looks again.
    let _ = std::fs::remove_dir(folder);
}
