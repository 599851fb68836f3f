//! What must hold on this host before anything is written.

use std::net::IpAddr;

use anyhow::{Context as _, bail};

use super::split;
use crate::paths::Paths;
use crate::process;

/// Where cloudcore is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CloudAddress {
    pub(super) host: String,
    pub(super) port: u16,
}

impl CloudAddress {
    /// `host:port`, an IPv6 address in brackets.
    pub(super) fn with(&self, port: u16) -> String {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
            _ => format!("{}:{port}", self.host),
        }
    }
}

pub(super) fn address(text: &str) -> anyhow::Result<CloudAddress> {
    let (host, port) = split(text)?;
    Ok(CloudAddress { host, port })
}

pub(super) fn not_running(paths: &Paths) -> anyhow::Result<()> {
    let proc = paths.proc();
    let running = |name: &str| {
        process::named(&proc, name).with_context(|| format!("check KubeEdge {name} process status failed"))
    };
    if !running("edgecore")?.is_empty() {
        bail!("EdgeCore is already running on this node, please run reset to clean up first");
    }
    // Both would write the same folders and the same node's containers.
    if let Some(pid) = running("kubelet")?.first() {
        bail!(
            "a kubelet runs on this machine (process {pid}): an edge node cannot be another node as well, stop and disable it first"
        );
    }
    Ok(())
}

pub(super) fn clean(paths: &Paths) -> anyhow::Result<()> {
    let folder = paths.management();
    let mut entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("read management directory {} failed", folder.display()))?,
    };
    if entries.next().is_some() {
        bail!(
            "the management directory {}/ is not clean, please remove it first (keadm reset edge)",
            folder.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parsed = address("203.0.113.10:10000").expect("it is one");
        assert_eq!(
            (parsed.with(10002), parsed.port),
            ("203.0.113.10:10002".to_owned(), 10000)
        );
        assert_eq!(
            address("[2001:db8::1]:10000").expect("it is one").with(10002),
            "[2001:db8::1]:10002"
        );
        for bad in ["203.0.113.10", "", ":1", "2001:db8::1:10000", "a:b", "a:70000"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn refuses_a_used_machine() -> anyhow::Result<()> {
        let root = tempfile::tempdir()?;
        let paths = Paths::below(root.path());
        std::fs::create_dir_all(paths.proc().join("9"))?;
        not_running(&paths)?;
        clean(&paths)?;
        std::fs::create_dir_all(paths.management())?;
        clean(&paths)?;
        std::fs::write(paths.management().join("x"), "")?;
        assert!(clean(&paths).is_err());
        for name in ["edgecore", "kubelet"] {
            std::fs::write(paths.proc().join("9/comm"), name)?;
            assert!(not_running(&paths).is_err(), "{name}");
        }
        Ok(())
    }
}
