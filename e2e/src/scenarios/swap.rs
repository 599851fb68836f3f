//! A board's edgecore is replaced in place by another KubeEdge's, with its database, certificates and running containers, and
//! later put back. `KE_SWAP=DIR` names the folder of the other one; without it there is nothing to swap.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::Entry;
use super::faults::{no_restarts, page_shows, scale, workload};
use crate::system::{Context, System};
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[("edge_swapped", false, edge_swapped)];

/// The other edgecore takes over and hands back: no container restarts, and each of them applies what changes.
fn edge_swapped(context: &mut Context) -> Result<()> {
    let (first, second) = (
        context.settings.edge.clone(),
        context.settings.swap.clone().context("KE_SWAP names no folder")?,
    );
    let system = context.system()?;
    let (namespace, mut running) = workload(system, "swapped", 2)?;
    let swapped = (|| {
        for (programs, replicas, page) in [(&second, 3, "hello two\n"), (&first, 4, "hello three\n")] {
            running = swap(system, programs, &namespace, (replicas, page), &running)?;
        }
        no_restarts(system, &namespace)?;
        system.clean(&namespace)
    })();
    system.edge.set_programs(&first);
    swapped
}

fn swap(
    system: &mut System,
    programs: &Path,
    namespace: &str,
    (replicas, page): (u32, &str),
    before: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>> {
    println!("    edgecore of {}", programs.display());
    system.edge.stop_edgecore()?;
    system.edge.set_programs(programs);
    system.edge.start_edgecore()?;
    system.node_ready(seconds(120))?;
    wait::stays("the same containers", seconds(20), || {
        Ok(system.edge.containers(namespace)? == *before)
    })?;
    scale(system, namespace, replicas)?;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/web");
    system
        .api()
        .patch(&path, &serde_json::json!({"data": {"page": page}}))?;
    system.converged("scale-up applied", namespace, usize::try_from(replicas)?, 150)?;
    page_shows(system, namespace, page, 150)?;
    let after = system.edge.containers(namespace)?;
    ensure!(
        before.iter().all(|(name, id)| after.get(name) == Some(id)),
        "a container was replaced"
    );
    Ok(after)
}
