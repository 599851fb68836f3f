//! What edged asks of MetaManager, so that tests can answer instead of it.

use std::fmt;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::TokenRequest;
use proto::{Namespace, Object, ObjectName, ObjectPath, Uid};
use tokio::sync::{broadcast, watch};

pub use crate::metamanager::Delivery;
use crate::metamanager::{MetaManager, PodSet, RequestError, TokenKey};
use crate::uplink::Link;

/// The answer to a question.
pub type Reply<'a, T> = BoxFuture<'a, Result<T, RequestError>>;

/// Which token a pod needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenQuestion {
    /// Of the pod and its service account.
    pub namespace: Namespace,
    /// The service account.
    pub service_account: ObjectName,
    /// As asked for, not as answered: may be empty.
    pub audiences: Vec<String>,
    /// Life time in seconds, as asked for.
    pub expiration_seconds: i64,
    /// The pod the token is bound to.
    pub pod: ObjectName,
    /// Its uid.
    pub uid: Uid,
}

/// Desired state and the cloud, as seen by edged.
pub trait Api: Send + Sync + fmt::Debug {
    /// The pods of this node; newest wins.
    fn pods(&self) -> watch::Receiver<Arc<PodSet>>;
    /// Whether there is a link; its number grows with each connect.
    fn link(&self) -> watch::Receiver<Link>;
    /// Paths of ConfigMaps, Secrets, … that were stored or removed.
    fn changes(&self) -> broadcast::Receiver<ObjectPath>;
    /// An object: the local row, else the cloud's.
    fn object<'a>(&'a self, path: &'a ObjectPath) -> Reply<'a, Object>;
    /// A token, fresh where the cloud can be reached, else the last one.
    fn token<'a>(&'a self, question: &'a TokenQuestion) -> Reply<'a, TokenRequest>;
    /// The Node object as last stored.
    fn node(&self) -> Reply<'_, Option<Object>>;
    /// The Node object as the cloud has it now; clouds before v1.23 do not tell of changes.
    fn fresh_node(&self) -> Reply<'_, Object>;
    /// Sends a strategic merge patch of a pod's status; kept as a row while offline.
    fn patch_pod_status<'a>(&'a self, namespace: &'a str, name: &'a str, patch: &'a str) -> Reply<'a, Object>;
    /// The last status patch that was kept, if any.
    fn pod_patch<'a>(&'a self, namespace: &'a str, name: &'a str) -> Reply<'a, Option<String>>;
    /// Creates the mirror of a static pod.
    fn create_pod<'a>(&'a self, pod: &'a Object) -> Reply<'a, Object>;
    /// Sends an event, whole, under its name.
    fn send_event<'a>(&'a self, event: &'a Object) -> Reply<'a, Delivery>;
    /// Removes a pod from the API, guarded by its uid.
    fn delete_pod<'a>(&'a self, namespace: &'a str, name: &'a str, uid: &'a Uid, grace: i64) -> Reply<'a, ()>;
}

impl Api for MetaManager {
    fn pods(&self) -> watch::Receiver<Arc<PodSet>> {
        Self::pods(self)
    }

    fn link(&self) -> watch::Receiver<Link> {
        Self::link(self)
    }

    fn changes(&self) -> broadcast::Receiver<ObjectPath> {
        Self::changes(self)
    }

    fn object<'a>(&'a self, path: &'a ObjectPath) -> Reply<'a, Object> {
        Self::object(self, path).boxed()
    }

    fn token<'a>(&'a self, question: &'a TokenQuestion) -> Reply<'a, TokenRequest> {
        let key = TokenKey {
            namespace: question.namespace.clone(),
            service_account: question.service_account.clone(),
            audiences: question.audiences.clone(),
            expiration_seconds: question.expiration_seconds,
            pod_name: question.pod.clone(),
            pod_uid: question.uid.clone(),
        };
        async move { Self::token(self, &key).await }.boxed()
    }

    fn node(&self) -> Reply<'_, Option<Object>> {
        Self::node(self).boxed()
    }

    fn fresh_node(&self) -> Reply<'_, Object> {
        Self::fetch_node(self).boxed()
    }

    fn patch_pod_status<'a>(&'a self, namespace: &'a str, name: &'a str, patch: &'a str) -> Reply<'a, Object> {
        async move { Self::patch_pod_status(self, &namespace.into(), &name.into(), patch).await }.boxed()
    }

    fn pod_patch<'a>(&'a self, namespace: &'a str, name: &'a str) -> Reply<'a, Option<String>> {
        async move { Self::pod_patch(self, &namespace.into(), &name.into()).await }.boxed()
    }

    fn create_pod<'a>(&'a self, pod: &'a Object) -> Reply<'a, Object> {
        Self::create_pod(self, pod).boxed()
    }

    fn send_event<'a>(&'a self, event: &'a Object) -> Reply<'a, Delivery> {
        Self::send_event(self, event).boxed()
    }

    fn delete_pod<'a>(&'a self, namespace: &'a str, name: &'a str, uid: &'a Uid, grace: i64) -> Reply<'a, ()> {
        async move { Self::delete_pod(self, &namespace.into(), &name.into(), uid, grace).await }.boxed()
    }
}
