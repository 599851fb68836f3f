//! What the cloud takes of the messages of MQTT clients. A cloud that has rules (Go's) passes each on to the target of one, which sees
//! what it is; ours has none yet and is asked for its counter.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::super::devices::kit::Sides;
use crate::cloud::http_body;
use crate::system::System;
use crate::wait::{self, seconds};

/// No text: a zero, bytes that no UTF-8 has, and half a character.
pub(super) const BINARY: &[u8] = b"a\0\xff\xfe\xe2\x82b\n";
/// What of it reaches a rule of Go's cloud.
pub(super) const BINARY_AS_TEXT: &str = "a\0\u{fffd}\u{fffd}\u{fffd}\u{fffd}b\n";

/// The topics of the scenario's rules, below their namespace: one that edges always subscribe, one for which only a rule does.
const TOPICS: [&str; 2] = ["user/x", "topic-b"];

/// See the module.
pub(super) struct Taken {
    namespace: String,
    seen: Seen,
}

enum Seen {
    /// Address of our cloudcore's metrics.
    Counter(String),
    Target(Target),
}

impl Taken {
    /// Makes the rules, where the cloud has them.
    pub(super) fn by(system: &System, sides: Sides) -> Result<Self> {
        let namespace = system.namespace("bus")?;
        let seen = if sides.cloud {
            Seen::Counter(system.cloud.monitor())
        } else {
            let target = Target::start()?;
            make_rules(system, &namespace, target.port)?;
            Seen::Target(target)
        };
        Ok(Self { namespace, seen })
    }

    /// The topic that edges always subscribe.
    pub(super) fn always(&self) -> String {
        format!("{}/{}", self.namespace, TOPICS[0])
    }

    /// The topic that only a rule subscribes.
    pub(super) fn by_rule(&self) -> String {
        format!("{}/{}", self.namespace, TOPICS[1])
    }

    /// A topic that edges always subscribe and no rule wants.
    pub(super) fn nobodys(&self) -> String {
        format!("{}/user/nobody", self.namespace)
    }

    /// How many messages it has taken.
    pub(super) fn count(&self) -> Result<usize> {
        match &self.seen {
            Seen::Counter(monitor) => {
                let metrics = http_body(monitor, "/metrics")?;
                let line = metrics
                    .lines()
                    .find_map(|line| line.strip_prefix("cloudcore_hub_uploads_total "));
                line.context("no such metric")?.trim().parse().context("a number")
            }
            Seen::Target(target) => Ok(target.bodies().len()),
        }
    }

    /// Waits until it has taken these payloads, each once and nothing else, after as many as `before`.
    pub(super) fn until(&self, what: &str, before: usize, sent: &[String]) -> Result<()> {
        wait::until(what, seconds(120), || {
            let count = self.count()? - before;
            ensure!(count == sent.len(), "{count} messages came of {}", sent.len());
            if let Seen::Target(target) = &self.seen {
                let mut came = target.bodies().split_off(before);
                let mut sent: Vec<&[u8]> = sent.iter().map(String::as_bytes).collect();
                came.sort();
                sent.sort_unstable();
                let text = |body: &Vec<u8>| String::from_utf8_lossy(body).into_owned();
                ensure!(came == sent, "came: {:?}", came.iter().map(text).collect::<Vec<_>>());
            }
            Ok(Some(()))
        })
    }

    /// Removes the rules and their namespace.
    pub(super) fn clean(&self, system: &System) -> Result<()> {
        if matches!(self.seen, Seen::Target(_)) {
            for number in 0..TOPICS.len() {
                system
                    .api()
                    .delete(&path(&self.namespace, "rules", &format!("up-{number}")))?;
            }
        }
        system.api().delete(&format!("/api/v1/namespaces/{}", self.namespace))
    }
}

/// Rules from the topics of the node to a target on this machine.
fn make_rules(system: &System, namespace: &str, port: u16) -> Result<()> {
    let create = |kind: &str, plural: &str, name: &str, spec: Value| {
        let object =
            json!({"apiVersion": "rules.kubeedge.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec});
        system.api().create(&path(namespace, plural, ""), &object).map(drop)
    };
    for kind in ["eventbus", "rest"] {
        let spec = json!({"ruleEndpointType": kind, "properties": {}});
        create("RuleEndpoint", "ruleendpoints", kind, spec)?;
    }
    for (number, topic) in TOPICS.iter().enumerate() {
        let spec = json!({"source": "eventbus", "sourceResource": {"topic": topic, "node_name": system.edge.name()},
            "target": "rest", "targetResource": {"resource": format!("http://127.0.0.1:{port}/")}});
        create("Rule", "rules", &format!("up-{number}"), spec)?;
    }
    Ok(())
}

fn path(namespace: &str, plural: &str, name: &str) -> String {
    format!("/apis/rules.kubeedge.io/v1/namespaces/{namespace}/{plural}/{name}")
}

/// An HTTP server that keeps what is posted to it. Dropping it ends the listening.
struct Target {
    port: u16,
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
    stopped: Arc<AtomicBool>,
}

impl Target {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("a port for the target of rules")?;
        let port = listener.local_addr()?.port();
        let (bodies, stopped) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let (kept, flag) = (bodies.clone(), stopped.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if flag.load(Ordering::Relaxed) {
                    return;
                }
                let kept = kept.clone();
                thread::spawn(move || {
                    if let Err(error) = serve(stream, &kept) {
                        eprintln!("e2e: the target of rules: {error:#}");
                    }
                });
            }
        });
        Ok(Self { port, bodies, stopped })
    }

    fn bodies(&self) -> Vec<Vec<u8>> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that listens.
        let _ = TcpStream::connect_timeout(&([127, 0, 0, 1], self.port).into(), seconds(1));
    }
}

/// Requests with a `Content-Length`, one after another.
fn serve(stream: TcpStream, bodies: &Mutex<Vec<Vec<u8>>>) -> Result<()> {
    /// The longest body.
    const MOST: usize = 1 << 20;
    let mut answers = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = None;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            match line.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = Some(value.trim().parse::<usize>()?);
                }
                None if line.trim_end().is_empty() => break,
                _ => {}
            }
        }
        let length = length.context("a request without Content-Length")?;
        ensure!(length <= MOST, "a body of {length} bytes");
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        bodies.lock().unwrap_or_else(PoisonError::into_inner).push(body);
        answers.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
}
