//! Removes what a pod leaves.
//!
//! What is below may be laid out by the pod: links to anywhere, mounts, folders nested deeper than any stack. So nothing is followed,
//! nothing on another file system is touched, and nested folders are first moved to the top instead of being descended into.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, open, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::mounts;

/// Unmounts everything below a folder and deletes it.
pub(super) fn pod_folder(dir: &Path) -> io::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let dir = dir.canonicalize()?;
    for mount in mounts::below(&dir)? {
        mounts::unmount_all(&mount)?;
    }
    if let Some(left) = mounts::below(&dir)?.first() {
        return Err(io::Error::other(format!(
            "{} is still mounted, nothing is deleted",
            left.display()
        )));
    }
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Ok(());
    };
    let parent = open(parent, FOLDER, Mode::empty())?;
    tree(&parent, name)
}

fn tree(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let top = openat(parent, name, FOLDER, Mode::empty())?;
    let device = fstat(&top)?.st_dev;
    let mut moved = 0_u64;
    // Everything directly in the top, then again: each round empties the folders that the last one moved up.
    loop {
        let names = names(&top)?;
        if names.is_empty() {
            break;
        }
        for name in names {
            if !is_folder(&top, &name, device)? {
                unlinkat(&top, &name, AtFlags::empty())?;
                continue;
            }
            let folder = openat(&top, &name, FOLDER, Mode::empty())?;
            loop {
                let inner = self::names(&folder)?;
                if inner.is_empty() {
                    break;
                }
                for inner in inner {
                    if !is_folder(&folder, &inner, device)? {
                        unlinkat(&folder, &inner, AtFlags::empty())?;
                    } else if let Err(Errno::NOTEMPTY | Errno::EXIST) = unlinkat(&folder, &inner, AtFlags::REMOVEDIR) {
                        moved = move_up(&folder, &inner, &top, moved)?;
                    }
                }
            }
            unlinkat(&top, &name, AtFlags::REMOVEDIR)?;
        }
    }
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

/// Gives a folder a free name in the top; an earlier attempt that was cut short may have left some.
fn move_up(folder: &OwnedFd, name: &CString, top: &OwnedFd, mut number: u64) -> io::Result<u64> {
    loop {
        let free = format!(".removing-{number}");
        number += 1;
        match statat(top, &free, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {
                renameat(folder, name, top, &free)?;
                return Ok(number);
            }
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
    }
}

/// Of folders alone the device tells whether they are ours: on an overlay (a board whose root is read-only, say) files have others.
/// A file that something is mounted on cannot be removed.
fn is_folder(parent: &OwnedFd, name: &CString, device: u64) -> io::Result<bool> {
    let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(false);
    }
    if stat.st_dev != device {
        let name = name.to_string_lossy();
        return Err(io::Error::other(format!(
            "{name} is on another file system, nothing of it is deleted"
        )));
    }
    Ok(true)
}

/// Some names in a folder, a bounded number.
fn names(folder: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name().to_owned());
        }
        if names.len() == BATCH {
            break;
        }
    }
    Ok(names)
}

/// How to open a folder whose name may have become a link.
pub(super) const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// Names kept in memory at a time.
const BATCH: usize = 1024;
