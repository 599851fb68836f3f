//! The question to Kubernetes.

use std::fmt;

use futures::future::BoxFuture;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use proto::{NodeName, Status};

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

/// Who knows what nodes may do: the API server.
pub trait AccessReview: Send + Sync {
    /// Whether the node may do this; an error is the API's.
    fn review<'a>(&'a self, node: &'a NodeName, request: &'a ReviewRequest) -> BoxFuture<'a, Result<bool, Status>>;
}

impl AccessReview for Client {
    fn review<'a>(&'a self, node: &'a NodeName, request: &'a ReviewRequest) -> BoxFuture<'a, Result<bool, Status>> {
        Box::pin(async move {
            let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            let attributes = ResourceAttributes {
                group: text(request.group),
                name: text(&request.name),
                namespace: text(&request.namespace),
                resource: text(request.resource),
                subresource: text(request.subresource),
                verb: text(request.verb),
                ..ResourceAttributes::default()
            };
            let spec = SubjectAccessReviewSpec {
                user: Some(format!("system:node:{node}")),
                groups: Some(vec!["system:nodes".to_owned(), "system:authenticated".to_owned()]),
                resource_attributes: Some(attributes),
                ..SubjectAccessReviewSpec::default()
            };
            let review = SubjectAccessReview {
                spec,
                ..SubjectAccessReview::default()
            };
            let reviews: Api<SubjectAccessReview> = Api::all(self.clone());
            let answer = reviews.create(&PostParams::default(), &review).await;
            let answer = answer.map_err(|error| Status::internal(common::chain(&error)))?;
            Ok(answer.status.is_some_and(|status| status.allowed))
        })
    }
}

impl fmt::Display for ReviewRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            verb,
            resource,
            subresource,
            namespace,
            name,
            ..
        } = self;
        write!(f, "{verb} {resource}")?;
        if !subresource.is_empty() {
            write!(f, "/{subresource}")?;
        }
        if !namespace.is_empty() {
            write!(f, " {namespace}")?;
        }
        write!(f, " {name}")
    }
}
