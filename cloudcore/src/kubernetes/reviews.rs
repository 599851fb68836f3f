//! Who somebody is and what they may do: TokenReview and SubjectAccessReview.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use proto::{Namespace, Object};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::api::Kube;
use super::error::ApiError;
use super::resource::{Resource, SUBJECT_ACCESS_REVIEWS, TOKEN_REVIEWS};

/// A user of the cluster.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Subject {
    /// `system:serviceaccount:monitoring:prometheus`, `system:node:edge-1`, …
    pub user: String,
    /// `system:masters`, `system:authenticated`, …
    pub groups: Vec<String>,
    /// As the authenticator knows it; may be empty.
    pub uid: String,
    /// What the authenticator adds for the authorizer.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What somebody wants to do. Empty where it does not apply.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Attributes<'a> {
    /// `get`, `create`, …
    pub verb: &'a str,
    /// API group.
    pub group: &'a str,
    /// `secrets`, `nodes`, …
    pub resource: &'a str,
    /// `status`, `proxy`, …
    pub subresource: &'a str,
    /// Of the object.
    pub namespace: &'a str,
    /// Of the object.
    pub name: &'a str,
}

impl Kube {
    /// Whose token this is; `None` when it is nobody's.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn token_review(&self, token: &str) -> Result<Option<Subject>, ApiError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                ..TokenReviewSpec::default()
            },
            ..TokenReview::default()
        };
        let status = self.review(&TOKEN_REVIEWS, review).await?.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            return Ok(None);
        }
        Ok(status.user.map(|user| Subject {
            user: user.username.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        }))
    }

    /// Whether somebody may do something.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn access_review(&self, subject: &Subject, attributes: Attributes<'_>) -> Result<bool, ApiError> {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(subject.user.clone()),
                groups: Some(subject.groups.clone()),
                uid: text(&subject.uid),
                extra: (!subject.extra.is_empty()).then(|| subject.extra.clone()),
                resource_attributes: Some(ResourceAttributes {
                    group: text(attributes.group),
                    name: text(attributes.name),
                    namespace: text(attributes.namespace),
                    resource: text(attributes.resource),
                    subresource: text(attributes.subresource),
                    verb: text(attributes.verb),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = self.review(&SUBJECT_ACCESS_REVIEWS, review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    async fn review<T: Serialize + DeserializeOwned>(&self, resource: &Resource, review: T) -> Result<T, ApiError> {
        let malformed = |source| ApiError::Malformed {
            path: resource.plural.to_string(),
            source,
        };
        let question = Object::from_value(&review).map_err(malformed)?;
        let answer = self.create(resource, &Namespace::cluster(), &question).await?;
        answer.view().map_err(malformed)
    }
}

impl fmt::Display for Attributes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.subresource.is_empty() {
            write!(f, "/{}", self.subresource)?;
        }
        if !self.namespace.is_empty() {
            write!(f, " {}", self.namespace)?;
        }
        write!(f, " {}", self.name)
    }
}
