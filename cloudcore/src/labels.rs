//! Which labels a node may give itself: those that the API server's NodeRestriction lets kubelets set, and the roles by which edge
//! nodes are found.

/// Labels of Kubernetes that kubelets set.
const OF_KUBELETS: [&str; 11] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// The roles that an edge node has.
const OF_EDGES: [&str; 2] = ["node-role.kubernetes.io/edge", "node-role.kubernetes.io/agent"];

/// Whether a node may set the label on itself. No label begins with `$`: that is a directive of a patch.
pub(crate) fn is_label_of_nodes(key: &str) -> bool {
    if key.starts_with('$') {
        return false;
    }
    let Some((domain, _)) = key.split_once('/') else {
        return true;
    };
    let is_below = |parent: &str| {
        domain
            .strip_suffix(parent)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if !is_below("kubernetes.io") && !is_below("k8s.io") {
        return true;
    }
    OF_KUBELETS.contains(&key)
        || OF_EDGES.contains(&key)
        || is_below("kubelet.kubernetes.io")
        || is_below("node.kubernetes.io")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_label_themselves_as_kubelets_may() {
        for (key, may) in [
            ("zone", true),
            ("example.com/zone", true),
            ("notkubernetes.io/zone", true),
            ("kubernetes.io/hostname", true),
            ("node-role.kubernetes.io/edge", true),
            ("node-role.kubernetes.io/control-plane", false),
            ("node-restriction.kubernetes.io/fips", false),
            ("x.node-restriction.kubernetes.io/fips", false),
            ("node.kubernetes.io/anything", true),
            ("kubernetes.io/anything", false),
            ("x.k8s.io/anything", false),
            ("$patch", false),
            ("$setElementOrder/zone", false),
        ] {
            assert_eq!(is_label_of_nodes(key), may, "{key}");
        }
    }
}
