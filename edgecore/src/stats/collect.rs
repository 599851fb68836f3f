//! One look at everything: the runtime's lists, the cgroups, the networks.

use std::collections::HashMap;
use std::time::Duration;

use common::order;
use jiff::Timestamp;
use proto::cri;
use tokio::time::timeout;
use tracing::debug;

use super::cgroup::{Cgroups, Cpu, Memory, Places, Usage};
use super::machine::{self, Interface};
use crate::edged::cgroups::CgroupNames;
use crate::edged::runtime::{
    Call, LABEL_CONTAINER_NAME, LABEL_POD_NAME, LABEL_POD_NAMESPACE, LABEL_POD_UID, Runtime, RuntimeError,
};

/// How long the runtime's answer is waited for. Prometheus and metrics-server wait for 10 s, people for less.
const PATIENCE: Duration = Duration::from_secs(1);

/// What was seen.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) machine: Usage,
    /// Of the machine.
    pub(super) network: Vec<Interface>,
    /// `kubepods` and its levels of service, by path; the first one holds all pods.
    pub(super) levels: Vec<Level>,
    pub(super) pods: Vec<Pod>,
}

/// What holds pods.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) path: String,
    pub(super) usage: Usage,
    pub(super) created: Timestamp,
}

/// A pod with a sandbox.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) created: Timestamp,
    /// Of the pod as a whole, with its path.
    pub(super) group: Option<(String, Usage)>,
    pub(super) sandbox: Container,
    /// `None` in the machine's network.
    pub(super) network: Option<Vec<Interface>>,
    /// Those that run.
    pub(super) containers: Vec<Container>,
}

/// A container or a sandbox.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) image: String,
    pub(super) created: Timestamp,
    pub(super) path: Option<String>,
    pub(super) usage: Option<Usage>,
    /// What it wrote, where that was asked for.
    pub(super) written: Option<cri::FilesystemUsage>,
}

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Processors and memory of what runs.
    Usage,
    /// Networks and sandboxes, too.
    Network,
    /// What was written, too: the runtime has to look at its disk.
    All,
}

/// Looks at everything. The runtime is asked what containers use only where the cgroups do not tell.
pub(super) async fn look(
    runtime: &dyn Runtime,
    cgroups: &Cgroups,
    names: &[CgroupNames],
    depth: Depth,
) -> Result<Look, RuntimeError> {
    let (sandboxes, containers) = futures::try_join!(runtime.list_sandboxes(None), runtime.list_containers(None))?;
    let pods = pods(sandboxes, containers);
    let (cgroups, names) = (cgroups.clone(), names.to_vec());
    let looked = tokio::task::spawn_blocking(move || read(&cgroups, &names, pods, depth)).await;
    // Reading small files does not panic; with nothing read the runtime's numbers are left.
    let mut look = looked.unwrap_or_else(|_| Look {
        machine: machine::complete(None),
        network: Vec::new(),
        levels: Vec::new(),
        pods: Vec::new(),
    });
    let all = || look.pods.iter().flat_map(|pod| &pod.containers);
    if depth == Depth::All || all().any(|container| container.usage.is_none()) {
        let ids = all().map(|container| container.id.clone()).collect();
        let stats = told(ids, |of| runtime.list_container_stats(of)).await;
        add(&mut look, stats);
    }
    Ok(look)
}

/// What the runtime tells of these containers. A container whose shim hangs holds up its answer about all of them, for minutes: then each
/// one is asked for by itself, and what does not answer is left out.
async fn told<'a>(
    ids: Vec<String>,
    ask: impl Fn(Option<&str>) -> Call<'a, Vec<cri::ContainerStats>>,
) -> Vec<cri::ContainerStats> {
    let failed = |error: &RuntimeError| debug!(%error, "the runtime does not tell what containers use");
    if let Ok(answer) = timeout(PATIENCE, ask(None)).await {
        return answer.inspect_err(failed).unwrap_or_default();
    }
    let each = ids.iter().map(|id| timeout(PATIENCE, ask(Some(id))));
    let answers = futures::future::join_all(each).await.into_iter();
    answers
        .filter_map(|answer| answer.ok()?.inspect_err(failed).ok())
        .flatten()
        .collect()
}

/// Pods with their running containers, sorted by name. Of the sandboxes of one pod those that are ready, or else the newest, as kubelets
/// choose; ours have one each.
fn pods(mut sandboxes: Vec<cri::PodSandbox>, mut containers: Vec<cri::Container>) -> Vec<Pod> {
    let ready = cri::PodSandboxState::SandboxReady as i32;
    sandboxes.retain(|sandbox| sandbox.labels.contains_key(LABEL_POD_UID));
    order::sort_by_key(&mut sandboxes, |sandbox| {
        (sandbox.state != ready, std::cmp::Reverse(sandbox.created_at))
    });
    containers.retain(|container| container.state == cri::ContainerState::ContainerRunning as i32);
    order::sort_by_key(&mut containers, |container| container.created_at);
    let mut pods: Vec<Pod> = Vec::new();
    for sandbox in sandboxes {
        let label = |key: &str| sandbox.labels.get(key).cloned().unwrap_or_default();
        let uid = label(LABEL_POD_UID);
        if pods.iter().any(|pod| pod.uid == uid) {
            continue;
        }
        let inside = containers
            .iter()
            .filter(|container| container.pod_sandbox_id == sandbox.id);
        let containers = inside.map(|container| Container {
            id: container.id.clone(),
            name: container.labels.get(LABEL_CONTAINER_NAME).cloned().unwrap_or_default(),
            image: container
                .image
                .as_ref()
                .map(|image| image.image.clone())
                .unwrap_or_default(),
            created: time(container.created_at),
            path: None,
            usage: None,
            written: None,
        });
        pods.push(Pod {
            namespace: label(LABEL_POD_NAMESPACE),
            name: label(LABEL_POD_NAME),
            uid,
            created: time(sandbox.created_at),
            group: None,
            containers: containers.collect(),
            network: None,
            sandbox: Container {
                created: time(sandbox.created_at),
                id: sandbox.id,
                name: String::new(),
                image: String::new(),
                path: None,
                usage: None,
                written: None,
            },
        });
    }
    order::sort_by(&mut pods, |a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    pods
}

/// Reads the files. Blocking.
fn read(cgroups: &Cgroups, names: &[CgroupNames], mut pods: Vec<Pod>, depth: Depth) -> Look {
    let mut places = Places::default();
    for names in names {
        let found = cgroups.places(names);
        places.levels.extend(found.levels);
        places.pods.extend(found.pods);
        places.containers.extend(found.containers);
    }
    // Short names first: what holds all pods before its levels.
    order::sort_by_key(&mut places.levels, String::len);
    let find = |container: &mut Container| {
        container.path = places.containers.get(&container.id).cloned();
        container.usage = container.path.as_deref().and_then(|path| cgroups.usage(path));
    };
    for pod in &mut pods {
        let path = places.pods.get(&pod.uid);
        pod.group = path.and_then(|path| Some((path.clone(), cgroups.usage(path)?)));
        pod.containers.iter_mut().for_each(find);
        if depth != Depth::Usage {
            find(&mut pod.sandbox);
            let path = pod.sandbox.path.as_deref();
            let pid = path.and_then(|path| cgroups.processes(path)?.first().copied());
            pod.network = pid
                .filter(|pid| !machine::in_host_network(*pid))
                .map(|pid| machine::interfaces(Some(pid)));
        }
    }
    let levels = places.levels.into_iter();
    Look {
        machine: machine::complete(cgroups.usage("/")),
        network: if depth == Depth::Usage {
            Vec::new()
        } else {
            machine::interfaces(None)
        },
        levels: levels
            .filter_map(|path| {
                Some(Level {
                    usage: cgroups.usage(&path)?,
                    created: cgroups.created(&path),
                    path,
                })
            })
            .collect(),
        pods,
    }
}

/// Adds what the runtime tells.
fn add(look: &mut Look, stats: Vec<cri::ContainerStats>) {
    let by_id = stats
        .into_iter()
        .filter_map(|one| Some((one.attributes.clone()?.id, one)));
    let mut by_id: HashMap<String, cri::ContainerStats> = by_id.collect();
    for container in look.pods.iter_mut().flat_map(|pod| &mut pod.containers) {
        let Some(told) = by_id.remove(&container.id) else {
            continue;
        };
        if container.usage.is_none() {
            container.usage = usage(&told);
        }
        container.written = told.writable_layer;
    }
}

fn usage(told: &cri::ContainerStats) -> Option<Usage> {
    let value = |number: &Option<cri::UInt64Value>| number.as_ref().map(|number| number.value);
    let cpu = told.cpu.as_ref();
    let memory = told.memory.as_ref();
    let at = cpu
        .map(|cpu| cpu.timestamp)
        .or_else(|| memory.map(|memory| memory.timestamp))?;
    Some(Usage {
        at: time(at),
        cpu: cpu.and_then(|cpu| {
            Some(Cpu {
                total: value(&cpu.usage_core_nano_seconds)?,
                ..Cpu::default()
            })
        }),
        memory: memory.and_then(|memory| {
            Some(Memory {
                working_set: value(&memory.working_set_bytes)?,
                usage: value(&memory.usage_bytes),
                rss: value(&memory.rss_bytes),
                page_faults: value(&memory.page_faults),
                major_page_faults: value(&memory.major_page_faults),
                ..Memory::default()
            })
        }),
        processes: None,
        threads: None,
    })
}

/// Of nanoseconds since 1970.
pub(super) fn time(nanos: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or_default()
}

/// A pod of two containers for tests of the forms, everything being 1000 or a small number.
#[cfg(test)]
pub(super) fn example() -> Look {
    let at = Timestamp::from_millisecond(1_795_233_586_665).expect("a time");
    let usage = |memory: u64| Usage {
        at,
        cpu: Some(Cpu {
            total: 1_500_000_000,
            user: Some(1_000_000_000),
            system: Some(500_000_000),
            throttled: None,
        }),
        memory: Some(Memory {
            usage: Some(memory + 1),
            working_set: memory,
            limit: Some(10_000),
            ..Memory::default()
        }),
        processes: Some(1),
        threads: Some(2),
    };
    let container = |name: &str, usage: Option<Usage>| Container {
        id: format!("id-{name}"),
        name: name.to_owned(),
        image: "busybox".to_owned(),
        created: at,
        path: Some(format!("/kubepods/podu1/id-{name}")),
        usage,
        written: None,
    };
    Look {
        machine: usage(5000),
        network: Vec::new(),
        levels: vec![Level {
            path: "/kubepods".to_owned(),
            usage: usage(4000),
            created: at,
        }],
        pods: vec![Pod {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            uid: "u1".to_owned(),
            created: at,
            group: Some(("/kubepods/podu1".to_owned(), usage(3000))),
            sandbox: container("", Some(usage(10))),
            network: Some(vec![Interface {
                name: "eth0".to_owned(),
                ..Interface::default()
            }]),
            // Of the second one nothing is known.
            containers: vec![container("main", Some(usage(1000))), container("side", None)],
        }],
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_container_that_hangs_hides_no_other() {
        let of = |id: &str| cri::ContainerStats {
            attributes: Some(cri::ContainerAttributes {
                id: id.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let ask = |asked: Option<&str>| match asked {
            Some("well") => futures::future::ready(Ok(vec![of("well")])).boxed(),
            _ => futures::future::pending().boxed(),
        };
        let stats = told(vec!["hangs".to_owned(), "well".to_owned()], ask).await;
        assert_eq!(stats, [of("well")]);
    }
}
