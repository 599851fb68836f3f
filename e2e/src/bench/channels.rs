//! The marks of the channels: kubectl as a user runs it, its own start included, each result compared byte for byte.

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{Bench, LIMIT, idle_pod, list, median};
use crate::api;
use crate::link::Random;
use crate::scenarios::devices::kit::Sides;
use crate::settings::Settings;
use crate::wait;

/// The marks.
pub(super) const NAMES: [&str; 4] = ["exec", "logs", "exec-in", "exec-out"];
/// Bytes of a stream, in or out.
const STREAM: usize = 50_000_000;
/// The log: lines long enough that the file, with what containerd puts before each line, stays below the 10 MiB at which a log is
/// turned over.
const LINES: usize = 10_000;
const LINE: usize = 960;
const EXECS: usize = 10;
const RUNS: usize = 5;
/// Where the container keeps a stream: in memory.
const KEPT: &str = "/dev/shm/kept";

impl Bench {
    /// Takes those of the marks that are wanted.
    pub(super) fn channels(&mut self, settings: &Settings, run: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
        let sides = Sides::of(settings)?;
        let namespace = self.system.namespace("channels")?;
        self.create(&namespace, 1)?;
        self.running(&namespace, 1)?;
        let input = stream_file(run)?;
        let bytes = std::fs::read(&input)?;
        wait::until("exec works", LIMIT, || {
            let said = self.exec(&namespace, &["hostname"], None)?.1;
            Ok((said == b"pod-0\n").then_some(()))
        })?;
        if wanted("exec") {
            let times = repeat(sides, EXECS, || Ok(self.exec(&namespace, &["true"], None)?.0))?;
            // What no cloudcore and no edgecore can save: kubectl's own start with one request, and the runtime's.
            let kubectl = repeat(sides, EXECS, || Ok(self.kubectl(&["get", "--raw", "/livez"], None)?.0))?;
            let container = self.system.edge.container(&namespace, "pod-0", "main")?;
            let runtime = repeat(sides, EXECS, || {
                let start = Instant::now();
                self.system.edge.exec(&container, &["true"])?;
                Ok(start.elapsed().as_secs_f64())
            })?;
            let note = format!(
                "runs={EXECS} median of {times}, exit code 0; kubectl-alone={:.3} runtime-alone={:.3}",
                median(&kubectl.times),
                median(&runtime.times)
            );
            self.push("exec", median(&times.times), "s", note);
        }
        if wanted("exec-in") || wanted("exec-out") {
            let checksum = |bench: &Self| bench.exec(&namespace, &["sha256sum", KEPT], None);
            let right = sha256(&input)?;
            let times = repeat(sides, RUNS, || {
                // What counts them comes later: it would be a fifth of the time, whoever carries the bytes. The shell stays: containerd
                // ends the input of a command whose output nobody holds.
                let script = format!("cat > {KEPT} && true");
                let took = self.exec(&namespace, &["sh", "-c", &script], Some(&input))?.0;
                let said = String::from_utf8(checksum(self)?.1)?;
                ensure!(said.starts_with(&right), "the container has {said}, not {right}");
                Ok(took)
            })?;
            if wanted("exec-in") {
                let note = format!("runs={RUNS} median of {times}, {STREAM} bytes, sha256 equal");
                self.push("exec-in", median(&times.times), "s", note);
            }
        }
        if wanted("exec-out") {
            let times = repeat(sides, RUNS, || {
                let (took, output) = self.exec(&namespace, &["cat", KEPT], None)?;
                ensure!(output == bytes, "{} bytes came, or others", output.len());
                Ok(took)
            })?;
            let note = format!("runs={RUNS} median of {times}, {STREAM} bytes, all equal");
            self.push("exec-out", median(&times.times), "s", note);
        }
        if wanted("logs") {
            self.logs(sides, &namespace)?;
        }
        std::fs::remove_file(&input)?;
        self.delete(&namespace)?;
        self.system.clean(&namespace)
    }

    fn logs(&mut self, sides: Sides, namespace: &str) -> Result<()> {
        let line = "0123456789abcdef".repeat(LINE / 16);
        let line = line.get(..LINE - 1).context("a line")?;
        let whole = format!("{line}\n").repeat(LINES).into_bytes();
        let mut pod = idle_pod("talker", self.system.edge.name());
        let command = pod.pointer_mut("/spec/containers/0/command/2").context("the command")?;
        *command = json!(format!(
            "trap 'exit 0' TERM; yes {line} | head -n {LINES}; sleep 1000000 & wait"
        ));
        self.system.api().create(&api::pods_path(namespace), &pod)?;
        let arguments = ["logs", "-n", namespace, "talker"];
        wait::until("the whole log", LIMIT, || {
            Ok((self.kubectl(&arguments, None)?.1 == whole).then_some(()))
        })?;
        let times = repeat(sides, RUNS, || {
            let (took, output) = self.kubectl(&arguments, None)?;
            ensure!(output == whole, "{} bytes came, or others", output.len());
            Ok(took)
        })?;
        let note = format!("runs={RUNS} median of {times}, {} bytes, all equal", whole.len());
        self.push("logs", median(&times.times), "s", note);
        Ok(())
    }

    fn exec(&self, namespace: &str, command: &[&str], input: Option<&Path>) -> Result<(f64, Vec<u8>)> {
        let stdin: &[&str] = if input.is_some() { &["-i"] } else { &[] };
        let arguments = [&["exec"], stdin, &["-n", namespace, "pod-0", "--"], command].concat();
        self.kubectl(&arguments, input)
    }

    /// The time that a successful kubectl took, and its output.
    fn kubectl(&self, arguments: &[&str], input: Option<&Path>) -> Result<(f64, Vec<u8>)> {
        let stdin = match input {
            Some(path) => Stdio::from(File::open(path)?),
            None => Stdio::null(),
        };
        let start = Instant::now();
        let mut command = self.system.cluster.kubectl_command();
        let output = command.args(arguments).stdin(stdin).output()?;
        let took = start.elapsed().as_secs_f64();
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {}: {said}", arguments.join(" "));
        Ok((took, output.stdout))
    }
}

/// Times of good runs, and how many failed beside them.
struct Times {
    times: Vec<f64>,
    failed: usize,
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&list(&self.times))?;
        match self.failed {
            0 => Ok(()),
            failed => write!(f, " ({failed} more failed)"),
        }
    }
}

/// Times of that many good runs. A Go peer breaks some connections off: such a run is told of, counted and made again, a few times.
/// One of ours that fails is an error.
fn repeat(sides: Sides, runs: usize, mut one: impl FnMut() -> Result<f64>) -> Result<Times> {
    let tolerated = if sides.cloud && sides.edge { 0 } else { runs };
    let (mut times, mut failed) = (Vec::new(), 0);
    while times.len() < runs {
        match one() {
            Ok(took) => times.push(took),
            Err(error) if failed < tolerated => {
                failed += 1;
                println!("  a run failed: {error:#}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Times { times, failed })
}

/// Bytes that no program can make fewer.
fn stream_file(run: &Path) -> Result<PathBuf> {
    let path = run.join("stream");
    let mut random = Random(20_261_121);
    let bytes: Vec<u8> = (0..STREAM / 8).flat_map(|_| random.draw().to_le_bytes()).collect();
    File::create(&path)?.write_all(&bytes)?;
    Ok(path)
}

fn sha256(path: &Path) -> Result<String> {
    let line = crate::process::call("sha256sum", &[&path.to_string_lossy()])?;
    Ok(line.split(' ').next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn only_a_peer_may_fail() -> Result<()> {
        let ours = Sides {
            cloud: true,
            edge: true,
        };
        let theirs = Sides {
            cloud: false,
            edge: false,
        };
        let flaky = || {
            let mut calls = 0;
            move || {
                calls += 1;
                if calls == 2 { bail!("broken off") } else { Ok(1.0) }
            }
        };
        assert!(repeat(ours, 2, flaky()).is_err());
        assert_eq!(repeat(theirs, 2, flaky())?.to_string(), "1.00/1.00 (1 more failed)");
        Ok(())
    }
}
