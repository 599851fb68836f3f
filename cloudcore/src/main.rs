//! The program `cloudcore`: reads its flags and its file, starts the modules from the bottom up, waits, stops them.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use cloudcore::cloudhub::{CloudHub, Parts, Settings};
use cloudcore::cluster::HubCluster;
use cloudcore::devicecontroller::DeviceController;
use cloudcore::edgecontroller::EdgeController;
use cloudcore::informers::Informers;
use cloudcore::kubernetes::Kube;
use cloudcore::monitor::{self, Monitor};
use cloudcore::objectsync::ObjectSyncs;
use cloudcore::revocation;
use cloudcore::synccontroller::SyncController;
use common::Tasks;
use config::{CloudCore, HostFacts, Loaded, RealFiles, cli, version};
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

mod flags;
mod redirects;
mod secrets;
mod streams;
mod webhooks;

use flags::Flags;

fn main() -> ExitCode {
    let arguments = cli::without_legacy_flags(std::env::args_os());
    let flags = Flags::read(&arguments.kept);
    let host = HostFacts::detect();
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
    let loaded = match CloudCore::load(&flags.config, &host, &RealFiles) {
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

/// Runs the program to its end on a few threads.
fn serve(program: impl Future<Output = anyhow::Result<bool>>) -> ExitCode {
    let workers = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .min(MAX_WORKERS);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build();
    let outcome = runtime
        .context("cannot start the worker threads")
        .and_then(|runtime| runtime.block_on(program));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
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
        .context("cannot have the certificates of the join")?;
    let tasks = Tasks::new();
    identity.start(&tasks);
    let syncs = ObjectSyncs::start(kube.clone(), &tasks);
    let (informers, changes) = Informers::start(kube.clone(), &tasks);
    let (upstream, requests) = mpsc::channel(UPSTREAM);
    let (twins, reports) = mpsc::channel(UPSTREAM);
    let cluster = Arc::new(HubCluster {
        kube: kube.clone(),
        informers: informers.clone(),
    });
    let access = Arc::new(kube.clone());
    let records = Arc::new(syncs.clone());
    let parts = Parts {
        settings,
        identity: identity.clone(),
        access,
        cluster,
        records,
        upstream,
        twins: modules.device_controller.enable.then_some(twins),
        tasks: tasks.clone(),
    };
    let mut registry = Registry::default();
    let hub = CloudHub::start(parts, &mut registry)
        .await
        .context("CloudHub does not start")?;
    info!("Module cloudhub registered successfully");
    if modules.cloud_stream.enable {
        let below = streams::Below {
            config: &loaded.config,
            host,
            kube: &kube,
            hub: &hub,
            identity: &identity,
            informers: &informers,
            tasks: &tasks,
        };
        streams::start(below, &mut registry).await?;
    }
    webhooks::start(&loaded.config, host, &identity, &kube, &mut registry, &tasks)?;
    let reconciler = SyncController::new(kube.clone(), informers.clone(), syncs.clone(), hub.clone());
    let revocations = hub.revocations();
    revocation::start(kube.clone(), hub.clone(), &tasks);
    if modules.device_controller.enable {
        let controller = DeviceController {
            kube: kube.clone(),
            informers: informers.clone(),
            hub: hub.clone(),
            settings: (&modules.device_controller).into(),
        };
        controller.start(reports, &mut registry, &tasks);
        info!("Module devicecontroller registered successfully");
    }
    if modules.edge_controller.enable {
        let controller = EdgeController {
            kube,
            informers: informers.clone(),
            hub,
            syncs,
            reconciler: reconciler.clone(),
            address: host.local_ip.clone(),
            authorization: modules.cloud_hub.authorization.enable && !modules.cloud_hub.authorization.debug,
        };
        controller.start(changes, requests, &mut registry, &tasks);
        info!("Module edgecontroller registered successfully");
    }
    if modules.sync_controller.enable {
        reconciler.start(&tasks);
        info!("Module synccontroller registered successfully");
    }
    let ready = Box::new(move || informers.is_synced() && *revocations.borrow());
    monitor::start(
        &loaded.config.common_config.monitor_server.bind_address,
        Monitor { registry, ready },
        &tasks,
    )
    .await;
    info!("cloudcore is up");
    Ok(tasks.run_until_signal(GRACE).await)
}

const MAX_WORKERS: usize = 8;
/// Requests of all nodes between the hub and a controller; when full, sessions read no more.
const UPSTREAM: usize = 1024;
/// How long the end may take.
const GRACE: Duration = Duration::from_secs(10);
