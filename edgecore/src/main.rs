//! edgecore: what runs on every board.

mod flags;
mod kubelet;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use common::Tasks;
use common::tunnel::TunnelMetrics;
use config::edgecore::BOOTSTRAP_FILE;
use config::{EdgeCore, HostFacts, LookOnly, RealFiles, cli, version};
use edgecore::devices::Devices;
use edgecore::devicetwin::DeviceTwin;
use edgecore::metamanager::MetaManager;
use edgecore::uplink::Uplink;
use edgecore::{address, edgehub, edgestream, environment, server, settings};
use prometheus_client::registry::Registry;
use tracing::{error, info, warn};

use flags::Flags;

/// How long tasks may take to end; containers keep running in any case.
const GRACE: Duration = Duration::from_secs(10);
/// Threads of the runtime: an edge has little to compute, each thread costs memory.
const WORKERS: usize = 2;

fn main() -> ExitCode {
    let arguments = cli::without_legacy_flags(std::env::args_os());
    let flags = Flags::parse_from(arguments.kept);
    common::logging::init(flags.v);
    arguments.warnings.iter().for_each(|warning| warn!("{warning}"));
    cli::environment_warnings(|name| std::env::var(name).ok())
        .iter()
        .for_each(|warning| warn!("{warning}"));
    match run(&flags) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> anyhow::Result<bool> {
    let host = HostFacts::detect();
    if flags.version {
        println!("{}", version::line());
    } else if flags.minconfig {
        print!("{}", cli::min_config(&EdgeCore::min_yaml(&host)));
    } else if flags.defaultconfig {
        print!("{}", cli::default_config(&EdgeCore::default_yaml(&host)));
    } else if flags.check_config {
        let loaded = EdgeCore::load(&flags.config, &host, &LookOnly)?;
        print!(
            "{}",
            cli::check_report(&flags.config.display().to_string(), &loaded.warnings)
        );
    } else {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .enable_all()
            .build()?;
        return runtime.block_on(serve(&flags.config, &host));
    }
    Ok(true)
}

async fn serve(file: &Path, host: &HostFacts) -> anyhow::Result<bool> {
    let loaded = EdgeCore::load(file, host, &RealFiles)?;
    loaded.warnings.iter().for_each(|warning| warn!("{warning}"));
    info!("Version: {}", version::KUBEEDGE_VERSION);
    environment::check(&loaded)?;
    let mut config = loaded.config;
    let from_bootstrap = config
        .take_bootstrap_token(Path::new(BOOTSTRAP_FILE))
        .with_context(|| format!("the token in {BOOTSTRAP_FILE} cannot be read"))?;
    environment::note_version(file, &config);

    let tasks = Tasks::new();
    let mut registry = Registry::with_prefix("edgecore");
    tasks.register(&mut registry);
    let (uplink, end) = Uplink::channel();
    let meta = MetaManager::start(settings::metamanager(&config), uplink.clone(), &tasks)
        .await
        .context("the database's thread cannot be started")?;
    info!("Module metamanager registered successfully");
    let devices = Devices::start(&config, &meta, &uplink, &mut registry, &tasks).await;
    if config.modules.edge_hub.enable {
        let metrics = edgehub::Metrics::register(&mut registry);
        let file = file.to_owned();
        let inboxes = edgehub::Inboxes {
            meta: meta.clone(),
            twin: devices.twin.as_ref().map(DeviceTwin::inbox),
            bus: devices.bus.clone(),
        };
        let joined = move || environment::strike_token(&file, from_bootstrap);
        edgehub::start(
            settings::edgehub(&config),
            uplink,
            end,
            inboxes,
            metrics,
            joined,
            &tasks,
        );
        info!("Module websocket registered successfully");
    }
    let address = address::start(settings::address(&config)?, host, meta.link(), &tasks)?;
    let (edged, usage) = kubelet::start(&config, &address, &meta, &tasks)?;
    let stream = settings::edgestream(&config, &address);
    let tunnels = TunnelMetrics::default();
    if stream.is_some() {
        tunnels.register(&mut registry);
    }
    let known = meta.clone();
    let parts = server::Parts {
        meta,
        edged,
        registry,
        debugging: settings::debugging(&config),
        configuration: settings::configz(&config),
        more: devices.router().merge(usage),
    };
    let router = server::router(parts, &tasks);
    if let Some(address) = settings::server(&config)? {
        server::start(address, router.clone(), &tasks);
    }
    if let Some(stream) = stream {
        edgestream::start(stream, router, known, tunnels, &tasks);
        info!("Module edgestream registered successfully");
    }
    let off = config.stays_off();
    if !off.is_empty() {
        info!("turned off: {}", off.join(", "));
    }
    let not_yet = config.not_yet();
    if !not_yet.is_empty() {
        info!("enabled, but not there yet: {}", not_yet.join(", "));
    }
    info!(node = %settings::node_name(&config), "edgecore is up");
    Ok(tasks.run_until_signal(GRACE).await)
}
