//! What all SQLite files of this program have in common: their files, who may read them, damage.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, Error, ErrorCode, Row};
use tracing::debug;

/// Suffixes of the files of one database, in the order in which they are moved or removed. The log goes first: one that stayed behind would
/// be taken for the log of the next database.
pub(crate) const SUFFIXES: [&str; 3] = ["-wal", "-shm", ""];

/// Whether the file cannot be trusted any more.
pub(crate) fn is_damage(error: &Error) -> bool {
    // SQLite has no checksums and does not check text: damage may show only here, as text that is not UTF-8.
    matches!(error, Error::Utf8Error(..))
        || matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        )
}

/// The text of a column, where one damaged row must not cost the others; `None` for what is no text.
pub(crate) fn text(row: &Row<'_>, column: usize) -> Result<Option<String>, Error> {
    Ok(row.get_ref(column)?.as_str().ok().map(str::to_owned))
}

/// Looks for damage.
pub(crate) fn check(connection: &Connection) -> Result<(), Error> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        Some(verdict),
    ))
}

/// Moves a damaged database out of the way, its log files with it. `None` where the disk refuses.
pub(crate) fn set_aside(path: &Path) -> Option<PathBuf> {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let aside = with_suffix(path, &format!(".damaged-{seconds}"));
    for suffix in SUFFIXES {
        let from = with_suffix(path, suffix);
        if from.exists()
            && let Err(error) = std::fs::rename(&from, with_suffix(&aside, suffix))
        {
            debug!(file = %from.display(), %error, "cannot set a damaged file aside");
            return None;
        }
    }
    Some(aside)
}

/// Nobody else may read the files.
pub(crate) fn restrict(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    for suffix in SUFFIXES {
        let _ = std::fs::set_permissions(with_suffix(path, suffix), std::fs::Permissions::from_mode(0o600));
    }
}

/// A file beside the database.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
