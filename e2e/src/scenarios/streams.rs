//! What kubectl does through the tunnel: logs, exec, cp, attach, port-forward. Each program of kubectl is run as a user types it.

use std::io::Write as _;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{Entry, IDLE, bare};
use crate::api;
use crate::system::{Context, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[("streams_logs", false, logs), ("streams_exec", false, exec)];

/// Prints ten numbered lines and then does nothing.
const TALKER: &str = r#"    command: [sh, -c, "trap 'exit 0' TERM; for i in 0 1 2 3 4 5 6 7 8 9; do echo line $i; done; sleep 1000000 & wait"]"#;

/// What a run of kubectl said, with the time it took.
struct Said {
    output: Output,
    took: Duration,
}

impl Said {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    fn error(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    fn code(&self) -> Option<i32> {
        self.output.status.code()
    }
}

/// Runs kubectl with bytes on its standard input, and kills it after a limit.
fn kubectl(system: &System, arguments: &[&str], input: &[u8]) -> Result<Said> {
    let start = Instant::now();
    let mut command = system.cluster.kubectl_command();
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("stdin")?;
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // A command that reads nothing closes its end.
        let _ = stdin.write_all(&input);
    });
    let pid = child.id();
    let (done, ended) = std::sync::mpsc::sync_channel::<()>(1);
    let limit = std::thread::spawn(move || {
        if ended.recv_timeout(LIMIT).is_err() {
            crate::process::signal(
                nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap_or_default()),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    });
    let output = child.wait_with_output()?;
    let _ = done.send(());
    let _ = (writer.join(), limit.join());
    let said = Said {
        output,
        took: start.elapsed(),
    };
    println!("    kubectl {}: {:.2} s", short(arguments), said.took.as_secs_f64());
    Ok(said)
}

/// No command of these scenarios may take longer.
const LIMIT: Duration = Duration::from_secs(120);

fn short(arguments: &[&str]) -> String {
    arguments.join(" ").chars().take(90).collect()
}

/// A Running pod with this command in a namespace of its own.
fn pod(system: &System, name: &str, command: &str) -> Result<String> {
    let namespace = system.namespace(name)?;
    system
        .cluster
        .apply(&namespace, &bare("main", system.edge.name(), "", command))?;
    system.until_pod("pod Ready", (&namespace, "main"), 60, |pod| {
        api::is_ready(pod).then_some(())
    })?;
    Ok(namespace)
}

/// Logs whole, the end of them, those since a time, and with timestamps; of a container that is not there an error.
fn logs(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let namespace = pod(system, "logs", TALKER)?;
    let of = |more: &[&str]| {
        let mut arguments = vec!["logs", "-n", namespace.as_str(), "main"];
        arguments.extend_from_slice(more);
        kubectl(system, &arguments, b"")
    };
    let all: String = (0..10).map(|number| format!("line {number}\n")).collect();
    wait::until("the whole log", seconds(30), || {
        let said = of(&[])?;
        ensure!(said.text() == all, "{:?} {}", said.text(), said.error());
        Ok(Some(()))
    })?;
    ensure!(of(&["--tail=2"])?.text() == "line 8\nline 9\n", "--tail=2");
    ensure!(of(&["--since=1h"])?.text() == all, "--since=1h");
    ensure!(of(&["--limit-bytes=6"])?.text() == "line 0", "--limit-bytes=6");
    let stamped = of(&["--timestamps", "--tail=1"])?.text();
    let (time, line) = stamped.split_once(' ').context("a timestamp")?;
    ensure!(
        time.len() >= 20 && time.starts_with("20") && line == "line 9\n",
        "{stamped:?}"
    );
    ensure!(of(&["-c", "other"])?.code() == Some(1), "a container that is not there");
    system.clean(&namespace)
}

/// Exit codes, both outputs, and bytes in and out of a command.
fn exec(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let namespace = pod(system, "exec", IDLE)?;
    let run = |script: &str, input: &[u8]| {
        kubectl(
            system,
            &["exec", "-i", "-n", &namespace, "main", "--", "sh", "-c", script],
            input,
        )
    };
    wait::until("exec works", seconds(30), || {
        Ok((run("true", b"")?.code() == Some(0)).then_some(()))
    })?;
    for code in [0, 1, 7, 137] {
        let said = run(&format!("exit {code}"), b"")?;
        ensure!(
            said.code() == Some(code),
            "exit {code} became {:?}: {}",
            said.code(),
            said.error()
        );
    }
    let said = run("echo out; echo err >&2", b"")?;
    ensure!(
        said.text() == "out\n" && said.error() == "err\n",
        "{:?} {:?}",
        said.text(),
        said.error()
    );
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let said = run("cat", &bytes)?;
    ensure!(
        said.output.stdout == bytes,
        "cat gave back {} bytes",
        said.output.stdout.len()
    );
    system.clean(&namespace)
}
