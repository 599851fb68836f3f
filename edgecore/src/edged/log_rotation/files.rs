//! The older logs beside a container's log: their names, their order, their number. Blocking.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use common::order;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::{SignedDuration, Timestamp, fmt::strtime};
use tracing::warn;

/// How a kubelet writes times in names; they sort by time.
const TIME: &str = "%Y%m%d-%H%M%S";
/// Of a log that is compressed.
const COMPRESSED: &str = ".gz";
/// Of a file that is being written.
const UNFINISHED: &str = ".tmp";

/// Removes leftovers and all but the `keep` newest of the older logs, compresses those, and returns a name for the next one.
pub(super) fn make_room(log: &Path, keep: usize, now: Timestamp) -> io::Result<PathBuf> {
    let (older, leftovers) = older(log)?;
    for file in &leftovers {
        fs::remove_file(file)?;
    }
    let next = beside(log, &format!(".{}", next_time(log, &older, now)));
    let excess = older.len().saturating_sub(keep);
    let (remove, kept) = older.split_at(excess);
    for file in remove {
        fs::remove_file(file)?;
    }
    for file in kept.iter().filter(|file| !ends_with(file, COMPRESSED)) {
        // A log that stays large is better than one that is not turned over.
        if let Err(error) = compress(file) {
            warn!(log = %file.display(), %error, "an older log stays uncompressed");
        }
    }
    Ok(next)
}

/// Removes a log and everything that it was turned over to.
pub(super) fn remove_all(log: &Path) -> io::Result<()> {
    let mut all = match beginning_with(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    all.push(log.to_owned());
    for file in all {
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Files that hold older lines, oldest first, and files that a failure left: unfinished ones, and logs whose compressed form is there.
fn older(log: &Path) -> io::Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let mut all = beginning_with(log)?;
    order::sort(&mut all);
    let is_leftover =
        |file: &PathBuf| ends_with(file, UNFINISHED) || all.binary_search(&beside(file, COMPRESSED)).is_ok();
    let (leftovers, older) = all.iter().cloned().partition(is_leftover);
    Ok((older, leftovers))
}

/// All files beside a log that are named after it and a dot.
fn beginning_with(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(folder), Some(name)) = (log.parent(), log.file_name()) else {
        return Ok(Vec::new());
    };
    let mut prefix = name.to_owned();
    prefix.push(".");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_named = entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(prefix.as_encoded_bytes());
        if is_named && entry.file_type()?.is_file() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The time for the next name: now, or a second after the newest name where the clock is not past it. Otherwise a log would take the
/// name of another, or be the first to go.
fn next_time(log: &Path, older: &[PathBuf], now: Timestamp) -> String {
    let newest = older.iter().filter_map(|file| time_of(log, file)).max();
    let after = newest.and_then(|newest| newest.checked_add(SignedDuration::from_secs(1)).ok());
    let time = after.map_or(now, |after| after.max(now));
    strtime::format(TIME, time).unwrap_or_else(|_| "00000000-000000".to_owned())
}

fn time_of(log: &Path, file: &Path) -> Option<Timestamp> {
    let name = file.file_name()?.to_str()?.strip_prefix(log.file_name()?.to_str()?)?;
    let time = name.strip_prefix('.')?.trim_end_matches(COMPRESSED);
    let parsed = strtime::parse(TIME, time).ok()?.to_datetime().ok()?;
    parsed
        .to_zoned(jiff::tz::TimeZone::UTC)
        .ok()
        .map(|zoned| zoned.timestamp())
}

fn compress(file: &Path) -> io::Result<()> {
    let unfinished = beside(file, UNFINISHED);
    let done = write_compressed(file, &unfinished)
        .and_then(|()| fs::rename(&unfinished, beside(file, COMPRESSED)))
        .and_then(|()| fs::remove_file(file));
    if done.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    done
}

fn write_compressed(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let target = File::create(to)?;
    target.set_permissions(source.metadata()?.permissions())?;
    // Logs shrink well at any level; a board's processor has better things to do.
    let mut encoder = GzEncoder::new(target, Compression::fast());
    io::copy(&mut source, &mut encoder)?;
    // The original goes next: a power cut must not leave neither.
    encoder.finish()?.sync_all()
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(suffix);
    name.into()
}

fn ends_with(file: &Path, suffix: &str) -> bool {
    let name = file.file_name().map(OsStr::as_encoded_bytes).unwrap_or_default();
    name.ends_with(suffix.as_bytes())
}
