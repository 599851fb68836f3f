//! The question to Kubernetes.

/// What a node wants to do.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReviewRequest {
    /// `get`, `create`, …
    pub verb: &'static str,
    /// API group; empty for the core.
    pub group: &'static str,
    /// `secrets`, `pods`, …
    pub resource: &'static str,
    /// `status`, `token`, or empty.
    pub subresource: &'static str,
    /// Empty for cluster-scoped objects.
    pub namespace: Box<str>,
    /// The object.
    pub name: Box<str>,
}
