//! hostPath: a path of the machine.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

/// Checks that what is there is of the kind asked for, and makes it where it may be made.
pub(super) fn check(source: &HostPathVolumeSource) -> Result<PathBuf, String> {
    let path = PathBuf::from(&source.path);
    if !path.is_absolute() || path.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(format!("hostPath {} must be absolute and without '..'", path.display()));
    }
    let wanted = source.type_.as_deref().unwrap_or_default();
    let kind = fs::metadata(&path).map(|meta| meta.file_type());
    let missing = kind
        .as_ref()
        .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let is = |test: fn(&fs::FileType) -> bool| kind.as_ref().is_ok_and(test);
    let (fits, what) = match wanted {
        "" => return Ok(path),
        "DirectoryOrCreate" if missing => return make(&path, make_dir).map(|()| path),
        "FileOrCreate" if missing => return make(&path, make_file).map(|()| path),
        "Directory" | "DirectoryOrCreate" => (is(fs::FileType::is_dir), "a directory"),
        "File" | "FileOrCreate" => (is(fs::FileType::is_file), "a file"),
        "Socket" => (is(FileTypeExt::is_socket), "a socket file"),
        "CharDevice" => (is(FileTypeExt::is_char_device), "a character device"),
        "BlockDevice" => (is(FileTypeExt::is_block_device), "a block device"),
        other => return Err(format!("{other} is an invalid volume type")),
    };
    if fits {
        Ok(path)
    } else {
        Err(format!("hostPath type check failed: {} is not {what}", path.display()))
    }
}

fn make(path: &Path, make: fn(&Path) -> io::Result<()>) -> Result<(), String> {
    make(path).map_err(|error| format!("cannot create hostPath {}: {error}", path.display()))
}

fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

fn make_file(path: &Path) -> io::Result<()> {
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o644)
        .open(path)
        .map(|_| ())
}
