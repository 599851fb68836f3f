//! `keadm join`: makes this machine an edge node.
//!
//! Owns: the order of the steps and what is undone when one fails. Everything that can be known beforehand is checked before
//! the first file is written; a failure leaves neither the token nor half an installation, so the same line can be typed again.
//! Source: spec 06 §2.3, §2.8 and §4.

mod binary;
mod cloud;
mod network;
pub(crate) use network::FILE as NETWORK_FILE;
mod preflight;
mod runtime;
mod settings;
mod token;
mod wait;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use common::fs::{SECRET, write_atomic};
use config::HostFacts;

use crate::cli::Join;
use crate::paths::Paths;
use crate::process;
use crate::service::Manager;
use crate::steps::Steps;

pub(crate) async fn run(options: &Join) -> anyhow::Result<()> {
    let paths = Paths::host();
    let mut steps = Steps::default();
    if let Some(script) = &options.pre_run {
        steps.begin(&format!("Executing pre-run script: {}", script.display()));
        process::script(script)?;
    }
    warn_of_flags(options);

    steps.begin("Check KubeEdge edgecore process status");
    preflight::not_running(&paths)?;
    steps.begin("Check if the management directory is clean");
    preflight::clean(&paths)?;

    steps.begin("Check if the node name is valid");
    let host = HostFacts::detect();
    let node = if options.edgenode_name.is_empty() {
        host.hostname.as_str()
    } else {
        options.edgenode_name.as_str()
    };
    let address = preflight::address(&options.cloudcore_ipport)?;
    cloud::check(&address, options.certport, node, &options.token).await?;
    let runtime = runtime::find(options).await?;
    let other_broker = tokio::net::TcpStream::connect(settings::MQTT).await.is_ok();
    if other_broker {
        Steps::warn(
            "something listens on 127.0.0.1:1883: edgecore will use it as its MQTT broker (mqttMode: 2). \
             Stop it and set modules.eventBus.mqttMode to 0 for edgecore's own",
        );
    }
    let config = settings::build(options, &host, &address, &runtime, other_broker)?;
    let edgecore = binary::find(options.tarballpath.as_deref())?;

    let manager = Manager::of_host(&paths);
    let mut undo = Undo {
        paths: &paths,
        manager,
        armed: true,
    };
    let result = tokio::select! {
        result = install(&mut steps, &paths, manager, options, &edgecore, &config) => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    if let Err(error) = result {
        // With certificates the node has joined: it stays, and what it lacks (a network, a runtime) may still come.
        undo.armed = !wait::has_certificates(&paths, &config);
        if !undo.armed {
            eprintln!("edgecore goes on trying; `keadm reset edge` takes it off this machine");
        }
        drop(undo);
        return Err(error.context("edge node join failed"));
    }
    undo.armed = false;
    drop(undo);

    steps.begin("Install Complete!");
    if let Some(script) = &options.post_run {
        eprintln!("Executing post-run script: {}", script.display());
        if let Err(error) = process::script(script) {
            // The node has joined: this changes nothing about it.
            eprintln!("Execute post-run script: {} failed: {error:#}", script.display());
        }
    }
    Ok(())
}

async fn install(
    steps: &mut Steps,
    paths: &Paths,
    manager: Manager,
    options: &Join,
    edgecore: &binary::Source,
    config: &config::EdgeCore,
) -> anyhow::Result<()> {
    steps.begin("Create the necessary directories");
    for folder in ["/etc/kubeedge/config", "/var/log/kubeedge", "/var/lib/kubeedge"] {
        let folder = paths.at(folder);
        fs::create_dir_all(&folder).with_context(|| format!("{} could not be created", folder.display()))?;
    }
    if let Some(file) = network::provide(paths)? {
        Steps::note(&format!("no network is configured for pods: wrote {}", file.display()));
    }
    steps.begin("Copy resources to the management directory");
    Steps::note(&format!("{} from {}", edgecore.version(), edgecore));
    edgecore.install(&paths.edgecore())?;
    steps.begin(manager.step());
    manager.install(paths)?;
    if !options.token.is_empty() {
        let file = paths.bootstrap();
        write_atomic(&file, options.token.as_bytes(), SECRET)
            .with_context(|| format!("{} could not be written", file.display()))?;
    }
    steps.begin("Generate EdgeCore default configuration");
    let file = paths.config();
    write_atomic(&file, config.to_join_yaml().as_bytes(), SECRET)
        .with_context(|| format!("{} could not be written", file.display()))?;
    steps.begin("Run EdgeCore daemon");
    manager.start(paths)?;
    eprintln!("KubeEdge edgecore is running, For logs visit: {}", manager.logs(paths));
    wait::until_joined(paths, manager, config).await
}

/// Takes back what a failed join has made.
struct Undo<'a> {
    paths: &'a Paths,
    manager: Manager,
    armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        // The token goes in every case.
        let mut files: Vec<PathBuf> = vec![self.paths.bootstrap()];
        if self.armed {
            if let Err(error) = self.manager.remove(self.paths) {
                eprintln!("edgecore could not be stopped: {error:#}");
            }
            files.push(self.paths.config());
        }
        for file in files {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    eprintln!("{} could not be removed: {error}: remove it by hand", file.display());
                }
                _ => {}
            }
        }
        if self.armed {
            for folder in ["/etc/kubeedge/ca", "/etc/kubeedge/certs"] {
                let _ = fs::remove_dir_all(self.paths.at(folder));
            }
            for folder in ["/etc/kubeedge/config", "/etc/kubeedge/manifests", "/etc/kubeedge"] {
                // Only when empty: what others put there is theirs.
                let _ = fs::remove_dir(self.paths.at(folder));
            }
        }
    }
}

fn warn_of_flags(options: &Join) {
    if let Some(version) = options
        .kubeedge_version
        .as_deref()
        .filter(|version| !version.is_empty())
    {
        let own = config::version::KUBEEDGE_VERSION;
        if version.trim_start_matches('v') != own.trim_start_matches('v') {
            Steps::warn(&format!(
                "--kubeedge-version {version} has no effect: the edgecore at hand is used, compatible with {own}"
            ));
        }
    }
    if options.image_repository.is_some() {
        Steps::warn("--image-repository has no effect: no image is pulled to join");
    }
    if options
        .cert_path
        .as_deref()
        .is_some_and(|path| path.trim_end_matches('/') != "/etc/kubeedge/certs")
    {
        Steps::warn(
            "--certPath has no effect: certificates are kept in /etc/kubeedge/certs; --set modules.edgeHub.tlsCertFile=… moves them",
        );
    }
    if options.with_mqtt == Some(true) {
        Steps::warn("--with-mqtt has no effect: edgecore's own broker listens on 127.0.0.1:1883");
    }
    if options.hub_protocol == "quic" {
        Steps::warn("quic works between programs of this release only; websocket is the fall-back");
    }
}

/// An address without a port cannot be split: the Go tool says it in these words.
fn no_port(address: &str) -> anyhow::Error {
    anyhow::anyhow!("get current host and port failed: address {address}: missing port in address")
}

/// `address` as host and port.
fn split(address: &str) -> anyhow::Result<(String, u16)> {
    let (host, port) = address.rsplit_once(':').ok_or_else(|| no_port(address))?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.is_empty() || (bare.contains(':') && !host.starts_with('[')) {
        return Err(no_port(address));
    }
    let Ok(port) = port.parse() else {
        bail!("get current host and port failed: {port} is no port")
    };
    Ok((bare.to_owned(), port))
}
