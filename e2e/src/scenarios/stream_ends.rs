//! How streams end: clients that leave without a word, and a link that is cut under them. Nothing may be left behind.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::Pid;

use super::channels::works_soon;
use super::kubectl::{self, Transport};
use super::{Entry, bare, needs_our_cloud, our_cloud, our_edge};
use crate::api;
use crate::edge::EdgeHost;
use crate::process::{self, resident_mb};
use crate::settings::is_ours;
use crate::system::{Context, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[
    ("stream_ends_aborted_execs", false, aborted_execs),
    ("stream_ends_link_cut", false, link_cut),
    ("stream_ends_with_cloudcore", false, with_cloudcore),
];

/// Clients at a time: an API server does not let more of one user wait.
const CLIENTS: u32 = 8;

/// Execs whose clients are gone after a moment: memory, files and streams of both cores are then where they were.
fn aborted_execs(context: &mut Context) -> Result<()> {
    let count = if context.long { 10_000 } else { 1000 };
    let system = context.system()?;
    let namespace = pod(system, "aborts")?;
    let path = format!("/api/v1/namespaces/{namespace}/pods/main/exec?command=true&stdout=true&stderr=true");
    wait::until("exec works", seconds(60), || {
        Ok(system.api().abort_upgrade(&path, Duration::ZERO).ok())
    })?;
    // What a process keeps after the first rush (pools, threads) is no leak.
    abort(system, &path, count / 10)?;
    let edgecore = system.edge.edgecore()?.pid();
    settled(system, edgecore, None)?;
    let before = Usage::of_cores(system)?;
    let start = Instant::now();
    abort(system, &path, count)?;
    println!("    {count} execs aborted: {:.1} s", start.elapsed().as_secs_f64());
    let after = wait::until("both as before", seconds(120), || {
        let now = Usage::of_cores(system)?;
        let well = now.iter().zip(&before).all(|(now, before)| now.is_about(before));
        ensure!(well, "{now:?}, before {before:?}");
        Ok(Some(now))
    })?;
    for ((name, now), before) in ["cloudcore", "edgecore"].into_iter().zip(&after).zip(&before) {
        println!("    {name}: {before:?} -> {now:?}");
    }
    settled(system, edgecore, Some("after"))?;
    // containerd 1.6 takes 10 s for each exec whose client left early, one after the other: its pod ends some time later.
    system
        .cluster
        .kubectl(&["delete", "namespace", &namespace, "--wait=false"])?;
    Ok(())
}

/// A cut under `logs -f` and `exec`, by both of kubectl's transports: all end and say so, what they started on the edge ends too, and it
/// all works again.
fn link_cut(context: &mut Context) -> Result<()> {
    let (tells, ours) = (our_cloud(context)?, our_edge(context)?);
    let system = context.system()?;
    let namespace = pod(system, "cut")?;
    wait::until("exec works", seconds(60), || works_soon(system, &namespace))?;
    let edgecore = system.edge.edgecore()?.pid();
    let before = Usage::of_cores(system)?;
    let (mut execs, mut logs) = begin(system, &namespace, "main")?;
    ensure!(shells(&system.edge, &namespace, "main")? == 2, "both commands run");

    system.edge.set_link(false)?;
    let cut = Instant::now();
    // 20 s of silence, then the API server and kubectl have to notice. A Go cloud looks at its streams only when a client speaks.
    let outcome = if tells {
        ends(&mut execs, &mut logs, "lost its connection")
    } else {
        Ok(())
    };
    let local = wait::until("the command on the edge is gone", seconds(120), || {
        Ok((!ours || shells(&system.edge, &namespace, "main")? == 0).then_some(()))
    });
    println!(
        "    noticed everywhere: {:.1} s after the cut",
        cut.elapsed().as_secs_f64()
    );
    system.edge.set_link(true)?;
    outcome?;
    local?;
    drop((logs, execs));
    system.node_ready(seconds(120))?;
    wait::until("exec works again", seconds(120), || works_soon(system, &namespace))?;
    ensure!(system.edge.edgecore()?.pid() == edgecore, "edgecore was started anew");
    // On a Go edge the commands go on running, and keep their files.
    let compared = if ours { &before[..] } else { &before[..1] };
    until_left(system, compared)?;
    system.clean(&namespace)
}

/// cloudcore stops in order under `logs -f` and `exec`: all say so.
fn with_cloudcore(context: &mut Context) -> Result<()> {
    needs_our_cloud(context, "a last word")?;
    let system = context.system()?;
    let namespace = pod(system, "farewell")?;
    wait::until("exec works", seconds(60), || works_soon(system, &namespace))?;
    let (mut execs, mut logs) = begin(system, &namespace, "main")?;
    system.cloud.stop()?;
    let outcome = ends(&mut execs, &mut logs, "this cloudcore stops");
    system.cloud.start()?;
    outcome?;
    system.node_ready(seconds(60))?;
    system.clean(&namespace)
}

/// A command by each of kubectl's transports and a follower, all under way in a pod that ticks.
pub(super) fn begin(system: &System, namespace: &str, pod: &str) -> Result<(Vec<Running>, Running)> {
    let mut logs = Running::start(system, &["logs", "-f", "-n", namespace, pod], Transport::WebSocket)?;
    ensure!(logs.line()?.starts_with("tick"), "logs -f");
    let script = "echo begun; exec cat /dev/stdin";
    let exec = ["exec", "-i", "-n", namespace, pod, "--", "sh", "-c", script];
    let mut execs = Vec::new();
    for transport in Transport::BOTH {
        let mut exec = Running::start(system, &exec, transport)?;
        ensure!(exec.line()? == "begun\n", "exec");
        execs.push(exec);
    }
    Ok((execs, logs))
}

/// What a process has in hand.
#[derive(Debug)]
pub(super) struct Usage {
    /// Open ones but for connections to the API server: those of watches come back one by one after it was away, and others are kept for
    /// the next request for a while.
    files: usize,
    threads: usize,
    /// Resident.
    pub(super) megabytes: f64,
    /// Of the program itself; 0 where it is not ours.
    tasks: usize,
    streams: usize,
}

impl Usage {
    /// Of cloudcore and of edgecore.
    pub(super) fn of_cores(system: &mut System) -> Result<[Self; 2]> {
        let cloud = crate::cloud::http_body(&system.cloud.monitor(), "/metrics")?;
        let edge = system.edge.fetch("http://127.0.0.1:10350/metrics")?;
        let pids = [system.cloud.cloudcore()?.pid(), system.edge.edgecore()?.pid()];
        let port = system.api().port();
        let mut both = [Self::of(pids[0], port)?, Self::of(pids[1], port)?];
        let told_by = [("cloudcore", cloud), ("edgecore", edge)];
        for ((usage, pid), (name, text)) in both.iter_mut().zip(pids).zip(told_by) {
            if is_ours(Path::new(&format!("/proc/{pid}/exe"))) {
                usage.tasks = told(&text, &format!("{name}_tasks"))?;
                usage.streams = told(&text, &format!("{name}_tunnel_streams"))?;
            }
        }
        Ok(both)
    }

    fn of(pid: Pid, api_server: u16) -> Result<Self> {
        let of_api_server = process::connections_to(pid, api_server)?;
        let files = std::fs::read_dir(format!("/proc/{pid}/fd"))?.filter(|file| {
            let target = file.as_ref().ok().and_then(|file| std::fs::read_link(file.path()).ok());
            !target.is_some_and(|target| of_api_server.contains(&target))
        });
        Ok(Self {
            files: files.count(),
            threads: std::fs::read_dir(format!("/proc/{pid}/task"))?.count(),
            megabytes: resident_mb(pid)?,
            tasks: 0,
            streams: 0,
        })
    }

    fn is_about(&self, before: &Self) -> bool {
        self.files <= before.files + SLACK
            && self.threads <= before.threads + SLACK
            && self.tasks <= before.tasks + SLACK
            && self.streams <= before.streams
            && self.megabytes <= before.megabytes + 4.0
    }
}

/// A number among metrics.
pub(super) fn told(text: &str, name: &str) -> Result<usize> {
    let number = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let number = number.with_context(|| format!("no metric {name}"))?;
    number.parse::<usize>().with_context(|| format!("{name} is {number}"))
}

/// Waits until nothing of streams is left that was not there before.
pub(super) fn until_left(system: &mut System, before: &[Usage]) -> Result<()> {
    wait::until("files, tasks and streams as before", seconds(60), || {
        let now = Usage::of_cores(system)?;
        for (now, before) in now.iter().zip(before) {
            let well = now.files <= before.files + SLACK && now.tasks <= before.tasks + SLACK;
            ensure!(well && now.streams <= before.streams, "{now:?}, before {before:?}");
        }
        Ok(Some(()))
    })
}

/// Files of a relist come and go.
const SLACK: usize = 6;

fn pod(system: &System, name: &str) -> Result<String> {
    let namespace = system.namespace(name)?;
    let manifest = bare("main", system.edge.name(), "", TICKER);
    system.cluster.apply(&namespace, &manifest)?;
    system.until_pod("pod Ready", (&namespace, "main"), 60, |pod| {
        api::is_ready(pod).then_some(())
    })?;
    Ok(namespace)
}

/// Says something every second.
pub(super) const TICKER: &str =
    r#"    command: [sh, -c, "trap 'exit 0' TERM; while true; do echo tick; sleep 1 & wait $!; done"]"#;

fn abort(system: &System, path: &str, count: u32) -> Result<()> {
    let left = AtomicU32::new(count);
    let take = || {
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .ok()
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let api = system.api().clone();
                scope.spawn(move || {
                    while let Some(number) = take() {
                        // Before the command has begun, and after.
                        let hold = Duration::from_millis(u64::from((number + client) % 4) * 100);
                        api.abort_upgrade(path, hold)?;
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        clients.into_iter().try_for_each(|client| {
            client
                .join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("a client panicked")))
        })
    })
}

/// The tunnel's own count of streams, where there is one.
fn streams(system: &System) -> Result<Option<String>> {
    let text = system.edge.fetch("http://127.0.0.1:10350/metrics")?;
    Ok(text
        .lines()
        .find_map(|line| line.strip_prefix("edgecore_tunnel_streams "))
        .map(ToOwned::to_owned))
}

/// Waits until no stream is open on the edge and its files have come to rest.
fn settled(system: &System, edgecore: Pid, say: Option<&str>) -> Result<()> {
    wait::until("no stream is open", seconds(60), || {
        let open = streams(system)?;
        ensure!(
            open.as_deref().is_none_or(|open| open == "0"),
            "{open:?} streams {}",
            say.unwrap_or("before")
        );
        Ok(Some(()))
    })?;
    let port = system.api().port();
    let mut last = Usage::of(edgecore, port)?.files;
    wait::quietly("files at rest", seconds(60), || {
        wait::pause(seconds(1));
        let now = Usage::of(edgecore, port)?.files;
        Ok((std::mem::replace(&mut last, now) == now).then_some(()))
    })
}

/// How many commands of [`begin`] run in the pod, as its host sees it.
pub(super) fn shells(edge: &EdgeHost, namespace: &str, pod: &str) -> Result<usize> {
    let container = edge.container(namespace, pod, "main")?;
    Ok(edge
        .exec(&container, &["ps"])?
        .lines()
        .filter(|line| line.ends_with("cat /dev/stdin"))
        .count())
}

/// A kubectl that runs until something ends it.
pub(super) struct Running {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Running {
    pub(super) fn start(system: &System, arguments: &[&str], transport: Transport) -> Result<Self> {
        let mut child = kubectl::start(transport, system, arguments)?;
        let output = BufReader::new(child.stdout.take().context("stdout")?);
        Ok(Self { child, output })
    }

    pub(super) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line)
    }

    /// Writes to its standard input.
    pub(super) fn say(&mut self, text: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("stdin")?;
        input.write_all(text.as_bytes())?;
        Ok(input.flush()?)
    }

    pub(super) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Reads what is still to come, to its end, and returns it with the exit code.
    pub(super) fn rest(&mut self) -> Result<(Vec<u8>, Option<i32>)> {
        let Self { child, output } = self;
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut bytes = Vec::new();
                output.read_to_end(&mut bytes).map(|_| bytes)
            });
            let status = wait::until("it is read to its end", seconds(120), || Ok(child.try_wait()?));
            if status.is_err() {
                // Which ends the reading, too.
                let _ = child.kill();
            }
            let bytes = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
            Ok((bytes, status?.code()))
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Both kinds say that they were cut: a command by its exit code and an error, a log, which cannot fail once it has begun (an API server
/// ends it as if all were well), by its last line.
pub(super) fn ends(execs: &mut [Running], logs: &mut Running, why: &str) -> Result<()> {
    for exec in execs {
        let (code, said, _) = end("exec", exec)?;
        ensure!(code == Some(1) && said.contains(why), "exec: {code:?}, {said:?}");
    }
    let (_, _, last) = end("logs -f", logs)?;
    ensure!(
        last.starts_with("error: ") && last.contains(why),
        "the log says nothing of its end: {last:?}"
    );
    Ok(())
}

/// Exit code, standard error and last line of output.
fn end(name: &str, running: &mut Running) -> Result<(Option<i32>, String, String)> {
    let status = wait::until(&format!("{name} ends"), seconds(120), || {
        Ok(running.child.try_wait()?)
    })?;
    let (mut said, mut rest) = (String::new(), String::new());
    let mut errors = running.child.stderr.take().context("stderr")?;
    errors.read_to_string(&mut said)?;
    running.output.read_to_string(&mut rest)?;
    let last = rest.lines().last().unwrap_or_default();
    println!("    {name}: {status}: {} {last}", said.trim());
    Ok((status.code(), said, last.to_owned()))
}
