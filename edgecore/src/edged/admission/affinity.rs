//! What a pod demands of its node: `nodeSelector` and required node affinity.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};

use crate::edged::node::NodeView;
use crate::pod::Pod;

/// Whether the node is one that the pod may be on.
pub(super) fn matches(pod: &Pod, node: &NodeView) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let selector = spec.node_selector.iter().flatten();
    if !selector.into_iter().all(|(key, value)| labels.get(key) == Some(value)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|all| all.node_affinity.as_ref());
    let Some(required) =
        affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref())
    else {
        return true;
    };
    let name = node.metadata.name.as_deref().unwrap_or_default();
    required
        .node_selector_terms
        .iter()
        .any(|term| term_matches(term, labels, name))
}

/// A term without any demand matches no node.
fn term_matches(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions
        .iter()
        .all(|one| demand_matches(one, labels.get(&one.key).map(String::as_str)))
        && fields
            .iter()
            .all(|one| one.key == "metadata.name" && demand_matches(one, Some(name)))
}

fn demand_matches(demand: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = demand.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|one| one == value));
    let number = |text: &str| text.parse::<i64>().ok();
    let numbers = value.and_then(number).zip(values.first().and_then(|text| number(text)));
    match demand.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers.is_some_and(|(have, limit)| have > limit),
        "Lt" => numbers.is_some_and(|(have, limit)| have < limit),
        _ => false,
    }
}
