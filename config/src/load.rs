//! Reading a file over the defaults: parse, translate, decode, check, in this order, collecting everything.

use std::io;
use std::path::{Path, PathBuf};

use crate::decode::{Lines, Reader, Value};
use crate::yaml::{self, Node};
use crate::{Problem, Problems, Warning};

/// A configuration with what its file is to be warned about.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    /// The file over the defaults, checked.
    pub config: T,
    /// Unknown keys, keys of older releases, keys without effect.
    pub warnings: Vec<Warning>,
    lines: Lines,
}

impl<T> Loaded<T> {
    /// Whether the file itself sets the key at this path (`kubeAPIConfig.qps`).
    #[must_use]
    pub fn is_set(&self, path: &str) -> bool {
        self.lines.contains_key(path)
    }
}

/// Why a file gives no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is none.
    #[error(
        "[\n  config: Required value: config file {0} not exist. For the configuration file format, please refer to \
         --minconfig and --defaultconfig command\n]"
    )]
    Absent(PathBuf),
    /// It cannot be read.
    #[error("failed to read configfile {0}")]
    Read(PathBuf, #[source] io::Error),
    /// It has something wrong.
    #[error("failed to load configfile {0}:\n{1}")]
    Wrong(PathBuf, Problems),
}

/// The part of the file system that the checks ask and change.
pub trait Files {
    /// Whether something exists there.
    fn exists(&self, path: &Path) -> bool;
    /// Makes a folder and its parents, as the Go programs do while they check.
    fn make_dir(&self, path: &Path) -> io::Result<()>;
}

/// The real file system.
#[derive(Clone, Copy, Debug)]
pub struct RealFiles;

impl Files for RealFiles {
    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }
}

/// Looks without changing anything: for `--check-config`.
#[derive(Clone, Copy, Debug)]
pub struct LookOnly;

impl Files for LookOnly {
    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }
    fn make_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the text of a configuration file.
pub(crate) fn read(path: &Path) -> Result<String, LoadError> {
    let bytes = std::fs::read(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => LoadError::Absent(path.to_owned()),
        _ => LoadError::Read(path.to_owned(), e),
    })?;
    String::from_utf8(bytes).map_err(|e| {
        let line = e
            .as_bytes()
            .iter()
            .take(e.utf8_error().valid_up_to())
            .filter(|b| **b == b'\n')
            .count()
            + 1;
        LoadError::Wrong(
            path.to_owned(),
            Problems(vec![Problem::file(Some(line), "not UTF-8 text".to_owned())]),
        )
    })
}

/// Decodes `text` over `config`. `translate` turns older forms into today's, `check` looks at the result.
pub(crate) fn decode<T: Value>(
    text: &str,
    mut config: T,
    translate: impl FnOnce(&mut Node, &mut Reader),
    check: impl FnOnce(&mut T, &mut Reader),
) -> Result<Loaded<T>, Problems> {
    let mut node = yaml::parse(text).map_err(|problem| Problems(vec![problem]))?;
    let mut reader = Reader::default();
    translate(&mut node, &mut reader);
    config.merge(&node, &mut reader);
    check(&mut config, &mut reader);
    if reader.problems.is_empty() {
        Ok(Loaded {
            config,
            warnings: reader.warnings,
            lines: reader.lines,
        })
    } else {
        reader.problems.sort_by_key(|p| p.line.unwrap_or(usize::MAX));
        Err(Problems(reader.problems))
    }
}
