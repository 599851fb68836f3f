//! A mapper for Modbus over TCP. Keys of `configData` are those of KubeEdge's own Modbus mapper; README.md lists them.

mod codec;
mod driver;
mod point;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use common::Tasks;
use mapper::Info;

use driver::Modbus;

/// A mapper for Modbus over TCP.
#[derive(Debug, Parser)]
struct Flags {
    /// The socket of edgecore.
    #[arg(long, default_value = "/etc/kubeedge/dmi.sock")]
    edgecore: PathBuf,
    /// The socket that edgecore calls; the same path in a container and on its host.
    #[arg(long, default_value = "/etc/kubeedge/modbus.sock")]
    socket: PathBuf,
    /// The `protocolName` of its devices.
    #[arg(long, default_value = "modbus")]
    protocol: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let flags = Flags::parse();
    common::logging::init(0);
    let tasks = Tasks::new();
    let info = Info {
        name: "modbus-mapper".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: flags.protocol,
        edgecore: flags.edgecore,
        socket: flags.socket.clone(),
    };
    let bound = mapper::start(info, Modbus, &tasks);
    bound.with_context(|| format!("{}", flags.socket.display()))?;
    let ended = tasks.run_until_signal(Duration::from_secs(5)).await;
    Ok(if ended { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
