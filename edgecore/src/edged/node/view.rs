//! What is read of a Node object. A type with all that a Node can say is 30 KB of program.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::view;

use super::Taint;

view! {
    /// A Node.
    pub(crate) struct NodeView {
        "metadata" metadata: ObjectMeta,
        "spec" spec: Option<NodeSpec>,
        "status" status: Option<NodeStatus>,
    }

    /// What is wanted of it.
    pub(crate) struct NodeSpec {
        "taints" taints: Option<Vec<Taint>>,
    }

    /// What it reported.
    pub(crate) struct NodeStatus {
        "allocatable" allocatable: Option<BTreeMap<String, Quantity>>,
        "conditions" conditions: Vec<NodeCondition>,
    }

    /// One condition.
    pub(crate) struct NodeCondition {
        "type" kind: String,
        "status" status: String,
        "message" message: String,
    }
}
