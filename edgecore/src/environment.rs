//! What surrounds the program on its machine: another kubelet, the token that was used.

use std::path::Path;

use config::edgecore::BOOTSTRAP_FILE;
use config::{EdgeCore, stamp, version};
use thiserror::Error;
use tracing::warn;

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
pub fn check(config: &EdgeCore) -> Result<(), Unfit> {
    let checked = std::env::var("CHECK_EDGECORE_ENVIRONMENT").map_or(true, |value| value != "false");
    if !checked || config.modules.meta_manager.meta_server.enable {
        return Ok(());
    }
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let kubelet = processes
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("comm")).ok())
        .any(|name| name.trim_end() == "kubelet");
    if kubelet { Err(Unfit::Kubelet) } else { Ok(()) }
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
