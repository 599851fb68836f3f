//! An edge host: a network namespace with a link to the cloud, a mount namespace in which /etc/kubeedge and all other fixed
//! paths are its own, cgroups, a containerd, and the edgecore under test.

mod board;
mod files;
mod fresh;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::containers::{self, Container};
use crate::hosts::HostNumber;
use crate::link::Link;
use crate::process::{self, Daemon};
use crate::settings::{Settings, program};
use crate::wait;

pub use board::Board;
pub use fresh::{FreshHost, Init, PROGRAMS};

/// File with the host's number, in its folder.
pub const NUMBER: &str = "number";
/// The sandbox image of all edges, imported at start.
pub const PAUSE: &str = "registry.k8s.io/pause:3.10";
/// The image that workloads of tests use, imported at start.
pub const BUSYBOX: &str = "docker.io/library/busybox:1.36";

/// How an edge reaches the cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// A veth pair: as fast as the kernel, can be cut by interface.
    Veth,
    /// A TUN link with this seed: can be made bad.
    Tun(u64),
}

/// What edgecore is told about the cloud.
#[derive(Clone, Debug)]
pub struct Uplink {
    /// Port of the hub's WebSocket.
    pub websocket: u16,
    /// Port of the certificate server.
    pub https: u16,
    /// Port of the stream server, which the API server's connections to the edge's kubelet are sent to.
    pub stream: u16,
    /// Port of the tunnel server.
    pub tunnel: u16,
    /// Join token; empty once the edge has its certificate.
    pub token: String,
}

/// Further lines of edgecore.yaml.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// Whether `nodeIP` is left out: the edge finds its address itself.
    pub without_address: bool,
    /// Of the section `edged`.
    pub edged: Vec<String>,
    /// Of its section `tailoredKubeletConfig`.
    pub kubelet: Vec<String>,
    /// Of the section `deviceTwin`.
    pub twin: Vec<String>,
    /// Of the section `eventBus`; edgecore's own broker alone, without.
    pub bus: Vec<String>,
}

impl Uplink {
    /// Port of the hub's QUIC.
    #[must_use]
    pub const fn quic(&self) -> u16 {
        self.websocket + 1
    }
}

/// An edge host. Dropping it stops everything on it.
#[derive(Debug)]
pub struct EdgeHost {
    name: String,
    folder: PathBuf,
    number: HostNumber,
    settings: Settings,
    link: Option<Link>,
    holder: Daemon,
    containerd: Option<Daemon>,
    edgecore: Option<Daemon>,
    keys: Keys,
    quic: bool,
    ipv6: bool,
    keep: bool,
}

impl EdgeHost {
    /// Makes a host with a running containerd below `run`, without edgecore.
    pub fn start(settings: &Settings, run: &Path, name: &str, wire: Wire) -> Result<Self> {
        let folder = run.join("edges").join(name);
        for part in [
            "etc/config",
            "var",
            "kubelet",
            "logs/pods",
            "logs/containers",
            "cni/conf",
            "cni/lib",
            "opt",
        ] {
            std::fs::create_dir_all(folder.join(part)).with_context(|| format!("{}", folder.display()))?;
        }
        let number = HostNumber::take(&folder.join(NUMBER))?;
        let link = match wire {
            Wire::Veth => number.make_veth().map(|()| None)?,
            Wire::Tun(seed) => Some(Link::start(number, seed)?),
        };
        files::network(&folder, number)?;
        files::containerd(&folder, &folder.join("cni/conf"))?;
        let holder = files::start_holder(&folder, number)?;
        let mut host = Self {
            name: name.to_owned(),
            folder,
            number,
            settings: settings.clone(),
            link,
            holder,
            containerd: None,
            edgecore: None,
            keys: Keys::default(),
            quic: false,
            ipv6: false,
            keep: false,
        };
        host.start_containerd()?;
        Ok(host)
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Folder with all files of this host: `etc` is its /etc/kubeedge, `var` its /var/lib/kubeedge.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its number, from which addresses derive.
    #[must_use]
    pub fn number(&self) -> HostNumber {
        self.number
    }

    /// The link to the cloud that can be made bad.
    pub fn link(&self) -> Result<&Link> {
        self.link.as_ref().context("this edge's link is a plain veth pair")
    }

    /// Cuts the link by interface, or restores it.
    pub fn set_link(&self, up: bool) -> Result<()> {
        self.number.set_link(up)
    }

    /// Leaves everything running when this value is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// A command that runs on this host: in its namespaces and its cgroup.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.pid().to_string(), "-m", "-n", "--"]);
        command.args(["bash", "-ec", r#"echo $$ > "$1"; shift; exec "$@""#, "enter"]);
        command.arg(self.number.cgroup().system_procs()).arg(program.as_ref());
        command
    }

    /// Fetches a page as somebody on this host would.
    pub fn fetch(&self, url: &str) -> Result<String> {
        process::run(self.command("curl").args(["-sSf", "-m", "3", url]))
    }

    /// Runs ctr against this host's containerd.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String> {
        process::run(
            self.command("ctr")
                .arg("-a")
                .arg(self.socket())
                .args(["-n", "k8s.io"])
                .args(arguments),
        )
    }

    /// Runs a command inside a running container. By runc: `ctr task exec` may close its pipes before it has read what a short command
    /// said.
    pub fn exec(&self, container: &Container, arguments: &[&str]) -> Result<String> {
        let mut command = self.command("runc");
        command.args(["--root", "/run/containerd/runc/k8s.io", "exec", &container.id]);
        process::run(command.args(arguments))
    }

    /// containerd's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("containerd.sock")
    }

    // --- containers ---

    /// All running containers and sandboxes.
    pub fn running(&self) -> Result<Vec<Container>> {
        containers::running(&self.folder.join("state"))
    }

    /// The running containers of a namespace ("" for all), by namespace/pod/container, with their ids.
    pub fn containers(&self, namespace: &str) -> Result<std::collections::BTreeMap<String, String>> {
        containers::by_name(&self.folder.join("state"), namespace)
    }

    /// The running container of a pod.
    pub fn container(&self, namespace: &str, pod: &str, name: &str) -> Result<Container> {
        let found = self
            .running()?
            .into_iter()
            .find(|one| one.namespace == namespace && one.pod == pod && one.name == name);
        found.with_context(|| format!("no container {name} of {namespace}/{pod} runs in containerd"))
    }

    // --- containerd ---

    /// Starts containerd, if it does not run, and imports the images it lacks.
    pub fn start_containerd(&mut self) -> Result<()> {
        if self.containerd.as_mut().is_some_and(Daemon::alive) {
            return Ok(());
        }
        let mut command = self.command("containerd");
        command.arg("--config").arg(self.folder.join("containerd.toml"));
        let mut daemon = Daemon::start(&self.folder, "containerd", &mut command)?;
        let answer = wait::quietly("an answer from containerd", wait::seconds(60), || {
            anyhow::ensure!(daemon.alive(), "containerd ended");
            self.ctr(&["version"]).map(Some)
        });
        answer.with_context(|| format!("containerd of {}:\n{}", self.name, daemon.tail()))?;
        self.containerd = Some(daemon);
        for (image, file) in [(PAUSE, "pause.tar"), (BUSYBOX, "busybox.tar")] {
            if self
                .ctr(&["image", "ls", "-q", &format!("name=={image}")])?
                .trim()
                .is_empty()
            {
                self.ctr(&["image", "import", &self.settings.images.join(file).to_string_lossy()])?;
            }
        }
        Ok(())
    }

    /// Stops containerd; its containers go on.
    pub fn stop_containerd(&mut self) -> Result<()> {
        self.containerd
            .take()
            .map_or(Ok(()), |mut daemon| daemon.stop(wait::seconds(20)))
    }

    // --- edgecore ---

    /// Writes edgecore's configuration with the keys that every KubeEdge understands.
    pub fn write_config(&self, uplink: &Uplink) -> Result<()> {
        let path = self.folder.join("etc/config/edgecore.yaml");
        std::fs::write(
            &path,
            files::edgecore(
                &self.folder,
                &self.name,
                (self.number, self.ipv6),
                uplink,
                &self.keys,
                self.quic,
            ),
        )
        .with_context(|| format!("{}", path.display()))
    }

    /// Adds lines to what [`Self::write_config`] writes from now on.
    pub fn set_keys(&mut self, keys: Keys) {
        self.keys = keys;
    }

    /// Whether edgecore tries QUIC first, from the next configuration on.
    pub fn set_quic(&mut self, enable: bool) {
        self.quic = enable;
    }

    /// Leaves the host nothing but IPv6 towards the cloud, and says so in the next configuration.
    pub fn change_to_ipv6(&mut self) -> Result<()> {
        self.ipv6 = true;
        self.number.change_to_ipv6()
    }

    /// Takes edgecore from another folder from its next start on.
    pub fn set_programs(&mut self, folder: &Path) {
        folder.clone_into(&mut self.settings.edge);
    }

    /// Starts edgecore from the folder of the edge's programs, with the configuration that was written.
    pub fn start_edgecore(&mut self) -> Result<()> {
        let program = program(&self.settings.edge, "edgecore")?;
        let mut command = self.command(program);
        command.args(["--config", "/etc/kubeedge/config/edgecore.yaml"]);
        // Go's edgecore refuses to start beside any process of the machine that is called kubelet.
        command.env("CHECK_EDGECORE_ENVIRONMENT", "false");
        self.edgecore = Some(Daemon::start(&self.folder, "edgecore", &mut command)?);
        Ok(())
    }

    /// The running edgecore.
    pub fn edgecore(&mut self) -> Result<&mut Daemon> {
        self.edgecore.as_mut().context("edgecore was not started")
    }

    /// `kill -9` of edgecore.
    pub fn kill_edgecore(&mut self) {
        if let Some(mut daemon) = self.edgecore.take() {
            daemon.kill();
        }
    }

    /// Stops edgecore in the orderly way.
    pub fn stop_edgecore(&mut self) -> Result<()> {
        self.edgecore
            .take()
            .map_or(Ok(()), |mut daemon| daemon.stop(wait::seconds(30)))
    }

    /// The log of edgecore so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("edgecore.log")).unwrap_or_default()
    }

    /// The node's CA, certificate and key, where edgecore has them by default.
    #[must_use]
    pub fn certificate_files(&self) -> [PathBuf; 3] {
        ["ca/rootCA.crt", "certs/server.crt", "certs/server.key"].map(|name| self.folder.join("etc").join(name))
    }

    /// edgecore's database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.folder.join("var/edgecore.db")
    }

    /// Removes the database with the files that SQLite keeps beside it.
    pub fn delete_database(&self) -> Result<()> {
        for end in ["", "-wal", "-shm", "-journal"] {
            let path = self.folder.join(format!("var/edgecore.db{end}"));
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("{}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    // --- power ---

    /// Power fails: every process of this host is gone, and with it all that is in memory (mounts, /run). Disks stay.
    pub fn power_off(&mut self) -> Result<()> {
        self.number.cgroup().kill()?;
        // Reap what was ours, so that nothing mistakes it for running.
        for daemon in [self.edgecore.take(), self.containerd.take()].iter_mut().flatten() {
            let _ = daemon.exited(Duration::from_secs(20));
        }
        let _ = self.holder.exited(Duration::from_secs(20));
        self.number.cgroup().remove()?;
        let netns = format!("--net={}", self.number.netns_path().display());
        let _ = self.number.inside(&["link", "del", "cni0"]);
        for table in ["nat", "filter"] {
            for what in ["-F", "-X"] {
                let _ = process::call("nsenter", &[&netns, "iptables", "-w", "-t", table, what]);
            }
        }
        Ok(())
    }

    /// Power is back: containerd runs, edgecore does not yet.
    pub fn power_on(&mut self) -> Result<()> {
        self.holder = files::start_holder(&self.folder, self.number)?;
        self.start_containerd()
    }

    /// Ends of the logs, for a failure's report.
    #[must_use]
    pub fn log_tails(&self) -> Vec<(String, String)> {
        ["edgecore", "containerd"]
            .map(|name| {
                (
                    format!("{name} of {}", self.name),
                    process::tail(&self.folder.join(format!("{name}.log"))),
                )
            })
            .to_vec()
    }
}

impl Drop for EdgeHost {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        drop(self.edgecore.take());
        self.link = None;
        if let Err(error) = teardown(&self.folder) {
            eprintln!("e2e: {}: {error:#}", self.folder.display());
        }
    }
}

/// Stops an edge host by its folder alone, whoever started it, and removes the folder.
pub fn teardown(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    HostNumber::give_back(&folder.join(NUMBER))?;
    std::fs::remove_dir_all(folder).with_context(|| format!("{}", folder.display()))
}
