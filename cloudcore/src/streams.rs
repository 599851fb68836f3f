//! CloudStream and the ways to it, put together from the configuration.

use std::sync::Arc;

use anyhow::Context as _;
use cloudcore::addresses::Addresses;
use cloudcore::cloudhub::{CloudHub, Identity, Settings};
use cloudcore::cloudstream::certificates::{CertificateFiles, CertificateParts, StreamCertificates, TunnelCertificate};
use cloudcore::cloudstream::{CloudStream, Parts, egress, wayin};
use cloudcore::informers::Informers;
use cloudcore::kubernetes::{Access, Kube};
use common::Tasks;
use config::CloudCore;
use prometheus_client::registry::Registry;
use proto::NodeName;
use proto::join::ServerNames;
use tokio::sync::watch;
use tracing::info;

use crate::flags::Flags;
use crate::redirects;

/// The modules that were started before the streams.
pub(crate) struct Below<'a> {
    pub(crate) config: &'a CloudCore,
    pub(crate) own: &'a watch::Receiver<Addresses>,
    pub(crate) advertised: &'a watch::Receiver<Addresses>,
    pub(crate) kube: &'a Kube,
    pub(crate) hub: &'a CloudHub,
    pub(crate) identity: &'a Identity,
    pub(crate) informers: &'a Informers,
    pub(crate) tasks: &'a Tasks,
}

/// Starts what the configuration asks for.
pub(crate) async fn start(below: Below<'_>, registry: &mut Registry) -> anyhow::Result<()> {
    let Below {
        config,
        own,
        advertised,
        kube,
        hub,
        identity,
        informers,
        tasks,
    } = below;
    let started = redirects::start(config, own, kube, registry, tasks)?;
    let (hub_section, section) = (&config.modules.cloud_hub, &config.modules.cloud_stream);
    let settings = Settings::try_from(hub_section).context("modules.cloudHub cannot be used")?;
    let certificates = CertificateParts {
        files: files(&section.tls_stream_cert_file, &section.tls_stream_private_key_file),
        names: ServerNames {
            dns: settings.dns_names,
            addresses: settings.advertise_addresses,
        },
        advertised: advertised.clone(),
        signer: section.stream_cert_signer,
        identity: identity.clone(),
        informers: informers.clone(),
        kube: kube.clone(),
    };
    let tunnel_files = files(&section.tls_tunnel_cert_file, &section.tls_tunnel_private_key_file);
    let parts = Parts {
        settings: section.into(),
        hub: hub.clone(),
        certificates: StreamCertificates::start(certificates, tasks),
        tunnel_certificate: TunnelCertificate::start(tunnel_files, identity, tasks),
        identity: identity.clone(),
        kube: kube.clone(),
        informers: informers.clone(),
        port: started.tunnelport.port,
        own: own.clone(),
        tasks: tasks.clone(),
    };
    let streams = CloudStream::start(parts, registry).context("CloudStream does not start")?;
    wayin::start(kube.clone(), streams.clone(), started.redirects, registry, tasks);
    if section.egress.enable {
        let parts = egress::Parts {
            settings: egress::Settings::new(&section.egress),
            advertised: advertised.clone(),
            identity: identity.clone(),
            secrets: Arc::new(kube.client().clone()),
            kubelets: Arc::new(streams),
        };
        egress::start(parts, tasks).context("the egress endpoint does not start")?;
    }
    info!("Module cloudstream registered successfully");
    Ok(())
}

/// `cloudcore --diagnose NODE`. Returns whether all is well.
pub(crate) async fn diagnose(flags: &Flags, node: &str) -> anyhow::Result<bool> {
    let access = Access {
        kubeconfig: flags.kubeconfig.clone(),
        // Not repeated: a refusal such as 503 is the very answer that the diagnosis looks for.
        ask_once: true,
        ..Access::default()
    };
    let kube = Kube::connect(&access).await.context("no way to the API server")?;
    let report = cloudcore::cloudstream::diagnosis::diagnose(&kube, &NodeName::from(node), flags.forwardport).await;
    print!("{report}");
    Ok(report.broken().is_none())
}

fn files(certificate: &str, key: &str) -> CertificateFiles {
    CertificateFiles {
        certificate: certificate.into(),
        key: key.into(),
    }
}
