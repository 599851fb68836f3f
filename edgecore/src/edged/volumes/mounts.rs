//! Mounts of this machine.

use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use common::order;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

/// Shows `source` at `target` too.
pub(super) fn bind(source: &Path, target: &Path) -> io::Result<()> {
    Ok(mount_bind(source, target)?)
}

/// Takes everything away that is mounted at this very path.
pub(super) fn unmount_all(target: &Path) -> io::Result<()> {
    loop {
        match unmount(target, UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there, there is no such path, or we may not mount and so have mounted nothing.
            Err(Errno::INVAL | Errno::NOENT | Errno::PERM) => return Ok(()),
            // A container still has it open: the mount goes when the container does.
            Err(Errno::BUSY) => unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Mounts memory that goes with the mount; `size` in bytes.
pub(super) fn tmpfs(target: &Path, size: Option<u64>) -> io::Result<()> {
    let options = size.map(|size| format!("size={size}")).unwrap_or_default();
    let options = CString::new(options).map_err(io::Error::other)?;
    Ok(mount(
        "tmpfs",
        target,
        "tmpfs",
        MountFlags::empty(),
        Some(options.as_c_str()),
    )?)
}

/// Whether something is mounted at this very path, be it of the same file system.
pub(super) fn is_mount_point(path: &Path) -> io::Result<bool> {
    let path = path.canonicalize()?;
    Ok(below(&path)?.contains(&path))
}

/// Whether an error of mounting means that this machine lets nobody mount.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::PERM | Errno::ACCESS | Errno::NODEV))
}

/// The mount points at and below a folder, deepest first.
pub(super) fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let mut found: Vec<PathBuf> = table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(unescape)
        .filter(|path| path.starts_with(dir))
        .collect();
    order::sort_by_key(&mut found, |path| std::cmp::Reverse(path.components().count()));
    Ok(found)
}

/// Blanks, tabs, line ends and backslashes are written as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            path.push(byte);
            rest = tail.get(3..).unwrap_or_default();
        } else {
            path.push(*first);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape(br"/a\040b\134c"), PathBuf::from(r"/a b\c"));
        assert_eq!(unescape(br"/a\"), PathBuf::from(r"/a\"));
    }
}
