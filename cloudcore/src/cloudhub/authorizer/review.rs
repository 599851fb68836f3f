//! Who answers the question to Kubernetes.

use std::fmt;

use futures::future::BoxFuture;
use proto::{NodeName, Status};

use super::request::ReviewRequest;
use crate::kubernetes::{ApiError, Attributes, Kube, Subject};

/// Who knows what nodes may do: the API server.
pub trait AccessReview: Send + Sync {
    /// Whether the node may do this; an error is the API's.
    fn review<'a>(&'a self, node: &'a NodeName, request: &'a ReviewRequest) -> BoxFuture<'a, Result<bool, Status>>;
}

impl AccessReview for Kube {
    fn review<'a>(&'a self, node: &'a NodeName, request: &'a ReviewRequest) -> BoxFuture<'a, Result<bool, Status>> {
        Box::pin(async move {
            let subject = Subject {
                user: format!("system:node:{node}"),
                groups: vec!["system:nodes".to_owned(), "system:authenticated".to_owned()],
                ..Subject::default()
            };
            let answer = self.access_review(&subject, request.attributes()).await;
            answer.map_err(ApiError::into_status)
        })
    }
}

impl ReviewRequest {
    fn attributes(&self) -> Attributes<'_> {
        Attributes {
            verb: self.verb,
            group: self.group,
            resource: self.resource,
            subresource: self.subresource,
            namespace: &self.namespace,
            name: &self.name,
        }
    }
}

impl fmt::Display for ReviewRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.attributes().fmt(f)
    }
}
