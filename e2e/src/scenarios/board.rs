//! An edge whose kernel is its own: cgroup v2 alone, and power that fails. Commands in its pods go through the tunnel.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Entry, bare};
use crate::api::{self, number, text};
use crate::edge::Board;
use crate::system::{Context, Skip, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[("board", false, board)];

/// How long something may take on a kernel that is a process and has one processor.
const SLOW: u64 = 120;

/// All of a pod's processes go with the one that needs too much memory.
const HUNGRY: &str = r#"    command: [sh, -c, "sleep 1000000 & dd if=/dev/zero of=/dev/null bs=100M count=1; wait"]
    resources: {limits: {memory: 24Mi}}"#;

/// Limits arrive in the kernel's one hierarchy, at the container, its pod and the pod's class; use is told; a container without memory
/// is killed and says why. The clock goes wrong and right, twice. Then the power fails while there is no link: the pods come back from
/// the board's disk alone.
fn board(context: &mut Context) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(Skip("user-mode Linux is there for x86_64 alone".to_owned()).into());
    }
    let (settings, run) = (context.settings.clone(), context.folder().to_owned());
    let ours = context.ours();
    let system = context.system()?;
    let mut board = Board::new(&settings, &run, "board-1")?;
    if system.cloud.advertise(board.number().cloud_address()) {
        system.cloud.stop()?;
        system.cloud.start()?;
    }
    board.write_config(&system.cloud.uplink()?)?;
    let outcome = board
        .boot()
        .and_then(|()| look(system, &mut board, ours))
        .with_context(|| board.tails());
    drop(board);
    system.api().delete(&api::node_path("board-1"))?;
    outcome
}

fn look(system: &mut System, board: &mut Board, ours: bool) -> Result<()> {
    ready(system, board)?;
    let namespace = system.namespace("board")?;
    for (pod, resources) in PODS {
        let container = format!(
            "    command: [sh, -c, \"trap 'exit 0' TERM; sleep 1000000 & wait\"]\n    resources: {resources}\n    \
             volumeMounts: [{{name: cgroup, mountPath: /cgroup, readOnly: true}}]"
        );
        let volumes = "  volumes: [{name: cgroup, hostPath: {path: /sys/fs/cgroup}}]";
        system
            .cluster
            .apply(&namespace, &bare(pod, board.name(), volumes, &container))?;
    }
    all_ready(system, &namespace, "the pods run")?;
    limits(system, &namespace)?;
    usage(system, board, &namespace)?;
    hungry(system, board, &namespace)?;
    if ours {
        clock(system, board, &namespace)?;
        power(system, board, &namespace)?;
    }
    system.api().delete(&format!("/api/v1/namespaces/{namespace}"))?;
    wait::until("the pods are gone", seconds(SLOW), || {
        Ok(system.pods(&namespace)?.is_empty().then_some(()))
    })
}

/// One of each class.
const PODS: [(&str, &str); 3] = [
    ("guaranteed", "{limits: {cpu: 200m, memory: 32Mi}}"),
    (
        "burstable",
        "{requests: {cpu: 100m, memory: 16Mi}, limits: {memory: 48Mi}}",
    ),
    ("besteffort", "{}"),
];

fn ready(system: &System, board: &Board) -> Result<()> {
    wait::until("the board's node Ready", seconds(SLOW), || {
        let node = system.api().get(&api::node_path(board.name()))?;
        Ok(node.filter(|node| api::condition(node, "Ready") == "True").map(drop))
    })
}

fn all_ready(system: &System, namespace: &str, what: &str) -> Result<()> {
    for (pod, _) in PODS {
        system.until_pod(&format!("{what}: {pod}"), (namespace, pod), SLOW, |pod| {
            api::is_ready(pod).then_some(())
        })?;
    }
    Ok(())
}

/// What a command in a pod prints.
fn exec(system: &System, namespace: &str, pod: &str, command: &str) -> Result<String> {
    let said = system
        .cluster
        .kubectl(&["exec", "-n", namespace, pod, "--", "sh", "-c", command])?;
    Ok(said.trim().to_owned())
}

fn limits(system: &System, namespace: &str) -> Result<()> {
    for (pod, folder, own, of_pod) in [
        (
            "guaranteed",
            "/cgroup/kubepods",
            "20000 100000|33554432|1",
            "20000 100000|33554432",
        ),
        (
            "burstable",
            "/cgroup/kubepods/burstable",
            "max 100000|50331648|1",
            "max 100000|50331648",
        ),
        (
            "besteffort",
            "/cgroup/kubepods/besteffort",
            "max 100000|max|1",
            "max 100000|max",
        ),
    ] {
        let uid = text(&system.pod(namespace, pod)?, "/metadata/uid").to_owned();
        let read = |folder: &str, files: &str| {
            let said = exec(system, namespace, pod, &format!("cd {folder} && cat {files}"))?;
            Ok::<_, anyhow::Error>(said.lines().collect::<Vec<_>>().join("|"))
        };
        wait::until(&format!("kubectl exec in {pod}"), seconds(SLOW), || {
            exec(system, namespace, pod, "true").map(Some)
        })?;
        let said = read("/sys/fs/cgroup", "cpu.max memory.max memory.oom.group")?;
        ensure!(said == own, "{pod}: the container's cgroup has {said}, not {own}");
        let said = read(&format!("{folder}/pod{uid}"), "cpu.max memory.max")?;
        ensure!(said == of_pod, "{pod}: the pod's cgroup has {said}, not {of_pod}");
    }
    let weights = exec(
        system,
        namespace,
        "guaranteed",
        "cd /cgroup/kubepods && cat besteffort/cpu.weight burstable/cpu.weight cpu.weight memory.max",
    )?;
    let weights: Vec<u64> = weights.lines().map_while(|line| line.parse().ok()).collect();
    let [besteffort, burstable, all, memory] = weights[..] else {
        anyhow::bail!("the classes' cgroups have {weights:?}")
    };
    // Requests: 100m of a processor that has 1000m.
    ensure!(
        besteffort == 1 && (2..20).contains(&burstable) && all > burstable,
        "weights {weights:?}"
    );
    ensure!(memory < 640 << 20, "pods may use {memory} bytes of the board's 640 MiB");
    Ok(())
}

/// Through the API server, as metrics-server reads it.
fn usage(system: &System, board: &Board, namespace: &str) -> Result<()> {
    let path = format!("/api/v1/nodes/{}/proxy/stats/summary", board.name());
    wait::until("the pods' use is told", seconds(SLOW), || {
        let summary: Value = serde_json::from_str(&system.cluster.kubectl(&["get", "--raw", &path])?)?;
        for (name, _) in PODS {
            let pod = api::elements(&summary, "/pods")
                .find(|pod| text(pod, "/podRef/name") == name && text(pod, "/podRef/namespace") == namespace)
                .with_context(|| format!("{name} is not there"))?;
            let (memory, cpu) = (
                number(pod, "/containers/0/memory/workingSetBytes"),
                number(pod, "/containers/0/cpu/usageCoreNanoSeconds"),
            );
            ensure!(
                (1..16 << 20).contains(&memory) && cpu > 0 && number(pod, "/memory/workingSetBytes") >= memory,
                "{name}: {pod}"
            );
        }
        ensure!(
            number(&summary, "/node/memory/workingSetBytes") > 16 << 20,
            "{}",
            summary["node"]
        );
        Ok(Some(()))
    })
}

fn hungry(system: &System, board: &Board, namespace: &str) -> Result<()> {
    let pod = bare("hungry", board.name(), "  restartPolicy: Never", HUNGRY);
    system.cluster.apply(namespace, &pod)?;
    let state = system.until_pod("out of memory", (namespace, "hungry"), SLOW, |pod| {
        // containerd tells of the end and of its reason apart, in any order.
        let state = pod.pointer("/status/containerStatuses/0/state/terminated")?;
        (text(state, "/reason") == "OOMKilled").then(|| state.clone())
    })?;
    ensure!(number(&state, "/exitCode") == 137, "{state}");
    system
        .api()
        .delete(&format!("{}/hungry", api::pods_path(namespace)))
        .map(drop)
}

/// Sets the clock ahead, right, behind and right again, each when it is told to by a file.
const CLOCK: &str = r#"    command:
    - sh
    - -c
    - |
      for step in ahead:OFF right:-OFF behind:-OFF again:OFF; do
        until [ -e /board/${step%:*} ]; do sleep 0.2; done
        now=$(date +%s)
        date -s @$((now + ${step#*:}))
      done
      sleep 1000000
    securityContext: {privileged: true}
    volumeMounts: [{name: board, mountPath: /board}]"#;

/// Seconds that the clock is off: more than a node's certificate is valid.
const OFF: &str = "34560000";

/// The clock is more than a year ahead, and then behind, when the edge has to connect anew: its own certificate has expired, then
/// cloudcore's is not valid yet.
fn clock(system: &mut System, board: &Board, namespace: &str) -> Result<()> {
    let volumes = format!(
        "  volumes: [{{name: board, hostPath: {{path: {}}}}}]",
        board.folder().display()
    );
    let pod = bare("clock", board.name(), &volumes, &CLOCK.replace("OFF", OFF));
    system.cluster.apply(namespace, &pod)?;
    system.until_pod("the clock can be set", (namespace, "clock"), SLOW, |pod| {
        api::is_ready(pod).then_some(())
    })?;
    for ([wrong, right], says) in [
        (["ahead", "right"], "by this node's clock: set the clock right"),
        (["behind", "again"], ": is this machine's clock right?"),
    ] {
        wrong_and_right(system, board, namespace, [wrong, right], says)
            .with_context(|| format!("the clock {wrong}"))?;
    }
    system
        .api()
        .delete(&format!("{}/clock", api::pods_path(namespace)))
        .map(drop)
}

/// The clock goes wrong, cloudcore starts anew, the clock goes right: meanwhile the edge says so once and tries on, then it is back with
/// the same containers.
fn wrong_and_right(
    system: &mut System,
    board: &Board,
    namespace: &str,
    [wrong, right]: [&str; 2],
    says: &str,
) -> Result<()> {
    let containers = |system: &System| -> Result<Vec<String>> {
        let ids = PODS.iter().map(|(pod, _)| {
            let pod = system.pod(namespace, pod)?;
            Ok(text(&pod, "/status/containerStatuses/0/containerID").to_owned())
        });
        ids.collect()
    };
    let (before, from) = (containers(system)?, board.log().len());
    let year = |system: &System| -> Result<i64> { Ok(exec(system, namespace, "guaranteed", "date +%Y")?.parse()?) };
    let now = year(system)?;
    std::fs::write(board.folder().join(wrong), "")?;
    wait::until("the clock is wrong", seconds(SLOW), || {
        Ok((year(system)? != now).then_some(()))
    })?;
    system.cloud.stop()?;
    system.cloud.start()?;
    let said = |board: &Board| board.log().get(from..).unwrap_or_default().matches(says).count();
    wait::until("the edge says what is wrong", seconds(SLOW), || {
        Ok((said(board) > 0).then_some(()))
    })?;
    wait::pause(seconds(5));
    std::fs::write(board.folder().join(right), "")?;
    wait::until("the edge is back", seconds(SLOW), || {
        Ok((year(system)? == now).then_some(()))
    })?;
    ready(system, board)?;
    ensure!(said(board) == 1, "said {} times", said(board));
    ensure!(containers(system)? == before, "containers changed");
    Ok(())
}

/// The power fails while there is no link, a moment after a pod was changed.
fn power(system: &System, board: &mut Board, namespace: &str) -> Result<()> {
    board.number().set_link(false)?;
    board.cut_power()?;
    let before = board.log().len();
    board.boot()?;
    wait::until("the pods start with no cloud", seconds(SLOW), || {
        let log = board.log();
        let log = log.get(before..).unwrap_or_default();
        let missing = PODS
            .iter()
            .find(|(pod, _)| !log.contains(&format!("container started pod={namespace}/{pod} ")));
        ensure!(missing.is_none(), "{missing:?} has not started");
        Ok(Some(()))
    })?;
    board.number().set_link(true)?;
    ready(system, board)?;
    wait::until("each pod has started twice", seconds(SLOW), || {
        for (pod, _) in PODS {
            let pod = system.pod(namespace, pod)?;
            let count = number(&pod, "/status/containerStatuses/0/restartCount");
            ensure!(api::is_ready(&pod) && count == 1, "{count} restarts: {}", pod["status"]);
        }
        Ok(Some(()))
    })
}
