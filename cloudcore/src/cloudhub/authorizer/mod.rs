//! What a node may ask for (spec 01 §5.8).
//!
//! A node may write its own Node, Lease, pods and Events about these, and report about its devices. What it may read is asked of
//! Kubernetes' own node authorizer by SubjectAccessReview, as user `system:node:<name>` of group `system:nodes`; its answers are kept for
//! a short while. Owns that memory, reads pods' nodes, emits verdicts; it writes nothing.

mod cache;
mod content;
mod refusal;
mod request;
mod review;
mod rule;
#[cfg(test)]
mod seeds;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use proto::{Message, NodeName, ObjectPath};
use tokio::time::Instant;
use tracing::warn;

use super::{Cluster, PodPlace, Settings};
use cache::Cache;
use rule::Rule;

pub(super) use refusal::refusal;
pub use request::ReviewRequest;
pub use review::AccessReview;

/// A request is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) reason: String,
}

pub(super) struct Authorizer {
    enabled: bool,
    debug: bool,
    access: Arc<dyn AccessReview>,
    cluster: Arc<dyn Cluster>,
    cache: Cache,
}

impl Authorizer {
    pub(super) fn new(settings: &Settings, access: Arc<dyn AccessReview>, cluster: Arc<dyn Cluster>) -> Self {
        let (enabled, debug) = (settings.authorization, settings.authorization_debug);
        Self {
            enabled,
            debug,
            access,
            cluster,
            cache: Cache::default(),
        }
    }

    pub(super) async fn authorize(&self, node: &NodeName, message: &Message) -> Result<(), Refused> {
        if !self.enabled {
            return Ok(());
        }
        match self.decide(node, message).await {
            Err(Refused { reason }) if self.debug => {
                warn!(%node, operation = %message.operation, route = %message.route, reason, "would be refused if authorization.debug were false");
                Ok(())
            }
            verdict => verdict,
        }
    }

    async fn decide(&self, node: &NodeName, message: &Message) -> Result<(), Refused> {
        match rule::rule(node, message) {
            Rule::Allow => Ok(()),
            Rule::Refuse(reason) => Err(Refused {
                reason: reason.to_owned(),
            }),
            Rule::BoundPod(path) => self.bound_pod(node, &path).await,
            Rule::Review(request) => self.review(node, request).await,
            Rule::OwnDevice(device) if self.cluster.may_report(node, &device) => Ok(()),
            Rule::OwnDevice(device) => Err(Refused {
                reason: format!("device {device} is not of this node"),
            }),
            Rule::BoundPodAndReview(path, request) => {
                self.bound_pod(node, &path).await?;
                self.review(node, request).await
            }
        }
    }

    async fn bound_pod(&self, node: &NodeName, path: &ObjectPath) -> Result<(), Refused> {
        match self.cluster.place_of_pod(path).await {
            // An absent pod is reported as such by who looks for it.
            Ok(PodPlace::Absent) => Ok(()),
            Ok(PodPlace::Node(bound)) if bound == *node => Ok(()),
            Ok(PodPlace::Node(_) | PodPlace::Unbound) => Err(Refused {
                reason: format!("pod {path} is not bound to this node"),
            }),
            Err(error) => Err(Refused {
                reason: format!("Kubernetes could not be asked where pod {path} runs: {error}"),
            }),
        }
    }

    async fn review(&self, node: &NodeName, request: ReviewRequest) -> Result<(), Refused> {
        let now = Instant::now();
        if let Some(allowed) = self.cache.get(node, &request, now) {
            return verdict(allowed, &request);
        }
        match self.access.review(node, &request).await {
            Ok(allowed) => {
                self.cache.put(node, request.clone(), allowed, now);
                verdict(allowed, &request)
            }
            Err(error) => {
                let reason = format!("Kubernetes could not be asked whether the node may {request}: {error}");
                Err(Refused { reason })
            }
        }
    }
}

fn verdict(allowed: bool, request: &ReviewRequest) -> Result<(), Refused> {
    if allowed {
        return Ok(());
    }
    Err(Refused {
        reason: format!("the node authorizer does not let this node {request}"),
    })
}
