//! The channels against a real kubelet, across rotations of logs, and with the ways of the bytes broken.

use std::process::{Child, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use super::kubectl::{Said, kubectl};
use super::manifests::KUBELET;
use super::usage::configure;
use super::{Entry, IDLE, bare};
use crate::api;
use crate::process::cpu_seconds;
use crate::system::{Context, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[
    ("channels_oracle", false, oracle),
    ("channels_follow", false, follow),
    ("channels_killed", false, killed),
    ("channels_cut", false, cut),
];

/// Ends once and runs on the second time, so that there is a log of before. Both outputs, a line that the runtime cuts, one without an end.
const TALKER: &str = r#"    command:
    - sh
    - -c
    - |
      if [ -e /data/again ]; then echo second run; exec sleep 1000000; fi
      touch /data/again
      for i in 1 2 3 4 5; do echo line $i; done; sleep 0.3
      echo to the other output >&2; sleep 0.3
      head -c 40000 /dev/zero | tr '\0' x; echo; sleep 0.3
      printf 'a line\twith a tab\n\nafter an empty one, without an end'
      exit 3
    volumeMounts: [{name: data, mountPath: /data}]"#;

/// What kubectl is asked on both nodes; times are masked.
const QUESTIONS: &[&[&str]] = &[
    &["talker"],
    &["talker", "--previous"],
    &["talker", "--previous", "--tail=3"],
    &["talker", "--previous", "--tail=0"],
    &["talker", "--previous", "--tail=100"],
    &["talker", "--previous", "--limit-bytes=20"],
    &["talker", "--previous", "--limit-bytes=30000", "--tail=6"],
    &["talker", "--previous", "--since=1h"],
    &["talker", "--previous", "--since-time=2001-01-01T00:00:00Z"],
    &["talker", "--previous", "--since-time=2099-01-01T00:00:00Z"],
    &["talker", "--previous", "--timestamps"],
    &["talker", "--previous", "--timestamps", "--tail=2", "--limit-bytes=40"],
    &["talker", "--previous", "--follow"],
    &["talker", "-c", "nobody"],
    &["imageless"],
    &["imageless", "--previous"],
    &["nobody"],
];

/// Each question about a log is answered on an edge byte for byte as on a node with a kubelet: output, errors, exit code.
fn oracle(context: &mut Context) -> Result<()> {
    let ours = context.ours();
    let system = context.system()?;
    system.cluster.start_node(KUBELET)?;
    let result = compare(system, ours);
    system.cluster.stop_node(KUBELET)?;
    result
}

fn compare(system: &System, ours: bool) -> Result<()> {
    let mut namespaces = Vec::new();
    for (name, node) in [("logs-edge", system.edge.name()), ("logs-kubelet", KUBELET)] {
        let namespace = system.namespace(name)?;
        let volume = "  volumes: [{name: data, emptyDir: {}}]";
        system
            .cluster
            .apply(&namespace, &bare("talker", node, volume, TALKER))?;
        let imageless = bare("imageless", node, "", IDLE)
            .replace(crate::edge::BUSYBOX, "example.invalid/none:1")
            .replace("IfNotPresent", "Never");
        system.cluster.apply(&namespace, &imageless)?;
        namespaces.push(namespace);
    }
    for namespace in &namespaces {
        system.until_pod("talker runs again", (namespace, "talker"), 120, |pod| {
            (api::is_ready(pod) && api::number(pod, "/status/containerStatuses/0/restartCount") == 1).then_some(())
        })?;
        system.until_pod("imageless waits", (namespace, "imageless"), 60, |pod| {
            let reason = api::text(pod, "/status/containerStatuses/0/state/waiting/reason");
            (reason == "ErrImageNeverPull").then_some(())
        })?;
        // A container is Ready before it has said anything, and a node before it has its tunnel.
        wait::until("the second run is in the log", seconds(60), || {
            let said = kubectl(system, &["logs", "-n", namespace.as_str(), "talker"], b"")?;
            Ok((said.text() == "second run\n").then_some(()))
        })?;
    }
    let mut different = Vec::new();
    for question in QUESTIONS {
        if !ours && question.first() == Some(&"imageless") {
            // A Go cloud passes on the text of an error as if it were the log.
            continue;
        }
        let mut answers = Vec::new();
        for namespace in &namespaces {
            let mut arguments = vec!["logs", "-n", namespace.as_str()];
            arguments.extend_from_slice(question);
            let said = kubectl(system, &arguments, b"")?;
            let timed = question.contains(&"--timestamps");
            answers.push((
                masked(&said.text(), timed),
                said.error().replace(namespace.as_str(), "NAMESPACE"),
                said.code(),
            ));
        }
        if let [edge, kubelet] = answers.as_slice()
            && edge != kubelet
        {
            let short =
                |answer: &(String, String, Option<i32>)| format!("{answer:?}").chars().take(600).collect::<String>();
            different.push(format!(
                "{question:?}\n  edge:    {}\n  kubelet: {}",
                short(edge),
                short(kubelet)
            ));
        }
    }
    for namespace in &namespaces {
        system.clean(namespace)?;
    }
    ensure!(different.is_empty(), "{}", different.join("\n"));
    Ok(())
}

/// The time before each line as digits without a value: nine of a second on both nodes.
fn masked(text: &str, timed: bool) -> String {
    if !timed {
        return text.to_owned();
    }
    let mask = |line: &str| match line.split_once(' ') {
        Some((time, rest)) => format!("{} {rest}", time.replace(|c: char| c.is_ascii_digit(), "0")),
        None => line.replace(|c: char| c.is_ascii_digit(), "0"),
    };
    text.split('\n').map(mask).collect::<Vec<_>>().join("\n")
}

/// Lines of the log that is followed.
const LINES: usize = 6_000;

/// A follower gets every line once while the log is turned over, and ends with the container. One that is cut off by a restart of
/// cloudcore is told so, and another goes on.
fn follow(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let outcome = follow_all(system);
    configure(system, &[])?;
    outcome
}

fn follow_all(system: &mut System) -> Result<()> {
    configure(
        system,
        &[
            "containerLogMaxSize: 32Ki",
            "containerLogMaxFiles: 3",
            "containerLogMonitorInterval: 3s",
        ],
    )?;
    let namespace = system.namespace("follow")?;
    // Go's edgecore dials its tunnel some seconds after it has registered, and a log that has turned over has lost its beginning. Go's
    // cloudcore goes on with the tunnel that has ended for a while, and answers with an empty log.
    let command = "    command: [sh, -c, \"echo here; exec sleep 1000000\"]";
    system
        .cluster
        .apply(&namespace, &bare("first", system.edge.name(), "", command))?;
    wait::until("logs can be had", seconds(60), || {
        let said = kubectl(system, &["logs", "-n", &namespace, "first"], b"")?;
        Ok((said.text() == "here\n").then_some(()))
    })?;
    let script =
        format!("i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); [ $((i % 100)) != 0 ] || sleep 0.3; done");
    let command = format!("    command: [sh, -c, \"{script}\"]");
    system.cluster.apply(
        &namespace,
        &bare("talker", system.edge.name(), "  restartPolicy: Never", &command),
    )?;
    system.until_pod("talker Running", (&namespace, "talker"), 60, |pod| {
        (api::text(pod, "/status/phase") != "Pending").then_some(())
    })?;
    let said = kubectl(system, &["logs", "-f", "-n", &namespace, "talker"], b"")?;
    let expected: String = (0..LINES).map(|number| format!("line {number}\n")).collect();
    if said.text() != expected {
        let text = said.text();
        let odd = text
            .lines()
            .zip(expected.lines())
            .position(|(found, wanted)| found != wanted);
        bail!(
            "{} of {LINES} lines, the first wrong one after {odd:?}; {}",
            text.lines().count(),
            said.error()
        );
    }
    let folder = system.edge.folder().join("logs/pods");
    let pod = system.pod(&namespace, "talker")?;
    let folder = folder.join(format!("{namespace}_talker_{}/main", api::text(&pod, "/metadata/uid")));
    let files = std::fs::read_dir(&folder)
        .with_context(|| folder.display().to_string())?
        .count();
    ensure!(files > 1, "the log was not turned over");
    println!("    {LINES} lines followed through {:.1} s", said.took.as_secs_f64());

    let idle = "    command: [sh, -c, \"echo ready; trap 'exit 0' TERM; sleep 1000000 & wait\"]";
    system
        .cluster
        .apply(&namespace, &bare("idle", system.edge.name(), "", idle))?;
    system.until_pod("idle Ready", (&namespace, "idle"), 60, |pod| {
        api::is_ready(pod).then_some(())
    })?;
    let mut follower = Background::start(system, &["logs", "-f", "-n", &namespace, "idle"])?;
    wait::pause(seconds(1));
    ensure!(!follower.has_ended()?, "the follower ended by itself");
    system.cloud.stop()?;
    wait::until("the follower ends with cloudcore", seconds(60), || {
        Ok(follower.has_ended()?.then_some(()))
    })?;
    system.cloud.start()?;
    wait::until("logs again", seconds(90), || {
        let said = kubectl(system, &["logs", "-n", &namespace, "idle"], b"")?;
        Ok((said.text() == "ready\n").then_some(()))
    })?;
    system.clean(&namespace)
}

/// kubectl is killed in the midst of an exec: its shell goes at once, and the edge is at rest, whatever the cloud says of the stream that
/// is over (a Go cloud says it thousands of times).
fn killed(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let namespace = system.namespace("killed")?;
    system
        .cluster
        .apply(&namespace, &bare("main", system.edge.name(), "", IDLE))?;
    system.until_pod("pod Ready", (&namespace, "main"), 60, |pod| {
        api::is_ready(pod).then_some(())
    })?;
    wait::until("exec works", seconds(60), || works_soon(system, &namespace))?;
    let marker = format!("cat; : {namespace}");
    for _ in 0..3 {
        let shell = Background::start(
            system,
            &["exec", "-i", "-n", &namespace, "main", "--", "sh", "-c", &marker],
        )?;
        wait::until("the shell runs", seconds(60), || {
            Ok((shells_with(&marker)? == 1).then_some(()))
        })?;
        drop(shell);
        wait::until("the shell is gone", seconds(30), || {
            Ok((shells_with(&marker)? == 0).then_some(()))
        })?;
    }
    let pid = system.edge.edgecore()?.pid();
    wait::until("the edge is at rest", seconds(30), || {
        let before = cpu_seconds(pid)?;
        wait::pause(seconds(1));
        let used = cpu_seconds(pid)? - before;
        println!("    edgecore used {used:.2} s of a second");
        Ok((used < 0.1).then_some(()))
    })?;
    wait::until("exec works still", seconds(60), || works_soon(system, &namespace))?;
    system.clean(&namespace)
}

/// The link is cut while a shell waits for its terminal and a follower for lines: the shell goes, both commands end, and after the link
/// is back everything works without a restart.
fn cut(context: &mut Context) -> Result<()> {
    let ours = context.ours();
    let system = context.system()?;
    let namespace = system.namespace("cut")?;
    system
        .cluster
        .apply(&namespace, &bare("main", system.edge.name(), "", IDLE))?;
    system.until_pod("pod Ready", (&namespace, "main"), 60, |pod| {
        api::is_ready(pod).then_some(())
    })?;
    let run = |arguments: &[&str]| -> Result<Said> {
        let mut all = vec!["exec", "-n", namespace.as_str(), "main", "--"];
        all.extend_from_slice(arguments);
        kubectl(system, &all, b"")
    };
    wait::until("exec works", seconds(60), || {
        Ok((run(&["true"])?.code() == Some(0)).then_some(()))
    })?;
    // The process in the container is told from kubectl by how its command line begins.
    let marker = format!("cat; : {namespace}");
    let shells = || shells_with(&marker);
    let mut shell = Background::start(
        system,
        &["exec", "-i", "-n", &namespace, "main", "--", "sh", "-c", &marker],
    )?;
    let mut follower = Background::start(system, &["logs", "-f", "-n", &namespace, "main"])?;
    wait::until("the shell runs", seconds(60), || Ok((shells()? == 1).then_some(())))?;
    if !ours {
        // A Go cloud does not answer pings while it writes the node's port: a tunnel is given up later before the first answer.
        wait::pause(seconds(7));
    }
    system.edge.set_link(false)?;
    let start = Instant::now();
    let gone = wait::until("the shell is gone", seconds(120), || Ok((shells()? == 0).then_some(())));
    println!(
        "    the shell lived {:.1} s without its link",
        start.elapsed().as_secs_f64()
    );
    let ended = wait::until("both commands end", seconds(120), || {
        // A Go cloud does not notice before somebody writes.
        Ok((!ours || shell.has_ended()? && follower.has_ended()?).then_some(()))
    });
    system.edge.set_link(true)?;
    gone?;
    ended?;
    // A command that still went into the old tunnel of a Go cloud waits for ever: another one is tried.
    wait::until("exec works again", seconds(120), || works_soon(system, &namespace))?;
    ensure!(shells()? == 0, "the shell came back");
    system.clean(&namespace)
}

/// Whether an exec ends well within 10 s: a Go cloud may keep one of a tunnel that is gone for ever.
pub(super) fn works_soon(system: &System, namespace: &str) -> Result<Option<()>> {
    let mut command = Background::start(system, &["exec", "-n", namespace, "main", "--", "true"])?;
    let ended = wait::quietly("exec ends", seconds(10), || command.0.try_wait().map_err(Into::into));
    Ok(ended.is_ok_and(|status| status.success()).then_some(()))
}

/// Processes of this machine that are a shell with this script.
fn shells_with(marker: &str) -> Result<usize> {
    let wanted = format!("sh\0-c\0{marker}\0");
    let mut count = 0;
    for entry in std::fs::read_dir("/proc")? {
        let line = std::fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        count += usize::from(line == wanted.as_bytes());
    }
    Ok(count)
}

/// A kubectl that runs beside the scenario, its standard input open; killed with this value.
struct Background(Child);

impl Background {
    fn start(system: &System, arguments: &[&str]) -> Result<Self> {
        let mut command = system.cluster.kubectl_command();
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok(Self(command.spawn().context("kubectl")?))
    }

    fn has_ended(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
