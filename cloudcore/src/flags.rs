//! The command line of cloudcore (spec 06 §1.10).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

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
    /// Do nothing but keep this host's redirect rules, for the API server's connections to edges; reads no configuration file.
    #[arg(long)]
    pub(crate) iptables_manager: bool,
    /// Find out why kubectl logs and exec do not reach a node, and exit; reads no configuration file.
    #[arg(long, value_name = "NODE")]
    pub(crate) diagnose: Option<String>,
    /// The kubeconfig for --iptables-manager and --diagnose; without it, the account of the pod.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The port of cloudcore's stream server, for --iptables-manager and --diagnose.
    #[arg(long, value_name = "PORT", default_value_t = 10003)]
    pub(crate) forwardport: u16,
    /// How much is logged: 0 information, 2 debugging, 5 everything; RUST_LOG in the environment wins.
    #[arg(short, default_value_t = 0)]
    pub(crate) verbosity: u8,
}

impl Flags {
    /// Reads the command line. A program that is called `iptables-manager`, as Go's is, takes `--iptables-manager` for given.
    pub(crate) fn read(arguments: &[OsString]) -> Self {
        let mut flags = Self::parse_from(arguments);
        let name = arguments.first().and_then(|path| Path::new(path).file_name());
        flags.iptables_manager |= name.is_some_and(|name| name == "iptables-manager");
        flags
    }

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
