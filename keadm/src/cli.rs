//! The command line: the Go tool's flags, those of older releases included.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// keadm
#[derive(Debug, Parser)]
#[command(name = "keadm", version = config::version::KUBEEDGE_VERSION, about = "Easily bootstrap KubeEdge nodes", args_override_self = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the token that edge nodes join with
    Gettoken(Gettoken),
    /// Bootstrap the edge component on this machine
    Join(Box<Join>),
    /// Take the edge component off this machine
    Reset(Reset),
    /// Print the version of keadm
    Version(Version),
}

#[derive(Debug, Args)]
pub(crate) struct Gettoken {
    /// Path of the kubeconfig for the Kubernetes API
    #[arg(long = "kube-config", default_value = "/root/.kube/config")]
    pub(crate) kube_config: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Join {
    /// Address and port of cloudcore
    #[arg(short = 'e', long = "cloudcore-ipport", value_name = "IP:PORT")]
    pub(crate) cloudcore_ipport: String,
    /// Token from `keadm gettoken`
    #[arg(short = 't', long, default_value = "", hide_default_value = true)]
    pub(crate) token: String,
    /// Name of the node [default: the host's name]
    #[arg(short = 'i', long = "edgenode-name", default_value = "", hide_default_value = true)]
    pub(crate) edgenode_name: String,
    /// cloudcore's port for certificates
    #[arg(short = 's', long, default_value_t = 10002)]
    pub(crate) certport: u16,
    /// Socket of the container runtime [default: the one that answers]
    #[arg(short = 'p', long, default_value = "", hide_default_value = true)]
    pub(crate) remote_runtime_endpoint: String,
    /// cgroupfs or systemd [default: the runtime's own]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) cgroupdriver: String,
    /// websocket or quic
    #[arg(long, default_value = "websocket")]
    pub(crate) hub_protocol: String,
    /// Labels of the node: key1=value1,key2
    #[arg(short = 'l', long, value_delimiter = ',')]
    pub(crate) labels: Vec<String>,
    /// Values of edgecore.yaml: path.to.key=value,…
    #[arg(long)]
    pub(crate) set: Vec<String>,
    /// A script to run before joining
    #[arg(long)]
    pub(crate) pre_run: Option<PathBuf>,
    /// A script to run after joining
    #[arg(long)]
    pub(crate) post_run: Option<PathBuf>,
    /// A folder or release archive with edgecore [default: keadm's own folder]
    #[arg(long)]
    pub(crate) tarballpath: Option<PathBuf>,
    /// Accepted without effect: the version is that of the edgecore at hand
    #[arg(long, num_args = 0..=1, default_missing_value = "")]
    pub(crate) kubeedge_version: Option<String>,
    /// Accepted without effect: no image is needed
    #[arg(long)]
    pub(crate) image_repository: Option<String>,
    /// Accepted without effect: certificates are kept in /etc/kubeedge
    #[arg(long = "certPath")]
    pub(crate) cert_path: Option<String>,
    /// Accepted from older releases: docker or remote
    #[arg(short = 'r', long)]
    pub(crate) runtimetype: Option<String>,
    /// Accepted from older releases: edgecore has a broker of its own
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) with_mqtt: Option<bool>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Reset {
    #[command(subcommand)]
    pub(crate) target: Option<ResetTarget>,
    /// Do not ask
    #[arg(long, global = true)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) edge: ResetEdge,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ResetTarget {
    /// Take the edge component off this machine
    Edge(ResetEdge),
}

#[derive(Debug, Args)]
pub(crate) struct ResetEdge {
    #[arg(skip)]
    pub(crate) force: bool,
    /// Accepted without effect: containers are left to the runtime
    #[arg(long)]
    pub(crate) remote_runtime_endpoint: Option<String>,
    /// Accepted from older releases without effect: the cluster is never touched from an edge
    #[arg(long = "kube-config")]
    pub(crate) kube_config: Option<PathBuf>,
    /// A script to run first
    #[arg(long)]
    pub(crate) pre_run: Option<PathBuf>,
    /// A script to run at the end
    #[arg(long)]
    pub(crate) post_run: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Version {
    /// Form of the output
    #[arg(short = 'o', long)]
    pub(crate) output: Option<VersionForm>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum VersionForm {
    Short,
    Yaml,
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn join(line: &str) -> Join {
        let words = ["keadm", "join"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words)
            .unwrap_or_else(|error| panic!("{line}: {error}"))
            .command
        {
            Command::Join(options) => *options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lines_from_published_walkthroughs_are_accepted() {
        let options = join(
            "--cloudcore-ipport=203.0.113.10:10000 --runtimetype=docker --cgroupdriver=systemd --edgenode-name=edgenode1 \
             --kubeedge-version=v1.12.1 --token=T",
        );
        assert_eq!(options.edgenode_name, "edgenode1");
        assert_eq!(options.kubeedge_version.as_deref(), Some("v1.12.1"));
        let options = join(
            "-e 203.0.113.10:10000 -t T -i n -s 10002 -p unix:///x.sock -l a=b,c -r remote --with-mqtt=false --tarballpath /t \
             --certPath=/c --labels=d=e --set a.b=1 --kubeedge-version",
        );
        assert_eq!(options.labels, ["a=b", "c", "d=e"]);
        assert_eq!(options.with_mqtt, Some(false));
        assert_eq!(join("-e a:1 --with-mqtt").with_mqtt, Some(true));
        assert_eq!(join("-e a:1").certport, 10002);
        let options = join("-e a:1 -e b:1 -l x --labels y --set k=1 --set l=2 --certport 1 -s 2");
        assert_eq!(
            (options.cloudcore_ipport.as_str(), options.certport),
            ("b:1", 2),
            "the last one counts"
        );
        assert_eq!((options.labels.len(), options.set.len()), (2, 2));
    }

    #[test]
    fn the_address_is_required() {
        assert!(Cli::try_parse_from(["keadm", "join"]).is_err());
    }

    #[test]
    fn reset_takes_its_target_or_none() {
        for line in [
            "keadm reset",
            "keadm reset --force",
            "keadm reset edge --force",
            "keadm reset --remote-runtime-endpoint=unix:///x.sock --kube-config=/root/.kube/config",
            "keadm reset edge --remote-runtime-endpoint=unix:///x.sock",
        ] {
            Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
