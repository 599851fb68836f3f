//! What runs in an edge's containerd, read from the runtime's own state folder: one folder for each task, with the OCI
//! configuration (whose annotations name the pod) and the pid. No client program and no gRPC: it also works while edgecore
//! or containerd is down, and costs nothing next to what is measured.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use nix::unistd::Pid;
use serde_json::Value;

use crate::api::text;
use crate::process;

/// A running container or sandbox.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Container {
    /// Namespace of its pod.
    pub namespace: String,
    /// Its pod.
    pub pod: String,
    /// Its name in the pod; empty for the sandbox.
    pub name: String,
    /// The runtime's id.
    pub id: String,
    /// Id of its sandbox.
    pub sandbox: String,
    /// Its first process.
    pub pid: i32,
}

/// All running containers and sandboxes of the containerd with this state folder.
pub fn running(state: &Path) -> Result<Vec<Container>> {
    let mut found = Vec::new();
    let Ok(tasks) = std::fs::read_dir(state.join("io.containerd.runtime.v2.task/k8s.io")) else {
        return Ok(found);
    };
    for task in tasks {
        let folder = task?.path();
        // A task that appears or goes away meanwhile has not all its files.
        let (Ok(config), Ok(pid)) = (
            std::fs::read(folder.join("config.json")),
            std::fs::read_to_string(folder.join("init.pid")),
        ) else {
            continue;
        };
        let (Ok(config), Ok(pid)) = (serde_json::from_slice::<Value>(&config), pid.trim().parse::<i32>()) else {
            continue;
        };
        if !process::alive(Pid::from_raw(pid)) {
            continue;
        }
        let annotation = |name: &str| text(&config, &format!("/annotations/io.kubernetes.cri.{name}")).to_owned();
        let id = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        found.push(Container {
            namespace: annotation("sandbox-namespace"),
            pod: annotation("sandbox-name"),
            name: annotation("container-name"),
            sandbox: annotation("sandbox-id"),
            id,
            pid,
        });
    }
    found.sort();
    Ok(found)
}

/// The containers (not the sandboxes) by namespace/pod/container, each with its id. Twice the same name is an error: a
/// container runs twice.
pub fn by_name(state: &Path, namespace: &str) -> Result<BTreeMap<String, String>> {
    let mut names = BTreeMap::new();
    for one in running(state)? {
        if one.name.is_empty() || (!namespace.is_empty() && one.namespace != namespace) {
            continue;
        }
        let name = format!("{}/{}/{}", one.namespace, one.pod, one.name);
        if let Some(other) = names.insert(name.clone(), one.id.clone()) {
            anyhow::bail!("{name} runs twice: {other} and {}", one.id);
        }
    }
    Ok(names)
}
