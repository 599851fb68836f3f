//! Secrets of namespace `kubeedge`.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use thiserror::Error;

/// Where KubeEdge keeps its secrets.
const NAMESPACE: &str = "kubeedge";

pub(super) type Data = BTreeMap<String, Vec<u8>>;

/// A secret as it was read.
#[derive(Clone, PartialEq, Eq)]
pub struct Stored {
    pub(super) version: String,
    pub(super) data: Data,
}

impl Stored {
    /// What it holds.
    pub const fn data(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.data
    }
}

/// Why a secret was not read or written.
#[derive(Debug, Error)]
pub enum SecretError {
    /// Somebody else wrote it meanwhile.
    #[error("the secret was changed by another process")]
    Changed,
    /// The API says no.
    #[error("the API server refused")]
    Api(#[source] Box<kube::Error>),
}

/// The API server's secrets.
pub trait SecretStore: Send + Sync {
    /// Makes the namespace if it is absent.
    fn ensure_namespace(&self) -> BoxFuture<'_, Result<(), SecretError>>;

    /// A secret, if there is one of that name.
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Stored>, SecretError>>;

    /// Writes a secret in place of the one that was read, or creates it; [`SecretError::Changed`] when it is another by now.
    fn write<'a>(
        &'a self,
        name: &'a str,
        stored: Option<&'a Stored>,
        data: &'a BTreeMap<String, Vec<u8>>,
    ) -> BoxFuture<'a, Result<(), SecretError>>;
}

impl SecretStore for Client {
    fn ensure_namespace(&self) -> BoxFuture<'_, Result<(), SecretError>> {
        Box::pin(async move {
            let namespaces: Api<Namespace> = Api::all(self.clone());
            if namespaces.get_opt(NAMESPACE).await.map_err(api_error)?.is_some() {
                return Ok(());
            }
            let metadata = ObjectMeta {
                name: Some(NAMESPACE.to_owned()),
                ..ObjectMeta::default()
            };
            let namespace = Namespace {
                metadata,
                ..Namespace::default()
            };
            match namespaces
                .create(&PostParams::default(), &namespace)
                .await
                .map_err(api_error)
            {
                Ok(_) | Err(SecretError::Changed) => Ok(()),
                Err(error) => Err(error),
            }
        })
    }

    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Stored>, SecretError>> {
        Box::pin(async move {
            let secrets: Api<Secret> = Api::namespaced(self.clone(), NAMESPACE);
            let Some(secret) = secrets.get_opt(name).await.map_err(api_error)? else {
                return Ok(None);
            };
            let data = secret
                .data
                .unwrap_or_default()
                .into_iter()
                .map(|(key, value)| (key, value.0))
                .collect();
            Ok(Some(Stored {
                version: secret.metadata.resource_version.unwrap_or_default(),
                data,
            }))
        })
    }

    fn write<'a>(
        &'a self,
        name: &'a str,
        stored: Option<&'a Stored>,
        data: &'a BTreeMap<String, Vec<u8>>,
    ) -> BoxFuture<'a, Result<(), SecretError>> {
        Box::pin(async move {
            let secrets: Api<Secret> = Api::namespaced(self.clone(), NAMESPACE);
            let metadata = ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(NAMESPACE.to_owned()),
                resource_version: stored.map(|stored| stored.version.clone()),
                ..ObjectMeta::default()
            };
            let data = data
                .iter()
                .map(|(key, value)| (key.clone(), ByteString(value.clone())))
                .collect();
            let secret = Secret {
                metadata,
                data: Some(data),
                type_: Some("Opaque".to_owned()),
                ..Secret::default()
            };
            let written = if stored.is_some() {
                secrets.replace(name, &PostParams::default(), &secret).await
            } else {
                secrets.create(&PostParams::default(), &secret).await
            };
            written.map(drop).map_err(api_error)
        })
    }
}

fn api_error(error: kube::Error) -> SecretError {
    match &error {
        // 409: AlreadyExists or Conflict. 404 on a write: deleted since it was read.
        kube::Error::Api(status) if status.code == 409 || status.code == 404 => SecretError::Changed,
        _ => SecretError::Api(Box::new(error)),
    }
}
