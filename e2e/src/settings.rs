//! Where things are: the programs under test, the cache of `e2e/setup`, the scripts of the test cluster.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};

use crate::process;

/// The machine-wide settings of a run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The repository.
    pub root: PathBuf,
    /// Program with the whole of Kubernetes: `kubernetes-testcluster apiserver|kubelet|…`.
    pub kubernetes: PathBuf,
    /// Folder with busybox.tar and pause.tar.
    pub images: PathBuf,
    /// metrics-server; it may be missing.
    pub metrics_server: PathBuf,
    /// A Python with the packages of `e2e/python.txt`.
    pub python: PathBuf,
    /// Folder with the builds of the Go mapper: `go` and `go-1.56`.
    pub dmi: PathBuf,
    /// Folder with the cloud's programs.
    pub cloud: PathBuf,
    /// Folder with the edge's programs.
    pub edge: PathBuf,
    /// Folder with the edgecore that the edge's is swapped for, if that is to be tested.
    pub swap: Option<PathBuf>,
}

impl Settings {
    /// Finds everything; says how to get what is missing.
    pub fn find() -> Result<Self> {
        if !nix::unistd::Uid::effective().is_root() {
            bail!("network namespaces, mounts and containers need root: run this as root");
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("the repository")?
            .to_owned();
        let [kubernetes, images, metrics_server, python, dmi] = from_setup(&root)?;
        let named = |name: &str| {
            std::env::var_os(name)
                .map(|folder| std::fs::canonicalize(&folder).with_context(|| format!("{name}={}", folder.display())))
                .transpose()
        };
        let programs = |name: &str| Ok::<_, anyhow::Error>(named(name)?.unwrap_or_else(|| own_programs(&root)));
        Ok(Self {
            cloud: programs("KE_CLOUD")?,
            edge: programs("KE_EDGE")?,
            swap: named("KE_SWAP")?,
            root,
            kubernetes,
            images,
            metrics_server,
            python,
            dmi,
        })
    }

    /// The same, with the programs of another folder on both sides.
    #[must_use]
    pub fn with_programs(&self, folder: &Path) -> Self {
        Self {
            cloud: folder.to_owned(),
            edge: folder.to_owned(),
            ..self.clone()
        }
    }

    /// A script of the test cluster.
    #[must_use]
    pub fn script(&self, name: &str) -> PathBuf {
        self.root.join("e2e/testcluster").join(name)
    }

    /// The test cluster's kubectl.
    #[must_use]
    pub fn kubectl(&self) -> PathBuf {
        self.kubernetes.with_file_name("kubectl")
    }

    /// The kubectl that users are told about: the machine's, else the test cluster's.
    #[must_use]
    pub fn kubectl_name(&self) -> String {
        match process::call("sh", &["-c", "command -v kubectl"]) {
            Ok(_) => "kubectl".to_owned(),
            Err(_) => self.kubectl().display().to_string(),
        }
    }
}

/// A program in a folder; the error says how ours are built.
pub fn program(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    if !path.is_file() {
        bail!(
            "there is no {}: build ours with e2e/build, or name another folder in KE_CLOUD or KE_EDGE",
            path.display()
        );
    }
    Ok(path)
}

/// Whether a program is ours: Go's cores know no `--version`, or say another line.
#[must_use]
pub fn is_ours(program: &Path) -> bool {
    process::run(Command::new(program).arg("--version")).is_ok_and(|line| line.contains("(rust "))
}

/// What `e2e/setup` made: named by the environment, else by the last line that it says.
fn from_setup(root: &Path) -> Result<[PathBuf; 5]> {
    const NAMES: [&str; 5] = [
        "KUBERNETES_TESTCLUSTER",
        "KUBEEDGE_IMAGES",
        "KUBEEDGE_METRICS_SERVER",
        "KUBEEDGE_PYTHON",
        "KUBEEDGE_DMI",
    ];
    if let [Some(kubernetes), Some(images), metrics_server, Some(python), Some(dmi)] = NAMES.map(std::env::var_os) {
        return Ok([
            kubernetes.into(),
            images.into(),
            metrics_server.unwrap_or_default().into(),
            python.into(),
            dmi.into(),
        ]);
    }
    let text = process::run(Command::new(root.join("e2e/setup")).env("CI", "1"))?;
    let value = |name: &str| {
        text.split_whitespace()
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
            .map(PathBuf::from)
            .with_context(|| format!("e2e/setup did not say {name}"))
    };
    Ok([
        value(NAMES[0])?,
        value(NAMES[1])?,
        value(NAMES[2])?,
        value(NAMES[3])?,
        value(NAMES[4])?,
    ])
}

/// Our programs: the most recently built of the release that `e2e/build` makes and cargo's own folders.
fn own_programs(root: &Path) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let release = target.join(format!("{}-unknown-linux-musl/release", std::env::consts::ARCH));
    let age = |folder: &PathBuf| {
        let time = |name| std::fs::metadata(folder.join(name)).and_then(|data| data.modified());
        time("edgecore")
            .and_then(|edge| time("cloudcore").map(|cloud| edge.max(cloud)))
            .unwrap_or(SystemTime::UNIX_EPOCH)
    };
    [target.join("debug"), target.join("release"), release.clone()]
        .into_iter()
        .max_by_key(age)
        .unwrap_or(release)
}
