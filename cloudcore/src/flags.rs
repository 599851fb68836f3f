//! The flags of cloudcore (spec 06 §1.10).

use std::path::PathBuf;

use clap::Parser;
use config::{CloudCore, HostFacts, cli, version};

/// The cloud side of KubeEdge: keeps the edges connected to the Kubernetes API.
#[derive(Parser)]
#[command(name = "cloudcore", disable_version_flag = true)]
pub(crate) struct Flags {
    /// The configuration file.
    #[arg(long, default_value = "/etc/kubeedge/config/cloudcore.yaml")]
    pub(crate) config: PathBuf,
    /// Print a short configuration to start from, and exit.
    #[arg(long)]
    minconfig: bool,
    /// Print the full configuration with its defaults, and exit.
    #[arg(long)]
    defaultconfig: bool,
    /// Check the configuration file, and exit.
    #[arg(long)]
    pub(crate) check_config: bool,
    /// Print the version, and exit.
    #[arg(long)]
    version: bool,
    /// How much is logged: 0 information, 2 debugging, 5 everything.
    #[arg(short, default_value_t = 0)]
    pub(crate) verbosity: u8,
}

impl Flags {
    /// What is printed instead of a start, if anything.
    pub(crate) fn printed(&self, host: &HostFacts) -> Option<String> {
        if self.version {
            Some(format!("{}\n", version::line()))
        } else if self.defaultconfig {
            Some(cli::default_config(&CloudCore::default_yaml(host)))
        } else if self.minconfig {
            Some(cli::min_config(&CloudCore::min_yaml(host)))
        } else {
            None
        }
    }
}
