//! What the hub asks about the cluster, answered from the informers and the API.

use std::sync::Arc;

use futures::future::BoxFuture;
use proto::{Kind, Namespace, NodeName, ObjectName, ObjectPath, Status};
use tracing::warn;

use crate::cloudhub::{Cluster, TaskReport};
use crate::informers::Informers;
use crate::kubernetes::Kube;

/// The cluster as the hub sees it.
pub struct HubCluster {
    /// The API.
    pub kube: Kube,
    /// The index.
    pub informers: Informers,
}

impl Cluster for HubCluster {
    fn node_exists<'a>(&'a self, node: &'a NodeName) -> BoxFuture<'a, Result<bool, Status>> {
        Box::pin(async move {
            if self.informers.has_node(node) {
                return Ok(true);
            }
            match self.informers.node(node).await {
                Ok(_) => Ok(true),
                Err(error) if error.is_not_found() => Ok(false),
                Err(error) => Err(error.into_status()),
            }
        })
    }

    fn node_of_pod(&self, namespace: &Namespace, name: &ObjectName) -> Option<NodeName> {
        self.informers
            .pod_node(&ObjectPath::new(namespace.clone(), Kind::Pod, name.clone()))
    }

    fn certificate_authority(&self) -> Arc<str> {
        self.kube.certificate_authority()
    }

    fn task_report(&self, report: TaskReport) {
        warn!(node = %report.node, task = report.task_id, "report on a node task is dropped: jobs on nodes are off (modules.taskManager.enable)");
    }
}
