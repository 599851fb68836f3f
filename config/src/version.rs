//! What we report as versions: the one place for them.

/// The KubeEdge release whose behaviour this is.
pub const KUBEEDGE_VERSION: &str = "v1.23.1";
/// The Kubernetes release whose kubelet the edge stands for.
pub const KUBERNETES_VERSION: &str = "v1.32.10";
/// The node's `status.nodeInfo.kubeletVersion`. Peers split it at `-` and take the third part: no other hyphen may be in it.
pub const KUBELET_VERSION: &str = "v1.32.10-kubeedge-v1.23.1";
/// Our own release.
pub const OWN_VERSION: &str = env!("CARGO_PKG_VERSION");

/// What `--version` prints.
#[must_use]
pub fn line() -> String {
    format!("KubeEdge {KUBEEDGE_VERSION} (rust {OWN_VERSION})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubelet_version_is_made_of_the_other_two() {
        assert_eq!(
            KUBELET_VERSION,
            format!("{KUBERNETES_VERSION}-kubeedge-{KUBEEDGE_VERSION}")
        );
        assert_eq!(KUBELET_VERSION.split('-').nth(2), Some(KUBEEDGE_VERSION));
    }
}
