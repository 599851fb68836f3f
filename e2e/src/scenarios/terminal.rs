//! kubectl on a terminal: its size reaches the command, also when it changes, and the exit code comes back.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::channels::works_soon;
use super::kubectl::Transport;
use super::streams::pod;
use super::{Entry, IDLE, bare};
use crate::api;
use crate::process;
use crate::system::{Context, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[
    ("streams_terminal", false, exec),
    ("streams_attach_terminal", false, attach),
];

/// A command that is run, by both transports.
fn exec(context: &mut Context) -> Result<()> {
    let terminal = Terminal::new(context);
    let system = context.system()?;
    let namespace = pod(system, "terminal", IDLE)?;
    // It says which size it saw first, and ends when it sees the second.
    let inside = "until first=$(stty size 2>/dev/null); [ -n \"$first\" ]; do sleep 0.1; done; echo first $first; \
                  until [ \"$(stty size 2>/dev/null)\" = \"44 99\" ]; do sleep 0.1; done; echo then $(stty size); exit 7";
    let command = format!("exec -it -n {namespace} main -- sh -c '{inside}'");
    for transport in Transport::BOTH {
        let (said, code) = terminal.run(system, transport, &command, "first ")?;
        ensure!(
            said.contains("first 33 77\r\n") && said.contains("then 44 99\r\n"),
            "{transport:?}: {said:?}"
        );
        ensure!(code == Some(7), "{transport:?}: exit 7 became {code:?}: {said:?}");
    }
    system.clean(&namespace)
}

/// The container's own terminal, by both transports.
fn attach(context: &mut Context) -> Result<()> {
    // What it says before the first attach is heard by nobody: it says its size again and again.
    const SIZES: &str = r#"    stdin: true
    tty: true
    command:
    - sh
    - -c
    - |
      until [ "`stty size`" = "44 99" ]; do echo at `stty size`; sleep 0.1; done
      echo then `stty size`"#;
    let terminal = Terminal::new(context);
    let system = context.system()?;
    let namespace = system.namespace("attach-terminal")?;
    for (name, transport) in ["main", "second"].into_iter().zip(Transport::BOTH) {
        let manifest = bare(name, system.edge.name(), "  restartPolicy: Never", SIZES);
        system.cluster.apply(&namespace, &manifest)?;
        system.until_pod("pod Ready", (&namespace, name), 60, |pod| {
            api::is_ready(pod).then_some(())
        })?;
        if name == "main" {
            wait::until("exec works", seconds(60), || works_soon(system, &namespace))?;
        }
        let command = format!("attach -it -n {namespace} {name}");
        let (said, _) = terminal.run(system, transport, &command, "at 33 77\r\n")?;
        ensure!(
            said.contains("at 33 77\r\n") && said.contains("then 44 99\r\n"),
            "{transport:?}: {said:?}"
        );
    }
    system.clean(&namespace)
}

/// A terminal of 33 by 77.
struct Terminal {
    /// Where its name is written.
    name: PathBuf,
    kubectl: String,
}

impl Terminal {
    fn new(context: &Context) -> Self {
        Self {
            name: context.folder().join("tty"),
            kubectl: context.settings.kubectl().display().to_string(),
        }
    }

    /// Runs kubectl on it, makes it 44 by 99 when `first` was said, and returns all that was said, with the exit code.
    fn run(&self, system: &System, transport: Transport, command: &str, first: &str) -> Result<(String, Option<i32>)> {
        let (kubectl, config) = (&self.kubectl, system.cluster.kubeconfig().display());
        let outside = format!(
            "stty rows 33 cols 77; tty > {}; timeout --foreground 60 {kubectl} --kubeconfig {config} {command}",
            self.name.display()
        );
        let start = Instant::now();
        // Its input stays open: nobody types.
        let mut child = Command::new("script")
            .args(["-qec", &outside, "/dev/null"])
            .envs(transport.variables())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("script")?;
        let mut output = BufReader::new(child.stdout.take().context("its output")?);
        let mut said = String::new();
        while !said.contains(first) && output.read_line(&mut said)? > 0 {}
        let name = std::fs::read_to_string(&self.name)?;
        // Where kubectl has ended already, what it said tells more than this.
        let _ = process::call("stty", &["-F", name.trim(), "rows", "44", "cols", "99"]);
        output.read_to_string(&mut said)?;
        let status = child.wait()?;
        std::fs::remove_file(&self.name)?;
        println!(
            "    a terminal that changes its size, {transport:?}: {:.2} s",
            start.elapsed().as_secs_f64()
        );
        Ok((said, status.code()))
    }
}
