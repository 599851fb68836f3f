//! `fsGroup`: the group that may use a volume.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, chownat, fstat, open};
use tracing::debug;

/// Gives everything below a folder to a group, read-only or not. A single file that cannot be changed does not fail the volume.
pub(super) fn set(dir: &Path, group: Option<i64>, read_only: bool) -> io::Result<()> {
    let Some(group) = group.and_then(|group| u32::try_from(group).ok()) else {
        return Ok(());
    };
    // Files before the folders that hold them, so that a root that fits tells that all below does.
    let mut folders = vec![dir.to_owned()];
    let mut walked = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                change(&entry.path(), group, read_only);
            }
        }
        walked.push(folder);
    }
    for folder in walked.iter().rev() {
        change(folder, group, read_only);
    }
    Ok(())
}

/// Whether the top of a volume fits already, for `fsGroupChangePolicy: OnRootMismatch`.
pub(super) fn root_fits(dir: &Path, group: Option<i64>, read_only: bool) -> bool {
    let Some(group) = group.and_then(|group| u32::try_from(group).ok()) else {
        return true;
    };
    let Ok(meta) = fs::metadata(dir) else { return false };
    let wanted = bits(read_only, true);
    meta.gid() == group && meta.permissions().mode() & wanted == wanted
}

/// Through a descriptor: the name may lead elsewhere a moment later.
fn change(path: &Path, group: u32, read_only: bool) {
    let change = || -> io::Result<()> {
        let file = open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        chownat(&file, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
        let mode = fstat(&file)?.st_mode;
        let kind = FileType::from_raw_mode(mode);
        if kind == FileType::Symlink {
            return Ok(());
        }
        let wanted = (mode & 0o7777) | bits(read_only, kind == FileType::Directory);
        fs::set_permissions(
            format!("/proc/self/fd/{}", file.as_raw_fd()),
            PermissionsExt::from_mode(wanted),
        )
    };
    if let Err(error) = change() {
        debug!(path = %path.display(), %error, "cannot give a file to the group of its pod");
    }
}

const fn bits(read_only: bool, is_dir: bool) -> u32 {
    let files = if read_only { 0o440 } else { 0o660 };
    if is_dir { files | 0o2110 } else { files }
}
