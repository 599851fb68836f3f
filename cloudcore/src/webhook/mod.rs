//! What the API server asks about devices: to convert them between v1alpha2 and v1beta1, and whether one may be stored.
//!
//! Owns the HTTPS port `modules.webhook` (`server`), its certificate of CloudHub's CA, renewed while serving, and the places where
//! the API server looks for it (`keeper`, `registration`): `spec.conversion` of the two CRDs and the ValidatingWebhookConfiguration
//! `kubeedge-cloudcore`. Reads the advertised address, of which the default URL is made, as it changes. The answers are
//! [`proto::reviews`]. Every replica can answer for all; in the cluster the Service finds one, outside the URL is that of one which
//! answers. Must not: hold up cloudcore. With the port taken, or without the rights, v1beta1 works as before, and this is tried again.
//! Spec 03 §1.

mod keeper;
mod registration;
mod server;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use common::tls::client::{ClientTlsError, cloud_config};
use common::tls::server::{ClientCertificates, ServerTlsError, server_config};
use common::{Backoff, Tasks};
use prometheus_client::registry::Registry;
use proto::join::ServerNames;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tracing::{error, info};

use crate::addresses::Addresses;
use crate::cloudhub::Identity;
use crate::cloudstream::certificates;
use crate::kubernetes::{Kube, pem};
use keeper::Keeper;
pub use registration::Target;
use registration::{Registration, SERVICE, host_of};
use server::Server;

/// `modules.webhook`, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen.
    pub address: SocketAddr,
    /// How API servers reach it, if not by the advertised address of now.
    pub fixed: Option<Target>,
}

/// What it needs.
pub struct Parts {
    /// The section.
    pub settings: Settings,
    /// CloudHub's CA.
    pub identity: Identity,
    /// `advertiseAddress` and `dnsNames` of CloudHub.
    pub names: ServerNames,
    /// The first one is in the default URL.
    pub advertised: watch::Receiver<Addresses>,
    /// Where the objects are that point to it.
    pub kube: Kube,
}

/// Why it does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// No TLS for API servers.
    #[error("the webhook cannot serve TLS")]
    Server(#[from] ServerTlsError),
    /// No TLS towards other replicas.
    #[error("the webhook cannot look at other replicas")]
    Client(#[from] ClientTlsError),
}

impl Settings {
    /// From the section, which was checked when the file was read. `in_cluster`: cloudcore runs with the account of its pod.
    pub fn new(section: &config::cloudcore::Webhook, in_cluster: bool) -> Self {
        let port = u16::try_from(section.port).unwrap_or_default();
        let address: IpAddr = section.address.parse().unwrap_or_else(|_| [0, 0, 0, 0].into());
        let fixed = if section.url.is_empty() {
            in_cluster.then_some(Target::Service(port))
        } else {
            Some(Target::Url(section.url.clone()))
        };
        Self {
            address: SocketAddr::new(address, port),
            fixed,
        }
    }

    /// How API servers reach it with this address advertised.
    fn target(&self, advertised: IpAddr) -> Target {
        let by_address = || Target::Url(format!("https://{}", SocketAddr::new(advertised, self.address.port())));
        self.fixed.clone().unwrap_or_else(by_address)
    }
}

/// Serves from when the port is to be had, and then tells the API server.
pub fn start(parts: Parts, registry: &mut Registry, tasks: &Tasks) -> Result<(), StartError> {
    let Parts {
        settings,
        identity,
        mut names,
        advertised,
        kube,
    } = parts;
    if let Some(Target::Url(url)) = &settings.fixed
        && let Some((host, _)) = host_of(url)
    {
        match host.parse() {
            Ok(address) => names.addresses.push(address),
            Err(_) => names.dns.push(host),
        }
    }
    names.dns.push(SERVICE.to_owned());
    identity.reserve(&names);
    let certificate = certificates::own_certificate(names, advertised.clone(), &identity, tasks);
    let tls = TlsAcceptor::from(Arc::new(server_config(certificate, ClientCertificates::None)?));
    let server = Server::new(tls, registry, tasks.clone());
    let ca = identity.ca().clone();
    let (address, below) = (settings.address, tasks.clone());
    let target = move || settings.target(advertised.borrow().first);
    let keeper = Keeper::new(
        kube,
        Registration::new(target(), &pem(&[ca.to_vec()])),
        cloud_config(&[ca], None)?,
    );
    tasks.spawn("webhook", async move {
        let listener = listen(address).await;
        below.spawn("webhook registration", keeper.run(target));
        server.accept(listener).await;
    });
    Ok(())
}

/// Another program may have the port, which no file of before knows of: it is waited for.
async fn listen(address: SocketAddr) -> TcpListener {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    loop {
        match common::listen::tcp(address) {
            Ok(listener) => {
                info!(%address, "listening for the API server's questions about devices");
                return listener;
            }
            Err(error) => {
                let delay = backoff.next_delay();
                error!(%address, %error, ?delay, "cannot listen for the API server's questions about devices (modules.webhook.address, port), trying again: devices cannot be used in v1alpha2 until then");
                tokio::time::sleep(delay).await;
            }
        }
    }
}
