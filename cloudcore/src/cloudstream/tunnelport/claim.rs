//! Changes of the record in the API: read, change, write if nobody else wrote meanwhile, else again.

use std::net::IpAddr;

use common::chain;
use proto::BadObject;
use proto::tunnelport::{NAME, NAMESPACE, NoPortLeft, TunnelPortRecord};
use thiserror::Error;
use tracing::warn;

use super::Addresses;
use crate::kubernetes::{ApiError, CONFIG_MAPS, Kube, PatchKind};

/// Why the record could not be changed.
#[derive(Debug, Error)]
pub(super) enum ChangeError {
    #[error("the record of tunnel ports cannot be read or written")]
    Api(#[source] ApiError),
    #[error(transparent)]
    Full(#[from] NoPortLeft),
    #[error("the record of tunnel ports makes no ConfigMap")]
    Object(#[source] BadObject),
    #[error("others changed the record of tunnel ports {0} times in a row meanwhile")]
    Contended(u32),
}

impl From<ApiError> for ChangeError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

/// Gives a cloudcore its port, in place of that of the address that it has left.
pub(super) async fn claim(
    kube: &Kube,
    own: Addresses,
    left: Option<IpAddr>,
) -> Result<(TunnelPortRecord, u16), ChangeError> {
    let mut port = 0;
    let record = change(kube, |record| {
        let claim = own.claim(left, record)?;
        port = claim.port;
        Ok(claim.changed)
    })
    .await?;
    Ok((record, port))
}

/// Removes `address` and its port.
pub(super) async fn release(kube: &Kube, address: IpAddr) -> Result<(), ChangeError> {
    change(kube, |record| Ok(record.release(address))).await.map(drop)
}

/// Applies `edit`, which tells whether it changed anything, to what is there now.
async fn change(
    kube: &Kube,
    mut edit: impl FnMut(&mut TunnelPortRecord) -> Result<bool, ChangeError>,
) -> Result<TunnelPortRecord, ChangeError> {
    for _ in 0..TRIES {
        let written = match kube.get(&CONFIG_MAPS, &NAMESPACE.into(), NAME).await {
            Ok(config_map) => {
                let (mut record, mut changed) = match TunnelPortRecord::of(&config_map) {
                    Ok(record) => (record, false),
                    Err(error) => {
                        warn!(error = %chain(&error), "the ConfigMap {NAMESPACE}/{NAME} has no record of tunnel ports, a new one is written");
                        (TunnelPortRecord::default(), true)
                    }
                };
                changed |= edit(&mut record)?;
                if !changed {
                    return Ok(record);
                }
                let patch = record.patch(&config_map.meta().resource_version);
                kube.patch(&CONFIG_MAPS, &NAMESPACE.into(), NAME, "", PatchKind::Merge, &patch)
                    .await
                    .map(|_| record)
            }
            Err(error) if error.is_not_found() => {
                let mut record = TunnelPortRecord::default();
                if !edit(&mut record)? {
                    return Ok(record);
                }
                let config_map = record.config_map().map_err(ChangeError::Object)?;
                kube.create(&CONFIG_MAPS, &NAMESPACE.into(), &config_map)
                    .await
                    .map(|_| record)
            }
            Err(error) => Err(error),
        };
        match written {
            Err(error) if error.is_conflict() || error.is_already_exists() => {}
            written => return Ok(written?),
        }
    }
    Err(ChangeError::Contended(TRIES))
}

/// Each try begins with a fresh read, so that of several replicas one gets through each time.
const TRIES: u32 = 50;
