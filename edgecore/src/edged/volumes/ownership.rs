//! `fsGroup`: the group that may use a volume.
//!
//! Containers may write a volume while it is walked, and exchange a folder for a link to anywhere. So every step is taken from an open
//! folder without following links, and no other file system is entered.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, DirEntry, FileType, Gid, Mode, OFlags, chownat, fstat, open, openat};
use rustix::io::Errno;
use tracing::{debug, warn};

use super::remove::FOLDER;

/// Gives everything below a folder to a group, read-only or not. A single file that cannot be changed does not fail the volume.
pub(super) fn set(dir: &Path, group: Option<i64>, read_only: bool) -> io::Result<()> {
    let Some(group) = group.and_then(|group| u32::try_from(group).ok()) else {
        return Ok(());
    };
    let top = open(dir, FOLDER, Mode::empty())?;
    let device = fstat(&top)?.st_dev;
    // Files before the folders that hold them, so that a root that fits tells that all below does.
    let mut trail = vec![Dir::new(top)?];
    while let Some(folder) = trail.last_mut() {
        let Some(entry) = folder.read() else {
            if let Err(error) = change(folder.fd()?, group, read_only) {
                debug!(volume = %dir.display(), %error, "cannot give a folder to the group of its pod");
            }
            trail.pop();
            continue;
        };
        let entry = entry?;
        if entry.file_name() == c"." || entry.file_name() == c".." {
            continue;
        }
        let Some(inner) = enter(folder.fd()?, &entry)? else {
            if let Err(error) = change_file(folder.fd()?, &entry, group, read_only) {
                let name = entry.file_name().to_string_lossy();
                debug!(volume = %dir.display(), %name, %error, "cannot give a file to the group of its pod");
            }
            continue;
        };
        // As for removal: a folder on another device is a mount, and not a part of this volume.
        if fstat(&inner)?.st_dev != device {
            let name = entry.file_name().to_string_lossy();
            warn!(volume = %dir.display(), %name, "a folder is on another file system, its group stays");
            continue;
        }
        if trail.len() == MAX_DEPTH {
            return Err(io::Error::other(format!(
                "folders are nested deeper than {MAX_DEPTH}, their group cannot be set"
            )));
        }
        trail.push(Dir::new(inner)?);
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

/// Opens what is a folder at this moment; what took a folder's place is none, and neither is what is gone.
fn enter(parent: BorrowedFd<'_>, entry: &DirEntry) -> io::Result<Option<OwnedFd>> {
    // Some file systems do not tell.
    if !matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
        return Ok(None);
    }
    match openat(parent, entry.file_name(), FOLDER, Mode::empty()) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn change_file(parent: BorrowedFd<'_>, entry: &DirEntry, group: u32, read_only: bool) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(parent, entry.file_name(), flags, Mode::empty())?;
    change(file.as_fd(), group, read_only)
}

/// Through a descriptor: the name may lead elsewhere a moment later. Links and devices keep their modes.
fn change(file: BorrowedFd<'_>, group: u32, read_only: bool) -> io::Result<()> {
    chownat(file, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
    let mode = fstat(file)?.st_mode;
    let kind = FileType::from_raw_mode(mode);
    if matches!(
        kind,
        FileType::Symlink | FileType::BlockDevice | FileType::CharacterDevice
    ) {
        return Ok(());
    }
    let wanted = (mode & 0o7777) | bits(read_only, kind == FileType::Directory);
    fs::set_permissions(
        format!("/proc/self/fd/{}", file.as_raw_fd()),
        PermissionsExt::from_mode(wanted),
    )
}

const fn bits(read_only: bool, is_dir: bool) -> u32 {
    let files = if read_only { 0o440 } else { 0o660 };
    if is_dir { files | 0o2110 } else { files }
}

/// Folders open at a time, the volume's own among them.
const MAX_DEPTH: usize = 128;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::tests::is_root;
    use super::*;

    /// Group and mode, of a link itself.
    fn look(path: &Path) -> (u32, u32) {
        let meta = fs::symlink_metadata(path).expect("stat");
        (meta.gid(), meta.permissions().mode() & 0o7777)
    }

    /// A group that these tests may give files to.
    fn group() -> u32 {
        if is_root() {
            4321
        } else {
            rustix::process::getegid().as_raw()
        }
    }

    #[test]
    fn everything_in_a_volume_is_changed_and_nothing_outside() {
        let root = tempfile::tempdir().expect("tempdir");
        let (volume, outside) = (root.path().join("volume"), root.path().join("outside"));
        for dir in [&volume, &volume.join("a"), &volume.join("a/b"), &outside] {
            fs::create_dir(dir).expect("mkdir");
            fs::set_permissions(dir, PermissionsExt::from_mode(0o700)).expect("chmod");
        }
        for file in [volume.join("a/b/file"), outside.join("file")] {
            fs::write(&file, "x").expect("write");
            fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("chmod");
        }
        symlink(&outside, volume.join("folder")).expect("link");
        symlink(outside.join("file"), volume.join("a/link")).expect("link");
        let before = (look(&outside), look(&outside.join("file")));

        set(&volume, Some(group().into()), false).expect("set");
        for dir in [&volume, &volume.join("a"), &volume.join("a/b")] {
            assert_eq!(look(dir), (group(), 0o2770), "{}", dir.display());
        }
        assert_eq!(look(&volume.join("a/b/file")), (group(), 0o660));
        assert_eq!(look(&volume.join("folder")).0, group());
        assert_eq!((look(&outside), look(&outside.join("file"))), before);
        assert!(root_fits(&volume, Some(group().into()), false));
    }

    #[test]
    fn a_folder_exchanged_for_a_link_is_not_entered() {
        let root = tempfile::tempdir().expect("tempdir");
        let (volume, outside) = (root.path().join("volume"), root.path().join("outside"));
        fs::create_dir_all(volume.join("folder")).expect("mkdir");
        fs::create_dir(&outside).expect("mkdir");
        fs::set_permissions(&outside, PermissionsExt::from_mode(0o700)).expect("chmod");
        let before = look(&outside);
        let mut dir = Dir::new(open(&volume, FOLDER, Mode::empty()).expect("open")).expect("dir");
        let entry = loop {
            let entry = dir.read().expect("an entry").expect("read");
            if entry.file_name() == c"folder" {
                break entry;
            }
        };
        let parent = dir.fd().expect("open");
        assert!(enter(parent, &entry).expect("a folder").is_some());

        fs::remove_dir(volume.join("folder")).expect("rmdir");
        assert!(enter(parent, &entry).expect("gone").is_none());
        symlink(&outside, volume.join("folder")).expect("link");
        assert!(enter(parent, &entry).expect("a link").is_none());
        change_file(parent, &entry, group(), false).expect("the link itself");
        assert_eq!(look(&outside), before);
    }

    #[test]
    fn depth_is_bounded() {
        let root = tempfile::tempdir().expect("tempdir");
        let deepest: std::path::PathBuf = std::iter::repeat_n("d", MAX_DEPTH - 1).collect();
        fs::create_dir_all(root.path().join(&deepest)).expect("mkdir");
        set(root.path(), Some(group().into()), false).expect("just fits");
        assert_eq!(look(&root.path().join(&deepest)).0, group());
        fs::create_dir(root.path().join(&deepest).join("d")).expect("mkdir");
        assert!(set(root.path(), Some(group().into()), false).is_err());
    }
}
