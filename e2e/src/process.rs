//! Commands that are run to their end, and daemons that outlive the call (and, for the demo, this process): those have a pid
//! file and a log file in the run's folder.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::wait;

/// How much of a log is shown with a failure, in bytes.
const LOG_TAIL: usize = 6_000;

/// Runs a command and returns its standard output; a failure carries the command line and what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let line = render(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {line}"))?;
    if !output.status.success() {
        bail!(
            "{line}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `program` with `arguments`, as [`run`].
pub fn call(program: impl AsRef<Path>, arguments: &[&str]) -> Result<String> {
    run(Command::new(program.as_ref()).args(arguments))
}

/// Runs a command with `input` on its standard input.
pub fn feed(command: &mut Command, input: &str) -> Result<String> {
    let line = render(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {line}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(input.as_bytes())
            .with_context(|| format!("{line}: input"))?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "{line}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn render(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line.chars().take(300).collect()
}

/// Whether these bytes stand somewhere in the writable memory of a process.
pub fn holds(pid: Pid, needle: &[u8]) -> Result<bool> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = std::fs::File::open(format!("/proc/{pid}/mem"))?;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else {
            continue;
        };
        let Some((from, to)) = range.split_once('-').filter(|_| rights.starts_with("rw")) else {
            continue;
        };
        let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        let mut bytes = vec![0; usize::try_from(to - from)?];
        // A region may go away meanwhile, and some cannot be read.
        if memory.read_exact_at(&mut bytes, from).is_ok() && memchr::memmem::find(&bytes, needle).is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A long-running process of a run.
#[derive(Debug)]
pub struct Daemon {
    pid: Pid,
    child: Option<Child>,
    name: String,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command` in the background; its output goes to `folder/name.log` (appended), its pid to `folder/name.pid`.
    pub fn start(folder: &Path, name: &str, command: &mut Command) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("{}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}: {}", render(command)))?;
        let pid = Pid::from_raw(i32::try_from(child.id()).context("pid")?);
        std::fs::write(folder.join(format!("{name}.pid")), pid.to_string())?;
        Ok(Self {
            pid,
            child: Some(child),
            name: name.to_owned(),
            log,
        })
    }

    /// The daemon that an earlier process left in `folder`, if it still runs.
    #[must_use]
    pub fn find(folder: &Path, name: &str) -> Option<Self> {
        let pid = std::fs::read_to_string(folder.join(format!("{name}.pid")))
            .ok()?
            .trim()
            .parse()
            .ok()?;
        let daemon = Self {
            pid: Pid::from_raw(pid),
            child: None,
            name: name.to_owned(),
            log: folder.join(format!("{name}.log")),
        };
        alive(daemon.pid).then_some(daemon)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its log file.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Whether it runs.
    pub fn alive(&mut self) -> bool {
        match &mut self.child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => alive(self.pid),
        }
    }

    /// Waits for its end.
    pub fn exited(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let name = self.name.clone();
        wait::quietly(&format!("the end of {name}"), limit, || {
            Ok((!self.alive()).then_some(()))
        })?;
        Ok(match &mut self.child {
            Some(child) => child.try_wait()?,
            None => None,
        })
    }

    /// Asks it to stop (SIGTERM) and kills it when it has not within `limit`; an error if it had to be killed.
    pub fn stop(&mut self, limit: Duration) -> Result<()> {
        signal(self.pid, Signal::SIGTERM);
        if self.exited(limit).is_err() {
            self.kill();
            bail!("{} did not stop within {} s of SIGTERM", self.name, limit.as_secs());
        }
        Ok(())
    }

    /// Kills it at once (SIGKILL).
    pub fn kill(&mut self) {
        signal(self.pid, Signal::SIGKILL);
        // A process in uninterruptible sleep may take a moment; nothing else can be done about it here.
        let _ = self.exited(wait::seconds(10));
    }

    /// The last lines of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        tail(&self.log)
    }
}

/// Sends a signal; a process that has gone already is what the sender wanted.
pub fn signal(pid: Pid, signal: Signal) {
    let _ = nix::sys::signal::kill(pid, signal);
}

/// Whether a process runs (a zombie does not).
#[must_use]
pub fn alive(pid: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(") ")
            .next()
            .is_some_and(|rest| !rest.starts_with(['Z', 'X']))
    })
}

/// The end of a file, cut at a line.
#[must_use]
pub fn tail(path: &Path) -> String {
    let Ok(bytes) = std::fs::read(path) else {
        return format!("(no {})", path.display());
    };
    let from = bytes.len().saturating_sub(LOG_TAIL);
    let text = String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned();
    match text.split_once('\n') {
        Some((_, rest)) if from > 0 => rest.to_owned(),
        _ => text,
    }
}

/// Holds an exclusive lock on a file until dropped.
pub fn lock(path: &Path) -> Result<nix::fcntl::Flock<File>> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("{}", path.display()))?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive)
        .map_err(|(_, errno)| anyhow::anyhow!("cannot lock {}: {errno}", path.display()))
}

/// VmRSS of a process in units of 10^6 bytes.
pub fn resident_mb(pid: Pid) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse().ok())
        .context("VmRSS is missing")?;
    Ok(kib * 1024.0 / 1e6)
}

/// Sockets in the network namespace of a process that are connected to a TCP port, as links in `/proc/PID/fd` show them. Format of the
/// tables: proc(5), /proc/net/tcp.
pub fn connections_to(pid: Pid, port: u16) -> Result<Vec<PathBuf>> {
    let port = format!(":{port:04X}");
    let mut links = Vec::new();
    for table in ["tcp", "tcp6"] {
        let table = std::fs::read_to_string(format!("/proc/{pid}/net/{table}"))?;
        for line in table.lines() {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            if let (Some(remote), Some(inode)) = (fields.get(2), fields.get(9))
                && remote.ends_with(&port)
            {
                links.push(PathBuf::from(format!("socket:[{inode}]")));
            }
        }
    }
    Ok(links)
}

/// CPU time that a process has used, in seconds.
pub fn cpu_seconds(pid: Pid) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    // Counted from the state field: utime and stime are the 12th and 13th after it, in ticks of 10 ms (USER_HZ is 100).
    let tick = |index: usize| {
        fields
            .get(index)
            .and_then(|field| field.parse::<f64>().ok())
            .context("/proc/PID/stat")
    };
    Ok((tick(11)? + tick(12)?) / 100.0)
}
