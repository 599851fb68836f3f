//! The SQLite file: opening, Go's schema, what older releases left in it, damage.

use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::{Answer, Content, Object};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, params};
use tracing::{info, warn};

use crate::pod::Pod;
use crate::sqlite::{self, SUFFIXES, check, is_damage, restrict, with_suffix};

/// `PRAGMA user_version` of a database that we made and that no cloud has filled yet, or that lost a pod: it does not know all of this
/// node's pods.
/// Databases of Go edges carry 0.
const VERSION_UNFILLED: i64 = 2;
/// `PRAGMA user_version` once the cloud's objects are in it.
const VERSION_FILLED: i64 = 1;
/// KiB of pages that SQLite may keep: the working set of an edge is a few rows.
const CACHE_KIB: u32 = 256;
/// Pages in the write-ahead log before they are copied into the database: 256 KiB.
const CHECKPOINT_PAGES: u32 = 64;
/// How long another process (`sqlite3` in an operator's hands) may hold the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A folder in memory.
const SHARED_MEMORY: &str = "/dev/shm";

/// The tables of a Go edgecore, word for word (spec 05 §2).
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS `device` (`id` text,`name` text,`description` text,`state` text,`last_online` text,PRIMARY KEY (`id`));
CREATE TABLE IF NOT EXISTS `device_attr` (`id` integer PRIMARY KEY AUTOINCREMENT,`deviceid` text,`name` text,`description` text,`value` text,`optional` numeric,`attr_type` text,`metadata` text);
CREATE TABLE IF NOT EXISTS `device_twin` (`id` integer PRIMARY KEY AUTOINCREMENT,`deviceid` text,`name` text,`description` text,`expected` text,`actual` text,`expected_meta` text,`actual_meta` text,`expected_version` text,`actual_version` text,`optional` numeric,`attr_type` text,`metadata` text);
CREATE TABLE IF NOT EXISTS `sub_topics` (`topic` text,PRIMARY KEY (`topic`));
CREATE TABLE IF NOT EXISTS `meta` (`key` text,`type` text,`value` text,PRIMARY KEY (`key`));
CREATE TABLE IF NOT EXISTS `meta_v2` (`key` text,`group_version_resource` text,`namespace` text,`name` text,`resource_version` integer,`value` text,PRIMARY KEY (`key`));
CREATE TABLE IF NOT EXISTS `target_urls` (`url` text,PRIMARY KEY (`url`));
";

/// An open database.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) connection: Connection,
    /// Whether the cloud's objects are in it.
    pub(super) filled: bool,
    /// Whether the disk refuses writes.
    pub(super) read_only: bool,
}

/// Opens the database; a damaged one is set aside and a new one made.
pub(super) fn open(path: &Path) -> Result<Database, rusqlite::Error> {
    match open_checked(path) {
        Err(error) if is_damage(&error) => replace(path, &error),
        other => other,
    }
}

/// Makes a new database in place of a damaged one, which is kept beside it unless the disk has no room for both.
pub(super) fn replace(path: &Path, cause: &rusqlite::Error) -> Result<Database, rusqlite::Error> {
    let aside = set_aside(path, cause);
    match (open_checked(path), aside) {
        (Err(error), Some(aside)) if refuses_writes(&error) => {
            warn!(database = %path.display(), removed = %aside.display(), %error, "the damaged database is removed to make room for a new one");
            for suffix in SUFFIXES {
                let _ = std::fs::remove_file(with_suffix(&aside, suffix));
            }
            open_checked(path)
        }
        (opened, _) => opened,
    }
}

/// Moves a damaged database out of the way. `None` where the disk refuses.
fn set_aside(path: &Path, cause: &rusqlite::Error) -> Option<PathBuf> {
    let aside = sqlite::set_aside(path)?;
    warn!(
        database = %path.display(), kept = %aside.display(), error = %cause,
        "the database is damaged and was set aside; objects come again from the cloud, running containers are kept"
    );
    Some(aside)
}

fn open_checked(path: &Path) -> Result<Database, rusqlite::Error> {
    match open_writable(path) {
        Ok(database) => Ok(database),
        Err(error) if refuses_writes(&error) && path.exists() => {
            // A damaged file on a full disk is damaged first of all.
            open_read_only(path).map_err(|second| if is_damage(&second) { second } else { error })
        }
        Err(error) => Err(error),
    }
}

fn open_writable(path: &Path) -> Result<Database, rusqlite::Error> {
    if let Some(folder) = path.parent() {
        // The error of opening says more than this one.
        let _ = std::fs::create_dir_all(folder);
    }
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    tune(&connection)?;
    // SQLite opens what it may not write for reading, without a word.
    if connection.is_readonly(rusqlite::MAIN_DB)? {
        drop(connection);
        return open_read_only(path);
    }
    connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))?;
    check(&connection)?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
    if tables == 0 {
        connection.pragma_update(None, "user_version", VERSION_UNFILLED)?;
    }
    connection.execute_batch(SCHEMA)?;
    migrate(&connection)?;
    sweep(&connection)?;
    // It holds Secrets and tokens.
    restrict(path);
    let filled = is_filled(&connection)?;
    Ok(Database {
        connection,
        filled,
        read_only: false,
    })
}

/// Reads what is there without writing to its disk.
fn open_read_only(path: &Path) -> Result<Database, rusqlite::Error> {
    let connection = read_only_connection(path)?;
    let filled = is_filled(&connection)?;
    Ok(Database {
        connection,
        filled,
        read_only: true,
    })
}

fn read_only_connection(path: &Path) -> Result<Connection, rusqlite::Error> {
    // Works where the files of the log are still there, as after a crash of the program.
    if let Ok(connection) = read_by_uri(path, "mode=ro") {
        return Ok(connection);
    }
    let log = std::fs::metadata(with_suffix(path, "-wal")).map_or(0, |log| log.len());
    if log == 0 {
        return read_by_uri(path, "mode=ro&immutable=1");
    }
    // SQLite cannot read the changes in the log without an index file, which cannot be made there. So database and log are copied into
    // memory and merged; the copy is unlinked as soon as it is open.
    let folder = PathBuf::from(SHARED_MEMORY).join(format!("edgecore-{}", std::process::id()));
    let copied = copy(path, &folder).and_then(|copy| {
        let connection = Connection::open(copy)?;
        connection.query_row("PRAGMA journal_mode=DELETE", [], |_| Ok(()))?;
        tune(&connection)?;
        check(&connection)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    });
    let _ = std::fs::remove_dir_all(&folder);
    copied
}

fn read_by_uri(path: &Path, options: &str) -> Result<Connection, rusqlite::Error> {
    let uri = format!("file:{}?{options}", path.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri, flags)?;
    tune(&connection)?;
    check(&connection)?;
    Ok(connection)
}

fn copy(path: &Path, folder: &Path) -> Result<PathBuf, rusqlite::Error> {
    use std::os::unix::fs::DirBuilderExt as _;
    let target = folder.join("edgecore.db");
    let copied = std::fs::DirBuilder::new().mode(0o700).create(folder).and_then(|()| {
        for suffix in ["", "-wal"] {
            std::fs::copy(with_suffix(path, suffix), with_suffix(&target, suffix))?;
        }
        Ok(())
    });
    match copied {
        Ok(()) => Ok(target),
        Err(_) => Err(rusqlite::Error::InvalidPath(target)),
    }
}

fn tune(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.execute_batch(&format!(
        "PRAGMA synchronous=FULL; PRAGMA cache_size=-{CACHE_KIB}; PRAGMA mmap_size=0; PRAGMA temp_store=MEMORY;"
    ))?;
    connection.query_row(&format!("PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}"), [], |_| Ok(()))?;
    connection.set_prepared_statement_cache_capacity(8);
    Ok(())
}

/// A database is filled unless we made it or it lost a pod, and no cloud answered since, or it has no object.
fn is_filled(connection: &Connection) -> Result<bool, rusqlite::Error> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version == VERSION_UNFILLED {
        return Ok(false);
    }
    let row: Option<i64> = connection
        .query_row("SELECT 1 FROM meta LIMIT 1", [], |row| row.get(0))
        .optional()?;
    Ok(row.is_some())
}

/// Notes that the cloud's objects are in the database.
pub(super) fn mark_filled(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.pragma_update(None, "user_version", VERSION_FILLED)
}

/// Columns of `meta_v2` had other names up to v1.22; the new ones stand beside them and are filled from them.
fn migrate(connection: &Connection) -> Result<(), rusqlite::Error> {
    let mut statement = connection.prepare("PRAGMA table_info(meta_v2)")?;
    let columns: Vec<String> = statement.query_map([], |row| row.get(1))?.collect::<Result<_, _>>()?;
    let has = |name: &str| columns.iter().any(|column| column == name);
    for (old, new, kind) in [
        ("groupversionresource", "group_version_resource", "text"),
        ("resourceversion", "resource_version", "integer"),
    ] {
        if !has(new) {
            connection.execute_batch(&format!("ALTER TABLE meta_v2 ADD COLUMN `{new}` {kind}"))?;
        }
        if has(old) {
            let copied = connection.execute(
                &format!(
                    "UPDATE meta_v2 SET `{new}`=`{old}` WHERE (`{new}` IS NULL OR `{new}`='') AND `{old}` IS NOT NULL AND `{old}`<>''"
                ),
                [],
            )?;
            if copied > 0 {
                info!(
                    rows = copied,
                    from = old,
                    to = new,
                    "rows of an older release were converted"
                );
            }
        }
    }
    Ok(())
}

/// Go stores some errors and envelopes as if they were objects (spec 05 §3.4): what is no object goes, what wraps one is unwrapped.
/// A pod that cannot be read any more goes too, and the database counts as unfilled: the pod's containers are no strangers.
fn sweep(connection: &Connection) -> Result<(), rusqlite::Error> {
    let mut removed = Vec::new();
    let mut lost = Vec::new();
    let mut unwrapped = Vec::new();
    {
        let mut statement = connection.prepare("SELECT rowid, key, type, value FROM meta")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            match inspect(row)? {
                Stored::Usable => {}
                Stored::Wrapped(object) => unwrapped.push((id, object)),
                Stored::Useless => removed.push((id, sqlite::text(row, 1)?)),
                Stored::LostPod => lost.push((id, sqlite::text(row, 1)?)),
            }
        }
    }
    if !lost.is_empty() {
        warn!(
            rows = lost.len(), keys = ?keys(&lost),
            "stored pods are damaged and were deleted; they come again from the cloud, running containers are kept"
        );
        // Set before the rows are deleted: after a crash in between, a database without them would look as if those pods had never been.
        connection.pragma_update(None, "user_version", VERSION_UNFILLED)?;
    }
    for (id, _) in removed.iter().chain(&lost) {
        connection.execute("DELETE FROM meta WHERE rowid=?1", [id])?;
    }
    for (id, value) in &unwrapped {
        connection.execute("UPDATE meta SET value=?2 WHERE rowid=?1", params![id, value])?;
    }
    if !removed.is_empty() {
        info!(rows = removed.len(), keys = ?keys(&removed), "rows that held an error in place of an object, or nothing readable, were deleted");
    }
    Ok(())
}

fn keys(rows: &[(i64, Option<String>)]) -> Vec<&str> {
    rows.iter()
        .map(|(_, key)| key.as_deref().unwrap_or("unreadable"))
        .collect()
}

enum Stored {
    Usable,
    Wrapped(String),
    Useless,
    /// It was a pod, or may have been one.
    LostPod,
}

fn inspect(row: &Row<'_>) -> Result<Stored, rusqlite::Error> {
    let (Some(key), Some(kind)) = (sqlite::text(row, 1)?, sqlite::text(row, 2)?) else {
        return Ok(Stored::LostPod);
    };
    let is_pod = kind == "pod";
    // Key and type name the same kind unless one of them is damaged.
    if is_pod != (key.split('/').nth(1) == Some("pod")) {
        return Ok(Stored::LostPod);
    }
    if row.get_ref(3)? == ValueRef::Null {
        return Ok(Stored::Useless);
    }
    let Some(content) = sqlite::text(row, 3)?.and_then(|text| Content::from_json_text(text).ok()) else {
        return Ok(if is_pod { Stored::LostPod } else { Stored::Useless });
    };
    if kind == "podpatch" || kind == "nodepatch" {
        return Ok(Stored::Usable);
    }
    if content.is_null() {
        return Ok(Stored::Useless);
    }
    Ok(match content.answer() {
        Answer::Plain(_) if is_pod && !is_readable_pod(content.get()) => Stored::LostPod,
        Answer::Plain(_) => Stored::Usable,
        Answer::Envelope(Some(object)) => Stored::Wrapped(object.get().to_owned()),
        Answer::Ok | Answer::Failed(_) | Answer::Envelope(None) => Stored::Useless,
    })
}

fn is_readable_pod(text: &str) -> bool {
    Object::parse(text).is_ok_and(|object| object.view::<Pod>().is_ok())
}

fn refuses_writes(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::PermissionDenied
                | ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
        )
    )
}
