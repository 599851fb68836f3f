//! The command line of edgecore.

use std::path::PathBuf;

use clap::Parser;

/// The edge side of KubeEdge: runs pods, also while the cloud cannot be reached.
#[derive(Parser)]
#[command(name = "edgecore", disable_version_flag = true)]
pub(crate) struct Flags {
    /// The configuration file.
    #[arg(long, default_value = "/etc/kubeedge/config/edgecore.yaml")]
    pub(crate) config: PathBuf,
    /// Print a short configuration to start from, and exit.
    #[arg(long)]
    pub(crate) minconfig: bool,
    /// Print the full configuration with its defaults, and exit.
    #[arg(long)]
    pub(crate) defaultconfig: bool,
    /// Check the configuration file, and exit.
    #[arg(long)]
    pub(crate) check_config: bool,
    /// Print the version, and exit.
    #[arg(long)]
    pub(crate) version: bool,
    /// How much is logged: 0 information, 2 debugging, 5 everything; RUST_LOG in the environment wins.
    #[arg(short, default_value_t = 0)]
    pub(crate) v: u8,
}
