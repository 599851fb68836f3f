//! The program `cloudcore`: reads its flags and its file, starts the modules from the bottom up, waits, stops them.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use cloudcore::addresses;
use cloudcore::cloudhub::{CloudHub, Parts, Settings};
use cloudcore::cluster::HubCluster;
use cloudcore::informers::Informers;
use cloudcore::kubernetes::Kube;
use cloudcore::monitor::{self, Monitor};
use cloudcore::objectsync::ObjectSyncs;
use common::Tasks;
use config::{CloudCore, Files, HostFacts, Loaded, LookOnly, RealFiles, cli, version};
use prometheus_client::registry::Registry;
use tracing::{info, warn};

mod controllers;
mod flags;
mod redirects;
mod secrets;
mod streams;
mod threads;
mod webhooks;

use flags::Flags;
use threads::serve;

fn main() -> ExitCode {
    let arguments = cli::without_legacy_flags(std::env::args_os());
    let flags = Flags::read(&arguments.kept);
    let host = HostFacts::detect_by_route();
    if let Some(text) = flags.printed(&host) {
        print!("{text}");
        return ExitCode::SUCCESS;
    }
    if flags.iptables_manager {
        common::logging::init(flags.verbosity);
        return serve(redirects::manager(&flags));
    }
    if let Some(node) = &flags.diagnose {
        return serve(streams::diagnose(&flags, node));
    }
    let files: &dyn Files = if flags.check_config { &LookOnly } else { &RealFiles };
    let loaded = match CloudCore::load(&flags.config, &host, files) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{}", common::chain(&error));
            return ExitCode::FAILURE;
        }
    };
    if flags.check_config {
        print!(
            "{}",
            cli::check_report(&flags.config.to_string_lossy(), &loaded.warnings)
        );
        return ExitCode::SUCCESS;
    }
    common::logging::init(flags.verbosity);
    info!("Version: {}", version::KUBEEDGE_VERSION);
    arguments.warnings.iter().for_each(|warning| warn!("{warning}"));
    loaded.warnings.iter().for_each(|warning| warn!("{warning}"));
    serve(run(&loaded, &host))
}

/// Returns whether the process ends well.
async fn run(loaded: &Loaded<CloudCore>, host: &HostFacts) -> anyhow::Result<bool> {
    let modules = &loaded.config.modules;
    anyhow::ensure!(
        modules.cloud_hub.enable,
        "nothing to do: modules.cloudHub.enable is false"
    );
    let off = loaded.config.stays_off();
    if !off.is_empty() {
        info!("stays off: {}", off.join(", "));
    }
    let settings = Settings::try_from(&modules.cloud_hub).context("modules.cloudHub cannot be used")?;
    let kube = Kube::connect(&loaded.into())
        .await
        .context("no way to the API server")?;
    let identity = secrets::identity(&settings, &kube)
        .await
        .context("cannot get the CA, the server certificate and the join token")?;
    let tasks = Tasks::new();
    let first = host
        .local_ip
        .parse()
        .with_context(|| format!("this host's address {:?} is no IP address", host.local_ip))?;
    let own = addresses::follow(first, HostFacts::addresses_by_route, &tasks);
    let written = loaded.is_set("modules.cloudHub.advertiseAddress");
    let advertised = addresses::advertised(&settings.advertise_addresses, written, first, &own, &tasks);
    identity.start(advertised.clone(), &tasks);
    let syncs = ObjectSyncs::start(kube.clone(), &tasks);
    let (informers, changes) = Informers::start(kube.clone(), &tasks);
    let (outlets, inboxes) = controllers::Inboxes::open(changes);
    let cluster = Arc::new(HubCluster {
        kube: kube.clone(),
        informers: informers.clone(),
    });
    let parts = Parts {
        settings,
        identity: identity.clone(),
        access: Arc::new(kube.clone()),
        cluster,
        records: Arc::new(syncs.clone()),
        upstream: outlets.requests,
        twins: modules.device_controller.enable.then_some(outlets.reports),
        tasks: tasks.clone(),
    };
    let mut registry = Registry::default();
    tasks.register(registry.sub_registry_with_prefix("cloudcore"));
    let hub = CloudHub::start(parts, &mut registry)
        .await
        .context("CloudHub does not start")?;
    info!("Module cloudhub registered successfully");
    if modules.cloud_stream.enable {
        let below = streams::Below {
            config: &loaded.config,
            own: &own,
            advertised: &advertised,
            kube: &kube,
            hub: &hub,
            identity: &identity,
            informers: &informers,
            tasks: &tasks,
        };
        streams::start(below, &mut registry).await?;
    }
    webhooks::start(&loaded.config, advertised, &identity, &kube, &mut registry, &tasks)?;
    let revocations = hub.revocations();
    let below = controllers::Below {
        kube,
        hub,
        informers: informers.clone(),
        syncs,
        tasks: tasks.clone(),
    };
    controllers::start(below, inboxes, &loaded.config, own, &mut registry);
    let ready = Box::new(move || informers.is_synced() && *revocations.borrow());
    let address = &loaded.config.common_config.monitor_server.bind_address;
    monitor::start(address, Monitor { registry, ready }, &tasks).await;
    info!("cloudcore is up");
    Ok(tasks.run_until_signal(GRACE).await)
}

/// How long the end may take.
const GRACE: Duration = Duration::from_secs(10);
