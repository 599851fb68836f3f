//! A host on which nothing of KubeEdge is installed: `/` is an overlay of the machine's and PID 1 its own, so that what an
//! operator types (keadm, systemctl, journalctl) can be typed on it and changes nothing outside.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::Pid;

use super::{BUSYBOX, NUMBER, PAUSE, files, teardown};
use crate::hosts::HostNumber;
use crate::process::{self, Daemon};
use crate::settings::Settings;
use crate::wait;

/// PID 1 of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// A real systemd, with containerd as its service.
    Systemd,
    /// A process that only waits for its children; containerd is a process beside it.
    Plain,
}

/// Where the programs under test are on the host.
pub const PROGRAMS: &str = "/opt/kubeedge";

/// A fresh host with a running containerd. Dropping it stops everything on it and removes what was installed.
#[derive(Debug)]
pub struct FreshHost {
    name: String,
    folder: PathBuf,
    number: HostNumber,
    init: Pid,
    _boot: Daemon,
}

impl FreshHost {
    /// Boots a host below `run`.
    pub fn start(settings: &Settings, run: &Path, name: &str, init: Init) -> Result<Self> {
        let folder = run.join("edges").join(name);
        for part in ["opt", "cni/lib"] {
            std::fs::create_dir_all(folder.join(part)).with_context(|| format!("{}", folder.display()))?;
        }
        let number = HostNumber::take(&folder.join(NUMBER))?;
        match Self::boot(settings, &folder, name, number, init) {
            Ok(host) => Ok(host),
            Err(error) => {
                let log = process::tail(&folder.join("boot.log"));
                teardown(&folder)?;
                Err(error.context(format!("the host {name} did not boot: {log}")))
            }
        }
    }

    fn boot(settings: &Settings, folder: &Path, name: &str, number: HostNumber, init: Init) -> Result<Self> {
        number.make_veth()?;
        number.cgroup().create()?;
        files::containerd(folder, Path::new("/etc/cni/net.d"))?;
        std::fs::write(
            folder.join("containerd.service"),
            format!(
                "[Service]\nExecStart=containerd --config {}/containerd.toml\nDelegate=yes\nKillMode=process\n",
                folder.display()
            ),
        )?;
        std::fs::write(folder.join("boot.sh"), include_str!("boot.sh"))?;
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", number.netns_path().display()))
            .arg("bash")
            .arg(folder.join("boot.sh"))
            .arg(folder)
            .arg(number.netns())
            .arg(&settings.edge);
        match init {
            Init::Systemd => command.arg("/lib/systemd/systemd"),
            // A shell waits for whatever becomes its child.
            Init::Plain => command.args(["bash", "-c", "while :; do sleep 1000 & wait; done"]),
        };
        let mut boot = Daemon::start(folder, "boot", &mut command)?;
        let first = wait::quietly("PID 1", wait::seconds(60), || {
            ensure!(boot.alive(), "it ended");
            Ok(number
                .cgroup()
                .processes("")
                .into_iter()
                .find(|pid| is_first(*pid, init)))
        })?;
        let host = Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            number,
            init: first,
            _boot: boot,
        };
        if init == Init::Plain {
            let config = folder.join("containerd.toml");
            Daemon::start(
                folder,
                "containerd",
                host.command("setsid").arg("containerd").arg("--config").arg(config),
            )?;
        }
        wait::quietly("an answer from containerd", wait::seconds(60), || {
            host.ctr(&["version"]).map(Some)
        })?;
        for (image, file) in [(PAUSE, "pause.tar"), (BUSYBOX, "busybox.tar")] {
            let file = settings.images.join(file);
            host.ctr(&["image", "import", &file.to_string_lossy()])
                .with_context(|| image.to_owned())?;
        }
        Ok(host)
    }

    /// Its name, meant to be the node's too.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cloud's address as this host sees it.
    #[must_use]
    pub fn cloud_address(&self) -> String {
        self.number.cloud_address()
    }

    /// A command that runs on this host, in all its namespaces.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        const ENTER: &str = r#"echo $$ > "$1"; init=$2; shift 2
cd /; exec nsenter -t "$init" -m -u -i -n -p -C -- "$@""#;
        let mut command = Command::new("bash");
        command
            .args(["-ec", ENTER, "enter"])
            .arg(self.number.cgroup().system_procs())
            .arg(self.init.to_string())
            .arg(program.as_ref());
        command
    }

    /// Runs a command on this host to its end, however it ends.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command(program);
        command.args(arguments).stdin(Stdio::null());
        command.output().with_context(|| program.to_owned())
    }

    /// Runs a command on this host that must succeed, and returns what it printed.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        process::run(self.command(program).args(arguments))
    }

    /// Whether a path exists on this host.
    pub fn exists(&self, path: &str) -> Result<bool> {
        Ok(self.output("test", &["-e", path])?.status.success())
    }

    /// Address of its containerd.
    #[must_use]
    pub fn runtime(&self) -> String {
        format!("unix://{}", self.socket())
    }

    fn socket(&self) -> String {
        self.folder.join("containerd.sock").display().to_string()
    }

    /// Runs ctr against this host's containerd.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let socket = self.socket();
        let mut all = vec!["-a", socket.as_str(), "-n", "k8s.io"];
        all.extend_from_slice(arguments);
        self.run("ctr", &all)
    }

    /// Ids of all running containers and sandboxes, with their processes' ids.
    pub fn tasks(&self) -> Result<Vec<String>> {
        let mut lines: Vec<String> = self
            .ctr(&["task", "ls"])?
            .lines()
            .filter(|line| line.contains("RUNNING"))
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        lines.sort();
        Ok(lines)
    }
}

/// Whether a process is the first of its namespace and has become what it is to be: while it still makes the namespaces, it
/// is a shell with another last line.
fn is_first(pid: Pid, init: Init) -> bool {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let first = read("status")
        .lines()
        .any(|line| line.starts_with("NSpid:") && line.ends_with("\t1") && line.split_whitespace().count() > 2);
    let program = match init {
        Init::Systemd => "systemd",
        Init::Plain => "sleep 1000",
    };
    first && read("cmdline").replace('\0', " ").contains(program) && !read("cmdline").contains("pivot_root")
}

impl Drop for FreshHost {
    fn drop(&mut self) {
        if let Err(error) = teardown(&self.folder) {
            eprintln!("e2e: {}: {error:#}", self.folder.display());
        }
    }
}
