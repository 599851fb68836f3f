//! The Kubernetes API as cloudcore uses it: raw objects in, raw objects out.
//!
//! Owns the connection to the API server and its request rate. Objects stay JSON text ([`proto::Object`]), so that no field is lost
//! that this release does not know; refusals of the API server come back as the [`proto::Status`] it sent. Must not: cache, retry
//! writes, know messages. Spec 06 §1.2 (which API server), spec 02 §3.2 (errors reach edges unchanged).

mod api;
mod connect;
mod error;
mod rate;
mod resource;
mod reviews;
mod watch;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

pub use api::{Kube, PatchKind};
pub(crate) use connect::pem;
pub use connect::{Access, ConnectError};
pub use error::ApiError;
pub use resource::{
    CERTIFICATE_SIGNING_REQUESTS, CLUSTER_OBJECT_SYNCS, CONFIG_MAPS, CUSTOM_RESOURCE_DEFINITIONS, DEVICE_MODELS,
    DEVICE_STATUSES, DEVICES, EVENTS, LEASES, NAMESPACES, NODES, OBJECT_SYNCS, PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES, PODS, Resource, SECRETS, SERVICE_ACCOUNTS, SUBJECT_ACCESS_REVIEWS, TOKEN_REVIEWS,
    VALIDATING_WEBHOOK_CONFIGURATIONS, VOLUME_ATTACHMENTS,
};
pub use reviews::{Attributes, Subject};
pub use watch::{Detail, Seen, Selection, follow};
