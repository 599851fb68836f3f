//! What a Go edgecore leaves on a board: its database and its configuration, which ours starts with, whatever release they are of.

use anyhow::{Context as _, Result, ensure};

use super::{Entry, needs_our_edge};
use crate::edge::{EdgeHost, PAUSE, Wire};
use crate::process::feed;
use crate::system::Context;
use crate::wait::{self, seconds};

pub(super) const LIST: &[Entry] = &[("go_edges_taken_over", false, go_edges)];

/// The node of the databases.
const NODE: &str = "edge-go";

/// The database and the configuration that its release prints.
const RELEASES: &[(&str, &str)] = &[
    ("go-v1.12.sql", "edgecore-v1.12-default.yaml"),
    ("go-v1.16.sql", "edgecore-v1.17-default.yaml"),
    ("go-v1.22.sql", "edgecore-v1.22-default.yaml"),
    ("go-v1.23.sql", "edgecore-default.yaml"),
];

/// With no cloud to be reached: the pod of the database starts, with its ConfigMap, its Secret and its token.
fn go_edges(context: &mut Context) -> Result<()> {
    needs_our_edge(context, "starting with the database of another")?;
    for (dump, configuration) in RELEASES {
        let (dump, configuration) = (
            context.settings.root.join("edgecore/golden").join(dump),
            context.settings.root.join("config/golden").join(configuration),
        );
        let read = |path: &std::path::Path| std::fs::read_to_string(path).with_context(|| path.display().to_string());
        let mut edge = EdgeHost::start(&context.settings, context.folder(), NODE, Wire::Veth)?;
        feed(
            std::process::Command::new("sqlite3").arg(edge.database()),
            &read(&dump)?,
        )?;
        let file = edge.folder().join("etc/config/edgecore.yaml");
        std::fs::write(file, for_this_host(&read(&configuration)?, &edge))?;
        edge.start_edgecore()?;
        let (what, log) = (
            format!("the pod of {} runs", dump.display()),
            edge.folder().join("edgecore.log"),
        );
        let container = wait::until(&what, seconds(90), || {
            Ok(edge.running()?.into_iter().find(|one| one.name == "web"))
        })
        .with_context(|| crate::process::tail(&log))?;
        let secret = edge.exec(&container, &["cat", "/secret/password"])?;
        ensure!(secret == "open sesame", "{what}, its Secret is {secret:?}");
        let token = edge.exec(
            &container,
            &["cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"],
        )?;
        ensure!(token.split('.').count() == 3, "{what}, without a token");
        ensure!(edge.edgecore()?.alive(), "edgecore ended: {}", edge.log());
        edge.stop_edgecore()?;
    }
    Ok(())
}

/// The places of this host, as its operator would have had them in the file, and limits that a full disk of the machine does not meet.
fn for_this_host(text: &str, edge: &EdgeHost) -> String {
    let folder = edge.folder().display();
    let socket = format!("unix://{}", edge.socket().display());
    let own = |line: &str| -> Option<String> {
        let (key, _) = line.trim_start().split_once(':')?;
        let indent = line.len() - line.trim_start().len();
        let value = match key {
            "hostnameOverride" => edge.name().to_owned(),
            "containerRuntime" => "remote".to_owned(),
            "remoteRuntimeEndpoint" | "remoteImageEndpoint" | "containerRuntimeEndpoint" | "imageServiceEndpoint" => {
                socket.clone()
            }
            "podSandboxImage" => PAUSE.to_owned(),
            "rootDirectory" => format!("{folder}/kubelet"),
            "imagefs.available" | "imagefs.inodesFree" | "nodefs.available" | "nodefs.inodesFree" => "1%".to_owned(),
            "tailoredKubeletConfig" => {
                let more = format!("{:indent$}  cgroupRoot: {}\n", "", edge.number().cgroup().root());
                return Some(format!("{line}\n{more}{:indent$}  podLogsDir: {folder}/logs/pods", ""));
            }
            _ => return None,
        };
        Some(format!("{:indent$}{key}: {value}", ""))
    };
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("podLogsDir:"));
    let lines = lines.map(|line| own(line).unwrap_or_else(|| line.to_owned()) + "\n");
    lines.collect()
}
