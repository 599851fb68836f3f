//! What kubectl does through the tunnel: logs, exec, cp, attach, port-forward. Each program of kubectl is run as a user types it.

use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::channels::works_soon;
use super::devices::kit::rejoin;
use super::kubectl::{Transport, kubectl, kubectl_by};
use super::{Entry, IDLE, bare, needs_our_cloud};
use crate::api;
use crate::edge::{EdgeHost, Wire};
use crate::system::{Context, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[
    ("streams_logs", false, logs),
    ("streams_exec", false, exec),
    ("streams_websocket", false, websocket),
    ("streams_copy", false, copy),
    ("streams_attach", false, attach),
    ("streams_port_forward", false, port_forward),
    ("streams_many", false, many),
    ("streams_node_again", false, node_again),
    ("streams_compat", false, compat),
];

/// Prints ten numbered lines and then does nothing.
const TALKER: &str = r#"    command: [sh, -c, "trap 'exit 0' TERM; for i in 0 1 2 3 4 5 6 7 8 9; do echo line $i; done; sleep 1000000 & wait"]"#;

/// A Running pod with this command in a namespace of its own, in which commands run: its edge's tunnel may come later than it.
pub(super) fn pod(system: &System, name: &str, command: &str) -> Result<String> {
    let namespace = system.namespace(name)?;
    system
        .cluster
        .apply(&namespace, &bare("main", system.edge.name(), "", command))?;
    system.until_pod("pod Ready", (&namespace, "main"), 60, |pod| {
        api::is_ready(pod).then_some(())
    })?;
    wait::until("exec works", seconds(60), || works_soon(system, &namespace))?;
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
    wait::until("the whole log", seconds(60), || {
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

/// Exit codes, both outputs, and bytes in and out of a command, by both transports.
fn exec(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let namespace = pod(system, "exec", IDLE)?;
    for transport in Transport::BOTH {
        exec_by(transport, system, &namespace)?;
    }
    system.clean(&namespace)
}

fn exec_by(transport: Transport, system: &System, namespace: &str) -> Result<()> {
    let run = |script: &str, input: &[u8]| {
        kubectl_by(
            transport,
            system,
            &["exec", "-i", "-n", namespace, "main", "--", "sh", "-c", script],
            input,
        )
    };
    wait::until("exec works", seconds(60), || {
        Ok((run("true", b"")?.code() == Some(0)).then_some(()))
    })?;
    for (script, code) in [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 7", 7),
        ("exit 137", 137),
        ("kill -9 $$", 137),
        ("kill -15 $$", 143),
    ] {
        let said = run(script, b"")?;
        ensure!(
            said.code() == Some(code),
            "{script} became {:?}: {}",
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
    Ok(())
}

/// A command by a bare WebSocket, as clients without kubectl ask: the API server passes the one subprotocol on and translates the other.
fn websocket(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let namespace = pod(system, "websocket", IDLE)?;
    // read line; echo got $line; exit 3
    let script = "read%20line%3B%20echo%20got%20%24line%3B%20exit%203";
    let path = format!(
        "{}/main/exec?stdin=true&stdout=true&stderr=true&command=sh&command=-c&command={script}",
        api::pods_path(&namespace)
    );
    for protocol in ["v4.channel.k8s.io", "v5.channel.k8s.io"] {
        let (output, status) = system.api().exec(&path, protocol, b"one\n").context(protocol)?;
        ensure!(
            output == b"got one\n" && api::text(&status, "/details/causes/0/message") == "3",
            "{protocol}: {:?} {status}",
            String::from_utf8_lossy(&output)
        );
    }
    system.clean(&namespace)
}

/// Fifty megabytes into a command and out of it, and a file there and back by `kubectl cp`, all with their checksums, by both
/// transports.
fn copy(context: &mut Context) -> Result<()> {
    let folder = context.folder().to_owned();
    let system = context.system()?;
    let namespace = pod(system, "copy", IDLE)?;
    for transport in Transport::BOTH {
        copy_by(transport, system, &namespace, &folder)?;
    }
    system.clean(&namespace)
}

fn copy_by(transport: Transport, system: &System, namespace: &str, folder: &Path) -> Result<()> {
    const SIZE: usize = 50 * 1000 * 1000;
    let kubectl = |arguments: &[&str], input: &[u8]| kubectl_by(transport, system, arguments, input);
    let bytes = noise(SIZE);
    let sum = checksum(&bytes)?;
    let run = |script: &str, input: &[u8]| {
        kubectl(
            &["exec", "-i", "-n", namespace, "main", "--", "sh", "-c", script],
            input,
        )
    };
    let said = run("sha256sum", &bytes)?;
    ensure!(
        said.text().starts_with(&sum),
        "into the pod: {} {}",
        said.text(),
        said.error()
    );
    println!("    50 MB into the pod: {:.2} s", said.took.as_secs_f64());
    let (there, back) = (folder.join("there"), folder.join("back"));
    std::fs::write(&there, &bytes)?;
    let remote = format!("{namespace}/main:/tmp/file");
    let said = kubectl(&["cp", &there.to_string_lossy(), &remote], b"")?;
    ensure!(said.code() == Some(0), "kubectl cp into the pod: {}", said.error());
    let said = run("cat /tmp/file", b"")?;
    ensure!(
        checksum(&said.output.stdout)? == sum,
        "out of the pod: {} bytes",
        said.output.stdout.len()
    );
    println!("    50 MB out of the pod: {:.2} s", said.took.as_secs_f64());
    let said = kubectl(&["cp", &remote, &back.to_string_lossy()], b"")?;
    ensure!(said.code() == Some(0), "kubectl cp out of the pod: {}", said.error());
    ensure!(
        checksum(&std::fs::read(&back)?)? == sum,
        "kubectl cp came back with another file"
    );
    for file in [there, back] {
        std::fs::remove_file(file)?;
    }
    Ok(())
}

/// The container's own input and output, by both transports.
fn attach(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let namespace = system.namespace("attach")?;
    let echo = r#"    stdin: true
    stdinOnce: true
    command: [sh, -c, "while read line; do echo got $line; done"]"#;
    for (name, transport) in ["main", "second"].into_iter().zip(Transport::BOTH) {
        let manifest = bare(name, system.edge.name(), "  restartPolicy: Never", echo);
        system.cluster.apply(&namespace, &manifest)?;
        system.until_pod("pod Ready", (&namespace, name), 60, |pod| {
            api::is_ready(pod).then_some(())
        })?;
        if name == "main" {
            wait::until("exec works", seconds(60), || works_soon(system, &namespace))?;
        }
        let attach = ["attach", "-i", "-n", &namespace, name];
        let said = kubectl_by(transport, system, &attach, b"one\ntwo\n")?;
        ensure!(
            said.text().ends_with("got one\ngot two\n"),
            "{transport:?}: {:?} {}",
            said.text(),
            said.error()
        );
    }
    system.clean(&namespace)
}

/// Fifty requests at once through one port-forward, and a long answer, by both transports. Go's cloudcore has no route for it: ours
/// serves it with Go's edges too.
fn port_forward(context: &mut Context) -> Result<()> {
    needs_our_cloud(context, "port-forward")?;
    let system = context.system()?;
    let namespace = pod(system, "forward", PAGES)?;
    for transport in Transport::BOTH {
        forward_by(transport, system, &namespace)?;
    }
    system.clean(&namespace)
}

/// A short page and one of a megabyte, whose lines are numbered.
const PAGES: &str = r#"    command:
    - sh
    - -c
    - |
      trap 'exit 0' TERM
      mkdir /www
      echo hello > /www/page
      i=0
      while [ $i -lt 20000 ]; do echo line $i of a page that is about a megabyte long; i=$((i+1)); done > /www/long
      httpd -f -p 8080 -h /www & wait
    readinessProbe: {httpGet: {path: /long, port: 8080}, periodSeconds: 1}"#;

fn forward_by(transport: Transport, system: &System, namespace: &str) -> Result<()> {
    let mut command = system.cluster.kubectl_command();
    command
        .args(["port-forward", "-n", namespace, "main", ":8080"])
        .envs(transport.variables());
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let result = (|| {
        let mut line = String::new();
        // Kept open: kubectl tells of each connection, and ends when nobody listens.
        let mut stdout = std::io::BufReader::new(child.stdout.take().context("stdout")?);
        stdout.read_line(&mut line)?;
        let port = line
            .split(" -> ")
            .next()
            .and_then(|text| text.rsplit(':').next())
            .unwrap_or_default();
        ensure!(port.parse::<u16>().is_ok(), "kubectl port-forward says {line:?}");
        let address = format!("127.0.0.1:{port}");
        let start = Instant::now();
        let threads: Vec<_> = (0..50)
            .map(|_| {
                let address = address.clone();
                std::thread::spawn(move || crate::cloud::http_body(&address, "/page"))
            })
            .collect();
        for thread in threads {
            let body = thread.join().map_err(|_| anyhow::anyhow!("a request panicked"))??;
            ensure!(body == "hello\n", "the page is {body:?}");
        }
        println!("    50 requests at once: {:.2} s", start.elapsed().as_secs_f64());
        let start = Instant::now();
        let body = crate::cloud::http_body(&address, "/long")?;
        let long: String = (0..20_000)
            .map(|number| format!("line {number} of a page that is about a megabyte long\n"))
            .collect();
        ensure!(body == long, "{} of {} bytes, or others", body.len(), long.len());
        println!("    a page of 1 MB: {:.2} s", start.elapsed().as_secs_f64());
        Ok(())
    })();
    let _ = child.kill();
    let output = child.wait_with_output()?;
    result.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Fifty commands at once on two edges, each with input and output of its own; ids of streams pass 128 on the way.
fn many(context: &mut Context) -> Result<()> {
    const AT_ONCE: usize = 50;
    let (settings, run) = (context.settings.clone(), context.folder().to_owned());
    let system = context.system()?;
    let mut second = EdgeHost::start(&settings, &run, "streams-2", Wire::Veth)?;
    if system.cloud.advertise(second.number().cloud_address()) {
        system.cloud.stop()?;
        system.cloud.start()?;
    }
    second.write_config(&system.cloud.uplink()?)?;
    second.start_edgecore()?;
    let node = api::node_path(second.name());
    wait::until("the second edge Ready", seconds(60), || {
        Ok(system
            .api()
            .get(&node)?
            .filter(|node| api::condition(node, "Ready") == "True"))
    })?;
    system.node_ready(seconds(60))?;
    let namespace = pod(system, "many", IDLE)?;
    let other = bare("other", second.name(), "", IDLE);
    system.cluster.apply(&namespace, &other)?;
    system.until_pod("the other pod Ready", (&namespace, "other"), 60, |pod| {
        api::is_ready(pod).then_some(())
    })?;
    for pod in ["main", "other"] {
        wait::until("exec works", seconds(60), || {
            let said = kubectl(system, &["exec", "-n", &namespace, pod, "--", "true"], b"")?;
            ensure!(said.code() == Some(0), "{}", said.error());
            Ok(Some(()))
        })?;
    }
    let start = Instant::now();
    for _ in 0..3 {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..AT_ONCE)
                .map(|number| {
                    let (system, namespace) = (&*system, &namespace);
                    scope.spawn(move || {
                        let pod = if number % 2 == 0 { "main" } else { "other" };
                        let input = format!("number {number}\n").repeat(1000);
                        let said = kubectl(
                            system,
                            &["exec", "-i", "-n", namespace, pod, "--", "cat"],
                            input.as_bytes(),
                        )?;
                        ensure!(
                            said.text() == input,
                            "exec {number}: {} bytes, {}",
                            said.output.stdout.len(),
                            said.error()
                        );
                        Ok(())
                    })
                })
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("an exec panicked"))?)
        })?;
    }
    println!(
        "    3 times {AT_ONCE} execs at once: {:.2} s",
        start.elapsed().as_secs_f64()
    );
    system.clean(&namespace)?;
    system.api().delete(&format!("{}/other", api::pods_path(&namespace)))?;
    second.stop_edgecore()?;
    system.api().delete(&node)
}

/// A Node that is deleted and made again shows the port of its tunnel again, which has stayed up.
fn node_again(context: &mut Context) -> Result<()> {
    needs_our_cloud(context, "a port that is written again")?;
    let system = context.system()?;
    let path = api::node_path(system.edge.name());
    let tunnel_port = |system: &System| -> Result<Option<()>> {
        let node = system.api().must(&path)?;
        let port = api::number(&node, "/status/daemonEndpoints/kubeletEndpoint/Port");
        ensure!(port >= 10351, "the port is {port}");
        Ok(Some(()))
    };
    wait::until("the port of the tunnel", seconds(30), || tunnel_port(system))?;
    let mut node = system.api().must(&path)?;
    let again = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": system.edge.name(),
            "labels": node.pointer_mut("/metadata/labels").map(serde_json::Value::take),
        },
    });
    system.api().delete(&path)?;
    system.api().create("/api/v1/nodes", &again)?;
    wait::until("the port of the tunnel again", seconds(20), || tunnel_port(system))?;
    system.node_ready(seconds(60))?;
    // A Go edge ends at its start when its database has no Node.
    rejoin(system, |_| ())?;
    system.node_ready(seconds(60))
}

/// With `streamCompat` requests go to the edge by Go's types of messages: logs, commands and metrics all the same.
fn compat(context: &mut Context) -> Result<()> {
    needs_our_cloud(context, "streamCompat")?;
    with_stream_key(context, "streamCompat: true")?;
    let outcome = logs(context)
        .and_then(|()| exec(context))
        .and_then(|()| metrics(context));
    with_stream_key(context, "")?;
    outcome
}

fn metrics(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let path = format!("/api/v1/nodes/{}/proxy/metrics", system.edge.name());
    let said = kubectl(system, &["get", "--raw", &path], b"")?;
    let of_an_edge = ["edgecore_", "kubelet_"].iter().any(|name| said.text().contains(name));
    ensure!(of_an_edge, "{} {}", said.text(), said.error());
    Ok(())
}

/// Restarts cloudcore with this line in `modules.cloudStream`.
pub(super) fn with_stream_key(context: &mut Context, line: &str) -> Result<()> {
    let system = context.system()?;
    system.cloud.stop()?;
    system.cloud.set_stream_key(line);
    system.cloud.start()?;
    system.node_ready(seconds(60))
}

/// Bytes that no compression makes smaller, the same each time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// SHA-256 in hexadecimal, by the machine's own program.
pub(super) fn checksum(bytes: &[u8]) -> Result<String> {
    let mut child = std::process::Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("stdin")?.write_all(bytes)?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}
