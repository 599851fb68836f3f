//! One run: a folder below `/var/tmp/kubeedge-e2e` (or `KUBEEDGE_E2E_DIR`) that holds all state of what the run started, so
//! that any later process can remove it. A run belongs to a process and goes with it; the demo is kept.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::unistd::Pid;

use crate::settings::Settings;
use crate::{cloud, cluster, edge, process};

/// The folder of a run. Removing it (on drop, unless kept) stops everything in it.
#[derive(Debug)]
pub struct Run {
    folder: PathBuf,
    settings: Settings,
    keep: bool,
}

impl Run {
    /// A run of this process. Runs whose process died without cleaning up are removed first.
    pub fn new(settings: &Settings) -> Result<Self> {
        std::fs::create_dir_all(base())?;
        // Runs that start together: none takes another's folder for an abandoned one, none does another's clearing.
        let lock = process::lock(&base().join("lock"))?;
        sweep(settings)?;
        let pid = std::process::id();
        let folder = base().join(format!("r{pid}"));
        std::fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
        std::fs::write(
            folder.join("owner"),
            format!("{pid} {}", start_time(pid).unwrap_or_default()),
        )?;
        drop(lock);
        remove_on_signal(folder.clone(), settings.clone());
        Ok(Self {
            folder,
            settings: settings.clone(),
            keep: false,
        })
    }

    /// A run with a name of its own, which stays until somebody removes it. The second value tells whether it is there.
    pub fn named(settings: &Settings, name: &str) -> Result<(Self, bool)> {
        let folder = base().join(name);
        let exists = folder.join("complete").exists();
        if !exists {
            remove(&folder, settings)?;
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
        Ok((
            Self {
                folder,
                settings: settings.clone(),
                keep: exists,
            },
            exists,
        ))
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Leaves everything running when this value is dropped.
    pub fn keep(&mut self) -> Result<()> {
        std::fs::write(self.folder.join("complete"), "")?;
        self.keep = true;
        Ok(())
    }

    /// Stops and removes everything.
    pub fn down(mut self) -> Result<()> {
        self.keep = true;
        remove(&self.folder, &self.settings)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = remove(&self.folder, &self.settings)
        {
            eprintln!("e2e: {}: {error:#}", self.folder.display());
        }
    }
}

/// Where the runs are.
#[must_use]
pub fn base() -> PathBuf {
    std::env::var_os("KUBEEDGE_E2E_DIR").map_or_else(|| "/var/tmp/kubeedge-e2e".into(), PathBuf::from)
}

/// Removes the runs whose process is gone.
pub fn sweep(settings: &Settings) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(base()) else {
        return Ok(());
    };
    for entry in entries {
        let folder = entry?.path();
        let Ok(owner) = std::fs::read_to_string(folder.join("owner")) else {
            continue;
        };
        let alive = owner.split_once(' ').is_some_and(|(pid, started)| {
            pid.parse()
                .is_ok_and(|pid: u32| start_time(pid).is_some_and(|now| now == started.trim()))
        });
        if !alive {
            println!("removing what an earlier run left in {}", folder.display());
            remove(&folder, settings)?;
        }
    }
    Ok(())
}

/// Stops everything that a run's folder tells of, edges first, and removes the folder.
pub fn remove(folder: &Path, settings: &Settings) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder.join("edges")).into_iter().flatten() {
        edge::teardown(&entry?.path())?;
    }
    cloud::teardown(&folder.join("cloud"));
    cluster::teardown(settings, &folder.join("cluster"))?;
    std::fs::remove_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    // The base goes with the last run; it is not empty while there are others.
    if std::fs::read_dir(base())?
        .flatten()
        .all(|entry| entry.file_name() == "lock")
    {
        std::fs::remove_dir_all(base())?;
    }
    Ok(())
}

/// The start of a process in ticks since boot: with the pid, its identity.
pub(crate) fn start_time(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit(") ").next()?.split(' ').nth(19)?.to_owned())
}

/// Ctrl-C and SIGTERM remove the run and end the process.
fn remove_on_signal(folder: PathBuf, settings: Settings) {
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            return;
        };
        let caught = runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (mut interrupt, mut terminate) = (
                signal(SignalKind::interrupt()).ok()?,
                signal(SignalKind::terminate()).ok()?,
            );
            tokio::select! { value = interrupt.recv() => value, value = terminate.recv() => value }
        });
        if caught.is_some() {
            eprintln!("e2e: interrupted, cleaning up");
            if let Err(error) = remove(&folder, &settings) {
                eprintln!("e2e: {error:#}");
            }
            // The main thread is in the middle of a scenario whose system is gone: nothing is left to unwind.
            process::signal(Pid::this(), nix::sys::signal::Signal::SIGKILL);
        }
    });
}
