//! Whether a pod that was bound to this node may have a place on it.
//!
//! Owns nothing: one pure decision. Reads the Node object, the pods that have a place already and the newcomer. Emits the reason and
//! the message that a refused pod fails with, as a kubelet words them. Must not look at pods that were admitted before: a place once
//! given is kept, whatever becomes of the node's labels and taints. Behaviour: spec 05 §6 row 4.

mod affinity;
mod fit;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;

use super::context::PodContext;
use super::node::{NodeView, Taint};
use super::pods::decide::{init_containers, is_sidecar, main_containers};
use crate::pod::Pod;

/// Why a pod gets no place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// `status.reason`.
    pub(crate) reason: String,
    /// `status.message`, without its usual beginning.
    pub(crate) message: String,
}

impl Refusal {
    fn new(reason: &str, message: impl Into<String>) -> Self {
        Self {
            reason: reason.to_owned(),
            message: message.into(),
        }
    }

    fn predicate(name: &str, why: &str) -> Self {
        Self::new(name, format!("Predicate {name} failed: {why}"))
    }
}

/// Decides about a newcomer beside those who are there.
pub(crate) fn admit(node: &NodeView, there: &[PodContext], newcomer: &PodContext) -> Result<(), Refusal> {
    let pod = &*newcomer.pod;
    operating_system(pod)?;
    fit::check(node, there, newcomer)?;
    if !affinity::matches(pod, node) {
        return Err(Refusal::predicate(
            "NodeAffinity",
            "node(s) didn't match Pod's node affinity/selector",
        ));
    }
    if ports_conflict(there, pod) {
        return Err(Refusal::predicate(
            "NodePorts",
            "node(s) didn't have free ports for the requested pod ports",
        ));
    }
    if !is_static(pod) && !tolerates(pod, node) {
        return Err(Refusal::predicate(
            "TaintToleration",
            "node(s) had taints that the pod didn't tolerate",
        ));
    }
    Ok(())
}

/// Whether a pod comes from a file of this node.
pub(crate) fn is_static(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get("kubernetes.io/config.source"))
        .is_some_and(|source| source != "api")
}

fn operating_system(pod: &Pod) -> Result<(), Refusal> {
    let label = pod.metadata.labels.as_ref().and_then(|all| all.get("kubernetes.io/os"));
    if label.is_some_and(|os| os != OS) {
        return Err(Refusal::new(
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        ));
    }
    let field = pod.spec.as_ref().and_then(|spec| spec.os.as_ref());
    if field.is_some_and(|os| os.name != OS) {
        return Err(Refusal::new(
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS",
        ));
    }
    Ok(())
}

/// Ports of the host by protocol and number, with the addresses they are taken on.
type Ports<'a> = BTreeMap<(&'a str, i32), Vec<&'a str>>;

fn ports_conflict(there: &[PodContext], pod: &Pod) -> bool {
    let mut taken = Ports::new();
    for other in there {
        for (ip, key) in host_ports(&other.pod) {
            taken.entry(key).or_default().push(ip);
        }
    }
    host_ports(pod).any(|(ip, key)| {
        taken
            .get(&key)
            .is_some_and(|ips| ip == ANY || ips.iter().any(|taken| *taken == ANY || *taken == ip))
    })
}

fn host_ports(pod: &Pod) -> impl Iterator<Item = (&str, (&str, i32))> {
    let sidecars = init_containers(pod).iter().filter(|c| is_sidecar(c));
    main_containers(pod)
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.as_deref().unwrap_or_default())
        .filter_map(|port| {
            let ip = port.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or(ANY);
            let number = port.host_port.filter(|number| *number > 0)?;
            Some((ip, (port.protocol.as_deref().unwrap_or("TCP"), number)))
        })
}

/// Whether the pod stands every taint that would drive it away.
fn tolerates(pod: &Pod, node: &NodeView) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref());
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref());
    let tolerations = tolerations.unwrap_or_default();
    taints
        .unwrap_or_default()
        .iter()
        .filter(|taint| taint.effect == "NoExecute")
        .all(|taint| tolerations.iter().any(|one| stands(one, taint)))
}

fn stands(toleration: &Toleration, taint: &Taint) -> bool {
    let same = |wanted: Option<&str>, given: &str| wanted.is_none_or(|wanted| wanted.is_empty() || wanted == given);
    if !same(toleration.effect.as_deref(), &taint.effect) || !same(toleration.key.as_deref(), &taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => toleration.value.as_deref().unwrap_or_default() == taint.value,
        _ => false,
    }
}

/// Edge nodes run nothing else.
const OS: &str = "linux";
/// All addresses of the host.
const ANY: &str = "0.0.0.0";
