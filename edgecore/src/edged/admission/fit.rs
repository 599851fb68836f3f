//! Whether what a pod asks for is left on the node.

use super::Refusal;
use crate::edged::context::PodContext;
use crate::edged::node::NodeView;
use crate::edged::podspec::{PodResources, pod_requests};
use crate::edged::quantity::Quantity;

/// Compares requests with what is allocatable. What a Node object does not tell is not checked: a new node's first status may be on
/// its way.
pub(super) fn check(node: &NodeView, there: &[PodContext], newcomer: &PodContext) -> Result<(), Refusal> {
    let Some(allocatable) = node.status.as_ref().and_then(|status| status.allocatable.as_ref()) else {
        return Ok(());
    };
    let capacity = |name: &str| allocatable.get(name).and_then(|text| Quantity::parse(&text.0).ok());
    let pods = i64::try_from(there.len()).unwrap_or(i64::MAX);
    if let Some(limit) = capacity("pods").map(Quantity::value)
        && pods >= limit
    {
        return Err(out_of("pods", 1, pods, limit));
    }
    // What cannot be read is reported when containers are made of it.
    let asked = pod_requests(newcomer).unwrap_or_default();
    if asked.values().all(|amount| amount.is_zero()) {
        return Ok(());
    }
    let used: Vec<PodResources> = there.iter().filter_map(|pod| pod_requests(pod).ok()).collect();
    let others = asked.keys().map(String::as_str).filter(|name| !FIRST.contains(name));
    for name in FIRST.into_iter().chain(others) {
        let Some(wanted) = asked.get(name).filter(|amount| amount.is_positive()) else {
            continue;
        };
        let Some(limit) = capacity(name).or_else(|| is_native(name).then_some(Quantity::ZERO)) else {
            continue;
        };
        let sum: Quantity = used.iter().filter_map(|one| one.get(name).copied()).sum();
        let count = |amount: Quantity| {
            if name == "cpu" {
                amount.milli_value()
            } else {
                amount.value()
            }
        };
        let (wanted, sum, limit) = (count(*wanted), count(sum), count(limit));
        if wanted > limit.saturating_sub(sum) {
            return Err(out_of(name, wanted, sum, limit));
        }
    }
    Ok(())
}

fn out_of(name: &str, wanted: i64, used: i64, limit: i64) -> Refusal {
    Refusal::new(
        &format!("OutOf{name}"),
        format!("Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {limit}"),
    )
}

/// Resources that a node lacks when it does not name them, unlike those that a whole cluster has.
fn is_native(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// The order in which shortages are reported.
const FIRST: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
