//! edgecore as a service of the host: systemd, OpenRC, or a detached process with pid file and log.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use common::fs::{PUBLIC, write_atomic};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::paths::Paths;
use crate::process;

/// What starts services on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manager {
    Systemd,
    OpenRc,
    /// None: edgecore is a process of its own.
    Detached,
}

impl Manager {
    pub(crate) fn of_host(paths: &Paths) -> Self {
        // The folder is there only while systemd is PID 1, whatever is installed.
        if paths.at("/run/systemd/system").is_dir() {
            Self::Systemd
        } else if paths.at("/sbin/openrc-run").exists() && paths.at("/run/openrc").is_dir() {
            Self::OpenRc
        } else {
            Self::Detached
        }
    }

    /// The step's text.
    pub(crate) fn step(self) -> &'static str {
        match self {
            Self::Systemd => "Generate systemd service file",
            Self::OpenRc => "Generate OpenRC service file",
            Self::Detached => "No service manager: edgecore will run as a process of its own",
        }
    }

    /// Writes what the manager needs.
    pub(crate) fn install(self, paths: &Paths) -> anyhow::Result<()> {
        let (path, text, mode) = match self {
            Self::Systemd => (paths.systemd_unit(), UNIT, PUBLIC),
            Self::OpenRc => (paths.openrc_script(), SCRIPT, EXECUTABLE),
            Self::Detached => return Ok(()),
        };
        write_atomic(&path, text.as_bytes(), mode).with_context(|| format!("{} could not be written", path.display()))
    }

    pub(crate) fn start(self, paths: &Paths) -> anyhow::Result<()> {
        match self {
            Self::Systemd => {
                process::run("systemctl", &["daemon-reload"])?;
                process::run("systemctl", &["enable", NAME])?;
                // A unit that failed too often before is not started without this.
                let _ = process::run("systemctl", &["reset-failed", NAME]);
                process::run("systemctl", &["restart", NAME])?;
            }
            Self::OpenRc => {
                process::run("rc-update", &["add", NAME, "default"])?;
                process::run("rc-service", &[NAME, "restart"])?;
            }
            Self::Detached => detach(paths)?,
        }
        Ok(())
    }

    /// Stops edgecore and takes it out of the host's start. Containers go on.
    pub(crate) fn remove(self, paths: &Paths) -> anyhow::Result<()> {
        match self {
            Self::Systemd if paths.systemd_unit().exists() => {
                process::run("systemctl", &["disable", "--now", NAME])?;
                std::fs::remove_file(paths.systemd_unit())?;
                process::run("systemctl", &["daemon-reload"])?;
            }
            Self::OpenRc if paths.openrc_script().exists() => {
                // It may be stopped already; what still runs is ended below.
                let _ = process::run("rc-service", &[NAME, "stop"]);
                process::run("rc-update", &["del", NAME])?;
                std::fs::remove_file(paths.openrc_script())?;
            }
            _ => {}
        }
        end(paths)
    }

    /// Where its log is.
    pub(crate) fn logs(self, paths: &Paths) -> String {
        match self {
            Self::Systemd => "journalctl -u edgecore.service -xe".to_owned(),
            Self::OpenRc | Self::Detached => paths.log().display().to_string(),
        }
    }

    /// The last lines of the log that tell of a fault.
    pub(crate) fn complaints(self, paths: &Paths) -> Vec<String> {
        let text = match self {
            Self::Systemd => {
                process::run("journalctl", &["-u", NAME, "-n", "200", "-o", "cat", "--no-pager"]).unwrap_or_default()
            }
            Self::OpenRc | Self::Detached => {
                String::from_utf8_lossy(&std::fs::read(paths.log()).unwrap_or_default()).into_owned()
            }
        };
        let faulty = |line: &&str| line.contains("ERROR") || line.contains("WARN") || line.contains("rror:");
        let mut last: Vec<String> = text
            .lines()
            .rev()
            .filter(faulty)
            .take(COMPLAINTS)
            .map(str::to_owned)
            .collect();
        last.reverse();
        last
    }
}

fn detach(paths: &Paths) -> anyhow::Result<()> {
    let log = paths.log();
    let open = |path: &Path| -> std::io::Result<File> { OpenOptions::new().create(true).append(true).open(path) };
    let output = open(&log).with_context(|| format!("{} could not be opened", log.display()))?;
    let mut command = Command::new("setsid");
    command
        .arg(paths.edgecore())
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    // setsid replaces itself when it leads no process group, so this is edgecore's own id.
    let child = command.spawn().context("setsid could not be started")?;
    write_atomic(&paths.pid(), format!("{}\n", child.id()).as_bytes(), PUBLIC)
        .with_context(|| format!("{} could not be written", paths.pid().display()))
}

/// Ends what still runs: asks, waits, insists.
fn end(paths: &Paths) -> anyhow::Result<()> {
    let deadline = Instant::now() + STOP;
    let mut asked = false;
    loop {
        let running = process::named(&paths.proc(), NAME)?;
        if running.is_empty() {
            break;
        }
        let late = Instant::now() >= deadline;
        for pid in running {
            if late || !asked {
                let signal = if late { Signal::SIGKILL } else { Signal::SIGTERM };
                // It may have ended by itself.
                let _ = kill(Pid::from_raw(pid), signal);
            }
        }
        asked = true;
        process::pause(Duration::from_millis(100));
    }
    match std::fs::remove_file(paths.pid()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

const NAME: &str = "edgecore";
const UNIT: &str = include_str!("../../systemd/edgecore.service");
const SCRIPT: &str = include_str!("../../systemd/edgecore.openrc");
const EXECUTABLE: u32 = 0o755;
/// What edgecore has to end by itself.
const STOP: Duration = Duration::from_secs(10);
const COMPLAINTS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_is_the_one_that_runs() -> anyhow::Result<()> {
        let root = tempfile::tempdir()?;
        let paths = Paths::below(root.path());
        assert_eq!(Manager::of_host(&paths), Manager::Detached);
        std::fs::create_dir_all(paths.at("/sbin"))?;
        std::fs::write(paths.at("/sbin/openrc-run"), "")?;
        std::fs::create_dir_all(paths.at("/run/openrc"))?;
        assert_eq!(Manager::of_host(&paths), Manager::OpenRc);
        std::fs::create_dir_all(paths.at("/run/systemd/system"))?;
        assert_eq!(Manager::of_host(&paths), Manager::Systemd);
        Ok(())
    }

    #[test]
    fn units_keep_what_peers_rely_on() -> anyhow::Result<()> {
        for line in [
            "Type=simple",
            "ExecStart=/usr/local/bin/edgecore",
            "Restart=always",
            "RestartSec=10",
            "KillMode=process",
        ] {
            assert!(UNIT.lines().any(|own| own == line), "{line}");
        }
        let root = tempfile::tempdir()?;
        let paths = Paths::below(root.path());
        Manager::Systemd.install(&paths)?;
        assert_eq!(std::fs::read_to_string(paths.systemd_unit())?, UNIT);
        Manager::OpenRc.install(&paths)?;
        assert!(paths.openrc_script().exists());
        Ok(())
    }
}
