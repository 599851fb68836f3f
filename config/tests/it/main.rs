//! Configuration files as operators have them.

mod corpus;
/// The readers of the fuzz targets.
#[path = "../../../fuzz/src/files.rs"]
#[expect(unreachable_pub, reason = "the file is a public module where it comes from")]
mod files;
mod golden;
mod merge;
mod mutations;
mod old;
/// The seeds of the fuzz targets.
#[path = "../../../fuzz/src/replay.rs"]
mod replay;
mod sed;
mod validation;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use config::{CloudCore, EdgeCore, Files, HostFacts, Loaded, Problems, Warning};

const CLOUD_DEFAULT: &str = include_str!("../../golden/cloudcore-default.yaml");
const CLOUD_MIN: &str = include_str!("../../golden/cloudcore-min.yaml");
const EDGE_DEFAULT: &str = include_str!("../../golden/edgecore-default.yaml");
const EDGE_MIN: &str = include_str!("../../golden/edgecore-min.yaml");

/// The machine the golden files come from.
fn host() -> HostFacts {
    HostFacts {
        hostname: "vm".into(),
        local_ip: "192.0.2.2".into(),
    }
}

/// A file system with just these files.
#[derive(Default)]
struct Disk {
    files: BTreeSet<PathBuf>,
    read_only: bool,
}

impl Disk {
    fn with(files: &[&str]) -> Self {
        Self {
            files: files.iter().map(PathBuf::from).collect(),
            read_only: false,
        }
    }
}

impl Files for Disk {
    fn exists(&self, path: &Path) -> bool {
        self.files.contains(path)
    }
    fn make_dir(&self, _: &Path) -> io::Result<()> {
        if self.read_only {
            Err(io::ErrorKind::ReadOnlyFilesystem.into())
        } else {
            Ok(())
        }
    }
}

fn cloud(text: &str) -> Result<Loaded<CloudCore>, Problems> {
    CloudCore::parse(text, &host(), &Disk::default())
}

fn edge(text: &str) -> Result<Loaded<EdgeCore>, Problems> {
    EdgeCore::parse(text, &host(), &Disk::default())
}

/// Path and line of each warning.
fn places(warnings: &[Warning]) -> Vec<(&str, Option<usize>)> {
    warnings.iter().map(|w| (w.path.as_str(), w.line)).collect()
}
