//! Parts of volumes, safe against links that lead out of them.
//!
//! The containers of the pod can write most volumes, so a path in one may change between a look and its use. Every step is therefore
//! taken from an open folder without following links, links are followed by hand within the volume, and what was found is pinned by a
//! bind mount of the open file. No system call newer than Linux 3.10 is needed, so one way serves all kernels.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fchmod, fstat, mkdirat, open, openat, readlinkat, statat};
use rustix::io::Errno;
use tracing::warn;

use super::{files, mounts};

/// What a container mounts of a volume.
pub(in crate::edged) struct SubPath<'a> {
    /// `<root>/pods/<uid>`.
    pub(in crate::edged) pod_dir: &'a Path,
    /// The volume's name in the pod.
    pub(in crate::edged) volume: &'a str,
    /// Where the volume is.
    pub(in crate::edged) base: &'a Path,
    /// The path below it.
    pub(in crate::edged) path: &'a str,
    /// The container.
    pub(in crate::edged) container: &'a str,
    /// Which of the container's mounts.
    pub(in crate::edged) index: usize,
}

/// Makes the folder if nothing is there, and returns a path that leads to it and nowhere else. The text of an error goes to the
/// pod's owner, so it tells nothing about the host.
pub(in crate::edged) fn prepare_sub_path(wanted: &SubPath) -> Result<PathBuf, String> {
    let SubPath {
        volume,
        container,
        path,
        ..
    } = wanted;
    let relative = Path::new(path);
    if relative.is_absolute() {
        return Err(format!("error SubPath `{path}` must not be an absolute path"));
    }
    if relative.components().any(|part| part == Component::ParentDir) {
        return Err(format!("unable to provision SubPath `{path}`: must not contain '..'"));
    }
    let found = find(wanted.base, relative).map_err(|error| {
        warn!(volume, container, path, %error, "cannot use a part of a volume");
        format!("failed to create subPath directory for volumeMount {volume:?} of container {container:?}")
    })?;
    pin(wanted, &found).map_err(|error| {
        warn!(volume, container, path, %error, "cannot mount a part of a volume");
        format!("failed to prepare subPath for volumeMount {volume:?} of container {container:?}")
    })
}

/// Where the pinned parts of a pod's volumes lie.
pub(super) fn pins(pod_dir: &Path) -> PathBuf {
    pod_dir.join("volume-subpaths")
}

/// Opens a path below `base`; folders that are missing are made with the mode of `base`.
fn find(base: &Path, path: &Path) -> io::Result<OwnedFd> {
    let base = open(base, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let mode = Mode::from_raw_mode(fstat(&base)?.st_mode) & Mode::from_raw_mode(0o7777);
    // Steps still to take, the next one last; and the open folders that led here, for `..` in links.
    let mut steps = steps_of(path);
    let mut trail = vec![base];
    let mut links = 0;
    while let Some(step) = steps.pop() {
        let here = trail.last().ok_or_else(escapes)?;
        if step == OsStr::new("..") {
            trail.pop();
            if trail.is_empty() {
                return Err(escapes());
            }
            continue;
        }
        let stat = match statat(here, step.as_os_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {
                make_dir(here, &step, mode)?;
                statat(here, step.as_os_str(), AtFlags::SYMLINK_NOFOLLOW)?
            }
            other => other?,
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP.into());
            }
            let target = readlinkat(here, step.as_os_str(), Vec::new())?;
            let target = Path::new(OsStr::from_bytes(target.as_bytes()));
            if target.is_absolute() {
                return Err(escapes());
            }
            steps.extend(steps_of(target));
            continue;
        }
        // Should a link have taken the place meanwhile, this opens the link itself.
        let next = openat(
            here,
            step.as_os_str(),
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        if FileType::from_raw_mode(fstat(&next)?.st_mode) == FileType::Symlink {
            return Err(escapes());
        }
        trail.push(next);
    }
    trail.pop().ok_or_else(escapes)
}

fn make_dir(parent: &OwnedFd, name: &OsStr, mode: Mode) -> io::Result<()> {
    match mkdirat(parent, name, mode) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    // The umask took bits away; the folder is opened without following a link before its mode is set.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = openat(parent, name, flags, Mode::empty())?;
    fchmod(&made, mode)?;
    Ok(())
}

/// In reverse, so that the next one is popped.
fn steps_of(path: &Path) -> Vec<OsString> {
    let parts = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    let mut steps: Vec<OsString> = parts.map(|part| part.as_os_str().to_owned()).collect();
    steps.reverse();
    steps
}

fn escapes() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "a link leads out of the volume")
}

fn pin(wanted: &SubPath, found: &OwnedFd) -> io::Result<PathBuf> {
    let dir = pins(wanted.pod_dir).join(wanted.volume).join(wanted.container);
    let target = dir.join(wanted.index.to_string());
    fs::create_dir_all(&dir)?;
    // A container that starts again gets what is there now, not what its last run had.
    mounts::unmount_all(&target)?;
    let is_dir = FileType::from_raw_mode(fstat(found)?.st_mode) == FileType::Directory;
    let old = fs::symlink_metadata(&target).map(|old| old.is_dir());
    match old {
        Ok(old) if old == is_dir => {}
        Ok(true) => fs::remove_dir(&target)?,
        Ok(false) => fs::remove_file(&target)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if is_dir {
        fs::create_dir_all(&target)?;
    } else {
        fs::OpenOptions::new().create(true).append(true).open(&target)?;
    }
    // Through the descriptor: whatever the name leads to by now does not matter.
    let source = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    match mounts::bind(&source, &target) {
        // Only we write into such a volume, so its links lead where they led a moment ago.
        Err(error) if mounts::is_refusal(&error) && files::is_ours(wanted.base) => fs::read_link(source),
        done => done.map(|()| target),
    }
}

/// As the kernel's own limit.
const MAX_LINKS: usize = 40;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn real(fd: &OwnedFd) -> PathBuf {
        fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).expect("readlink")
    }

    #[test]
    fn links_are_followed_within_the_volume_only() {
        let root = tempfile::tempdir().expect("tempdir");
        let root = root.path().canonicalize().expect("path");
        let base = root.join("volume");
        fs::create_dir_all(base.join("data/deep")).expect("mkdir");
        fs::create_dir_all(root.join("secret")).expect("mkdir");
        symlink("data/deep", base.join("inside")).expect("link");
        symlink("../secret", base.join("outside")).expect("link");
        symlink("/etc", base.join("absolute")).expect("link");
        symlink("loop", base.join("loop")).expect("link");
        symlink("../deep/../..", base.join("data/deep/up")).expect("link");
        symlink("../../../secret", base.join("data/deep/out")).expect("link");

        let find = |path: &str| find(&base, Path::new(path)).map(|fd| real(&fd));
        assert_eq!(find("inside").expect("inside"), base.join("data/deep"));
        assert_eq!(find("data/deep/up/data").expect("up"), base.join("data"));
        for path in ["outside", "outside/x", "absolute/passwd", "loop", "data/deep/out"] {
            assert!(find(path).is_err(), "{path}");
        }
        assert!(!root.join("secret/x").exists());
    }

    #[test]
    fn missing_folders_get_the_mode_of_the_volume() {
        let root = tempfile::tempdir().expect("tempdir");
        fs::set_permissions(root.path(), PermissionsExt::from_mode(0o2777)).expect("chmod");
        find(root.path(), Path::new("a/b")).expect("made");
        for path in ["a", "a/b"] {
            let mode = fs::metadata(root.path().join(path)).expect("stat").permissions().mode();
            assert_eq!(mode & 0o7777, 0o2777, "{path}");
        }
    }

    #[test]
    fn a_part_is_pinned_where_the_machine_lets_us_mount() {
        let root = tempfile::tempdir().expect("tempdir");
        let (pod_dir, base) = (root.path().join("pod"), root.path().join("volume"));
        fs::create_dir_all(&base).expect("mkdir");
        fs::write(base.join("file"), "text").expect("write");
        let wanted = SubPath {
            pod_dir: &pod_dir,
            volume: "v",
            base: &base,
            path: "file",
            container: "c",
            index: 0,
        };
        let Ok(pinned) = prepare_sub_path(&wanted) else { return };
        fs::remove_file(base.join("file")).expect("remove");
        symlink("/etc/passwd", base.join("file")).expect("link");
        assert_eq!(fs::read_to_string(&pinned).expect("read"), "text");
        mounts::unmount_all(&pinned).expect("unmount");
        assert!(prepare_sub_path(&wanted).is_err());
    }

    #[test]
    fn paths_that_leave_the_volume_by_themselves_are_refused() {
        let path = Path::new("/nonexistent");
        for (text, expected) in [
            ("/etc", "must not be an absolute path"),
            ("a/../../b", "must not contain '..'"),
        ] {
            let wanted = SubPath {
                pod_dir: path,
                volume: "v",
                base: path,
                path: text,
                container: "c",
                index: 0,
            };
            assert!(
                prepare_sub_path(&wanted).is_err_and(|error| error.contains(expected)),
                "{text}"
            );
        }
    }
}
