//! The life of single pods: probes, crashes, ends.

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use serde_json::Value;

use super::{Entry, IDLE, bare};
use crate::api::{self, number, text};
use crate::process;
use crate::system::Context;
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[
    ("probes_flip", false, probes_flip),
    ("crash_loop", false, crash_loop),
    ("restart_policies", false, restart_policies),
    ("static_pods", false, static_pods),
];

/// Readiness by http, tcp and exec goes false and true again with what it looks at; a failing liveness probe restarts the
/// container.
fn probes_flip(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let namespace = system.namespace("probes")?;
    let node = system.edge.name();
    let file = r#"    command: [sh, -c, "touch /ok; trap 'exit 0' TERM; sleep 1000000 & wait"]"#;
    // On a busy machine an answer takes longer than the second that is the default.
    let probe = |kind: &str, what: &str| {
        format!("    {kind}: {{{what}, periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 10}}")
    };
    let exec = "exec: {command: [cat, /ok]}";
    let manifests = [
        // The servers of these two are steady; the file and the open port are what changes.
        bare(
            "http",
            node,
            "",
            &format!(
                "{}\n{}",
                steady(),
                probe("readinessProbe", "httpGet: {path: /ok, port: 8080}")
            ),
        ),
        bare(
            "tcp",
            node,
            "",
            &format!("{}\n{}", steady(), probe("readinessProbe", "tcpSocket: {port: 8080}")),
        ),
        bare("exec", node, "", &format!("{file}\n{}", probe("readinessProbe", exec))),
        // The first look may come before the file.
        bare(
            "live",
            node,
            "",
            &format!(
                "{file}\n{}",
                probe("livenessProbe", exec).replace("Threshold: 1", "Threshold: 3")
            ),
        ),
    ];
    system.cluster.apply(&namespace, &manifests.join("---\n"))?;
    // Go's edgecore may lose an answer and ask again after 60 s.
    system.converged("all four Ready", &namespace, 4, 150)?;
    let shell = |pod: &str, line: &str| -> Result<String> {
        let container = system.edge.container(&namespace, pod, "main")?;
        system.edge.exec(&container, &["sh", "-c", line])
    };
    for (pod, off, on) in [
        ("http", "mv /page/ok /page/no", "mv /page/no /page/ok"),
        ("tcp", "touch /off; kill $(pidof httpd)", "rm /off"),
        ("exec", "rm /ok", "touch /ok"),
    ] {
        let at = (namespace.as_str(), pod);
        shell(pod, off)?;
        system.until_pod(&format!("{pod} probe: not Ready"), at, 20, |pod| {
            (api::condition(pod, "Ready") == "False").then_some(())
        })?;
        shell(pod, on)?;
        system.until_pod(&format!("{pod} probe: Ready again"), at, 20, |pod| {
            api::is_ready(pod).then_some(())
        })?;
    }
    shell("live", "rm /ok")?;
    let at = (namespace.as_str(), "live");
    system.until_pod("liveness probe: restarted", at, 40, |pod| {
        (api::restarts(pod) == 1 && api::is_ready(pod)).then_some(())
    })?;
    for pod in ["http", "tcp", "exec"] {
        ensure!(
            api::restarts(&system.pod(&namespace, pod)?) == 0,
            "{pod}: readiness restarted the container"
        );
    }
    system.clean(&namespace)
}

/// A web server that is down while /off exists.
fn steady() -> &'static str {
    r#"    command: [sh, -c, "mkdir /page; touch /page/ok; trap 'exit 0' TERM; (while :; do [ -e /off ] || httpd -f -p 8080 -h /page; sleep 0.2; done) & wait"]"#
}

/// A container that keeps failing is started again at once, then after 10, 20 (and, in the long form, 40) seconds; its status tells the
/// next wait, which is twice the last.
fn crash_loop(context: &mut Context) -> Result<()> {
    let long = context.long;
    let system = context.system()?;
    let namespace = system.namespace("crash")?;
    system.cluster.apply(
        &namespace,
        &bare("crash", system.edge.name(), "", "    command: [sh, -c, 'exit 3']"),
    )?;
    let (waits, next): (&[i64], &str) = if long {
        (&[0, 10, 20, 40], "1m20s")
    } else {
        (&[0, 10, 20], "40s")
    };
    let at = (namespace.as_str(), "crash");
    let mut ended: Option<Timestamp> = None;
    for (count, wait) in (1..).zip(waits) {
        let terminated = system.until_pod(&format!("restart {count}"), at, 120, |pod| {
            (api::restarts(pod) >= count).then(|| last_end(pod)).flatten()
        })?;
        if let Some(before) = ended.replace(time(&terminated, "/finishedAt")?) {
            let took = (time(&terminated, "/startedAt")? - before).get_seconds();
            println!("    restart {count} came {took} s after the last end, the back-off is {wait} s");
            // A busy machine is late, but not ten times; the runtime's times are whole seconds here.
            ensure!(
                took + 1 >= *wait && took <= (wait * 10).clamp(5, 120),
                "restart {count} came after {took} s, {wait} s are to be waited"
            );
        }
    }
    let told = format!("back-off {next} restarting failed container=main ");
    let pod = system.until_pod(&format!("CrashLoopBackOff shown, {next}"), at, 30, |pod| {
        let waiting = pod.pointer("/status/containerStatuses/0/state/waiting")?;
        let shown = text(waiting, "/reason") == "CrashLoopBackOff" && text(waiting, "/message").starts_with(&told);
        shown.then(|| pod.clone())
    })?;
    let code = number(&pod, "/status/containerStatuses/0/lastState/terminated/exitCode");
    ensure!(code == 3, "the last exit code is {code}");
    system.clean(&namespace)
}

/// How the newest container of a pod ended; none while it runs.
fn last_end(pod: &Value) -> Option<Value> {
    let status = pod.pointer("/status/containerStatuses/0")?;
    let newest = status.pointer("/state/terminated").or_else(|| {
        // Between two containers the last one is the newest.
        let waits = status.pointer("/state/waiting").is_some();
        status.pointer("/lastState/terminated").filter(|_| waits)
    });
    newest.cloned()
}

fn time(object: &Value, pointer: &str) -> Result<Timestamp> {
    let value = text(object, pointer);
    value.parse().with_context(|| format!("{pointer} is {value:?}"))
}

/// A pod of a file on the edge runs, has a mirror that comes again when it is deleted, and goes with its file.
fn static_pods(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let namespace = system.namespace("static")?;
    let node = system.edge.name();
    let manifest = bare("own", node, "", IDLE).replace(
        "metadata: {name: own,",
        &format!("metadata: {{name: own, namespace: {namespace},"),
    );
    let shell = |line: &str, text: &str| {
        let script = format!("mkdir -p /etc/kubeedge/manifests; cd /etc/kubeedge/manifests; {line}");
        process::run(system.edge.command("sh").args(["-c", &script, "sh", text]))
    };
    shell(r#"printf '%s' "$1" > own.yaml"#, &manifest)?;
    let name = format!("own-{node}");
    let at = (namespace.as_str(), name.as_str());
    let id = |pod: &Value| text(pod, "/status/containerStatuses/0/containerID").to_owned();
    let mirror = system.until_pod("mirror Ready", at, 60, |pod| api::is_ready(pod).then(|| pod.clone()))?;
    let uid = text(&mirror, "/metadata/uid").to_owned();
    system
        .cluster
        .kubectl(&["delete", "pod", "-n", &namespace, &name, "--wait=false"])?;
    let again = system.until_pod("mirror made again", at, 60, |pod| {
        (text(pod, "/metadata/uid") != uid && api::is_ready(pod)).then(|| pod.clone())
    })?;
    ensure!(id(&mirror) == id(&again), "the container was restarted");
    shell("rm own.yaml", "")?;
    wait::until("mirror and container gone", seconds(60), || {
        let gone = system.edge.containers(&namespace)?.is_empty() && system.pods(&namespace)?.is_empty();
        Ok(gone.then_some(()))
    })?;
    system.clean(&namespace)
}

/// Never and OnFailure end as a kubelet's: Succeeded and Failed by exit code, retried only where the policy says so.
fn restart_policies(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let namespace = system.namespace("ends")?;
    let node = system.edge.name();
    let command =
        |line: &str| format!("    command: [sh, -c, '{line}']\n    volumeMounts: [{{name: v, mountPath: /v}}]");
    let spec = |policy: &str| format!("  restartPolicy: {policy}\n  volumes: [{{name: v, emptyDir: {{}}}}]");
    let manifests = [
        bare("never-good", node, &spec("Never"), &command("exit 0")),
        bare("never-bad", node, &spec("Never"), &command("exit 7")),
        bare("on-failure-good", node, &spec("OnFailure"), &command("exit 0")),
        bare(
            "on-failure-retried",
            node,
            &spec("OnFailure"),
            &command("[ -e /v/x ] && exit 0; touch /v/x; exit 1"),
        ),
        bare("always", node, "", IDLE),
    ];
    system.cluster.apply(&namespace, &manifests.join("---\n"))?;
    for (name, phase, code, restarts) in [
        ("never-good", "Succeeded", 0, 0),
        ("never-bad", "Failed", 7, 0),
        ("on-failure-good", "Succeeded", 0, 0),
        ("on-failure-retried", "Succeeded", 0, 1),
    ] {
        let at = (namespace.as_str(), name);
        let pod = system.until_pod(&format!("{name}: {phase}"), at, 60, |pod| {
            (text(pod, "/status/phase") == phase).then(|| pod.clone())
        })?;
        let state = pod
            .pointer("/status/containerStatuses/0/state/terminated")
            .context("no terminated state")?;
        ensure!(
            number(state, "/exitCode") == code,
            "{name}: exit code {}",
            number(state, "/exitCode")
        );
        ensure!(
            text(state, "/reason") == if code == 0 { "Completed" } else { "Error" },
            "{name}: reason {}",
            text(state, "/reason")
        );
        ensure!(
            api::restarts(&pod) == restarts,
            "{name}: {} restarts",
            api::restarts(&pod)
        );
        ensure!(
            api::condition(&pod, "Ready") == "False",
            "{name} is Ready after its end"
        );
    }
    wait::stays("ended pods stay ended", seconds(5), || {
        let running = system.edge.containers(&namespace)?;
        Ok(running.len() == 1)
    })?;
    system.clean(&namespace)
}
