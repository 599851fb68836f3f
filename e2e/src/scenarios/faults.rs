//! What breaks: programs, links, power, databases. Containers are not touched by any of it, and afterwards the edge runs
//! exactly what the API says.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use super::{Entry, IDLE, bare, web};
use crate::api;
use crate::load::Load;
use crate::system::{Context, System};
use crate::wait::{self, pause, seconds};

pub(super) const LIST: &[Entry] = &[
    ("edgecore_killed", false, edgecore_killed),
    ("cloudcore_killed", false, cloudcore_killed),
    ("control_plane_killed", false, control_plane_killed),
    ("link_cut_by_interface", false, link_cut_by_interface),
    ("link_cut_silently", false, link_cut_silently),
    ("offline_start", false, offline_start),
    ("database_deleted", false, database_deleted),
    ("database_truncated", false, database_truncated),
    ("database_bytes_flipped", false, database_bytes_flipped),
    ("database_row_damaged", false, database_row_damaged),
];

/// The marks' cut: long enough for the API to show the node not Ready.
const CUT: u64 = 42;
/// Deadline after a cut for all to be applied by our programs, in seconds: ten times the mark `recover`, which `e2e/bench` judges.
const RECOVERY: u64 = 30;

fn all_containers(system: &System) -> Result<BTreeMap<String, String>> {
    system.edge.containers("")
}

/// Starts a web Deployment and returns its namespace and the ids of its containers.
pub(super) fn workload(system: &System, name: &str, replicas: u32) -> Result<(String, BTreeMap<String, String>)> {
    let namespace = system.namespace(name)?;
    system.cluster.apply(&namespace, &web("web", replicas))?;
    // Go's edgecore may lose an answer to a question for a ConfigMap and asks again after 60 s.
    system.converged("workload Running", &namespace, usize::try_from(replicas)?, 150)?;
    let containers = system.edge.containers(&namespace)?;
    Ok((namespace, containers))
}

pub(super) fn scale(system: &System, namespace: &str, replicas: u32) -> Result<()> {
    let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/web");
    system
        .api()
        .patch(&path, &json!({"spec": {"replicas": replicas}}))
        .map(drop)
}

pub(super) fn no_restarts(system: &System, namespace: &str) -> Result<()> {
    for pod in system.pods(namespace)? {
        ensure!(api::restarts(&pod) == 0, "{} was restarted", api::name(&pod));
    }
    Ok(())
}

/// Runs one more pod in a workload's namespace, to be deleted while something is broken, and returns the ids of all `count` containers.
fn one_that_goes(system: &System, namespace: &str, count: usize) -> Result<BTreeMap<String, String>> {
    system
        .cluster
        .apply(namespace, &bare(GOES, system.edge.name(), "", IDLE))?;
    system.converged("and a pod to be deleted", namespace, count, 150)?;
    system.edge.containers(namespace)
}

/// Deletes that pod in the API, where it stays until the edge has ended it.
fn delete_it(system: &System, namespace: &str) -> Result<()> {
    let delete = ["-n", namespace, "delete", "pod", GOES, "--wait=false"];
    system.cluster.kubectl(&delete).map(drop)
}

/// The name of that pod.
const GOES: &str = "goes";

/// kill -9 of edgecore: its containers go on, and a new edgecore adopts them; what changed meanwhile is applied.
fn edgecore_killed(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let (namespace, before) = workload(system, "killed", 2)?;
    for _ in 0..3 {
        system.edge.kill_edgecore();
        ensure!(
            system.edge.containers(&namespace)? == before,
            "containers changed with edgecore dead"
        );
        system.edge.start_edgecore()?;
        system.node_ready(seconds(60))?;
    }
    wait::stays("the same containers", seconds(8), || {
        Ok(system.edge.containers(&namespace)? == before)
    })?;
    system.edge.kill_edgecore();
    scale(system, &namespace, 3)?;
    system.edge.start_edgecore()?;
    system.converged("scale-up during the absence applied", &namespace, 3, 150)?;
    let after = system.edge.containers(&namespace)?;
    ensure!(
        before.iter().all(|(name, id)| after.get(name) == Some(id)),
        "a container was replaced"
    );
    no_restarts(system, &namespace)?;
    system.clean(&namespace)
}

/// kill -9 of cloudcore: edges return by themselves and nothing is missed, a deletion neither.
fn cloudcore_killed(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let (namespace, _) = workload(system, "cloud", 2)?;
    let before = one_that_goes(system, &namespace, 3)?;
    system.cloud.kill();
    scale(system, &namespace, 4)?;
    delete_it(system, &namespace)?;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/web");
    system.api().patch(&path, &json!({"data": {"page": "hello two\n"}}))?;
    pause(seconds(3));
    ensure!(
        system.edge.containers(&namespace)? == before,
        "containers changed with cloudcore dead"
    );
    system.cloud.start()?;
    // Go's edgecore takes up to 45 s to connect again, and reports nothing for 60 s when a report was lost with the link.
    system.converged("what was missed is applied", &namespace, 4, 150)?;
    page_shows(system, &namespace, "hello two\n", 100)?;
    no_restarts(system, &namespace)?;
    system.clean(&namespace)
}

/// API server, etcd, and both with cloudcore are killed and started again while pods come and go: afterwards the containers of the
/// edge are exactly the pods that the API has for it.
fn control_plane_killed(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let (namespace, _) = workload(system, "plane", 2)?;
    for (what, killed, with_cloudcore) in [
        ("API server", &["apiserver"][..], false),
        ("etcd", &["etcd"], false),
        ("API server, etcd and cloudcore", &["apiserver", "etcd"], true),
    ] {
        let load = Load::start(system.api(), &namespace, system.edge.name());
        load.goes_on("the load is on", 8, seconds(60))?;
        system.cluster.kill(killed)?;
        if with_cloudcore {
            system.cloud.kill();
        }
        system.cluster.restart()?;
        if with_cloudcore {
            system.cloud.start()?;
        }
        load.goes_on(&format!("{what} restarted, the load goes on"), 16, seconds(120))?;
        let (granted, failed) = load.end();
        println!("    {granted} requests of the load were granted, {failed} were not");
        scale(system, &namespace, 3)?;
        exactly_the_pods(system, &namespace, 3)?;
    }
    no_restarts(system, &namespace)?;
    system.clean(&namespace)
}

/// Waits until the Deployment has its pods, all pods of the node are Ready, and the edge runs exactly their containers, all of it for
/// three seconds.
fn exactly_the_pods(system: &System, namespace: &str, replicas: i64) -> Result<()> {
    let deployment = format!("/apis/apps/v1/namespaces/{namespace}/deployments/web");
    let pods = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", system.edge.name());
    let agree = || {
        let deployment = system.api().must(&deployment)?;
        let number = |pointer| api::number(&deployment, pointer);
        ensure!(
            number("/status/observedGeneration") == number("/metadata/generation")
                && number("/status/replicas") == replicas,
            "the Deployment's status is not about {replicas} pods"
        );
        let pods = system.api().list(&pods)?;
        if let Some(pod) = pods.iter().find(|pod| !api::is_ready(pod)) {
            bail!("{} is not Ready", api::name(pod));
        }
        system.runs_exactly("", &pods)
    };
    let mut since = None;
    // Go's edgecore takes up to 45 s to connect again, and reports nothing for 60 s when a report was lost with the link.
    wait::until("containers equal pods", seconds(150), || match agree() {
        Ok(()) => Ok((since.get_or_insert_with(Instant::now).elapsed() >= seconds(3)).then_some(())),
        Err(error) => {
            since = None;
            Err(error)
        }
    })
}

fn link_cut_by_interface(context: &mut Context) -> Result<()> {
    link_cut(
        context,
        "cut",
        |system| system.edge.set_link(false),
        |system| system.edge.set_link(true),
    )
}

pub(super) fn link_cut_silently(context: &mut Context) -> Result<()> {
    let cut = |system: &System| system.edge.link().map(crate::link::Link::cut);
    let heal = |system: &System| system.edge.link().map(crate::link::Link::heal);
    link_cut(context, "silent", cut, heal)
}

/// The link is cut while a Deployment is scaled up, its ConfigMap changes and a pod is deleted: applied soon after its return (ours on
/// both sides: [`RECOVERY`]; any KubeEdge: within two minutes).
fn link_cut(
    context: &mut Context,
    name: &str,
    cut: impl Fn(&System) -> Result<()>,
    heal: impl Fn(&System) -> Result<()>,
) -> Result<()> {
    let ours = context.ours();
    let system = context.system()?;
    let (namespace, before) = workload(system, name, 1)?;
    let all = one_that_goes(system, &namespace, 2)?;
    cut(system)?;
    let start = Instant::now();
    scale(system, &namespace, 2)?;
    delete_it(system, &namespace)?;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/web");
    system.api().patch(&path, &json!({"data": {"page": "hello two\n"}}))?;
    let node = api::node_path(system.edge.name());
    // After 40 s without a lease, at the next look.
    wait::until("API shows the node not Ready", seconds(120), || {
        Ok((api::condition(&system.api().must(&node)?, "Ready") != "True").then_some(()))
    })?;
    pause(seconds(CUT).saturating_sub(start.elapsed()));
    ensure!(
        system.edge.containers(&namespace)? == all,
        "containers changed during the cut"
    );
    heal(system)?;
    let limit = seconds(if ours { RECOVERY } else { 120 });
    wait::until("node Ready and all applied after the link was back", limit, || {
        let ready = api::condition(&system.api().must(&node)?, "Ready") == "True";
        ensure!(ready, "the node is not Ready");
        system.agree(&namespace, 2)?;
        page_is_shown(system, &namespace, "hello two\n")
    })?;
    let after = system.edge.containers(&namespace)?;
    ensure!(
        before.iter().all(|(name, id)| after.get(name) == Some(id)),
        "a container was replaced"
    );
    system.clean(&namespace)
}

/// Waits until every pod of `web` serves this page.
pub(super) fn page_shows(system: &System, namespace: &str, page: &str, limit: u64) -> Result<()> {
    wait::until("changed ConfigMap served by every pod", seconds(limit), || {
        page_is_shown(system, namespace, page)
    })
}

fn page_is_shown(system: &System, namespace: &str, page: &str) -> Result<Option<()>> {
    for pod in system.pods(namespace)? {
        let url = format!("http://{}:8080/page", api::text(&pod, "/status/podIP"));
        if system.edge.fetch(&url)? != page {
            return Ok(None);
        }
    }
    Ok(Some(()))
}

/// Power fails while the cloud cannot be reached: the pods start again from SQLite alone.
fn offline_start(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let (namespace, before) = workload(system, "offline", 2)?;
    system.edge.link()?.cut();
    system.edge.power_off()?;
    system.edge.power_on()?;
    system.edge.start_edgecore()?;
    wait::until("containers run again, with no cloud", seconds(90), || {
        let after = system.edge.containers(&namespace)?;
        Ok(
            (after.keys().eq(before.keys()) && after.values().all(|id| before.values().all(|old| old != id)))
                .then_some(()),
        )
    })?;
    let container = system
        .edge
        .running()?
        .into_iter()
        .find(|one| one.namespace == namespace && one.name == "web");
    let secret = system
        .edge
        .exec(&container.context("a container")?, &["cat", "/secret/password"])?;
    ensure!(secret == "open sesame", "the Secret's file holds {secret:?}");
    let started = all_containers(system)?;
    system.edge.link()?.heal();
    system.node_ready(seconds(120))?;
    system.converged("API and containerd agree after the link is back", &namespace, 2, 120)?;
    ensure!(
        system
            .edge
            .containers(&namespace)?
            .iter()
            .all(|(name, id)| started.get(name) == Some(id)),
        "started twice"
    );
    system.clean(&namespace)
}

/// The database is deleted with pods running, one of which is deleted in the API meanwhile and one created: nothing stays
/// Terminating, nothing runs twice, the rest is adopted.
fn database_deleted(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let namespace = system.namespace("lost")?;
    let node = system.edge.name().to_owned();
    system.cluster.apply(
        &namespace,
        &[bare("stays", &node, "", IDLE), bare("goes", &node, "", IDLE)].join("---\n"),
    )?;
    system.converged("two pods Running", &namespace, 2, 150)?;
    let before = system.edge.container(&namespace, "stays", "main")?;
    system.edge.kill_edgecore();
    system.edge.delete_database()?;
    system
        .cluster
        .kubectl(&["-n", &namespace, "delete", "pod", "goes", "--wait=false"])?;
    system.cluster.apply(&namespace, &bare("comes", &node, "", IDLE))?;
    system.edge.start_edgecore()?;
    system.node_ready(seconds(60))?;
    let pods = system.converged("one gone, one new, one adopted", &namespace, 2, 150)?;
    let names: Vec<&str> = pods.iter().map(api::name).collect();
    ensure!(names == ["comes", "stays"], "the pods are {names:?}");
    ensure!(
        system.edge.container(&namespace, "stays", "main")?.id == before.id,
        "the container was replaced"
    );
    system.clean(&namespace)
}

fn database_truncated(context: &mut Context) -> Result<()> {
    damaged(context, "truncated", |bytes| bytes.truncate(bytes.len() / 3))
}

fn database_bytes_flipped(context: &mut Context) -> Result<()> {
    damaged(context, "flipped", |bytes| {
        // The header stays: a file that is no database at all is the easy case.
        for byte in bytes.iter_mut().skip(1000).step_by(97) {
            *byte ^= 0xff;
        }
    })
}

/// A damaged database is set aside and rebuilt; the containers are adopted.
fn damaged(context: &mut Context, name: &str, damage: impl Fn(&mut Vec<u8>)) -> Result<()> {
    let system = context.system()?;
    let (namespace, before) = workload(system, name, 2)?;
    // An orderly stop, so that what is in the write-ahead log is in the file that gets damaged.
    system.edge.stop_edgecore()?;
    let file = system.edge.database();
    let mut bytes = std::fs::read(&file).with_context(|| format!("{}", file.display()))?;
    system.edge.delete_database()?;
    damage(&mut bytes);
    std::fs::write(&file, bytes)?;
    system.edge.start_edgecore()?;
    system.node_ready(seconds(60))?;
    grows(system, &namespace, &before)?;
    let folder = file.parent().context("the database's folder")?;
    let aside = std::fs::read_dir(folder)?.flatten().any(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.starts_with("edgecore.db")
            && !["", "-wal", "-shm", "-journal"]
                .iter()
                .any(|end| name == format!("edgecore.db{end}"))
    });
    ensure!(aside, "the damaged database was not kept aside in {}", folder.display());
    system.clean(&namespace)
}

/// A third pod comes, the containers from before stay, and none was restarted.
fn grows(system: &System, namespace: &str, before: &BTreeMap<String, String>) -> Result<()> {
    scale(system, namespace, 3)?;
    system.converged("and a scale-up is applied", namespace, 3, 150)?;
    let after = system.edge.containers(namespace)?;
    ensure!(
        before.iter().all(|(name, id)| after.get(name) == Some(id)),
        "a container was replaced"
    );
    no_restarts(system, namespace)
}

/// One byte of a stored pod is another one, which SQLite does not see: the pod's container goes on.
fn database_row_damaged(context: &mut Context) -> Result<()> {
    let system = context.system()?;
    let (namespace, before) = workload(system, "row", 2)?;
    let pods = system.pods(&namespace)?;
    let pod = pods.first().context("a pod")?;
    system.edge.stop_edgecore()?;
    let file = system.edge.database();
    let mut bytes = std::fs::read(&file).with_context(|| format!("{}", file.display()))?;
    // Key, type and value stand one behind the other.
    let row = format!("{namespace}/pod/{}pod{{", api::name(pod));
    let mut flipped = 0;
    for start in 0..bytes.len() {
        if bytes.get(start..).is_some_and(|rest| rest.starts_with(row.as_bytes()))
            && let Some(byte) = bytes.get_mut(start + row.len() - 1)
        {
            *byte ^= 0xff;
            flipped += 1;
        }
    }
    ensure!(flipped > 0, "no row of {} in {}", api::name(pod), file.display());
    system.edge.delete_database()?;
    std::fs::write(&file, bytes)?;
    system.edge.start_edgecore()?;
    system.node_ready(seconds(60))?;
    wait::stays("the same containers", seconds(30), || {
        Ok(system.edge.containers(&namespace)? == before)
    })?;
    grows(system, &namespace, &before)?;
    system.clean(&namespace)
}
