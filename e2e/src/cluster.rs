//! The control plane: etcd, kube-apiserver, controller manager and scheduler of `e2e/testcluster`, or somebody's cluster by its
//! kubeconfig.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::api::Api;
use crate::hosts::HostNumber;
use crate::process;
use crate::run;
use crate::settings::Settings;

/// What is special about a control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlPlane {
    /// It has a host (network namespace) of its own, at the far end of a link to the machine, as an edge has: redirect rules of
    /// the machine do not see what its API server sends.
    pub apart: bool,
    /// Further flags of the API server; `PKI` in them stands for the folder of the cluster's certificates.
    pub flags: Vec<String>,
}

/// A cluster.
pub struct Cluster {
    settings: Settings,
    /// Folder of the test cluster; none with a foreign one.
    folder: Option<PathBuf>,
    start: Vec<String>,
    host: Option<HostNumber>,
    flags: Vec<String>,
    kubeconfig: PathBuf,
    api: Api,
}

impl Cluster {
    /// Starts a control plane whose files are in `folder`. The run's teardown stops it.
    pub fn start(settings: &Settings, folder: &Path, plane: &ControlPlane) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let host = plane.apart.then(|| own_host(folder)).transpose()?;
        let (start, _lock) = match host {
            Some(host) => {
                let (address, netns) = (host.address(), host.netns());
                let start = ["--advertise", &address, "--netns", &netns].map(String::from).to_vec();
                (start, None)
            }
            None => {
                // Ports are chosen and taken under the lock, so that two runs that start together do not take the same.
                std::fs::create_dir_all(run::base())?;
                let lock = process::lock(&run::base().join("lock"))?;
                let (port, etcd) = (free_ports(6443, 10, 3)?, free_ports(2379, 10, 2)?);
                let start = ["--port", &port.to_string(), "--etcd-port", &etcd.to_string()].map(String::from);
                (start.to_vec(), Some(lock))
            }
        };
        up(settings, folder, &start, &plane.flags)?;
        let kubeconfig = folder.join("admin.kubeconfig");
        let api = Api::new(&kubeconfig)?;
        Ok(Self {
            settings: settings.clone(),
            folder: Some(folder.to_owned()),
            start,
            host,
            flags: plane.flags.clone(),
            kubeconfig,
            api,
        })
    }

    /// Uses a cluster that is there.
    pub fn existing(settings: &Settings, kubeconfig: &Path) -> Result<Self> {
        let kubeconfig = std::fs::canonicalize(kubeconfig).with_context(|| format!("{}", kubeconfig.display()))?;
        let api = Api::new(&kubeconfig)?;
        Ok(Self {
            settings: settings.clone(),
            folder: None,
            start: Vec::new(),
            host: None,
            flags: Vec::new(),
            kubeconfig,
            api,
        })
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The API, as administrator.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Its host, when it has one of its own.
    #[must_use]
    pub fn host(&self) -> Option<HostNumber> {
        self.host
    }

    /// Folder of the cluster's certificates: `ca.crt`, `kubelet-client.crt` and `.key` (what the API server shows to kubelets), ….
    pub fn pki(&self) -> Result<PathBuf> {
        Ok(self.folder()?.join("pki"))
    }

    /// Starts the API server anew with other further flags; see [`ControlPlane::flags`].
    pub fn set_apiserver_flags(&mut self, flags: Vec<String>) -> Result<()> {
        self.flags = flags;
        self.kill(&["apiserver"])?;
        self.restart()
    }

    /// Runs kubectl.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        process::run(self.kubectl_command().args(arguments))
    }

    /// `kubectl apply -f -` in a namespace.
    pub fn apply(&self, namespace: &str, manifest: &str) -> Result<()> {
        process::feed(
            self.kubectl_command().args(["apply", "-n", namespace, "-f", "-"]),
            manifest,
        )
        .map(drop)
    }

    /// kubectl, as administrator, without arguments.
    #[must_use]
    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new(self.settings.kubectl());
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command
    }

    /// Kills processes of the control plane ("apiserver", "etcd", "controller-manager", "scheduler") at once.
    pub fn kill(&self, names: &[&str]) -> Result<()> {
        let folder = self.folder()?;
        for name in names {
            let file = folder.join(format!("{name}.pid"));
            let text = std::fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
            let pid = Pid::from_raw(text.trim().parse().with_context(|| format!("{}", file.display()))?);
            process::signal(pid, Signal::SIGKILL);
            crate::wait::quietly(
                "the end of a process of the control plane",
                crate::wait::seconds(60),
                || Ok((!process::alive(pid)).then_some(())),
            )?;
            // `up` takes a process that nobody has reaped yet for a running one.
            std::fs::remove_file(&file)?;
        }
        Ok(())
    }

    /// Starts what of the control plane does not run.
    pub fn restart(&self) -> Result<()> {
        up(&self.settings, self.folder()?, &self.start, &self.flags)
    }

    /// Starts an ordinary node: a real kubelet with its own containerd, on the control plane's host.
    pub fn start_node(&self, name: &str) -> Result<()> {
        let mut command = self.script("node")?;
        command.arg(name);
        if let Some(host) = self.host {
            command.args(["--netns", &host.netns()]);
        }
        process::run(&mut command).map(drop)
    }

    /// Imports an image into an ordinary node's containerd.
    pub fn import(&self, node: &str, archive: &Path) -> Result<()> {
        let socket = self.folder()?.join("nodes").join(node).join("containerd.sock");
        let mut command = Command::new("ctr");
        command.arg("-a").arg(socket).args(["-n", "k8s.io", "image", "import"]);
        process::run(command.arg(archive)).map(drop)
    }

    /// Stops an ordinary node and removes it from the API.
    pub fn stop_node(&self, name: &str) -> Result<()> {
        process::run(self.script("down")?.arg(name))?;
        self.api.delete(&crate::api::node_path(name))
    }

    fn script(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(self.settings.script(name));
        command
            .arg(self.folder()?)
            .env("KUBERNETES_TESTCLUSTER", &self.settings.kubernetes);
        Ok(command)
    }

    fn folder(&self) -> Result<&Path> {
        self.folder
            .as_deref()
            .context("this needs a cluster of our own, not one given by --kubeconfig")
    }
}

/// Stops the control plane of a folder and removes its host.
pub fn teardown(settings: &Settings, folder: &Path) -> Result<()> {
    if folder.join("pki").exists() {
        process::run(Command::new(settings.script("down")).arg(folder))?;
    }
    // Most control planes have none.
    HostNumber::give_back(&folder.join(HOST))
}

/// File with the number of the control plane's own host.
const HOST: &str = "host";

/// A host for the control plane, whose number is on disk before anything else happens, for the teardown.
fn own_host(folder: &Path) -> Result<HostNumber> {
    let host = HostNumber::take(&folder.join(HOST))?;
    host.make_veth()?;
    Ok(host)
}

fn up(settings: &Settings, folder: &Path, arguments: &[String], flags: &[String]) -> Result<()> {
    let pki = folder.join("pki");
    let flags = flags.iter().map(|flag| flag.replace("PKI", &pki.to_string_lossy()));
    let mut command = Command::new(settings.script("up"));
    command
        .arg(folder)
        .args(arguments)
        .arg("--")
        .args(flags)
        .env("KUBERNETES_TESTCLUSTER", &settings.kubernetes);
    process::run(&mut command).map(drop)
}

/// The first of `first`, `first + step`, … from which on `count` TCP ports are free on all addresses.
pub fn free_ports(first: u16, step: u16, count: u16) -> Result<u16> {
    for base in (first..first.saturating_add(4000)).step_by(usize::from(step)) {
        if (base..base + count).all(|port| TcpListener::bind(("0.0.0.0", port)).is_ok()) {
            return Ok(base);
        }
    }
    bail!("no {count} free TCP ports from {first} on")
}
