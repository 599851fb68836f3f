//! The file: values in the order they came, an index by property and time, bounds kept in the transaction that adds.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use common::order;
use proto::device::{HistoryProperty, HistoryValue, Remembered};
use rusqlite::{Connection, params};
use tracing::warn;

use super::question::{Place, Question, Values};
use super::{Bounds, HistoryError};
use crate::devicetwin::{Accepted, News};
use crate::sqlite;

/// Properties that are remembered; values of more are lost and counted. Each costs about 200 bytes of memory.
const MOST_PROPERTIES: usize = 10_000;
/// Bytes of values in one answer: a message of MQTT should not be larger.
const ANSWER_BYTES: usize = 256 * 1024;
/// Values that make room at once when the file is full: one page's worth or two, so that not every commit has to.
const STEP: u32 = 256;
/// How far the time of a value may be ahead of the clock, in milliseconds: DeviceTwin keeps it while the clock is set back by that.
const AHEAD: i64 = 3_600_000;
/// KiB of pages that SQLite may keep.
const CACHE_KIB: u32 = 256;
/// Pages in the log before they are copied into the file, which is when the disk is forced to write: 1 MiB.
const CHECKPOINT_PAGES: u32 = 256;

/// A power cut may cost the newest values, never the file.
const TUNE: &str = "PRAGMA synchronous=NORMAL; PRAGMA temp_store=MEMORY; PRAGMA mmap_size=0;";

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS series (id INTEGER PRIMARY KEY, device TEXT NOT NULL, property TEXT NOT NULL, kind TEXT NOT NULL, UNIQUE (device, property));
CREATE TABLE IF NOT EXISTS value (row INTEGER PRIMARY KEY, series INTEGER NOT NULL, time INTEGER NOT NULL, value TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS value_time ON value (series, time);
";

/// The open file.
#[derive(Debug)]
pub(super) struct Store {
    connection: Connection,
    bounds: Bounds,
    known: Known,
}

/// What a call added and what made room for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) stored: u64,
    /// Of too many properties.
    pub(super) refused: u64,
    /// Made room, by the bound.
    pub(super) by_values: u64,
    pub(super) by_bytes: u64,
    pub(super) by_age: u64,
    /// Went with their device.
    pub(super) by_device: u64,
}

/// What is in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) values: u64,
    pub(super) bytes: u64,
}

/// The properties in memory, as the file has them.
#[derive(Debug, Default)]
struct Known {
    ids: HashMap<(String, String), i64>,
    series: HashMap<i64, Series>,
}

#[derive(Debug)]
struct Series {
    key: (String, String),
    kind: String,
    values: u64,
}

impl Store {
    /// Opens the file; a damaged one is set aside and a new one begun.
    pub(super) fn open(path: &Path, bounds: Bounds) -> Result<Self, rusqlite::Error> {
        match Self::open_checked(path, bounds) {
            Err(error) if sqlite::is_damage(&error) => {
                if let Some(aside) = sqlite::set_aside(path) {
                    warn!(database = %path.display(), kept = %aside.display(), %error, "the history is damaged and was set aside; a new one begins");
                }
                Self::open_checked(path, bounds)
            }
            opened => opened,
        }
    }

    fn open_checked(path: &Path, bounds: Bounds) -> Result<Self, rusqlite::Error> {
        let connection = Connection::open(path)?;
        connection.execute_batch(&format!("{TUNE} PRAGMA cache_size=-{CACHE_KIB};"))?;
        connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))?;
        connection.query_row(&format!("PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}"), [], |_| Ok(()))?;
        sqlite::check(&connection)?;
        connection.execute_batch(SCHEMA)?;
        sqlite::restrict(path);
        let known = Known::load(&connection)?;
        Ok(Self {
            connection,
            bounds,
            known,
        })
    }

    /// Adds values, forgets devices and keeps the bounds, all or nothing. `now` is Unix time in milliseconds.
    pub(super) fn append(&mut self, news: &[News], now: i64) -> Result<Outcome, rusqlite::Error> {
        let outcome = self.try_append(news, now);
        if outcome.is_err() {
            // Nothing of it was written: what memory believes is read anew.
            self.known = Known::load(&self.connection)?;
        }
        outcome
    }

    fn try_append(&mut self, news: &[News], now: i64) -> Result<Outcome, rusqlite::Error> {
        let Self {
            connection,
            bounds,
            known,
        } = self;
        let transaction = connection.unchecked_transaction()?;
        let mut outcome = Outcome::default();
        let mut grown = Vec::new();
        for one in news {
            let value = match one {
                News::Value(value) => value,
                gone => {
                    outcome.by_device += known.forget(&transaction, gone)?;
                    continue;
                }
            };
            let Some(series) = known.series_of(&transaction, value)? else {
                outcome.refused += 1;
                continue;
            };
            transaction
                .prepare_cached("INSERT INTO value (series, time, value) VALUES (?1, ?2, ?3)")?
                .execute(params![series, value.time, value.value])?;
            outcome.stored += 1;
            grown.push(series);
        }
        order::sort(&mut grown);
        grown.dedup();
        for series in grown {
            outcome.by_values += known.keep_newest(&transaction, series, bounds.values, now)?;
        }
        if let Some(age) = bounds.age {
            let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            outcome.by_age = known.forget_older(&transaction, now.saturating_sub(age))?;
        }
        while used(&transaction)? > bounds.bytes {
            match known.forget_first(&transaction, STEP, i64::MAX)? {
                0 => break,
                removed => outcome.by_bytes += removed,
            }
        }
        transaction.commit()?;
        Ok(outcome)
    }

    /// What is in the file.
    pub(super) fn usage(&self) -> Result<Usage, rusqlite::Error> {
        Ok(Usage {
            values: self.known.series.values().map(|series| series.values).sum(),
            bytes: used(&self.connection)?,
        })
    }

    /// Answers.
    pub(super) fn ask(&self, device: String, question: &Question) -> Result<Remembered, HistoryError> {
        match question {
            Question::Properties => {
                let properties = self.properties(&device).map_err(HistoryError::Failed)?;
                if properties.is_empty() {
                    return Err(HistoryError::Unknown(device));
                }
                Ok(Remembered::Properties { properties })
            }
            Question::Values(wanted) => {
                let key = (device, wanted.property.clone());
                let known = self.known.ids.get(&key);
                let series = known.and_then(|id| Some((*id, self.known.series.get(id)?)));
                let Some((id, series)) = series else {
                    return Err(HistoryError::Unknown(format!("the property {} of {}", key.1, key.0)));
                };
                let (values, next) = self.values(id, wanted).map_err(HistoryError::Failed)?;
                Ok(Remembered::Values {
                    property: key.1,
                    kind: series.kind.clone(),
                    values,
                    next: next.map(|place| place.to_string()),
                })
            }
        }
    }

    fn properties(&self, device: &str) -> Result<Vec<HistoryProperty>, rusqlite::Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT id, property, kind, (SELECT min(time) FROM value WHERE series=id), (SELECT max(time) FROM value WHERE series=id) \
             FROM series WHERE device=?1 ORDER BY property",
        )?;
        let rows = statement.query_map([device], |row| {
            let id: i64 = row.get(0)?;
            Ok(HistoryProperty {
                property: row.get(1)?,
                kind: row.get(2)?,
                values: self.known.series.get(&id).map_or(0, |series| series.values),
                oldest: row.get::<_, Option<i64>>(3)?.unwrap_or_default(),
                newest: row.get::<_, Option<i64>>(4)?.unwrap_or_default(),
            })
        })?;
        rows.collect()
    }

    /// A page of values, and where the next one begins if there are more.
    fn values(&self, series: i64, wanted: &Values) -> Result<(Vec<HistoryValue>, Option<Place>), rusqlite::Error> {
        let query = if wanted.newest {
            "SELECT time, row, value FROM value WHERE series=?1 AND time>=?2 AND time<?3 AND (time, row)<(?4, ?5) ORDER BY time DESC, row DESC LIMIT ?6"
        } else {
            "SELECT time, row, value FROM value WHERE series=?1 AND time>=?2 AND time<?3 AND (time, row)>(?4, ?5) ORDER BY time, row LIMIT ?6"
        };
        let start = if wanted.newest { i64::MAX } else { i64::MIN };
        let after = wanted.after.unwrap_or(Place {
            time: start,
            row: start,
        });
        let mut statement = self.connection.prepare_cached(query)?;
        // One more than wanted tells whether there are more.
        let limits = params![
            series,
            wanted.from,
            wanted.to,
            after.time,
            after.row,
            wanted.limit.saturating_add(1)
        ];
        let mut rows = statement.query(limits)?;
        let (mut found, mut bytes, mut last) = (Vec::new(), 0, None);
        while let Some(row) = rows.next()? {
            let value: String = row.get(2)?;
            bytes += value.len();
            let full = u32::try_from(found.len()).is_ok_and(|count| count >= wanted.limit);
            if full || (bytes > ANSWER_BYTES && !found.is_empty()) {
                return Ok((found, last));
            }
            let time = row.get(0)?;
            last = Some(Place { time, row: row.get(1)? });
            found.push(HistoryValue { time, value });
        }
        Ok((found, None))
    }
}

impl Known {
    fn load(connection: &Connection) -> Result<Self, rusqlite::Error> {
        let mut known = Self::default();
        let mut statement = connection.prepare("SELECT id, device, property, kind FROM series")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (id, key) = (row.get(0)?, (row.get(1)?, row.get(2)?));
            let kind = row.get(3)?;
            known.add(id, key, kind);
        }
        let mut statement = connection.prepare("SELECT series, count(*) FROM value GROUP BY series")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (id, count): (i64, i64) = (row.get(0)?, row.get(1)?);
            if let Some(series) = known.series.get_mut(&id) {
                series.values = u64::try_from(count).unwrap_or_default();
            }
        }
        Ok(known)
    }

    fn add(&mut self, id: i64, key: (String, String), kind: String) {
        self.ids.insert(key.clone(), id);
        self.series.insert(id, Series { key, kind, values: 0 });
    }

    /// The series that a value goes to, counted; `None` when there are too many.
    fn series_of(&mut self, connection: &Connection, value: &Accepted) -> Result<Option<i64>, rusqlite::Error> {
        let key = (value.device.to_string(), value.property.clone());
        let id = match self.ids.get(&key) {
            Some(id) => *id,
            None if self.ids.len() >= MOST_PROPERTIES => return Ok(None),
            None => {
                connection
                    .prepare_cached("INSERT INTO series (device, property, kind) VALUES (?1, ?2, ?3)")?
                    .execute(params![key.0, key.1, value.kind])?;
                let id = connection.last_insert_rowid();
                self.add(id, key, value.kind.clone());
                id
            }
        };
        if let Some(series) = self.series.get_mut(&id) {
            series.values += 1;
            if series.kind != value.kind {
                connection.execute("UPDATE series SET kind=?2 WHERE id=?1", params![id, value.kind])?;
                series.kind.clone_from(&value.kind);
            }
        }
        Ok(Some(id))
    }

    /// All that is remembered of devices that are gone.
    fn forget(&mut self, connection: &Connection, news: &News) -> Result<u64, rusqlite::Error> {
        let gone: Box<dyn Fn(&str) -> bool> = match news {
            News::Value(_) => return Ok(0),
            News::Removed(device) => {
                let device = device.to_string();
                Box::new(move |one: &str| one == device)
            }
            News::Devices(devices) => {
                let devices: HashSet<String> = devices.iter().map(ToString::to_string).collect();
                Box::new(move |one: &str| !devices.contains(one))
            }
        };
        let series = self.series.iter().filter(|(_, series)| gone(&series.key.0));
        let series: Vec<i64> = series.map(|(id, _)| *id).collect();
        let mut all = 0;
        for id in series {
            let removed = connection
                .prepare_cached("DELETE FROM value WHERE series=?1")?
                .execute([id])?;
            all += u64::try_from(removed).unwrap_or_default();
            self.uncount(connection, id, u64::MAX)?;
        }
        Ok(all)
    }

    /// Of a property that has too many values the oldest go: by their time, or while one is from a time that has not come, in the order they
    /// came, or those from a clock that ran ahead would outlive all others.
    fn keep_newest(&mut self, connection: &Connection, id: i64, most: u64, now: i64) -> Result<u64, rusqlite::Error> {
        let surplus = self
            .series
            .get(&id)
            .map_or(0, |series| series.values.saturating_sub(most));
        if surplus == 0 {
            return Ok(0);
        }
        let newest: Option<i64> = connection
            .prepare_cached("SELECT max(time) FROM value WHERE series=?1")?
            .query_row([id], |row| row.get(0))?;
        let query = if newest.is_some_and(|newest| newest > now.saturating_add(AHEAD)) {
            "DELETE FROM value WHERE row IN (SELECT row FROM value WHERE series=?1 ORDER BY row LIMIT ?2)"
        } else {
            "DELETE FROM value WHERE row IN (SELECT row FROM value WHERE series=?1 ORDER BY time, row LIMIT ?2)"
        };
        let removed = connection
            .prepare_cached(query)?
            .execute(params![id, i64::try_from(surplus).unwrap_or(i64::MAX)])?;
        let removed = u64::try_from(removed).unwrap_or_default();
        self.uncount(connection, id, removed)?;
        Ok(removed)
    }

    /// Values from before a time go, in the order they came: one with a time ahead of its turn keeps those behind it.
    fn forget_older(&mut self, connection: &Connection, before: i64) -> Result<u64, rusqlite::Error> {
        let mut all = 0;
        loop {
            match self.forget_first(connection, STEP, before)? {
                0 => return Ok(all),
                removed => all += removed,
            }
        }
    }

    /// Of the values that came first those go that are from before a time.
    fn forget_first(&mut self, connection: &Connection, count: u32, before: i64) -> Result<u64, rusqlite::Error> {
        let mut removed: HashMap<i64, u64> = HashMap::new();
        let mut statement = connection.prepare_cached(
            "DELETE FROM value WHERE time<?2 AND row IN (SELECT row FROM value ORDER BY row LIMIT ?1) RETURNING series",
        )?;
        let mut rows = statement.query(params![count, before])?;
        while let Some(row) = rows.next()? {
            *removed.entry(row.get(0)?).or_default() += 1;
        }
        for (id, count) in &removed {
            self.uncount(connection, *id, *count)?;
        }
        Ok(removed.values().sum())
    }

    /// A property without values is forgotten.
    fn uncount(&mut self, connection: &Connection, id: i64, removed: u64) -> Result<(), rusqlite::Error> {
        let Some(series) = self.series.get_mut(&id) else {
            return Ok(());
        };
        series.values = series.values.saturating_sub(removed);
        if series.values == 0
            && let Some(series) = self.series.remove(&id)
        {
            self.ids.remove(&series.key);
            connection
                .prepare_cached("DELETE FROM series WHERE id=?1")?
                .execute([id])?;
        }
        Ok(())
    }
}

/// Bytes of the pages in use; those that became free are used again.
fn used(connection: &Connection) -> Result<u64, rusqlite::Error> {
    let number = |pragma: &str| -> Result<u64, rusqlite::Error> {
        let value: i64 = connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))?;
        Ok(u64::try_from(value).unwrap_or_default())
    };
    let pages = number("page_count")?.saturating_sub(number("freelist_count")?);
    Ok(pages.saturating_mul(number("page_size")?))
}
