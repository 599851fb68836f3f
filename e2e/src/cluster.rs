//! The control plane: etcd, kube-apiserver, controller manager and scheduler of `e2e/testcluster`, or somebody's cluster by its
//! kubeconfig.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::api::Api;
use crate::process;
use crate::run;
use crate::settings::Settings;

/// A cluster.
pub struct Cluster {
    settings: Settings,
    /// Folder of the test cluster; none with a foreign one.
    folder: Option<PathBuf>,
    start: Vec<String>,
    kubeconfig: PathBuf,
    api: Api,
}

impl Cluster {
    /// Starts a control plane whose files are in `folder`. The run's teardown stops it.
    pub fn start(settings: &Settings, folder: &Path) -> Result<Self> {
        // Ports are chosen and taken under the lock, so that two runs that start together do not take the same.
        std::fs::create_dir_all(run::base())?;
        let _lock = process::lock(&run::base().join("lock"))?;
        let port = free_ports(6443, 10, 3)?;
        let etcd = free_ports(2379, 10, 2)?;
        let start = ["--port", &port.to_string(), "--etcd-port", &etcd.to_string()]
            .map(String::from)
            .to_vec();
        std::fs::create_dir_all(folder)?;
        up(settings, folder, &start)?;
        let kubeconfig = folder.join("admin.kubeconfig");
        let api = Api::new(&kubeconfig)?;
        Ok(Self {
            settings: settings.clone(),
            folder: Some(folder.to_owned()),
            start,
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
        let mut command = Command::new(&self.settings.kubernetes);
        command.arg("kubectl").arg("--kubeconfig").arg(&self.kubeconfig);
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
                crate::wait::seconds(10),
                || Ok((!process::alive(pid)).then_some(())),
            )?;
            // `up` takes a process that nobody has reaped yet for a running one.
            std::fs::remove_file(&file)?;
        }
        Ok(())
    }

    /// Starts what of the control plane does not run.
    pub fn restart(&self) -> Result<()> {
        up(&self.settings, self.folder()?, &self.start)
    }

    /// Starts an ordinary node: a real kubelet with its own containerd.
    pub fn start_node(&self, name: &str) -> Result<()> {
        let mut command = self.script("node")?;
        process::run(command.arg(name)).map(drop)
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

fn up(settings: &Settings, folder: &Path, arguments: &[String]) -> Result<()> {
    let mut command = Command::new(settings.script("up"));
    command
        .arg(folder)
        .args(arguments)
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
