//! Files that must never be seen half written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Mode of files with secrets.
pub const SECRET: u32 = 0o600;

/// Mode of files that everybody may read.
pub const PUBLIC: u32 = 0o644;

/// Puts `bytes` at `path` by way of a temporary file beside it, on disk before it gets its name; parent folders are made.
/// Whoever reads sees the old file or the new one, also after a power cut.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(folder)?;
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "path has no file name"))?;
    let mut temporary = name.to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = folder.join(temporary);
    let written = (|| {
        // A leftover of the same process id may have another mode, which opening it would keep.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        // The name is this process's own: what is left of a failed try is of no use to anybody.
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn replaces_the_file_with_the_mode_asked_for() -> io::Result<()> {
        let folder = std::env::temp_dir().join(format!("common-fs-{}", uuid::Uuid::new_v4()));
        let path = folder.join("deep").join("server.key");
        write_atomic(&path, b"one", PUBLIC)?;
        write_atomic(&path, b"two", SECRET)?;
        assert_eq!(fs::read(&path)?, b"two");
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, SECRET);
        assert_eq!(fs::read_dir(folder.join("deep"))?.count(), 1);
        fs::remove_dir_all(folder)
    }
}
