//! The first questions to the API server: the secrets of the join, before anything listens.

use std::sync::Arc;
use std::time::Duration;

use cloudcore::cloudhub::{Identity, Settings};
use cloudcore::kubernetes::Kube;
use common::Backoff;
use tracing::warn;

/// The API server may start later than cloudcore: it is waited for, a minute or so.
pub(crate) async fn identity(settings: &Settings, kube: &Kube) -> anyhow::Result<Identity> {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));
    loop {
        match Identity::load(settings, Arc::new(kube.client().clone())).await {
            Ok(identity) => return Ok(identity),
            Err(error) if backoff.failures() < START_TRIES => {
                let delay = backoff.next_delay();
                warn!(?delay, error = %common::chain(&error), "cannot read or make the secrets of the join, trying again");
                tokio::time::sleep(delay).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

const START_TRIES: u32 = 8;
