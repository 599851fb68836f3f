//! A network for pods where the host has none: boards with docker alone never needed a file for it.

use std::path::PathBuf;

use anyhow::Context as _;
use common::fs::{PUBLIC, write_atomic};
use serde_json::json;

use crate::paths::Paths;

/// Writes a local bridge when no network is configured and the plugins for it exist. Returns the file.
pub(super) fn provide(paths: &Paths) -> anyhow::Result<Option<PathBuf>> {
    let configured = std::fs::read_dir(paths.cni()).is_ok_and(|mut entries| entries.next().is_some());
    let plugins = |folder: &&str| {
        ["bridge", "host-local", "portmap"]
            .iter()
            .all(|name| paths.exists(&format!("{folder}/{name}")))
    };
    if configured || !PLUGINS.iter().any(plugins) {
        return Ok(None);
    }
    let text = json!({
        "cniVersion": "0.4.0",
        "name": "kubeedge",
        "plugins": [
            {
                "type": "bridge", "bridge": "kubeedge0", "isGateway": true, "ipMasq": true,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": SUBNET}]], "routes": [{"dst": "0.0.0.0/0"}]}
            },
            {"type": "portmap", "capabilities": {"portMappings": true}}
        ]
    });
    let path = paths.cni().join(FILE);
    write_atomic(&path, format!("{text:#}\n").as_bytes(), PUBLIC)
        .with_context(|| format!("{} could not be written", path.display()))?;
    Ok(Some(path))
}

/// Sorts after what network products for edges install, so that theirs is taken once it is there.
pub(crate) const FILE: &str = "kubeedge-bridge.conflist";
const PLUGINS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];
const SUBNET: &str = "10.88.64.0/20";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_where_nothing_is() -> anyhow::Result<()> {
        let root = tempfile::tempdir()?;
        let paths = Paths::below(root.path());
        assert_eq!(provide(&paths)?, None);
        std::fs::create_dir_all(paths.at("/opt/cni/bin"))?;
        for name in ["bridge", "host-local", "portmap"] {
            std::fs::write(paths.at("/opt/cni/bin").join(name), "")?;
        }
        let file = provide(&paths)?.expect("it is written");
        let text: serde_json::Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        assert_eq!(text["plugins"][0]["type"], "bridge");
        assert_eq!(provide(&paths)?, None, "now there is one");
        Ok(())
    }
}
