//! A board with a kernel of its own: user-mode Linux, a Linux that runs as a process. What this machine's kernel cannot show is
//! tested there: cgroup v2 alone, as most boards have it, and power that fails.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{NUMBER, PAUSE, Uplink, teardown};
use crate::hosts::HostNumber;
use crate::process::{self, Daemon};
use crate::settings::{Settings, program};
use crate::wait;

/// The kernel, of Debian's package `user-mode-linux`.
const KERNEL: &str = "/usr/bin/linux.uml";
const MEMORY: u64 = 640 << 20;
/// Of the disk; what is not written takes no space.
const DISK: u64 = 2 << 30;

/// See the module. Dropping it ends it and removes its disk.
#[derive(Debug)]
pub struct Board {
    name: String,
    folder: PathBuf,
    number: HostNumber,
    settings: Settings,
    kernel: Option<Daemon>,
}

impl Board {
    /// Makes a board below `run`, with its link to the cloud, which does not run yet.
    pub fn new(settings: &Settings, run: &Path, name: &str) -> Result<Self> {
        let folder = run.join("edges").join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
        let number = HostNumber::take(&folder.join(NUMBER))?;
        let board = Self {
            name: name.to_owned(),
            folder,
            number,
            settings: settings.clone(),
            kernel: None,
        };
        number.make_tap()?;
        number.cgroup().create()?;
        let disk = board.folder.join("disk");
        std::fs::File::create(&disk)?.set_len(DISK)?;
        process::run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk))?;
        let (source, preloaded) = (board.folder.join("board.c"), board.preloaded());
        std::fs::write(&source, include_str!("board.c"))?;
        let mut compiler = Command::new("gcc");
        compiler
            .args(["-shared", "-fPIC", "-O2", "-o"])
            .args([preloaded, source]);
        process::run(&mut compiler)?;
        let init = board.folder.join("board.sh");
        std::fs::write(&init, include_str!("board.sh"))?;
        std::fs::set_permissions(init, std::fs::Permissions::from_mode(0o755))?;
        std::fs::write(
            board.folder.join("containerd.toml"),
            format!(
                "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"{PAUSE}\"\n\
                 [plugins.\"io.containerd.grpc.v1.cri\".cni]\n  bin_dir = \"/usr/lib/cni\"\n"
            ),
        )?;
        std::fs::write(
            board.folder.join("network.conflist"),
            format!(
                r#"{{"cniVersion": "0.4.0", "name": "board", "plugins": [{{"type": "bridge", "bridge": "cni0", "isGateway": true,
  "ipam": {{"type": "host-local", "ranges": [[{{"subnet": "{}.0/24"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}}]}}
"#,
                number.pod_prefix()
            ),
        )?;
        Ok(board)
    }

    /// What makes its kernel run on processors that are newer than it.
    fn preloaded(&self) -> PathBuf {
        self.folder.join("board.so")
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder, which it sees at the same place.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its number, from which addresses derive.
    #[must_use]
    pub fn number(&self) -> HostNumber {
        self.number
    }

    /// Writes edgecore's configuration, which the board takes at its first boot: nearly all as it is by default.
    pub fn write_config(&self, uplink: &Uplink) -> Result<()> {
        let cloud = self.number.cloud_address();
        let Uplink {
            websocket,
            https,
            tunnel,
            token,
            ..
        } = uplink;
        let (name, address) = (&self.name, self.number.address());
        let config = format!(
            r#"apiVersion: edgecore.config.kubeedge.io/v1alpha2
kind: EdgeCore
modules:
  edgeHub:
    httpServer: https://{cloud}:{https}
    token: "{token}"
    websocket:
      server: {cloud}:{websocket}
  edgeStream:
    enable: true
    server: {cloud}:{tunnel}
  edged:
    hostnameOverride: {name}
    nodeIP: {address}
    podSandboxImage: {PAUSE}
    tailoredKubeletConfig:
      cgroupDriver: cgroupfs
      evictionHard: {{memory.available: 20Mi}}
  eventBus:
    mqttMode: 0
"#
        );
        let path = self.folder.join("edgecore.yaml");
        std::fs::write(&path, config).with_context(|| format!("{}", path.display()))
    }

    /// Switches it on.
    pub fn boot(&mut self) -> Result<()> {
        ensure!(Path::new(KERNEL).exists(), "{KERNEL} is missing: run e2e/setup");
        let mut command = Command::new("bash");
        command.args(["-ec", r#"echo $$ > "$1"; shift; exec "$@""#, "board"]);
        command.arg(self.number.cgroup().system_procs()).arg(KERNEL);
        command.env("LD_PRELOAD", self.preloaded());
        command.arg(format!("mem={MEMORY}"));
        // Its memory is a file without a name; a disk will do where there is no room.
        command.env(
            "TMPDIR",
            if free("/dev/shm") > 2 * MEMORY {
                Path::new("/dev/shm")
            } else {
                &self.folder
            },
        );
        command.arg(format!("ubd0={}", self.folder.join("disk").display()));
        command.args(["root=/dev/root", "rootfstype=hostfs", "ro", "quiet"]);
        command.arg(format!("eth0=tuntap,{}", self.number.interface()));
        command.args(["con=null", "con0=null,fd:1"]);
        command.arg(format!("init={}", self.folder.join("board.sh").display()));
        command.arg("--").arg(&self.folder).arg(self.number.to_string());
        program(&self.settings.edge, "edgecore")?;
        command.arg(&self.settings.edge);
        for image in ["pause.tar", "busybox.tar"] {
            command.arg(self.settings.images.join(image));
        }
        let mut kernel = Daemon::start(&self.folder, "board", &mut command)?;
        let booted = wait::until("the board has booted", wait::seconds(120), || {
            Ok((!kernel.alive() || kernel.tail().contains("boot is done")).then_some(()))
        });
        booted.with_context(|| kernel.tail())?;
        ensure!(kernel.alive(), "the board's kernel ended:\n{}", kernel.tail());
        self.kernel = Some(kernel);
        Ok(())
    }

    /// Cuts its power.
    pub fn cut_power(&mut self) -> Result<()> {
        self.kernel = None;
        self.number.cgroup().kill()?;
        let log = self.folder.join("board.log");
        std::fs::rename(&log, self.folder.join("board-before.log")).with_context(|| format!("{}", log.display()))
    }

    /// The log of edgecore so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("edgecore.log")).unwrap_or_default()
    }

    /// The ends of its logs.
    #[must_use]
    pub fn tails(&self) -> String {
        ["board", "containerd", "edgecore"]
            .map(|name| format!("{name}:\n{}", process::tail(&self.folder.join(format!("{name}.log")))))
            .concat()
    }
}

/// Free bytes of a file system.
fn free(path: &str) -> u64 {
    nix::sys::statvfs::statvfs(path).map_or(0, |found| found.blocks_available() * found.fragment_size())
}

impl Drop for Board {
    fn drop(&mut self) {
        self.kernel = None;
        if let Err(error) = teardown(&self.folder) {
            eprintln!("e2e: {}: {error:#}", self.folder.display());
        }
    }
}
