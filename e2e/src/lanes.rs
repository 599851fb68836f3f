//! Scenarios side by side: most of a scenario is waiting, so two at a time need little more than half of the time of one after
//! another.
//!
//! A lane is a process of this program (`e2e system --lane`) with a run, a network namespace and a shared system of its own; it
//! takes names of scenarios from its standard input, one a line, and ends with it. What it prints comes out here line by line,
//! behind the lane's number. Scenarios that look at the whole machine come when all lanes have ended, in one of their own.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context as _, Result};

use crate::scenarios;
use crate::system::{Count, Outcome};

/// Runs scenarios in `lanes` processes. Each takes the first name that is left when it is done with one.
pub fn run(names: Vec<String>, lanes: u8, long: bool) -> Result<Count> {
    let (alone, names): (VecDeque<_>, VecDeque<_>) = names.into_iter().partition(|name| scenarios::is_alone(name));
    let queue = Mutex::new(names);
    let count = std::thread::scope(|scope| {
        let lanes: Vec<_> = (1..=lanes)
            .map(|number| {
                scope.spawn({
                    let queue = &queue;
                    move || drive(number, queue, long)
                })
            })
            .collect();
        lanes.into_iter().try_fold(Count::default(), |sum, lane| {
            Ok::<_, anyhow::Error>(sum + lane.join().map_err(|_| anyhow::anyhow!("a lane's thread panicked"))??)
        })
    })?;
    Ok(count + drive(1, &Mutex::new(alone), long)?)
}

/// Hands names to a lane until there are none. A lane that ends early has failed its scenario; the next name gets a new one.
fn drive(number: u8, queue: &Mutex<VecDeque<String>>, long: bool) -> Result<Count> {
    let mut count = Count::default();
    let mut lane: Option<Lane> = None;
    let next = || queue.lock().ok().and_then(|mut queue| queue.pop_front());
    while let Some(name) = next() {
        let mut running = match lane.take() {
            Some(running) => running,
            None => Lane::start(number, long)?,
        };
        if let Some(outcome) = running.scenario(&name) {
            count.add(outcome);
            lane = Some(running);
        } else {
            count.add(Outcome::Failed);
            println!("[{number}] FAILED {name}: its lane ended: {}", running.end()?);
        }
    }
    if let Some(lane) = lane {
        lane.end()?;
    }
    Ok(count)
}

struct Lane {
    number: u8,
    child: Child,
    /// Closed when there are no more.
    names: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Lane {
    fn start(number: u8, long: bool) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["system", "--lane"]);
        if long {
            command.arg("--long");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("a lane cannot be started")?;
        let (names, output) = (child.stdin.take(), child.stdout.take());
        Ok(Self {
            number,
            child,
            names,
            output: BufReader::new(output.context("a lane's output")?),
        })
    }

    /// Runs a scenario and passes on what is printed meanwhile; none when the lane ended.
    fn scenario(&mut self, name: &str) -> Option<Outcome> {
        writeln!(self.names.as_mut()?, "{name}").ok()?;
        loop {
            let line = self.line()?;
            if let Some(outcome) = Outcome::of_line(&line, name) {
                return Some(outcome);
            }
        }
    }

    /// Passes a line on; none at the end.
    fn line(&mut self) -> Option<String> {
        let mut bytes = Vec::new();
        // Tails of logs may hold anything.
        let read = self.output.read_until(b'\n', &mut bytes).ok()?;
        let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        (read > 0).then(|| println!("[{}] {line}", self.number))?;
        Some(line)
    }

    /// Lets it clean up, passes on what it still says and waits for its end.
    fn end(mut self) -> Result<std::process::ExitStatus> {
        self.names = None;
        while self.line().is_some() {}
        Ok(self.child.wait()?)
    }
}
