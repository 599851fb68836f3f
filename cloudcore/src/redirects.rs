//! The virtual port and the redirect rules, put together from the configuration; and the manager of rules as a program of its own.

use std::net::IpAddr;

use anyhow::Context as _;
use cloudcore::addresses::Addresses;
use cloudcore::cloudstream::iptablesmanager::{self, Parts, Redirects};
use cloudcore::cloudstream::tunnelport::{self, TunnelPort};
use cloudcore::kubernetes::{Access, Kube};
use common::Tasks;
use config::cloudcore::{IptablesManager, IptablesMode};
use config::{CloudCore, version};
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::GRACE;
use crate::flags::Flags;

/// What [`start`] started.
pub(crate) struct Started {
    pub(crate) tunnelport: TunnelPort,
    /// The state of this host's rules, if cloudcore keeps them.
    pub(crate) redirects: Option<watch::Receiver<Redirects>>,
}

/// Starts what the configuration asks for.
pub(crate) fn start(
    config: &CloudCore,
    host: &watch::Receiver<Addresses>,
    kube: &Kube,
    registry: &mut Registry,
    tasks: &Tasks,
) -> anyhow::Result<Started> {
    let manager = &config.modules.iptables_manager;
    let own = own(manager, host);
    let first = own.borrow().first;
    if first.is_loopback() {
        warn!(
            address = %first,
            "this host has no default route that tells its address, it is asked for again: set \
             modules.iptablesManager.address to one that the hosts of API servers reach it at"
        );
    }
    let tunnelport = tunnelport::start(kube, own.clone(), tasks);
    let mut redirects = None;
    if manager.enable && manager.mode == IptablesMode::Internal {
        let parts = Parts {
            records: tunnelport.records.clone(),
            stream_port: u16::try_from(config.modules.cloud_stream.stream_port)
                .context("modules.cloudStream.streamPort")?,
            own: Some(own),
            edges: manager
                .edge_addresses_only
                .then(|| iptablesmanager::follow_edges(kube.clone(), tasks)),
        };
        redirects = Some(iptablesmanager::start(parts, registry, tasks));
        info!("Module iptablesmanager registered successfully");
    }
    Ok(Started { tunnelport, redirects })
}

/// What the file says, else what the default routes tell.
fn own(manager: &IptablesManager, host: &watch::Receiver<Addresses>) -> watch::Receiver<Addresses> {
    let mut given = manager.addresses().unwrap_or_default();
    // Go's managers stumble over an address of IPv6 in the record.
    given.sort_by_key(IpAddr::is_ipv6);
    match given.split_first() {
        Some((first, others)) => Addresses {
            first: *first,
            second: others.first().copied(),
        }
        .fixed(),
        None => host.clone(),
    }
}

/// `cloudcore --iptables-manager`. Returns whether the process ends well.
pub(crate) async fn manager(flags: &Flags) -> anyhow::Result<bool> {
    info!("iptables manager, Version: {}", version::KUBEEDGE_VERSION);
    let access = Access {
        kubeconfig: flags.kubeconfig.clone(),
        ..Access::default()
    };
    let kube = Kube::connect(&access).await.context("no way to the API server")?;
    let tasks = Tasks::new();
    let parts = Parts {
        records: tunnelport::read_only(&kube, &tasks),
        stream_port: flags.forwardport,
        own: None,
        edges: None,
    };
    iptablesmanager::start(parts, &mut Registry::default(), &tasks);
    Ok(tasks.run_until_signal(GRACE).await)
}
