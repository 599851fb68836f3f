//! What the hub asks about the cluster, answered from the informers and the API: the hub's trait [`Cluster`], so that the hub knows
//! neither.

use std::sync::Arc;

use futures::future::BoxFuture;
use proto::device::DeviceId;
use proto::{Kind, NodeName, ObjectPath, Status};
use tracing::warn;

use crate::cloudhub::{Cluster, PodPlace, TaskReport};
use crate::informers::Informers;
use crate::informers::devices::DevicePlace;
use crate::kubernetes::{Kube, PODS};

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

    /// The index knows the pods of edge nodes only.
    fn place_of_pod<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<PodPlace, Status>> {
        Box::pin(async move {
            let pod = ObjectPath::new(path.namespace.clone(), Kind::Pod, path.name_str());
            if let Some(node) = self.informers.pod_node(&pod) {
                return Ok(PodPlace::Node(node));
            }
            match self.kube.get(&PODS, &path.namespace, path.name_str()).await {
                Ok(pod) => Ok(pod.spec_node_name().map_or(PodPlace::Unbound, PodPlace::Node)),
                Err(error) if error.is_not_found() => Ok(PodPlace::Absent),
                Err(error) => Err(error.into_status()),
            }
        })
    }

    fn may_report(&self, node: &NodeName, device: &DeviceId) -> bool {
        match self.informers.devices().place(device) {
            DevicePlace::Node(owner) => owner == *node,
            DevicePlace::Unbound => false,
            // Let through: DeviceController, which gets the report, drops those about devices that do not exist.
            DevicePlace::Unknown | DevicePlace::Absent => true,
        }
    }

    fn certificate_authority(&self) -> Arc<str> {
        self.kube.certificate_authority()
    }

    fn task_report(&self, report: TaskReport) {
        warn!(node = %report.node, task = report.task_id, "report on a node task is dropped: jobs on nodes are not there yet");
    }
}
