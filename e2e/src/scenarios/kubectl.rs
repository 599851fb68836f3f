//! kubectl, run as a user types it.

use std::io::Write as _;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::system::System;

/// How kubectl talks to the API server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Transport {
    WebSocket,
    Spdy,
}

impl Transport {
    pub(super) const BOTH: [Self; 2] = [Self::WebSocket, Self::Spdy];

    /// The variables of the environment by which kubectl is told.
    pub(super) fn variables(self) -> [(&'static str, String); 2] {
        ["KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "KUBECTL_PORT_FORWARD_WEBSOCKETS"]
            .map(|name| (name, (self == Self::WebSocket).to_string()))
    }
}

/// What a run of kubectl said, with the time it took.
pub(super) struct Said {
    pub(super) output: Output,
    pub(super) took: Duration,
}

impl Said {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// Without a remark of kubectl's own: it begins to read before it has made its streams, and on a busy machine the empty message
    /// with which the API server opens each of them finds none (client-go's websocket.go).
    pub(super) fn error(&self) -> String {
        let text = String::from_utf8_lossy(&self.output.stderr);
        let lines = text.split_inclusive('\n');
        lines.filter(|line| !line.contains("] Unknown stream id ")).collect()
    }

    pub(super) fn code(&self) -> Option<i32> {
        self.output.status.code()
    }
}

/// Runs kubectl with bytes on its standard input, and kills it after a limit.
pub(super) fn kubectl(system: &System, arguments: &[&str], input: &[u8]) -> Result<Said> {
    kubectl_by(Transport::WebSocket, system, arguments, input)
}

/// A kubectl whose three streams are pipes.
pub(super) fn start(transport: Transport, system: &System, arguments: &[&str]) -> Result<Child> {
    let mut command = system.cluster.kubectl_command();
    command
        .args(arguments)
        .envs(transport.variables())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(command.spawn()?)
}

pub(super) fn kubectl_by(transport: Transport, system: &System, arguments: &[&str], input: &[u8]) -> Result<Said> {
    let begun = Instant::now();
    let mut child = start(transport, system, arguments)?;
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
        took: begun.elapsed(),
    };
    let by = if transport == Transport::Spdy { ", by SPDY" } else { "" };
    println!("    kubectl {}{by}: {:.2} s", short(arguments), said.took.as_secs_f64());
    Ok(said)
}

/// No command of these scenarios may take longer.
const LIMIT: Duration = Duration::from_secs(120);

fn short(arguments: &[&str]) -> String {
    arguments.join(" ").chars().take(90).collect()
}
