//! Where edgecore comes from: beside keadm, a folder, or a release archive.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};

use crate::process;

/// An edgecore that runs on this machine.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    version: String,
    /// Where an archive was unpacked.
    unpacked: Option<PathBuf>,
}

impl Source {
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Puts it in its place, whole or not at all.
    pub(super) fn install(&self, target: &Path) -> anyhow::Result<()> {
        if fs::canonicalize(target).is_ok_and(|own| own == self.path) {
            return Ok(());
        }
        let folder = target
            .parent()
            .ok_or_else(|| anyhow!("{} has no folder", target.display()))?;
        fs::create_dir_all(folder).with_context(|| format!("{} could not be created", folder.display()))?;
        let temporary = folder.join(format!(".edgecore.{}.tmp", std::process::id()));
        let placed = (|| {
            fs::copy(&self.path, &temporary)?;
            fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))?;
            fs::File::open(&temporary)?.sync_all()?;
            fs::rename(&temporary, target)
        })();
        if placed.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        placed.with_context(|| format!("{} could not be copied to {}", self.path.display(), target.display()))
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Some(folder) = &self.unpacked {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

/// Finds it and lets it print its version.
pub(super) fn find(given: Option<&Path>) -> anyhow::Result<Source> {
    let own = std::env::current_exe().context("keadm does not know its own path")?;
    let folder = own.parent().unwrap_or_else(|| Path::new("/"));
    let (path, unpacked) = match given {
        None => (inside(folder), None),
        Some(path) if path.is_dir() => match inside(path) {
            Some(found) => (Some(found), None),
            None => match archive(path)? {
                Some(file) => unpack(&file)?,
                None => (None, None),
            },
        },
        Some(path) if path.is_file() => unpack(path)?,
        Some(path) => bail!(
            "--tarballpath {}: there is neither a folder nor an archive",
            path.display()
        ),
    };
    let Some(path) = path else {
        bail!(
            "no edgecore in {}: put the program beside keadm, or name a folder or a release archive by --tarballpath",
            given.unwrap_or(folder).display()
        );
    };
    let mut source = Source {
        path: fs::canonicalize(path)?,
        version: String::new(),
        unpacked,
    };
    let program = source.path.display().to_string();
    let printed = process::run(&program, &["--version"]).with_context(|| {
        format!(
            "{program} does not run here: is it for this kind of machine ({})?",
            std::env::consts::ARCH
        )
    })?;
    printed.trim().clone_into(&mut source.version);
    Ok(source)
}

/// edgecore in a folder, also as the release archives lay it out.
fn inside(folder: &Path) -> Option<PathBuf> {
    let released = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("edge/edgecore"));
    let mut places = vec![folder.join("edgecore"), folder.join("edge/edgecore")];
    places.extend(released);
    places.into_iter().find(|path| path.is_file())
}

/// The release archive for this machine in a folder.
fn archive(folder: &Path) -> anyhow::Result<Option<PathBuf>> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let ending = format!("-linux-{architecture}.tar.gz");
    for entry in fs::read_dir(folder).with_context(|| format!("{} could not be read", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("kubeedge-v") && name.ends_with(&ending) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn unpack(archive: &Path) -> anyhow::Result<(Option<PathBuf>, Option<PathBuf>)> {
    let folder = std::env::temp_dir().join(format!("keadm-{}", std::process::id()));
    // A name that exists already may be somebody's trap: it must be made here.
    fs::create_dir(&folder).with_context(|| format!("{} could not be created", folder.display()))?;
    let (from, to) = (archive.display().to_string(), folder.display().to_string());
    if let Err(error) = process::run("tar", &["-xzf", &from, "-C", &to]) {
        let _ = fs::remove_dir_all(&folder);
        return Err(error.context(format!("{from} could not be unpacked")));
    }
    Ok((inside(&folder), Some(folder)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(path: &Path) -> std::io::Result<()> {
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        fs::write(path, "#!/bin/sh\necho KubeEdge v1.23.1\n")?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
    }

    #[test]
    fn finds_it_in_folders_and_archives() -> anyhow::Result<()> {
        let root = tempfile::tempdir()?;
        assert!(find(Some(root.path())).is_err());
        program(&root.path().join("in/kubeedge-v1.23.1-linux-amd64/edge/edgecore"))?;
        let source = find(Some(&root.path().join("in")))?;
        assert_eq!(source.version(), "KubeEdge v1.23.1");
        let archive = root.path().join("out.tar.gz");
        let inside = root.path().join("in");
        process::run(
            "tar",
            &[
                "-czf",
                &archive.display().to_string(),
                "-C",
                &inside.display().to_string(),
                ".",
            ],
        )?;
        let source = find(Some(&archive))?;
        let target = root.path().join("usr/local/bin/edgecore");
        source.install(&target)?;
        assert_eq!(fs::metadata(&target)?.permissions().mode() & 0o777, 0o755);
        let unpacked = source.unpacked.clone().expect("it was unpacked");
        drop(source);
        assert!(!unpacked.exists());
        Ok(())
    }
}
