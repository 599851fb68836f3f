//! The ways from an API server to the kubelets of edges.

use anyhow::{Context as _, Result, ensure};

use super::Entry;
use crate::cluster::ControlPlane;
use crate::system::Context;

pub(super) const LIST: &[Entry] = &[("ways_in_control_plane_apart", false, control_plane_apart)];

/// A control plane on a host of its own: an edge joins, and what the API server sends passes none of the machine's own OUTPUT
/// chains.
fn control_plane_apart(context: &mut Context) -> Result<()> {
    let plane = ControlPlane {
        apart: true,
        ..ControlPlane::default()
    };
    let system = context.system_with(&plane)?;
    let host = system.cluster.host().context("the control plane has no host")?;
    let nodes = system.cluster.kubectl(&["get", "nodes", "-o", "name"])?;
    ensure!(nodes.contains("edge-1"), "no edge in {nodes}");
    ensure!(
        crate::process::call("ss", &["-N", &host.netns(), "-ltnH"])?.contains(":6443"),
        "the API server is not in its own network namespace"
    );
    ensure!(
        !crate::process::call("ss", &["-ltnH"])?.contains(&format!("{}:", host.address())),
        "the control plane listens on the machine itself"
    );
    Ok(())
}
