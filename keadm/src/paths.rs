//! Where things are on the host.

use std::path::PathBuf;

/// The host's folders; below another root in tests.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    root: PathBuf,
}

impl Paths {
    pub(crate) fn host() -> Self {
        Self::below("/")
    }

    pub(crate) fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// A path of the host.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The management folder.
    pub(crate) fn management(&self) -> PathBuf {
        self.at("/etc/kubeedge")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.at("/etc/kubeedge/config/edgecore.yaml")
    }

    /// The token, until the certificates are there.
    pub(crate) fn bootstrap(&self) -> PathBuf {
        self.at("/etc/kubeedge/bootstrap-edgecore.conf")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.at("/var/log/kubeedge/edgecore.log")
    }

    pub(crate) fn pid(&self) -> PathBuf {
        self.at("/run/edgecore.pid")
    }

    pub(crate) fn edgecore(&self) -> PathBuf {
        self.at("/usr/local/bin/edgecore")
    }

    pub(crate) fn systemd_unit(&self) -> PathBuf {
        self.at("/etc/systemd/system/edgecore.service")
    }

    pub(crate) fn openrc_script(&self) -> PathBuf {
        self.at("/etc/init.d/edgecore")
    }

    pub(crate) fn proc(&self) -> PathBuf {
        self.at("/proc")
    }

    /// The folder of network configurations.
    pub(crate) fn cni(&self) -> PathBuf {
        self.at("/etc/cni/net.d")
    }

    /// Whether `path`, taken from a configuration, is a file of this host.
    pub(crate) fn exists(&self, path: &str) -> bool {
        self.at(path).exists()
    }
}
