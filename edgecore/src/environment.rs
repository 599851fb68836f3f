//! What surrounds the program on its machine: another kubelet, the token that was used.

use std::path::Path;

use config::edgecore::BOOTSTRAP_FILE;
use config::{EdgeCore, Loaded, stamp, version};
use thiserror::Error;
use tracing::warn;

const META_SERVER: &str = "modules.metaManager.metaServer.enable";

/// Why the program must not start here.
#[derive(Debug, Error)]
pub enum Unfit {
    /// Two kubelets on one machine fight over its containers.
    #[error("a kubelet runs on this machine: stop it before edgecore, or set CHECK_EDGECORE_ENVIRONMENT=false")]
    Kubelet,
}

/// A token that was used is of no use to anybody but a thief.
pub fn strike_token(file: &Path, from_bootstrap: bool) {
    if from_bootstrap
        && let Err(error) = std::fs::remove_file(BOOTSTRAP_FILE)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        warn!(file = BOOTSTRAP_FILE, %error, "the used token cannot be removed");
    }
    if let Err(error) = stamp::set(file, "modules.edgeHub.token", "") {
        warn!(
            error = common::chain(&error),
            "the used token cannot be struck from the configuration"
        );
    }
}

/// Looks for another kubelet (spec 05 §1.1).
pub fn check(loaded: &Loaded<EdgeCore>) -> Result<(), Unfit> {
    let checked = std::env::var("CHECK_EDGECORE_ENVIRONMENT").map_or(true, |value| value != "false");
    if checked {
        alone(loaded, Path::new("/proc"))
    } else {
        Ok(())
    }
}

/// Go lets a kubelet be where the edge API was enabled. There it is off by default: only a file that enables it says as much.
fn alone(loaded: &Loaded<EdgeCore>, proc: &Path) -> Result<(), Unfit> {
    let processes = std::fs::read_dir(proc).into_iter().flatten().flatten();
    let kubelet = processes
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("comm")).ok())
        .any(|name| name.trim_end() == "kubelet");
    if !kubelet {
        return Ok(());
    }
    let enabled = loaded.config.modules.meta_manager.meta_server.enable && loaded.is_set(META_SERVER);
    if !enabled {
        return Err(Unfit::Kubelet);
    }
    warn!("a kubelet runs on this machine, which {META_SERVER} allows: pods of a runtime that both use are removed");
    Ok(())
}

/// Writes this release into the file, where another one stands: that key alone.
pub fn note_version(file: &Path, config: &EdgeCore) {
    if config.edgecore_version != version::KUBEEDGE_VERSION
        && let Err(error) = stamp::set(file, "edgecoreVersion", version::KUBEEDGE_VERSION)
    {
        warn!(
            error = common::chain(&error),
            "the configuration file keeps the version that wrote it"
        );
    }
}

#[cfg(test)]
mod tests {
    use config::{HostFacts, LookOnly};

    use super::*;

    #[test]
    fn a_kubelet_is_refused_unless_the_file_enables_the_edge_api() {
        let host = HostFacts {
            hostname: "edge-1".into(),
            local_ip: "192.0.2.2".into(),
        };
        let proc = tempfile::tempdir().expect("a folder");
        let may_start = |text: &str| {
            let loaded = EdgeCore::parse(text, &host, &LookOnly).expect("loads");
            alone(&loaded, proc.path()).is_ok()
        };
        let process = proc.path().join("9");
        std::fs::create_dir(&process).expect("made");
        let runs = |name: &str| std::fs::write(process.join("comm"), name).expect("written");
        runs("kube-proxy\n");
        assert!(may_start("{}"));
        runs("kubelet\n");
        let enabled = |enable: bool| format!("modules: {{metaManager: {{metaServer: {{enable: {enable}}}}}}}");
        assert!(!may_start("{}"), "the default is no word of the operator");
        assert!(!may_start(&enabled(false)));
        assert!(may_start(&enabled(true)));
    }
}
