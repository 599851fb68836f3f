//! Keeps the objects to the point: looks at them now and then and patches what differs.
//!
//! Replicas share the CA. In the cluster they all want the same; outside each has its own URL, and the one that is there stays as long
//! as it answers: the one of before, too, when this host has another address. A loopback URL cannot be asked: it gives way once.

use std::sync::Arc;
use std::time::Duration;

use proto::{Namespace, Object};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tracing::{debug, info, warn};

use super::registration::{PLACES, Place, Registration, Target, host_of};
use crate::kubernetes::{
    ApiError, CUSTOM_RESOURCE_DEFINITIONS, Kube, PatchKind, Resource, VALIDATING_WEBHOOK_CONFIGURATIONS,
};

/// See the module.
pub(super) struct Keeper {
    kube: Kube,
    registration: Registration,
    tls: Arc<ClientConfig>,
    /// What was last said of each place.
    told: [Option<String>; PLACES.len()],
    /// Looks in a row at which another cloudcore did not answer.
    silent: u32,
}

impl Keeper {
    pub(super) fn new(kube: Kube, registration: Registration, tls: ClientConfig) -> Self {
        Self {
            kube,
            registration,
            tls: Arc::new(tls),
            told: Default::default(),
            silent: 0,
        }
    }

    /// `target`: how API servers reach this cloudcore now.
    pub(super) async fn run(mut self, target: impl Fn() -> Target + Send) {
        loop {
            self.registration.point_to(target());
            let silent = self.silent;
            self.look().await;
            if self.silent > silent {
                sleep(SOON).await;
            } else {
                self.silent = 0;
                sleep(LOOK).await;
            }
        }
    }

    /// One look at all places.
    pub(super) async fn look(&mut self) {
        let mut told = std::mem::take(&mut self.told);
        for (place, told) in PLACES.into_iter().zip(&mut told) {
            let said = self.keep(place).await.err().map(|error| common::chain(&error));
            if let Some(said) = &said
                && told.as_ref() != Some(said)
            {
                warn!(
                    object = place.name(),
                    error = said,
                    "the API server was not told where devices are converted and checked: v1beta1 works, this is tried again"
                );
            }
            *told = said;
        }
        self.told = told;
    }

    async fn keep(&mut self, place: Place) -> Result<(), ApiError> {
        let (resource, cluster) = (resource(place), Namespace::cluster());
        let object = match self.kube.get(&resource, &cluster, place.name()).await {
            Ok(object) => object,
            Err(error) if error.is_not_found() && place == Place::Configuration => {
                return self.create(&resource).await;
            }
            Err(error) => return Err(error),
        };
        let object: Value = object.view().unwrap_or_default();
        let Some(patch) = self.registration.patch(place, &object) else {
            self.registration.told(place);
            return Ok(());
        };
        if let Some(other) = self.registration.other(place, &object)
            && (self.registration.is_out_of_reach(&other) || self.answers(&other).await)
        {
            debug!(object = place.name(), other, "another cloudcore answers the API server");
            return Ok(());
        }
        let patch = patch.to_string();
        let patched = self
            .kube
            .patch(&resource, &cluster, place.name(), "", PatchKind::Merge, &patch);
        match patched.await {
            Ok(_) => {
                self.registration.told(place);
                info!(
                    object = place.name(),
                    "the API server was told where devices are converted and checked"
                );
            }
            // Somebody else was faster; the next look tells whether it is well.
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn create(&self, resource: &Resource) -> Result<(), ApiError> {
        let text = self.registration.configuration().to_string();
        let object = Object::parse(&text).expect("our own object is one");
        match self.kube.create(resource, &Namespace::cluster(), &object).await {
            Err(error) if !error.is_already_exists() => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether the cloudcore at this URL answers, or did a short time ago.
    async fn answers(&mut self, url: &str) -> bool {
        let answer = timeout(ANSWER, handshake(self.tls.clone(), url)).await;
        if matches!(answer, Ok(Some(()))) {
            self.silent = 0;
        } else {
            self.silent += 1;
        }
        self.silent < GONE
    }
}

/// Whoever has a certificate of our CA for this name, and not a node's, is one of us.
async fn handshake(tls: Arc<ClientConfig>, url: &str) -> Option<()> {
    let (host, port) = host_of(url)?;
    let stream = TcpStream::connect((host.as_str(), port)).await.ok()?;
    let name = ServerName::try_from(host).ok()?;
    TlsConnector::from(tls).connect(name, stream).await.ok().map(drop)
}

const fn resource(place: Place) -> Resource {
    match place {
        Place::Crd(_) => CUSTOM_RESOURCE_DEFINITIONS,
        Place::Configuration => VALIDATING_WEBHOOK_CONFIGURATIONS,
    }
}

/// Between two looks; each asks for three objects.
const LOOK: Duration = Duration::from_secs(10);
/// The same while another cloudcore is silent: until this one takes its place nobody converts.
const SOON: Duration = Duration::from_secs(2);
/// How long another cloudcore may take.
const ANSWER: Duration = Duration::from_secs(3);
/// Times that another cloudcore may be silent: one look has three objects.
const GONE: u32 = 4;
